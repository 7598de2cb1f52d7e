"""The shared token space: what a codec emits and every decoder reads.

A codec turns a waveform into *latents* (continuous) and *codes* (the residual vector quantisation
of those latents), so both views share the frame axis. Decoders read one view, and `sample` returns
the same type.

Axis letters, used in every signature of genlab:
    b batch   s audio samples   t frames   k codebooks   v entries per codebook
    d latent channels   h model width   n text symbols   c side channels
Time is the second axis and channels come last: waves "b s", codes "b t k", latents "b t d", logits
"b t k v".
"""

from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jax.tree_util import GetAttrKey
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import Config, GenlabError

AnyArray: TypeAlias = Array | np.ndarray  # own data need not be on a device yet


class TokenSpec(Config):
    """The facts about a token space that decoders, budgets and reports need."""

    sample_rate_hz: int = pydantic.Field(gt=0, lt=2**31)
    """Sample rate of waves, in Hz."""
    hop_samples: int = pydantic.Field(gt=0, lt=2**31)
    """Samples per frame."""
    codebooks: int = pydantic.Field(ge=0, le=256)
    """Codes per frame, coarse to fine."""
    entries: int = pydantic.Field(ge=0, lt=2**31)
    """Entries of each codebook."""
    latent_channels: int = pydantic.Field(ge=0, le=65_536)
    """Channels of a frame's latent."""
    causal: bool = False
    """Whether a frame depends on no later sample, so that decoding can stream."""
    side_channels: int = pydantic.Field(default=0, ge=0, le=65_536)
    """Numbers per utterance that the codec's decoder reads in addition to the frames."""

    @property
    def frame_hz(self) -> float:
        """Frames per second."""
        return self.sample_rate_hz / self.hop_samples

    @property
    def bitrate_bps(self) -> float:
        """Bits per second of the codes when every entry is equally likely."""
        return self.frame_hz * self.codebooks * (self.entries - 1).bit_length()


class Tokens(NamedTuple):
    """A batch in the token space; a view may be absent. `num_frames` counts the leading valid
    frames of each.

    `side` is one code per utterance, beside the time stream: absent unless the codec has
    `side_channels`.
    """

    codes: Int[Array, "b t k"] | None
    latents: Float[Array, "b t d"] | None
    num_frames: Int[Array, "b"]
    side: Float[Array, "b c"] | None = None

    @property
    def is_valid(self) -> Bool[Array, "b t"]:
        """True on frames that hold audio, False on padding."""
        view = self.codes if self.codes is not None else self.latents
        assert view is not None, "make_tokens refuses tokens without a view"
        return jnp.arange(view.shape[1])[None, :] < self.num_frames[:, None]


def make_tokens(
    codes: Int[AnyArray, "b t k"] | None = None,
    latents: Float[AnyArray, "b t d"] | None = None,
    num_frames: Int[AnyArray, "b"] | None = None,
) -> Tokens:
    """Check ranks and shared axes, and return `Tokens` of JAX arrays; without `num_frames` every
    frame is valid.

    Raises:
        ValueError: if both views are missing or they disagree on batch or frames.
    """
    views = [view for view in (codes, latents) if view is not None]
    if not views:
        raise ValueError("Tokens: give codes, latents or both")
    if any(view.ndim != 3 for view in views) or len({view.shape[:2] for view in views}) != 1:
        raise ValueError(
            f"Tokens: codes and latents must share 'b t', got {[view.shape for view in views]}"
        )
    if num_frames is None:
        num_frames = jnp.full((views[0].shape[0],), views[0].shape[1], jnp.int32)
    return Tokens(
        None if codes is None else jnp.asarray(codes),
        None if latents is None else jnp.asarray(latents),
        jnp.asarray(num_frames),
    )


def read_codes(tokens: Tokens) -> Int[Array, "b t k"]:
    """Return the codes as int32.

    Raises:
        GenlabError: if the tokens hold latents only.
    """
    if tokens.codes is None:
        raise GenlabError(
            "Tokens.codes: absent, but this decoder reads codes; give it tokens with codes"
        )
    return jnp.asarray(tokens.codes, jnp.int32)


def read_latents(tokens: Tokens) -> Float[Array, "b t d"]:
    """Return the latents as float32.

    Raises:
        GenlabError: if the tokens hold codes only.
    """
    if tokens.latents is None:
        raise GenlabError(
            "Tokens.latents: absent, but this decoder reads latents; give it tokens with latents"
        )
    return jnp.asarray(tokens.latents, jnp.float32)


class Cond(NamedTuple):
    """The conditions of each clip. `is_dropped` replaces all of them by the learned "no condition".

    `content` holds one frame-aligned unit per frame (semantic tokens); `text` holds symbols padded
    with 0. A model uses the one its `ConditionConfig` names and ignores the other. `other` are the
    codes of the other side of a conversation, absent where there is none; only a decoder with a
    stream for them hears them (`decoders/steps/streams.py`). `parts` are the values of further
    conditions by name, "b ..." or "b t ..." (decoders/parts.py). `speaker` may also be a mixture:
    one weight per speaker, "b s". `absent` says by name which single conditions are dropped.
    """

    speaker: Shaped[AnyArray, "b *s"]
    text: Int[AnyArray, "b n"]
    content: Int[AnyArray, "b t"]
    is_dropped: Bool[AnyArray, "b"]
    other: Int[AnyArray, "b t k"] | None = None
    parts: dict[str, Shaped[AnyArray, "b ..."]] | None = None
    absent: dict[str, Bool[AnyArray, "b"]] | None = None

    @classmethod
    def none(cls, b: int, t: int) -> "Cond":
        """Return the conditions of `b` clips of which nothing is told; `sample` fills `t` frames of
        each.
        """
        speaker, text, content = (jnp.zeros(shape, jnp.int32) for shape in ((b,), (b, 1), (b, t)))
        return cls(speaker, text, content, jnp.ones(b, bool))


class Prompt(NamedTuple):
    """Known frames that `sample` must keep: a prefix for continuation, any pattern of frames for
    infilling.
    """

    tokens: Tokens
    is_known: Bool[Array, "b t"]


class LossOut(NamedTuple):
    """A loss per example, its weight (the number of supervised targets), and metrics to log. The
    mean that training minimises is sum(per_example * weight) / sum(weight), so padding and batch
    mates cannot move an example's loss.
    """

    per_example: Float[Array, "b"]
    weight: Float[Array, "b"]
    metrics: dict[str, Float[Array, "b"]]

    def mean(self) -> Float[Array, ""]:
        """Return what training minimises: the mean over supervised targets, 0 if there is none."""
        total = jnp.sum(self.weight)
        return jnp.sum(self.per_example * self.weight) / jnp.where(total > 0, total, 1)


class SampleOut(NamedTuple):
    """Sampled tokens and the number of sequential network calls that made them (guidance counts as
    two). After the last frame of a loop comes its first one.
    """

    tokens: Tokens
    num_network_calls: int
    is_loop: bool = False


class SampleCost(NamedTuple):
    """What drawing one clip costs: sequential network calls (guidance counts as two) and FLOPs of
    matrix products.
    """

    network_calls: int
    flops: float


class ScoreOut(NamedTuple):
    """Bits of each example's codes under the model, and what the number is.

    `std_error` is the Monte-Carlo error of `bits`, one standard deviation; 0 where nothing was
    drawn. "exact" is -log2 p, "upper bound" lies above it in expectation, "biased" may lie on
    either side. It is a fact of the family, so `jax.jit` treats it as static: a `ScoreOut` can
    leave a compiled function.
    """

    bits: Float[Array, "b"]
    std_error: Float[Array, "b"]
    validity: Literal["exact", "upper bound", "biased"]


def _score_from(validity: Any, leaves: Any) -> ScoreOut:
    bits, std_error = leaves
    return ScoreOut(bits, std_error, validity)


jax.tree_util.register_pytree_with_keys(
    ScoreOut,
    lambda out: (
        ((GetAttrKey("bits"), out.bits), (GetAttrKey("std_error"), out.std_error)),
        out.validity,
    ),
    _score_from,
)


class Decoder(Protocol):
    """What every family offers.

    Its config builds it, counts its FLOPs, and names the unit of its loss (`loss_unit`), which
    TensorBoard needs. A family whose bound has a free choice lists the values in `bound_widths`;
    its `score` takes one more argument, `width` (decoders/noise/code_given_latent.py). A family
    that has no bits sets `has_bits = False`, and its `score` says why.
    """

    reads: ClassVar[Literal["codes", "latents"]]

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the training loss of each example."""
        ...

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: Any,  # of the class that belongs to the family
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw tokens for each condition; the frame axis is that of `cond.content`."""
        ...

    def score(
        self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""], num_draws: int = 1
    ) -> ScoreOut:
        """Return the bits of each example's codes; a bound averages `num_draws` draws per example
        from `key`.

        Raises:
            GenlabError: if the family puts no number of bits on codes.
        """
        ...
