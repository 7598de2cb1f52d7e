"""The streams of a frame: its K code levels, in front of them a plan, behind them what the other
speaker says.

In: codes "b t k", semantic units "b t", the other speaker's codes "b t k". Out: streams "b t j",
the plan first, the other speaker last (j = K, K + 1 with a plan, and K more with another speaker),
each of its own size. How the streams are spread over steps is a matter of the pattern
(`patterns.py`).

The plan is Moshi's inner monologue (2410.00037 section 3.4.4) and RALL-E's chain of thought
(2404.03204): given only the text, or nothing, the decoder first predicts the unit, then the codes
given it. It is latent: training and scores read it off the data (`Cond.content`), samples draw it
together with the codes and never look at `Cond.content`. Frames that a prompt knows have known
codes only; their units are drawn by the model, each given the codes before it. The data's own plan
is one of those that lead to its codes, so -log p(plan, codes) is an upper bound on -log p(codes).

The other speaker's stream is Moshi's (section 3.4.3, "multistream modeling"): trained to be
predicted like the own codes, but heard and never drawn when sampling (`Cond.other`). Own codes see
of it what was said in the steps before, as in a full-duplex call. A score is that of the own codes
given what was heard before each.

Differences: the units are those of a recogniser's codebook; Moshi predicts text, RALL-E pitch and
duration of phones.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import Config, ConfigError, GenlabError
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.machine.sharding import CHANNELS
from genlab.nets.linear import CodeEmbedding, Embedding
from genlab.nets.param import matrix
from genlab.tokens import AnyArray, TokenSpec


class PlanStream(Config):
    """The semantic units as a stream that is predicted before the codes."""

    num_units: int = pydantic.Field(default=256, gt=0)
    """Size of the plan's vocabulary; the data set may have fewer (the shipped recogniser has 256).
    """
    lead_frames: int = pydantic.Field(default=0, ge=0, le=10_000)
    """A code sees the plan at least up to this many frames after its own."""
    weight: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """The loss is that of the codes plus this times that of the plan."""


class OtherStream(Config):
    """The codes of the other speaker.

    Needs conversations: `data.corpus` of kind "dialogue", or a folder with `two_sided`.
    """

    weight: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """The loss is that of the own codes plus this times that of the other's."""


class Streams(Config):
    """What a frame holds. Index `sizes[j]` of stream j means absent, as in `CodeEmbedding`."""

    spec: TokenSpec
    """The token space of one side."""
    plan: PlanStream | None
    """The plan, if it is predicted."""
    other: OtherStream | None = None
    """The other speaker, if it is predicted."""

    @property
    def codebooks(self) -> int:
        """The code levels of all speakers."""
        return self.spec.codebooks * (1 if self.other is None else 2)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many entries each stream has; unit 0 is a frame without one."""
        codes = (self.spec.entries,) * self.codebooks
        return codes if self.plan is None else (self.plan.num_units + 1, *codes)

    @property
    def count(self) -> int:
        """The number of streams."""
        return len(self.sizes)

    @property
    def drawn(self) -> int:
        """The number of streams that sampling draws: the plan, then the own codes."""
        return self.count - self.codebooks + self.spec.codebooks

    @property
    def validity(self) -> Literal["exact", "upper bound"]:
        """Whether -log p of the drawn streams is exact for the codes or an upper bound."""
        return "exact" if self.plan is None else "upper bound"

    def check(self, condition: ConditionConfig, vocab: CondVocab) -> None:
        """Refuse a plan that the conditions already contain, and streams that the data set does not
        have.

        Raises:
            ConfigError: if the condition is the plan, the units of the data set are none or too
                many, or its clips have one side only.
        """
        if self.other is not None and not vocab.is_two_sided:
            raise ConfigError(
                "decoder.other: the clips of the data set have one side only; use "
                "data.corpus.kind='dialogue' or a folder with two_sided=true, or leave the other "
                "speaker out"
            )
        if self.plan is None:
            return
        if condition.content == "semantic":
            raise ConfigError(
                "decoder.plan: condition.content='semantic' already gives the units that the plan "
                "predicts; use condition.content='text' or 'none', or decoder.plan=null"
            )
        # Fewer units than the plan has room for are fine, so that one config serves several data
        # sets.
        units = vocab.num_units
        if not 0 < units <= self.plan.num_units:
            fix = (
                f"set it to {units}"
                if units
                else "encode it with a recogniser, or leave the plan out"
            )
            raise ConfigError(
                f"decoder.plan.num_units={self.plan.num_units}: the data set has {units} semantic "
                f"units; {fix}"
            )

    def sizes_at(self, levels: Int[np.ndarray, "s j"]) -> Int[np.ndarray, "s j"]:
        """Return the size of the stream of every prediction, which is also its index for what is
        absent.
        """
        return np.array(self.sizes, np.int32)[levels]

    def is_code(self, levels: Int[np.ndarray, "s j"]) -> Bool[np.ndarray, "s j"]:
        """Return which predictions are own codes: neither the plan nor the other speaker's."""
        return (levels >= self.drawn - self.spec.codebooks) & (levels < self.drawn)

    def join(
        self,
        plan: Shaped[AnyArray, "b t"],
        codes: Shaped[Array, "b t k"],
        other: Shaped[AnyArray, "b t k"] | None,
    ) -> Shaped[Array, "b t j"]:
        """Return all streams of each frame.

        Raises:
            GenlabError: if the other speaker's codes are wanted and absent.
        """
        parts: list[AnyArray] = [codes] if self.plan is None else [plan[:, :, None], codes]
        if self.other is not None:
            if other is None:
                raise GenlabError(
                    "Cond.other: absent, but the decoder hears the other speaker; give it their "
                    "codes"
                )
            parts.append(other)
        return jnp.concatenate(parts, axis=2)

    def codes_of(self, streams: Shaped[Array, "b t j"]) -> Shaped[Array, "b t k"]:
        """Return the own codes of each frame."""
        return streams[:, :, self.drawn - self.spec.codebooks : self.drawn]

    def weigh(
        self, nats: Float[Array, "b s j"], levels: Int[np.ndarray, "s j"]
    ) -> Float[Array, "b s j"]:
        """Return the terms of the loss."""
        if self.plan is not None:
            nats = jnp.where((levels == 0)[None], self.plan.weight * nats, nats)
        if self.other is not None:
            nats = jnp.where((levels >= self.drawn)[None], self.other.weight * nats, nats)
        return nats

    def drawn_nats(
        self, nats: Float[Array, "b s j"], levels: Int[np.ndarray, "s j"]
    ) -> Float[Array, "b"]:
        """Return -log p of what sampling draws: the nats of all streams but those of the other
        speaker.
        """
        return jnp.where((levels < self.drawn)[None], nats, 0).sum(axis=(1, 2))

    def name(self, nats: Float[Array, "b j"]) -> dict[str, Float[Array, "b"]]:
        """Return the mean nats of each stream as metrics, and of the other speaker's codes
        together.
        """
        names = [f"nats_level_{level}" for level in range(self.spec.codebooks)]
        named = dict(
            zip(["nats_plan", *names][-self.drawn :], nats[:, : self.drawn].T, strict=True)
        )
        return (
            named
            if self.other is None
            else named | {"nats_other": nats[:, self.drawn :].mean(axis=1)}
        )

    def vectors(self, code_vectors: Float[Array, "k v d"] | None) -> Float[Array, "l v d"] | None:
        """Return the codec's entries for the code levels of all speakers."""
        if code_vectors is None or self.other is None:
            return code_vectors
        return jnp.concatenate([code_vectors, code_vectors])

    def add_units(self, embed: CodeEmbedding, key: Key[Array, ""]) -> None:
        """Give the plan its own vectors, after those of the codes."""
        if self.plan is not None:
            codes = embed.tables.table[...]
            units = Embedding(self.plan.num_units + 2, codes.shape[1], key=key).table[...]
            embed.tables.table = matrix(jnp.concatenate([codes, units]), CHANNELS)

    def embed(
        self, table: Float[Array, "r h"], codes: Int[Array, "b s j"], levels: Int[Array, "s j"]
    ) -> Float[Array, "b s h"]:
        """Return the summed vectors of predictions whose levels are given, out of the stacked
        tables.
        """
        if self.plan is None:
            first_rows = (self.spec.entries + 1) * levels
        else:
            units = table.shape[0] - (self.plan.num_units + 2)
            first_rows = jnp.where(levels == 0, units, (self.spec.entries + 1) * (levels - 1))
        return jnp.take(table, codes + first_rows[None], axis=0, mode="clip").sum(axis=2)
