"""Hiding and revealing: what the families that hide codes share, in training, when scoring and when
sampling.

In: which positions may be hidden and how many, or what was drawn for the hidden ones. Out:
positions to hide, positions to reveal, and a bound on the bits of what was hidden. Positions are
frames, or all codes of a clip in one row.

The likelihood is that of a decoder that reveals one position at a time in an order drawn uniformly
(1310.1757; eq. 4 of 2110.02037): with n of N positions hidden, n uniform, N/n times the nats of the
hidden ones estimates, without bias, the mean over orders of -log p, which lies above -log of the
mean over orders of p. The loss of absorbing diffusion in continuous time is the same number for
every schedule (2406.07524).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import Config
from genlab.decoders.guidance import GuidedSampler
from genlab.decoders.noise.schedules import CosineHiding, Hiding
from genlab.decoders.steps.logits import cross_entropy, cut, draw, draw_entry
from genlab.tokens import ScoreOut

Order = Literal["confidence", "random", "ancestral"]


class Spans(Config):
    """Positions are hidden and revealed in runs of `frames`, counted from the start of the clip
    (MAGNeT, 2401.04577).

    A run is as sure as its surest hidden position. As in MAGNeT's code, and unlike its section 3.1,
    runs do not overlap.
    """

    frames: int = pydantic.Field(default=1, gt=0)
    """Positions of a run."""

    def group(self, positions: Shaped[Array, "b n"], fill: float | bool) -> Shaped[Array, "b m l"]:
        """Return the positions of each run, the last one filled up."""
        b, n = positions.shape
        padded = jnp.pad(positions, ((0, 0), (0, -n % self.frames)), constant_values=fill)
        return padded.reshape(b, -1, self.frames)

    def spread(self, spans: Bool[Array, "b m"], num_positions: int) -> Bool[Array, "b n"]:
        """Return the value of each position's run."""
        return jnp.repeat(spans, self.frames, axis=1)[:, :num_positions]


SINGLE = Spans()


class RevealSampler(GuidedSampler):
    """How codes of all levels are drawn, all in each network call."""

    steps: int = pydantic.Field(default=32, gt=0, le=10_000)
    """Network calls, of a clip or of a block."""
    hiding: Hiding = CosineHiding()
    """Spaces the noise levels of the steps."""
    order: Order | Literal["joint"] = "ancestral"
    """As in the masked family. "joint" is the ancestral order in one draw per code and step: any
    code, or that it stays hidden, as in the code of MDLM (2406.07524) and SEDD (2310.16834). The
    law is the same, but not in low precision: in n steps each code is one of n times less likely
    outcomes.
    """
    order_temperature: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """Scale of the Gumbel noise on confidence, as in the masked family."""
    temperature: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """Divides the logits; 0 takes the likeliest code."""
    is_annealed: bool = False
    """Lower the temperature step by step, from `temperature` in the first of n steps to an n-th of
    it in the last.
    """
    top_k: int = pydantic.Field(default=0, ge=0)
    """Draw among this many likeliest entries; 0 keeps all."""
    top_p: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest entries that hold this probability together; 1 keeps all."""
    noise_bits: int | None = pydantic.Field(default=None, ge=4, le=24)
    """Random bits of the uniforms behind the Gumbel noise of all draws of codes (`coarse_gumbel`);
    None is jax's 23. Fewer act like a lower temperature (2409.02908).
    """

    @pydantic.model_validator(mode="after")
    def _check_draws(self) -> "RevealSampler":
        if self.temperature == 0 and (self.order == "joint" or self.noise_bits is not None):
            raise ValueError(
                f"temperature={self.temperature:g}: takes the likeliest code, so there is no draw "
                "for order='joint' or noise_bits; raise it, or use order='ancestral' and "
                "noise_bits=null"
            )
        return self

    def draw(
        self, key: Key[Array, ""], logits: Float[Array, "b t k v"], previous: Float[Array, ""]
    ) -> Int[Array, "b t k"]:
        """Draw codes in the step that follows `previous`."""
        heated = logits / (1 - previous) if self.is_annealed else logits
        cuts = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return draw(key, heated, **cuts, noise_bits=self.noise_bits)

    def draw_or_hide(
        self,
        key: Key[Array, ""],
        logits: Float[Array, "b t k v"],
        progress: Float[Array, ""],
        previous: Float[Array, ""],
    ) -> Int[Array, "b t k"]:
        """Draw, for codes hidden at `previous`, what they are at `progress`: a code, or v for one
        that stays hidden.
        """
        heated = logits / (1 - previous) if self.is_annealed else logits
        codes = jax.nn.log_softmax(cut(heated, self.temperature, self.top_k, self.top_p))
        hidden = self.hiding.hidden_share(progress) / self.hiding.hidden_share(previous)
        stays = jnp.broadcast_to(jnp.log(hidden), (*logits.shape[:-1], 1))
        return draw_entry(
            key, jnp.concatenate([codes + jnp.log1p(-hidden), stays], axis=-1), self.noise_bits
        )

    def reveal(
        self,
        key: Key[Array, ""],
        codes: Int[Array, "b t k"],
        is_free: Bool[Array, "b t k"],
        logits: Float[Array, "b t k v"],
        progress: Float[Array, ""],
        previous: Float[Array, ""],
    ) -> Int[Array, "b t k"]:
        """Draw the codes that are absent and reveal some; `is_free` marks those that were absent at
        the start.
        """
        is_hidden = is_free & (codes == logits.shape[-1])
        if self.order == "joint":
            return jnp.where(is_hidden, self.draw_or_hide(key, logits, progress, previous), codes)
        code_key, order_key = jax.random.split(key)
        drawn = self.draw(code_key, logits, previous)
        rows = (len(codes), -1)
        # b t k -> b (t k): codes of all levels compete.
        is_revealed = draw_revealed(
            order_key,
            cross_entropy(logits, drawn).reshape(rows),
            is_hidden.reshape(rows),
            is_free.sum(axis=(1, 2)),
            progress,
            previous,
            hiding=self.hiding,
            order=self.order,
            order_temperature=self.order_temperature,
        )
        return jnp.where(is_revealed.reshape(codes.shape), drawn, codes)


def rank(values: Float[Array, "b n"]) -> Int[Array, "b n"]:
    """Return the place of each value in ascending order."""
    return jnp.argsort(jnp.argsort(values, axis=1), axis=1)


def draw_hidden(
    key: Key[Array, ""],
    may_hide: Bool[Array, "b n"],
    num_hidden: Int[Array, "b"] | Float[Array, "b"],
) -> Bool[Array, "b n"]:
    """Hide that many random positions among those that may be hidden."""
    place = rank(jnp.where(may_hide, jax.random.uniform(key, may_hide.shape), jnp.inf))
    return may_hide & (place < num_hidden[:, None])


def draw_revealed(
    key: Key[Array, ""],
    nats: Float[Array, "b n"],
    is_unknown: Bool[Array, "b n"],
    num_unknown: Int[Array, "b"],
    progress: Float[Array, ""],
    previous: Float[Array, ""],
    *,
    hiding: Hiding,
    order: Order,
    order_temperature: float,
    spans: Spans = SINGLE,
) -> Bool[Array, "b n"]:
    """Choose the positions to reveal in the step from `previous` to `progress`.

    `nats` are those of the code drawn for each position, `is_unknown` marks the positions still
    hidden and `num_unknown` counts the runs of positions that were hidden before the first step. By
    confidence or at random, the number that stays hidden is the schedule's share of `num_unknown`;
    in ancestral order each run is revealed on its own with the probability that gives this share on
    average.
    """
    is_waiting = spans.group(is_unknown, False).any(axis=2)
    share = hiding.hidden_share(progress)
    if order == "ancestral":
        is_kept = jax.random.uniform(key, is_waiting.shape) < share / hiding.hidden_share(previous)
        return is_unknown & ~spans.spread(is_kept, nats.shape[1])
    if order == "confidence":
        confidence = order_temperature * (1 - progress) * jax.random.gumbel(key, is_waiting.shape)
        confidence -= spans.group(jnp.where(is_unknown, nats, jnp.inf), jnp.inf).min(axis=2)
    else:
        confidence = jax.random.uniform(key, is_waiting.shape)
    num_hidden = jnp.floor(share * num_unknown).astype(jnp.int32)
    is_revealed = rank(jnp.where(is_waiting, confidence, jnp.inf)) >= num_hidden[:, None]
    return is_unknown & spans.spread(is_revealed, nats.shape[1])


def draw_places(key: Key[Array, ""], num_draws: int, num_examples: int) -> Float[Array, "r b"]:
    """Return draws in [0, 1) for each example, one from each of `num_draws` equal strata."""
    strata = jnp.arange(num_draws)[:, None]
    return (strata + jax.random.uniform(key, (num_draws, num_examples))) / num_draws


def count_hidden(place: Float[Array, "b"], num_positions: Int[Array, "b"]) -> Int[Array, "b"]:
    """Turn a uniform draw into a number from 1 to `num_positions`, each equally often."""
    # Rounding may give a draw of exactly 1, and padding an example without positions.
    return jnp.clip(
        1 + jnp.floor(place * num_positions).astype(jnp.int32), 1, jnp.maximum(num_positions, 1)
    )


def bound_from_draws(nats: Float[Array, "r p b"]) -> ScoreOut:
    """Return the bits of each example from r stratified draws of p parts, whose errors are
    independent.

    The error takes the draws for independent, so it errs on the large side; one draw gives inf.
    """
    num_draws = nats.shape[0]
    bits = nats.mean(axis=0).sum(axis=0) / jnp.log(2.0)
    if num_draws == 1:
        return ScoreOut(bits, jnp.full_like(bits, jnp.inf), "upper bound")
    variance = nats.var(axis=0, ddof=1).sum(axis=0) / num_draws
    return ScoreOut(bits, jnp.sqrt(variance) / jnp.log(2.0), "upper bound")
