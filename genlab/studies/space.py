"""How arms are tuned: what is drawn and from where, how often, and what chooses.

In: fields of a config. Out: a checked `Tuning`, the same for all arms.
"""

from typing import Annotated, Literal

import pydantic

from genlab.config import Config, Seed
from genlab.evaluate.domains import SPEECH
from genlab.training.optim import ArmSettings

LOG_SCALE = ("peak_lr", "weight_decay", "ema_decay")


def _check_range(span: tuple[float, float]) -> tuple[float, float]:
    if not span[0] <= span[1]:
        raise ValueError(f"{list(span)}: expected [LOW, HIGH] with LOW <= HIGH")
    return span


Range = Annotated[tuple[float, float], pydantic.AfterValidator(_check_range)]


class TuningSpace(Config):
    """The lowest and highest value of each setting, for all arms alike; equal ones fix it."""

    peak_lr: Range = (3e-4, 1e-2)
    """Learning rate, drawn uniformly on a log scale."""
    warmup_fraction: Range = (0.0, 0.2)
    """Share of the steps that warm up, drawn uniformly."""
    weight_decay: Range = (1e-3, 0.3)
    """Weight decay, drawn uniformly on a log scale."""
    ema_decay: Range = (0.9, 0.999)
    """Decay of the averaged parameters; 1 - ema_decay is drawn uniformly on a log scale."""
    dropout: Range = (0.0, 0.2)
    """Dropout of the backbone, drawn uniformly."""

    @pydantic.model_validator(mode="after")
    def _check_ends(self) -> "TuningSpace":
        for name, span in self:
            if name in LOG_SCALE and not 0 < span[0]:
                raise ValueError(
                    f"{name}={list(span)}: is drawn on a log scale, so LOW must be above 0"
                )
            for end in span:
                try:
                    ArmSettings.model_validate({name: end})
                except pydantic.ValidationError as error:
                    raise ValueError(f"{name}={list(span)}: {error.errors()[0]['msg']}") from None
        return self


class Tuning(Config):
    """How arms are tuned. Trials share everything but the setting: data order, initialisation,
    sampling seeds.
    """

    space: TuningSpace = TuningSpace()
    """Where settings are drawn from."""
    trials: int = pydantic.Field(default=16, ge=2)
    """Settings tried per arm, its own included."""
    fraction: float = pydantic.Field(default=0.25, gt=0, le=1)
    """Share of the arm's training budget that each trial gets."""
    by: str = SPEECH.searched[0]
    """Score on validation prompts that chooses the best trial; the domain of the corpus lists what
    it can be.
    """
    sampler: Literal["random", "tpe"] = "random"
    """tpe follows what was found (Bergstra et al. 2011), so its trials are no independent draws: no
    best-of-k curve.
    """
    seed: Seed = 0
    """Seed of the drawn settings and of sampling."""
