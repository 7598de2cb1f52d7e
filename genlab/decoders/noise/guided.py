"""Predictions of a diffusion model while it samples: guided at some noise levels, plain at others.

In: the network call of a model, its conditions and a sampler. Out: a function of noisy latents and
a level. Guidance can be limited to an interval of levels (2404.07724) and rescaled (2305.08891); a
flow map that was trained with guidance is told its strength instead.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from genlab.decoders.conditioning import Conditioner, Conditions
from genlab.decoders.guidance import Guided, guide, num_copies, with_unconditional
from genlab.decoders.loop import Call
from genlab.decoders.noise.flow_map import JumpEmbedding, tell
from genlab.decoders.noise.paths import Level, LikeLevel
from genlab.decoders.prefix import Known
from genlab.tokens import Cond


@runtime_checkable
class Guidable(Protocol):
    """A model with conditions, and, as a flow map, what tells it where it goes."""

    conditioner: Conditioner
    jump: JumpEmbedding | None


@runtime_checkable
class IntervalSampler(Guided, Protocol):
    """A sampler that guides at some levels."""

    @property
    def guidance_rescale(self) -> float:
        """0 leaves the guided prediction as it is."""
        ...

    @property
    def told_guidance(self) -> float:
        """1 is off."""
        ...

    def is_guided(self, level: Level) -> LikeLevel:
        """Return whether a call at `level` is a guided one."""
        ...


def guided_prediction(
    model: Guidable,
    call: Call,
    cond: Cond,
    is_valid: Bool[Array, "b t"],
    sampler: IntervalSampler,
    is_guided: Bool[np.ndarray, "calls"],
    given: Known,
) -> Callable[..., Float[Array, "b t d"]]:
    """Return the prediction at some noisy latents and level, guided where the sampler says so; a
    flow map takes the length of its interval as well.

    `is_guided` tells which calls are: if all or none are, there is nothing to choose in the loop.
    `call` is the network.
    """
    b = is_valid.shape[0]
    copies = num_copies(sampler) if is_guided.any() else 1
    is_attended = is_valid if copies == 1 else jnp.repeat(is_valid, copies, axis=0)
    conditions = model.conditioner(
        with_unconditional(cond, sampler) if is_guided.any() else cond, is_attended
    )
    # Rows take turns: conditional, unconditional, conditional, ...
    conditional = (
        conditions if copies == 1 else jax.tree.map(lambda array: array[::copies], conditions)
    )

    def told(conditions: Conditions, rows: int, span: Level) -> Conditions:
        spans = jnp.broadcast_to(jnp.asarray(span, jnp.float32), (rows,))
        return tell(model.jump, conditions, spans, jnp.log(sampler.told_guidance))

    def predict_plainly(noisy, level, span=0.0):
        levels = jnp.broadcast_to(level, (b,))
        return call(noisy, levels, told(conditional, b, span), is_valid, given)

    def predict_guided(noisy, level, span=0.0):
        levels = jnp.broadcast_to(level, (copies * b,))
        noisy, both = jax.tree.map(lambda leaf: jnp.repeat(leaf, copies, axis=0), (noisy, given))
        outputs = call(noisy, levels, told(conditions, copies * b, span), is_attended, both)
        guided = guide(outputs, sampler)
        if sampler.guidance_rescale == 0:
            return guided
        # Guidance raises the standard deviation and so oversaturates (2305.08891 eq. 15-16).
        factor = _spread(outputs[::copies], is_valid) / _spread(guided, is_valid)
        return guided * (sampler.guidance_rescale * factor + 1 - sampler.guidance_rescale)

    def predict(noisy, level, span=0.0):
        is_guided = sampler.is_guided(level)
        return lax.cond(is_guided, predict_guided, predict_plainly, noisy, level, span)

    if is_guided.all():
        return predict_guided
    return predict if is_guided.any() else predict_plainly


def _spread(values: Float[Array, "b t d"], is_valid: Bool[Array, "b t"]) -> Float[Array, "b 1 1"]:
    """Return the standard deviation of each example over its frames and channels."""
    return jnp.std(values, axis=(1, 2), keepdims=True, where=is_valid[:, :, None])
