"""The task of a decoder: what it reads and predicts, its conditions, what it runs on, and how long
a clip is.

All arms of a comparison share one, so it is one argument wherever a decoder is built or its cost is
counted.
"""

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array, Float, Key

from genlab.config import Config
from genlab.config.open import Hashed
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import TokenSpec


class Task(NamedTuple):
    """Everything a decoder's config needs to build it and to count what it costs.

    A decoder takes clips of any length; `num_frames` and `num_symbols` are those of a training
    example, which the FLOP formulas count. `code_vectors` are the codec's normalised entries, where
    there is a codec: models of codes may start from them.
    """

    spec: TokenSpec
    vocab: CondVocab
    backbone: BackboneConfig
    condition: ConditionConfig
    num_frames: int = 0
    num_symbols: int = 0
    code_vectors: Float[Array, "k v d"] | None = None

    @property
    def width(self) -> int:
        """Channels of the backbone."""
        return self.backbone.width

    @property
    def backbone_inputs(self) -> dict[str, Any]:
        """What the FLOP formulas of the backbone depend on."""
        condition = self.condition
        return {
            "is_modulated": condition.is_modulating,
            "text_route": condition.text_route,
            "num_symbols": self.num_symbols,
        }

    @property
    def condition_flops(self) -> float:
        """FLOPs of encoding one example's conditions."""
        positions = {"semantic": self.num_frames, "text": self.num_symbols, "none": 0}
        return float(
            self.condition.layers * positions[self.condition.content] * 6 * self.backbone.width**2
        )


@runtime_checkable
class DecoderConfig(Hashed, Protocol):
    """The config of a decoder: what an arm of a comparison names.

    It may also have `train_flops(task)` and `sample_cost(sampler, task)`, formulas that say what it
    costs; without them cost.py walks the traced program.
    """

    sampler: ClassVar[type[Config]]
    """The class of the configs that say how it samples."""

    @property
    def loss_unit(self) -> str:
        """The unit of the loss, for example `nats_per_code`: it names the curve in TensorBoard."""
        ...

    def build(self, task: Task, *, key: Key[Array, ""]) -> nnx.Module:
        """Return the decoder with fresh weights, a module that meets `Decoder` (tokens.py)."""
        ...


@runtime_checkable
class SamplerConfig(Hashed, Protocol):
    """The config of how a decoder samples. It may have
    `guidance`; one that has none is not guided.
    """


def guidance_of(sampler: SamplerConfig) -> float:
    """Return how strongly conditions are stressed; 1 is not at all."""
    return float(getattr(sampler, "guidance", 1.0))
