"""The streams of a frame: its K code levels and, in front of them, a plan that the decoder predicts too.

In: codes "b t k" and semantic units "b t". Out: streams "b t j", the plan first (j = K, or K + 1 with a plan), each of
its own size. The plan is Moshi's inner monologue (2410.00037 section 3.4.4) and RALL-E's chain of thought (2404.03204):
told only the text, or nothing, the decoder first says which unit comes, then the codes given it. Where the plan stands
among the codes is a matter of the pattern (`patterns.py`).

The plan is latent: training and scores read it off the data (`Cond.content`), samples draw it together with the codes
and never look at `Cond.content`. Frames that a prompt knows have known codes only; their units are drawn by the model,
each given the codes before it. The data's own plan is one of those that lead to its codes, so -log p(plan, codes) is an
upper bound on -log p(codes).

Differences: the units are those of a recogniser's codebook; Moshi predicts text, RALL-E pitch and duration of phones.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import Config, ConfigError
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.nets.linear import CodeEmbedding, Embedding
from genlab.tokens import TokenSpec


class PlanStream(Config):
    """The semantic units as a stream that is predicted before the codes.

    A code sees the plan at least up to `lead_frames` after its own frame. `num_units` is the size of the plan's
    vocabulary; the data set may have fewer (the shipped recogniser has 256). The loss is that of the codes plus
    `weight` times that of the plan.
    """

    num_units: int = pydantic.Field(default=256, gt=0)
    lead_frames: int = pydantic.Field(default=0, ge=0)
    weight: float = pydantic.Field(default=1.0, ge=0)


class Streams(Config):
    """What a frame holds. Index `sizes[j]` of stream j stands for what is absent, as in `CodeEmbedding`."""

    spec: TokenSpec
    plan: PlanStream | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many entries each stream has; unit 0 is a frame without one."""
        codes = (self.spec.entries,) * self.spec.codebooks
        return codes if self.plan is None else (self.plan.num_units + 1, *codes)

    @property
    def count(self) -> int:
        """The number of streams."""
        return len(self.sizes)

    @property
    def validity(self) -> Literal["exact", "upper bound"]:
        """What -log p of all streams is, of the codes."""
        return "exact" if self.plan is None else "upper bound"

    def check(self, condition: ConditionConfig, vocab: CondVocab) -> None:
        """Refuse a plan that is told already or that the data set cannot give.

        Raises:
            ConfigError: if the condition is the plan, or the units of the data set are none or too many.
        """
        if self.plan is None:
            return
        if condition.content == "semantic":
            raise ConfigError(
                "decoder.plan: condition.content='semantic' already tells the units that the plan predicts; "
                "use condition.content='text' or 'none', or decoder.plan=null"
            )
        units = vocab.num_units
        if not 0 < units <= self.plan.num_units:
            fix = f"set it to {units}" if units else "encode it with a recogniser, or leave the plan out"
            raise ConfigError(
                f"decoder.plan.num_units={self.plan.num_units}: the data set has {units} semantic units; {fix}"
            )

    def sizes_at(self, levels: Int[np.ndarray, "s j"]) -> Int[np.ndarray, "s j"]:
        """Return the size of the stream of every prediction, which is also its index for what is absent."""
        return np.array(self.sizes, np.int32)[levels]

    def is_code(self, levels: Int[np.ndarray, "s j"]) -> Bool[np.ndarray, "s j"]:
        """Return which predictions are codes: all, but for the plan."""
        return levels >= self.count - self.spec.codebooks

    def join(self, plan: Shaped[Array, "b t"], codes: Shaped[Array, "b t k"]) -> Shaped[Array, "b t j"]:
        """Return all streams of each frame."""
        return codes if self.plan is None else jnp.concatenate([plan[:, :, None], codes], axis=2)

    def codes_of(self, streams: Shaped[Array, "b t j"]) -> Shaped[Array, "b t k"]:
        """Return the codes of each frame."""
        return streams if self.plan is None else streams[:, :, 1:]

    def weigh(self, nats: Float[Array, "b s j"], levels: Int[np.ndarray, "s j"]) -> Float[Array, "b s j"]:
        """Return the terms of the loss."""
        return nats if self.plan is None else jnp.where(self.is_code(levels)[None], nats, self.plan.weight * nats)

    def name(self, nats: Float[Array, "b j"]) -> dict[str, Float[Array, "b"]]:
        """Return the mean nats of each stream as metrics."""
        names = [f"nats_level_{level}" for level in range(self.spec.codebooks)]
        return dict(zip(["nats_plan", *names][-self.count :], nats.T, strict=True))

    def add_units(self, embed: CodeEmbedding, key: Key[Array, ""]) -> None:
        """Give the plan its own vectors, after those of the codes."""
        if self.plan is not None:
            codes = embed.tables.table[...]
            units = Embedding(self.plan.num_units + 2, codes.shape[1], key=key).table[...]
            embed.tables.table = nnx.Param(jnp.concatenate([codes, units]))

    def embed(
        self, table: Float[Array, "r h"], codes: Int[Array, "b s j"], levels: Int[Array, "s j"]
    ) -> Float[Array, "b s h"]:
        """Return the summed vectors of predictions whose levels are given, out of the stacked tables."""
        if self.plan is None:
            first_rows = (self.spec.entries + 1) * levels
        else:
            units = table.shape[0] - (self.plan.num_units + 2)
            first_rows = jnp.where(levels == 0, units, (self.spec.entries + 1) * (levels - 1))
        return jnp.take(table, codes + first_rows[None], axis=0, mode="clip").sum(axis=2)
