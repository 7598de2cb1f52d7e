"""What every arm of a comparison may spend on training."""

from typing import Literal

import pydantic

from genlab.config import Config, Steps


class Budget(Config):
    """What every arm may spend."""

    mode: Literal["iso_flop", "iso_step"] = "iso_flop"
    """iso_flop: the same training FLOPs. iso_step: the same number of updates."""
    train_flops: float | None = pydantic.Field(default=None, gt=0)
    """Training FLOPs of each arm, for iso_flop."""
    steps: Steps | None = None
    """Updates of each arm, for iso_step."""

    @pydantic.model_validator(mode="after")
    def _check_one(self) -> "Budget":
        given, other = (
            ("train_flops", "steps") if self.mode == "iso_flop" else ("steps", "train_flops")
        )
        if getattr(self, given) is None or getattr(self, other) is not None:
            # The mode that was meant is the one of the field that was set, if only one is.
            is_other = self.mode == "iso_flop" and self.steps is not None
            is_other = is_other or (self.mode == "iso_step" and self.train_flops is not None)
            example = {"train_flops": "1e13", "steps": "1000"}
            swap = {"iso_flop": "iso_step", "iso_step": "iso_flop"}[self.mode]
            fix = f"budget.{given}={example[given]} budget.{other}=null"
            if is_other:
                value = f"{getattr(self, other):g}"
                fix += f", or budget.mode={swap} budget.{other}={value} budget.{given}=null"
            raise ValueError(
                f"mode={self.mode!r} takes {given} and not {other}: the other one follows from "
                f"it; set {fix}"
            )
        return self
