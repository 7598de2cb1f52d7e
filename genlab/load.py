"""Config files, config.json and pages: from a path to the object that it describes."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pydantic

from genlab.codecs.frozen import check_is_local
from genlab.config import (
    Config,
    ConfigError,
    apply_overrides,
    explain,
)
from genlab.config.errors import describe_raised, is_ours_to_stop, meant, shorten
from genlab.config.shipped import find_config
from genlab.experiment import Comparison, DecoderRun
from genlab.run.stored import parse_json, read_content
from genlab.run.trust import check_code, load_classes, run_file, texts_of
from genlab.runs import CodecRun, RecogniserRun

RESTORE = "restore the file, or give the config that it was made of"


KINDS: dict[str, type[Config]] = {
    "codec": CodecRun,
    "recogniser": RecogniserRun,
    "decoder": DecoderRun,
    "compare": Comparison,
}


def load_experiment(
    path: str | Path,
    overrides: tuple[str, ...] = (),
    *,
    named: Collection[str] = (),
    trust_code: bool = False,
) -> Any:
    """Return the experiment of a config file, a `config.json`, a run directory, or a name such as
    `quickstart`.

    Args:
        path: a Python file is executed; a config.json neither executes nor chooses a download.
            What does not exist may be the name of a config that comes with genlab.
        overrides: FIELD=VALUE; what they name counts as named by the person.
        named: Python files and published codecs that the person named elsewhere.
        trust_code: whether Python files that a config.json refers to may run.

    Raises:
        ConfigError: if there is no such file, it has no `config()`, a field is wrong, or a
            config.json refers to code or a download that nobody named.
    """
    path = find_config(path)
    if path.suffix == ".json":
        values = parse_json(read_content(path, fix=RESTORE) or b"", path=path, fix=RESTORE)
        kind = values.get("kind") if isinstance(values, dict) else None
        if not isinstance(kind, str) or kind not in KINDS:
            raise ConfigError(
                f"config {path}: kind {shorten(kind)}, expected one of {sorted(KINDS)}"
                f"{meant(str(kind), KINDS)}"
            )
        named = {*named, *texts_of(overrides)}
        asked = apply_overrides(values, overrides)
        check_code(asked, path, named=named, trust_code=trust_code)
        load_classes(asked)
        experiment: Any = KINDS[kind].from_dict(values, overrides)
        codec = getattr(getattr(experiment, "data", None), "codec", None)
        # A kind alone, such as `mimi`, means the usual repository, which no file can choose.
        if codec is not None and ":" in codec and codec not in named:
            check_is_local(codec, path)
        return experiment
    experiment = call_page(path, "config")
    if type(experiment) not in KINDS.values():  # config.json could not name a subclass
        wanted = ", ".join(sorted(f"{cls.__module__}.{cls.__name__}" for cls in KINDS.values()))
        found = "" if experiment is None else f"; it returned {type(experiment).__name__}"
        raise ConfigError(
            f"config {path}: expected a function config() that returns one of {wanted}{found}"
        )
    load_classes(apply_overrides(experiment.to_dict(), overrides))
    return experiment.override(overrides)


def call_base(file: str, base: str, function: str = "config", /, **values: object) -> Any:
    """Return what a function of another config returns; the config `file` builds on it.

    Args:
        file: `__file__` of the config that builds on it.
        base: path of the other config, relative to the folder of `file`: copies of both stay
            together.
        function: its name.
        **values: its arguments.

    Raises:
        ConfigError: if there is no such file or function, or it fails.
    """
    path = Path(os.path.normpath(Path(file).parent / base))
    if not path.is_file():
        raise ConfigError(
            f"base {path}: no such file; {Path(file).name} builds on it, so copy both"
        )
    found = call_page(path, function, **values)
    if found is None:
        raise ConfigError(f"base {path}: expected a function {function}() that returns a value")
    return found


def call_page(path: Path, name: str, /, **values: object) -> Any:
    """Return what the function `name` of a Python file returns for `values`, None if there is no
    such function.

    Raises:
        ConfigError: if the file cannot be run or a field in it is wrong.
    """
    if path.suffix != ".py":
        raise ConfigError(f"{name} {path}: expected a Python file or a config.json")
    try:
        function: Any = run_file(path).get(name)
        return None if function is None else function(**values)
    except pydantic.ValidationError as error:
        told = ConfigError(str(explain(error, _class_named(error.title)))).with_traceback(
            error.__traceback__
        )
        raise ConfigError(f"{name} {describe_raised(path, told)}") from None
    except BaseException as error:  # the file is the user's own, and may raise anything
        if is_ours_to_stop(error):
            raise
        raise ConfigError(f"{name} {describe_raised(path, error)}") from error


def _class_named(name: str) -> type[Config]:
    classes = [Config]
    for found in classes:  # grows while it is read
        if found.__name__ == name:
            return found
        classes += found.__subclasses__()
    return Config
