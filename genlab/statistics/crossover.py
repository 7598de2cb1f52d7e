"""Where the ranking of two families flips: the score of each against log x, and the x at which the
two curves meet.

In: points of two families (x is FLOPs, epochs or unique seconds; one score per training run). Out:
`Crossover`: the x of the flip with a 95 % interval, and a verdict. And before anything is spent:
the probability that a planned sweep would show the flip inside, and the cheapest sweep over its
budgets that does so in 80 % of cases.

A curve is a + b (1 - (x / x_mid)^-c) / c: a saturating power law (Hestness et al. 2017, arXiv
1712.00409), whose limit c = 0 is a straight line in log x. Which of the two is chosen per family by
the error on budgets left out, all runs of a budget at once; a power law needs 4 budgets. Noise is
the spread of runs around the curve, so it holds what training seeds do and what the curve misses.
Curves are drawn again with fresh noise, and their form is chosen again for each draw; drawing from
3 seeds with replacement would understate their spread (`crossed`). The interval is every x where
the difference of the curves is not beyond Student's t times its error (Fieller 1954), so it may be
open on a side, and says so.

A crossing is refused where the measured points themselves change places somewhere else: a curve
that says so is the wrong curve. Points that lie closer together than their spread have no order.

Prompts are the same at every x. If they favour a family they do so everywhere, which no spread of
points shows: `shared_error` is that error of the difference, and widens the interval.

Measured in tests/evaluate/test_crossover.py: 93-96 % of intervals hold a crossing of power laws,
96-99 % one of lines (a line that might have been a power law is known less well); curves that do
not cross are given one in 5 % of cases.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float

from genlab.config import GenlabError
from genlab.statistics.bootstrap import CONFIDENCE

NUM_DRAWS = 400
BEYOND = 100.0  # how far outside the sweep a crossing is looked for, as a factor
GRID = 501
EXPONENTS = (0.0, *np.geomspace(0.03, 2.0, 64).tolist())
MIN_BUDGETS_POWER = 4

SAME_X = 0.02  # runs of one budget agree within this share: whole steps
Verdict = Literal["inside sweep", "extrapolated", "none", "refused"]


class Curve(NamedTuple):
    """The runs of one family: x and score of each."""

    x: Float[np.ndarray, "n"]
    score: Float[np.ndarray, "n"]


class Fit(NamedTuple):
    """A curve with its noise, and the same curve fitted to drawn repetitions of the runs."""

    coefficients: Float[np.ndarray, "3"]
    """a, b and the exponent c; c = 0 is the straight line in log x."""
    x_mid: float
    noise: float
    dof: int
    draws: Float[np.ndarray, "r 3"]

    @property
    def form(self) -> str:
        """Name of the curve."""
        return "power law" if self.coefficients[2] else "line in log x"

    def predict(self, x: Float[np.ndarray, "g"]) -> Float[np.ndarray, "g"]:
        """Return the score at every x."""
        return _predict(self.coefficients[None], x / self.x_mid)[0]

    def bound(
        self, x: Float[np.ndarray, "g"]
    ) -> tuple[Float[np.ndarray, "g"], Float[np.ndarray, "g"]]:
        """Return the ends of the 95 % interval of the curve at every x."""
        low, high = np.quantile(
            _predict(self.draws, x / self.x_mid),
            [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2],
            axis=0,
        )
        return low, high


class Crossover(NamedTuple):
    """Where family a stops being ahead of b, or the other way round.

    inside sweep: the whole interval lies inside the budgets that both families were run at.
    extrapolated: the gap closes, but the crossing or its interval lies partly outside. none: the
    gap does not significantly close, or not within a factor of 100 of the sweep. refused: the
    interval excludes every place where the measured points change order, so no x is given.
    """

    x: float
    low: float
    high: float
    verdict: Verdict
    sweep: tuple[float, float]
    forms: tuple[str, str]
    p_value: float = 1.0
    """Of the gap at both ends of the sweep having these signs: the larger of two two-sided ones."""


class SweepPlan(NamedTuple):
    """The chance that a sweep shows the crossing inside, and what it costs in units of x summed
    over runs.
    """

    budgets: tuple[float, ...]
    seeds: int
    probability: float
    cost: float


def fit_curve(curve: Curve, *, seed: int = 0, num_draws: int = NUM_DRAWS) -> Fit:
    """Fit the score of one family against x.

    Raises:
        GenlabError: with fewer than 3 runs or 2 budgets, or an x that is not above zero.
    """
    x, score = np.asarray(curve.x, np.float64), np.asarray(curve.score, np.float64)
    budgets = np.unique(x)
    if len(x) < 3 or len(budgets) < 2 or not (x > 0).all() or not np.isfinite(score).all():
        raise GenlabError(
            f"{len(x)} runs at x={budgets.tolist()}: a curve needs 3 runs or more at 2 budgets or "
            "more, all above zero and with a score; run the comparison at more budgets"
        )
    x_mid = float(np.exp(np.log(budgets).mean()))
    ratios = tuple((x / x_mid).tolist())
    [coefficients] = _choose_form(ratios, score[None])
    fitted = _predict(coefficients[None], np.array(ratios))[0]
    dof = len(x) - (3 if coefficients[2] else 2)
    noise = math.sqrt(((score - fitted) ** 2).sum() / dof)
    fresh = noise * np.random.default_rng(seed).standard_normal((num_draws, len(x)))
    return Fit(coefficients, x_mid, noise, dof, _choose_form(ratios, fitted[None] + fresh))


def assume_exponent(curve: Curve, exponent: float, *, seed: int = 0) -> Fit:
    """Return the power law score = level (x / x_mid)^-exponent through the runs at hand, which may
    be at one budget.

    Raises:
        GenlabError: with fewer than 2 runs, whose spread is the noise.
    """
    x, score = np.asarray(curve.x, np.float64), np.asarray(curve.score, np.float64)
    if len(x) < 2 or not (x > 0).all() or not np.isfinite(score).all():
        raise GenlabError(
            f"{len(x)} runs: estimating the noise needs 2 runs or more, at x above zero and with "
            "a score"
        )
    x_mid = float(np.exp(np.log(x).mean()))
    shape = (x / x_mid) ** -exponent
    level = float((score * shape).sum() / (shape**2).sum())
    noise = math.sqrt(((score - level * shape) ** 2).sum() / (len(x) - 1))
    fresh = (
        noise / math.sqrt((shape**2).sum()) * np.random.default_rng(seed).standard_normal(NUM_DRAWS)
    )
    levels = np.concatenate([[level], level + fresh])
    rows = np.stack([levels, -exponent * levels, np.full_like(levels, exponent)], axis=1)
    return Fit(rows[0], x_mid, noise, len(x) - 1, rows[1:])


def find_crossover(
    a: Curve, b: Curve, *, shared_error: float = 0.0, seed: int = 0, num_draws: int = NUM_DRAWS
) -> Crossover:
    """Return where the curves of two families cross.

    Args:
        a: runs of one family.
        b: runs of the other one, at budgets of its own if need be.
        shared_error: standard error of the difference from what all x share, such as the choice of
            prompts.
        seed: of the draws.
        num_draws: behind the error of each curve.

    Raises:
        GenlabError: if a family has too few runs for a curve, or the two were not run over a common
            range.
    """
    fits = (
        fit_curve(a, seed=2 * seed, num_draws=num_draws),
        fit_curve(b, seed=2 * seed + 1, num_draws=num_draws),
    )
    low, high = max(np.min(a.x), np.min(b.x)), min(np.max(a.x), np.max(b.x))
    if not low < high:
        raise GenlabError(
            "the two families were not run over a common range of x; compare them at both ends"
        )
    # The curves are compared far outside the sweep as well, so that an interval may leave it and be
    # called extrapolated.
    x = np.geomspace(low / BEYOND, high * BEYOND, GRID)
    gap = fits[0].predict(x) - fits[1].predict(x)
    reach = _reach([_predict(fit.draws, x / fit.x_mid) for fit in fits], fits, shared_error)
    # Two parallel curves whose gap is all noise cross somewhere too. A crossing needs a gap that
    # significantly changes over the sweep.
    ends = np.array([low, high])
    at_ends = [_predict(fit.draws, ends / fit.x_mid) for fit in fits]
    change = np.diff(fits[0].predict(ends) - fits[1].predict(ends))
    surely_changes = abs(float(change[0])) > float(
        _reach([np.diff(ends) for ends in at_ends], fits, 0.0)[0]
    )
    forms = (fits[0].form, fits[1].form)
    sweep = (float(low), float(high))
    roots = np.flatnonzero(np.diff(np.sign(gap)) != 0)
    if not len(roots) or not surely_changes:
        return Crossover(math.nan, math.nan, math.nan, "none", sweep, forms)
    # Of several roots the one nearest to the middle of the sweep, in log x, where data support it.
    centre = math.sqrt(low * high)
    root = int(min(roots, key=lambda i: abs(math.log(x[i] / centre))))
    # Linear between the two grid points, on the log axis.
    share = gap[root] / (gap[root] - gap[root + 1])
    crossing = float(x[root] * (x[root + 1] / x[root]) ** share)
    # The interval is all x around the root at which the gap could be zero.
    first, last = _connected(np.abs(gap) <= reach, root)
    ends_at = (
        (0.0 if first < 0 else float(x[first])),
        (math.inf if last >= GRID else float(x[last])),
    )
    p_value = _end_p_value(fits, ends, shared_error)
    places = find_swaps(a, b, max(fit.noise for fit in fits))
    # The measured points are the arbiter of the fit, not the other way round.
    if places is not None and not any(
        start <= ends_at[1] and ends_at[0] <= stop for start, stop in places
    ):
        return Crossover(math.nan, math.nan, math.nan, "refused", sweep, forms, p_value)
    is_inside = low <= ends_at[0] and ends_at[1] <= high
    verdict: Verdict = "inside sweep" if is_inside else "extrapolated"
    return Crossover(crossing, *ends_at, verdict, sweep, forms, p_value)


def find_swaps(a: Curve, b: Curve, noise: float) -> list[tuple[float, float]] | None:
    """Return between which x the measured means of two families change order; None where that
    cannot be told: fewer than two budgets in common, or no change that more runs could not undo.

    Args:
        a: runs of one family.
        b: runs of the other one.
        noise: the spread of runs, where no budget has two of them.
    """
    shared = [
        (x, a.score[np.isclose(a.x, x, rtol=SAME_X)], b.score[np.isclose(b.x, x, rtol=SAME_X)])
        for x in np.unique(a.x)
    ]
    shared = [(float(x), of_a, of_b) for x, of_a, of_b in shared if len(of_a) and len(of_b)]
    repeated = [runs for _, *pair in shared for runs in pair if len(runs) > 1]
    if repeated:
        dof = sum(len(runs) - 1 for runs in repeated)
        noise = math.sqrt(sum(((runs - runs.mean()) ** 2).sum() for runs in repeated) / dof)
    sure = []
    for x, of_a, of_b in shared:
        gap = float(of_a.mean() - of_b.mean())
        # Points closer than their errors have no order; the next ones that have it bound the place.
        if abs(gap) > 1.96 * noise * math.sqrt(1 / len(of_a) + 1 / len(of_b)):
            sure.append((x, gap))
    swaps = [
        (first, second)
        for (first, before), (second, after) in itertools.pairwise(sure)
        if before * after < 0
    ]
    return swaps or None


def _end_p_value(fits: tuple[Fit, Fit], ends: Float[np.ndarray, "2"], shared_error: float) -> float:
    """Return the larger p-value of the gap at the two ends of the sweep, by Student's t."""
    gap = fits[0].predict(ends) - fits[1].predict(ends)
    drawn = [_predict(fit.draws, ends / fit.x_mid) for fit in fits]
    error, dof = _error(drawn, fits, shared_error)
    ratio = np.divide(np.abs(gap), error, out=np.full_like(gap, math.inf), where=error > 0)
    return float(np.max(2 * scipy.stats.t.sf(ratio, dof)))


def find_probability(
    fits: tuple[Fit, Fit],
    budgets: Sequence[float],
    num_seeds: int,
    *,
    shared_error: float = 0.0,
    num_trials: int = 200,
    seed: int = 0,
) -> float:
    """Return the probability that a sweep would end with the verdict "inside sweep".

    Every trial takes curves as likely as the pilot's own (which it does not know any better), draws
    the runs with the pilot's noise, and analyses them like real ones.
    """
    rng = np.random.default_rng(seed)
    x = np.repeat(np.asarray(budgets, np.float64), num_seeds)
    hits = 0
    for trial in range(num_trials):
        curves = []
        for fit in fits:
            truth = fit.draws[rng.integers(len(fit.draws))]
            noise = (
                fit.noise * math.sqrt(fit.dof / rng.chisquare(fit.dof))
                if len(fit.draws) > 1
                else fit.noise
            )
            score = _predict(truth[None], x / fit.x_mid)[0] + noise * rng.standard_normal(len(x))
            curves.append(Curve(x, score))
        found = find_crossover(*curves, shared_error=shared_error, seed=trial, num_draws=100)
        hits += found.verdict == "inside sweep"
    return hits / num_trials


def plan_sweep(
    fits: tuple[Fit, Fit],
    budgets: Sequence[float],
    num_seeds: int,
    *,
    shared_error: float = 0.0,
    num_trials: int = 200,
) -> tuple[SweepPlan, SweepPlan | None]:
    """Return the chance of the planned sweep, and the cheapest sweep that shows the crossing in 80
    % of cases, if any.

    Tried are the runs of neighbouring budgets of the plan (3 or more) with the planned seeds, 3, 5
    or 10, from the cheapest on.
    """
    budgets = tuple(sorted(budgets))
    if len(budgets) < 3 or num_seeds < 1:
        raise GenlabError(
            f"{len(budgets)} budgets with {num_seeds} seeds planned: a sweep needs 3 budgets or "
            "more to show where curves cross, and 1 seed or more"
        )

    def assess(chosen: tuple[float, ...], seeds: int) -> SweepPlan:
        chance = find_probability(
            fits, chosen, seeds, shared_error=shared_error, num_trials=num_trials
        )
        return SweepPlan(chosen, seeds, chance, 2 * seeds * sum(chosen))

    planned = assess(budgets, num_seeds)
    # A shorter sweep in the middle may be cheaper than the plan, so every run of neighbours is
    # tried.
    spans = [budgets[i:j] for i in range(len(budgets)) for j in range(i + 3, len(budgets) + 1)]
    options = [
        (seeds * sum(span), seeds, span)
        for span in spans
        for seeds in sorted({num_seeds, 3, 5, 10})
    ]
    for _, seeds, span in sorted(options):
        # The plan itself is not simulated twice: a second draw could contradict the one reported.
        plan = planned if (span, seeds) == (budgets, num_seeds) else assess(span, seeds)
        if plan.probability >= 0.8:
            return planned, plan
    return planned, None


def _basis(
    ratios: Float[np.ndarray, "*r g"], exponents: Float[np.ndarray, "*r g"]
) -> Float[np.ndarray, "*r g"]:
    log_ratio = np.log(ratios)
    safe = np.where(exponents > 0, exponents, 1.0)
    return np.where(exponents > 0, -np.expm1(-exponents * log_ratio) / safe, log_ratio)


def _predict(
    coefficients: Float[np.ndarray, "r 3"], ratios: Float[np.ndarray, "g"]
) -> Float[np.ndarray, "r g"]:
    shape = len(coefficients), len(ratios)
    exponents = np.broadcast_to(coefficients[:, 2:], shape)
    return coefficients[:, :1] + coefficients[:, 1:2] * _basis(
        np.broadcast_to(ratios[None], shape), exponents
    )


@functools.lru_cache(maxsize=4096)
def _designs(
    ratios: tuple[float, ...],
) -> tuple[Float[np.ndarray, "e n 2"], Float[np.ndarray, "e 2 n"]]:
    """Return the regressors for every exponent and their pseudo-inverses."""
    shape = len(EXPONENTS), len(ratios)
    exponents = np.broadcast_to(np.array(EXPONENTS)[:, None], shape)
    basis = _basis(np.broadcast_to(np.array(ratios)[None], shape), exponents)
    design = np.stack([np.ones(shape), basis], axis=-1)
    return design, np.linalg.pinv(design)


def _solve(
    ratios: tuple[float, ...], scores: Float[np.ndarray, "r n"], is_power: bool
) -> Float[np.ndarray, "r 3"]:
    """Return the least-squares curve of each row of scores."""
    design, inverse = _designs(ratios)
    chosen = slice(None) if is_power else slice(1)
    # For each exponent e and row r: two coefficients k from n scores
    linear = np.einsum("ekn,rn->erk", inverse[chosen], scores)
    errors = ((np.einsum("enk,erk->ern", design[chosen], linear) - scores[None]) ** 2).sum(axis=-1)
    best = errors.argmin(axis=0)
    rows = np.arange(len(scores))
    return np.concatenate([linear[best, rows], np.array(EXPONENTS)[best][:, None]], axis=1)


def _choose_form(
    ratios: tuple[float, ...], scores: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, "r 3"]:
    """Return the curve of each row of scores, of the form that predicts held-out budgets better."""
    lines = _solve(ratios, scores, False)
    if len(set(ratios)) < MIN_BUDGETS_POWER or len(ratios) <= 3:
        return lines
    is_power = _left_out_error(ratios, scores, True) < _left_out_error(ratios, scores, False)
    return np.where(is_power[:, None], _solve(ratios, scores, True), lines)


def _left_out_error(
    ratios: tuple[float, ...], scores: Float[np.ndarray, "r n"], is_power: bool
) -> np.ndarray:
    """Return the squared error on budgets left out, summed, of each row of scores."""
    values = np.array(ratios)
    total = np.zeros(len(scores))
    for budget in np.unique(values):
        is_out = values == budget
        fitted = _solve(tuple(values[~is_out].tolist()), scores[:, ~is_out], is_power)
        total += ((_predict(fitted, values[is_out]) - scores[:, is_out]) ** 2).sum(axis=1)
    return total


def _reach(
    drawn: Sequence[Float[np.ndarray, "r g"]], fits: Sequence[Fit], shared_error: float
) -> Float[np.ndarray, "g"]:
    """Return Student's t times the error of the difference of two drawn curves."""
    error, dof = _error(drawn, fits, shared_error)
    return scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, dof) * error


def _error(
    drawn: Sequence[Float[np.ndarray, "r g"]], fits: Sequence[Fit], shared_error: float
) -> tuple[Float[np.ndarray, "g"], Float[np.ndarray, "g"]]:
    """Return the error of the difference of two drawn curves, and its degrees of freedom."""
    # Far outside, a few draws diverge; the middle two thirds estimate the error as well as all.
    variances = [
        (np.diff(np.quantile(draws, [0.1587, 0.8413], axis=0), axis=0)[0] / 2) ** 2
        for draws in drawn
    ]
    total = variances[0] + variances[1] + shared_error**2
    spread = sum(variance**2 / fit.dof for variance, fit in zip(variances, fits))
    dof = np.divide(total**2, spread, out=np.full_like(total, 1e6), where=np.asarray(spread) > 0)
    return np.sqrt(total), dof


def _connected(is_open: np.ndarray, root: int) -> tuple[int, int]:
    """Return the nearest closed grid points around the cell that holds the root; outside the grid
    if there is none.
    """
    first = root
    last = root + 1
    while first >= 0 and is_open[first]:
        first -= 1
    while last < len(is_open) and is_open[last]:
        last += 1
    return first, last
