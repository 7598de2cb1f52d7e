"""The IsoFLOP planner: which shapes to train at which budgets, and where the best shape of each
family lies.

In: budgets in training FLOPs. Out: points for a sweep, every budget with the shapes of a published
grid around the one that 20 positions per parameter would choose (Hoffmann et al. 2022, arXiv
2203.15556, section 3.2). Every run trains all families at one shape, so data and FLOPs are shared
and each family has its own best shape. And from the finished runs, per family: the best size at
every budget, from a parabola in log parameters; how it grows, N ~ C^a, with an interval; and how
well the score at the best size of the smaller budgets predicts that of the largest.

Intervals draw every run again around its parabola with the residual spread, pooled over budgets,
scaled for degrees of freedom: of 95 % intervals of a, 93-98 % hold the truth
(tests/test_isoflop.py). A best size at the edge of the grid is no optimum and is left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float

from genlab.config import GenlabError
from genlab.report.answer import model_arms
from genlab.report.inputs import Results
from genlab.report.text import arm_title
from genlab.statistics.bootstrap import CONFIDENCE
from genlab.studies.crossover import seed_values
from genlab.sweeps.page import Point, SweepRun

# Width and layers; heads have 64 channels, or 32 in the smallest.
GRID = (
    (64, 2),
    (96, 2),
    (128, 2),
    (128, 4),
    (192, 4),
    (256, 4),
    (320, 5),
    (384, 6),
    (512, 6),
    (512, 10),
    (640, 10),
    (768, 12),
    (1024, 12),
    (1024, 20),
    (1536, 18),
    (2048, 20),
    (2048, 32),
)
PAGE = '''"""Lab note: which shape is best at which budget?

Written by `genlab sweep plan`; predict before it runs.
"""

from genlab.load import load_experiment
from genlab.sweeps.isoflop import isoflop_points
from genlab.sweeps.page import Sweep


def sweep() -> Sweep:
    """Return the page."""
    base = load_experiment({config!r})
    arms = {{name: base.arms[name] for name in {families!r}}}
    return Sweep(
        name={name!r},
        question="Which shape of each family is best at which budget, and how does it grow?",
        fixed="Data, codec, conditions, prompts, and training FLOPs within a budget.",
        varied="Training FLOPs, and width and layers around 20 positions per parameter.",
        base=base.model_copy(update={{"arms": arms, "seeds": (0, 1, 2)}}),
        points=tuple(isoflop_points({budgets!r})),
        names={{"budget.train_flops": "FLOPs"}},
    )
'''
POSITIONS_PER_PARAMETER = 20.0
NUM_DRAWS = 1000


class Optimum(NamedTuple):
    """The best size of a family at one budget: parameters and score there; NaN if it lies at the
    edge of the grid.
    """

    flops: float
    params: float
    score: float


class Scaling(NamedTuple):
    """How the best size of a family grows with the budget, and the error of predicting the largest
    budget's score.
    """

    optima: list[Optimum]
    exponent: float
    low: float
    high: float
    predicted: float
    found: float

    @property
    def held_out_error(self) -> float:
        """Foretold over found score at the largest budget, less one."""
        return self.predicted / self.found - 1


def isoflop_points(budgets: Sequence[float], num_shapes: int = 5) -> list[Point]:
    """Return the points of a sweep: every budget with the shapes around its expected best one.

    Raises:
        GenlabError: if a budget asks for a larger shape than the grid has.
    """
    sizes = np.array([12.0 * layers * width**2 for width, layers in GRID])
    points = []
    for flops in budgets:
        # C = 6 N D with D = 20 N positions.
        wanted = math.sqrt(flops / (6 * POSITIONS_PER_PARAMETER))
        centre = int(np.abs(np.log(sizes / wanted)).argmin())
        first = centre - num_shapes // 2
        if first + num_shapes > len(GRID):
            raise GenlabError(
                f"--flops {flops:g}: shapes around {wanted:.2g} parameters leave the grid; lower "
                "the budget"
            )
        for width, layers in GRID[max(0, first) : max(0, first) + num_shapes]:
            points.append(
                {
                    "budget.train_flops": float(flops),
                    "backbone.width": width,
                    "backbone.layers": layers,
                    "backbone.heads": max(2, width // 64),
                }
            )
    return points


def fit_scaling(
    flops: Float[np.ndarray, "n"],
    params: Float[np.ndarray, "n"],
    scores: Float[np.ndarray, "n"],
    seed: int = 0,
) -> Scaling:
    """Return how the best size grows, from one score per training run, lower being better.

    Raises:
        GenlabError: with fewer than 2 budgets that have their best size inside the grid, or fewer
            than 4 runs at one.
    """
    budgets = np.unique(flops)
    groups = [np.flatnonzero(flops == budget) for budget in budgets]
    if any(len(np.unique(params[group])) < 3 or len(group) < 4 for group in groups):
        raise GenlabError("a parabola needs 3 shapes or more and 4 runs or more at every budget")
    inverses = [np.linalg.pinv(_powers(params[group])) for group in groups]
    parabolas = [inverse @ scores[group] for inverse, group in zip(inverses, groups)]
    off = [
        scores[group] - _powers(params[group]) @ parabola
        for group, parabola in zip(groups, parabolas)
    ]
    dof = len(scores) - 3 * len(groups)
    spread = math.sqrt(sum(float((each**2).sum()) for each in off) / dof)
    optima = [
        _optimum(*each) for each in zip(budgets, parabolas, (params[group] for group in groups))
    ]
    inside = [index for index, optimum in enumerate(optima) if math.isfinite(optimum.params)]
    if len(inside) < 2:
        raise GenlabError(
            f"the best size lies inside the grid at {len(inside)} of {len(budgets)} budgets; add "
            "shapes on the side where the score still falls"
        )
    exponent = _slopes(
        budgets[inside], np.log(np.array([[optima[index].params for index in inside]]))
    )[0]
    rng = np.random.default_rng(seed)
    drawn = [
        parabolas[index]
        + spread * rng.standard_normal((NUM_DRAWS, len(groups[index]))) @ inverses[index].T
        for index in inside
    ]
    is_bowl = np.all([each[:, 2] > 0 for each in drawn], axis=0)
    places = np.stack([-each[is_bowl, 1] / (2 * each[is_bowl, 2]) for each in drawn], axis=1)
    # The spread of the draws, with Student's quantile for the degrees of freedom behind the
    # residual spread.
    error = float(np.diff(np.quantile(_slopes(budgets[inside], places), [0.1587, 0.8413]))[0] / 2)
    reach = float(scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, dof)) * error
    predicted, found = _predict([optima[index] for index in inside])
    return Scaling(
        optima, float(exponent), float(exponent) - reach, float(exponent) + reach, predicted, found
    )


def fit_families(runs: Sequence[SweepRun], results: Mapping[str, Results], score: str) -> list[str]:
    """Return a sentence per arm of a sweep over shapes and budgets; nothing for any other sweep."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for run in runs:
        for arm in model_arms(results[run.label]) if run.label in results else []:
            for value in seed_values(arm["scores"].get(score)):
                if {"budget.train_flops", "backbone.width"} <= set(run.point):
                    row = (
                        float(run.point["budget.train_flops"]),
                        float(arm.get("params", 0)),
                        value,
                    )
                    points.setdefault(arm_title(arm), []).append(row)
    told = []
    for family, rows in points.items():
        try:
            flops, params, scores = (np.array(column) for column in zip(*rows))
            told.append(describe_scaling(family, fit_scaling(flops, params, scores)))
        except GenlabError as error:
            told.append(f"{family}: {error}")
    return told


def describe_scaling(family: str, scaling: Scaling) -> str:
    """Return the fit of a family in a sentence."""
    sizes = (
        f"{optimum.params:.3g}" if math.isfinite(optimum.params) else "none"
        for optimum in scaling.optima
    )
    best = ", ".join(
        f"{size} at {optimum.flops:.2g} FLOPs" for size, optimum in zip(sizes, scaling.optima)
    )
    text = (
        f"{family}: best size {best}; N ~ C^{scaling.exponent:.2f} [{scaling.low:.2f}, "
        f"{scaling.high:.2f}]"
    )
    if math.isnan(scaling.predicted):
        return f"{text}; two budgets are too few to predict a third"
    return (
        f"{text}; the score of the largest budget is predicted to within "
        f"{scaling.held_out_error:+.1%}"
    )


def _powers(params: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 3"]:
    return np.log(params)[:, None] ** np.arange(3)[None, :]


def _optimum(
    flops: float, parabola: Float[np.ndarray, "3"], params: Float[np.ndarray, "n"]
) -> Optimum:
    constant, slope, curvature = parabola.tolist()
    place = -slope / (2 * curvature) if curvature > 0 else math.inf
    if not np.log(params.min()) < place < np.log(params.max()):
        return Optimum(float(flops), math.nan, math.nan)
    return Optimum(float(flops), math.exp(place), constant + slope * place + curvature * place**2)


def _slopes(
    flops: Float[np.ndarray, "b"], log_params: Float[np.ndarray, "r b"]
) -> Float[np.ndarray, "r"]:
    """Return the slope of each row against log FLOPs."""
    x = np.log(flops) - np.log(flops).mean()
    return (log_params - log_params.mean(axis=1, keepdims=True)) @ x / (x @ x)


def _predict(optima: Sequence[Optimum]) -> tuple[float, float]:
    """Return what a power law through the smaller budgets says of the largest, and what was found
    there.
    """
    last, found = optima[-1], optima[-1].score
    if len(optima) < 3:
        return math.nan, math.nan
    x = np.log([optimum.flops for optimum in optima[:-1]])
    y = np.log([max(optimum.score, 1e-12) for optimum in optima[:-1]])
    line = np.polynomial.Polynomial.fit(x, y, 1)
    return float(np.exp(line(math.log(last.flops)))), found
