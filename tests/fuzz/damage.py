"""Damage that all areas share: to bytes, to text and to JSON, drawn from a random generator that is
passed in.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOSTILE = "<img src=x onerror=alert(1)>"
FORMULA = "=cmd|' /C calc'!A0"
NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    2**31 - 1,
    2**31,
    2**32,
    2**63,
    2**64,
    -(2**63),
    10**9,
    10**18,
    10**400,
    0.0,
    -0.0,
    0.5,
    1.5,
    -0.1,
    1e-300,
    5e-324,
    1e300,
    1.7e308,
    float("inf"),
    float("-inf"),
    float("nan"),
)
TEXTS = (
    "",
    " ",
    "a",
    "true",
    "null",
    "\0",
    "a\0b",
    "\n",
    "a\nb",
    "\x1b[31mred",
    "\u202eabc",
    "\ud800",
    "é",
    "日本語",
    "x" * 300,
    "x" * 100_000,
    "../../up",
    "/etc/passwd",
    "..",
    ".",
    "/",
    "~",
    "~nobody/x",
    "-rf",
    "--out",
    "%s%n",
    "{0}",
    "${HOME}",
    HOSTILE,
    FORMULA,
    "NaN",
    "1e999",
    "9" * 5000,
    "gs://",
    "C:\\x",
    "a/b",
    "name with blank",
)


def nasty_value(rng: random.Random) -> Any:
    """Return a value that some field somewhere will not like."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 7:
        return rng.choice(TEXTS)
    plain = (
        None,
        True,
        False,
        [],
        {},
        [[]],
        [None],
        {"": 0},
        [1, 2, 3],
        {"kind": "x"},
        ["a"] * 3,
        [float("nan")],
    )
    return rng.choice(plain) if kind < 9 else nested(rng.choice((10, 100, 900, 5000)), rng)


def nested(depth: int, rng: random.Random) -> Any:
    """Return lists or tables within each other."""
    value: Any = 0
    is_list = rng.random() < 0.5
    for _ in range(depth):
        value = [value] if is_list else {"a": value}
    return value


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every node of a JSON value."""
    if path:
        yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in items:
        yield from places(child, (*path, key))


def damage_json(values: Any, rng: random.Random) -> tuple[Any, tuple]:
    """Return a copy with one node replaced, removed, renamed, doubled or swapped with another, and
    that node's path.
    """
    values = json.loads(json.dumps(values))
    found = list(places(values))
    path = rng.choice(found)
    parent = at(values, path[:-1])
    kind, key = rng.randrange(8), path[-1]
    if kind < 4:
        parent[key] = nasty_value(rng)
    elif kind == 4:
        del parent[key]
    elif kind == 5 and isinstance(parent, dict):
        name = rng.choice([str(key) + "s", str(key).upper(), rng.choice(TEXTS)])
        parent[name] = parent.pop(key)
        path = (*path, name)
    elif kind == 6 and isinstance(parent, list):
        parent.append(parent[key])
    else:
        parent[key] = json.loads(json.dumps(at(values, rng.choice(found))))
    return values, path


def at(values: Any, path: tuple) -> Any:
    """Return the node at `path`."""
    for key in path:
        values = values[key]
    return values


def to_text(values: Any) -> str:
    """Return JSON as Python writes it, which knows NaN and infinities; too deep for it is written
    by hand.
    """
    try:
        return json.dumps(values)
    except RecursionError:
        return '{"a":' * 100_000
    except ValueError:  # an integer of too many digits
        return json.dumps(values, default=str)


def damage_text(text: str, rng: random.Random) -> str:
    """Return a text with a part cut, doubled, replaced or put in."""
    if not text:
        return rng.choice(TEXTS)
    first = rng.randrange(len(text))
    last = min(len(text), first + rng.choice((1, 1, 2, 5, 20, 200)))
    kind = rng.randrange(5)
    if kind == 0:
        return text[:first]
    if kind == 1:
        return text[:first] + text[last:]
    if kind == 2:
        return text[:last] + text[first:]
    put_in = rng.choice(
        ('"', "'", ",", "{", "}", "[", "]", ":", "\\", "\n", "\r", "\t", "1", "-", *TEXTS)
    )
    return text[:first] + put_in + text[first if kind == 3 else last :]


def damage_bytes(data: bytes, rng: random.Random, head: int = 0) -> bytes:
    """Return bytes with bits flipped, a part cut, overwritten, doubled or moved; `head` > 0 favours
    the first bytes.
    """
    if not data:
        return bytes([rng.randrange(256)])
    end = min(len(data), head) if head and rng.random() < 0.7 else len(data)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not changed:
            break
        first = rng.randrange(min(end, len(changed)))
        last = min(len(changed), first + rng.choice((1, 2, 4, 8, 64)))
        kind = rng.randrange(9)
        if kind < 3:
            changed[first] ^= 1 << rng.randrange(8)
        elif kind == 3:
            changed[first:last] = rng.choice((b"\0", b"\xff", b"\x7f")) * (last - first)
        elif kind == 4:
            changed[first:last] = rng.randbytes(last - first)
        elif kind == 5:
            del changed[first:]
        elif kind == 6:
            del changed[first:last]
        elif kind == 7:
            changed[first:first] = rng.randbytes(last - first)
        else:
            changed += changed[first:last] * rng.choice((1, 100))
    return bytes(changed)


def damage_file(path: Path, rng: random.Random) -> str:
    """Damage a file as disks and people do, and return how."""
    data, kind = path.read_bytes(), rng.randrange(10)
    if kind < 6:
        path.write_bytes(damage_bytes(data, rng))
        return "bytes changed"
    if kind == 6:
        path.write_bytes(data[: len(data) // 2])
        return "cut in half"
    path.unlink()
    if kind == 7:
        return "removed"
    if kind == 8:
        path.mkdir()
        return "a directory instead"
    path.touch()
    return "emptied"
