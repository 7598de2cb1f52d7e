"""JSON that is read back from a disk: parsed within limits, checked against its type, refused in
one line.

In: a path, the type that the file must have (a config, a `TypedDict`, a list of them), and what to
do about a damaged one. Out: the values, or `DamagedError` with the text `PATH: damaged: field a.b:
expected ..., got ...; FIX`. Files come from disks that fail and from people who edit, so nothing
about them is taken for granted: size, encoding, nesting, repeated names, numbers that are not
finite or absurd, text that no file can hold.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import JsonValue

from genlab.config.errors import GenlabError

MAX_BYTES = 256 << 20
MAX_DEPTH = 64
# far above every quantity of the lab, and far below where a sum or a square overflows
MAX_NUMBER = 1e100

T = TypeVar("T")
Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Count = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
# of a `TypedDict` that later versions may add to
OPEN = pydantic.ConfigDict(strict=True, extra="allow")


class DamagedError(GenlabError):
    """A file does not hold what was written into it; the text names the file, the field and the
    fix.
    """


def read_stored(path: Path, kind: type[T], *, fix: str, may_be_nan: bool = False) -> T | None:
    """Return the values of a JSON file as `kind`, or None if there is no such file.

    Args:
        path: the file.
        kind: a config, a `TypedDict`, or anything else that pydantic validates.
        fix: what to do about a damaged file, in words that follow a semicolon.
        may_be_nan: let NaN and Infinity pass, which `json` writes for scores that are not defined.

    Raises:
        DamagedError: if the file is there and does not hold that.
    """
    content = read_content(path, fix=fix)
    return (
        None
        if content is None
        else parse_stored(content, kind, path=path, fix=fix, may_be_nan=may_be_nan)
    )


def read_again(path: Path, kind: type[T], *, doing: str, may_be_nan: bool = False) -> T | None:
    """Return what `read_stored` does, but None for a damaged file that can be made again, which is
    said.

    `doing` says on standard error what happens now, for example "scoring it again".
    """
    try:
        return read_stored(path, kind, fix=doing, may_be_nan=may_be_nan)
    except DamagedError as error:
        print(error, file=sys.stderr)
        return None


def parse_stored(
    content: bytes, kind: type[T], *, path: Path, fix: str, may_be_nan: bool = False
) -> T:
    """Return the values of JSON in `content`, read from `path`, as `kind`.

    Raises:
        DamagedError: as `read_stored`.
    """
    values = parse_json(content, path=path, fix=fix, may_be_nan=may_be_nan)
    try:
        # Once more as text: a strict type takes a list for a tuple and text for a path only from
        # JSON.
        return _adapter(kind).validate_json(json.dumps(values), strict=True)
    except pydantic.ValidationError as error:
        raise DamagedError(f"{path}: damaged: {describe_problem(error)}; {fix}") from None


def read_content(path: Path, *, fix: str, max_bytes: int = MAX_BYTES) -> bytes | None:
    """Return the bytes of a file, or None if there is none.

    Raises:
        DamagedError: if something else has that name, or it is too large, or it cannot be read.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            what = "a directory" if stat.S_ISDIR(found.st_mode) else "something else"
            raise DamagedError(f"{path}: damaged: expected a file, got {what}; {fix}")
        if found.st_size > max_bytes:
            raise DamagedError(
                f"{path}: damaged: expected at most {max_bytes} bytes, got {found.st_size}; {fix}"
            )
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: cannot be read ({error!s:.120}); {fix}") from None


def parse_json(content: bytes, *, path: Path, fix: str, may_be_nan: bool = False) -> Any:
    """Return the values of JSON in `content`, read from `path`.

    Raises:
        DamagedError: if it is no JSON, or beyond the limits of this module.
    """
    try:
        if not content.strip():
            raise ValueError("expected JSON, got an empty file")
        text = content.decode("utf-8")
        # json takes the last of two equal keys without a word; a file written by us has none.
        values = json.loads(text, object_pairs_hook=_refuse_repeated)
        _check_limits(values, may_be_nan)
    # The narrower errors first: both are subclasses of ValueError.
    except UnicodeDecodeError as error:
        raise DamagedError(
            f"{path}: damaged: expected UTF-8, got byte {error.start}; {fix}"
        ) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DamagedError(
            f"{path}: damaged: expected JSON, got {error.msg.lower()} at {where}; {fix}"
        ) from None
    except RecursionError:
        raise DamagedError(f"{path}: damaged: {_TOO_DEEP}; {fix}") from None
    except ValueError as error:
        raise DamagedError(f"{path}: damaged: {error!s:.160}; {fix}") from None
    return values


def describe_problem(error: pydantic.ValidationError) -> str:
    """Return the first problem of a validation: `field a.b: expected ..., got ...`, and how many
    more there are.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    context = first.get("ctx", {})
    inside = (context["path"],) if first["type"] == "value" else ()  # a limit that every config has
    field = ".".join(str(part) for part in (*first["loc"], *inside))
    where = f"field {field[:120]}: " if field else ""
    if first["type"] in ("missing", "missing_argument"):
        told = "expected a value, got none"
    elif first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        told = "expected no such field"
    elif first["type"] == "value":
        told = f"{context['problem']:.160}, got {context['value']}"
    else:
        expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        told = expected if expected.startswith("expected ") else f"expected {expected:.160}"
        told += "" if ", got " in told else f", got {_shorten(first['input'])}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return where + told + more


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


_TOO_DEEP = f"expected at most {MAX_DEPTH} levels, got more"


def _shorten(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_repeated(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {repeated[:60]}: expected once, got {names.count(repeated)} times")
    return values


def _check_limits(values: JsonValue, may_be_nan: bool) -> None:
    """Raise if anything in `values` is nested too deep, too large, not finite, or text that cannot
    be written.
    """
    level: list[tuple[str, JsonValue]] = [("", values)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[str, JsonValue]] = []
        for name, value in level:
            if isinstance(value, dict):
                below += value.items()
                _check_names(value)
            elif isinstance(value, list):
                below += [(name, item) for item in value]
            elif isinstance(value, str):
                _check_text(name, value)
            elif isinstance(value, float | int):
                _check_number(name, value, may_be_nan)
        level = below
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _check_names(values: Mapping[str, object]) -> None:
    for name in values:
        _check_text("a name", name)


def _check_text(name: str, text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, which no file can hold
            raise ValueError(f"field {name[:60]!a}: expected text, got a lone surrogate") from None


def _check_number(name: str, value: float, may_be_nan: bool) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        if not may_be_nan:
            raise ValueError(f"field {name[:60]!a}: expected a finite number, got {value}")
    elif abs(value) > MAX_NUMBER:
        raise ValueError(
            f"field {name[:60]!a}: expected a number below {MAX_NUMBER:g}, got a larger one"
        )


LONGEST_NAME = 255  # bytes, of every file system in common use


def partial_path(path: Path) -> Path:
    """Return where this process writes a file before it takes the name `path`.

    The name says that it is genlab's: a directory may hold somebody's own `.tmp` files as well. A
    name that would be too long with all of that is cut, and told apart by its digest.
    """
    suffix = f".genlab-{os.getpid()}.tmp"
    name = os.fsencode(path.name)
    if len(name) + len(suffix) + 1 > LONGEST_NAME:
        name = (
            name[:80].decode("utf-8", "ignore").encode()
            + b"-"
            + hashlib.sha256(name).hexdigest()[:16].encode()
        )
    return path.with_name(f".{os.fsdecode(name)}{suffix}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield where to write a file that takes the name `path` at the end: it is there whole, or as
    it was.

    Raises:
        OSError: with the name `path`, if the file cannot be written; a full disk is one.
    """
    partial = partial_path(path)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        # The person knows the name of the file, not the one it is written under.
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_whole(path: Path, content: bytes, *, is_secret: bool = False) -> None:
    """Write `content` so that a reader, or a crash, sees the old file or the new one and never a
    part.

    With `is_secret` only its owner may read it.

    Raises:
        OSError: as `whole_file`.
    """
    with whole_file(path) as partial:
        write_synced(partial, content, is_secret=is_secret)


def write_synced(path: Path, content: bytes, *, is_secret: bool = False) -> None:
    """Write `content` under this name at once and wait until it is on the disk: for the inside of
    `whole_file`.
    """
    if is_secret:  # no rights of an older file
        path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if is_secret else os.O_TRUNC)
    with os.fdopen(os.open(path, flags, 0o600 if is_secret else 0o666), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, text: str) -> None:
    """Write `text` in UTF-8 as `write_whole` does."""
    write_whole(path, text.encode())


def remove_leftovers(directory: Path, skip: Collection[str] = ()) -> None:
    """Remove what processes that were killed left under `partial_path`, here and below.

    Folders named in `skip` are not entered. A file of a process that lives is left alone.
    """
    for place, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if name not in skip]
        for name in names:
            written_by = re.fullmatch(r"\..+\.genlab-(\d{1,9})\.tmp", name)
            if written_by and not _is_process(int(written_by[1])):
                (Path(place) / name).unlink(missing_ok=True)


def remove_leftovers_of(path: Path) -> None:
    """Remove what processes that were killed left of this one file, as `remove_leftovers` does of
    all in a directory that belongs to genlab.
    """
    begins = partial_path(path).name.removesuffix(f"{os.getpid()}.tmp")
    for name in os.listdir(path.parent) if path.parent.is_dir() else ():
        written_by = re.fullmatch(r"(\d{1,9})\.tmp", name.removeprefix(begins))
        if written_by and name.startswith(begins) and not _is_process(int(written_by[1])):
            (path.parent / name).unlink(missing_ok=True)


def _is_process(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True
