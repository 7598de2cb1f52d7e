"""The task of a decoder: what it reads and predicts, its conditions, what it runs on, and how long
a clip is.

All arms of a comparison share one, so it is one argument wherever a decoder is built or its cost is
counted.
"""

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, Shaped

from genlab.config import Config, GenlabError
from genlab.config.open import Hashed
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.inputs import Facts, check_inputs
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import AnyArray, Cond, Tokens, TokenSpec

Ranked = Shaped[AnyArray, "..."]  # its rank is checked by name
HOP_SAMPLES = 320  # of the audio that own tokens stand for: only the frames per second matter


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

    @classmethod
    def of(
        cls,
        *,
        codes: Ranked | None = None,
        latents: Ranked | None = None,
        cond: Cond | None = None,
        entries: int | None = None,
        code_vectors: Float[AnyArray, "k v d"] | None = None,
        backbone: BackboneConfig | None = None,
        condition: ConditionConfig | None = None,
        frame_hz: float = 50.0,
    ) -> "Task":
        """Return the task of own arrays, whose sizes say what it is.

        Args:
            codes: "b t k" of a training batch, or of all training data.
            latents: "b t d" of the same, normalised.
            cond: its conditions; what is 0 throughout is not told. Without it nothing is told.
            entries: per codebook; from `code_vectors` or the highest code, if absent. Give it if
                other data may hold higher codes.
            code_vectors: the codec's normalised entries, where there are any.
            backbone: what runs; the default is `BackboneConfig()`.
            condition: which conditions are told, and how; found out from `cond` if absent.
            frame_hz: frames per second: bits per second and FLOPs per second of audio need it.

        Raises:
            GenlabError: if there is neither codes nor latents, or one of them is not "b t k".
        """
        views = {
            name: view
            for name, view in (("codes", codes), ("latents", latents))
            if view is not None
        }
        if not views:
            raise GenlabError("Task.of: got neither codes nor latents; give one of them, or both")
        for name, view in views.items():
            if np.ndim(view) != 3:
                raise GenlabError(
                    f"{name}: shape {np.shape(view)}, expected three axes: batch, frames, channels"
                )
        if entries is None and code_vectors is not None:
            entries = code_vectors.shape[1]
        if entries is None:
            entries = 1 if codes is None else int(np.max(codes, initial=0)) + 1
        # Only the ratio of the two counts: nothing here hears the samples.
        spec = TokenSpec(
            sample_rate_hz=round(frame_hz * HOP_SAMPLES),
            hop_samples=HOP_SAMPLES,
            codebooks=0 if codes is None else codes.shape[2],
            entries=entries,
            latent_channels=_channels(latents, code_vectors),
        )
        vocab, told = _read_conditions(cond)
        return cls(
            spec,
            vocab,
            backbone or BackboneConfig(),
            condition or told,
            num_frames=next(iter(views.values())).shape[1],
            num_symbols=0 if cond is None else cond.text.shape[1],
            code_vectors=None if code_vectors is None else jnp.asarray(code_vectors),
        )

    def check(self, tokens: Tokens, cond: Cond) -> None:
        """Check tokens and conditions on the host: the first line of own code that trains on own
        data.

        Ranks, channels, dtypes, ranges, lengths and batch sizes are checked; latents far from zero
        mean and unit variance give a warning.

        Raises:
            GenlabError: naming the field, its value and what was expected.
        """
        check_inputs(Facts(self.spec, self.condition, self.vocab), tokens, cond)

    def no_cond(self, batch: int) -> Cond:
        """Return the conditions of a batch of training length of which nothing is told."""
        return Cond.none(batch, max(self.num_frames, 1))

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
            "num_symbols": self.num_read,
        }

    @property
    def num_read(self) -> int:
        """Positions of an example that the backbone reads beside its frames, where it reads any:
        the symbols of its text, all its units, and the conditions that are attended to.
        """
        return self.condition.num_read(self.num_frames, self.num_symbols)

    @property
    def condition_flops(self) -> float:
        """FLOPs of encoding one example's conditions."""
        positions = {"semantic": self.num_frames, "text": self.num_symbols, "none": 0}
        encoded = float(
            self.condition.layers * positions[self.condition.content] * 6 * self.backbone.width**2
        )
        return encoded + sum(
            part.flops(self.backbone.width, self.num_frames) for part in self.condition.parts
        )


@runtime_checkable
class DecoderConfig(Hashed, Protocol):
    """The config of a decoder: what an arm of a comparison names.

    It may also have `train_flops(task)` and `sample_cost(sampler, task)`, formulas that say what it
    costs; without them cost.py walks the traced program. With `bare_sampler(task)` it names the
    sampler of its bare law (`bare_law`).
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
    """The config of how a decoder samples; without a `guidance` it is not guided."""


@runtime_checkable
class HasBareSampler(Protocol):
    """The config of a decoder that says how its bare law is drawn."""

    def bare_sampler(self, task: Task) -> SamplerConfig:
        """Return the sampler that draws from what was trained: temperature 1, no guidance, nothing
        cut off, and as many calls as the law takes.
        """
        ...


class BareLaw(NamedTuple):
    """How a decoder's law is drawn as it was trained."""

    sampler: SamplerConfig
    is_declared: bool
    """False if its config does not say, and the arm's own sampler has to serve."""


def bare_law(decoder: DecoderConfig, own: SamplerConfig, task: Task) -> BareLaw:
    """Return the sampler of a decoder's bare law.

    Proper scores (Gneiting and Raftery 2007) compare laws; a temperature that was tuned for another
    score would be a part of the law that they judge.

    Args:
        decoder: may have `bare_sampler(task)`.
        own: the sampler of the arm, which serves where the decoder declares none.
        task: what the decoder was built for.
    """
    if isinstance(decoder, HasBareSampler):
        return BareLaw(decoder.bare_sampler(task), is_declared=True)
    return BareLaw(own, is_declared=False)


def guidance_of(sampler: SamplerConfig) -> float:
    """Return how strongly conditions are stressed; 1 is not at all."""
    return float(getattr(sampler, "guidance", 1.0))


def _channels(latents: Ranked | None, code_vectors: Ranked | None) -> int:
    known = latents if latents is not None else code_vectors
    return 1 if known is None else known.shape[2]


def _read_conditions(cond: Cond | None) -> tuple[CondVocab, ConditionConfig]:
    """Return how many conditions there are, and which of them say anything."""
    if cond is None:
        return CondVocab(num_speakers=1), ConditionConfig(content="none", speaker=False)
    highest = {
        name: int(np.max(getattr(cond, name), initial=0)) for name in ("speaker", "text", "content")
    }
    content = "semantic" if highest["content"] else "text" if highest["text"] else "none"
    vocab = CondVocab(
        num_speakers=highest["speaker"] + 1,
        num_symbols=max(29, highest["text"] + 1),
        num_units=highest["content"],
        is_two_sided=cond.other is not None,
    )
    return vocab, ConditionConfig(content=content, speaker=highest["speaker"] > 0)
