"""What rows of somebody's tokens say beside id, text, speaker and split: the columns that named
conditions read.

In: the values of a row, of JSON or of Parquet. Out: labels, kept beside the token store in
`labels.jsonl`, and lines that say what each column could be told as. Values that JSON cannot hold
(bytes, dates, numbers that are not finite) are left out, as if the row had none.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.data.digests import FileDigest, digest_file, rebuild
from genlab.data.listing import count_of, find_broken_text, printable, shorten
from genlab.run.stored import parse_json, write_whole

LABELS_NAME = "labels.jsonl"
MOST_COLUMNS = 256
MOST_NAME = 200  # characters of a column's name
MOST_DEPTH = 3  # of lists in lists: the points of a curve are two
FEW = 4  # names that a line shows
MOST_NAMES = 64  # of a label; a column of more is rather a text
ARRAYS = (".npy", ".csv", ".txt")  # files that hold numbers
# What says where the codes are, in one layout or another.
PLACES = ("file", "key", "first", "frames", "codes")


def labels_of(
    values: Mapping[str, object], known: Collection[str], where: str
) -> dict[str, JsonValue]:
    """Return the labels of a row: its columns that are not `known` and not about its codes.

    Raises:
        GenlabError: if there are more columns than anybody reads.
    """
    found: dict[str, JsonValue] = {}
    for name, value in values.items():
        if name in known or name in PLACES or value is None:
            continue
        if len(name) > MOST_NAME or find_broken_text(name):
            continue
        if _is_plain(value):
            found[name] = value  # pyright: ignore[reportArgumentType]
    if len(found) > MOST_COLUMNS:
        raise GenlabError(
            f"{where}: {len(found)} columns, expected at most {MOST_COLUMNS}; keep those that are "
            "conditions, and put numbers of one kind into one column as a list"
        )
    return found


def _is_plain(value: object, depth: int = 0) -> bool:
    """Return whether JSON holds the value and a terminal may see it."""
    if isinstance(value, str):
        return find_broken_text(value) is None
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) < 2**63
    if depth == MOST_DEPTH:
        return False
    if isinstance(value, dict):
        value = [item for pair in value.items() for item in pair]
    return isinstance(value, list) and all(_is_plain(item, depth + 1) for item in value)


def write_labels(directory: Path, labels: Mapping[str, Mapping[str, JsonValue]]) -> FileDigest:
    """Write the labels of clips, by id, into the directory of their store."""
    lines = (json.dumps({"id": name, "labels": found}) for name, found in labels.items())
    write_whole(directory / LABELS_NAME, "".join(f"{line}\n" for line in lines).encode())
    return digest_file(directory / LABELS_NAME)


def read_labels(directory: Path) -> dict[str, dict[str, JsonValue]]:
    """Return the labels of every clip of a store that has any, by id.

    Raises:
        GenlabError: if the file is damaged.
    """
    path, fix = directory / LABELS_NAME, rebuild(directory)
    found: dict[str, dict[str, JsonValue]] = {}
    if not path.exists():
        return found
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = parse_json(line, path=Path(f"{path}:{number}"), fix=fix)
            name = row.get("id") if isinstance(row, dict) else None
            labels = row.get("labels") if isinstance(row, dict) else None
            if not isinstance(name, str) or not isinstance(labels, dict):
                raise GenlabError(f"{path}:{number}: damaged: expected id and labels; {fix}")
            found[name] = labels
    return found


def describe_labels(every: Iterable[Mapping[str, JsonValue]], num_clips: int) -> list[str]:
    """Return a line for each column of labels: what is in it, which kinds of conditions read that,
    and how many of the clips lack it.
    """
    columns: dict[str, list[JsonValue]] = {}
    for labels in every:
        for name, value in labels.items():
            columns.setdefault(name, []).append(value)
    lines = []
    for name, values in columns.items():
        lacking = num_clips - len(values)
        note = f"; {count_of(lacking, 'clip')} of {num_clips} without" if lacking else ""
        lines.append(f"  column {shorten(printable(name))}: {_describe(values)}{note}")
    return lines


def _describe(values: list[JsonValue]) -> str:
    """Return what a column holds, and the kinds of conditions that read it."""
    # Kinds are named as hints and not chosen: a number may be a class, and a text a file elsewhere.
    if all(isinstance(value, str) for value in values):
        texts = sorted({str(value) for value in values})
        if all(text.endswith(ARRAYS) for text in texts):
            return f"{count_of(len(texts), 'file')}: curve, vector, sequence or codes"
        if len(texts) > MOST_NAMES:
            longest = max(len(text) for text in texts)
            return f"{len(texts)} texts of at most {longest} characters: utf8 or phonemes"
        shown = ", ".join(shorten(printable(text)) for text in texts[:FEW])
        more = ", ..." if len(texts) > FEW else ""
        return f"{count_of(len(texts), 'name')} ({shown}{more}): label, labels, utf8 or phonemes"
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values):
        return f"numbers {min(numbers):g} to {max(numbers):g}: numbers or label"
    if all(isinstance(value, list) for value in values):
        lengths = sorted({len(value) for value in values if isinstance(value, list)})
        span = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        kinds = (
            "vector, curve, sequence or codes" if len(lengths) == 1 else "curve, sequence, codes"
        )
        return f"lists of {span}: {kinds}, or labels if they hold names"
    if all(isinstance(value, dict) for value in values):
        return "mappings: labels, if names have weights"
    types = sorted({type(value).__name__ for value in values})
    return f"values of several types ({', '.join(types)}): no condition reads them all"
