"""Metrics of the user: configs whose `metrics` join the table of scores (table.py).

In: `Comparison.metrics`. Out: their rows, whose measurements name the metric and the line when the
user's code fails, or one line that says why something cannot be a row.
"""

import dataclasses
import functools
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Literal,
    Protocol,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import numpy as np

from genlab.config import GenlabError
from genlab.config.errors import describe_raised, is_ours_to_stop, shorten
from genlab.config.open import Hashed, Open, file_of
from genlab.data.streamed import each_of
from genlab.evaluate.metric import Clips, Found, Measure, Metric, Work, spell
from genlab.evaluate.table import known_metric

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
RESERVED = ("content", "real")  # earlier versions had scores whose names begin like this
IN_WORDS = {str: "text", bool: "True or False", int: "a whole number"}
Result = TypeVar("Result")


@runtime_checkable
class MetricConfig(Hashed, Protocol):
    """What `Comparison.metrics` holds: a `Config` with a kind of its own and this method."""

    def metrics(self) -> Sequence[Metric]:
        """Return the rows that it adds to the table: one, or several that share `measure`."""
        ...


AnyMetric = Annotated[MetricConfig, Open()]


def own_rows(configs: Sequence[MetricConfig]) -> tuple[Metric, ...]:
    """Return the rows of all configs, in their order.

    Raises:
        ValueError: if `metrics` fails, or returns what cannot be a row of the table.
    """
    found: list[Metric] = []
    for number, config in enumerate(configs):
        place = f"metrics.{number} ({type(config).__name__})"
        try:
            rows = list(config.metrics())
        except Exception as error:  # the code is the user's own, and may raise anything
            raise ValueError(f"{place}: {describe_raised(file_of(type(config)), error)}") from error
        if not rows:
            raise ValueError(f"{place}: metrics() returns nothing, expected at least one Metric")
        for row in rows:
            if problem := _problem_of(row, found):
                raise ValueError(f"{place}: {problem}")
            found.append(row)
        names = frozenset(name for row in rows for name in row.score_names)
        guarded = (_guard(row, place, names, file_of(type(config))) for row in rows)
        found[-len(rows) :] = guarded
    return tuple(found)


def _problem_of(row: object, before: Sequence[Metric]) -> str:
    """Return why the table cannot hold a row, "" if it can."""
    if not isinstance(row, Metric):
        return f"metrics() returns {shorten(row)}, expected genlab.evaluate.metric.Metric"
    if problem := _mistyped(row):
        return problem
    if NAME.fullmatch(row.name) is None:
        return f"name={shorten(row.name)}: expected letters, digits, - and _, at most 40"
    if row.needs == "tokens":
        return f"{row.name}: needs='tokens', but metrics of your own hear audio; say which"
    if row.title != spell(row.name):
        # A report is made of results.json alone, and reads the title from the name.
        return f"{row.name}: leave out title; reports show {spell(row.name)!r}"
    if not row.range[0] < row.range[1]:
        return f"{row.name}: range={shorten(row.range)}, expected the lower end first"
    taken = {name for other in before for name in other.score_names}
    for name in row.score_names:
        # Names that begin like a metric of genlab's would be read as one of its scores.
        if known_metric(name) is not None or name.split("_")[0] in RESERVED:
            return f"{name}: genlab has scores of this name; begin it otherwise"
        if name in taken:
            return f"{name}: another metric has this name; rename one of the two"
    return ""


def _mistyped(row: Metric) -> str:
    """Return what is wrong with the first field that does not hold what `Metric` declares, "" if
    none is: nothing checks a plain dataclass when it is made.
    """
    # Here: it loads hundreds of modules, and few comparisons have metrics of their own.
    from beartype.door import is_bearable

    for name, hint in _hints().items():
        value, expected = getattr(row, name), _spell_hint(hint)
        if name == "range":
            # Any real numbers, of numpy too, which are no `float` to a type checker.
            is_fine = (
                isinstance(value, tuple | list)
                and len(value) == 2
                and all(isinstance(end, numbers.Real) for end in value)
            )
            expected = "two numbers; where there is no limit, math.inf or -math.inf"
        else:
            is_fine = is_bearable(value, hint)
        if not is_fine:
            return f"{row.name}: {name}={shorten(value)}, expected {expected}"
    return ""


@functools.cache
def _hints() -> Mapping[str, type]:
    return get_type_hints(Metric)


def _spell_hint(hint: object) -> str:
    """Return a type as a person would say it: `tuple[str, ...]` is "a tuple of text"."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return f"a tuple of {_spell_hint(get_args(hint)[0])}"
    return next((words for kind, words in IN_WORDS.items() if kind is hint), "a function of Clips")


@dataclass(frozen=True)
class _Guarded:
    """A measurement that is the user's code. Equal ones run once, like those they wrap."""

    measure: Measure
    place: str
    names: frozenset[str]
    file: Path

    def __call__(self, clips: Clips) -> Work:
        work = self._run(lambda: self.measure(clips))
        if not isinstance(work, Work):
            raise GenlabError(f"{self.place}: measure returns {shorten(work)}, expected Work")
        jobs = each_of(lambda job: functools.partial(self._run, job), work.jobs)
        return work._replace(
            jobs=jobs,
            finish=lambda results: self._check(
                self._run(lambda: work.finish(results)), len(clips.waves)
            ),
        )

    def _run(self, job: Callable[[], Result]) -> Result:
        try:
            return job()
        except GenlabError:
            raise
        except BaseException as error:
            if is_ours_to_stop(error):
                raise
            raise GenlabError(f"{self.place}: {describe_raised(self.file, error)}") from error

    def _check(self, found: Found, num_clips: int) -> Found:
        if not isinstance(found, Found):
            raise GenlabError(f"{self.place}: finish returns {shorten(found)}, expected Found")
        if unknown := {*found.per_clip, *found.of_sets} - self.names:
            raise GenlabError(
                f"{self.place}: measures {min(unknown)!r}, which is none of its rows, "
                f"{', '.join(sorted(self.names))}"
            )
        for name, values in found.per_clip.items():
            if np.ndim(values.totals) != 1:
                raise GenlabError(
                    f"{self.place}: {name} has values of shape {np.shape(values.totals)}, expected "
                    f"one number for each of {num_clips} clips"
                )
            if not len(values.totals) == len(values.weights) == len(values.clusters) == num_clips:
                raise GenlabError(
                    f"{self.place}: {name} has {len(values.totals)} values, expected one for each "
                    f"of {num_clips} clips"
                )
        return found


def _guard(row: Metric, place: str, names: frozenset[str], file: Path) -> Metric:
    assert row.measure is not None, "needs no tokens"
    return dataclasses.replace(row, measure=_Guarded(row.measure, place, names, file))
