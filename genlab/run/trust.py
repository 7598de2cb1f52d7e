"""Whose code runs: that of Python files which the person named, and no other.

A person names a file on the command line (a config, a page of a sweep, `--codec FILE.py`, an
override) or in their own program; what a named Python file refers to counts as named by it. A
config.json is data, no matter who wrote it: a Python file that it refers to, `FILE.py` or
`FILE.py:NAME` in any field, runs only with `--trust-code`, and only while its content is the one
that the run was made with. Run directories keep the digests of such files in `PINS_NAME`.

In: the values of a config.json, before anything is built of them. Out: nothing, or a `ConfigError`
that names the field, the file and the remedy. `run_file` is the only place of the library that
executes a file.
"""

import hashlib
import re
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from genlab.config.errors import ConfigError, shorten
from genlab.config.overrides import parse_override
from genlab.run.stored import read_stored

PINS_NAME = "code.json"
FLAG = "--trust-code"
# Prose may end in the name of a file. Every other text that looks like a Python file is one, also
# in fields that are yet to come: a field that is forgotten here is refused, not run.
PROSE = frozenset({"question"})
_CODE = re.compile(r"(.*\.py)(?::\w+)?", re.DOTALL)


def code_file(text: str) -> Path | None:
    """Return the Python file that `FILE.py` or `FILE.py:NAME` refers to, None if it is neither."""
    found = _CODE.fullmatch(text)
    return Path(found[1]) if found else None


def find_code(values: object, field: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted field, text) of all in JSON-like `values` that refers to a Python file."""
    if isinstance(values, str) and code_file(values) is not None:
        yield field, values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            if field or name not in PROSE:  # an arm may have the name of a field of prose
                yield from find_code(value, f"{field}.{name}" if field else str(name))
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from find_code(value, f"{field}.{number}")


def texts_of(overrides: Iterable[str]) -> set[str]:
    """Return the texts that overrides FIELD=VALUE give to fields: the person named them."""
    return {text for item in overrides for text in _texts_in(parse_override(item).value)}


def check_code(values: object, source: Path, *, named: Collection[str] = (), trust_code: bool = False) -> None:
    """Refuse what the config.json `source` refers to, unless the person named it or trusts it.

    Args:
        values: what is in the file, after overrides.
        source: the file; pins are looked for beside it.
        named: texts that the person gave, for example `docs/own_codec.py`.
        trust_code: whether the person said so.

    Raises:
        ConfigError: if a Python file is neither named nor trusted, or not the one that was pinned.
    """
    found = list(find_code(values))
    for field, text in found:
        if text not in named and not trust_code:
            raise ConfigError(
                f"{source}: {field}={shorten(text)} is a Python file, and a config.json does not "
                f"run code by itself; read the file, then add {FLAG} if you trust it"
            )
    check_pins(values, source.parent)


def check_pins(values: object, run_dir: Path) -> None:
    """Refuse Python files that have changed since `run_dir` was made with them.

    Raises:
        ConfigError: if one has changed.
        DamagedError: if the pins are damaged.
    """
    found = list(find_code(values))
    pins = read_pins(run_dir) if found else {}
    for field, text in found:
        if text in pins and digest_of(text, field) != pins[text]:
            raise ConfigError(
                f"{run_dir}: {field}={shorten(text)} has changed since the run was made with it "
                f"(SHA-256 {digest_of(text, field)[:10]}, expected {pins[text][:10]}); restore the "
                "file, or use another directory"
            )


def pins_of(values: object) -> dict[str, str]:
    """Return the SHA-256 of every Python file that a config refers to, by the text that does.

    Raises:
        ConfigError: if one is missing.
    """
    return {text: digest_of(text, field) for field, text in find_code(values)}


def read_pins(run_dir: Path) -> dict[str, str]:
    """Return the pins in a run directory; one that was made without code has none.

    Raises:
        DamagedError: if they are damaged.
    """
    return read_stored(run_dir / PINS_NAME, dict[str, str], fix="restore the file") or {}


def digest_of(text: str, field: str = "file") -> str:
    """Return the SHA-256 of the Python file that `text` refers to.

    Raises:
        ConfigError: if there is no such file.
    """
    path = code_file(text)
    try:
        return hashlib.sha256(path.read_bytes() if path else b"").hexdigest()
    except (OSError, ValueError):
        raise ConfigError(f"{field}={shorten(text)}: no such file; expected a Python file") from None


def run_file(path: Path) -> dict[str, object]:
    """Execute a Python file and return its names.

    Whoever calls this has made sure of the person's word. The source itself is compiled: a compiled
    copy beside it, which Python would prefer, is another file than the one that was read and pinned.

    Raises:
        Exception: anything that the file raises.
    """
    name = f"genlab_file_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}"
    module = types.ModuleType(name)
    module.__file__ = str(path)
    program = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    sys.modules[name] = module  # where dataclasses look up the names of annotations
    exec(program, vars(module))
    return vars(module)


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(inner)
