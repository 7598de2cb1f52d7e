"""Well-known corpora of classes in the directory layout that they are distributed in: a word or a
kind of sound per clip.

In: the path of an unpacked Speech Commands or ESC-50. Out: the rows that `folder.import_files`
converts, in their official divisions. The class is a label of the clip, and of sounds it is the
speaker too: that is the label which every decoder can be told.
"""

import csv
import hashlib
import io
import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from genlab.config import GenlabError, added
from genlab.data.folder import ImportConfig, existing_directory
from genlab.data.layouts import checked_listing, read_lines
from genlab.data.listing import Listing, Skipped, SourceRow, count_of, printable, shorten
from genlab.data.recipe import DomainName

BACKGROUND = "_background_noise_"
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
# The rule by which the authors made their lists (README of the data set): a hash of the speaker.
HASH_RANGE = 2**27
HELD_OUT_PERCENT = 10.0


class SpeechCommands(ImportConfig):
    """Speech Commands v0.01 or v0.02 (Warden 2018, arXiv 1804.03209): WORD/SPEAKER_nohash_TAKE.wav,
    one second each.

    Splits are the authors' lists, so speakers are disjoint; where a list is missing, the rule by
    which they made it. Long recordings in _background_noise_ are no clips.
    """

    kind: Literal["speech_commands"] = "speech_commands"
    licence: str = "CC BY 4.0"
    """That of the corpus."""
    shared_texts: bool = True
    """True, because every word occurs in every split."""
    words: tuple[str, ...] = ()
    """Names such as bed and cat; all that are there if empty."""

    def listing(self) -> Listing:
        """Return the recordings of the wanted words.

        Raises:
            GenlabError: if the path holds no such layout or lacks a word.
        """
        return list_speech_commands(self)


class ESC50(ImportConfig):
    """ESC-50 (Piczak 2015, doi 10.1145/2733373.2806390): audio/*.wav and meta/esc50.csv, 2,000
    sounds of 5 s in 50 classes.

    Splits are made of its folds, which keep clips of one recording together.
    """

    kind: Literal["esc50"] = "esc50"
    domain: DomainName = added("sound")
    """What the clips are: it decides which metrics score them (evaluate/domains.py)."""
    licence: str = "CC BY-NC 3.0"
    """That of the corpus; its subset ESC-10 is under CC BY 3.0."""
    esc10: bool = False
    """Only the 400 sounds of the ten classes of ESC-10."""
    valid_fold: int = Field(default=4, ge=1, le=5)
    """The fold that is split valid."""
    test_fold: int = Field(default=5, ge=1, le=5)
    """The fold that is split test."""

    def listing(self) -> Listing:
        """Return the sounds of the table.

        Raises:
            GenlabError: if the path holds no such layout, or one fold is to be two splits.
        """
        return list_esc50(self)


def list_speech_commands(config: SpeechCommands) -> Listing:
    """Return the recordings of the wanted words, in the splits of the authors."""
    root = existing_directory(config)
    folders = sorted(
        path.name
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith(("_", "."))
    )
    missing = sorted(set(config.words) - set(folders))
    if missing:
        raise GenlabError(
            f"words: {missing[0]!r} is not in {config.path!r}, found "
            f"{', '.join(folders[:40]) or 'none'}"
        )
    words = sorted(config.words or folders)
    rows: list[SourceRow] = []
    skipped: list[Skipped] = []
    split_of = _read_lists(root, set(words), skipped)
    for word in words:
        for path in sorted((root / word).iterdir()):
            relative = path.relative_to(root).as_posix()
            parts = re.fullmatch(r"(.+)_nohash_([0-9]+)\.wav", path.name)
            if parts is None:
                reason = "name is not SPEAKER_nohash_TAKE.wav"
                skipped.append(Skipped(printable(relative), reason))
                continue
            speaker = parts[1]
            split = split_of.pop(relative, None)
            if split is None:
                # A list that is there is complete: what it does not name is for training.
                drawn = split_of_speaker(speaker)
                is_listed = drawn in LISTS and (root / LISTS[drawn]).exists()
                split = "train" if is_listed else drawn
            labels = {"word": word, "take": int(parts[2])}
            rows.append(
                SourceRow(relative, relative[: -len(".wav")], word, speaker, split, "", labels)
            )
    skipped += [
        Skipped(printable(name), f"named in {LISTS[split]}, but not there")
        for name, split in split_of.items()
    ]
    listing = checked_listing(config, rows, skipped, "WORD/SPEAKER_nohash_TAKE.wav")
    noises = sorted((root / BACKGROUND).glob("*.wav"))
    if noises:
        told = count_of(len(noises), "recording")
        listing.notes.append(f"{told} of {BACKGROUND} not read: they are no words")
    return listing


def split_of_speaker(speaker: str) -> str:
    """Return the split of a speaker of Speech Commands by the authors' own rule.

    Its README states it: SHA-1 of the part of the name before _nohash_, as a percentage; below 10
    is validation, below 20 testing.
    """
    number = int(hashlib.sha1(speaker.encode("utf-8", "surrogateescape")).hexdigest(), 16)
    percent = (number % HASH_RANGE) * (100.0 / (HASH_RANGE - 1))
    if percent < HELD_OUT_PERCENT:
        return "valid"
    return "test" if percent < 2 * HELD_OUT_PERCENT else "train"


def _read_lists(root: Path, words: set[str], skipped: list[Skipped]) -> dict[str, str]:
    """Return the split of every file of these words that a list names."""
    split_of: dict[str, str] = {}
    for split, name in LISTS.items():
        if not (root / name).exists():
            continue
        for line in read_lines(root, root / name, skipped):
            if line in split_of:
                skipped.append(Skipped(printable(line), f"named twice in {' and '.join(LISTS)}"))
            elif line.partition("/")[0] in words:
                split_of[line] = split
    return split_of


ESC50_COLUMNS = ("filename", "fold", "category", "esc10", "src_file", "take")


def list_esc50(config: ESC50) -> Listing:
    """Return the sounds of the table, with the splits of their folds."""
    if config.valid_fold == config.test_fold:
        raise GenlabError(
            f"valid_fold={config.valid_fold} and test_fold={config.test_fold}: expected two "
            "different folds, or training is tested on what it was chosen by"
        )
    root = existing_directory(config)
    prefix = "ESC-50-master/" if (root / "ESC-50-master").is_dir() else ""
    table = root / f"{prefix}meta/esc50.csv"
    rows: list[SourceRow] = []
    skipped: list[Skipped] = []
    listed: set[str] = set()
    lines = read_lines(root, table, skipped) if table.exists() else []
    # Not the reader of table.py: here the fold is the split, and the licence is that of a subset.
    reader = csv.DictReader(io.StringIO("\n".join(lines)))
    for values in reader:
        if not {*ESC50_COLUMNS} <= values.keys() or None in values.values():
            expected = ", ".join(ESC50_COLUMNS)
            place = f"meta/esc50.csv line {reader.line_num}"
            skipped.append(Skipped(place, f"expected the columns {expected}"))
            continue
        listed.add(values["filename"])
        if config.esc10 and values["esc10"] != "True":
            continue
        row = _esc50_row(config, f"{prefix}audio", values)
        if row is None:
            fold = shorten(printable(values["fold"]))
            skipped.append(
                Skipped(printable(values["filename"]), f"fold {fold!r}: expected 1 to 5")
            )
        else:
            rows.append(row)
    skipped += [
        Skipped(printable(path.relative_to(root).as_posix()), "not in meta/esc50.csv")
        for path in sorted((root / f"{prefix}audio").glob("*.wav"))
        if path.name not in listed
    ]
    return checked_listing(config, rows, skipped, "meta/esc50.csv and audio/*.wav")


def _esc50_row(config: ESC50, folder: str, values: dict[str, str]) -> SourceRow | None:
    """Return a line of the table as a row, None if its fold is none."""
    if values["fold"] not in {"1", "2", "3", "4", "5"}:
        return None
    fold = int(values["fold"])
    split = {config.valid_fold: "valid", config.test_fold: "test"}.get(fold, "train")
    name = values["filename"]
    label = values["category"]
    return SourceRow(
        path=f"{folder}/{name}",
        id=name.removesuffix(".wav"),
        speaker=label,
        split=split,
        # The authors divide the licence in two; a licence that the user states holds for all.
        licence="CC BY 3.0" if _is_esc10_licence(config, values) else "",
        labels={
            "label": label,
            "fold": fold,
            "source": values["src_file"],
            "take": values["take"],
        },
    )


def _is_esc10_licence(config: ESC50, values: dict[str, str]) -> bool:
    return values["esc10"] == "True" and config.licence == ESC50.model_fields["licence"].default
