"""The one table every corpus is turned into: a clip per row, with its text, speaker, split and
licence.

In: clips from a corpus builder. Out: `Manifest`, saved as `manifest.jsonl` beside the audio that
it names. `hash()` covers what the rows mean and no absolute path, so two machines that built the
same corpus agree. Splits are drawn from a seeded hash of the normalised text, never from the order
of files: adding a clip cannot move another one.
"""

import dataclasses
import hashlib
import io
import re
import tokenize
import zipfile
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Int, Shaped

from genlab.config import GenlabError
from genlab.data.audio import AudioFormat, read_flac
from genlab.data.clip import Clip as Clip
from genlab.data.digests import Digests, rebuild
from genlab.data.rows import hold, read_rows, write_rows
from genlab.data.text import normalise_text
from genlab.run.shared import fetch_file

MANIFEST_NAME = "manifest.jsonl"
F0_HOP_SAMPLES = 200  # F0 truth has one value per 12.5 ms at 16 kHz


class Manifest:
    """The clips of one corpus and the directory that their paths start from.

    Files are compared with `digests` when they are first read, if the corpus has any.
    """

    def __init__(self, clips: Iterable[Clip], root: Path, digests: Digests | None = None):
        self.root = Path(root)
        self.clips = hold(clips, self.root)
        self._digests = digests

    @cached_property
    def speakers(self) -> tuple[str, ...]:
        """All speakers, sorted: a speaker's index in this tuple is its number."""
        return self.clips.speakers

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """All distinct texts, sorted."""
        return tuple(sorted({clip.text for clip in self.clips}))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """All split names, sorted."""
        return self.clips.splits

    @cached_property
    def audio_format(self) -> AudioFormat:
        """Rate and channels of every clip.

        Raises:
            GenlabError: if they differ between clips.
        """
        found = self.clips.formats
        if len(found) > 1:
            raise GenlabError(
                f"manifest in {self.root}: clips at {found[0]} and at {found[1]}, expected one "
                "format; write all audio of a corpus at one rate with the same channels"
            )
        return found[0] if found else AudioFormat()

    @property
    def duration_s(self) -> float:
        """Seconds of audio in all splits."""
        return self.clips.seconds

    def split(self, name: str) -> Sequence[Clip]:
        """Return the clips of split `name`, in manifest order.

        Raises:
            GenlabError: if no clip is in that split.
        """
        clips = self.clips.split(name)
        if not clips:
            raise GenlabError(
                f"split {name!r}: no such split in this corpus, expected one of "
                f"{', '.join(self.splits)}"
            )
        return clips

    def find(self, ids: Iterable[str]) -> dict[str, Clip]:
        """Return the clips of these ids, by id; what the manifest lacks is left out."""
        return self.clips.find(ids)

    def in_record_order(self) -> Sequence[Clip]:
        """Return the clips by split, length and id: the order of a token store's records."""
        return self.clips.in_record_order()

    def audio(self, clip: Clip) -> Int[np.ndarray, "s *c"]:
        """Return the 16-bit samples of `clip` at its rate, of shape (samples, 2) if it is stereo.

        Raises:
            GenlabError: if the file is damaged.
        """
        return read_flac(self._intact(clip.path))

    def other_audio(self, clip: Clip) -> Int[np.ndarray, "s"] | None:
        """Return the other side of the conversation, in step with `audio`; None if the clip has one
        side.

        Raises:
            GenlabError: if the file is damaged.
        """
        return None if clip.other_path is None else read_flac(self._intact(clip.other_path))

    def f0_hz(self, clip: Clip) -> Float[np.ndarray, "t"]:
        """Return the true F0 of `clip` every `F0_HOP_SAMPLES` samples; 0 where it is unvoiced.

        Raises:
            GenlabError: if this corpus knows no F0, or the file is damaged.
        """
        if clip.f0_path is None:
            raise GenlabError(
                f"clip {clip.id!r}: this corpus has no F0 truth, only the embedded one has"
            )
        return read_array(self._intact(clip.f0_path), ndim=1, fix=rebuild(self.root))

    def has(self, name: str) -> bool:
        """Return whether the corpus has a file of that name below its root.

        Raises:
            GenlabError: if it should have it, and it is missing or damaged.
        """
        if self._digests is None:
            return (self.root / name).exists()
        if name in self._digests.files:
            self._digests.compare(name)
        return name in self._digests.files

    def _intact(self, name: str) -> Path:
        """Return the path of a file of the corpus once it is known to hold what was written."""
        fetch_file(self.root, name)
        if self._digests is not None:
            self._digests.compare(name)
        return self.root / name

    def hash(self) -> str:
        """Return 10 hex digits over ids, texts, speakers, splits, licences, labels and audio
        digests.

        Sample counts and paths stay out: trimming may move by a frame between CPU types.
        """
        return self.clips.hash

    def save(self, directory: Path) -> None:
        """Write `manifest.jsonl` atomically: it is whole or absent. Beside that of a large corpus
        lies an index of its rows (rows.py).
        """
        write_rows(Path(directory) / MANIFEST_NAME, self.clips)

    @classmethod
    def load(cls, directory: Path) -> "Manifest":
        """Read the manifest of a built corpus.

        Raises:
            GenlabError: if it is missing or damaged.
        """
        directory = Path(directory)
        path = directory / MANIFEST_NAME
        fix = f"delete {directory} and build it again"
        if not path.exists():
            raise GenlabError(f"{path}: no corpus here, build it with `genlab data`")
        digests = Digests.load(directory)
        try:
            return cls(read_rows(path, digests, fix), directory, digests)
        except (ValueError, RecursionError) as error:
            raise GenlabError(f"{path}: damaged manifest ({error!s:.120}); {fix}") from None


def read_array(path: Path, *, ndim: int, fix: str) -> Float[np.ndarray, "..."]:
    """Return the array of floats in a .npy file.

    Raises:
        GenlabError: if the file is damaged.
    """
    values = load_array(path, fix=fix)
    if values.ndim != ndim or values.dtype.kind != "f":
        raise GenlabError(f"{path}: damaged: expected floats in {ndim} dimensions; {fix}")
    if not np.isfinite(values).all():
        raise GenlabError(f"{path}: damaged: expected finite numbers; {fix}")
    return values


# What numpy raises for a file that is damaged, or whose header was written by somebody who wishes
# harm: its parser of Python literals, and shapes that no memory holds.
UNREADABLE_ARRAY = (
    *(OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError),
    *(tokenize.TokenError, zipfile.BadZipFile),
)


def load_array(path: Path, *, fix: str, is_mapped: bool = False) -> Shaped[np.ndarray, "..."]:
    """Return the array in a .npy file of numbers; an archive of arrays or pickled objects are none.

    Raises:
        GenlabError: if the file is damaged or holds anything else.
    """
    return _load_numbers(path, str(path), fix, "r" if is_mapped else None)


def parse_array(content: bytes, *, where: str, fix: str) -> Shaped[np.ndarray, "..."]:
    """Return the array in the bytes of a .npy file, as `load_array` does; `where` names them in
    errors.

    Raises:
        GenlabError: as `load_array`.
    """
    return _load_numbers(io.BytesIO(content), where, fix, None)


def _load_numbers(
    source: Path | io.BytesIO, where: str, fix: str, mapped: Literal["r"] | None
) -> Shaped[np.ndarray, "..."]:
    try:
        values = np.load(source, mmap_mode=mapped, allow_pickle=False)
    except UNREADABLE_ARRAY as error:
        reason = " ".join((str(error) or type(error).__name__).split())
        raise GenlabError(f"{where}: damaged: {reason:.80}; {fix}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise GenlabError(f"{where}: damaged: expected one array of numbers; {fix}")
    return values


def fraction_of(*key: object) -> float:
    """Return a number in [0, 1) that depends on `key` alone, the same on every machine."""
    return (
        int.from_bytes(hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()[:8], "big")
        / 2.0**64
    )


def assign_splits(
    clips: Sequence[Clip],
    *,
    seed: int,
    valid_fraction: float,
    test_fraction: float,
    pair_fraction: float = 0.0,
    held_out_speakers: Collection[str] = (),
    train_texts: Collection[str] = (),
) -> list[Clip]:
    """Return `clips` with `split` set; a clip that already has one keeps it, unless its speaker is
    held out.

    "test" and "valid" hold texts that "train" lacks (a clip without text counts as its own text).
    "test_pair" holds texts and speakers that "train" has, but never together. "test_speaker" holds
    every clip of `held_out_speakers`. `train_texts` are never held out, for fixed sentences whose
    words occur nowhere else.

    Raises:
        GenlabError: if a held-out speaker does not occur.
    """
    unknown = sorted(set(held_out_speakers) - {clip.speaker for clip in clips})
    if unknown:
        known = ", ".join(sorted({clip.speaker for clip in clips})[:12])
        raise GenlabError(
            f"held_out_speakers: no speaker {unknown[0]!r} in this corpus, expected some of {known}"
        )
    free = [clip for clip in clips if not clip.split and clip.speaker not in held_out_speakers]
    split_of_text = _split_texts(
        {text_key(clip) for clip in free},
        seed,
        valid_fraction,
        test_fraction,
        {normalise_text(text) for text in train_texts},
    )
    split_of_id = {clip.id: split_of_text[text_key(clip)] for clip in free}
    by_text: dict[str, list[Clip]] = {}
    for clip in free:
        if split_of_id[clip.id] == "train":
            by_text.setdefault(text_key(clip), []).append(clip)
    for text, group in by_text.items():
        held = {
            clip.speaker
            for clip in group
            if fraction_of("pair", seed, clip.speaker, text) < pair_fraction
        }
        if held != {clip.speaker for clip in group}:  # at least one speaker says the text in train
            split_of_id |= {clip.id: "test_pair" for clip in group if clip.speaker in held}
    # What is neither given nor drawn belongs to a held-out speaker.
    given = {
        clip.id: clip.split
        for clip in clips
        if clip.split and clip.speaker not in held_out_speakers
    }
    split_of_id = given | split_of_id
    return [
        dataclasses.replace(clip, split=split_of_id.get(clip.id, "test_speaker")) for clip in clips
    ]


Unit = Literal["text", "speaker"]


class Spoken(Protocol):
    """What `text_key` and `speaker_key` read: a clip of a manifest or of a token store."""

    @property
    def id(self) -> str:
        """The name of the clip."""
        ...

    @property
    def text(self) -> str:
        """What is said, empty if nobody wrote it down."""
        ...

    @property
    def speaker(self) -> str:
        """Who speaks."""
        ...


def speaker_key(clip: Spoken) -> str:
    """Return the speaker, or the clip itself if nobody is named.

    The statistical unit where many people say a few texts: with texts as units three words would be
    three units, however many people were heard.
    """
    return clip.speaker or f"clip {clip.id}"


def text_key(clip: Spoken) -> str:
    """Return the text without case and punctuation, or the clip itself if it has none.

    This is the statistical unit of speech: splits are drawn by it, and intervals resample it.
    Clips of one text are one unit, even from different speakers; clips without text are a unit
    each, since otherwise a corpus without text would be one unit.
    """
    # Other scripts vanish in the symbol alphabet, and then all their texts would look the same.
    words = (
        normalise_text(clip.text)
        if clip.text.isascii()
        else " ".join(re.findall(r"\w+", clip.text.casefold()))
    )
    return words or f"clip {clip.id}"


def overlap_of_splits(clips: Iterable[Clip]) -> list[tuple[Clip, Clip]]:
    """Return each clip whose recording is also in a split held out from it, with that other clip.

    Recordings are compared by the digest of their samples: "train" with all other splits, and
    "valid" with those that are neither.
    """
    pairs = []
    for group in copies(clips):
        last = max(group, key=split_rank)
        pairs += [(clip, last) for clip in group if split_rank(clip) < split_rank(last)]
    return pairs


def copies(clips: Iterable[Clip]) -> list[list[Clip]]:
    """Return the groups of clips with the same samples; rendered clips have no digest."""
    groups: dict[tuple[str, int], list[Clip]] = {}
    for clip in clips:
        if clip.audio_digest:
            # A digest of 40 bits may repeat by chance in a large corpus, but hardly at the same
            # length.
            groups.setdefault((clip.audio_digest, clip.num_samples), []).append(clip)
    return [group for group in groups.values() if len(group) > 1]


def join_copies(clips: Sequence[Clip], is_drawn: Collection[str]) -> list[Clip]:
    """Return `clips` with the drawn copies of a recording in one split, the one nearest to train.

    `is_drawn` holds the ids of the clips whose split nobody gave.
    """
    split_of_id: dict[str, str] = {}
    for group in copies(clip for clip in clips if clip.id in is_drawn):
        split_of_id |= dict.fromkeys((clip.id for clip in group), min(group, key=split_rank).split)
    return [dataclasses.replace(clip, split=split_of_id.get(clip.id, clip.split)) for clip in clips]


def split_rank(clip: Clip) -> int:
    """Return how far a clip is held out: 0 in train, 1 in valid, 2 in every other split."""
    return {"train": 0, "valid": 1}.get(clip.split, 2)


def _split_texts(
    texts: Collection[str],
    seed: int,
    valid_fraction: float,
    test_fraction: float,
    train_texts: Collection[str],
) -> dict[str, str]:
    place = {text: fraction_of("text", seed, text) for text in texts}
    movable = sorted((text for text in texts if text not in train_texts), key=place.__getitem__)
    result = dict.fromkeys(texts, "train")
    for text in movable:
        if place[text] < test_fraction:
            result[text] = "test"
        elif place[text] < test_fraction + valid_fraction:
            result[text] = "valid"
    # A tiny corpus may draw an empty split; the nearest text fills it, as long as train keeps one.
    for name, fraction in (("test", test_fraction), ("valid", valid_fraction)):
        spare = [text for text in movable if result[text] == "train"]
        if fraction > 0 and name not in result.values() and len(spare) > 1:
            result[spare[0]] = name
    return result
