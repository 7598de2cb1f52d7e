"""Audio that a user already has: a folder of WAV, FLAC, OGG or MP3, with or without a table of texts and speakers.

In: `Folder` (path, optional CSV or JSONL manifest). Out: 16 kHz FLAC copies, manifest rows, and an `ImportReport`.
Every file that cannot be used stands in the report with its reason; it is skipped, or with `strict=True` the corpus
is refused. The same import serves the directory layouts in `layouts.py`.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from genlab.config import Config, GenlabError, Seed
from genlab.data.audio import FORMATS, SAMPLE_RATE_HZ, AudioError, read_sides, read_wave, to_int16, write_flac
from genlab.data.digests import rebuild
from genlab.data.manifest import Clip, assign_splits, text_key
from genlab.data.shards import Progress, run_shards
from genlab.stored import read_stored, write_atomically

IMPORT_VERSION = 1  # part of the cache key: raise it when the conversion changes
REPORT_NAME = "report.json"
UNSUPPORTED_AUDIO = {".aac", ".aif", ".aiff", ".amr", ".au", ".m4a", ".mp2", ".mp4", ".raw", ".sph", ".webm", ".wma"}
SPLIT_ALIASES = {"dev": "valid", "val": "valid", "validation": "valid", "eval": "test"}
MANIFEST_FIELDS = ("path", "text", "speaker", "split", "licence")


class ImportConfig(Config):
    """What every corpus made of existing files can be told."""

    path: str
    strict: bool = False
    licence: str = "unknown"
    seed: Seed = 0
    valid_fraction: float = Field(default=0.05, ge=0.0, lt=0.5)
    test_fraction: float = Field(default=0.05, ge=0.0, lt=0.5)
    pair_fraction: float = Field(default=0.0, ge=0.0, lt=0.5)
    held_out_speakers: tuple[str, ...] = ()
    shared_texts: bool = False
    max_clip_s: float = Field(default=40.0, gt=0.0, le=86_400)


class Folder(ImportConfig):
    """A tree of audio files.

    `manifest` names a CSV or JSONL file with path[, text, speaker, split, licence]; other fields become labels. Without
    it texts are empty and the speaker is the name of the file's folder. With `two_sided` every file is a conversation
    in stereo: text and speaker are those of the first channel, the second one is what that speaker hears.
    """

    kind: Literal["folder"] = "folder"
    manifest: str | None = None
    two_sided: bool = False


class SourceRow(NamedTuple):
    """One file to import. `path` is relative to the corpus; an empty `split` is drawn later."""

    path: str
    id: str
    text: str = ""
    speaker: str = ""
    split: str = ""
    licence: str = ""
    labels: dict[str, Any] = {}


class Skipped(NamedTuple):
    """A file, or a line of a manifest, that was not used."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What became of the files of a corpus."""

    used: int
    used_s: float
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()

    def summary(self, max_lines: int = 20) -> str:
        """Return a few lines for a person: the counts, then each skipped file with its reason."""
        lines = [f"{self.used} clips used ({self.used_s / 60:.1f} min), {len(self.skipped)} skipped"]
        lines += [f"  {item.path}: {item.reason}" for item in self.skipped[:max_lines]]
        if len(self.skipped) > max_lines:
            lines.append(f"  and {len(self.skipped) - max_lines} more, all listed in {REPORT_NAME}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def save(self, directory: Path) -> None:
        """Write `report.json`."""
        values = dataclasses.asdict(self) | {"skipped": [item._asdict() for item in self.skipped]}
        write_atomically(directory / REPORT_NAME, json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> "ImportReport | None":
        """Read the report of a built corpus; None if its kind has no report."""
        return read_stored(Path(directory) / REPORT_NAME, cls, fix=rebuild(Path(directory)))


class Listing(NamedTuple):
    """What a corpus directory holds before any audio is opened."""

    rows: list[SourceRow]
    skipped: list[Skipped]
    notes: list[str]


def list_folder(config: Folder) -> Listing:
    """Return the files of a folder, from its manifest if one is named, else by walking the tree.

    Raises:
        GenlabError: if the folder or the manifest is missing, or the manifest has no column `path`.
    """
    root = existing_directory(config)
    if config.manifest is not None:
        return _list_manifest(root, config.manifest)
    rows, skipped, tables, others = [], [], [], Counter[str]()
    for path in walk_files(root, skipped):
        relative = path.relative_to(root).as_posix()
        suffix = path.suffix.lower()
        if suffix in FORMATS:
            rows.append(SourceRow(relative, relative, speaker=path.parent.name))
        elif suffix in UNSUPPORTED_AUDIO:
            skipped.append(Skipped(_printable(relative), f"format {suffix} not supported: convert it to WAV or FLAC"))
        else:
            others[suffix or "no extension"] += 1
            if path.stem in {"manifest", "metadata"}:
                tables.append(f"table not read: set manifest={relative!r} to use its texts and speakers")
    notes = [f"{count} other files ignored ({suffix})" for suffix, count in sorted(others.items())]
    return Listing(rows, skipped, tables + notes)


def import_files(
    config: ImportConfig, listing: Listing, directory: Path, progress: Progress | None = None
) -> tuple[list[Clip], ImportReport]:
    """Convert the listed files to 16 kHz FLAC in `directory`, and return the clips with splits and the report.

    Raises:
        GenlabError: if no file can be used, or the given splits share texts so that nothing is left to train on.
    """
    root = Path(config.path).expanduser()
    rows, skipped = _drop_repeated(listing)
    (directory / "audio").mkdir(parents=True, exist_ok=True)
    results = run_shards(
        list(enumerate(rows)),
        lambda item: _convert(config, root, item[1], directory / f"audio/{item[0]:06d}.flac"),
        directory / "shards",
        items_per_shard=64,
        stage="import audio",
        progress=progress,
    )
    clips = []
    for number, (row, result) in enumerate(zip(rows, results)):
        if "reason" in result:
            skipped.append(Skipped(_printable(row.path), result["reason"]))
            continue
        clips.append(
            Clip(
                id=_printable(row.id),
                path=f"audio/{number:06d}.flac",
                text=row.text,
                speaker=_printable(row.speaker),
                split=row.split,
                num_samples=result["num_samples"],
                licence=row.licence or config.licence,
                labels=row.labels,
                audio_digest=result["digest"],
                other_path=f"audio/{number:06d}.other.flac" if is_two_sided(config) else None,
            )
        )
    if not clips:
        report = ImportReport(0, 0.0, tuple(skipped), tuple(listing.notes))
        raise GenlabError(f"corpus {config.path!r}: no usable audio file; {report.summary(5)}")
    clips, shared = _place(config, clips)
    report = ImportReport(len(clips), sum(clip.duration_s for clip in clips), (*skipped, *shared), tuple(listing.notes))
    return clips, report


def existing_directory(config: ImportConfig) -> Path:
    """Return the directory of the corpus.

    Raises:
        GenlabError: if it is not there.
    """
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise GenlabError(f"path: {config.path!r} is not a directory, expected the folder that holds the corpus")
    return root


def walk_files(root: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """Yield the files under `root` in a fixed order, hidden ones left out; what cannot be listed goes to `skipped`."""

    def note(error: OSError) -> None:
        skipped.append(Skipped(_printable(str(error.filename)), f"folder cannot be read: {error.strerror}"))

    for folder, folders, names in os.walk(root, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def _list_manifest(root: Path, name: str) -> Listing:
    path = root / name
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise GenlabError(f"manifest: {str(path)!r} not found, expected a CSV or JSONL file") from None
    except UnicodeDecodeError:
        raise GenlabError(f"manifest: {str(path)!r} is not UTF-8 text, save it as UTF-8") from None
    skipped: list[Skipped] = []
    read = _read_jsonl if path.suffix.lower() in {".jsonl", ".ndjson"} else _read_csv
    rows = []
    for line, values in read(text, path, skipped):
        audio = str(values.get("path") or "").strip()
        split = str(values.get("split") or "").strip().lower()
        if not audio:
            skipped.append(Skipped(f"{name} line {line}", "field path is empty"))
        elif split and not re.fullmatch(r"[a-z0-9_]+", split):
            skipped.append(Skipped(audio, f"split {split!r} in {name} line {line}: expected letters, digits or _"))
        else:
            rows.append(
                SourceRow(
                    audio,
                    audio,
                    str(values.get("text") or "").strip(),
                    str(values.get("speaker") or "").strip() or (root / audio).parent.name,
                    SPLIT_ALIASES.get(split, split),
                    str(values.get("licence") or "").strip(),
                    {
                        key: value
                        for key, value in values.items()
                        if key not in MANIFEST_FIELDS and value not in (None, "")
                    },
                )
            )
    return Listing(rows, skipped, [])


def _read_csv(text: str, path: Path, skipped: list[Skipped]) -> Iterator[tuple[int, dict[str, Any]]]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if "path" not in (reader.fieldnames or ()):
        raise GenlabError(
            f"manifest: {str(path)!r} has no column 'path', found {', '.join(reader.fieldnames or ['nothing'])}"
        )
    for values in reader:
        if None in values:
            skipped.append(
                Skipped(f"{path.name} line {reader.line_num}", "more fields than the header: quote the text")
            )
        else:
            yield reader.line_num, values


def _read_jsonl(text: str, path: Path, skipped: list[Skipped]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            skipped.append(Skipped(f"{path.name} line {number}", f"not JSON: {error.msg}"))
            continue
        if isinstance(values, dict):
            yield number, values
        else:
            skipped.append(Skipped(f"{path.name} line {number}", "not a JSON object"))


def _drop_repeated(listing: Listing) -> tuple[list[SourceRow], list[Skipped]]:
    rows, skipped, seen = [], list(listing.skipped), set()
    for row in listing.rows:
        if row.id in seen:
            skipped.append(Skipped(_printable(row.path), "listed twice, the first is used"))
        else:
            seen.add(row.id)
            rows.append(row)
    return rows, skipped


def is_two_sided(config: ImportConfig) -> bool:
    """Return whether the files are conversations with one side in each channel."""
    return isinstance(config, Folder) and config.two_sided


def _convert(config: ImportConfig, root: Path, row: SourceRow, target: Path) -> dict[str, Any]:
    path = root / row.path
    try:
        sides = read_sides(path) if is_two_sided(config) else (read_wave(path),)
        duration_s = len(sides[0]) / SAMPLE_RATE_HZ
        if duration_s > config.max_clip_s:
            raise AudioError(
                path, f"{duration_s:.1f} s long, the limit is max_clip_s={config.max_clip_s:g}: cut it or raise that"
            )
    except AudioError as error:
        return {"reason": error.reason}
    waves = [to_int16(side) for side in sides]
    for wave, name in zip(waves, (target, target.with_suffix(".other.flac"))):
        write_flac(name, wave)
    return {"num_samples": len(waves[0]), "digest": hashlib.sha256(b"".join(map(bytes, waves))).hexdigest()[:10]}


def _place(config: ImportConfig, clips: Sequence[Clip]) -> tuple[list[Clip], list[Skipped]]:
    placed = assign_splits(
        clips,
        seed=config.seed,
        valid_fraction=config.valid_fraction,
        test_fraction=config.test_fraction,
        pair_fraction=config.pair_fraction,
        held_out_speakers=config.held_out_speakers,
    )
    if config.shared_texts:
        return placed, []
    held_out = {text_key(clip): clip.split for clip in placed if clip.split in {"valid", "test"}}
    shared = [clip for clip in placed if clip.split == "train" and text_key(clip) in held_out]
    kept = [clip for clip in placed if not (clip.split == "train" and text_key(clip) in held_out)]
    if shared and not any(clip.split == "train" for clip in kept):
        raise GenlabError(
            f"corpus {config.path!r}: every text of split 'train' also occurs in valid or test; "
            "expected disjoint texts, set shared_texts=true if the corpus is meant so"
        )
    return kept, [Skipped(clip.id, f"its text also occurs in split {held_out[text_key(clip)]!r}") for clip in shared]


def _printable(name: str) -> str:
    # A file name on Linux may be bytes that are no text; JSON and terminals need something they can show.
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
