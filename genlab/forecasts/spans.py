"""Spans in the middle of clips: gaps with both sides given, and continuations; drawn, and scored by
their energy and by the jumps at their seams.

In: a decoder, how it draws, and clips. Out: draws of the frames of a span and what was there, or
their scores. Sampled codes count as the latents they stand for, beside the gap too: a jump is the
one that is heard. A continuation begins where the next block does and is drawn by its keys
(`draws.py`), so one of 0.24 s has the energy of that block.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from genlab.data.store import TokenClip
from genlab.evaluate.blocks import Blocks, score_energy
from genlab.evaluate.gaps import Span
from genlab.forecasts.prompted import PromptedDraws, split_clips
from genlab.tokens import read_latents


class Filled(NamedTuple):
    """Draws of a span and what was there, with the frame before it and the one after it."""

    draws: Float[np.ndarray, "n r f d"]
    truth: Float[np.ndarray, "n f d"]

    def energy(self, frames: int) -> Float[np.ndarray, "n"]:
        """Return the energy of the first `frames` of the span, NaN where the clip lacks them."""
        kept = slice(1, 1 + frames)
        return score_energy(Blocks(self.draws[:, :, kept], self.truth[:, kept]))

    def jumps(self) -> tuple[float, float]:
        """Return the mean jump of draws and of what was there over the seams of all clips."""
        return float(np.nanmean(_jumps(self.draws))), float(np.nanmean(_jumps(self.truth)))

    def seams(self) -> Float[np.ndarray, "n"]:
        """Return the energy of the jumps into the span and out of it, their mean."""
        drawn, real = _jumps(self.draws), _jumps(self.truth)
        found = [
            score_energy(Blocks(drawn[:, :, seam, None, None], real[:, seam, None, None]))
            for seam in (0, 1)
        ]
        return np.mean(found, axis=0)


def _jumps(latents: Float[np.ndarray, "*n f d"]) -> Float[np.ndarray, "*n 2"]:
    """Return how far the first frame lies from the second one, and the last but one from the last:
    root mean squares over the channels.
    """
    edges = latents[..., [0, -2], :], latents[..., [1, -1], :]
    return np.sqrt(np.square(edges[1] - edges[0]).mean(axis=-1))


def cut_span(
    latents: Float[np.ndarray, "n t d"], num_frames: Int[np.ndarray, "n"], span: Span
) -> Float[np.ndarray, "n f d"]:
    """Return the frames of a span with the one before it and the one after it, NaN where the clip
    ends; all of them where it does not hold a gap.
    """
    first = span.first(num_frames)[:, None]
    frame = first + np.arange(-1, span.frames + 1)[None, :]
    is_there = (frame >= 0) & (frame < num_frames[:, None])
    if span.is_gap:
        is_there &= span.fits(num_frames)[:, None]
    clip = np.arange(len(latents))[:, None]
    found = latents[clip, np.clip(frame, 0, latents.shape[1] - 1)]
    return np.where(is_there[:, :, None], found, np.nan).astype(np.float32)


class SpanDraws:
    """Spans of clips, drawn by models that share a program."""

    def __init__(self, prompted: PromptedDraws, clips: Sequence[TokenClip]):
        self.prompted, self.clips = prompted, clips

    def __call__(self, model: nnx.Module, span: Span, *, num_draws: int, seed: int) -> Filled:
        """Return draws of a span of every clip, by the keys of the energy of the next block."""
        found = []
        for number, chosen in enumerate(split_clips(len(self.clips), len(self.clips))):
            key = jax.random.key(seed)
            key = jax.random.fold_in(key, number) if number else key
            clips = [self.clips[i] for i in chosen]
            found.append(self._fill(model, clips, span, jax.random.split(key, num_draws)))
        draws, truth = (np.concatenate(parts)[: len(self.clips)] for parts in zip(*found))
        return Filled(draws, truth)

    def _fill(
        self, model: nnx.Module, clips: Sequence[TokenClip], span: Span, keys: Key[Array, "r"]
    ) -> Filled:
        num_frames = np.array([len(clip.units) for clip in clips], np.int32)
        tokens = self.prompted.read(clips)
        is_given = span.is_given(num_frames, self.prompted.run.data.num_frames)
        draws = [
            cut_span(latents, num_frames, span)
            for latents in self.prompted.draw(model, clips, tokens, is_given, keys)
        ]
        real = np.asarray(read_latents(tokens))
        return Filled(np.stack(draws, axis=1), cut_span(real, num_frames, span))
