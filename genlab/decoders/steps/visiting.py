"""In which order a decoder that predicts frame after frame visits them, so that it can fill holes.

In: which frames are known. Out: an order "b t": known frames first, then the hole, each at its own
rotary position, which is the prefix-suffix-middle order of 2207.14255 for frames that carry
positions. Where nothing is known, or a prefix, that is the order of time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, Key, Shaped

from genlab.config import GenlabError
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import Prompt


def visiting_order(is_known: Bool[Array, "b t"], is_valid: Bool[Array, "b t"]) -> Int[Array, "b t"]:
    """Return the frames in the order of prediction: known ones, the others, padding."""
    return jnp.argsort(jnp.where(is_valid, jnp.where(is_known, 0, 1), 2), axis=1, stable=True)


def visit(
    frames: Shaped[Array, "b t *rest"], order: Int[Array, "b t"]
) -> Shaped[Array, "b t *rest"]:
    """Return the frames in that order."""
    return jnp.take_along_axis(
        frames, order.reshape(*order.shape, *[1] * (frames.ndim - 2)), axis=1
    )


def draw_known(
    key: Key[Array, ""], is_valid: Bool[Array, "b t"], share: float
) -> Bool[Array, "b t"]:
    """Leave a random hole in a `share` of the examples; everything else counts as known, which is
    the plain order.
    """
    if share == 0:
        return is_valid
    b, t = is_valid.shape
    choice_key, ends_key = jax.random.split(key)
    has_hole = jax.random.bernoulli(choice_key, share, (b,))
    ends = jnp.sort(jax.random.uniform(ends_key, (b, 2)), axis=1) * is_valid.sum(
        axis=1, keepdims=True
    )
    frame = jnp.arange(t)[None, :]
    is_hole = (
        (frame >= jnp.floor(ends[:, :1])) & (frame < jnp.ceil(ends[:, 1:])) & has_hole[:, None]
    )
    return is_valid & ~is_hole


def refuse_reordering(backbone: BackboneConfig, infill_share: float) -> None:
    """Refuse a backbone that depends on neighbours in time if frames are to be visited out of
    order.

    Raises:
        ConfigError: if the mixer is not attention and infill_share is above 0.
    """
    if infill_share > 0:
        backbone.require_attention(
            f"decoder.infill_share={infill_share}",
            "it cannot visit them out of order",
            "decoder.infill_share=0",
        )


def refuse_untrained_holes(prompt: Prompt | None, infill_share: float) -> None:
    """Refuse a prompt that the training did not prepare for.

    Raises:
        GenlabError: if frames follow a hole and infill_share is 0.
    """
    if prompt is not None and infill_share == 0 and has_hole(prompt):
        raise GenlabError(
            "prompt.is_known: this autoregressive decoder was trained with infill_share=0 and can "
            "only continue a prefix, not fill a hole; train it with decoder.infill_share=0.1, or "
            "use a masked or diffusion decoder"
        )


def refuse_holes(prompt: Prompt | None) -> None:
    """Refuse a prompt that a stream cannot wait for.

    Raises:
        GenlabError: if frames follow a hole.
    """
    if prompt is not None and has_hole(prompt):
        raise GenlabError(
            "prompt.is_known: a stream goes from left to right and cannot wait for the frames "
            "after a hole; give it a prefix, or use sample"
        )


def has_hole(prompt: Prompt) -> bool:
    """Return whether an unknown frame precedes a known one; inside a compiled caller this cannot be
    seen.
    """
    if isinstance(prompt.is_known, Tracer):
        return False
    is_known = np.asarray(prompt.is_known)
    return bool(
        (is_known[:, 1:] & ~is_known[:, :-1]).any() or (is_known[:, 0] < is_known.any(axis=1)).any()
    )
