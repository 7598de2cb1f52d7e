"""Well-known corpora of speech in the directory layout that they are distributed in.

In: the path of an unpacked LibriSpeech, LJSpeech, VCTK or Free Spoken Digit Dataset. Out: the rows
that `folder.import_files` converts. An official division is kept where there is one; elsewhere
texts are divided by hash. The report lists recordings without a transcript, and transcripts without
a recording. Corpora of classes are in classes.py.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from genlab.config import GenlabError
from genlab.data.folder import ImportConfig, existing_directory
from genlab.data.listing import Listing, Skipped, SourceRow, printable, read_bytes
from genlab.data.text import DIGITS


class LibriSpeech(ImportConfig):
    """LibriSpeech (Panayotov et al. 2015): SUBSET/SPEAKER/CHAPTER/*.flac with one .trans.txt per
    chapter.

    With a train-* and a dev-* or test-* subset the official division is kept; its speakers are
    disjoint too.
    """

    kind: Literal["librispeech"] = "librispeech"
    licence: str = "CC BY 4.0"
    """That of the corpus."""
    subsets: tuple[str, ...] = ()
    """Names such as train-clean-100; all that are there if empty."""

    def listing(self) -> Listing:
        """Return the utterances of the wanted subsets."""
        return list_librispeech(self)


class LJSpeech(ImportConfig):
    """LJSpeech 1.1 (Ito and Johnson 2017): wavs/*.wav and metadata.csv; one speaker."""

    kind: Literal["ljspeech"] = "ljspeech"
    licence: str = "public domain"
    """That of the corpus."""

    def listing(self) -> Listing:
        """Return the utterances of metadata.csv."""
        return list_ljspeech(self)


class VCTK(ImportConfig):
    """VCTK 0.92 (wav48_silence_trimmed/pNNN/*_mic1.flac) or 0.80 (wav48/pNNN/*.wav), with
    txt/pNNN/*.txt.
    """

    kind: Literal["vctk"] = "vctk"
    licence: str = "CC BY 4.0"
    """That of the corpus."""
    microphone: Literal["mic1", "mic2"] = "mic1"
    """Which of the two recordings of an utterance to read; 0.80 has one."""

    def listing(self) -> Listing:
        """Return the recordings of one microphone that have a text."""
        return list_vctk(self)


class FSDD(ImportConfig):
    """Free Spoken Digit Dataset: recordings/DIGIT_SPEAKER_INDEX.wav.

    It has ten texts, so texts cannot be disjoint: indices 0-4 are the official test split, 5-7
    serve as valid.
    """

    kind: Literal["fsdd"] = "fsdd"
    licence: str = "CC BY-SA 4.0"
    """That of the corpus."""
    shared_texts: bool = True
    """True, because the ten digits occur in every split."""

    def listing(self) -> Listing:
        """Return the recordings with the official test indices."""
        return list_fsdd(self)


def list_librispeech(config: LibriSpeech) -> Listing:
    """Return the utterances of the wanted subsets.

    Raises:
        GenlabError: if the path holds no such layout or lacks a subset.
    """
    root = existing_directory(config)
    prefix = "LibriSpeech/" if (root / "LibriSpeech").is_dir() else ""
    found = sorted({path.parents[2].name for path in (root / prefix).glob("*/*/*/*.trans.txt")})
    missing = sorted(set(config.subsets) - set(found))
    if missing:
        raise GenlabError(
            f"subsets: {missing[0]!r} is not in {config.path!r}, found {', '.join(found) or 'none'}"
        )
    subsets = config.subsets or tuple(found)
    # The official division needs both sides; train-* alone would leave nothing to test on.
    is_official = any(name.startswith("train") for name in subsets) and any(
        not name.startswith("train") for name in subsets
    )
    rows: list[SourceRow] = []
    skipped: list[Skipped] = []
    genders = _read_librispeech_genders(root, root / prefix / "SPEAKERS.TXT", skipped)
    for subset in subsets:
        split = (
            {"train": "train", "dev": "valid", "test": "test"}.get(subset.split("-")[0], "")
            if is_official
            else ""
        )
        for transcript in sorted((root / prefix / subset).glob("*/*/*.trans.txt")):
            chapter = transcript.parent
            lines = [line.partition(" ") for line in read_lines(root, transcript, skipped)]
            speaker = chapter.parent.name
            labels = {"subset": subset} | (
                {"gender": genders[speaker]} if speaker in genders else {}
            )
            folder = chapter.relative_to(root).as_posix()
            rows += [
                SourceRow(f"{folder}/{name}.flac", name, text.strip(), speaker, split, "", labels)
                for name, _, text in lines
            ]
            # Audio without a transcript would otherwise vanish silently.
            skipped += _find_unlisted(root, chapter, ".flac", {name for name, _, _ in lines})
    return checked_listing(config, rows, skipped, "SUBSET/SPEAKER/CHAPTER/*.trans.txt")


def list_ljspeech(config: LJSpeech) -> Listing:
    """Return the utterances of metadata.csv, with the normalised text where there is one."""
    root = existing_directory(config)
    prefix = "LJSpeech-1.1/" if (root / "LJSpeech-1.1").is_dir() else ""
    metadata = root / f"{prefix}metadata.csv"
    rows: list[SourceRow] = []
    skipped: list[Skipped] = []
    names: set[str] = set()
    lines = read_lines(root, metadata, skipped) if metadata.exists() else []
    for number, line in enumerate(lines, start=1):
        name, *texts = line.split("|")  # no quoting: texts contain bare quotation marks
        if not texts:
            skipped.append(
                Skipped(f"metadata.csv line {number}", "expected ID|TEXT|NORMALISED TEXT")
            )
            continue
        names.add(name)
        rows.append(SourceRow(f"{prefix}wavs/{name}.wav", name, texts[-1].strip(), "LJ"))
    skipped += _find_unlisted(root, root / f"{prefix}wavs", ".wav", names)
    return checked_listing(config, rows, skipped, "metadata.csv and wavs/*.wav")


def list_vctk(config: VCTK) -> Listing:
    """Return the recordings of one microphone that have a text."""
    root = existing_directory(config)
    prefix = next(
        (f"{name}/" for name in ("VCTK-Corpus-0.92", "VCTK-Corpus") if (root / name).is_dir()), ""
    )
    base = root / prefix
    new_layout = (base / "wav48_silence_trimmed").is_dir()
    audio, pattern = (
        ("wav48_silence_trimmed", f"*_{config.microphone}.flac")
        if new_layout
        else ("wav48", "*.wav")
    )
    rows: list[SourceRow] = []
    skipped: list[Skipped] = []
    for path in sorted((base / audio).glob(f"*/{pattern}")):
        # Both microphones share one transcript, named without the suffix.
        name = re.sub(r"_mic[12]$", "", path.stem)
        relative = path.relative_to(root).as_posix()
        transcript = base / "txt" / path.parent.name / f"{name}.txt"
        if not transcript.exists():
            skipped.append(Skipped(relative, f"no transcript txt/{path.parent.name}/{name}.txt"))
            continue
        unread = len(skipped)
        lines = read_lines(root, transcript, skipped)
        # `read_lines` notes an unreadable transcript itself.
        if len(skipped) == unread:
            rows.append(SourceRow(relative, name, " ".join(lines), path.parent.name))
    return checked_listing(
        config,
        rows,
        skipped,
        "wav48_silence_trimmed/pNNN/*_mic1.flac (or wav48/pNNN/*.wav) and txt/pNNN/*.txt",
    )


def list_fsdd(config: FSDD) -> Listing:
    """Return the recordings with the official test indices."""
    root = existing_directory(config)
    rows, skipped = [], []
    folder = root / "recordings"
    for path in sorted(folder.glob("*.wav") if folder.is_dir() else root.glob("*.wav")):
        relative = path.relative_to(root).as_posix()
        parts = re.fullmatch(r"([0-9])_(.+)_([0-9]+)", path.stem)
        if parts is None:
            skipped.append(Skipped(relative, "name is not DIGIT_SPEAKER_INDEX.wav"))
            continue
        digit = int(parts[1])
        speaker = parts[2]
        index = int(parts[3])
        split = "test" if index < 5 else "valid" if index < 8 else "train"
        rows.append(
            SourceRow(relative, path.stem, DIGITS[digit], speaker, split, "", {"index": index})
        )
    return checked_listing(config, rows, skipped, "recordings/DIGIT_SPEAKER_INDEX.wav")


def checked_listing(
    config: ImportConfig, rows: list[SourceRow], skipped: list[Skipped], expected: str
) -> Listing:
    """Return the listing of a layout.

    Raises:
        GenlabError: if there is no row, so that the path holds something else.
    """
    if not rows:
        raise GenlabError(
            f"path: {config.path!r} does not look like {type(config).__name__}, expected {expected}"
        )
    return Listing(rows, skipped, [])


def read_lines(root: Path, path: Path, skipped: list[Skipped]) -> list[str]:
    """Return the lines of a transcript that are not empty; bytes that are not UTF-8 become
    surrogates.

    The rows that hold those are skipped on import; a file that cannot be read goes to `skipped`.
    """
    try:
        text = read_bytes(path).removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        skipped.append(Skipped(printable(path.relative_to(root).as_posix()), reason))
        return []
    return [line.strip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]


def _find_unlisted(root: Path, folder: Path, suffix: str, names: set[str]) -> Iterator[Skipped]:
    for path in sorted(folder.glob(f"*{suffix}")):
        if path.stem not in names:
            yield Skipped(path.relative_to(root).as_posix(), "no transcript")


def _read_librispeech_genders(root: Path, path: Path, skipped: list[Skipped]) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = [line for line in read_lines(root, path, skipped) if not line.startswith(";")]
    table = [[field.strip() for field in line.split("|")] for line in lines]
    return {fields[0]: fields[1] for fields in table if len(fields) > 1}
