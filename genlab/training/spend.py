"""What every arm of a comparison may spend: the mode says what is held equal, its fields how much.

In: fields of a config. Out: a `Budget` whose fields belong to its mode, or an error that says which
do. What the mode leaves free is listed in the ledger.
"""

from typing import Literal

import pydantic

from genlab.config import Config, Steps, added

Mode = Literal["iso_flop", "iso_step", "iso_data", "iso_time", "iso_latency", "iso_bitrate"]
# What each mode holds equal is given by these fields, and by no others.
FIELDS: dict[Mode, tuple[str, ...]] = {
    "iso_flop": ("train_flops",),
    "iso_step": ("steps",),
    "iso_data": ("epochs",),
    "iso_time": ("wall_s",),
    "iso_latency": ("train_flops", "sampling"),
    "iso_bitrate": ("train_flops", "floor_tolerance"),
}
EXAMPLES = {
    "train_flops": "1e13",
    "steps": "1000",
    "epochs": "10",
    "wall_s": "600",
    "sampling": '{"seconds":0.5}',
    "floor_tolerance": "0.05",
}


class SamplingBudget(Config):
    """What drawing one clip of training length may cost, in one of three units."""

    calls: int | None = pydantic.Field(default=None, ge=1)
    """Network calls, one after another; guidance counts as two. No arm has more."""
    flops: float | None = pydantic.Field(default=None, gt=0)
    """FLOPs of the network in all of them. No arm has more."""
    seconds: float | None = pydantic.Field(default=None, gt=0, json_schema_extra={"added": True})
    """Seconds on this machine, of one clip alone, compiled: every arm takes as long."""
    tolerance: float = pydantic.Field(default=0.1, gt=0, lt=1, json_schema_extra={"added": True})
    """By what share an arm may miss `seconds`: steps are whole."""

    @pydantic.model_validator(mode="after")
    def _check_one(self) -> "SamplingBudget":
        given = [name for name in ("calls", "flops", "seconds") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"calls={self.calls}, flops={self.flops}, seconds={self.seconds}: a sampling "
                'budget is one of the three; set budget.sampling={"seconds":0.5}, '
                'budget.sampling={"calls":32} or budget.sampling={"flops":1e11}'
            )
        return self


class Budget(Config):
    """What every arm may spend."""

    mode: Mode = "iso_flop"
    """iso_flop: the same training FLOPs. iso_step: the same number of updates. iso_data: the same
    audio the same number of times. iso_time: the same training time on this machine. iso_latency:
    the same training FLOPs, and clips that are drawn in the same time on this machine, or with the
    most steps that a budget of calls or FLOPs allows. iso_bitrate: the same training FLOPs, and
    tokens that say as much: codes of the same kbit/s, latents that lose as little of the audio as
    the codes.
    """
    train_flops: float | None = pydantic.Field(default=None, gt=0)
    """Training FLOPs of each arm, for iso_flop, iso_latency and iso_bitrate."""
    steps: Steps | None = None
    """Updates of each arm, for iso_step."""
    epochs: float | None = pydantic.Field(default=None, gt=0, json_schema_extra={"added": True})
    """Passes over the training clips, for iso_data."""
    wall_s: float | None = pydantic.Field(default=None, gt=0, json_schema_extra={"added": True})
    """Seconds that the updates of each arm take, by the time of one that is measured before
    training, for iso_time.
    """
    sampling: SamplingBudget | None = added(None)
    """What drawing a clip may cost, for iso_latency."""
    floor_tolerance: float | None = pydantic.Field(
        default=None, gt=0, lt=1, json_schema_extra={"added": True}
    )
    """By what share the mel distances of the codec's two floors (resynthesis from codes, and from
    latents) may differ, for iso_bitrate; codes among each other have equal kbit/s.
    """

    @property
    def holds_flops(self) -> bool:
        """Return whether training FLOPs are what is held equal."""
        return self.train_flops is not None

    @pydantic.model_validator(mode="after")
    def _check_fields(self) -> "Budget":
        wanted = FIELDS[self.mode]
        given = [name for name in EXAMPLES if getattr(self, name) is not None]
        if set(given) == set(wanted):
            return self
        first_two = ("iso_flop", "iso_step")
        if self.mode in first_two and set(given) <= {"train_flops", "steps"}:
            raise ValueError(self._explain_two())
        missing = [name for name in wanted if name not in given]
        others = [name for name in given if name not in wanted]
        fix = [f"budget.{name}={EXAMPLES[name]}" for name in missing]
        fix += [f"budget.{name}=null" for name in others]
        problem = (
            f"and not {' or '.join(others)}" if others else f"({' and '.join(missing)} is null)"
        )
        # The mode that was meant may be the one of the fields that were set.
        meant = next((mode for mode, names in FIELDS.items() if set(names) == set(given)), None)
        advice = f", or budget.mode={meant}" if meant else ""
        raise ValueError(
            f"mode={self.mode!r} takes {' and '.join(wanted)} {problem}; "
            f"set {' '.join(fix)}{advice}"
        )

    def _explain_two(self) -> str:
        """Return what is wrong where FLOPs and updates are mixed up, of which each follows from the
        other.
        """
        given, other = (
            ("train_flops", "steps") if self.mode == "iso_flop" else ("steps", "train_flops")
        )
        # The mode that was meant is the one of the field that was set, if only one is.
        is_other = getattr(self, other) is not None
        swap = {"iso_flop": "iso_step", "iso_step": "iso_flop"}[self.mode]
        fix = f"budget.{given}={EXAMPLES[given]} budget.{other}=null"
        if is_other:
            value = f"{getattr(self, other):g}"
            fix += f", or budget.mode={swap} budget.{other}={value} budget.{given}=null"
        return (
            f"mode={self.mode!r} takes {given} and not {other}: the other one follows from it; "
            f"set {fix}"
        )
