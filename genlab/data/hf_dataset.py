"""Datasets of the Hugging Face library on a disk, and Parquet files, with the bytes of their audio.

In: a folder that `save_to_disk` wrote, a folder with Parquet files, or one such file. Out: one row
per recording; other columns are text, speaker, split and labels as in the table of a folder. Files
are read by pyarrow alone: no script of a dataset runs, no class is loaded, no name is looked up on
a network. Names of classes come from the schema, where the library keeps them.
"""

import bisect
import functools
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.config.shipped import install_command
from genlab.data.decoding import AudioError
from genlab.data.folder import existing_directory
from genlab.data.listing import (
    Listing,
    Skipped,
    SourceRow,
    count_of,
    printable,
    shorten,
    walk_files,
)
from genlab.data.packed import MAX_MEMBER_BYTES, Packed, packed_row, split_of_name, suffix_of

PARQUET, ARROW = ".parquet", ".arrow"
STATE_NAME, DICT_NAME = "state.json", "dataset_dict.json"
MAX_GROUP_BYTES = 1 << 31  # of the audio of a group of rows, which is decoded whole
GROUPS_KEPT = 4
Kept = bool | int | float | str | list | dict | None
Foreign = Any  # what pyarrow returns: it is an extra, so its types are not there to name


class HFDataset(Packed):
    """A dataset that `save_to_disk` wrote, or Parquet files, with audio as bytes.

    Needs the extra arrow. Without a speaker the first column of classes is one.
    """

    kind: Literal["hf_dataset"] = "hf_dataset"
    audio: str = "audio"
    """The column with the recordings: bytes, or what the library's Audio feature stores."""

    def listing(self) -> Listing:
        """Return the rows of every file, without the bytes of their audio."""
        return list_dataset(self)

    def packs(self) -> Sequence[Path]:
        """Return the Arrow or Parquet files."""
        return [file.path for file in find_files(self, [], [])]

    def content(self, path: Path) -> tuple[bytes, str]:
        """Return the bytes of a row.

        Raises:
            AudioError: if it has none, or the file has changed.
        """
        number = int(path.name.removeprefix("row "))
        try:
            found = _cell(path.parent, self.audio, number)
        except AudioError:
            raise
        except Exception as error:  # a stranger's file may make pyarrow raise anything
            told = f"not readable: {type(error).__name__} {error!s:.160}"
            raise AudioError(path, told) from None
        if found is None:
            raise AudioError(path, "no bytes in it: only the name of a file, or nothing")
        if len(found) > MAX_MEMBER_BYTES:
            raise AudioError(path, f"{len(found)} bytes, at most {MAX_MEMBER_BYTES} accepted")
        return found, suffix_of(path, found)


class Part(NamedTuple):
    """One file of a dataset, and the split that its place says."""

    path: Path
    split: str


def find_files(config: HFDataset, skipped: list[Skipped], notes: list[str]) -> list[Part]:
    """Return the Arrow or Parquet files of a dataset.

    Raises:
        GenlabError: if there are none.
    """
    root = existing_directory(config)
    alone = Path(config.path).expanduser()
    if alone.is_file():
        return [Part(root / alone.name, split_of_name(Path(alone.name)))]
    parts = _saved(root, skipped)
    if not parts:
        parts = [
            Part(path, split_of_name(path.relative_to(root)))
            for path in walk_files(root, skipped, notes)
            if path.suffix.lower() == PARQUET
        ]
    if not parts:
        raise GenlabError(
            f"path: {config.path!r} does not look like HFDataset, expected a folder that "
            "save_to_disk wrote, or .parquet files"
        )
    return parts


def list_dataset(config: HFDataset) -> Listing:
    """Return the rows of every file.

    Raises:
        GenlabError: if pyarrow is missing, or no file has the column of the recordings.
    """
    _arrow()
    root = existing_directory(config)
    skipped: list[Skipped] = []
    notes: list[str] = []
    rows: list[SourceRow] = []
    unread: set[str] = set()
    lacking: set[str] = set()
    parts = find_files(config, skipped, notes)
    # One file that is damaged costs its own rows only; the others are whole by themselves.
    for part in parts:
        name = printable(part.path.relative_to(root).as_posix())
        try:
            table = _read_columns(part.path, config.audio, unread)
        except _NoAudioError as error:
            skipped.append(Skipped(name, str(error)))
            lacking.add(str(error))
            continue
        except Exception as error:  # a stranger's file may make pyarrow raise anything
            skipped.append(Skipped(name, f"not readable: {type(error).__name__} {error!s:.160}"))
            continue
        for number, values in enumerate(table.rows):
            path = f"{part.path.relative_to(root).as_posix()}/row {number}"
            label = values.get(table.class_column, "") if table.class_column else ""
            shown = str(label) if isinstance(label, str | int) else ""
            row = packed_row(root, path, values, shown, part.split)
            if isinstance(row, SourceRow):
                rows.append(row)
            else:
                skipped.append(row)
    if not rows:
        told = "; ".join(sorted(lacking) or [f"{item.path}: {item.reason}" for item in skipped[:3]])
        raise GenlabError(f"path: {config.path!r}: no row can be used; {told}")
    named = sum(1 for part in parts if part.split)
    if named:
        notes.append(f"splits are taken from the names of {count_of(named, 'file')}")
    notes += [f"column {shorten(column)} not read: {what}" for column, what in _split(unread)]
    return Listing(rows, skipped, notes)


class _NoAudioError(Exception):
    """A file has no column of recordings."""


class _Table(NamedTuple):
    rows: list[dict[str, JsonValue]]
    class_column: str


def _arrow() -> Foreign:
    """Return pyarrow.

    Raises:
        GenlabError: if it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise GenlabError(
            "data.corpus.kind='hf_dataset': package 'pyarrow' is not installed, it reads Arrow and "
            f"Parquet files; run `{install_command('arrow')}`"
        ) from None
    return pyarrow


def _saved(root: Path, skipped: list[Skipped]) -> list[Part]:
    """Return the files that `save_to_disk` wrote, none if it did not write this folder."""
    folders = [(root, "")]
    if (root / DICT_NAME).is_file():
        found = _json(root / DICT_NAME, skipped).get("splits", [])
        names = [str(name) for name in found] if isinstance(found, list) else []
        folders = [(root / name, name) for name in names if _is_plain(name)]
    parts = []
    for folder, name in folders:
        if not (folder / STATE_NAME).is_file():
            continue
        state = _json(folder / STATE_NAME, skipped)
        split = split_of_name(Path(name or str(state.get("_split") or "")))
        files = state.get("_data_files", [])
        for entry in files if isinstance(files, list) else []:
            file = str(entry.get("filename", "")) if isinstance(entry, dict) else ""
            if _is_plain(file):
                parts.append(Part(folder / file, split))
            else:
                # A list that somebody else wrote must not name files elsewhere on this disk.
                skipped.append(Skipped(printable(file), "leads out of the dataset"))
    return parts


def _is_plain(name: str) -> bool:
    return bool(name) and Path(name).name == name and name not in (".", "..") and "\0" not in name


def _json(path: Path, skipped: list[Skipped]) -> dict[str, JsonValue]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        skipped.append(Skipped(printable(path.name), f"not readable as JSON: {error!s:.100}"))
        return {}
    return found if isinstance(found, dict) else {}


def _read_columns(path: Path, audio: str, unread: set[str]) -> _Table:
    """Return every column of a file but the audio as rows of JSON values."""
    pa = _arrow()
    schema = _schema(path)
    if audio not in schema.names:
        held = [field.name for field in schema if _is_audio(field.type)]
        found = ", ".join(held or schema.names)
        raise _NoAudioError(
            f"no column {audio!r}, found {shorten(found)}; set data.corpus.audio=NAME"
        )
    if not _is_audio(schema.field(audio).type):
        raise _NoAudioError(
            f"column {audio!r} is {shorten(str(schema.field(audio).type))}, expected bytes; save "
            "the audio itself, not what was decoded"
        )
    classes = _class_names(schema)
    kept = []
    for field in schema:
        if field.name == audio:
            continue
        if _holds_bytes(field.type):
            unread.add(f"{field.name}\0its values are bytes")
        else:
            kept.append(field.name)
    rows: list[dict[str, JsonValue]] = []
    for batch in _batches(path, kept):
        # Offsets that lead elsewhere would be followed by what reads the cells.
        batch.validate(full=True)
        columns = {name: batch.column(name).to_pylist() for name in kept}
        for number in range(batch.num_rows):
            rows.append({name: _plain(columns[name][number], classes.get(name)) for name in kept})
    if not kept:
        rows = [{} for _ in range(_count(path, pa))]
    first = next((name for name in kept if name in classes), "label" if "label" in kept else "")
    return _Table(rows, first)


def _plain(value: Foreign, names: list[str] | None) -> JsonValue:
    """Return a cell as JSON: a class by its name, a time as text, what is no number as nothing."""
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, Kept) else str(value)


def _is_audio(kind: Foreign) -> bool:
    pa = _arrow()
    if pa.types.is_struct(kind):
        names = [kind.field(number).name for number in range(kind.num_fields)]
        return "bytes" in names and _is_binary(kind.field(names.index("bytes")).type)
    return _is_binary(kind)


def _is_binary(kind: Foreign) -> bool:
    pa = _arrow()
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_bytes(kind: Foreign) -> bool:
    if kind.num_fields:
        return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return _is_binary(kind)


def _class_names(schema: Foreign) -> dict[str, list[str]]:
    """Return the names of the classes of every column that has some, as the library keeps them."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stored["info"]["features"]
        found = {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        column: [str(name) for name in names]
        for column, names in found.items()
        if isinstance(names, list)
    }


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == PARQUET


def _parquet(path: Path) -> Foreign:
    _arrow()
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path)


def _stream(path: Path) -> Foreign:
    """Return the batches of an Arrow file, mapped and not read: the library writes streams."""
    pa = _arrow()
    source = pa.memory_map(str(path))
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    return pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)


def _schema(path: Path) -> Foreign:
    return _parquet(path).schema_arrow if _is_parquet(path) else _stream(path).schema


def _count(path: Path, pa: Foreign) -> int:
    if _is_parquet(path):
        return int(_parquet(path).metadata.num_rows)
    return int(_stream(path).read_all().num_rows)


def _batches(path: Path, columns: list[str]) -> Iterator[Foreign]:
    if _is_parquet(path):
        yield from _parquet(path).iter_batches(columns=columns)
    else:
        yield from _stream(path).read_all().select(columns).to_batches()


def _cell(path: Path, audio: str, number: int) -> bytes | None:
    """Return the bytes in a row of the column of recordings, None if there are none."""
    state = path.stat()
    firsts = _firsts(path, audio, state.st_size, state.st_mtime_ns)
    group = bisect.bisect_right(firsts, number) - 1
    column = _group(path, audio, group, state.st_size, state.st_mtime_ns)
    value = column[number - firsts[group]].as_py()
    return value.get("bytes") if isinstance(value, dict) else value


@functools.lru_cache(maxsize=64)
def _firsts(path: Path, audio: str, size: int, modified_ns: int) -> list[int]:
    """Return the number of the first row of every group; size and time tell a changed file."""
    if _is_parquet(path):
        metadata = _parquet(path).metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    else:
        counts = [len(chunk) for chunk in _chunks(path, audio, size, modified_ns)]
    return [0, *itertools.accumulate(counts)][: len(counts)]


@functools.lru_cache(maxsize=GROUPS_KEPT)
def _group(path: Path, audio: str, group: int, size: int, modified_ns: int) -> Foreign:
    """Return the recordings of a group of rows.

    Raises:
        AudioError: if they claim to be more than may be in memory.
    """
    if not _is_parquet(path):
        return _chunks(path, audio, size, modified_ns)[group]
    file = _parquet(path)
    claimed = int(file.metadata.row_group(group).total_byte_size)
    if claimed > MAX_GROUP_BYTES:
        raise AudioError(
            path,
            f"its group of rows has {claimed} bytes, at most {MAX_GROUP_BYTES} accepted: write it "
            "again with fewer rows per group",
        )
    column = file.read_row_group(group, columns=[audio]).column(audio).combine_chunks()
    column.validate(full=True)
    return column


@functools.lru_cache(maxsize=64)
def _chunks(path: Path, audio: str, size: int, modified_ns: int) -> list[Foreign]:
    chunks = list(_stream(path).read_all().column(audio).chunks)
    for chunk in chunks:
        chunk.validate(full=True)
    return chunks


def _split(unread: set[str]) -> list[tuple[str, str]]:
    return [(item.split("\0")[0], item.split("\0")[1]) for item in sorted(unread)]
