"""The base of every config: frozen, strict, hashed, and able to take dotted overrides.

Configs are pydantic models, defined next to the code they configure; a config file is Python that
returns one of them. In: Python objects, or JSON plus overrides such as `decoder.width=768`. Out: a
validated object, or a `ConfigError` that lists every problem at once with its dotted path and a
"did you mean". Nothing here imports jax.

What every field obeys is said here once: numbers are finite and of a magnitude that float32 can
hold, whole numbers without a bound of their own are at most `MAX_WHOLE`, and text can be written to
a file.
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Self, get_args, get_origin

import annotated_types
import pydantic
import pydantic_core
from pydantic_core import ErrorDetails

from genlab.config.advice import list_wanted, missing_field, table_wanted
from genlab.config.errors import ConfigError as ConfigError
from genlab.config.errors import GenlabError as GenlabError
from genlab.config.errors import meant, one_line, shorten
from genlab.config.open import Open, fingerprint, models_in, open_of
from genlab.config.overrides import apply_overrides, child

MAX_WHOLE = 2**20  # more layers, clips in a batch or draws than any machine has room or time for
# beyond, float32 overflows or turns into zero where such a number is used
LARGEST, SMALLEST = 1e30, 1e-30
NUM_SHOWN = 12  # problems of one config
MAX_PROBLEM = 500  # characters of one problem
# What helps where one value was given for many, by pydantic's name of the problem.
WANTED = {
    "tuple_type": list_wanted,
    "list_type": list_wanted,
    "dict_type": table_wanted,
    "model_type": table_wanted,
    "model_attributes_type": table_wanted,
}

# Generators keep 32 bits of a seed: larger ones would be the same seed under two names.
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
# Counters of updates are int32 on the device.
Steps = Annotated[int, pydantic.Field(ge=1, lt=2**31)]
# Of recordings and their samples, of which a disk may hold many.
Count = Annotated[int, pydantic.Field(ge=1, lt=2**40)]


class Config(pydantic.BaseModel):
    """Base of all configs: immutable, unknown fields refused, no silent type conversion."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False
    )

    @pydantic.model_validator(mode="after")
    def _check_values(self) -> Self:
        for name in type(self).model_fields:
            for path, value in _leaves(getattr(self, name), name):
                if problem := _problem_of(value, name in _fields_with_a_bound(type(self))):
                    found = {"path": path, "problem": problem, "value": shorten(value)}
                    raise pydantic_core.PydanticCustomError(
                        "value", "{path}={value}: {problem}", found
                    )
        return self

    @pydantic.model_validator(mode="after")
    def _check_types(self) -> Self:
        """Refuse a nested config that `config.json` would read back as another type.

        pydantic takes a subclass wherever it takes the parent. JSON names a type by its place and
        its `kind` alone, so a subclass would share digest and run directory with its parent. Open
        fields (open.py) see to their own.
        """
        declared = _declared_types(type(self))
        for name in type(self).model_fields:
            for value in _configs_in(getattr(self, name)):
                if declared[name] and type(value) not in declared[name]:
                    expected = ", ".join(sorted(known.__name__ for known in declared[name]))
                    raise ValueError(
                        f"{name}: got a {type(value).__name__}, which config.json could not name "
                        f"and would read back as another type; expected exactly one of {expected}"
                    )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain JSON types."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: dict[str, Any], overrides: Iterable[str] = ()) -> Self:
        """Validate JSON-like `values` after `overrides` of the form `a.b.c=value`.

        Raises:
            ConfigError: with one line per problem.
        """
        values = apply_overrides(values, overrides)
        try:
            return cls.model_validate_json(json.dumps(values))
        except pydantic.ValidationError as error:
            raise explain(error, cls, values) from None

    def override(self, overrides: Iterable[str]) -> Self:
        """Return a validated copy with `a.b.c=value` overrides applied."""
        return type(self).from_dict(self.to_dict(), overrides)

    def lean_dict(self) -> dict[str, Any]:
        """Return `to_dict` less the own fields that were `added` later and have their default."""
        return {
            name: value
            for name, value in self.to_dict().items()
            if not (_is_added(field := type(self).model_fields[name]))
            or getattr(self, name) != field.default
        }

    def digest(self, exclude: set[str] | None = None) -> str:
        """Return 10 hex digits of the SHA-256 of the canonical JSON, less the top-level fields in
        `exclude`.

        Fields that were `added` later and have their default are left out. The kind of a class that
        is not the library's own counts as the name of the class and the source of its file.
        """
        values = _hashed(self, self.to_dict())
        return digest(
            {key: value for key, value in values.items() if key not in (exclude or set())}
        )


def added(default: Any) -> Any:
    """Declare a field that earlier versions lack: its default changes no digest."""
    return pydantic.Field(default=default, json_schema_extra={"added": True})


def _is_added(field: pydantic.fields.FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("added"))


@functools.cache
def _declared_types(
    cls: type[pydantic.BaseModel],
) -> dict[str, frozenset[type[pydantic.BaseModel]]]:
    """Return the config types that each field declares; none for a field that is open.

    Open are fields marked by `Open`, and by `pydantic.SerializeAsAny`: parts that are put together
    while a program runs and never stand in a config.json.
    """
    declared = {}
    for name, field in cls.model_fields.items():
        # pydantic's marker is a class only while a program runs.
        is_any = any(type(mark).__name__ == "SerializeAsAny" for mark in field.metadata)
        is_open = is_any or open_of(None, field.metadata) is not None
        declared[name] = frozenset(() if is_open else models_in(field.annotation))
    return declared


def _configs_in(value: object) -> Iterator[Config]:
    if isinstance(value, Config):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _configs_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _configs_in(inner)


def _hashed(node: object, dumped: Any) -> Any:
    """Return what is hashed of the dump of a config, or of what holds configs."""
    if isinstance(node, pydantic.BaseModel):
        kept = {}
        for name, field in type(node).model_fields.items():
            if name in dumped and not (_is_added(field) and getattr(node, name) == field.default):
                kept[name] = _hashed(getattr(node, name), dumped[name])
        if hasattr(node, "kind") and (source := fingerprint(type(node))) is not None:
            kept["kind"] = source
        return kept
    if isinstance(node, dict) and isinstance(dumped, dict):
        return {
            key: _hashed(node[key], dumped[key]) if key in node else dumped[key] for key in dumped
        }
    if isinstance(node, list | tuple) and isinstance(dumped, list):
        return [_hashed(item, value) for item, value in zip(node, dumped, strict=True)]
    return dumped


def digest(values: object) -> str:
    """Return the first 10 hex digits of the SHA-256 of `values` as canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _leaves(value: object, path: str) -> Iterator[tuple[str, float | str]]:
    """Yield every number and text in `value`; configs inside it have checked their own."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}: name", str(key)
            yield from _leaves(inner, f"{path}.{key}")
    elif isinstance(value, tuple | list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{number}")
    elif isinstance(value, int | float | str) and not isinstance(value, bool):
        yield path, value


def _problem_of(value: float | str, is_bound: bool) -> str | None:
    """Return why no field may hold `value`, None if it may; `is_bound` if its field has an upper
    bound of its own.
    """
    if isinstance(value, str):
        if "\0" in value:
            return "expected text without NUL characters"
        is_unicode = value.isprintable() or not any("\ud800" <= char <= "\udfff" for char in value)
        return None if is_unicode else "expected text that can be written as UTF-8"
    if isinstance(value, int):
        too_large = not is_bound and abs(value) > MAX_WHOLE
        return f"too large; expected a whole number of at most {MAX_WHOLE}" if too_large else None
    if not math.isfinite(value):
        return "expected a finite number"
    if value and not SMALLEST <= abs(value) <= LARGEST:
        return f"expected 0 or a magnitude from {SMALLEST:g} to {LARGEST:g}, which float32 can hold"
    return None


@functools.cache
def _fields_with_a_bound(cls: type[pydantic.BaseModel]) -> frozenset[str]:
    return frozenset(
        name
        for name, field in cls.model_fields.items()
        if _has_bound([*field.metadata, *_metadata_in(field.annotation)])
    )


def _has_bound(metadata: Iterable[object]) -> bool:
    kinds = (annotated_types.Le, annotated_types.Lt)
    inside = [item for entry in metadata for item in (entry, *getattr(entry, "metadata", ()))]
    return any(isinstance(item, kinds) for item in inside)


def _metadata_in(annotation: object) -> Iterator[object]:
    yield from getattr(annotation, "__metadata__", ())
    for inner in get_args(annotation):
        yield from _metadata_in(inner)


def explain(
    error: pydantic.ValidationError, cls: type[pydantic.BaseModel], values: object = None
) -> ConfigError:
    """Return every problem of `error` in one line, with its dotted path and a "did you mean".

    Args:
        error: what validating `cls` raised.
        cls: the class whose fields a typo may have meant.
        values: the JSON-like input. pydantic puts the tag of a union into the path; the user never
            wrote it, and here it is recognised by not being in the input.
    """
    found = error.errors(include_url=False)
    # Where neither one nor several is given, each of the two problems follows from the other.
    problems = [problem for problem in found if not _follows(problem, error)] or found[:1]
    known = list(dict.fromkeys(_paths(cls, values)))
    told = [
        one_line(_explain_one(problem, cls, known, values), MAX_PROBLEM)
        for problem in problems[:NUM_SHOWN]
    ]
    more = [f"and {len(problems) - NUM_SHOWN} more problems"] if len(problems) > NUM_SHOWN else []
    return ConfigError("; ".join([*told, *more]))


def _follows(problem: ErrorDetails, error: pydantic.ValidationError) -> bool:
    """Return whether a problem only follows from another one.

    A list is called too short because what is wrong inside it was left out; and what may be one or
    several is told that it is neither.
    """
    others = [other["loc"] for other in error.errors(include_url=False)]
    *around, last = problem["loc"] or ("",)
    if problem["type"] in ("tuple_type", "model_attributes_type") and str(last).startswith(
        ("tuple[", "function-wrap[")
    ):
        beside = [
            place
            for place in others
            if place[: len(around)] == tuple(around) and place != problem["loc"]
        ]
        return any(place[len(around) : len(around) + 1] != (last,) for place in beside)
    if problem["type"] != "too_short":
        return False
    place = problem["loc"]
    inside = [
        other["loc"] for other in error.errors(include_url=False) if len(other["loc"]) > len(place)
    ]
    return any(deeper[: len(place)] == place for deeper in inside)


def _explain_one(
    problem: ErrorDetails, cls: type[pydantic.BaseModel], known: list[str], values: object
) -> str:
    parts = list(_written_path(problem["loc"], problem["type"], values))
    path = ".".join(one_line(part, 80) for part in parts) or "config"
    kind = problem["type"]
    given = shorten(problem["input"])
    # The commonest first; the generic text at the end is pydantic's own.
    if kind == "extra_forbidden":
        return f"{path}: no such field{missing_field(cls, parts, known, values)}"
    context = problem.get("ctx", {})
    if kind == "value":
        inside = one_line(context["path"], 120)
        return f"{'.'.join([*parts, inside])}: {context['problem']} (got {context['value']})"
    if kind == "missing":
        return f"{path}: missing; give it a value"
    if kind == "union_tag_invalid":
        expected, tag = context["expected_tags"], context["tag"]
        near = meant(str(tag), re.findall(r"'([^']*)'", expected))
        return f"{path}.kind: got {shorten(tag)}, expected one of {expected}{near}"
    if kind == "union_tag_not_found":
        return f"{path}.kind: missing; say which kind the other fields of {path} belong to"
    # Of Python objects the traceback shows the line; of JSON there is only the text to type.
    wanted = WANTED.get(kind)
    if values is not None and wanted and (told := wanted(cls, parts, problem["input"], values)):
        return told
    message = problem["msg"].removeprefix("Value error, ")
    if message != problem["msg"]:
        return f"{path}: {message}"
    # `name=3` on the command line reads as a number; text needs quotes for JSON inside those of the
    # shell.
    is_plain = isinstance(problem["input"], int | float)
    fix = f"""; for text write {path}='"{given}"'""" if kind == "string_type" and is_plain else ""
    return f"{path}: {message} (got {given}){fix}"


def _written_path(location: tuple[int | str, ...], kind: str, values: object) -> Iterator[str]:
    node = values
    for depth, part in enumerate(location):
        below = child(node, str(part))
        is_absent = kind == "missing" and depth == len(location) - 1
        if (
            values is None
            or below is not None
            or is_absent
            or (isinstance(node, dict) and part in node)
        ):
            node = below
            yield str(part)


def _paths(annotation: object, node: object, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the dotted path of every field below a type, of unions only those of the kind that
    `node` is.
    """
    kind = node.get("kind") if isinstance(node, dict) else None
    door = annotation if isinstance(annotation, Open) else open_of(annotation)
    if door is not None:
        annotation = door.class_of(kind)
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        own = annotation.model_fields.get("kind")
        # A limit, since a union could contain itself; of a closed union only the kind that is
        # meant.
        if depth > 8 or (door is None and own and kind not in (None, own.default)):
            return
        for name, field in annotation.model_fields.items():
            yield prefix + name
            inside = open_of(None, field.metadata) or field.annotation
            yield from _paths(inside, child(node, name), f"{prefix}{name}.", depth + 1)
        return
    # Of a tuple or a table, what its items are; of any other generic, every choice.
    inner, origin = get_args(annotation), get_origin(annotation)
    if origin in (dict, tuple):
        items = (
            node.items()
            if isinstance(node, dict)
            else enumerate(node if isinstance(node, list) else [])
        )
        for key, value in items:
            yield from _paths(
                inner[-1 if origin is dict else 0], value, f"{prefix}{key}.", depth + 1
            )
    else:
        for choice in inner:
            yield from _paths(choice, node, prefix, depth)


# Of files and directories too, which hold 255 characters with all that is put around it.
Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
