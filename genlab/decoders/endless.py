"""Sound without an end, chunk after chunk, from any family that continues a clip.

In: a trained decoder, how it samples, and the conditions of each chunk. Out: chunks of tokens, as
many as are asked for. Each is the continuation of the last `context_frames` frames before it, as
the live models of music do it (Magenta RealTime: chunks of 2 s after 10 s of context), so it is
drawn as exactly as the decoder's `prompt_rule` says. One program of one shape draws all of them and
nothing else is kept, so memory stays where it is, and no position is ever beyond those of training.

Conditions may change from chunk to chunk: weights of two labels that move make one style out of
another (`Cond.speaker` as "b s", and labels of `condition.parts` as weights).
"""

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import GenlabError
from genlab.decoders.task import SamplerConfig
from genlab.tokens import Cond, Decoder, Prompt, TokenSpec, make_tokens, read_codes, read_latents


@runtime_checkable
class Streamed(Protocol):
    """What is needed of a decoder: which view it reads, and what a frame of it is."""

    reads: ClassVar[Literal["codes", "latents"]]
    spec: TokenSpec


Frames = Int[Array, "b c k"] | Float[Array, "b c d"]


def stream_forever(
    decoder: nnx.Module,
    told: Callable[[int], Cond],
    *,
    sampler: SamplerConfig,
    context_frames: int,
    chunk_frames: int,
    key: Key[Array, ""],
) -> Iterator[Frames]:
    """Yield codes or latents, whichever the decoder reads, without an end: the first chunk has
    `context_frames + chunk_frames` frames, all others `chunk_frames`.

    Args:
        decoder: trained on clips of `context_frames + chunk_frames` frames, or longer ones.
        told: gives the conditions of a chunk by its number, from 0 on; those that belong to frames
            have `context_frames + chunk_frames` of them, the context first.
        sampler: how it samples.
        context_frames: what each chunk continues.
        chunk_frames: frames that are new in each.
        key: of the draws; a chunk depends on it, on its number and on its context alone.

    Raises:
        GenlabError: if there is nothing to continue or to draw, or the conditions have another
            number of frames.
    """
    if context_frames < 1 or chunk_frames < 1:
        raise GenlabError(
            f"context_frames={context_frames}, chunk_frames={chunk_frames}: expected 1 or more of "
            "each; a chunk continues its context"
        )
    length = context_frames + chunk_frames
    graph, state = nnx.split(decoder)

    @jax.jit
    def draw(
        state: nnx.State,
        cond: Cond,
        key: Key[Array, ""],
        context: Shaped[Array, "b c _"],
        is_first: Bool[Array, ""],
    ) -> Shaped[Array, "b t _"]:
        model = cast("Decoder", nnx.merge(graph, state))
        b = cond.content.shape[0]
        # What follows the context is not known, and zero until it is drawn.
        given = jnp.pad(context, ((0, 0), (0, chunk_frames), (0, 0)))
        num_frames = jnp.full((b,), length, jnp.int32)
        is_known = (jnp.arange(length) < jnp.where(is_first, 0, context_frames))[None, :]
        prompt = Prompt(
            make_tokens(**{model.reads: given}, num_frames=num_frames), jnp.tile(is_known, (b, 1))
        )
        out = model.sample(cond, num_frames=num_frames, key=key, sampler=sampler, prompt=prompt)
        return read_codes(out.tokens) if model.reads == "codes" else read_latents(out.tokens)

    context, number = None, 0
    while True:
        cond = told(number)
        if cond.content.shape[1] != length:
            raise GenlabError(
                f"told({number}): conditions of {cond.content.shape[1]} frames, expected {length}: "
                f"context_frames={context_frames} and chunk_frames={chunk_frames}"
            )
        if context is None:
            context = _nothing(cast("Streamed", decoder), cond.content.shape[0], context_frames)
        is_first = jnp.asarray(number == 0)
        frames = draw(state, cond, jax.random.fold_in(key, number), context, is_first)
        yield frames if number == 0 else frames[:, context_frames:]
        context, number = frames[:, chunk_frames:], number + 1


def _nothing(model: Streamed, b: int, context_frames: int) -> Frames:
    """Return the context of the first chunk, which is not read."""
    if model.reads == "codes":
        return jnp.zeros((b, context_frames, model.spec.codebooks), jnp.int32)
    return jnp.zeros((b, context_frames, model.spec.latent_channels), jnp.float32)
