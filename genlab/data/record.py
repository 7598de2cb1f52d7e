"""One clip of a token store as bytes, and what a store says of all its clips.

In: `TokenClip`. Out: a record, and back; a JSON header and raw little-endian arrays, whose lengths
follow from the header. `check_clip` says whether a record belongs to the store that `StoreInfo`
describes: a checksum says nothing about who wrote it.
"""

import json
import struct
from collections.abc import Collection
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, model_validator

from genlab.config import Config, GenlabError
from genlab.data.parts import PartValue
from genlab.data.text import encode_text
from genlab.run.stored import Count, Number
from genlab.tokens import TokenSpec

MOST_UNITS = 2**15  # units are stored as int16
SCHEMA = 2  # raise it when records, or what units mean, change
# What the reader of a record raises that is not as `pack_clip` wrote it.
UNREADABLE = (RuntimeError, ArithmeticError, ValueError, KeyError, TypeError, struct.error)


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


class Heading(NamedTuple):
    """What a clip of a token store is, without its tokens: enough to choose it."""

    id: str
    text: str
    speaker: str
    frames: int


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


def read_heading(record: bytes) -> Heading:
    """Return what a record says of its clip, without its tokens."""
    _, header = _read_header(record)
    return Heading(header["id"], header["text"], header["speaker"], header["frames"])


def unpack_clip(record: bytes) -> TokenClip:
    """Invert `pack_clip`."""
    length, header = _read_header(record)
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


def _read_header(record: bytes) -> tuple[int, dict[str, Any]]:
    (length,) = struct.unpack_from("<I", record)
    return length, json.loads(record[4 : 4 + length])


def check_clip(clip: TokenClip, info: StoreInfo, speakers: Collection[str]) -> None:
    """Make sure that a record is of the store: a checksum says nothing about who wrote it.

    On the device an index that is too large becomes the last one, and nobody would notice.
    `speakers` are those of the store, in a form that is looked up at once.

    Raises:
        ValueError: saying what does not fit.
    """
    texts, views = (clip.id, clip.text, clip.speaker, clip.path), (clip.codes, clip.latents)
    if not all(isinstance(text, str) for text in texts) or clip.speaker not in speakers:
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
