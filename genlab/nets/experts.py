"""A mixture of experts in place of one feed-forward part (Switch, 2101.03961; DeepSeek-V3,
2412.19437 section 2.1.2).

In: frames [b t h], normalised. Out: the same, to be added to the stream. A router gives each of E
experts a logit; a frame goes to the k of them whose logit plus bias is largest, and receives the
sum of their SwiGLUs, weighted by the softmax of the k logits. Rows are sorted by expert and meet
their kernels in two ragged products, so no frame is dropped and none depends on its batch mates.

The bias only chooses. In training it rises by `balance` for experts that got fewer frames than the
mean, and falls for those that got more, so the load evens out without a term in the loss: losses
per example stay those of the family. It is saved with the checkpoint and is no parameter. The
router is float32 whatever the compute dtype.

Extra axis letters here: E experts, k of them per frame, r rows (b t k), i inner channels.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key

from genlab.config import Config
from genlab.nets.layer import LayerShape
from genlab.nets.linear import Linear
from genlab.nets.param import matrix


class Experts(Config):
    """Several SwiGLUs, of which each frame runs through a few."""

    kind: Literal["experts"] = "experts"
    count: int = pydantic.Field(default=8, ge=1, le=4096)
    """Experts of a layer."""
    active: int = pydantic.Field(default=2, ge=1, le=64)
    """Experts that a frame runs through."""
    width: int | None = pydantic.Field(default=None, ge=1)
    """Inner channels of an expert; None divides those of the dense part by `active`, so that the
    FLOPs of a frame stay the same.
    """
    balance: float = pydantic.Field(default=1e-3, ge=0, le=1)
    """How far a step of training moves the bias of an expert against its load; 0 leaves the load to
    the router.
    """

    @pydantic.model_validator(mode="after")
    def _check_active(self) -> "Experts":
        if self.active > self.count:
            raise ValueError(
                f"active={self.active} is more than count={self.count} experts; set active to at "
                f"most {self.count}"
            )
        return self

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> "RoutedExperts":
        """Return the feed-forward part of one layer."""
        return RoutedExperts(self, shape, key=key)

    def flops(self, shape: LayerShape, positions: int) -> float:
        """Return those of the router, and of the experts that frames run through."""
        inside = 6.0 * self.active * self.inner(shape)
        return positions * shape.width * (2.0 * self.count + inside)

    def inner(self, shape: LayerShape) -> int:
        """Return the inner channels of an expert, a multiple of 32 where none are given."""
        share = 32 * max(1, round(shape.ffn_width / self.active / 32))
        return share if self.width is None else self.width


class Balance(nnx.Variable):
    """What is added to the logits to choose experts, moved by training and not by gradients."""


class RoutedExperts(nnx.Module):
    """A router and the kernels of all experts."""

    def __init__(self, config: Experts, shape: LayerShape, *, key: Key[Array, ""]):
        router_key, in_key, out_key = jax.random.split(key, 3)
        inner, width, count = config.inner(shape), shape.width, config.count
        self.active = config.active
        self.rate = config.balance
        self.router = Linear(width, count, key=router_key)
        entering = width**-0.5 * jax.random.normal(in_key, (count, width, 2 * inner))
        leaving = inner**-0.5 * jax.random.normal(out_key, (count, inner, width))
        self.kernel_in = matrix(entering)
        self.kernel_out = matrix(shape.output_scale * leaving)
        self.balance = Balance(jnp.zeros((count,)))

    def __call__(self, x: Float[Array, "b t h"]) -> Float[Array, "b t h"]:
        """Return the transformed frames."""
        return self._run(x)[0]

    def learn(self, x: Float[Array, "b t h"]) -> Float[Array, "b t h"]:
        """Return the transformed frames, and move the bias against the load of the experts."""
        out, load = self._run(x)
        wide = load.astype(jnp.float32)
        self.balance = Balance(self.balance[...] + self.rate * jnp.sign(wide.mean() - wide))
        return out

    def _run(self, x: Float[Array, "b t h"]) -> tuple[Float[Array, "b t h"], Int[Array, "E"]]:
        """Return the transformed frames, and how many came to each expert."""
        frames = x.reshape(-1, x.shape[-1])
        logits = self.router(frames.astype(jnp.float32))
        # The bias chooses and does not weigh, and no gradient reaches it.
        chosen = lax.top_k(lax.stop_gradient(logits) + self.balance[...][None, :], self.active)[1]
        weights = jax.nn.softmax(jnp.take_along_axis(logits, chosen, axis=1), axis=1)
        # A row is a frame at one of its experts; rows of one expert become neighbours.
        experts = chosen.reshape(-1)
        order = jnp.argsort(experts)
        load = jnp.bincount(experts, length=self.balance.shape[0])
        rows = frames[order // self.active]
        joined = lax.ragged_dot(rows, self.kernel_in[...].astype(x.dtype), load)
        gate, value = jnp.split(joined, 2, axis=-1)
        inner = jax.nn.silu(gate) * value
        rows = lax.ragged_dot(inner, self.kernel_out[...].astype(x.dtype), load)
        # r h -> (b t) k h, in the order of the frames again
        back = rows[jnp.argsort(order)].reshape(*chosen.shape, -1)
        mixed = (back * weights[:, :, None].astype(x.dtype)).sum(axis=1)
        return mixed.reshape(x.shape), load
