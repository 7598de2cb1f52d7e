"""The token store: a corpus after the frozen codec, on disk, ready for every decoder.

One directory holds part files (part_files.py; one record per clip: a JSON header and raw
little-endian arrays of codes int16, latents float16, units int16), the codec's code vectors, the
frames of every clip (lengths.py), and one `dataset.json`, written last, so a half-written store is
never taken for a whole one. `dataset.json` pins the codec's fingerprint and the manifest's hash;
opening a store that another codec made is refused. Clips are ordered by split, so a split is a
range of record numbers. Damage is refused: `digests.json` covers every file, and ArrayRecord checks
each record that it reads.
"""

import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from genlab.config import GenlabError
from genlab.data.bucket_records import READ_THREADS, BucketRecords
from genlab.data.digests import (
    Digests,
    FileDigest,
    digest_edges,
    digest_file,
    digest_text,
    rebuild,
    write_digests,
)
from genlab.data.lengths import FRAMES_NAME, map_frames, pick, write_frames
from genlab.data.manifest import read_array
from genlab.data.order import check_shuffled, draw_part
from genlab.data.part_files import PART_SUFFIX as PART_SUFFIX
from genlab.data.part_files import part_order
from genlab.data.part_files import part_paths as part_paths
from genlab.data.part_files import write_part as write_part
from genlab.data.part_records import PartRecords
from genlab.data.parts import PartValues
from genlab.data.record import SCHEMA as SCHEMA
from genlab.data.record import UNREADABLE, Heading, check_clip, read_heading, unpack_clip
from genlab.data.record import SplitInfo as SplitInfo
from genlab.data.record import StoreInfo as StoreInfo
from genlab.data.record import TokenClip as TokenClip
from genlab.data.text import encode_text
from genlab.run import in_bucket
from genlab.run.stored import (
    DamagedError,
    parse_json,
    parse_stored,
    read_content,
    write_atomically,
    write_whole,
)
from genlab.tokens import Cond, Tokens

if TYPE_CHECKING:
    import grain

INFO_NAME = "dataset.json"  # written last: it makes a directory a store
VECTORS_NAME = "code_vectors.npy"


def save_vectors(directory: Path, vectors: Float[np.ndarray, "k v d"]) -> None:
    """Write the codec's entries; a full disk is an OSError with its number, which `np.save` does
    not give.
    """
    buffer = io.BytesIO()
    np.save(buffer, vectors)
    write_whole(directory / VECTORS_NAME, buffer.getvalue())


def finish_store(
    directory: Path, info: StoreInfo, parts: Mapping[str, FileDigest] | None = None
) -> None:
    """Write `frames.npy`, `digests.json` and `dataset.json`, which makes the directory a store.

    `parts` are the digests that the parts had when they were written; without them they are read.
    """
    (directory / in_bucket.MARKER).unlink(missing_ok=True)  # of a copy that was given up
    text = json.dumps(info.to_dict(), indent=1)
    files = dict(parts or {path.name: digest_file(path) for path in part_paths(directory)})
    files[FRAMES_NAME] = write_frames(directory)
    if (directory / VECTORS_NAME).exists():  # tokens without latents have none
        files[VECTORS_NAME] = digest_file(directory / VECTORS_NAME)
    files[INFO_NAME] = digest_text(text)
    edges = {path.name: digest_edges(path) for path in part_paths(directory)}
    write_digests(directory, files, edges)
    write_atomically(directory / INFO_NAME, text)


class TokenStore:
    """A finished store, open for reading.

    Args:
        directory: where `encode_corpus` wrote it.
        codec_fingerprint: when given, must be the fingerprint of the codec that made the store.

    Raises:
        GenlabError: if the store is missing, unfinished, damaged, of another schema, or made by
            another codec.
    """

    part_values: Sequence[PartValues] = ()
    """The values of named conditions, given out with every clip; set them after opening the store
    for a model.
    """

    read_threads: int = 2
    """Threads that read batches: as many as a disk keeps busy, or as wait for a bucket."""

    def __init__(self, directory: Path, codec_fingerprint: str | None = None):
        self.directory = directory
        digests = Digests.load(directory)
        self.info = _read_info(directory, digests)
        url = in_bucket.place_of(directory)
        parts = [name for name in (digests.files if digests else ()) if name.endswith(PART_SUFFIX)]
        if digests is not None:
            for name in digests.files:
                if url is not None and name in parts:
                    continue
                if name.endswith(PART_SUFFIX):
                    # Large, and each of its records carries a checksum of its own.
                    digests.compare_edges(name)
                else:
                    digests.compare(name)
        if codec_fingerprint not in (None, self.info.codec_fingerprint):
            raise GenlabError(
                f"token store {directory}: made by codec {self.info.codec_fingerprint}, but the "
                f"config's codec is {codec_fingerprint}; encode the corpus with that codec into "
                "another directory"
            )
        self._records = _open_records(directory, self.num_clips, url, parts)
        if url is not None:
            self.read_threads = READ_THREADS
        self._texts: dict[str, tuple[str, ...]] = {}
        self.latent_mean = np.asarray(self.info.latent_mean, np.float32)
        self.latent_std = np.asarray(self.info.latent_std, np.float32)

    @cached_property
    def code_vectors(self) -> Float[np.ndarray, "k v d"]:
        """The codec's entries in normalised units: their sum over the levels of a frame is its
        quantised latents.

        Raises:
            GenlabError: if the store lost them, or they are damaged.
        """
        path = self.directory / VECTORS_NAME
        spec = self.info.spec
        if not self.has_latents:
            return np.zeros((spec.codebooks, spec.entries, 0), np.float32)
        if not path.exists():
            raise GenlabError(
                f"token store {self.directory}: {path.name} is missing; delete the store and "
                "encode again"
            )
        stored = read_array(path, ndim=3, fix=rebuild(self.directory))
        wanted = (spec.codebooks, spec.entries, spec.latent_channels)
        if stored.shape != wanted:
            told = f"expected {list(wanted)} values, got {list(stored.shape)}"
            raise DamagedError(f"{path}: damaged: {told}; {rebuild(self.directory)}")
        vectors = stored / self.latent_std
        vectors[0] -= self.latent_mean / self.latent_std
        return vectors.astype(np.float32)

    @cached_property
    def _number_of_speaker(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.info.speakers)}

    @property
    def has_latents(self) -> bool:
        """Whether clips have latents; those of own tokens may have codes alone."""
        return self.info.spec.latent_channels > 0

    @property
    def num_clips(self) -> int:
        """Records in all splits."""
        return sum(split.clips for split in self.info.splits.values())

    def read_record(self, index: int) -> TokenClip:
        """Return what record `index` holds, not yet checked."""
        return unpack_clip(self._records[index])

    def clip(self, index: int) -> TokenClip:
        """Return record `index`.

        Raises:
            GenlabError: if the part that holds it is damaged.
        """
        try:
            clip = self.read_record(index)
            check_clip(clip, self.info, self._number_of_speaker)
        except UNREADABLE as error:
            raise self._refusal(index, error) from None
        return clip._replace(parts=tuple(values.of(index) for values in self.part_values))

    def heading(self, index: int) -> Heading:
        """Return what record `index` says of its clip, without its tokens.

        Raises:
            GenlabError: as `clip`.
        """
        try:
            return read_heading(self._records[index])
        except UNREADABLE as error:
            raise self._refusal(index, error) from None

    def frames(self, numbers: Sequence[int]) -> Int[np.ndarray, "n"]:
        """Return how many frames each of these records has; a store of this version knows without
        reading them.

        Raises:
            GenlabError: as `clip`.
        """
        if self._frames is not None:
            return pick(self._frames, numbers)
        return np.array([self.heading(number).frames for number in numbers], np.int32)

    @cached_property
    def _frames(self) -> Int[np.ndarray, "n"] | None:
        return map_frames(self.directory, self.num_clips)

    def _refusal(self, index: int, error: Exception) -> DamagedError:
        parts = ", ".join(path.name for path in self._damaged_parts()) or "a part"
        reason = f"record {index} cannot be read ({str(error).splitlines()[0]:.80})"
        where = f"{self.directory}: {parts}: damaged"
        return DamagedError(f"{where}: {reason}; {rebuild(self.directory)}")

    def _damaged_parts(self) -> list[Path]:
        digests = Digests.load(self.directory)
        paths = part_paths(self.directory) if digests is not None else []
        return [
            path for path in paths if digests and digest_file(path) != digests.files.get(path.name)
        ]

    def split(self, name: str) -> SplitInfo:
        """Return the range of a split.

        Raises:
            GenlabError: if the store has no such split.
        """
        if name not in self.info.splits:
            raise GenlabError(
                f"split {name!r}: not in token store {self.directory}; it has "
                f"{sorted(self.info.splits)}"
            )
        return self.info.splits[name]

    def texts(self, split: str) -> tuple[str, ...]:
        """Return the text of every clip of a split; they are read once."""
        if split not in self._texts:
            self._texts[split] = tuple(self.clip(number).text for number in self.numbers(split))
        return self._texts[split]

    def normalise(self, latents: Float[np.ndarray, "*b d"]) -> Float[np.ndarray, "*b d"]:
        """Scale latents to zero mean and unit deviation per channel, with statistics of the
        training split only.
        """
        return (latents - self.latent_mean) / self.latent_std

    def denormalise(self, latents: Float[np.ndarray, "*b d"]) -> Float[np.ndarray, "*b d"]:
        """Invert `normalise`."""
        return latents * self.latent_std + self.latent_mean

    def example(
        self, clip: TokenClip, num_frames: int, first_frame: int = 0
    ) -> tuple[Tokens, Cond]:
        """Return one example of exactly `num_frames` frames, cut from `first_frame` and padded with
        zeros on the right.

        The leaves are numpy arrays.
        """
        window = slice(first_frame, first_frame + num_frames)
        valid = len(clip.units[window])

        def fit(values: np.ndarray) -> np.ndarray:
            return np.pad(values[window], [(0, num_frames - valid)] + [(0, 0)] * (values.ndim - 1))

        symbols = encode_text(clip.text)
        text = np.zeros(self.info.longest_text, np.int32)
        text[: len(symbols)] = symbols
        latents = None
        if self.has_latents:
            latents = fit(self.normalise(clip.latents)).astype(np.float32)
        codes, units = fit(clip.codes).astype(np.int32), fit(clip.units).astype(np.int32)
        speaker = np.int32(self._number_of_speaker[clip.speaker])
        tokens = Tokens(codes, latents, np.int32(valid))  # pyright: ignore[reportArgumentType]
        other = None if clip.other is None else fit(clip.other).astype(np.int32)
        parts = {part.name: part.cut(window).fit(num_frames) for part in clip.parts} or None
        told: Any = (speaker, text, units, np.bool_(False), other, parts)
        return tokens, Cond(*told)

    def numbers(self, split: str, clips: int | None = None) -> Sequence[int]:
        """Return the record numbers of a split, or of a fixed random part of it: less is always
        within more. They are not listed: a split may have a thousand million (order.py).

        Raises:
            GenlabError: if the split has fewer clips.
        """
        info = self.split(split)
        if clips is None:
            return range(info.first, info.first + info.clips)
        if clips > info.clips:
            raise GenlabError(
                f"data.train_clips={clips}: split {split!r} has only {info.clips} clips; lower it"
            )
        return draw_part(info.first, info.clips, clips)

    def dataset(
        self, split: str, *, num_frames: int, seed: int, clips: int | None = None
    ) -> "grain.MapDataset":
        """Return an endless shuffled dataset of ((Tokens, Cond), record number); longer clips are
        cut at random places.

        Element i is a pure function of (seed, i), which is what makes the data of every arm
        identical and resume exact.
        """
        import grain  # here, because it takes as long as jax, and reading a config needs no data

        def crop(index: int, rng: np.random.Generator) -> tuple[tuple[Tokens, Cond], np.int32]:
            clip = self.clip(index)
            spare = max(0, len(clip.units) - num_frames)
            return self.example(clip, num_frames, int(rng.integers(spare + 1))), np.int32(index)

        wanted = self.numbers(split, clips)
        check_shuffled(split, len(wanted))
        numbers = grain.MapDataset.source(wanted)
        return numbers.seed(seed).shuffle().repeat(None).random_map(crop)


def _read_info(directory: Path, digests: Digests | None) -> StoreInfo:
    path = directory / INFO_NAME
    fix = rebuild(directory)
    if not path.exists():
        raise GenlabError(
            f"token store {directory}: no dataset.json, so it is missing or unfinished; run "
            "`genlab data CONFIG`"
        )
    content = read_content(path, fix=fix) or b"" if digests is None else digests.read(INFO_NAME)
    values = parse_json(content, path=path, fix=fix)
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found != SCHEMA:
        raise GenlabError(
            f"token store {directory}: schema {found!r:.40}, expected {SCHEMA}; delete it and "
            "encode again"
        )
    return parse_stored(content, StoreInfo, path=path, fix=fix)


def _open_records(
    directory: Path, expected: int, url: str | None, names: Sequence[str]
) -> PartRecords | BucketRecords:
    parts = part_paths(directory) if url is None else sorted(map(Path, names), key=part_order)
    found: int | str = 0
    if parts:
        try:  # what ArrayRecord says of a damaged part is for its developers
            if url is None:
                records = PartRecords([str(part) for part in parts])
            else:
                records = BucketRecords(url, [part.name for part in parts], directory)
            found = len(records)
            if found == expected:
                return records
        except RuntimeError as error:
            found = str(error).splitlines()[0][:80]
    raise GenlabError(
        f"token store {directory}: {found} records in {len(parts)} parts, expected {expected}; "
        "delete and encode again"
    )
