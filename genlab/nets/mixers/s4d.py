"""A linear state space with diagonal transitions in every channel (S4D, 2206.11893).

In: frames [b t h], normalised. Out: the same, to be added to the stream. A channel has n complex
modes, each with its conjugate: A = -exp(decay) + i frequency, held for one frame of length dt (zero
order hold):

    s_t = exp(dt A) s_{t-1} + x_t
    y_t = 2 Re sum_n C (exp(dt A) - 1) / A s_t + D x_t

which is a convolution with K_l = 2 Re sum_n C (exp(dt A) - 1) / A exp(dt A l). Re A is negative, so
no state grows. Out comes GELU(y) through a gated projection, as in SaShiMi (2202.09729). Where the
future may be seen, half of the channels run from the end of the clip to its beginning, at the same
cost.

Whole clips are run in chunks: a Toeplitz product within a chunk, and the states between chunks by
their powers. That is as exact as a convolution by FFT, counts per clip and not per batch, and is
matrix products. Decoding carries s, 2 h n numbers per layer and clip, however long the clip is. All
of it runs in float32 whatever the compute dtype.

Extra axis letters here: m chunks, l frames of a chunk, n modes, p real and imaginary part.
"""

from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Complex, Float, Int, Key

from genlab.config import Config
from genlab.nets.context import Context
from genlab.nets.layer import LayerShape
from genlab.nets.linear import Linear
from genlab.nets.mixers.chunks import chunk_frames, in_chunks, out_of_chunks
from genlab.nets.mixers.stepwise import one_by_one
from genlab.nets.param import vector

# Products of states are not rounded to bfloat16 by any platform.
HIGHEST = jax.lax.Precision.HIGHEST
SHORTEST, LONGEST = 1e-3, 1e-1  # dt at the start, in frames


class S4D(Config):
    """Every channel filters its past with a few decaying oscillations; `heads` is then unused."""

    kind: Literal["s4d"] = "s4d"
    states: int = pydantic.Field(default=16, ge=1, le=1024)
    """Complex modes per channel, each of which stands for itself and its conjugate."""
    part: ClassVar[str] = "s4d"
    chooses: ClassVar[bool] = False

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> "DiagonalStateSpace":
        """Return the mixer of one layer."""
        return DiagonalStateSpace(self.states, shape, key=key)

    def number(self, stacked: "DiagonalStateSpace", places: Int[Array, "l"]) -> None:
        """Tell stacked layers their places: all are alike."""

    def empty(self, shape: LayerShape, num_examples: int, num_slots: int) -> "Modes":
        """Return modes at rest."""
        return Modes(jnp.zeros((num_examples, shape.width, self.states, 2), jnp.float32))

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return 0: there is no kernel."""
        return 0

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return those of the products within chunks, of the states between them, and of the
        projection.
        """
        frames = chunk_frames(positions)
        chunks = -(-positions // frames)
        padded = chunks * frames
        mixing = 2.0 * shape.width * padded * frames
        if chunks > 1:
            mixing += 8.0 * shape.width * self.states * (padded + chunks**2)
        return mixing + 4.0 * positions * shape.width**2

    def step_flops(self, shape: LayerShape, positions: int, slots: int) -> float:
        """Return those of one turn of every mode, of reading it, and of the projection."""
        return 4.0 * positions * shape.width * (shape.width + 3 * self.states)

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return those of reading the modes and of the projection."""
        return 4.0 * shape.width * (shape.width + self.states)


class Modes(NamedTuple):
    """The state of one layer while it decodes."""

    modes: Float[Array, "b h n 2"]


class DiagonalStateSpace(nnx.Module):
    """One linear state space per channel, then a gated projection."""

    def __init__(self, states: int, shape: LayerShape, *, key: Key[Array, ""]):
        out_key, step_key, mode_key = jax.random.split(key, 3)
        width = shape.width
        self.is_causal = shape.is_causal
        # S4D-Lin (2206.11893 equation 9): A = -1/2 + i pi n.
        self.decay = vector(jnp.full((width, states), jnp.log(0.5)))
        self.frequency = vector(jnp.broadcast_to(jnp.pi * jnp.arange(states), (width, states)))
        spread = jax.random.uniform(step_key, (width,))
        span = jnp.log(LONGEST) - jnp.log(SHORTEST)
        self.log_step = vector(jnp.log(SHORTEST) + span * spread)
        real, imaginary = 2**-0.5 * jax.random.normal(mode_key, (2, width, states))
        self.real, self.imaginary = vector(real), vector(imaginary)
        self.skip = vector(jnp.ones((width,)))
        self.project_out = Linear(width, 2 * width, key=out_key, scale=shape.output_scale)

    def __call__(
        self, x: Float[Array, "b q h"], context: Context, cache: Modes | None = None
    ) -> tuple[Float[Array, "b q h"], Modes | None]:
        """Filter all frames at once, or, with a cache, the next ones after those before them."""
        if cache is not None:
            return one_by_one(self._step, x, context, cache)
        return self._project(self._filter(x, context.is_valid), x), None

    def _filter(self, x: Float[Array, "b t h"], is_valid: Bool[Array, "b t"]) -> Array:
        """Return the filtered frames in float32."""
        # A linear system stays at rest on zeros, so padding before a clip that is run backwards
        # changes nothing.
        wide = jnp.where(is_valid[:, :, None], x, 0).astype(jnp.float32)
        if self.is_causal:
            return self.convolve(wide)
        ahead, back = jnp.split(wide, 2, axis=-1)
        turned = self.convolve(jnp.concatenate([ahead, back[:, ::-1]], axis=-1))
        ahead, back = jnp.split(turned, 2, axis=-1)
        return jnp.concatenate([ahead, back[:, ::-1]], axis=-1)

    def convolve(self, x: Float[Array, "b t h"]) -> Float[Array, "b t h"]:
        """Return the output of the state space for inputs from the first frame to the last."""
        turn, gain = self._discrete()
        chunks = in_chunks(x)
        frames = chunks.shape[2]
        # h n l: the powers 0 ... l of every mode
        powers = jnp.exp(turn[:, :, None] * jnp.arange(frames + 1)[None, None, :])
        kernel = 2 * (gain[:, :, None] * powers[:, :, :-1]).real.sum(axis=1)
        y = jnp.einsum("hst,bmsh->bmth", _toeplitz(kernel), chunks, precision=HIGHEST)
        if chunks.shape[1] > 1:
            entering = self._between(chunks, turn, powers)
            # 2 Re(g s) = 2 Re g Re s - 2 Im g Im s, for frame t of a chunk the power t + 1
            read = _parts((2 * gain[:, :, None] * powers[:, :, 1:]).conj())
            y += jnp.einsum("hntp,bmhnp->bmth", read, entering, precision=HIGHEST)
        return out_of_chunks(y, x.shape[1]) + x * self.skip[...][None, None, :]

    def _between(
        self,
        chunks: Float[Array, "b m l h"],
        turn: Complex[Array, "h n"],
        powers: Complex[Array, "h n l+1"],
    ) -> Float[Array, "b m h n p"]:
        """Return the state that enters each chunk."""
        frames, count = chunks.shape[2], chunks.shape[1]
        # What frame s of a chunk has become at its last frame: powers l - 1 - s.
        written = jnp.einsum(
            "hnsp,bmsh->bmhnp", _parts(powers[:, :, -2::-1]), chunks, precision=HIGHEST
        )
        # What chunk j left has turned for i - 1 - j chunks when chunk i > j begins.
        waited = jnp.arange(count)[:, None] - 1 - jnp.arange(count)[None, :]
        passed = jnp.exp(turn[:, :, None, None] * frames * jnp.maximum(waited, 0)[None, None])
        passed = jnp.where(waited >= 0, passed, 0)
        return jnp.einsum("hnijpq,bjhnq->bihnp", _rotations(passed), written, precision=HIGHEST)

    def _step(
        self, x: Float[Array, "b 1 h"], context: Context, cache: Modes
    ) -> tuple[Float[Array, "b 1 h"], Modes]:
        turn, gain = self._discrete()
        wide = x[:, 0].astype(jnp.float32)
        # Products, so that the walk over FLOPs sees them.
        modes = jnp.einsum(
            "hnpq,bhnq->bhnp", _rotations(jnp.exp(turn)), cache.modes, precision=HIGHEST
        )
        modes += jnp.stack([wide, jnp.zeros_like(wide)], axis=-1)[:, :, None, :]
        y = jnp.einsum("hnp,bhnp->bh", _parts((2 * gain).conj()), modes, precision=HIGHEST)
        y += wide * self.skip[...][None, :]
        return self._project(y[:, None], x), Modes(modes)

    def _project(self, y: Float[Array, "b q h"], x: Float[Array, "b q h"]) -> Array:
        value, gate = self.project_out.parts(jax.nn.gelu(y).astype(x.dtype), 2)
        return value * jax.nn.sigmoid(gate)

    def _discrete(self) -> tuple[Complex[Array, "h n"], Complex[Array, "h n"]]:
        """Return dt A, and C (exp(dt A) - 1) / A."""
        rate = jax.lax.complex(-jnp.exp(self.decay[...]), self.frequency[...])
        turn = rate * jnp.exp(self.log_step[...])[:, None]
        gain = jax.lax.complex(self.real[...], self.imaginary[...]) * jnp.expm1(turn) / rate
        return turn, gain


def _toeplitz(kernel: Float[Array, "h l"]) -> Float[Array, "h l l"]:
    """Return the matrix from inputs s to outputs t, K at t - s and zero where s is later.

    Read in rows of 2 l - 1, repetitions of (K, l zeros) move on by one in each row: no gather,
    whose gradient would be a scatter.
    """
    length = kernel.shape[1]
    row = jnp.pad(kernel, ((0, 0), (0, length)))
    flat = jnp.tile(row, (1, length))[:, : length * (2 * length - 1)]
    return flat.reshape(-1, length, 2 * length - 1)[:, :, :length]


def _parts(x: Complex[Array, "*shape"]) -> Float[Array, "*shape p"]:
    return jnp.stack([x.real, x.imag], axis=-1)


def _rotations(x: Complex[Array, "*shape"]) -> Float[Array, "*shape p q"]:
    """Return the 2 x 2 matrices that multiply (real, imaginary) as `x` multiplies a number."""
    return jnp.stack(
        [jnp.stack([x.real, -x.imag], axis=-1), jnp.stack([x.imag, x.real], axis=-1)], axis=-2
    )
