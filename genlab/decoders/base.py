"""The decoder contract: three verbs, unreduced losses, tokens in and tokens out. No logic.

Every family implements `Decoder`. `loss` serves training and evaluation alike; `sample` returns Tokens and never audio,
because the codec decodes in one place and only the decoder may differ between the arms of a comparison. `score` puts
families on one scale, bits of the same codes, and says how the number may be used.
"""

from typing import ClassVar, Literal, NamedTuple, Protocol

from jaxtyping import Array, Bool, Float, Int, Key

from genlab.tokens import Tokens


class Cond(NamedTuple):
    """What a decoder is told about each clip. `is_dropped` replaces all of it by the learned "no condition".

    `content` holds one frame-aligned unit per frame (semantic tokens); `text` holds symbols padded with 0. A model uses
    the one its `ConditionConfig` names and ignores the other. `other` are the codes of the other side of a
    conversation, absent where there is none; only a decoder with a stream for them hears them (`streams.py`).
    """

    speaker: Int[Array, "b"]
    text: Int[Array, "b n"]
    content: Int[Array, "b t"]
    is_dropped: Bool[Array, "b"]
    other: Int[Array, "b t k"] | None = None


class Prompt(NamedTuple):
    """Known frames that `sample` must keep: a prefix for continuation, any pattern of frames for infilling."""

    tokens: Tokens
    is_known: Bool[Array, "b t"]


class LossOut(NamedTuple):
    """A loss per example, its weight (the number of supervised targets), and metrics to log. The mean that training
    minimises is sum(per_example * weight) / sum(weight), so padding and batch mates cannot move an example's loss.
    """

    per_example: Float[Array, "b"]
    weight: Float[Array, "b"]
    metrics: dict[str, Float[Array, "b"]]


class SampleOut(NamedTuple):
    """Sampled tokens and the number of sequential network calls that made them (guidance counts as two)."""

    tokens: Tokens
    num_network_calls: int


class SampleCost(NamedTuple):
    """What drawing one clip costs: sequential network calls (guidance counts as two) and FLOPs of matrix products."""

    network_calls: int
    flops: float


class ScoreOut(NamedTuple):
    """Bits of each example's codes under the model, and what the number is.

    `std_error` is the Monte-Carlo error of `bits`, one standard deviation; 0 where nothing was drawn. "exact" is
    -log2 p, "upper bound" lies above it in expectation, "biased" may lie on either side.
    """

    bits: Float[Array, "b"]
    std_error: Float[Array, "b"]
    validity: Literal["exact", "upper bound", "biased"]


class Decoder(Protocol):
    """What every family offers.

    Its config builds it, counts its FLOPs, and names the unit of its loss (`loss_unit`), which TensorBoard needs.
    A family whose bound has a free choice lists the values in `bound_widths`; its `score` takes one more argument,
    `width` (code_given_latent.py).
    """

    reads: ClassVar[Literal["codes", "latents"]]

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the training loss of each example."""
        ...

    def sample(
        self, cond: Cond, *, num_frames: Int[Array, "b"], key: Key[Array, ""], sampler, prompt: Prompt | None = None
    ) -> SampleOut:
        """Draw tokens for each condition; the frame axis is that of `cond.content`."""
        ...

    def score(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""], num_draws: int = 1) -> ScoreOut:
        """Return the bits of each example's codes; a bound averages `num_draws` draws per example from `key`."""
        ...
