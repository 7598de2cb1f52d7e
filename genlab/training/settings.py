"""How a run is watched, saved and spread over devices: settings of training that do not change its
result.
"""

import pydantic

from genlab.config import Config, added
from genlab.machine import hosts
from genlab.machine.sharding import ShardingConfig
from genlab.watch.follow import check_follow
from genlab.watch.profiling import ProfileConfig

SAVE_SHARE = 0.02  # of the time of training, for which its steps may wait for checkpoints by time


class TrainSettings(Config):
    """How a run is watched and saved. Nothing here changes the result, so nothing here enters the
    hash of a run.
    """

    log_every: int = pydantic.Field(default=50, ge=1)
    """Steps between two lines of metrics."""
    save_every_s: float | None = pydantic.Field(default=120.0, gt=0)
    """Seconds between checkpoints, or more where saving holds up the steps for over 2 % of them;
    None saves by steps alone, and at the end.
    """
    save_every_steps: int | None = pydantic.Field(default=None, ge=1)
    """Steps between checkpoints, in addition to those by time; None saves by time alone."""
    keep: int = pydantic.Field(default=2, ge=1)
    """Checkpoints to keep, the newest."""
    keep_every_steps: int | None = added(None)
    """Checkpoints of steps that are multiples of this are kept too; one must be saved there, so it
    is a multiple of save_every_steps. None keeps the newest alone.
    """
    keep_every_s: float | None = added(None)
    """Of the older checkpoints one per this many seconds is kept too; None keeps the newest
    alone.
    """
    follow: str | None = added(None)
    """A service that gets the metrics beside TensorBoard, as SERVICE:PROJECT, for example
    trackio:speech or wandb:speech; its package must be installed.
    """
    profile: ProfileConfig = ProfileConfig()
    """Which steps jax.profiler traces; none by default."""
    sharding: ShardingConfig = ShardingConfig()
    """How devices share the work."""
    previews: int = pydantic.Field(default=0, ge=0)
    """Validation prompts that are sampled while a comparison trains, to be heard in TensorBoard."""

    @pydantic.model_validator(mode="after")
    def _check_kept(self) -> "TrainSettings":
        steps, seconds, saved = self.keep_every_steps, self.keep_every_s, self.save_every_steps
        if steps is not None and (saved is None or steps < 1 or steps % saved):
            raise ValueError(
                f"keep_every_steps={steps}: expected a multiple of save_every_steps={saved}, since "
                "what was not saved cannot be kept; set both"
            )
        if seconds is not None and not seconds >= 1:
            raise ValueError(f"keep_every_s={seconds:g}: expected at least 1 second")
        return self

    @pydantic.field_validator("follow")
    @classmethod
    def _check_follow(cls, value: str | None) -> str | None:
        if value is not None:
            check_follow(value)
        return value

    @property
    def kept(self) -> tuple[int, int | None, float | None]:
        """The newest checkpoints that are kept, and every how many steps and seconds of others."""
        return self.keep, self.keep_every_steps, self.keep_every_s

    def is_save_due(self, step: int, age_s: float, cost_s: float = 0.0) -> bool:
        """Return whether to save after `step`, `age_s` seconds after the last save, for which the
        steps waited `cost_s`.
        """
        # Clocks differ: processes ask each other, which costs them a wait.
        is_asked = not hosts.is_one_of_several() or step % self.log_every == 0
        by_time = False
        if self.save_every_s is not None and is_asked:
            by_time = hosts.is_any(age_s >= max(self.save_every_s, cost_s / SAVE_SHARE))
        return by_time or (self.save_every_steps is not None and step % self.save_every_steps == 0)
