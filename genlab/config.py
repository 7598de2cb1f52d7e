"""The base of every config: frozen, strict, hashed, and able to take dotted overrides.

Configs are pydantic models that stand beside the code they configure; a config file is Python that returns one of them.
In: Python objects, or JSON plus overrides such as `decoder.width=768`. Out: a validated object, or a `ConfigError` that
lists every problem at once with its dotted path and a "did you mean". Nothing here imports jax.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Self, get_args

import pydantic


class GenlabError(Exception):
    """An error the user can mend. The command line prints it in one line and exits with code 2."""


class ConfigError(GenlabError):
    """One or more config fields are wrong; the text names each field, its value and what was expected."""


class Config(pydantic.BaseModel):
    """Base of all configs: immutable, unknown fields refused, no silent type conversion."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

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

    def digest(self, exclude: set[str] | None = None) -> str:
        """Return 10 hex digits of the SHA-256 of the canonical JSON, less the top-level fields in `exclude`."""
        return digest({key: value for key, value in self.to_dict().items() if key not in (exclude or set())})


def digest(values: Any) -> str:
    """Return the first 10 hex digits of the SHA-256 of `values` as canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a deep copy of `values` with each `a.b.c=value` set; values are JSON, anything else is text.

    The tables around a table may be left out where only one is called so: `profile.steps` is `settings.profile.steps`.

    Raises:
        ConfigError: if an override has no `=` or its path runs through something that is not a table.
    """
    values = json.loads(json.dumps(values))
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals or not path:
            raise ConfigError(f"override {item!r}: expected FIELD=VALUE, for example optim.peak_lr=1e-3")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *parents, leaf = path.split(".")
        if parents and parents[0] not in values:
            found = list(_tables_called(parents[0], values))
            if len(found) > 1:
                raise ConfigError(f"{parents[0]}: which of {', '.join(found)}? (override {item!r})")
            parents[:1] = found[0].split(".") if found else parents[:1]
        node: Any = values
        for depth, key in enumerate(parents):
            node = _child(node, key)
            if not isinstance(node, dict | list):
                raise ConfigError(f"{'.'.join(parents[: depth + 1])}: no such table in this config (override {item!r})")
        if isinstance(node, list):
            if not leaf.isdigit() or int(leaf) >= len(node):
                raise ConfigError(f"{path}: expected an index below {len(node)}")
            node[int(leaf)] = value
        else:
            node[leaf] = value
    return values


def _tables_called(name: str, table: Any, prefix: str = "") -> Iterator[str]:
    for key, value in table.items() if isinstance(table, dict) else ():
        if key == name and isinstance(value, dict):
            yield prefix + key
        yield from _tables_called(name, value, f"{prefix}{key}.")


def explain(error: pydantic.ValidationError, cls: type[pydantic.BaseModel], values: Any = None) -> ConfigError:
    """Return every problem of `error` in one line, with its dotted path and a "did you mean".

    Args:
        error: what validating `cls` raised.
        cls: the class whose fields a typo may have meant.
        values: the JSON-like input. pydantic puts the tag of a union into the path; the user never wrote it, and here
            it is recognised by not being in the input.
    """
    known = {name.rsplit(".", 1)[-1]: name for name in sorted(_dotted_fields(cls), key=len, reverse=True)}
    return ConfigError("; ".join(_explain_one(problem, known, values) for problem in error.errors()))


def _explain_one(problem: Any, known: dict[str, str], values: Any) -> str:
    path = ".".join(_written_path(problem["loc"], problem["type"], values))
    if problem["type"] == "extra_forbidden":
        written = str(problem["loc"][-1])
        near = difflib.get_close_matches(written, known, n=1)
        meant = known[written] if written in known else near[0] if near else None  # the place, when the name is right
        return f"{path}: no such field" + (f"; did you mean {meant!r}?" if meant else "")
    if problem["type"] == "missing":
        return f"{path}: missing; give it a value"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path or 'config'}: {message}" + ("" if message != problem["msg"] else f" (got {problem['input']!r:.80})")


def _written_path(location: tuple[int | str, ...], kind: str, values: Any) -> Iterator[str]:
    node = values
    for depth, part in enumerate(location):
        child = _child(node, str(part))
        is_absent = kind == "missing" and depth == len(location) - 1
        if values is None or child is not None or is_absent or (isinstance(node, dict) and part in node):
            node = child
            yield str(part)


def _child(node: Any, key: str) -> Any:
    if isinstance(node, list):
        return node[int(key)] if key.isdigit() and int(key) < len(node) else None
    return node.get(key) if isinstance(node, dict) else None


def _dotted_fields(cls: type[pydantic.BaseModel], prefix: str = "", depth: int = 0) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield prefix + name
        if depth < 6:
            for model in _models_in(field.annotation):
                yield from _dotted_fields(model, f"{prefix}{name}.", depth + 1)


def _models_in(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
