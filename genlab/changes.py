"""What may change in the config of a run that has been made.

In: the config of a run directory and the requested one. Out: nothing, or an error that names each
field, before anything is written.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from genlab.config import Config, ConfigError, GenlabError
from genlab.experiment import Comparison
from genlab.run import checkpoint
from genlab.run.files import write_config
from genlab.run.stored import read_stored
from genlab.run.trust import find_code

FIX = "restore it, or use another --out"

# Of a comparison: how it is scored.
SCORING = (*("evaluation", "metrics", "baselines", "equivalence", "audit", "question", "settings"),)
MEASURED_WHILE_SAMPLING = ("evaluation.lengths_s",)
# Of one training: what it does not read. inputs.json says whether the data are the same.
NOT_TRAINED_WITH = (
    "name",
    "settings",
    "data.corpus",
    "data.codec",
    "arm.sampler",
    "arm.training_trials",
    "arm.tuning_flops",
    "arm.sampler_trials",
)
LONGEST_VALUE = 60


def check_changes(made: Config, asked: Config, changeable: tuple[str, ...]) -> None:
    """Refuse to change what a run was trained or sampled with.

    Raises:
        ConfigError: naming every field that is not among `changeable` or beneath one of them.
    """
    if refused := _refused(made, asked, changeable):
        raise ConfigError(
            f"{refused}; a finished run keeps its models and samples, so this command can change "
            f"only {', '.join(changeable)}; the rest takes `genlab compare` with another --out"
        )


def check_same_training(run: Config, run_dir: Path) -> None:
    """Refuse to resume a training other than the one in `run_dir`, whose config.json stays.

    Raises:
        ConfigError: naming what differs.
    """
    found = read_stored(run_dir / "config.json", dict[str, JsonValue], fix=FIX)
    if found is None:
        return
    # A comparison keeps its checkpoints below: its own config.json would be lost here.
    kind = run.to_dict().get("kind")
    if found.get("kind") != kind:
        raise ConfigError(
            f"{run_dir}: holds a run of kind {found.get('kind')!r}, expected {kind!r}; use "
            "another --out"
        )
    if not checkpoint.saved_steps(run_dir):
        return
    try:
        made = type(run).from_dict(found)
    except ConfigError:
        return  # of another version; its checkpoints say whether they fit
    if refused := _refused(made, run, NOT_TRAINED_WITH):
        raise ConfigError(f"{run_dir}: {refused}; use another --out")


def claim(config: Comparison, out: Path) -> None:
    """Write config.json of a comparison; `settings` may differ from what is there.

    Raises:
        GenlabError: if `out` holds something that was made by another config.
    """
    values = config.to_dict()
    found = read_stored(out / "config.json", dict[str, JsonValue], fix=FIX)
    # Read as a config: a run of a version that lacked some field has its default.
    found = None if found is None else Comparison.from_dict(found).to_dict()
    holds_any = any((out / name).exists() for name in ("arms", "rates", "results.json"))
    is_other = found is not None and {**found, "settings": None} != {**values, "settings": None}
    if is_other and holds_any:
        raise GenlabError(
            f"{out}: holds the results of another configuration; use another --out, or delete it"
        )
    # A metric that failed after the training can be fixed: no row was scored by it (score.py).
    is_scored = (out / "results.json").exists()
    write_config(out, values, may_change=() if is_scored else scoring_code(values))


def scoring_code(values: Mapping[str, object]) -> list[str]:
    """Return what refers to code that a run is scored by and not made with."""
    return [text for _, text in find_code(values.get("metrics", []), "metrics")]


def _refused(made: Config, asked: Config, changeable: tuple[str, ...]) -> str:
    old, new = (dict(_fields(config.to_dict())) for config in (made, asked))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    refused = [
        f"{name}={_short(new.get(name))}: the run was made with {_short(old.get(name))}"
        for name in changed
        if name in MEASURED_WHILE_SAMPLING or not _is_beneath(name, changeable)
    ]
    more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
    return "; ".join(refused[:3]) + more


def _fields(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_beneath(name: str, tables: tuple[str, ...]) -> bool:
    return any(name == table or name.startswith(f"{table}.") for table in tables)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
