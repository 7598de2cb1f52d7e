"""Encode a corpus once with the frozen codec: manifest in, token store out.

Clips are sorted by split and length and encoded in pieces of `PART_CLIPS`, in compiled batches. A
piece appears only when it is whole, and its latent sums and its digest beside it after that, so an
interrupted encoding resumes with the first piece that is missing or damaged. Pieces of `PART_BYTES`
together become one part, and are removed once it is whole. The store's name holds
the manifest hash and the fingerprints of codec and unit encoder: a change of any of them makes
another store. Two processes that want the same store take turns: the second one finds it finished.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pydantic
from jaxtyping import Float, Int
from typing_extensions import TypedDict

from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError, digest
from genlab.data.audio import SPEECH_AUDIO, hear
from genlab.data.corpus import Progress
from genlab.data.digests import FileDigest, digest_file
from genlab.data.manifest import Clip, Manifest
from genlab.data.part_files import PART_BYTES, PART_SUFFIX, join_parts, part_paths, write_part
from genlab.data.parts import PartValue
from genlab.data.record import Heading
from genlab.data.store import (
    INFO_NAME,
    SCHEMA,
    SplitInfo,
    StoreInfo,
    TokenClip,
    TokenStore,
    finish_store,
    save_vectors,
)
from genlab.data.text import encode_text
from genlab.data.units import Units
from genlab.data.valued import Valued
from genlab.run.cache import only_builder
from genlab.run.shared import fetch, share
from genlab.run.stored import (
    OPEN,
    Count,
    DamagedError,
    Number,
    read_stored,
    remove_leftovers,
    write_atomically,
)

PART_CLIPS = 128
BATCH_CLIPS = 32


@pydantic.with_config(OPEN)
class PartFacts(TypedDict):
    """What lies beside a part: sums over the latents of its training frames, and what it held when
    it was written.
    """

    frames: Count
    sum: list[Number]
    squares: list[Number]
    part: FileDigest
    digest: str


def store_directory(manifest: Manifest, codec: FrozenCodec, units: Units, cache_dir: Path) -> Path:
    """Return where the token store of this corpus, codec and unit encoder lives."""
    key = digest([SCHEMA, PART_CLIPS, manifest.hash(), codec.fingerprint, units.fingerprint])
    return cache_dir / f"tokens-{manifest.hash()}-{key}"


def encode_corpus(
    manifest: Manifest,
    codec: FrozenCodec,
    units: Units,
    cache_dir: Path,
    progress: Progress | None = None,
) -> TokenStore:
    """Return the token store of `manifest`, encoding what is missing.

    Raises:
        GenlabError: if the manifest holds no clip, or the codec keeps part of the audio outside the
            time stream.
    """
    if codec.spec.side_channels:
        raise GenlabError(
            f"codec: it has {codec.spec.side_channels} side channels, which no decoder predicts "
            "yet; compare decoders on a codec with side_channels=0"
        )
    directory = store_directory(manifest, codec, units, cache_dir)
    if not manifest.clips:
        raise GenlabError(
            f"corpus {manifest.root}: no clips to encode; check the reasons in its report"
        )
    if not (directory / INFO_NAME).exists():
        with only_builder(directory / ".lock"):
            remove_leftovers(directory)
            # Another process may have finished it meanwhile.
            if not (directory / INFO_NAME).exists() and not fetch(directory, INFO_NAME):
                _encode_missing(directory, manifest, codec, units, progress)
    share(directory, INFO_NAME)
    return TokenStore(directory, codec.fingerprint)


class PlannedStore(TokenStore):
    """The store that `encode_corpus` would make, with zeros for its tokens: enough to solve a
    budget before it is made.

    Args:
        manifest: the corpus.
        codec: gives the token space and the frames of every clip.
        units: gives the number of units.
        parts: the named conditions that clips are to have; their values are zeros too.
    """

    def __init__(
        self,
        manifest: Manifest,
        codec: FrozenCodec,
        units: Units,
        parts: Sequence[Valued] = (),
    ):
        self.directory = manifest.root
        self._parts = parts
        self._clips = manifest.in_record_order()
        self._codec = codec
        zeros = [0.0] * codec.spec.latent_channels
        nothing = PartFacts(
            frames=1, sum=zeros, squares=zeros, part=FileDigest(bytes=0, sha256="0" * 64), digest=""
        )
        self.info = _describe(self._clips, manifest, codec, units, [nothing])
        self._texts = {}
        self.latent_mean = np.asarray(self.info.latent_mean, np.float32)
        self.latent_std = np.asarray(self.info.latent_std, np.float32)

    @cached_property
    def code_vectors(self) -> Float[np.ndarray, "k v d"]:
        """The codec's entries."""
        return self._codec.code_vectors

    def frames(self, numbers: Sequence[int]) -> Int[np.ndarray, "n"]:
        """Return how many frames each of these records will have."""
        sizes = (self._clips[number].num_samples for number in numbers)
        return np.array([self._codec.count_frames(size) for size in sizes], np.int32)

    def heading(self, index: int) -> Heading:
        """Return what record `index` will say of its clip."""
        clip = self._clips[index]
        frames = self._codec.count_frames(clip.num_samples)
        return Heading(clip.id, clip.text, clip.speaker, frames)

    def clip(self, index: int) -> TokenClip:
        """Return record `index`, whose tokens are zeros."""
        clip = self._clips[index]
        spec = self._codec.spec
        frames = self._codec.count_frames(clip.num_samples)
        codes = np.zeros((frames, spec.codebooks), np.int32)
        latents = np.zeros((frames, spec.latent_channels))
        other = codes if clip.other_path is not None else None
        units = np.ones(frames, np.int32)
        told = tuple(
            PartValue(
                part.name,
                np.zeros((*([frames] if part.is_per_frame else []), *part.shape), part.dtype),
                part.is_per_frame,
            )
            for part in self._parts
        )
        found = TokenClip(clip.id, clip.text, clip.speaker, clip.path, codes, latents, units, other)
        return found._replace(parts=told)


def pieces_directory(directory: Path) -> Path:
    """Return where workers (pieces.py) put the pieces of a store, beside it."""
    return directory.with_name(f".{directory.name}.pieces")


def _take_pieces(directory: Path) -> None:
    """Move what workers made into the store; what they left half made goes."""
    made = pieces_directory(directory)
    for path in sorted(made.glob(f"part-*{PART_SUFFIX}")):
        facts = path.with_suffix(".json")
        if facts.exists():
            os.replace(path, directory / path.name)
            os.replace(facts, directory / facts.name)
    shutil.rmtree(made, ignore_errors=True)


def find_missing(directory: Path, num_clips: int) -> list[int]:
    """Return the numbers of the pieces that no earlier attempt joined or made."""
    numbers, num_pieces = [], math.ceil(num_clips / PART_CLIPS)
    number = 0
    while number < num_pieces:
        joined = _find_joined(directory, number)
        if joined is not None:
            number = int(joined[0].stem.split("-")[2])
        elif read_part(directory / f"part-{number:05d}{PART_SUFFIX}") is None:
            numbers.append(number)
        number += 1
    return numbers


def _encode_missing(
    directory: Path,
    manifest: Manifest,
    codec: FrozenCodec,
    units: Units,
    progress: Progress | None,
) -> None:
    # first: a codec without codes must not cost the wait for its latents
    code_vectors = codec.code_vectors
    _take_pieces(directory)
    clips = manifest.in_record_order()
    parts: dict[str, PartFacts] = {}
    pieces: dict[Path, PartFacts] = {}
    number, num_pieces = 0, math.ceil(len(clips) / PART_CLIPS)
    while number < num_pieces:
        joined = None if pieces else _find_joined(directory, number)
        if joined is not None:
            path, parts[path.name] = joined
            number = int(path.stem.split("-")[2]) + 1
        else:
            piece = clips[number * PART_CLIPS : (number + 1) * PART_CLIPS]
            path = directory / f"part-{number:05d}{PART_SUFFIX}"
            pieces[path] = read_part(path) or encode_part(path, piece, manifest, codec, units)
            number += 1
            size = sum(facts["part"]["bytes"] for facts in pieces.values())
            if size >= PART_BYTES or number == num_pieces:
                path, parts[path.name] = _join(pieces)
                pieces = {}
        if progress is not None:
            progress("encode", min(number * PART_CLIPS, len(clips)), len(clips))
    for path in part_paths(directory):
        if path.name not in parts:  # pieces of what is joined
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)
    save_vectors(directory, code_vectors)
    info = _describe(clips, manifest, codec, units, list(parts.values()))
    finish_store(directory, info, {name: facts["part"] for name, facts in parts.items()})


def _find_joined(directory: Path, first: int) -> tuple[Path, PartFacts] | None:
    """Return the part that an earlier attempt joined from the pieces from `first` on."""
    for path in directory.glob(f"part-{first:05d}-*{PART_SUFFIX}"):
        facts = read_part(path)
        if facts is not None:
            return path, facts
    return None


def _join(pieces: Mapping[Path, PartFacts]) -> tuple[Path, PartFacts]:
    """Return the part made of pieces, which are removed once it is whole."""
    names = list(pieces)
    first, last = names[0], names[-1]
    if first == last:
        return first, pieces[first]
    path = first.with_name(f"{first.stem}-{last.stem.removeprefix('part-')}{PART_SUFFIX}")
    facts = PartFacts(
        frames=sum(piece["frames"] for piece in pieces.values()),
        sum=np.sum([piece["sum"] for piece in pieces.values()], axis=0).tolist(),
        squares=np.sum([piece["squares"] for piece in pieces.values()], axis=0).tolist(),
        part=join_parts(list(pieces), path),
        digest="",
    )
    _write_facts(path, facts)
    for piece in pieces:
        piece.unlink()
        piece.with_suffix(".json").unlink()
    return path, facts


def read_part(path: Path) -> PartFacts | None:
    """Return what is known of a part that an earlier attempt wrote; None if it has to be made."""
    facts_path = path.with_suffix(".json")
    fix = "encoding it again"
    if not (path.exists() and facts_path.exists()):
        return None
    try:
        facts = read_stored(facts_path, PartFacts, fix=fix)
    except DamagedError as error:
        print(error, file=sys.stderr)
        return None
    if (
        facts is None
        or _digest_facts(facts) != facts["digest"]
        or digest_file(path) != facts["part"]
    ):
        print(f"{path}: damaged: it or its sums do not match their digest; {fix}", file=sys.stderr)
        return None
    return facts


def _digest_facts(facts: PartFacts) -> str:
    return digest({name: value for name, value in facts.items() if name != "digest"})


def encode_part(
    path: Path, clips: Sequence[Clip], manifest: Manifest, codec: FrozenCodec, units: Units
) -> PartFacts:
    """Encode clips into one part file with its sums beside it, and return them."""
    encoded = list(_encode_clips(clips, manifest, codec, units))
    train = [tokens.latents for clip, tokens in zip(clips, encoded) if clip.split == "train"]
    stacked = (
        np.concatenate(train).astype(np.float64)
        if train
        else np.zeros((0, codec.spec.latent_channels))
    )
    facts = PartFacts(
        frames=len(stacked),
        sum=stacked.sum(axis=0).tolist(),
        squares=(stacked**2).sum(axis=0).tolist(),
        part=write_part(path, encoded),
        digest="",
    )
    _write_facts(path, facts)
    return facts


def _write_facts(path: Path, facts: PartFacts) -> None:
    facts["digest"] = _digest_facts(facts)
    write_atomically(path.with_suffix(".json"), json.dumps(facts))


def _encode_clips(
    clips: Sequence[Clip], manifest: Manifest, codec: FrozenCodec, units: Units
) -> Iterator[TokenClip]:
    for first in range(0, len(clips), BATCH_CLIPS):
        batch = clips[first : first + BATCH_CLIPS]
        waves = [manifest.audio(clip).astype(np.float32) / 32768.0 for clip in batch]
        # A short last batch is filled up with its own first clip: one compiled shape, results cut
        # off again.
        filled = waves + [waves[0]] * (BATCH_CLIPS - len(waves))
        others = _encode_others(batch, manifest, codec)
        heard = [hear(wave, manifest.audio_format, SPEECH_AUDIO) for wave in filled]
        for clip, (codes, latents), unit, other in zip(
            batch, codec.encode(filled), units.encode_units(heard), others
        ):
            aligned = align_units(unit, len(codes))
            yield TokenClip(
                clip.id, clip.text, clip.speaker, clip.path, codes, latents, aligned, other
            )


def _encode_others(
    batch: Sequence[Clip], manifest: Manifest, codec: FrozenCodec
) -> list[Int[np.ndarray, "t k"]] | list[None]:
    """Return the codes of the other side of each clip, if there is one."""
    waves = [
        wave.astype(np.float32) / 32768.0
        for clip in batch
        if (wave := manifest.other_audio(clip)) is not None
    ]
    if not waves:
        return [None] * len(batch)
    if len(waves) < len(batch):
        one_sided = next(clip.id for clip in batch if clip.other_path is None)
        raise GenlabError(
            f"clip {one_sided!r}: it has one side, others in the corpus have two; split the corpus"
        )
    return [codes for codes, _ in codec.encode(waves + [waves[0]] * (BATCH_CLIPS - len(waves)))][
        : len(batch)
    ]


def align_units(units: Int[np.ndarray, "u"], num_frames: int) -> Int[np.ndarray, "t"]:
    """Return the unit under the centre of each codec frame.

    At 50 frames/s that is every unit. A codec at 75 frames/s repeats some; one at 12.5 keeps one in
    four, so its content is coarser: train it on text, or count that in when codecs are compared.
    """
    if len(units) == num_frames:
        return units
    centres = (np.arange(num_frames) + 0.5) * len(units) / num_frames
    return units[np.minimum(centres.astype(int), len(units) - 1)]


def _describe(
    clips: Sequence[Clip],
    manifest: Manifest,
    codec: FrozenCodec,
    units: Units,
    parts: Sequence[PartFacts],
) -> StoreInfo:
    frames = max(1, sum(part["frames"] for part in parts))
    mean = np.sum([part["sum"] for part in parts], axis=0) / frames
    variance = np.sum([part["squares"] for part in parts], axis=0) / frames - mean**2
    splits: dict[str, SplitInfo] = {}
    for number, clip in enumerate(clips):
        old = splits.get(clip.split, SplitInfo(first=number, clips=0, seconds=0.0))
        splits[clip.split] = SplitInfo(
            first=old.first, clips=old.clips + 1, seconds=old.seconds + clip.duration_s
        )
    return StoreInfo(
        spec=codec.spec,
        codec_fingerprint=codec.fingerprint,
        units_fingerprint=units.fingerprint,
        manifest_hash=manifest.hash(),
        num_units=units.num_units,
        speakers=manifest.speakers,
        licences=tuple(sorted({clip.licence for clip in clips})),
        longest_text=max(1, max(len(encode_text(clip.text)) for clip in clips)),
        latent_mean=tuple(mean.tolist()),
        # A dead channel would blow up under division; it carries nothing, so leave it as it is.
        latent_std=tuple(np.where(variance > 1e-8, np.sqrt(np.maximum(variance, 0)), 1.0).tolist()),
        splits=splits,
        is_two_sided=any(clip.other_path is not None for clip in clips),
    )
