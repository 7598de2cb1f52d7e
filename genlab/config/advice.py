"""Advice on a field that is wrong: what its place in the config may hold, and what to write there.

In: the class of a config, the dotted path as it was written, and the JSON-like values. Out: the
ending of an error, with overrides that can be typed as they stand, or None where nothing helps.
"""

import difflib
import json
import shlex
from collections.abc import Sequence
from typing import get_args, get_origin

import pydantic
from pydantic import JsonValue

from genlab.config.errors import MAX_VALUE, shorten
from genlab.config.open import Open, open_of
from genlab.config.overrides import child

LISTS = (tuple, list, frozenset)


def missing_field(
    cls: type[pydantic.BaseModel], parts: list[str], known: Sequence[str], values: object
) -> str:
    """Return what to say behind "no such field": the field that was meant, or the kind of table
    that has it.

    A slip of the pen beside the field comes first; then tables of this name elsewhere, then the
    kinds that the table could have, then the same name in any other table, and at last all that is
    only similar.

    Args:
        cls: the class of the whole config.
        parts: the path as it was written.
        known: the path of every field of the config.
        values: the JSON-like input.
    """
    *around, written = parts
    table = ".".join(around)
    beside = {path.rpartition(".")[2]: path for path in known if path.rpartition(".")[0] == table}
    anywhere = {path.rpartition(".")[2]: path for path in sorted(known, key=len, reverse=True)}
    namesakes = {
        path.rpartition(".")[2]: path for path in known if path.split(".")[-2:-1] == around[-1:]
    }

    def meant(fields: dict[str, str], likeness: float) -> str:
        near = difflib.get_close_matches(written[:MAX_VALUE], fields, n=1, cutoff=likeness)
        return f"; did you mean {fields[near[0]]!r}?" if near else ""

    # The same name in another table comes late: `path` is a field of many things.
    return (
        meant(beside, 0.85)
        or (meant(namesakes, 1.0) if around else "")
        or _other_kind(cls, around, written, values)
        or meant(anywhere, 1.0)
        or meant(beside, 0.6)
        or meant(anywhere, 0.6)
    )


def _other_kind(
    cls: type[pydantic.BaseModel], around: list[str], field: str, values: object
) -> str:
    """Return which other kinds of this table have the field, "" if none has."""
    node = values
    for part in around:
        node = child(node, part)
    now = node.get("kind") if isinstance(node, dict) else None
    kinds = [
        kind
        for known in _classes_of(_annotation_at(cls, around, values))
        if field in known.model_fields and (kind := _kind_of(known)) not in (None, now)
    ]
    if not kinds or now is None:
        return ""
    have = "has it" if len(kinds) == 1 else "have it"
    told = f" in kind {shorten(now)}; {', '.join(map(repr, kinds))} {have}"
    return f"{told}: add {'.'.join(around)}.kind={kinds[0]}"


def table_wanted(
    cls: type[pydantic.BaseModel], parts: list[str], given: object, values: object
) -> str | None:
    """Return what to write instead of one value where a table is expected."""
    path, annotation = ".".join(parts), _annotation_at(cls, parts, values)
    if get_origin(annotation) is dict:
        return f"{path}: got {shorten(given)}, expected a table; set {path}.NAME=..."
    classes = _classes_of(annotation)
    if not classes or not path:
        return None
    example = f"{path}.{next((name for name in classes[0].model_fields), 'FIELD')}=..."
    if isinstance(given, str):
        if given in map(_kind_of, classes):
            example = f"{path}.kind={given}"
        # The one text that has to be given is most likely what was given here.
        elif found := next(filter(None, map(_needed_text, classes)), None):
            kind, name = found
            example = f"{path}.kind={kind} {path}.{name}={shlex.quote(given)[:MAX_VALUE]}"
    return f"{path}: got {shorten(given)}, expected a table; set its fields: {example}"


def _needed_text(cls: type[pydantic.BaseModel]) -> tuple[str, str] | None:
    """Return kind and name of the only field without a default, if it is a text."""
    needed = [name for name, field in cls.model_fields.items() if field.is_required()]
    kind = _kind_of(cls)
    if kind is None or len(needed) != 1 or cls.model_fields[needed[0]].annotation is not str:
        return None
    return kind, needed[0]


def list_wanted(
    cls: type[pydantic.BaseModel], parts: list[str], given: JsonValue, values: object
) -> str | None:
    """Return what to write instead of one value where a list of values is expected."""
    path, annotation = ".".join(parts), _annotation_at(cls, parts, values)
    if get_origin(annotation) not in LISTS or not isinstance(given, str | int | float):
        return None
    if _classes_of(get_args(annotation)[0]) or open_of(get_args(annotation)[0]):
        return f"{path}: got {shorten(given)}, expected a list of tables"
    # A shell takes brackets for a pattern of file names, so they are quoted.
    written = shlex.quote(shorten([given]) if isinstance(given, float) else json.dumps([given]))
    return f"{path}: got {shorten(given)}, expected a list; write {path}={written[:MAX_VALUE]}"


def _annotation_at(annotation: object, parts: Sequence[str], node: object) -> object:
    """Return the annotation of what stands at a path, None if it is not known."""
    if not parts:
        return annotation
    inside = child(node, parts[0])
    if get_origin(annotation) in (dict, *LISTS):
        arguments = get_args(annotation)
        item = arguments[-1 if get_origin(annotation) is dict else 0]
        return _annotation_at(item, parts[1:], inside)
    kind = node.get("kind") if isinstance(node, dict) else None
    for known in _classes_of(annotation, kind):
        field = known.model_fields.get(parts[0])
        if field is not None and _kind_of(known) in (None, kind):
            below = open_of(None, field.metadata) or field.annotation
            return _annotation_at(below, parts[1:], inside)
    found = (_annotation_at(choice, parts, node) for choice in get_args(annotation))
    return next((choice for choice in found if choice is not None), None)


def _classes_of(annotation: object, kind: object = None) -> list[type[pydantic.BaseModel]]:
    """Return the classes that may stand here, with the user's own one that `kind` names."""
    door = annotation if isinstance(annotation, Open) else open_of(annotation)
    if door is not None:
        own = door.class_of(kind)
        return [*door.kinds, *([own] if own is not None and own not in door.kinds else [])]
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    if get_origin(annotation) in (dict, *LISTS):
        return []
    return [known for choice in get_args(annotation) for known in _classes_of(choice)]


def _kind_of(cls: type[pydantic.BaseModel]) -> str | None:
    field = cls.model_fields.get("kind")
    return field.default if field is not None and isinstance(field.default, str) else None
