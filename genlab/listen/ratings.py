"""What the answers say: mean ratings, differences and preferences with intervals, over listeners
and prompts at once.

In: checked answers and the key. Out: the dict of listening.json and a text table.

Listeners and prompts are crossed: every listener hears every prompt, so a judgement shares its
listener with some and its prompt with others, and a result must hold for other listeners and for
other prompts. Intervals come from a bootstrap that resamples both, each with replacement, and takes
the cells where they meet (Owen 2007, "The pigeonhole bootstrap", arXiv:0712.1111). It counts the
noise of single judgements three times, so it is too wide where that rules, and like every
percentile bootstrap a little too narrow where a few listeners or prompts do. p-values have no such
weakness: a sign-flip test of the listeners' means and one of the prompts' means, of which the
larger counts (the language-as-fixed-effect argument of Clark 1973), with Holm's correction over the
pairs of arms. An arm is better only where interval and p-value agree.

Post-screening follows ITU-R BS.1534-3 section 4.1.2. With fewer than `MIN_LISTENERS` left no winner
is named.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float, Int

from genlab.listen.answers import NO_DIFFERENCE, Answers, read_answers
from genlab.listen.key import REFERENCE, Key, read_key
from genlab.report.additions import (
    Excluded,
    Listening,
    Preferences,
    PreferredPair,
    RatedPair,
    RatedRow,
    Ratings,
)
from genlab.run.files import write_json
from genlab.run.ownership import refuse_to_replace, says
from genlab.statistics.bootstrap import (
    Estimate,
    bootstrap_statistic,
    finite_or_none,
    holm_correction,
    paired_p_value,
    ratio_of_sums,
)

# Nine listeners who all agree reach p = 0.05 after Holm over the ten pairs of five arms: 10 * 2 /
# 2**9 = 0.039.
MIN_LISTENERS = 10
HIDDEN_REFERENCE_MIN = 90
MAX_MISSED_SHARE = 0.15
ALPHA = 0.05

Grid = Float[np.ndarray, "l p"]
"""One number per listener and prompt."""


class Listener(NamedTuple):
    """How often a listener did not find the hidden reference."""

    listener: str
    missed: int
    screens: int

    @property
    def is_excluded(self) -> bool:
        """True if the hidden reference was rated below 90 on more than 15 % of the screens."""
        return self.missed > MAX_MISSED_SHARE * self.screens


def merge_answers(paths: Sequence[Path], out: Path) -> Listening:
    """Check answer files against `out`/key.json, write `out`/listening.json and return it.

    Raises:
        GenlabError: if a file cannot be used.
    """
    key, digest = read_key(out / "key.json")
    listening = out / "listening.json"
    refuse_to_replace(listening, says(listening, {"key_sha256", "listeners"}))
    merged = summarise(read_answers(paths, key, digest), key, digest)
    write_json(listening, merged)
    return merged


def summarise(answers: Sequence[Answers], key: Key, digest: str) -> Listening:
    """Return listening.json."""
    listeners = [screen_listener(one, key) for one in answers]
    counted = [one for one, listener in zip(answers, listeners) if not listener.is_excluded]
    excluded: list[Excluded] = [
        {"listener": one.listener, "missed": one.missed, "screens": one.screens}
        for one in listeners
        if one.is_excluded
    ]
    merged: Listening = {
        "schema": 1,
        "key_sha256": digest,
        "comparison_key": key.comparison_key,
        "reference": REFERENCE,
        "listeners": {"counted": len(counted), "needed": MIN_LISTENERS, "excluded": excluded},
    }
    tests = {screen.test for screen in key.screens.values()}
    if "mushra" in tests:
        merged["mushra"] = summarise_ratings(counted, key)
    if "ab" in tests:
        merged["ab"] = summarise_pairs(counted, key)
    if len(counted) < MIN_LISTENERS:  # the numbers are shown, the word is not
        for entry in (merged.get("mushra"), merged.get("ab")):
            if entry is not None:
                entry["winner"] = ""
                for pair in entry["pairs"]:
                    pair["better"] = ""
    return merged


def screen_listener(answers: Answers, key: Key) -> Listener:
    """Count the screens whose hidden reference was rated below 90 (BS.1534-3 section 4.1.2)."""
    ratings = [
        clip.rating
        for screen in answers.screens
        for clip in screen.clips
        if clip.rating is not None and key.screens[screen.screen].rows[clip.id] == REFERENCE
    ]
    return Listener(
        answers.listener, sum(rating < HIDDEN_REFERENCE_MIN for rating in ratings), len(ratings)
    )


def summarise_ratings(answers: Sequence[Answers], key: Key) -> Ratings:
    """Return the mean rating of every row, and the differences between the arms."""
    grids = rating_grids(answers, key)
    rows: list[RatedRow] = []
    for name, grid in grids.items():
        estimate, (listeners, prompts) = crossed_mean(grid), grid.shape
        rows.append(
            {
                "row": name,
                "mean": finite_or_none(estimate.value),
                "low": finite_or_none(estimate.low),
                "high": finite_or_none(estimate.high),
                "listeners": listeners,
                "prompts": prompts,
            }
        )
    estimates, p_values = {}, []
    for a, b in itertools.combinations(key.arms, 2):
        grid = grids[a] - grids[b]
        # Sign flips over listeners and over prompts; the larger p, because a result must hold for
        # other listeners and for other prompts.
        estimates[a, b] = crossed_mean(grid)
        p_values.append(
            max(_flip_p_value(grid.mean(axis=axis)) for axis in (0, 1)) if grid.size else 1.0
        )
    pairs: list[RatedPair] = [
        {
            "a": a,
            "b": b,
            "difference": finite_or_none(estimate.value),
            "low": finite_or_none(estimate.low),
            "high": finite_or_none(estimate.high),
            "better": _better(a, b, estimate, p_holm),
            "p_value": p_value,
            "p_holm": p_holm,
        }
        for ((a, b), estimate), p_value, p_holm in zip(
            estimates.items(), p_values, _correct(p_values)
        )
    ]
    return {"rows": rows, "pairs": pairs, "winner": find_winner(pairs, key.arms)}


def summarise_pairs(answers: Sequence[Answers], key: Key) -> Preferences:
    """Return, for every two arms, the share of decided judgements that prefer the first, with ties
    apart.
    """
    grids = preference_grids(answers, key)
    p_values = [
        max(_sign_p_value((first - second).sum(axis=axis)) for axis in (0, 1))
        for first, second in grids.values()
    ]
    pairs: list[PreferredPair] = []
    for ((a, b), (first, second)), p_value, p_holm in zip(
        grids.items(), p_values, _correct(p_values)
    ):
        estimate = crossed_ratio(first, first + second)
        # Half of the judgements each is no preference.
        share = estimate._replace(
            value=estimate.value - 0.5, low=estimate.low - 0.5, high=estimate.high - 0.5
        )
        prefer_a, prefer_b = int(first.sum()), int(second.sum())
        pairs.append(
            {
                "a": a,
                "b": b,
                "prefer_a": prefer_a,
                "prefer_b": prefer_b,
                "ties": first.size - prefer_a - prefer_b,
                "share_a": finite_or_none(estimate.value),
                "low": finite_or_none(estimate.low),
                "high": finite_or_none(estimate.high),
                "better": _better(a, b, share, p_holm),
                "p_value": p_value,
                "p_holm": p_holm,
            }
        )
    return {"pairs": pairs, "winner": find_winner(pairs, key.arms)}


def rating_grids(answers: Sequence[Answers], key: Key) -> dict[str, Grid]:
    """Return the ratings of every row by listener and prompt; references first, arms last, as in
    the key.
    """
    rated = {name: screen for name, screen in key.screens.items() if screen.test == "mushra"}
    prompts = {
        prompt: column
        for column, prompt in enumerate(sorted(screen.prompt for screen in rated.values()))
    }
    names = dict.fromkeys(name for screen in rated.values() for name in screen.rows.values())
    grids = {name: np.full((len(answers), len(prompts)), math.nan) for name in names}
    for row, one in enumerate(answers):
        for answered in one.screens:
            if (screen := rated.get(answered.screen)) is not None:
                for clip in answered.clips:
                    grids[screen.rows[clip.id]][row, prompts[screen.prompt]] = clip.rating
    return grids


def preference_grids(
    answers: Sequence[Answers], key: Key
) -> dict[tuple[str, str], tuple[Grid, Grid]]:
    """Return for every two arms where the first was preferred, and where the second; ties are in
    neither.
    """
    compared = {name: screen for name, screen in key.screens.items() if screen.test == "ab"}
    prompts = {
        prompt: column
        for column, prompt in enumerate(sorted({s.prompt for s in compared.values()}))
    }
    shape = (len(answers), len(prompts))
    grids = {
        pair: (np.zeros(shape), np.zeros(shape)) for pair in itertools.combinations(key.arms, 2)
    }
    for row, one in enumerate(answers):
        for answered in one.screens:
            screen = compared.get(answered.screen)
            if screen is None or answered.choice == NO_DIFFERENCE:
                continue
            chosen = screen.rows[answered.choice]
            [pair] = [pair for pair in grids if set(pair) == set(screen.rows.values())]
            grids[pair][pair.index(chosen)][row, prompts[screen.prompt]] = 1.0
    return grids


def crossed_mean(grid: Grid, seed: int = 0) -> Estimate:
    """Return the mean over listeners and prompts with an interval that resamples both."""
    return crossed_ratio(grid, np.ones_like(grid), seed)


def crossed_ratio(totals: Grid, weights: Grid, seed: int = 0) -> Estimate:
    """Return sum / sum over listeners and prompts with an interval that resamples both."""
    if not totals.size:
        return Estimate(math.nan, math.nan, math.nan, 0)

    def statistic(
        listeners: Int[np.ndarray, "*r l"], prompts: Int[np.ndarray, "*r p"]
    ) -> Float[np.ndarray, "*r"]:
        cells = (listeners[..., :, None], prompts[..., None, :])
        return ratio_of_sums(totals[cells].sum(axis=-1), weights[cells].sum(axis=-1))

    units = (np.arange(totals.shape[0]), np.arange(totals.shape[1]))
    return bootstrap_statistic(statistic, *units, paired=False, interval="percentile", seed=seed)


def prompts_needed(num_arms: int) -> int:
    """Return how many prompts it takes to settle anything: a unanimous test over fewer fails Holm's
    correction.
    """
    num_pairs = math.comb(num_arms, 2)
    return next(count for count in itertools.count(1) if num_pairs * 2.0 ** (1 - count) < ALPHA)


def find_winner(pairs: Sequence[RatedPair | PreferredPair], arms: Sequence[str]) -> str:
    """Return the arm that is better than every other, or "" if there is none."""
    for arm in arms:
        own = [pair for pair in pairs if arm in (pair["a"], pair["b"])]
        if own and all(pair["better"] == arm for pair in own):
            return arm
    return ""


def _flip_p_value(differences: Float[np.ndarray, "n"]) -> float:
    return paired_p_value(differences, np.zeros(len(differences)))


def _sign_p_value(balances: Float[np.ndarray, "n"]) -> float:
    """Return the p-value of the sign test over units that lean one way."""
    wins, losses = int((balances > 0).sum()), int((balances < 0).sum())
    return float(scipy.stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _correct(p_values: Sequence[float]) -> list[float]:
    """Return the p-values with Holm's correction for their number."""
    return [float(p_holm) for p_holm in holm_correction(p_values)] if p_values else []


def _better(a: str, b: str, difference: Estimate, p_holm: float) -> str:
    """Return the arm that is significantly better, or "" if none is."""
    if not difference.excludes_zero or p_holm >= ALPHA:
        return ""
    return a if difference.value > 0 else b
