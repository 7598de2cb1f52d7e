"""The token store: a corpus after the frozen codec, on disk, ready for every decoder.

One directory holds `part-NNNNN.array_record` files (one record per clip: a JSON header and raw
little-endian arrays of codes int16, latents float16, units int16), the codec's code vectors, and
one `dataset.json`, written last, so a half-written store is never taken for a whole one.
`dataset.json` pins the codec's fingerprint and the manifest's hash; opening a store that another
codec made is refused. Clips are ordered by split, so a split is a range of record numbers. Damage
is refused: `digests.json` covers every file, and ArrayRecord checks each record that it reads.
"""

import io
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, model_validator

from genlab.config import Config, GenlabError
from genlab.data.digests import (
    Digests,
    FileDigest,
    digest_file,
    digest_text,
    rebuild,
    write_digests,
)
from genlab.data.manifest import read_array
from genlab.data.parts import PartValue, PartValues
from genlab.data.text import encode_text
from genlab.run.stored import (
    Count,
    DamagedError,
    Number,
    parse_json,
    parse_stored,
    read_content,
    write_atomically,
    write_whole,
)
from genlab.tokens import Cond, Tokens, TokenSpec

if TYPE_CHECKING:
    import grain
    from array_record.python import array_record_data_source

INFO_NAME = "dataset.json"  # written last: it makes a directory a store
VECTORS_NAME = "code_vectors.npy"
PART_SUFFIX = ".array_record"
MOST_UNITS = 2**15  # units are stored as int16
# What the reader of a record raises that is not as `pack_clip` wrote it.
UNREADABLE = (RuntimeError, ArithmeticError, ValueError, KeyError, TypeError, struct.error)
SCHEMA = 2  # raise it when records, or what units mean, change


class SplitInfo(Config):
    """Where a split lies among the records."""

    first: Count
    """Record at which the split begins."""
    clips: Count
    """Number of records."""
    seconds: Number
    """Audio in the split, in seconds."""


class StoreInfo(Config):
    """The contents of `dataset.json`."""

    schema_version: int = SCHEMA
    """Version of the layout; stores of others are refused."""
    spec: TokenSpec
    """The facts about the token space."""
    codec_fingerprint: str
    """Digest of the codec's config and weights."""
    units_fingerprint: str
    """Digest of the recogniser that made the units."""
    manifest_hash: str
    """Digest of the corpus's manifest."""
    num_units: int = Field(ge=1, le=MOST_UNITS)
    """Number of different semantic units."""
    speakers: tuple[str, ...]
    """Names of speakers; conditions number them in this order."""
    licences: tuple[str, ...]
    """Licences of the clips."""
    # In symbols; every example holds so many.
    longest_text: int = Field(ge=1, lt=2**24)
    """Symbols of the longest text."""
    latent_mean: tuple[Number, ...]
    """Mean of each latent channel over the training split."""
    latent_std: tuple[Annotated[Number, Field(gt=0)], ...]
    """Standard deviation of each latent channel over the training split."""
    splits: dict[str, SplitInfo]
    """Where each split lies among the records."""
    is_two_sided: bool = False
    """Whether every clip has a second stream of codes, those of the other side."""

    @model_validator(mode="after")
    def _check_whole(self) -> "StoreInfo":
        for name, values in (("latent_mean", self.latent_mean), ("latent_std", self.latent_std)):
            if len(values) != self.spec.latent_channels:
                expected = self.spec.latent_channels
                raise ValueError(
                    f"expected {expected} values of {name}, one per channel, got {len(values)}"
                )
        first = 0
        for name, split in sorted(self.splits.items(), key=lambda item: item[1].first):
            if split.first != first:
                raise ValueError(
                    f"expected split {name!r} to begin at record {first}, got {split.first}"
                )
            first += split.clips
        return self


class TokenClip(NamedTuple):
    """One clip in the token space, with latents as the codec gave them (not normalised).

    `other` are the codes of the other side of a conversation, `parts` the values of named
    conditions (parts.py), which lie beside the store and not in its records.
    """

    id: str
    text: str
    speaker: str
    path: str
    codes: Int[np.ndarray, "t k"]
    latents: Float[np.ndarray, "t d"]
    units: Int[np.ndarray, "t"]
    other: Int[np.ndarray, "t k"] | None = None
    parts: tuple[PartValue, ...] = ()


def pack_clip(clip: TokenClip) -> bytes:
    """Serialise a clip: header length, JSON header, then the arrays in a fixed order and type.

    Raises:
        GenlabError: if the three arrays disagree on the number of frames.
    """
    frames, codebooks = clip.codes.shape
    if not frames == len(clip.latents) == len(clip.units):
        raise GenlabError(
            f"clip {clip.id!r}: {frames} frames of codes, {len(clip.latents)} of latents, "
            f"{len(clip.units)} of units; codec and unit encoder must work at the same frame rate"
        )
    header = {"id": clip.id, "text": clip.text, "speaker": clip.speaker, "path": clip.path}
    header |= {
        "frames": frames,
        "codebooks": codebooks,
        "channels": clip.latents.shape[1],
        "other": clip.other is not None,
    }
    encoded = json.dumps(header).encode()
    arrays = [clip.codes.astype("<i2"), clip.latents.astype("<f2"), clip.units.astype("<i2")]
    if clip.other is not None:
        arrays.append(clip.other.astype("<i2"))
    return struct.pack("<I", len(encoded)) + encoded + b"".join(array.tobytes() for array in arrays)


def unpack_clip(record: bytes) -> TokenClip:
    """Invert `pack_clip`."""
    (length,) = struct.unpack_from("<I", record)
    header = json.loads(record[4 : 4 + length])
    frames, codebooks, channels = header["frames"], header["codebooks"], header["channels"]
    # Raw little-endian arrays follow in the order of `pack_clip`; each length follows from the
    # header, so none is stored.
    offset = 4 + length
    codes = np.frombuffer(record, "<i2", frames * codebooks, offset).reshape(frames, codebooks)
    offset += codes.nbytes
    latents = np.frombuffer(record, "<f2", frames * channels, offset).reshape(frames, channels)
    offset += latents.nbytes
    units = np.frombuffer(record, "<i2", frames, offset)
    offset += units.nbytes
    other = (
        np.frombuffer(record, "<i2", codes.size, offset).reshape(codes.shape)
        if header.get("other")
        else None
    )
    if len(record) != offset + (0 if other is None else other.nbytes):
        raise ValueError(f"{len(record)} bytes, which its header does not account for")
    # Narrow types are for the disk; the device wants int32 and float32.
    return TokenClip(
        header["id"],
        header["text"],
        header["speaker"],
        header["path"],
        codes.astype(np.int32),
        latents.astype(np.float32),
        units.astype(np.int32),
        None if other is None else other.astype(np.int32),
    )


def check_clip(clip: TokenClip, info: StoreInfo) -> None:
    """Make sure that a record is of the store: a checksum says nothing about who wrote it.

    On the device an index that is too large becomes the last one, and nobody would notice.

    Raises:
        ValueError: saying what does not fit.
    """
    texts, views = (clip.id, clip.text, clip.speaker, clip.path), (clip.codes, clip.latents)
    if not all(isinstance(text, str) for text in texts) or clip.speaker not in info.speakers:
        raise ValueError(f"speaker {clip.speaker!r:.40} is none of the store, or a name is no text")
    if len(encode_text(clip.text)) > info.longest_text:
        raise ValueError(f"its text is longer than longest_text={info.longest_text}")
    found = [view.shape[1] for view in views]
    if found != (wanted := [info.spec.codebooks, info.spec.latent_channels]):
        raise ValueError(f"expected {wanted} codebooks and channels, got {found}")
    if not len(clip.units) or (clip.other is not None) != info.is_two_sided:
        raise ValueError("it has no frames, or another number of sides than the store")
    codes = (clip.codes, info.spec.entries - 1)
    for values, most in (codes, (clip.units, info.num_units), (clip.other, codes[1])):
        if values is not None and values.size and not 0 <= values.min() <= values.max() <= most:
            told = f"{values.min()} to {values.max()}"
            raise ValueError(f"codes or units from {told}, expected 0 to {most}")
    if not np.isfinite(clip.latents).all():
        raise ValueError("latents that are not finite")


def write_part(path: Path, clips: Iterable[TokenClip]) -> FileDigest:
    """Write one part file and return its digest; it appears under its name only when it is
    complete.
    """
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    temporary = path.with_suffix(".tmp")
    # group_size:1 is what makes random access fast: the default reads 256 records to return one.
    writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
    for clip in clips:
        writer.write(pack_clip(clip))
    writer.close()
    written = digest_file(temporary)
    os.replace(temporary, path)
    return written


def save_vectors(directory: Path, vectors: Float[np.ndarray, "k v d"]) -> None:
    """Write the codec's entries; a full disk is an OSError with its number, which `np.save` does
    not give.
    """
    buffer = io.BytesIO()
    np.save(buffer, vectors)
    write_whole(directory / VECTORS_NAME, buffer.getvalue())


def part_paths(directory: Path) -> list[Path]:
    """Return the part files in record order."""
    return sorted(directory.glob(f"part-*{PART_SUFFIX}"))


def finish_store(
    directory: Path, info: StoreInfo, parts: Mapping[str, FileDigest] | None = None
) -> None:
    """Write `digests.json` and `dataset.json`, which makes the directory a store.

    `parts` are the digests that the parts had when they were written; without them they are read.
    """
    text = json.dumps(info.to_dict(), indent=1)
    files = dict(parts or {path.name: digest_file(path) for path in part_paths(directory)})
    if (directory / VECTORS_NAME).exists():  # tokens without latents have none
        files[VECTORS_NAME] = digest_file(directory / VECTORS_NAME)
    files[INFO_NAME] = digest_text(text)
    write_digests(directory, files)
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

    def __init__(self, directory: Path, codec_fingerprint: str | None = None):
        self.directory = directory
        digests = Digests.load(directory)
        self.info = _read_info(directory, digests)
        if digests is not None:
            for name in digests.files:
                if name.endswith(PART_SUFFIX):
                    # Large, and each of its records carries a checksum of its own.
                    digests.compare_size(name)
                else:
                    digests.compare(name)
        if codec_fingerprint not in (None, self.info.codec_fingerprint):
            raise GenlabError(
                f"token store {directory}: made by codec {self.info.codec_fingerprint}, but the "
                f"config's codec is {codec_fingerprint}; encode the corpus with that codec into "
                "another directory"
            )
        self._records = _open_records(
            directory, sum(split.clips for split in self.info.splits.values())
        )
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

    @property
    def num_clips(self) -> int:
        """Records in all splits."""
        return sum(split.clips for split in self.info.splits.values())

    def clip(self, index: int) -> TokenClip:
        """Return record `index`.

        Raises:
            GenlabError: if the part that holds it is damaged.
        """
        try:
            clip = unpack_clip(self._records[index])
            check_clip(clip, self.info)
        except UNREADABLE as error:
            parts = ", ".join(path.name for path in self._damaged_parts()) or "a part"
            reason = f"record {index} cannot be read ({str(error).splitlines()[0]:.80})"
            where = f"{self.directory}: {parts}: damaged"
            raise DamagedError(f"{where}: {reason}; {rebuild(self.directory)}") from None
        return clip._replace(parts=tuple(values.of(index) for values in self.part_values))

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
        latents = fit(self.normalise(clip.latents)).astype(np.float32)
        codes, units = fit(clip.codes).astype(np.int32), fit(clip.units).astype(np.int32)
        speaker = np.int32(self.info.speakers.index(clip.speaker))
        tokens = Tokens(codes, latents, np.int32(valid))  # pyright: ignore[reportArgumentType]
        other = None if clip.other is None else fit(clip.other).astype(np.int32)
        parts = {part.name: part.cut(window).fit(num_frames) for part in clip.parts} or None
        told: Any = (speaker, text, units, np.bool_(False), other, parts)
        return tokens, Cond(*told)

    def numbers(self, split: str, clips: int | None = None) -> list[int]:
        """Return the record numbers of a split, or of a fixed random part of it: less is always
        within more.

        Raises:
            GenlabError: if the split has fewer clips.
        """
        info = self.split(split)
        numbers = list(range(info.first, info.first + info.clips))
        if clips is None:
            return numbers
        if clips > info.clips:
            raise GenlabError(
                f"data.train_clips={clips}: split {split!r} has only {info.clips} clips; lower it"
            )
        picked = np.random.default_rng(0).permutation(info.clips)[:clips]
        return [numbers[index] for index in sorted(picked)]

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

        numbers = grain.MapDataset.source(self.numbers(split, clips))
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
    directory: Path, expected: int
) -> "array_record_data_source.ArrayRecordDataSource":
    from array_record.python import array_record_data_source

    parts = part_paths(directory)
    found: int | str = 0
    if parts:
        try:
            records = array_record_data_source.ArrayRecordDataSource([str(part) for part in parts])
            found = len(records)
            if found == expected:
                return records
        except RuntimeError as error:
            found = str(error).splitlines()[0][:80]
    raise GenlabError(
        f"token store {directory}: {found} records in {len(parts)} parts, expected {expected}; "
        "delete and encode again"
    )
