"""Tokens that were encoded elsewhere, together with the codec that made them, if it is at hand.

In: `TokenFiles` and perhaps a codec. Out: a token store, and, with a codec, a `Manifest` whose
audio is what the codec makes of the tokens: nobody has the recordings. Without a codec `NoCodec`
stands where others expect one, and no wave is ever made.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from genlab.codecs.frozen import FrozenCodec, token_spec
from genlab.config import GenlabError, digest
from genlab.data.audio import SAMPLE_RATE_HZ, to_int16
from genlab.data.manifest import Clip, Manifest
from genlab.data.own.content import digest_codes
from genlab.data.own.labels import read_labels
from genlab.data.own.source import TokenFiles
from genlab.data.own.vectors import SummedStore
from genlab.data.shards import Progress
from genlab.data.store import TokenStore
from genlab.data.told import gather_values
from genlab.data.valued import Valued
from genlab.tokens import TokenSpec

CLOSE = 1e-2  # of two codecs' vectors, as a share of their deviation


class NoCodec(FrozenCodec):
    """Stands where no codec is named: tokens stay tokens, and nothing is heard."""

    def __init__(self, spec: TokenSpec, fingerprint: str):
        self.spec = spec
        self.fingerprint = fingerprint
        self.metadata = {}
        self.wave_rate_hz = SAMPLE_RATE_HZ
        self.channels = 1

    def decode_codes(
        self, codes: Sequence[Int[np.ndarray, "t k"]], side: Float[np.ndarray, "b c"] | None = None
    ) -> list[Float[np.ndarray, "s"]]:
        """Return no wave."""
        return []

    def decode_latents(
        self,
        latents: Sequence[Float[np.ndarray, "t d"]],
        side: Float[np.ndarray, "b c"] | None = None,
    ) -> list[Float[np.ndarray, "s"]]:
        """Return no wave."""
        return []


def own_spec(files: TokenFiles, codec: str | None) -> TokenSpec:
    """Return the token space before anything is imported: with latents where code vectors are
    known.

    Raises:
        GenlabError: if the tokens are not of the codec of that name.
    """
    vectors, spec = files.code_vectors, files.spec.token_spec()
    channels = 0 if vectors is None else vectors.shape[2]
    if codec is not None:
        made_by = token_spec(codec)
        _check_codec(spec, made_by, codec)
        channels = made_by.latent_channels
    return spec.model_copy(update={"latent_channels": channels})


def open_own(
    files: TokenFiles, codec: FrozenCodec | None, cache_dir: Path, progress: Progress | None = None
) -> TokenStore:
    """Return the token store, importing the tokens first if that was not done.

    Raises:
        GenlabError: if a row is wrong, or the tokens are not of the codec.
    """
    vectors = files.code_vectors
    fingerprint = files.spec.digest()
    if codec is not None:
        _check_codec(files.spec.token_spec(), codec.spec, f"of fingerprint {codec.fingerprint}")
        own = codec.code_vectors[: files.spec.codebooks]
        if vectors is not None and not _are_alike(vectors, own):
            raise GenlabError(
                f"{files.directory}: its code vectors are not those of the codec "
                f"{codec.fingerprint}, so another one made the tokens; name that one in data.codec"
            )
        vectors, fingerprint = own, codec.fingerprint
    store = files.open(cache_dir, progress)
    return store if vectors is None else SummedStore(store.directory, vectors, fingerprint)


def tell_own(
    store: TokenStore,
    codec: FrozenCodec | None,
    parts: Sequence[Valued],
    cache_dir: Path,
    progress: Progress | None = None,
) -> None:
    """Give the clips of a store of own tokens the values of named conditions, from their columns or
    from what the codec makes of them. What the store is known by then covers the columns too.

    Raises:
        GenlabError: if a clip has no such value, or what computes it fails.
    """
    heard = codec or NoCodec(store.info.spec, store.info.codec_fingerprint)
    manifest = DecodedManifest(store, heard)
    store.part_values = [
        gather_values(part, store, manifest, cache_dir, progress) for part in parts
    ]
    known = digest([store.info.manifest_hash, manifest.hash()])
    store.info = store.info.model_copy(update={"manifest_hash": known})


def _check_codec(spec: TokenSpec, codec: TokenSpec, name: str) -> None:
    """Refuse a codec that cannot have made the tokens; it may have more levels than were kept."""
    facts = {
        "frames per second": (spec.frame_hz, codec.frame_hz),
        "entries": (spec.entries, codec.entries),
        "codebooks": (spec.codebooks, min(spec.codebooks, codec.codebooks)),
    }
    for fact, (found, wanted) in facts.items():
        if not np.isclose(found, wanted, rtol=1e-3):
            raise GenlabError(
                f"data.codec: the codec {name} has {wanted:g} {fact} and the tokens have "
                f"{found:g}, so another one made them; name that one, or data.codec=null to "
                "compare without hearing"
            )


def _are_alike(first: Float[np.ndarray, "k v d"], second: Float[np.ndarray, "k v d"]) -> bool:
    scale = max(float(np.std(second)), 1e-12)
    is_close = first.shape == second.shape and np.abs(first - second).max() < CLOSE * scale
    return bool(is_close)


class DecodedManifest(Manifest):
    """The clips of a token store with what a codec makes of their codes as their audio."""

    def __init__(self, store: TokenStore, codec: FrozenCodec):
        self._store, self._codec = store, codec
        self._numbers: dict[str, int] = {}
        spec, licence = store.info.spec, (*store.info.licences, "unknown")[0]
        samples = spec.hop_samples * codec.wave_rate_hz / spec.sample_rate_hz
        clips, labels = [], read_labels(store.directory)
        for split, place in store.info.splits.items():
            for number in range(place.first, place.first + place.clips):
                clip = store.clip(number)
                self._numbers[clip.id] = number
                # Copies are known by their codes, as those of recordings by their samples.
                found = digest_codes(clip.codes).hex()[:10]
                length = int(len(clip.codes) * samples)
                clips.append(
                    Clip(
                        clip.id,
                        "codes",
                        clip.text,
                        clip.speaker,
                        split,
                        length,
                        licence,
                        labels.get(clip.id, {}),
                        audio_digest=found,
                        sample_rate_hz=codec.wave_rate_hz,
                        channels=codec.channels,
                    )
                )
        super().__init__(clips, store.directory)

    def audio(self, clip: Clip) -> Int[np.ndarray, "s"]:
        """Return what the codec makes of the codes of `clip`.

        Raises:
            GenlabError: if no codec is named.
        """
        if isinstance(self._codec, NoCodec):
            raise GenlabError(
                "data.codec=null: tokens have no audio to measure without the codec that made "
                "them; name it, or read the values from a column"
            )
        codes = self._store.clip(self._numbers[clip.id]).codes
        return to_int16(self._codec.decode_codes([codes])[0])
