"""Dotted overrides such as `decoder.width=768`, applied to the plain JSON of a config before it is
validated.

In: nested dicts and lists, and texts FIELD=VALUE. Out: a changed copy. The order in which overrides
are given does not matter: whole tables are set before their fields, and the `kind` of a table
before all else in it, because a new kind makes another table: the fields of the old one do not
belong there and are dropped.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from pydantic import JsonValue

from genlab.config.errors import ConfigError, one_line, shorten

MAX_DEPTH = 32


class Override(NamedTuple):
    """`path` as it was written, its parts, and the value: JSON, or else the text itself."""

    path: str
    parts: tuple[str, ...]
    value: JsonValue


def apply_overrides(values: dict[str, JsonValue], overrides: Iterable[str]) -> dict[str, JsonValue]:
    """Return a deep copy of `values` with each `a.b.c=value` set; values are JSON, anything else is
    text.

    The tables around a table may be left out where only one is called so: `profile.steps` is
    `settings.profile.steps`. Another `kind` empties its table of everything else.

    Raises:
        ConfigError: if an override has no `=`, its path runs through something that is not a table,
            or one field is given two values.
    """
    refuse_unwritable(values)
    values = json.loads(json.dumps(values))
    given: dict[str, JsonValue] = {}
    fresh: list[JsonValue] = []  # tables without their fields, because their kind changed
    for item in sorted(map(parse_override, overrides), key=_rank):
        parents = _resolve(item, values)
        leaf = item.parts[-1]
        path = ".".join([*parents, leaf])
        if path in given and json.dumps(given[path]) != json.dumps(item.value):
            raise ConfigError(
                f"{_brief(path)}: given twice, {shorten(given[path])} and {shorten(item.value)}; "
                "keep one"
            )
        given[path] = item.value
        _assign(_walk(values, parents, item, fresh), leaf, item, fresh, is_root=not parents)
    return values


def refuse_unwritable(values: JsonValue, root: str = "config") -> None:
    """Refuse what JSON in UTF-8 cannot hold, or only nested so deep that no reader follows.

    Raises:
        ConfigError: that names the field.
    """
    rest = [("", values, 0)]
    while rest:
        # A list of work instead of recursion: what is nested too deep must not overflow our own
        # stack.
        path, value, depth = rest.pop()
        named = _brief(path) or root
        if depth > MAX_DEPTH:
            raise ConfigError(
                f"{'.'.join(named.split('.')[:2])}: nested too deep; expected at most {MAX_DEPTH} "
                "levels"
            )
        if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
            raise ConfigError(
                f"{named}: {shorten(value)} cannot be written as UTF-8; expected Unicode text"
            )
        below = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value if isinstance(value, list) else ())
        )
        for key, inner in below:
            rest += [
                (path, str(key), depth),
                (f"{path}.{key}" if path else str(key), inner, depth + 1),
            ]


def parse_override(item: str) -> Override:
    """Return the path and the value of FIELD=VALUE.

    Raises:
        ConfigError: if it has no `=` or no field, or the value cannot be held.
    """
    path, equals, text = item.partition("=")
    parts = tuple(path.strip().split("."))
    if not equals or not all(parts):
        raise ConfigError(
            f"override {shorten(item)}: expected FIELD=VALUE, for example optim.peak_lr=1e-3"
        )
    try:
        value = json.loads(text, parse_float=partial(_float, _brief(path)))
    except json.JSONDecodeError:
        value = text
    except (ValueError, RecursionError):
        raise ConfigError(
            f"{_brief(path)}: {shorten(text, 40)} has too many digits or brackets; give a shorter "
            "value"
        ) from None
    refuse_unwritable(item.partition("=")[0])
    refuse_unwritable({_brief(path): value})
    return Override(path.strip(), parts, value)


def _float(field: str, text: str) -> float:
    """Read a number; one that is not zero may not become zero."""
    value = float(text)
    if value == 0 and text.lower().partition("e")[0].strip("-.0"):
        raise ConfigError(
            f"{field}={shorten(text)}: too small to be distinguished from 0; write 0 or a larger "
            "number"
        )
    return value


def _rank(item: Override) -> tuple[int, bool]:
    return len(item.parts), item.parts[-1] != "kind"


def _resolve(item: Override, values: dict[str, JsonValue]) -> list[str]:
    """Return the names of the tables around the field, with those that were left out."""
    parents = list(item.parts[:-1])
    if parents and parents[0] not in values:
        found = list(_tables_called(parents[0], values))
        if len(found) > 1:
            raise ConfigError(
                f"{_brief(parents[0])}: which of {', '.join(found)}? (override {item.path}=...)"
            )
        parents[:1] = found[0].split(".") if found else parents[:1]
    return parents


def _walk(
    values: dict[str, JsonValue], parents: list[str], item: Override, fresh: list[JsonValue]
) -> dict[str, JsonValue] | list[JsonValue]:
    """Return the table or list that holds the field, made where the kind above it is new or it was
    null.
    """
    node: dict[str, JsonValue] | list[JsonValue] = values
    for depth, key in enumerate(parents):
        below = child(node, key)
        # Only tables that an override made, and fields that were null, may become tables; anywhere
        # else a new key is a typing error.
        is_open = any(node is table for table in fresh)
        if isinstance(node, dict) and below is None and (is_open or key in node):
            below = node[key] = {}
            fresh.append(below)
        if below is not None and not isinstance(below, dict | list):
            raise ConfigError(
                f"{_brief('.'.join(parents[: depth + 1]))}: holds {shorten(below)}, which is no "
                f"table (override {_brief(item.path)}=...)"
            )
        if not isinstance(below, dict | list):
            near = difflib.get_close_matches(key, list(_tables(node)), n=1)
            whole = ".".join(
                [*parents[:depth], *near, *item.parts[len(item.parts) - len(parents) + depth :]]
            )
            meant = (
                f"; did you mean {_brief(whole)!r}?"
                if near
                else f" (override {_brief(item.path)}=...)"
            )
            raise ConfigError(
                f"{_brief('.'.join(parents[: depth + 1]))}: no such table in this config{meant}"
            )
        node = below
    return node


def _assign(
    node: dict[str, JsonValue] | list[JsonValue],
    leaf: str,
    item: Override,
    fresh: list[JsonValue],
    *,
    is_root: bool,
) -> None:
    if isinstance(node, list):
        if not is_index(leaf) or int(leaf) >= len(node):
            raise ConfigError(f"{_brief(item.path)}: expected an index below {len(node)}")
        node[int(leaf)] = item.value
        return
    is_union = isinstance(node.get("kind"), str) and isinstance(item.value, str) and not is_root
    if leaf == "kind" and is_union and item.value != node["kind"]:
        node.clear()
        fresh.append(node)
    node[leaf] = item.value


def _tables(node: JsonValue) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict | list):
            yield key


def _tables_called(name: str, table: JsonValue, prefix: str = "") -> Iterator[str]:
    for key, value in table.items() if isinstance(table, dict) else ():
        if key == name and isinstance(value, dict):
            yield prefix + key
        yield from _tables_called(name, value, f"{prefix}{key}.")


def child(node: object, key: str) -> object:
    """Return what `node` holds at `key`, an index if it is a list; None if that is nothing."""
    if isinstance(node, list):
        return node[int(key)] if is_index(key) and int(key) < len(node) else None
    return node.get(key) if isinstance(node, dict) else None


def is_index(key: str) -> bool:
    """Return whether `key` counts the items of a list."""
    return key.isascii() and key.isdigit() and len(key) < 10


def _brief(path: str) -> str:
    return one_line(path, 120)
