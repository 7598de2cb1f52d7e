"""Whose code runs: that of Python files which the person named, and no other.

A person names a file on the command line (a config, a page of a sweep, `--codec FILE.py`, an
override) or in their own program; what a named Python file refers to counts as named by it. A
config.json is data, no matter who wrote it: a Python file that it refers to, `FILE.py` or
`FILE.py:NAME` in any field, runs only with `--trust-code`. Run directories keep the digests of such
files in `PINS_NAME`, and the config.json of one can name no other file, and none whose content has
changed. The same holds for a class in a module that can be imported, which a `kind` refers to:
`package.module:Class`.

In: the values of a config.json, before anything is built of them. Out: nothing, or a `ConfigError`
that names the field, the file and the remedy. This is the only module of the library that executes
a file or imports a module by a name that it was given.
"""

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from genlab.config import Config
from genlab.config.errors import ConfigError, describe_raised, is_ours_to_stop, shorten
from genlab.config.open import FILE_MODULE, REFERENCE, note_loaded
from genlab.config.overrides import parse_override
from genlab.run.ownership import WRITTEN
from genlab.run.stored import read_stored

PINS_NAME = "code.json"
FLAG = "--trust-code"
# Prose may end in the name of a file. Every other text that looks like a Python file is one, also
# in fields that are yet to come: a field that is forgotten here is refused, not run.
PROSE = frozenset({"question"})
SCORES = "metrics."  # fields of what a run is scored by, not made with
_CODE = re.compile(r"(.*\.py)(?::\w+)?", re.DOTALL)
# A function in a module, as a codec is named: without a dot it would look like a published codec
# and its files.
_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+:[A-Za-z_]\w*")


def code_file(text: str) -> Path | None:
    """Return the Python file that `FILE.py` or `FILE.py:NAME` refers to, None if it is neither."""
    found = _CODE.fullmatch(text)
    return Path(found[1]) if found else None


def find_code(values: object, field: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted field, text) of all in JSON-like `values` that refers to a Python file or
    class.
    """
    if isinstance(values, str) and (code_file(values) is not None or _is_in_module(field, values)):
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


def check_code(
    values: object, source: Path, *, named: Collection[str] = (), trust_code: bool = False
) -> None:
    """Refuse what the config.json `source` refers to, unless the person named it or trusts it.

    Args:
        values: what is in the file, after overrides.
        source: the file; pins are looked for beside it.
        named: texts that the person gave, for example `docs/own_codec.py`.
        trust_code: whether the person said so.

    Raises:
        ConfigError: if a Python file is neither named nor trusted, or the run was not made with it,
            or with another content of it.
    """
    found = list(find_code(values))
    for field, text in found:
        if text not in named and not trust_code:
            what = "a Python file" if code_file(text) else "code in a Python module"
            raise ConfigError(
                f"{source}: {field}={shorten(text)} is {what}, and a config.json does not "
                f"run code by itself; read the file, then add {FLAG} if you trust it"
            )
    unpinned = [(field, text) for field, text in found if text not in named]
    if unpinned and _is_of_a_run(source):
        _check_made_with(unpinned, source)
    # A run may be scored again by a metric that was improved, if the user names it again.
    again = [text for field, text in found if field.startswith(SCORES) and text in named]
    check_pins(values, source.parent, except_for=again)


def _is_of_a_run(source: Path) -> bool:
    """Return whether `source` is the config.json of a run directory: more of a run lies beside it.

    A config.json alone is a config that somebody sent, and no run tells what it was made with.
    """
    beside = {*WRITTEN} - {source.name}
    return source.name in WRITTEN and any(os.path.lexists(source.parent / name) for name in beside)


def _check_made_with(found: Iterable[tuple[str, str]], source: Path) -> None:
    """Refuse Python files that the run of config.json was not made with: it was edited since."""
    pins = read_pins(source.parent)
    for field, text in found:
        if text not in pins:
            raise ConfigError(
                f"{source}: {field}={shorten(text)} is no code that the run was made with "
                f"(expected one of {PINS_NAME}: {shorten(', '.join(sorted(pins)) or 'none')}), so "
                "config.json was edited since; restore it, or use another directory"
            )


def check_pins(values: object, run_dir: Path, *, except_for: Collection[str] = ()) -> None:
    """Refuse Python files that have changed since `run_dir` was made with them.

    Args:
        values: a config.
        run_dir: where its pins are.
        except_for: texts that may refer to another content.

    Raises:
        ConfigError: if one has changed.
        DamagedError: if the pins are damaged.
    """
    found = list(find_code(values))
    pins = read_pins(run_dir) if found else {}
    for field, text in found:
        if text in pins and text not in except_for and digest_of(text, field) != pins[text]:
            again = f"score again with it: genlab evaluate {run_dir} {field}={text}"
            fix = again if field.startswith(SCORES) else "use another directory"
            raise ConfigError(
                f"{run_dir}: {field}={shorten(text)} has changed since the run was made with it "
                f"(SHA-256 {digest_of(text, field)[:10]}, expected {pins[text][:10]}); restore the "
                f"file, or {fix}"
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
    return hashlib.sha256(source_of(text, field)).hexdigest()


def source_of(text: str, field: str = "file") -> bytes:
    """Return the content of the Python file that `text` refers to.

    Raises:
        ConfigError: if there is no such file.
    """
    path = code_file(text) or _module_file(text, field)
    try:
        return path.read_bytes()
    except (OSError, ValueError):
        raise ConfigError(
            f"{field}={shorten(text)}: no such file; expected a Python file"
        ) from None


def run_file(path: Path) -> dict[str, object]:
    """Execute a Python file and return its names.

    Call it only for a file that the user named or allowed. The source itself is compiled: a
    compiled copy beside it, which Python would prefer, is another file than the one that was read
    and pinned.

    Raises:
        Exception: anything that the file raises.
    """
    source = path.read_bytes()
    name = _name_of(path)
    module = types.ModuleType(name)
    module.__file__ = str(path)
    vars(module)["__source_digest__"] = hashlib.sha256(source).hexdigest()
    program = compile(source, str(path), "exec", dont_inherit=True)
    sys.modules[name] = module  # where dataclasses look up the names of annotations
    exec(program, vars(module))
    return vars(module)


def load_classes(values: object) -> None:
    """Load every class that a `kind` in JSON-like `values` refers to, so that configs can hold it.

    Call it only for code that the user named, or that `check_code` let through.

    Raises:
        ConfigError: if there is no such class, or its file fails.
    """
    for field, text in find_code(values):
        if _is_class(field, text):
            load_class(text, field)


def load_class(text: str, field: str = "class") -> type[Config]:
    """Return the class that `FILE.py:Class` or `package.module:Class` refers to.

    A file that ran before, and has not changed since, does not run again.

    Raises:
        ConfigError: if there is no such class, it is no `Config`, or its file fails.
    """
    told = f"{field}={shorten(text)}"
    name = text.rpartition(":")[2]
    if REFERENCE.fullmatch(text) is None:
        raise ConfigError(f"{told}: expected FILE.py:Class or PACKAGE.MODULE:Class")
    found = _names_in(text, field).get(name)
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise ConfigError(
            f"{told}: expected a class {name} derived from genlab.config.Config in it"
        )
    note_loaded(text, found)
    return found


def is_function(text: str) -> bool:
    """Return whether text names a function of the user: `FILE.py`, `FILE.py:NAME` or
    `package.module:NAME`.
    """
    return code_file(text) is not None or _FUNCTION.fullmatch(text) is not None


def load_function(text: str, field: str, default: str) -> Callable[[], object]:
    """Return the function that `text` names, in `FILE.py` alone the one called `default`.

    Call it only for code that the user named or allowed.

    Raises:
        ConfigError: if there is no such function, or its file fails.
    """
    path = code_file(text)
    name = default if path is not None and str(path) == text else text.rpartition(":")[2]
    found = _names_in(text, field).get(name)
    if not callable(found):
        raise ConfigError(
            f"{field}={shorten(text)}: no function {name}() in it; expected one that returns a "
            f"{default}"
        )
    return found


def _names_in(text: str, field: str) -> Mapping[str, object]:
    """Return the names in the file or module that `text` refers to; a file that ran and is the same
    is not run again.

    Raises:
        ConfigError: if it is not there, or it fails.
    """
    path = code_file(text)
    try:
        if path is None:
            return vars(importlib.import_module(text.rpartition(":")[0]))
        digest = digest_of(text, field)
        ran = getattr(sys.modules.get(_name_of(path)), "__dict__", {})
        return ran if ran.get("__source_digest__") == digest else run_file(path)
    except ConfigError:
        raise
    except BaseException as error:  # the file is the user's own, and may raise anything
        if is_ours_to_stop(error):
            raise
        raise ConfigError(
            f"{field}={shorten(text)}: {describe_raised(path or Path(text), error)}"
        ) from error


def _is_in_module(field: str, text: str) -> bool:
    is_codec = field.rpartition(".")[2] == "codec" and _FUNCTION.fullmatch(text) is not None
    return is_codec or _is_class(field, text)


def _is_class(field: str, text: str) -> bool:
    return field.rpartition(".")[2] == "kind" and REFERENCE.fullmatch(text) is not None


def _name_of(path: Path) -> str:
    return f"{FILE_MODULE}{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}"


def _module_file(text: str, field: str) -> Path:
    """Return the file of the module in `package.module:Class`; the packages around it are imported
    for that.
    """
    name = text.rpartition(":")[0]
    module = sys.modules.get(name)
    try:
        file = getattr(module, "__file__", None) or getattr(
            importlib.util.find_spec(name), "origin", None
        )
    except (ImportError, ValueError):
        file = None
    if file is None:
        raise ConfigError(
            f"{field}={shorten(text)}: no such module; install it, or name a Python file"
        )
    return Path(file)


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(inner)
