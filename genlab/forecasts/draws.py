"""The block after each clip's middle, drawn by a trained decoder that is given the first half.

In: a decoder, how it draws, and clips. Out: the draws, or their scores (`genlab.evaluate.blocks`).
Sampled codes count as the latents they stand for.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from genlab.data.store import TokenClip, TokenStore
from genlab.decoders.task import SamplerConfig, bare_law
from genlab.evaluate.blocks import Blocks
from genlab.evaluate.energy import BARE_ENERGY, BLOCK_S
from genlab.evaluate.table import find_metric
from genlab.experiment import DecoderRun
from genlab.forecasts.prompted import PromptedDraws, split_clips
from genlab.tokens import read_latents


class BlockEnergy:
    """Scores of the block after each clip's middle, under models that share a program.

    Clips are drawn in batches of `BATCH_CLIPS`, so that memory does not grow with their number.
    """

    def __init__(
        self,
        run: DecoderRun,
        store: TokenStore,
        clips: Sequence[TokenClip],
        sampler: SamplerConfig | None = None,
    ):
        """Prepare the continuations.

        Args:
            run: names the frames of a training example, and the sampler if none is given.
            store: the token store of the clips.
            clips: what is continued.
            sampler: how continuations are drawn.
        """
        self.prompted = PromptedDraws(run, store, sampler)
        self.store, self.clips = store, clips

    def __call__(self, model: nnx.Module, *, num_draws: int, seed: int) -> Float[np.ndarray, "n"]:
        """Return the energy of each clip, NaN where less than a block follows the middle.

        Args:
            model: the trained decoder.
            num_draws: continuations per clip, at least 2.
            seed: of the draws.
        """
        return self.scores(model, num_draws=num_draws, seed=seed)[BARE_ENERGY]

    def scores(
        self, model: nnx.Module, *, num_draws: int, seed: int
    ) -> dict[str, Float[np.ndarray, "n"]]:
        """Return every score of the block, all of the same draws, as `__call__` does."""
        found = [blocks.scores() for blocks in self._batches(model, num_draws, seed)]
        return {
            name: np.concatenate([scores[name] for scores in found])[: len(self.clips)]
            for name in found[0]
        }

    def draw(self, model: nnx.Module, *, num_draws: int, seed: int) -> Blocks:
        """Return the draws themselves, of all clips."""
        found = list(self._batches(model, num_draws, seed))
        draws, truth = (np.concatenate(parts)[: len(self.clips)] for parts in zip(*found))
        return Blocks(draws, truth)

    def energy_after(
        self, model: nnx.Module, heard: Sequence[TokenClip | None], *, num_draws: int, seed: int
    ) -> Float[np.ndarray, "n"]:
        """Return the energy of each clip when another clip's beginning is heard in its stead, drawn
        by the keys of `scores`; NaN where none is.

        Args:
            model: the trained decoder.
            heard: for each of the first clips the other one, which has frames enough; or None.
            num_draws: continuations per clip.
            seed: of the draws.
        """
        found = [
            blocks.scores()[BARE_ENERGY] for blocks in self._batches(model, num_draws, seed, heard)
        ]
        energies = np.full(len(self.clips), np.nan)
        is_swapped = np.array([clip is not None for clip in heard])
        energies[: len(heard)] = np.where(is_swapped, np.concatenate(found)[: len(heard)], np.nan)
        return energies

    @property
    def network_calls(self) -> int:
        """Sequential network calls of a continuation; known once something was scored."""
        return self.prompted.network_calls

    def _batches(
        self,
        model: nnx.Module,
        num_draws: int,
        seed: int,
        heard: Sequence[TokenClip | None] | None = None,
    ) -> Iterator[Blocks]:
        count = len(self.clips) if heard is None else len(heard)
        for number, chosen in enumerate(split_clips(count, len(self.clips))):
            batch = [self.clips[i] for i in chosen]
            others = batch
            if heard is not None:
                others = [(heard[i] if i < count else None) or self.clips[i] for i in chosen]
            key = jax.random.key(seed)
            # The first batch keeps the plain key: few clips score as they always did.
            key = jax.random.fold_in(key, number) if number else key
            yield self._draw(model, batch, others, num_draws, key)

    def _draw(
        self,
        model: nnx.Module,
        clips: Sequence[TokenClip],
        heard: Sequence[TokenClip],
        num_draws: int,
        key: jax.Array,
    ) -> Blocks:
        block_frames = round(BLOCK_S * self.store.info.spec.frame_hz)
        num_frames = np.array([len(clip.units) for clip in clips], np.int32)
        tokens = self.prompted.read(clips)
        first = num_frames // 2
        known = tokens if heard is clips else self.prompted.read(heard)
        is_known = np.arange(self.prompted.run.data.num_frames)[None, :] < first[:, None]
        has_block = first + block_frames <= num_frames
        window = np.where(has_block, first, 0)[:, None] + np.arange(block_frames)[None, :]
        clip = np.arange(len(clips))[:, None]
        keys = jax.random.split(key, num_draws)
        # Only the block is kept.
        draws = [
            drawn[clip, window] for drawn in self.prompted.draw(model, clips, known, is_known, keys)
        ]
        truth = np.asarray(read_latents(tokens))[clip, window]
        truth = np.where(has_block[:, None, None], truth, np.nan)
        return Blocks(np.stack(draws, axis=1), truth)


def sampler_behind(score_name: str, run: DecoderRun, store: TokenStore) -> SamplerConfig:
    """Return the sampler at which a score of continuations is measured."""
    own = run.arm.sampler
    if not find_metric(score_name).is_bare:
        return own
    return bare_law(run.arm.decoder, own, run.task(store)).sampler
