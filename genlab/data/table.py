"""The table of a corpus as somebody wrote it: CSV, TSV, JSON lines or a JSON list, also gzipped.

In: a file with a column that names the audio, and optional ones for text, speaker, split, licence,
offset and duration (seconds), under the names of `ALIASES`. Out: a `Listing`: every row is a
recording to import or is listed in `skipped` with its line and its reason. Nothing is guessed: a
row with too few fields, a quote that is never closed or seconds that are not a number are
reported, and two columns that both name the audio are an error.
"""

import codecs
import csv
import functools
import gzip
import io
import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.data.columns import ALIASES, find_columns, note_missing, plain
from genlab.data.decoding import FORMATS
from genlab.data.listing import (
    MAX_TEXT_BYTES,
    Listing,
    Skipped,
    SourceRow,
    find_broken_text,
    printable,
    read_bytes,
    shorten,
)
from genlab.data.nearest import explain_missing_table
from genlab.run.stored import MAX_NUMBER

SPLIT_ALIASES = {
    "training": "train",
    "dev": "valid",
    "val": "valid",
    "validation": "valid",
    "development": "valid",
    "eval": "test",
    "evaluation": "test",
    "testing": "test",
}
USUAL_SPLITS = {"train", "valid", "test", "test_pair", "test_speaker"}
JSON_LINES = {".jsonl", ".ndjson"}
FIELD = "data.corpus.manifest"  # as an override names it
DELIMITERS = ",;\t|"
PEEK_BYTES = 1 << 16
MAX_FIELD_CHARS = 131_072
MAX_LABEL_DEPTH = 8
MAX_RATIO = 100  # of gzipped text; tables shrink to a tenth
PLAIN_BYTES = 2**24  # unzipped, whatever the ratio


class Report(NamedTuple):
    """Where the readers of a table say what they could not use."""

    table: str
    skipped: list[Skipped]
    notes: list[str]

    def skip(self, line: int, reason: str) -> None:
        """Report the row that begins in this line."""
        self.skipped.append(Skipped(f"{self.table} line {line}", reason))


class TableRow(NamedTuple):
    """A row as it is in the file: the number of its first line, and values by column name."""

    line: int
    values: Mapping[str, JsonValue]


def list_table(root: Path, name: str) -> Listing:
    """Return the rows of the table `name`, a path relative to the folder `root` or an absolute one.

    Raises:
        GenlabError: if the table cannot be read, or no column names the audio.
    """
    path = Path(name).expanduser() if name.startswith("~/") else root / name
    if not os.path.lexists(path):
        raise GenlabError(f"{FIELD}: {explain_missing_table(root, name)}")
    text = _read_text(path)
    report = Report(shorten(printable(name)), [], [])
    rows: list[SourceRow] = []
    renamed: set[tuple[str, str]] = set()
    missing: set[str] = set()
    for line, values in _read_rows(text, path, report):
        columns = find_columns(tuple(values))
        if isinstance(columns, str):
            report.skip(line, columns)
            continue
        row = source_row(root, values, columns)
        if isinstance(row, str):
            report.skip(line, row)
            continue
        rows.append(row)
        if len(missing) < 2:
            missing.add(note_missing(tuple(values)))
        renamed |= {(found, field) for field, found in columns.items() if plain(found) != field}
    notes = [f"column {shorten(found)} read as {field}" for found, field in sorted(renamed)]
    # Lines of JSON have columns each: of those, a text that some rows lack is no news.
    notes += missing if len(missing) == 1 and "" not in missing else ()
    return Listing(rows, report.skipped, report.notes + notes + _notes(rows))


@functools.lru_cache(maxsize=64)
def is_table(path: Path) -> bool:
    """Return whether a file looks like a table of recordings: by its name, and a column for audio.

    Only its beginning is read.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_zipped = suffixes[-1:] == [".gz"]
    suffix = (suffixes[:-1] if is_zipped else suffixes)[-1:]
    if suffix not in ([".csv"], [".tsv"], [".json"], *([name] for name in JSON_LINES)):
        return False
    try:
        with gzip.open(path) if is_zipped else open(path, "rb") as file:
            text = file.read(PEEK_BYTES).removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
        if text.lstrip()[:1] in ("[", "{"):
            names = re.findall(r'"([^"]{1,40})"\s*:', text)
        else:
            names = _read_header(text.split("\n", 1)[0].rstrip("\r"), path).names
    except (OSError, EOFError, zlib.error, GenlabError):
        return False
    return not {"path", *ALIASES["path"]}.isdisjoint(map(plain, names))


def source_row(
    root: Path, values: Mapping[str, JsonValue], columns: dict[str, str]
) -> SourceRow | str:
    """Return the recording that a row names, or the reason why it cannot be used."""
    for column, value in values.items():
        fault = _find_fault(value)
        if fault is not None:
            return f"field {shorten(column)} {fault}"
    texts: dict[str, str] = {}
    for field in ("path", "text", "speaker", "split", "licence"):
        value = values.get(columns.get(field, ""))
        # true is no name, and a list is no text; but speaker 0 is a speaker.
        if isinstance(value, bool | list | dict):
            return f"field {field} is {json.dumps(value):.40}, expected text or a number"
        texts[field] = "" if value is None else str(value).strip()
    audio = texts["path"]
    split = texts["split"].lower()
    if not audio:
        return "field path is empty"
    if split and not re.fullmatch(r"[a-z0-9_]+", split):
        return f"split {shorten(split)!r} of {shorten(audio)!r}: expected letters, digits or _"
    part: dict[str, float | None] = {}
    for field in ("offset", "duration"):
        value = values.get(columns.get(field, ""))
        part[field] = _seconds(value)
        if part[field] is None and not _is_empty(value):
            return f"field {field} is {shorten(str(value))!r}, expected seconds"
    if part["duration"] == 0.0:
        return "field duration is 0, expected seconds"
    offset_s = part["offset"] or 0.0
    known = set(columns.values())
    others = [(key, value) for key, value in values.items() if key not in known]
    labels = {key: value for key, value in others if not _is_none(value)}
    return SourceRow(
        path=audio,
        id=audio + _part_name(offset_s, part["duration"]),
        text=texts["text"],
        speaker=texts["speaker"] or Path(os.path.normpath(root / audio)).parent.name,
        split=SPLIT_ALIASES.get(split, split),
        licence=texts["licence"],
        labels=labels,
        offset_s=offset_s,
        duration_s=part["duration"],
    )


def _part_name(offset_s: float, duration_s: float | None) -> str:
    """Return what distinguishes the parts of a file: nothing for the one that starts at 0."""
    if not offset_s:
        return ""
    return f"@{offset_s:.10g}" + (f"+{duration_s:.10g}" if duration_s else "")


def _find_fault(value: object) -> str | None:
    """Return why a value of a row can be neither used nor stored, or None."""
    if isinstance(value, str):
        if len(value) > MAX_FIELD_CHARS:
            return f"has {len(value)} characters, at most {MAX_FIELD_CHARS} accepted"
        return find_broken_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, expected a finite number; write null for a missing value"
    if isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        return f"is larger than {MAX_NUMBER:g}"
    if isinstance(value, list | dict):
        if _depth(value) > MAX_LABEL_DEPTH:
            return f"is nested more than {MAX_LABEL_DEPTH} deep"
        try:
            return find_broken_text(json.dumps(value, allow_nan=False, ensure_ascii=False))
        except ValueError:
            return "holds a number that is not finite"
    return None


def _depth(value: object) -> int:
    """Return how deep lists and objects lie in each other, counted no further than the limit."""
    level = 0
    layer = [value]
    while layer and level <= MAX_LABEL_DEPTH:
        holders = [item for item in layer if isinstance(item, list | dict)]
        inner = [item.values() if isinstance(item, dict) else item for item in holders]
        if not inner:
            break
        level += 1
        layer = [item for items in inner for item in items]
    return level


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _is_none(value: object) -> bool:
    return value is None or value == ""


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _notes(rows: list[SourceRow]) -> list[str]:
    """Return what a reader of the report should know about rows that are used."""
    notes = []
    parts = sum(1 for row in rows if row.offset_s)
    if parts:
        notes.append(f"rows that begin at an offset within their file: {parts}")
    others = Counter(row.split for row in rows if row.split and row.split not in USUAL_SPLITS)
    notes += [
        f"split {name!r} is neither train, valid nor test; rows in it: {count}"
        for name, count in sorted(others.items())[:20]
    ]
    return notes


def _read_text(path: Path) -> str:
    """Return the text of a table, unzipped; bytes that are not UTF-8 become surrogates."""
    shown = repr(shorten(printable(str(path))))
    try:
        data = read_bytes(path)
        if data[:2] == b"\x1f\x8b":
            # Of a small file that unzips to gigabytes only so much is ever in memory.
            most = min(MAX_TEXT_BYTES, max(PLAIN_BYTES, MAX_RATIO * len(data)))
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(most + 1)
            if len(data) > most:
                told = f"more than {most} bytes when unzipped: unzip it if it is meant so"
                raise OSError(None, told)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise GenlabError(f"{FIELD}: {shown} is a damaged gzip file, copy it again") from None
    except OSError as error:
        reason = error.strerror or str(error)
        expected = "expected a CSV or JSONL file"
        raise GenlabError(f"{FIELD}: {shown} cannot be read ({reason}), {expected}") from None
    try:
        # What Excel saves as "Unicode text" begins with a mark; everything else is read as UTF-8.
        if data[:4] in {codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE}:
            return data.decode("utf-32")
        if data[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
            return data.decode("utf-16")
    except UnicodeDecodeError:
        raise GenlabError(f"{FIELD}: {shown} is damaged UTF-16 text, save it as UTF-8") from None
    if b"\0" in data.split(b"\n", 1)[0]:
        raise GenlabError(f"{FIELD}: {shown} is not UTF-8 text, save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _read_rows(text: str, path: Path, report: Report) -> Iterator[TableRow]:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    start = text.lstrip()[:1]
    if suffix == ".json" and start == "[":
        return _read_list(text, path, report)
    if suffix in JSON_LINES or start == "{" or suffix == ".json":
        return _read_json_lines(text, report)
    return _read_csv(text, path, report)


def _read_list(text: str, path: Path, report: Report) -> Iterator[TableRow]:
    try:
        items = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        shown = shorten(printable(str(path)))
        raise GenlabError(f"{FIELD}: {shown!r} is not JSON: {error!s:.100}") from None
    for number, item in enumerate(items, start=1):
        if isinstance(item, dict):
            yield TableRow(number, item)
        else:
            report.skip(number, "not a JSON object")


def _read_json_lines(text: str, report: Report) -> Iterator[TableRow]:
    # Not splitlines(): a text may hold line separators of Unicode, which end no line of JSON.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if not line.strip():
            continue
        values = parse_object(line)
        if isinstance(values, str):
            report.skip(number, values)
        else:
            yield TableRow(number, values)


def parse_object(line: str) -> dict[str, JsonValue] | str:
    """Return the object on a line of JSON, or the reason why there is none."""
    try:
        values = json.loads(line, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg}"
    except _RepeatedError as error:
        return str(error)
    except RecursionError:
        return "nested too deep"
    except ValueError:  # Python reads no integers beyond its limit
        return "holds a number of thousands of digits"
    return values if isinstance(values, dict) else "not a JSON object"


class _RepeatedError(ValueError):
    """An object of JSON has one name twice."""


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    values = dict(pairs)
    if len(values) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise _RepeatedError(f"field {shorten(printable(twice))} occurs twice")
    return values


class Layout(NamedTuple):
    """How a CSV file is written: its columns, and what separates them."""

    names: list[str]
    delimiter: str
    skips_blanks: bool

    @property
    def path_index(self) -> int:
        """The place of the column that names the audio."""
        columns = find_columns(tuple(filter(None, self.names)))
        return self.names.index(columns["path"]) if isinstance(columns, dict) else 0


def _read_csv(text: str, path: Path, report: Report) -> Iterator[TableRow]:
    # Lines as the csv module sees them: \n, \r\n or \r ends one, and in quotes they stay as they
    # are.
    lines = list(io.StringIO(text, newline=""))
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    layout = _read_header(lines[first] if lines else "", path)
    unnamed = [number for number, name in enumerate(layout.names) if not name]
    report.notes.extend(f"column {number + 1} has no name: not read" for number in unnamed)
    for line, fields in _records(lines, first + 1, layout):
        if isinstance(fields, str):
            report.skip(line + 1, fields)
        elif len(fields) > len(layout.names):
            report.skip(line + 1, "more fields than the header: quote the text")
        elif len(fields) < len(layout.names):
            report.skip(line + 1, f"{len(fields)} fields, the header has {len(layout.names)}")
        else:
            values = dict(zip(layout.names, fields))
            values.pop("", None)
            yield TableRow(line + 1, values)


def _read_header(line: str, path: Path) -> Layout:
    """Return the layout of the delimiter under which a column names the audio."""
    shown = shorten(printable(str(path)))
    layouts = []
    for delimiter in DELIMITERS:
        try:
            [names] = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
        except (csv.Error, ValueError):
            continue
        # As people type it: path, text, speaker. Then the blanks of the rows mean as little.
        skips_blanks = f"{delimiter} " in line
        layouts.append(Layout([name.strip() for name in names], delimiter, skips_blanks))
    layouts.sort(key=lambda layout: -len(layout.names))
    found_columns = [find_columns(tuple(filter(None, layout.names))) for layout in layouts]
    for layout, columns in zip(layouts, found_columns):
        if isinstance(columns, dict) and "path" in columns:
            return layout
    for columns in found_columns:
        if isinstance(columns, str):
            raise GenlabError(f"{FIELD}: {shown!r}: {columns}")
    names = max((layout.names for layout in layouts), key=len, default=[])
    found = shorten(printable(", ".join(names))) or "nothing"
    expected = ", ".join(("path", *ALIASES["path"]))
    missing = f"{FIELD}: {shown!r} has no column 'path', found {found}"
    raise GenlabError(f"{missing}; expected one of {expected}")


def _records(lines: list[str], first: int, layout: Layout) -> Iterator[tuple[int, list[str] | str]]:
    """Yield each row with the index of its first line: its fields, or why they cannot be read.

    A quote that is opened and never closed would swallow the rows behind it. It costs its own row
    only: reading starts again with the next line.
    """
    while first < len(lines):
        reader = csv.reader(
            (lines[number] for number in range(first, len(lines))),
            delimiter=layout.delimiter,
            skipinitialspace=layout.skips_blanks,
            strict=True,
        )
        start = first
        try:
            for fields in reader:
                end = start + reader.line_num
                if _swallows_rows(lines[first + 1 : end], layout):
                    raise csv.Error("the text would hold other rows")
                if len(fields) > 1 or "".join(fields).strip():
                    yield first, fields
                first = end
        except csv.Error as error:
            yield first, f'a quote is not closed or not doubled ({error}): write "" inside quotes'
            first += 1


def _swallows_rows(inner: list[str], layout: Layout) -> bool:
    """Return whether a line inside a quoted text looks like a row: audio is in its place."""
    for line in inner:
        fields = line.split(layout.delimiter)
        if len(fields) == len(layout.names) or len(fields) > layout.path_index + 1:
            suffix = Path(fields[layout.path_index].strip(' "\r\n')).suffix
            if suffix.lower() in FORMATS:
                return True
    return False
