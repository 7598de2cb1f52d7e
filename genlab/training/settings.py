"""How a run is watched, saved and spread over devices: settings of training that do not change its
result.
"""

import pydantic

from genlab.config import Config
from genlab.machine import hosts
from genlab.machine.sharding import ShardingConfig
from genlab.watch.profiling import ProfileConfig


class TrainSettings(Config):
    """How a run is watched and saved. Nothing here changes the result, so nothing here enters the
    hash of a run.
    """

    log_every: int = pydantic.Field(default=50, ge=1)
    """Steps between two lines of metrics."""
    save_every_s: float | None = pydantic.Field(default=120.0, gt=0)
    """Seconds between checkpoints; None saves by steps alone, and at the end."""
    save_every_steps: int | None = pydantic.Field(default=None, ge=1)
    """Steps between checkpoints, in addition to those by time; None saves by time alone."""
    keep: int = pydantic.Field(default=2, ge=1)
    """Checkpoints to keep, the newest."""
    profile: ProfileConfig = ProfileConfig()
    """Which steps jax.profiler traces; none by default."""
    sharding: ShardingConfig = ShardingConfig()
    """How devices share the work."""
    previews: int = pydantic.Field(default=0, ge=0)
    """Validation prompts that are sampled while a comparison trains, to be heard in TensorBoard."""

    def is_save_due(self, step: int, age_s: float) -> bool:
        """Return whether to save after `step`, `age_s` seconds after the last save."""
        # Clocks differ: processes ask each other, which costs them a wait.
        is_asked = not hosts.is_one_of_several() or step % self.log_every == 0
        by_time = (
            self.save_every_s is not None and is_asked and hosts.is_any(age_s >= self.save_every_s)
        )
        return by_time or (self.save_every_steps is not None and step % self.save_every_steps == 0)
