"""What a decoder knows of the beginning of a clip that it continues.

In: which frames of a batch are valid, or known. Out: the beginnings that training shows clean, and
the part of a prompt that is such a beginning.

A decoder from left to right continues by the law that it was trained on. One that draws all frames
in parallel was trained on whole clips: replacing known frames at every noise level (RePaint,
2201.09865), or showing only a part of their codes, draws from another law than the conditional of
what it learned. A delay pattern hides codes too: the first code after a prompt is drawn before the
fine codes of its last frames are read. So training may show the beginning of some clips clean and
count the loss of the rest alone, as SoundStorm (2305.09636 section 3.2: a delimiter t uniform in
0..T-1 in every example) and Voicebox (2306.15687 section 3.2: spans) do. Sampling then conditions
on a prompt in that way.
"""

from typing import Annotated, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.nets.param import vector
from genlab.tokens import Tokens

# Folded into the key of a loss for the draws of prefixes, so that all its other draws stay.
_PREFIX = 0x9F

PrefixShare = Annotated[float, pydantic.Field(ge=0, le=1)]


@runtime_checkable
class HasPrefixShare(Protocol):
    """The config of a decoder that may train with prefixes."""

    @property
    def prefix_share(self) -> float:
        """Share of the examples that show one."""
        ...


class Mark(nnx.Module):
    """A learned vector on the input of every frame that is known, so that what is clean is not
    taken for what is noisy, or what is whole for what is delayed.
    """

    def __init__(self, width: int, *, key: Key[Array, ""]):
        self.known = vector(width**-0.5 * jax.random.normal(key, (width,)))

    def __call__(
        self, features: Float[Array, "b t h"], is_known: Bool[Array, "b t"]
    ) -> Float[Array, "b t h"]:
        """Return the features of all frames, or steps, with the mark on known ones."""
        return features + jnp.where(is_known[:, :, None], self.known[...].astype(features.dtype), 0)


@runtime_checkable
class TrainsOnPrefixes(Protocol):
    """A decoder whose config has a `prefix_share`."""

    deterministic: bool

    @property
    def config(self) -> HasPrefixShare:
        """Its config."""
        ...


@runtime_checkable
class TellsPrefixes(TrainsOnPrefixes, Protocol):
    """A decoder that marks what it is told whole, if its config says so."""

    mark: Mark | None


def shown_prefix(
    model: TrainsOnPrefixes, key: Key[Array, ""], is_valid: Bool[Array, "b t"]
) -> Bool[Array, "b t"]:
    """Return the frames that an example of training shows clean; `key` is that of the loss.

    Validation shows none: it is of whole clips in every family, as bits are.
    """
    share = 0.0 if model.deterministic else model.config.prefix_share
    return draw_prefix(jax.random.fold_in(key, _PREFIX), is_valid, share)


def draw_prefix(
    key: Key[Array, ""], is_valid: Bool[Array, "b t"], share: float
) -> Bool[Array, "b t"]:
    """Return the first n frames of a `share` of the examples, n uniform from 0 to one less than all
    of them, so that something is left to learn.
    """
    if share == 0:
        return jnp.zeros_like(is_valid)
    length_key, some_key = jax.random.split(key)
    num_frames = is_valid.sum(axis=1)
    length = jax.random.uniform(length_key, num_frames.shape)
    length *= jax.random.bernoulli(some_key, share, num_frames.shape)
    return jnp.arange(is_valid.shape[1])[None, :] < jnp.floor(length * num_frames)[:, None]


def leading(is_known: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    """Return the known frames before the first unknown one: what training with prefixes covers."""
    return jnp.cumprod(is_known, axis=1).astype(bool)


class Known(NamedTuple):
    """Latents that are known, and where."""

    latents: Float[Array, "b t d"]
    is_known: Bool[Array, "b t"]


def make_mark(share: float, width: int, key: Key[Array, ""]) -> Mark | None:
    """Return the mark of a model that trains with prefixes; `key` may serve other weights too, and
    weights without a mark stay what they were.
    """
    return Mark(width, key=jax.random.fold_in(key, _PREFIX)) if share > 0 else None


def tell_prefix(
    model: TellsPrefixes,
    key: Key[Array, ""],
    is_valid: Bool[Array, "b t"],
    is_known: Bool[Array, "b t"],
) -> tuple[Bool[Array, "b t"], Bool[Array, "b t"] | None]:
    """Return the frames that training visits first, given those that surround a hole, and the
    frames that it tells whole, None if it never does.
    """
    if model.mark is None:
        return is_known, None
    is_told = shown_prefix(model, key, is_valid)
    # An example with a prefix is visited in order of time, without its hole.
    return jnp.where(is_told.any(axis=1, keepdims=True), is_valid, is_known), is_told


def num_open(tokens: Tokens, is_told: Bool[Array, "b t"] | None) -> Int[Array, "b"]:
    """Return how many frames of each example are learned."""
    return tokens.num_frames if is_told is None else tokens.num_frames - is_told.sum(axis=1)


def check_delayed(share: float, hides_known: bool, *others: object) -> None:
    """Refuse prefixes where they would change nothing, and beside streams that no prompt has.

    Raises:
        ValueError: that names the fix.
    """
    if share == 0:
        return
    if not hides_known:
        raise ValueError(
            f"prefix_share={share:g}: without a delay every code of a prompt is read before what "
            "follows it, so continuations are exact already; set prefix_share=0"
        )
    if any(other is not None for other in others):
        raise ValueError(
            f"prefix_share={share:g}: a prompt has no units of a plan and no other speaker, so its "
            "frames cannot be told whole; set prefix_share=0, or plan=null and other=null"
        )
