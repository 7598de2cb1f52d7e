"""Code patterns: which codes an autoregressive decoder predicts together at each step.

In: codes "b t k" per frame. Out: codes "b s j", j of them at each step, and back. The delay pattern
(MusicGen, 2306.05284 section 2.1) shifts codebook k by k * delay frames, so that a code is
predicted after the coarser codes of its own frame; the flat pattern (AudioLM, 2209.03143;
MusicGen's "flattening") predicts one code at each step:

    3 codebooks x 4 frames  delay 1                     delay 0            flat
    frame     0  1  2  3    step  0  1  2  3  4  5      step  0  1  2  3   step  0  1  2  3 ... 11
    level 0   a  b  c  d          a  b  c  d  .  .            a  b  c  d         a  e  i  b      l
    level 1   e  f  g  h          .  e  f  g  h  .            e  f  g  h
    level 2   i  j  k  l          .  .  i  j  k  l            i  j  k  l

A dot is `fill`: nothing is predicted there. With delay 0 all levels of a frame are predicted at
once (parallel heads).

The other side of a conversation is K more levels behind the first K, each with the lag of its twin.

A plan is one more stream in front of the levels, a unit per frame, that goes some frames ahead of
the codes. What is predicted in one step cannot see each other, so under a delay the codes wait one
step more than the plan leads:

    plan m n o p, lead 0       delay 1                                flat
    2 codebooks x 4 frames     step  0  1  2  3  4  5           step  0  1  2  3  4  5 ... 11
                               plan  m  n  o  p  .  .                 m  a  e  n  b  f      h
                               0     .  a  b  c  d  .
                               1     .  .  e  f  g  h
"""

import abc
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import Array, Float, Int, Shaped

from genlab.config import Config


class LaggedPattern(Config):
    """All levels in every step, each some frames behind the first."""

    @abc.abstractmethod
    def lags(self, codebooks: int) -> list[int]:
        """Return by how many frames each level is behind."""

    @property
    def hides_known(self) -> bool:
        """Whether codes of a known beginning are read after the first code that follows it."""
        return max(self.lags(2)) > 0

    def beside_other(self) -> "BesideOther":
        """Return the pattern of two speakers, whose codes of a level share a step."""
        return BesideOther(codes=self)

    def behind_plan(self, lead_frames: int) -> "BehindPlan":
        """Return the pattern of the plan and the codes, each code seeing the plan up to
        `lead_frames` after it.
        """
        return BehindPlan(codes=self, lag_frames=lead_frames + 1)

    def num_steps(self, num_frames: int, codebooks: int) -> int:
        """Return the number of steps that `num_frames` frames take."""
        return num_frames + self.lags(codebooks)[-1]

    def num_frames(self, num_steps: int, codebooks: int) -> int:
        """Return the number of frames that are complete after `num_steps` steps."""
        return max(0, num_steps - self.lags(codebooks)[-1])

    def levels(self, num_steps: int, codebooks: int) -> Int[np.ndarray, "s j"]:
        """Return the level of every code that a step predicts."""
        return np.tile(np.arange(codebooks, dtype=np.int32), (num_steps, 1))

    def per_step(
        self, frames: Float[Array, "b t h"], numbers: Int[Array, "b t"], codebooks: int
    ) -> tuple[Float[Array, "b s h"], Int[Array, "b s"]]:
        """Return the features and the rotary position of each step, given those of the frames in
        order of visit.

        A step has those of the frame whose level 0 it predicts; the steps after the last frame have
        no features.
        """
        b, t = numbers.shape
        num_steps = self.num_steps(t, codebooks)
        extra = jnp.broadcast_to(jnp.arange(t, num_steps)[None, :], (b, num_steps - t))
        features = jnp.pad(frames, ((0, 0), (0, num_steps - t), (0, 0)))
        return features, jnp.concatenate([numbers, extra], axis=1)

    def build(self, frames: Shaped[Array, "b t k"], fill: int | bool) -> Shaped[Array, "b s k"]:
        """Spread frames over steps."""
        lags = self.lags(frames.shape[2])
        levels = [
            jnp.pad(frames[:, :, level], ((0, 0), (lag, lags[-1] - lag)), constant_values=fill)
            for level, lag in enumerate(lags)
        ]
        return jnp.stack(levels, axis=2)

    def revert(self, steps: Shaped[Array, "b s k"], codebooks: int) -> Shaped[Array, "b t k"]:
        """Gather the codes of each complete frame again."""
        num_frames = self.num_frames(steps.shape[1], codebooks)
        levels = [
            steps[:, lag : lag + num_frames, level]
            for level, lag in enumerate(self.lags(codebooks))
        ]
        return jnp.stack(levels, axis=2)


class DelayPattern(LaggedPattern):
    """Codebook k lags codebook 0 by k times a delay."""

    kind: Literal["delay"] = "delay"
    delay_frames: int = pydantic.Field(default=1, ge=0, le=10_000)
    """Frames between neighbouring codebooks; 0 is "parallel"."""

    def lags(self, codebooks: int) -> list[int]:
        """Return by how many frames each level is behind."""
        return [level * self.delay_frames for level in range(codebooks)]


class AcousticDelayPattern(LaggedPattern):
    """All levels after the first lag it alike: the "acoustic delay" of Moshi (2410.00037 3.4.2)."""

    kind: Literal["acoustic_delay"] = "acoustic_delay"
    delay_frames: int = pydantic.Field(default=1, ge=0, le=10_000)
    """Frames by which they lag."""

    def lags(self, codebooks: int) -> list[int]:
        """Return by how many frames each level is behind."""
        return [0] + [self.delay_frames] * (codebooks - 1)


class BesideOther(LaggedPattern):
    """The pattern of one speaker, twice: the codes of the other one come after those of the first
    as codebooks.
    """

    codes: pydantic.SerializeAsAny[LaggedPattern]
    """The pattern of one speaker."""

    def lags(self, codebooks: int) -> list[int]:
        """Return by how many frames each level of both speakers is behind."""
        return 2 * self.codes.lags(codebooks // 2)


class BehindPlan(LaggedPattern):
    """A plan and, later, the pattern of the codes. The plan counts as the first codebook."""

    codes: pydantic.SerializeAsAny[LaggedPattern]
    """The pattern of the codes."""
    lag_frames: int = pydantic.Field(ge=0, le=10_000)
    """Frames by which the codes come later."""

    def lags(self, codebooks: int) -> list[int]:
        """Return by how many frames each stream is behind the plan."""
        return [0] + [self.lag_frames + lag for lag in self.codes.lags(codebooks - 1)]


class FlatPattern(Config):
    """One code per step, coarse to fine inside a frame."""

    kind: Literal["flat"] = "flat"
    hides_known: ClassVar[bool] = False

    @property
    def rows(self) -> LaggedPattern:
        """The codes that follow one another, `codebooks` of them a row."""
        return DelayPattern(delay_frames=0)

    def beside_other(self) -> "FlatPattern":
        """Return the pattern of two speakers: a frame is the codes of the first one, then those of
        the other.
        """
        return self

    def behind_plan(self, lead_frames: int) -> "FlatBehindPlan":
        """Return the pattern of the plan and the codes, each code seeing the plan up to
        `lead_frames` after it.
        """
        return FlatBehindPlan(lead_frames=lead_frames)

    def num_steps(self, num_frames: int, codebooks: int) -> int:
        """Return the number of steps that `num_frames` frames take."""
        return self.rows.num_steps(num_frames, codebooks) * codebooks

    def num_frames(self, num_steps: int, codebooks: int) -> int:
        """Return the number of frames that are complete after `num_steps` steps."""
        return self.rows.num_frames(num_steps // codebooks, codebooks)

    def levels(self, num_steps: int, codebooks: int) -> Int[np.ndarray, "s 1"]:
        """Return the level of the code that a step predicts."""
        return (np.arange(num_steps, dtype=np.int32) % codebooks)[:, None]

    def per_step(
        self, frames: Float[Array, "b t h"], numbers: Int[Array, "b t"], codebooks: int
    ) -> tuple[Float[Array, "b s h"], Int[Array, "b s"]]:
        """Return the features and the rotary position of each step: the features of its row, and a
        position each.
        """
        features, rows = self.rows.per_step(frames, numbers, codebooks)
        positions = rows[:, :, None] * codebooks + jnp.arange(codebooks)[None, None, :]
        return jnp.repeat(features, codebooks, axis=1), positions.reshape(numbers.shape[0], -1)

    def build(self, frames: Shaped[Array, "b t k"], fill: int | bool) -> Shaped[Array, "b s 1"]:
        """Spread frames over steps; every step has a code, so nothing is filled unless a plan
        leads.
        """
        return self.rows.build(frames, fill).reshape(frames.shape[0], -1, 1)

    def revert(self, steps: Shaped[Array, "b s 1"], codebooks: int) -> Shaped[Array, "b t k"]:
        """Gather the codes of each complete frame again."""
        num_rows = steps.shape[1] // codebooks
        rows = steps[:, : num_rows * codebooks].reshape(steps.shape[0], num_rows, codebooks)
        return self.rows.revert(rows, codebooks)


class FlatBehindPlan(FlatPattern):
    """A unit of the plan, then the codes of an earlier frame, one by one."""

    lead_frames: int = pydantic.Field(ge=0, le=10_000)
    """Frames by which the plan is ahead of the codes."""

    @property
    def rows(self) -> LaggedPattern:
        """The unit and the codes that follow one another."""
        return BehindPlan(codes=DelayPattern(delay_frames=0), lag_frames=self.lead_frames)


Pattern = Annotated[
    DelayPattern | AcousticDelayPattern | FlatPattern, pydantic.Field(discriminator="kind")
]
StepPattern = LaggedPattern | FlatPattern
