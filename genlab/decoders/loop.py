"""Samples that loop: their last frame is followed by their first one, and nobody can tell where
they begin.

A network that denoises a clip knows where it begins and ends: its positions say so, and what it
reads stops there. So before every network call the clip is rolled by a random number of frames,
with what is said of each frame, and after it rolled back. Every call then has its ends somewhere
else, and over the calls no place is special: if the offset is uniform, a clip rolled by any number
of frames is as likely as the clip itself, whatever the network is. Two calls at one noise level
roll alike.

Only the call is rolled, never the state of the solver, so any solver will do.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.decoders.conditioning import Conditions
from genlab.decoders.prefix import Known

Call = Callable[
    [Float[Array, "b t d"], Float[Array, "b"], Conditions, Bool[Array, "b t"], Known],
    Float[Array, "b t d"],
]


def is_loop(sampler: object) -> bool:
    """Return whether a sampler draws loops; one without the setting does not."""
    return bool(getattr(sampler, "is_loop", False))


def roll_frames(
    frames: Shaped[Array, "b t *rest"], offset: Int[Array, "b"], num_frames: Int[Array, "b"]
) -> Shaped[Array, "b t *rest"]:
    """Return each clip's frames beginning `offset` frames later, the first ones behind its last;
    padding stays where it is.
    """
    place = jnp.arange(frames.shape[1])[None, :]
    length = jnp.maximum(num_frames, 1)[:, None]
    source = jnp.where(place < length, (place + offset[:, None]) % length, place)
    return jnp.take_along_axis(frames, source.reshape(*source.shape, *[1] * (frames.ndim - 2)), 1)


def in_a_circle(call: Call, key: Key[Array, ""]) -> Call:
    """Return a network call whose clip begins at a random frame of it; `key` and the noise level
    say at which.
    """

    def rolled(
        noisy: Float[Array, "b t d"],
        level: Float[Array, "b"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        given: Known,
    ) -> Float[Array, "b t d"]:
        num_frames = is_valid.sum(axis=1)
        # Of the level, since a solver has no number of a call. All rows alike in shares of a clip,
        # so that the copies of a row that guidance compares begin at the same frame.
        bits = jax.lax.bitcast_convert_type(level[0].astype(jnp.float32), jnp.int32)
        share = jax.random.uniform(jax.random.fold_in(key, bits))
        offset = jnp.minimum(jnp.floor(share * num_frames).astype(jnp.int32), num_frames - 1)

        def roll(frames: Shaped[Array, "b t *rest"]) -> Shaped[Array, "b t *rest"]:
            return roll_frames(frames, offset, num_frames)

        predicted = call(
            roll(noisy),
            level,
            conditions._replace(frames=roll(conditions.frames)),
            is_valid,  # a roll among the valid frames
            Known(roll(given.latents), roll(given.is_known)),
        )
        return roll_frames(predicted, num_frames - offset, num_frames)

    return rolled
