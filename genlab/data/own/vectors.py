"""Latents of codes: what a codec's entries add up to, for tokens whose code vectors are known.

In: a store of codes, and code vectors "k v d" of `tokens.json` or of a named codec. Out: the same
store whose clips have latents, so that families that read latents train on it. These are quantised
latents: what the codec measured before it rounded was never written down.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from genlab.data.record import TokenClip
from genlab.data.store import TokenStore

MOST_MEASURED = 4096  # training clips behind mean and deviation, always the same ones
LEAST_VARIANCE = 1e-8  # of a channel that carries anything


class SummedStore(TokenStore):
    """A store of codes whose latents are computed when a clip is read.

    Args:
        directory: the store of codes.
        vectors: what each entry adds.
        fingerprint: of the codec that they are from.
    """

    def __init__(self, directory: Path, vectors: Float[np.ndarray, "k v d"], fingerprint: str):
        super().__init__(directory)
        self._vectors = vectors.astype(np.float32)
        spec = self.info.spec.model_copy(update={"latent_channels": vectors.shape[2]})
        self.info = self.info.model_copy(update={"spec": spec, "codec_fingerprint": fingerprint})
        self.latent_mean, self.latent_std = self._measure()
        moments = {
            "latent_mean": tuple(self.latent_mean.tolist()),
            "latent_std": tuple(self.latent_std.tolist()),
        }
        self.info = self.info.model_copy(update=moments)

    def read_record(self, index: int) -> TokenClip:
        """Return record `index` with its latents, not yet checked."""
        clip = super().read_record(index)
        return clip._replace(latents=self._sum(clip.codes))

    @cached_property
    def code_vectors(self) -> Float[np.ndarray, "k v d"]:
        """The entries in normalised units: their sum over the levels of a frame is its latents."""
        vectors = self._vectors / self.latent_std
        vectors[0] -= self.latent_mean / self.latent_std
        return vectors.astype(np.float32)

    def _sum(self, codes: Int[np.ndarray, "t k"]) -> Float[np.ndarray, "t d"]:
        levels = np.arange(codes.shape[1])
        # A code that is none is refused by `check_clip`, which must get that far.
        inside = np.clip(codes, 0, self._vectors.shape[1] - 1)
        return self._vectors[levels, inside].sum(axis=1)

    def _measure(self) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"]]:
        """Return mean and deviation of each channel over training clips."""
        number = min(MOST_MEASURED, self.split("train").clips)
        total = np.zeros(self._vectors.shape[2])
        squares, frames = np.zeros_like(total), 0
        for index in self.numbers("train", number):
            latents = self.read_record(index).latents.astype(np.float64)
            total += latents.sum(axis=0)
            squares += (latents**2).sum(axis=0)
            frames += len(latents)
        mean = total / max(1, frames)
        variance = np.maximum(squares / max(1, frames) - mean**2, 0)
        # A dead channel would blow up under division; it carries nothing.
        deviation = np.where(variance > LEAST_VARIANCE, np.sqrt(variance), 1.0)
        return mean.astype(np.float32), deviation.astype(np.float32)
