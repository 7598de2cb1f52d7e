"""A state space whose decay, input and output depend on the frame (Mamba-2, 2405.21060).

In: frames [b t h], normalised. Out: the same, to be added to the stream. A projection of each frame
gives x [e], B [n], C [n], a step size dt per head and a gate z [e]; x, B and C pass a depthwise
convolution over the last few frames. Each head of p channels then carries a matrix [p n]:

    s_t = exp(dt_t A) s_{t-1} + dt_t x_t B_t^T        A < 0, one number per head
    y_t = s_t C_t + D x_t

and RMSNorm(y * silu(z)) is projected out. Where the future may be seen, half of the heads run from
the end of the clip to its beginning, through the same B and C, at nearly the same cost.

Whole clips are run in chunks (SSD, section 6): within a chunk as attention with the weights C_i B_j
exp(sum of dt A from j + 1 to i), between chunks by states. Decoding carries s and the last frames
of the convolution: e n + (taps - 1) (e + 2 n) numbers per layer and clip, however long the clip is.
Steps, decays and states are float32 whatever the compute dtype.

Extra axis letters here: a heads, p channels of a head, n states, m chunks, l frames of a chunk.
"""

from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, ConfigError
from genlab.nets.context import Context
from genlab.nets.layer import LayerShape
from genlab.nets.linear import Linear
from genlab.nets.mixers.chunks import chunk_frames, in_chunks, out_of_chunks
from genlab.nets.mixers.stepwise import one_by_one
from genlab.nets.norm import RMSNorm
from genlab.nets.param import vector

# Products of states are not rounded to bfloat16 by any platform.
HIGHEST = jax.lax.Precision.HIGHEST
SHORTEST, LONGEST = 1e-3, 1e-1  # dt at the start


class Mamba2(Config):
    """Heads carry a state that each frame may keep, overwrite or read; `heads` of the backbone is
    then unused.
    """

    kind: Literal["mamba2"] = "mamba2"
    states: int = pydantic.Field(default=64, ge=1, le=4096)
    """Numbers that each channel carries from frame to frame."""
    head_channels: int = pydantic.Field(default=32, ge=1)
    """Channels that share a decay; they divide expand * width, and leave an even number of heads
    where the future may be seen.
    """
    expand: int = pydantic.Field(default=2, ge=1, le=16)
    """Inner channels over the width of the backbone."""
    taps: int = pydantic.Field(default=4, ge=2, le=64)
    """Frames that the convolution before the states reads."""
    part: ClassVar[str] = "mamba2"
    chooses: ClassVar[bool] = False

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> "SelectiveStateSpace":
        """Return the mixer of one layer.

        Raises:
            ConfigError: if the heads do not divide the inner channels.
        """
        return SelectiveStateSpace(self, shape, key=key)

    def number(self, stacked: "SelectiveStateSpace", places: Int[Array, "l"]) -> None:
        """Tell stacked layers their places: all are alike."""

    def empty(self, shape: LayerShape, num_examples: int, num_slots: int) -> "Carried":
        """Return states at rest, and silence for the convolution.

        Raises:
            ConfigError: if the heads do not divide the inner channels.
        """
        inner, heads = self.expand * shape.width, self.count_heads(shape)
        state = (num_examples, heads, self.head_channels, self.states)
        recent = (num_examples, self.taps - 1, inner + 2 * self.states)
        return Carried(jnp.zeros(recent, shape.dtype), jnp.zeros(state, jnp.float32))

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return 0: there is no kernel."""
        return 0

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return those of the projections, of the pairs within chunks, and of the states between
        them.
        """
        inner = self.expand * shape.width
        frames = chunk_frames(positions)
        chunks = -(-positions // frames)
        padded, directions = chunks * frames, 1 if shape.is_causal else 2
        mixing = 2.0 * padded * frames * (inner + directions * self.states)
        if chunks > 1:
            mixing += 2.0 * inner * self.states * (2 * padded + chunks**2)
        return positions * self._projection_flops(shape) + mixing

    def step_flops(self, shape: LayerShape, positions: int, slots: int) -> float:
        """Return those of the projections, and of writing and reading the states."""
        states = 4.0 * self.expand * shape.width * self.states
        return positions * (self._projection_flops(shape) + states)

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return those of reading the states and of the projection of what is read."""
        return 2.0 * self.expand * shape.width * (shape.width + self.states)

    def count_heads(self, shape: LayerShape) -> int:
        """Return the heads of the states.

        Raises:
            ConfigError: if they do not divide the inner channels, or are odd and half of them must
                run backwards.
        """
        inner = self.expand * shape.width
        sides = 1 if shape.is_causal else 2
        if inner % (sides * self.head_channels):
            even = "" if shape.is_causal else " an even number of"
            raise ConfigError(
                f"backbone.mixer.head_channels={self.head_channels} does not divide the "
                f"expand * width={inner} inner channels into{even} heads; set it to a divisor of "
                f"{inner // sides}"
            )
        return inner // self.head_channels

    def _projection_flops(self, shape: LayerShape) -> float:
        inner = self.expand * shape.width
        entering = 2 * inner + 2 * self.states + self.count_heads(shape)
        return 2.0 * shape.width * (entering + inner)


class Carried(NamedTuple):
    """The state of one layer while it decodes: the inputs of the convolution before the next frame,
    and what the heads carry.
    """

    recent: Float[Array, "b r e"]
    states: Float[Array, "b a p n"]


class Signals(NamedTuple):
    """What the heads of one direction read, in float32: inputs times their step, the logarithms of
    the decays, B and C.
    """

    written: Float[Array, "b t a p"]
    log_decay: Float[Array, "b t a"]
    entering: Float[Array, "b t n"]
    leaving: Float[Array, "b t n"]


class SelectiveStateSpace(nnx.Module):
    """Heads that carry matrices, between two projections."""

    def __init__(self, config: Mamba2, shape: LayerShape, *, key: Key[Array, ""]):
        in_key, conv_key, step_key, decay_key, out_key = jax.random.split(key, 5)
        self.heads = config.count_heads(shape)
        self.inner = config.expand * shape.width
        self.states = config.states
        self.is_causal = shape.is_causal
        convolved = self.inner + 2 * config.states
        self.project_in = Linear(shape.width, self.inner + convolved + self.heads, key=in_key)
        kernel = config.taps**-0.5 * jax.random.normal(conv_key, (config.taps, convolved))
        self.kernel, self.bias = vector(kernel), vector(jnp.zeros((convolved,)))
        span = jnp.log(LONGEST) - jnp.log(SHORTEST)
        step = SHORTEST * jnp.exp(span * jax.random.uniform(step_key, (self.heads,)))
        # softplus of it is the step
        self.step_bias = vector(step + jnp.log(-jnp.expm1(-step)))
        rates = jax.random.uniform(decay_key, (self.heads,), minval=1.0, maxval=16.0)
        self.log_rate = vector(jnp.log(rates))
        self.skip = vector(jnp.ones((self.heads,)))
        self.norm = RMSNorm(self.inner)
        self.project_out = Linear(self.inner, shape.width, key=out_key, scale=shape.output_scale)

    def __call__(
        self, x: Float[Array, "b q h"], context: Context, cache: Carried | None = None
    ) -> tuple[Float[Array, "b q h"], Carried | None]:
        """Run all frames at once, or, with a cache, the next ones after those before them."""
        if cache is not None:
            return one_by_one(self._step, x, context, cache)
        gate, signal, step = self._project(jnp.where(context.is_valid[:, :, None], x, 0))
        if self.is_causal:
            y = self._run(signal, step, context.is_valid, slice(None))
            return self._leave(y, gate), None
        half = self.heads // 2
        ahead = self._run(signal, step, context.is_valid, slice(half))
        signal, step, is_valid = (part[:, ::-1] for part in (signal, step, context.is_valid))
        back = self._run(signal, step, is_valid, slice(half, None))[:, ::-1]
        return self._leave(jnp.concatenate([ahead, back], axis=2), gate), None

    def _run(
        self,
        signal: Float[Array, "b t e"],
        step: Float[Array, "b t a"],
        is_valid: Bool[Array, "b t"],
        heads: slice,
    ) -> Float[Array, "b t k p"]:
        """Return what some of the heads read, from the first frame to the last."""
        taps = self.kernel.shape[0]
        padded = jnp.pad(signal, ((0, 0), (taps - 1, 0), (0, 0)))
        # A sum of shifted slices: XLA:CPU runs grouped convolutions as a naive loop.
        shifted = [padded[:, tap : tap + signal.shape[1]] for tap in range(taps)]
        inputs, signals = self._signals(self._convolve(shifted), step, heads, is_valid)
        return read_states(signals) + inputs * self.skip[...][heads][None, None, :, None]

    def _step(
        self, x: Float[Array, "b 1 h"], context: Context, cache: Carried
    ) -> tuple[Float[Array, "b 1 h"], Carried]:
        gate, signal, step = self._project(x)
        recent = jnp.concatenate([cache.recent, signal], axis=1)
        taps = self.kernel.shape[0]
        convolved = self._convolve([recent[:, tap : tap + 1] for tap in range(taps)])
        is_valid = jnp.ones(x.shape[:2], bool)
        inputs, signals = self._signals(convolved, step, slice(None), is_valid)
        written, log_decay, entering, leaving = (part[:, 0] for part in signals)
        # An outer product as a product, so that the walk over FLOPs sees it.
        states = jnp.einsum("bap,bn->bapn", written, entering, precision=HIGHEST)
        states += jnp.exp(log_decay)[:, :, None, None] * cache.states
        y = jnp.einsum("bapn,bn->bap", states, leaving, precision=HIGHEST)[:, None]
        y += inputs * self.skip[...][None, None, :, None]
        return self._leave(y, gate), Carried(recent[:, 1:], states)

    def _project(self, x: Float[Array, "b q h"]) -> list[Array]:
        """Return gates, what is convolved (x, B, C), and steps before softplus."""
        ends = (self.inner, 2 * self.inner + 2 * self.states)
        return jnp.split(self.project_in(x), ends, axis=-1)

    def _convolve(self, shifted: list[Float[Array, "b q e"]]) -> Float[Array, "b q e"]:
        kernel = self.kernel[...][:, None, None, :]
        parts = [x.astype(jnp.float32) * kernel[tap] for tap, x in enumerate(shifted)]
        return jax.nn.silu(sum(parts, self.bias[...][None, None, :]))

    def _signals(
        self,
        convolved: Float[Array, "b q e"],
        step: Float[Array, "b q a"],
        heads: slice,
        is_valid: Bool[Array, "b q"],
    ) -> tuple[Float[Array, "b q k p"], Signals]:
        """Return the inputs of some heads, and what their states take of them."""
        ends = (self.inner, self.inner + self.states)
        x, entering, leaving = jnp.split(convolved, ends, axis=-1)
        # b q (a p) -> b q a p
        x = x.reshape(*x.shape[:2], self.heads, -1)[:, :, heads]
        wide = step.astype(jnp.float32) + self.step_bias[...][None, None, :]
        steps = jax.nn.softplus(wide)[:, :, heads]
        # Outside the clip time stands still: nothing decays, nothing is written.
        steps = jnp.where(is_valid[:, :, None], steps, 0)
        log_decay = -jnp.exp(self.log_rate[...])[None, None, heads] * steps
        return x, Signals(steps[..., None] * x, log_decay, entering, leaving)

    def _leave(self, y: Float[Array, "b q a p"], gate: Float[Array, "b q i"]) -> Array:
        gated = y.reshape(gate.shape) * jax.nn.silu(gate.astype(jnp.float32))
        return self.project_out(self.norm(gated).astype(gate.dtype))


def read_states(signals: Signals) -> Float[Array, "b t a p"]:
    """Return s_t C_t for every frame, in chunks (2405.21060 section 6, listing 1)."""
    num_frames = signals.log_decay.shape[1]
    written, log_decay, entering, leaving = map(in_chunks, signals)
    # b m l a: the logarithm of the decay since the beginning of the chunk
    since = jnp.cumsum(log_decay, axis=2)
    places = jnp.arange(since.shape[2])
    is_before = (places[:, None] >= places[None, :])[None, None, :, :, None]
    # Never exp of a positive number: later frames are taken out before.
    weights = jnp.exp(jnp.where(is_before, since[:, :, :, None] - since[:, :, None], -jnp.inf))
    pairs = jnp.einsum("bmin,bmjn->bmij", leaving, entering, precision=HIGHEST)
    y = jnp.einsum("bmija,bmjap->bmiap", pairs[..., None] * weights, written, precision=HIGHEST)
    if since.shape[1] > 1:
        left = written * jnp.exp(since[:, :, -1:] - since)[..., None]
        states = jnp.einsum("bmjap,bmjn->bmapn", left, entering, precision=HIGHEST)
        arriving = _pass_on(states, since[:, :, -1])
        read = jnp.einsum("bmin,bmapn->bmiap", leaving, arriving, precision=HIGHEST)
        y += read * jnp.exp(since)[..., None]
    return out_of_chunks(y, num_frames)


def _pass_on(
    states: Float[Array, "b m a p n"], decays: Float[Array, "b m a"]
) -> Float[Array, "b m a p n"]:
    """Return the state with which each chunk begins, from what each chunk alone leaves behind."""
    total = jnp.cumsum(decays, axis=1)
    before = jnp.pad(total, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    chunks = jnp.arange(total.shape[1])
    is_before = (chunks[:, None] > chunks[None, :])[None, :, :, None]
    waited = jnp.exp(jnp.where(is_before, before[:, :, None] - total[:, None], -jnp.inf))
    return jnp.einsum("bija,bjapn->biapn", waited, states, precision=HIGHEST)
