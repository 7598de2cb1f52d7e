"""The token store: a corpus after the frozen codec, on disk, ready for every decoder.

One directory holds `part-NNNNN.array_record` files (one record per clip: a JSON header and raw little-endian arrays of
codes int16, latents float16, units int16), the codec's code vectors, and one `dataset.json`, written last, so a
half-written store is never taken for a whole one. `dataset.json` pins the codec's fingerprint and the manifest's hash;
opening a store that another codec made is refused. Clips are ordered by split, so a split is a range of record numbers.
"""

import json
import os
import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np
from array_record.python import array_record_data_source, array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from jaxtyping import Float, Int
from pydantic import Field

from genlab.config import Config, GenlabError
from genlab.data.manifest import write_atomically
from genlab.data.text import encode_text
from genlab.decoders.base import Cond
from genlab.tokens import Tokens, TokenSpec

INFO_NAME = "dataset.json"  # written last: it makes a directory a store
SCHEMA = 2  # raise it when records, or what units mean, change


class SplitInfo(Config):
    """Where a split lies among the records."""

    first: int = Field(ge=0, lt=2**53)
    clips: int = Field(ge=0, lt=2**53)
    seconds: float


class StoreInfo(Config):
    """The contents of `dataset.json`."""

    schema_version: int = SCHEMA
    spec: TokenSpec
    codec_fingerprint: str
    units_fingerprint: str
    manifest_hash: str
    num_units: int
    speakers: tuple[str, ...]
    licences: tuple[str, ...]
    longest_text: int
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    splits: dict[str, SplitInfo]
    is_two_sided: bool = False


class TokenClip(NamedTuple):
    """One clip in the token space, with latents as the codec gave them (not normalised).

    `other` are the codes of the other side of a conversation.
    """

    id: str
    text: str
    speaker: str
    path: str
    codes: Int[np.ndarray, "t k"]
    latents: Float[np.ndarray, "t d"]
    units: Int[np.ndarray, "t"]
    other: Int[np.ndarray, "t k"] | None = None


def pack_clip(clip: TokenClip) -> bytes:
    """Serialise a clip: header length, JSON header, then the arrays in a fixed order and type.

    Raises:
        GenlabError: if the three arrays disagree on the number of frames.
    """
    frames, codebooks = clip.codes.shape
    if not frames == len(clip.latents) == len(clip.units):
        raise GenlabError(
            f"clip {clip.id!r}: {frames} frames of codes, {len(clip.latents)} of latents, {len(clip.units)} of units; "
            "codec and unit encoder must work at the same frame rate"
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
    offset = 4 + length
    codes = np.frombuffer(record, "<i2", frames * codebooks, offset).reshape(frames, codebooks)
    offset += codes.nbytes
    latents = np.frombuffer(record, "<f2", frames * channels, offset).reshape(frames, channels)
    offset += latents.nbytes
    units = np.frombuffer(record, "<i2", frames, offset)
    offset += units.nbytes
    other = np.frombuffer(record, "<i2", codes.size, offset).reshape(codes.shape) if header.get("other") else None
    return TokenClip(
        header["id"], header["text"], header["speaker"], header["path"],
        codes.astype(np.int32), latents.astype(np.float32), units.astype(np.int32),
        None if other is None else other.astype(np.int32),
    )  # fmt: skip


def write_part(path: Path, clips: Iterable[TokenClip]) -> None:
    """Write one part file; it appears under its name only when it is complete."""
    temporary = path.with_suffix(".tmp")
    # group_size:1 is what makes random access fast: the default reads 256 records to return one.
    writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
    for clip in clips:
        writer.write(pack_clip(clip))
    writer.close()
    os.replace(temporary, path)


def part_paths(directory: Path) -> list[Path]:
    """Return the part files in record order."""
    return sorted(directory.glob("part-*.array_record"))


def finish_store(directory: Path, info: StoreInfo) -> None:
    """Write `dataset.json`, which makes the directory a store."""
    write_atomically(directory / INFO_NAME, json.dumps(info.to_dict(), indent=1))


class TokenStore:
    """A finished store, open for reading.

    Args:
        directory: where `encode_corpus` wrote it.
        codec_fingerprint: when given, must be the fingerprint of the codec that made the store.

    Raises:
        GenlabError: if the store is missing, unfinished, of another schema, or was made by another codec.
    """

    def __init__(self, directory: Path, codec_fingerprint: str | None = None):
        self.directory = directory
        self.info = _read_info(directory)
        if codec_fingerprint not in (None, self.info.codec_fingerprint):
            raise GenlabError(
                f"token store {directory}: made by codec {self.info.codec_fingerprint}, but the config's codec is "
                f"{codec_fingerprint}; encode the corpus with that codec into another directory"
            )
        self._records = _open_records(directory, sum(split.clips for split in self.info.splits.values()))
        self.latent_mean = np.asarray(self.info.latent_mean, np.float32)
        self.latent_std = np.asarray(self.info.latent_std, np.float32)

    @cached_property
    def code_vectors(self) -> Float[np.ndarray, "k v d"]:
        """The codec's entries in normalised units: their sum over the levels of a frame is its quantised latents.

        Raises:
            GenlabError: if the store lost them.
        """
        path = self.directory / "code_vectors.npy"
        if not path.exists():
            raise GenlabError(
                f"token store {self.directory}: {path.name} is missing; delete the store and encode again"
            )
        vectors = np.load(path) / self.latent_std
        vectors[0] -= self.latent_mean / self.latent_std
        return vectors.astype(np.float32)

    def clip(self, index: int) -> TokenClip:
        """Return record `index`."""
        return unpack_clip(self._records[index])

    def split(self, name: str) -> SplitInfo:
        """Return the range of a split.

        Raises:
            GenlabError: if the store has no such split.
        """
        if name not in self.info.splits:
            raise GenlabError(f"split {name!r}: not in token store {self.directory}; it has {sorted(self.info.splits)}")
        return self.info.splits[name]

    def normalise(self, latents: Float[np.ndarray, "*b d"]) -> Float[np.ndarray, "*b d"]:
        """Scale latents to zero mean and unit deviation per channel, with statistics of the training split only."""
        return (latents - self.latent_mean) / self.latent_std

    def denormalise(self, latents: Float[np.ndarray, "*b d"]) -> Float[np.ndarray, "*b d"]:
        """Invert `normalise`."""
        return latents * self.latent_std + self.latent_mean

    def example(self, clip: TokenClip, num_frames: int, first_frame: int = 0) -> tuple[Tokens, Cond]:
        """Return one example of exactly `num_frames` frames, cut from `first_frame` and padded with zeros on the right.

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
        return tokens, Cond(speaker, text, units, np.bool_(False), other)  # pyright: ignore[reportArgumentType]

    def numbers(self, split: str, clips: int | None = None) -> list[int]:
        """Return the record numbers of a split, or of a fixed random part of it: less is always within more.

        Raises:
            GenlabError: if the split has fewer clips.
        """
        info = self.split(split)
        numbers = list(range(info.first, info.first + info.clips))
        if clips is None:
            return numbers
        if clips > info.clips:
            raise GenlabError(f"data.train_clips={clips}: split {split!r} has only {info.clips} clips; lower it")
        picked = np.random.default_rng(0).permutation(info.clips)[:clips]
        return [numbers[index] for index in sorted(picked)]

    def dataset(self, split: str, *, num_frames: int, seed: int, clips: int | None = None) -> grain.MapDataset:
        """Return an endless shuffled dataset of ((Tokens, Cond), record number); longer clips are cut at random places.

        Element i is a pure function of (seed, i), which is what makes the data of every arm identical and resume exact.
        """

        def crop(index: int, rng: np.random.Generator) -> tuple[tuple[Tokens, Cond], np.int32]:
            clip = self.clip(index)
            spare = max(0, len(clip.units) - num_frames)
            return self.example(clip, num_frames, int(rng.integers(spare + 1))), np.int32(index)

        numbers = grain.MapDataset.source(self.numbers(split, clips))
        return numbers.seed(seed).shuffle().repeat(None).random_map(crop)


def _read_info(directory: Path) -> StoreInfo:
    path = directory / INFO_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GenlabError(
            f"token store {directory}: no dataset.json, so it is missing or unfinished; run `genlab data CONFIG`"
        ) from None
    except ValueError as error:
        raise GenlabError(f"{path}: damaged ({error!s:.80}); delete {directory} and encode again") from None
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found != SCHEMA:
        raise GenlabError(f"token store {directory}: schema {found}, expected {SCHEMA}; delete it and encode again")
    return StoreInfo.from_dict(values)


def _open_records(directory: Path, expected: int) -> array_record_data_source.ArrayRecordDataSource:
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
        f"token store {directory}: {found} records in {len(parts)} parts, expected {expected}; delete and encode again"
    )
