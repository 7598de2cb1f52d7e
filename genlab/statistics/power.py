"""How many prompts and training seeds it takes to see a difference, from the variance components of
the one at hand.

In: the pseudo-values of two arms (`ClipValues.pseudo_values`). Out: `Components` of the
difference's variance, the power of the paired test of `crossed_difference` for any numbers of
prompts and seeds, and `PowerPlan`, a small table.

Eq. V(n prompts, m seeds) = seed / m + prompt / n + rest / (n m). Power is averaged over drawn mean
squares, because the interval of 3 seeds is now short, now long: a noncentral t at the expected
degrees of freedom promises up to 12 points too much there. Where several pairs are tested, the
level is that of the first step of Holm's correction (`first_level`), the strictest one, so that no
power is promised that the correction takes away. With one training seed per arm nothing is known of
`seed`, so there is no plan.

The components come from few seeds themselves: with 3 per arm, the numbers can be off by a factor of
2.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float

from genlab.statistics.bootstrap import CONFIDENCE
from genlab.statistics.crossed import Crossed, MeanSquares, combine_squares, mean_squares

POWER = 0.8
LEVEL = 1 - CONFIDENCE
PLANNED_SEEDS = (3, 5, 10)
MOST_PROMPTS = 10_000
MOST_SEEDS = 100


class Components(NamedTuple):
    """Variances of a difference of two arms: of the seed, of the prompt, and of the rest; of one
    value each.
    """

    seed: float
    prompt: float
    rest: float


class PowerPlan(NamedTuple):
    """What it takes to see `target` with 80 % power in a two-sided test at `level`."""

    target: float
    prompts: int
    """Prompts at hand."""
    seeds: int
    """Training seeds per arm at hand."""
    power: float
    """Power to see `target` with what is at hand."""
    seeds_needed: int | None
    """Seeds per arm needed with the prompts at hand; None if 100 are too few."""
    prompts_needed: Mapping[int, int | None]
    """Prompts needed with so many seeds; None if no number of prompts is enough."""
    prompt_error: float
    """Standard error of the difference that the choice of prompts alone causes, the same however
    many seeds are run.
    """
    level: float = LEVEL
    """Of the test, shared by all that are made."""


def first_level(num_tests: int) -> float:
    """Return the level of the first of Holm's steps over so many tests: 5 % shared by them all."""
    return LEVEL / max(1, num_tests)


def find_components(a: Float[np.ndarray, "s c"], b: Float[np.ndarray, "u c"]) -> Components | None:
    """Return the variance components of mean(a) - mean(b), negative ones as 0; None if there is
    only one seed.
    """
    if min(*a.shape, *b.shape) < 2:
        return None
    seed, rest, noise = 0.0, 0.0, 0.0
    for arm in (a, b):
        squares, num_seeds, num_prompts = mean_squares(arm), *arm.shape
        seed += float(squares.seed - squares.rest) * num_seeds
        rest += float(squares.rest) * num_seeds * num_prompts
        noise += float(squares.rest) * num_prompts
    by_prompt = a.mean(axis=0) - b.mean(axis=0)
    return Components(max(seed, 0.0), max(float(by_prompt.var(ddof=1)) - noise, 0.0), rest)


def find_power(
    target: float,
    components: Components,
    num_prompts: int,
    num_seeds: int,
    level: float = LEVEL,
) -> float:
    """Return the probability that the paired test at `level` sees a difference of `target`, with
    equal seeds in both arms.
    """
    if min(num_prompts, num_seeds) < 2:
        return 0.0
    seed_dof, prompt_dof = num_seeds - 1, num_prompts - 1
    rest = components.rest / num_prompts / num_seeds
    seed, prompt = components.seed / num_seeds, components.prompt / num_prompts
    deviation = math.sqrt(seed + prompt + rest)
    if deviation == 0:
        return 1.0
    # Drawn mean squares; both arms have half of what belongs to seeds. The means are independent of
    # them.
    drawn = _draw_squares(
        (seed_dof, seed_dof, seed_dof * prompt_dof, seed_dof * prompt_dof, prompt_dof)
    )
    seeds = (seed + rest) / 2 * drawn[:2]
    rests = rest / 2 * drawn[2:4]
    arms = [(MeanSquares(seeds[i], drawn[4], rests[i]), seed_dof) for i in range(2)]
    std_error, dof = combine_squares((prompt + rest) * drawn[4], prompt_dof, arms)
    reach = scipy.stats.t.isf(level / 2, dof) * std_error
    upper, lower = (
        scipy.stats.norm.sf((reach - sign * abs(target)) / deviation) for sign in (1, -1)
    )
    return float(np.mean(upper + lower))


def power_of(target: float, found: Crossed, level: float = LEVEL) -> float:
    """Return the probability that a test at `level` with this standard error and these degrees of
    freedom sees a difference of `target`, by a shifted Student's t; 1 where nothing varies.
    """
    error = float(found.std_error)
    if error == 0:
        return 1.0
    reach = scipy.stats.t.isf(level / 2, found.dof)
    return float(scipy.stats.t.sf(reach - abs(target) / error, found.dof))


def find_prompts(
    target: float, components: Components, num_seeds: int, level: float = LEVEL
) -> int | None:
    """Return the fewest prompts that reach 80 % with `num_seeds`, or None if 10,000 do not."""
    return _fewest(lambda n: find_power(target, components, n, num_seeds, level), MOST_PROMPTS)


def find_seeds(
    target: float, components: Components, num_prompts: int, level: float = LEVEL
) -> int | None:
    """Return the fewest training seeds per arm that reach 80 % with `num_prompts`, or None if 100
    do not.
    """
    return _fewest(lambda m: find_power(target, components, num_prompts, m, level), MOST_SEEDS)


def find_paired_components(difference: Float[np.ndarray, "s c"]) -> Components | None:
    """Return the variance components of the difference of two arms that share each training, seed
    by seed; None if there is only one seed.
    """
    if min(difference.shape) < 2:
        return None
    squares, (num_seeds, num_prompts) = mean_squares(difference), difference.shape
    seed = float(squares.seed - squares.rest) * num_seeds
    prompt = float(squares.prompt - squares.rest) * num_prompts
    rest = float(squares.rest) * num_seeds * num_prompts
    return Components(max(seed, 0.0), max(prompt, 0.0), rest)


def make_plan(
    target: float,
    a: Float[np.ndarray, "s c"],
    b: Float[np.ndarray, "u c"],
    *,
    shares_training: bool = False,
    level: float = LEVEL,
) -> PowerPlan | None:
    """Return what it takes to see `target` between two arms, or None where their variances are not
    known. With `shares_training` row s of both is of one trained model.
    """
    components = find_paired_components(a - b) if shares_training else find_components(a, b)
    if components is None or not math.isfinite(target) or target <= 0:
        return None
    num_seeds = min(len(a), len(b))
    num_prompts = a.shape[1]
    return PowerPlan(
        target,
        num_prompts,
        num_seeds,
        find_power(target, components, num_prompts, num_seeds, level),
        find_seeds(target, components, num_prompts, level),
        {seeds: find_prompts(target, components, seeds, level) for seeds in PLANNED_SEEDS},
        math.sqrt(components.prompt / num_prompts),
        level,
    )


@functools.cache
def _draw_squares(dofs: tuple[int, ...]) -> Float[np.ndarray, "q n"]:
    """Return mean squares of expectation 1, spread evenly (the same numbers each time)."""
    even = scipy.stats.qmc.Sobol(len(dofs), rng=np.random.default_rng(0)).random(512)
    return np.stack([scipy.stats.chi2.ppf(column, dof) / dof for column, dof in zip(even.T, dofs)])


def _fewest(power_of: Callable[[int], float], most: int) -> int | None:
    """Return the smallest number from 2 whose power is enough; power rises with it."""
    if power_of(most) < POWER:
        return None
    low = 1
    high = most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= POWER else (middle, high)
    return high
