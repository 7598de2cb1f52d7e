"""How long an arm takes to draw one clip on this machine, and the steps with which it takes as long
as the others.

In: an arm's sampler and what times it. Out: `Timed`: the sampler whose time lies nearest to what
the sampling budget says, or an error that names the arm. A family without steps, one that draws
code by code, has one time; it lies within the tolerance or is refused.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array

from genlab.config import GenlabError
from genlab.data.store import TokenStore
from genlab.decoders.task import SamplerConfig
from genlab.experiment import DecoderRun
from genlab.fairness.latency import MOST_STEPS, has_steps, steps_of, with_steps
from genlab.tokens import Cond, Tokens
from genlab.training.spend import SamplingBudget

WARM, TIMED = 1, 5  # draws before those that are timed, and these; of them the median
MOST_TRIES = 8  # numbers of steps that are compiled and timed per arm
NEAR = 0.01  # of the budget: no further number of steps is tried

Clock = Callable[[SamplerConfig], float]


class Timed(NamedTuple):
    """A sampler and the seconds that it takes to draw one clip alone."""

    sampler: SamplerConfig
    seconds: float


def fit_seconds(
    name: str, sampler: SamplerConfig, limit: SamplingBudget, clock: Clock, is_fixed: bool = False
) -> Timed:
    """Return the sampler with the steps whose time is nearest to `limit.seconds`.

    Args:
        name: of the arm, for errors.
        sampler: as the config says; everything but its steps stays.
        limit: the seconds of a clip, and the share by which an arm may miss them.
        clock: times a sampler.
        is_fixed: its time does not depend on its steps.

    Raises:
        GenlabError: if no number of steps comes within the tolerance.
    """
    target = limit.seconds
    assert target is not None, "calls and FLOPs are counted, not timed"

    def miss(seconds: float) -> float:
        return abs(seconds / target - 1)

    own = steps_of(sampler)
    if own is None or is_fixed:
        seconds = clock(sampler)
        if miss(seconds) > limit.tolerance:
            raise GenlabError(
                f"arms.{name}: drawing a clip takes {seconds:.3g} s and no steps of its sampler "
                f"change that; expected budget.sampling.seconds={target:g} within "
                f"{limit.tolerance:.0%}; set budget.sampling.seconds={seconds:.3g}, or leave the "
                "arm out"
            )
        return Timed(sampler, seconds)
    found: dict[int, float] = {}
    steps = own
    # The time grows with the steps by a line, nearly: each try is where the line of the last two
    # meets the target.
    while steps not in found and len(found) < MOST_TRIES:
        found[steps] = clock(with_steps(sampler, steps) or sampler)
        if miss(found[steps]) <= NEAR:
            break
        steps = _next_steps(found, target)
    best = min(found, key=lambda steps: miss(found[steps]))
    if miss(found[best]) > limit.tolerance:
        told = ", ".join(f"{steps}: {found[steps]:.3g} s" for steps in sorted(found))
        raise GenlabError(
            f"arms.{name}: no number of steps draws a clip in "
            f"budget.sampling.seconds={target:g} within {limit.tolerance:.0%} (steps {told}); set "
            f"budget.sampling.seconds={found[best]:.3g}, a larger budget.sampling.tolerance, or "
            "leave the arm out"
        )
    return Timed(with_steps(sampler, best) or sampler, found[best])


def _next_steps(found: dict[int, float], target: float) -> int:
    """Return the number of steps to time next; one that is known if none can be nearer."""
    steps = list(found)
    if len(steps) == 1:
        # Through the origin, and another number in any case, so that there is a line.
        guess = round(steps[0] * target / found[steps[0]])
        other = guess if guess != steps[0] else guess + 1
        return min(max(other, 1 + (steps[0] == 1)), MOST_STEPS)
    # The two that are nearest to the target say most about the line there.
    near = sorted(steps, key=lambda one: abs(found[one] - target))[:2]
    slope = (found[near[0]] - found[near[1]]) / (near[0] - near[1])
    if slope <= 0:  # noise: far apart it is not
        further = near[0] * 2 if found[near[0]] < target else near[0] // 2
        return min(max(further, 1), MOST_STEPS)
    guess = round(near[0] + (target - found[near[0]]) / slope)
    return min(max(guess, 1), MOST_STEPS)


def time_arm(run: DecoderRun, store: TokenStore, limit: SamplingBudget) -> Timed:
    """Return the sampler of one arm that meets `limit.seconds` on this machine."""
    task = run.task(store)
    is_fixed = not has_steps(run.arm.decoder, run.arm.sampler, task)
    clock = clip_clock(run, store)
    return fit_seconds(run.name, run.arm.sampler, limit, clock, is_fixed)


def clip_clock(run: DecoderRun, store: TokenStore) -> Clock:
    """Return what times one clip of training length drawn alone: compiled, the median of `TIMED`
    draws, from conditions to tokens. The codec, which all arms share, is left out.

    The weights are untrained: what they are does not change how long they take.
    """
    tokens, cond = run.source_of(store).batch_at(0).args[:2]
    cond, num_frames = jax.tree.map(lambda leaf: leaf[:1], (cond, tokens.num_frames))
    graph, _ = nnx.split(nnx.eval_shape(lambda: run.build_for(store, jax.random.key(0))))
    build = jax.jit(lambda key: nnx.split(run.build_for(store, key))[1])
    state = build(jax.random.key(run.seed))

    def clock(sampler: SamplerConfig) -> float:
        def draw(state: nnx.State, cond: Cond, num_frames: Array, key: Array) -> Tokens:
            decoder: Any = nnx.merge(graph, state)
            return decoder.sample(cond, num_frames=num_frames, key=key, sampler=sampler).tokens

        # Compiled here, so that no draw that is timed contains it.
        key = jax.random.key(run.seed)
        program = jax.jit(draw).lower(state, cond, num_frames, key).compile()
        seconds = []
        for _ in range(WARM + TIMED):
            began = time.perf_counter()
            jax.block_until_ready(program(state, cond, num_frames, key))
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds[WARM:])

    return clock
