"""A sweep as a page of a lab notebook: what is asked, fixed, varied and predicted, and the runs
that follow from it.

In: a Python file with a function `sweep()` that returns a `Sweep`. Out: `expand`, a pure function:
one fully resolved `Comparison` per point, with an id that is a hash of everything that changes its
result. The arms of a comparison share data, budget and prompts by construction; points vary what
all arms of a run share, or add arms.

    points = product({"data.corpus.minutes": [5.0, 30.0], "batch_size": [16, 8]})   4 points
    points = zipped({"data.num_frames": [48, 96], "batch_size": [16, 8]})           2 points
    points = chain(points, more)        points = subsample(points, 6, seed=0)

A prediction is signed and written before the run: a weighted sum of scores that is to lie below
zero, above it, or within a margin; a gap that is to shrink; two families whose curves are to cross
inside the sweep; or the ratio of what two arms cost.
"""

import ast
import itertools
import json
import os
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic

from genlab.config import Config, ConfigError, Name, apply_overrides, digest
from genlab.config.errors import one_line
from genlab.evaluate.table import is_paired, known_metric
from genlab.experiment import Comparison
from genlab.load import call_page
from genlab.run.trust import load_classes, pins_of

Point = dict[str, Any]
Expected = Literal["below", "above", "within"]


def product(axes: Mapping[str, Sequence[object]]) -> list[Point]:
    """Return every combination; the last axis varies fastest."""
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def zipped(axes: Mapping[str, Sequence[object]]) -> list[Point]:
    """Return the axes side by side.

    Raises:
        ValueError: if they differ in length.
    """
    return [dict(zip(axes, values)) for values in zip(*axes.values(), strict=True)]


def chain(*points: Sequence[Point]) -> list[Point]:
    """Return the points one after the other, each once."""
    return list(
        {json.dumps(point, sort_keys=True): point for point in itertools.chain(*points)}.values()
    )


def subsample(points: Sequence[Point], number: int, seed: int = 0) -> list[Point]:
    """Return `number` of the points, drawn without replacement, in their order."""
    picked = set(random.Random(seed).sample(range(len(points)), number))
    return [point for index, point in enumerate(points) if index in picked]


def _not_paired(score: str) -> str:
    return f"score={score!r}: not compared prompt by prompt; take one such as bits_per_s"


class Contrast(Config):
    """Predicted: a weighted sum of scores lies below zero, above it, or within `margin` of it."""

    kind: Literal["contrast"] = "contrast"
    text: str
    """The prediction in words, its name on the page."""
    score: str
    """Name of the score."""
    terms: dict[str, float] = pydantic.Field(min_length=1)
    """Weights of rows, an arm's name or `ARM @ LABEL` where the sweep has several points: `{"masked
    @ minutes=5": 1, "ar @ minutes=5": -1}`.
    """
    expect: Expected
    """Where the sum is predicted to lie."""
    margin: float | None = pydantic.Field(default=None, gt=0)
    """Half width of what counts as no difference, in the unit of the score."""
    size: float | None = None
    """The value that was predicted, if one was."""
    bounds_as_values: bool = False
    """The source compares upper bounds with exact values as if they were alike; so does the
    verdict, and says so.
    """

    about: Literal["families", "tokens"] = "families"
    """What the sum tells apart. tokens: codes from latents, among decoders that draw in one order,
    and the text says so; then the gate of the token type asks that it does compare the two.
    """

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Contrast":
        if (self.expect == "within") != (self.margin is not None):
            raise ValueError(
                f"expect={self.expect!r}: a margin belongs to expect='within' and to nothing else"
            )
        metric = known_metric(self.score)
        if metric is not None and metric.is_of_sets:
            raise ValueError(_not_paired(self.score))
        return self

    def rows(self, labels: Sequence[str]) -> list[str]:
        """Return the rows that it is about."""
        return list(self.terms)


class Gap(Config):
    """Predicted: the gap between two families is nearer to zero in `large` than in `small`,
    whichever of them is ahead.

    A gap that turns round and grows does not shrink, so two sums must have one sign: the gap at the
    one minus that at the other, and both together.
    """

    kind: Literal["gap"] = "gap"
    text: str
    """The prediction in words, its name on the page."""
    score: str
    """Name of the score."""
    small: dict[str, float] = pydantic.Field(min_length=1)
    """Weights of the rows of the gap that is predicted to be the wider one."""
    large: dict[str, float] = pydantic.Field(min_length=1)
    """Weights of the rows of the other gap, of other rows."""

    @property
    def sums(self) -> tuple[Contrast, Contrast]:
        """The two sums that have one sign if the gap shrinks: the difference of the gaps, and both
        together.
        """
        minus = {row: -weight for row, weight in self.large.items()}
        both = Contrast(
            text=self.text,
            score=self.score,
            terms={**self.small, **self.large},
            expect="above",
        )
        return both.model_copy(update={"terms": {**self.small, **minus}}), both

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Gap":
        if shared := sorted(set(self.small) & set(self.large)):
            raise ValueError(f"large: the row {shared[0]!r} is one of small, too; take other rows")
        return self

    def rows(self, labels: Sequence[str]) -> list[str]:
        """Return the rows that it is about."""
        return [*self.small, *self.large]


class Crossing(Config):
    """Predicted: with growing x, `after` becomes better than `before`, inside the sweep."""

    kind: Literal["crossing"] = "crossing"
    text: str
    """The prediction in words, its name on the page."""
    score: str
    """Name of the score."""
    before: str
    """The arm that is better at small x."""
    after: str
    """The arm that is better at large x."""
    against: Literal["flops", "epochs", "seconds"] = "flops"
    """The x axis: training FLOPs, epochs, or unique seconds of training audio."""
    labels: tuple[str, ...] = ()
    """Points whose runs are the curves; empty takes all of them."""
    bounds_as_values: bool = False
    """The source compares upper bounds with exact values as if they were alike; so does the
    verdict, and says so.
    """

    def rows(self, labels: Sequence[str]) -> list[str]:
        """Return the rows that it is about."""
        return [
            f"{arm} @ {label}"
            for arm in (self.before, self.after)
            for label in self.labels or labels
        ]


class Ratio(Config):
    """Predicted: drawing a clip costs `over` more than `times` what it costs `under`, or less.

    Calls and FLOPs are exact; seconds are of the machine that ran it, one measurement per training
    seed.
    """

    kind: Literal["ratio"] = "ratio"
    text: str
    """The prediction in words, its name on the page."""
    cost: Literal["network_calls", "flops", "latency_s"]
    """What is compared."""
    length_s: float = pydantic.Field(gt=0)
    """Length of the clip in seconds, one of `evaluation.lengths_s`."""
    over: str
    """The row above the line, ARM or ARM @ LABEL."""
    under: str
    """The row below the line."""
    expect: Literal["below", "above"]
    """On which side of `times` the ratio is predicted to lie."""
    times: float = pydantic.Field(default=1.0, gt=0)
    """The number that the ratio is compared with."""

    @property
    def score(self) -> str:
        """What is divided."""
        return self.cost

    def rows(self, labels: Sequence[str]) -> list[str]:
        """Return the rows that it is about."""
        return [self.over, self.under]


Prediction = Annotated[Contrast | Gap | Crossing | Ratio, pydantic.Field(discriminator="kind")]


class Sweep(Config):
    """The page: comparisons that differ in a few fields, and what is predicted of them."""

    name: Name
    """Name of the page and of its directory."""
    question: str
    """What the sweep asks, in one sentence."""
    fixed: str
    """What stays the same, in words."""
    varied: str
    """What changes, in words."""
    claim: str = ""
    """A published statement that the page tests, if any."""
    source: str = ""
    """Where it was published."""
    faithful: str = ""
    """How far the test goes, and where it differs from the source."""
    base: Comparison
    """The comparison that every run starts from."""
    points: tuple[Point, ...] = ({},)
    """Overrides of each run, by dotted path."""
    names: dict[str, str] = {}
    """Short names of varied fields for labels; without one, the last part of the path. A field that
    goes with another one (a budget with a width) has the name "" and is in no label.
    """
    predictions: tuple[Prediction, ...] = ()
    """What is predicted, before anything runs."""
    untested: tuple[str, ...] = ()
    """What the source claims too and this page does not ask, each with the reason: the page lists
    it, so that nobody takes a part for the whole.
    """

    withdrawn: dict[str, str] = {}
    """Predictions, by their text, whose verdict does not count any more, each with the reason. The
    finding stays.
    """

    looks: tuple[str, ...] = ()
    """What was seen before the run: earlier versions of the page, what they showed, what is chosen
    on validation, and whether anybody has seen these prompts.
    """

    noticed: tuple[str, ...] = ()
    """What a person saw in the results, after the run: it predicts nothing and proves nothing."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Sweep":
        # Expanding first: it validates the config of every run, so what follows can trust them.
        runs = expand(self)
        labels = [run.label for run in runs]
        if taken := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(
                f"points: two are called {min(taken)!r}; give their fields distinct `names`"
            )
        texts = [prediction.text for prediction in self.predictions]
        if unknown := [text for text in self.withdrawn if text not in texts]:
            raise ValueError(f"withdrawn: no prediction {unknown[0]!r}; expected one of {texts}")
        for prediction in self.predictions:
            for row in prediction.rows(labels):
                # Everything here would otherwise be noticed only after days of training.
                arm, _, label = row.partition(" @ ")
                if not label and len(runs) > 1:
                    raise ValueError(
                        f"predictions: {row!r} is a row of {len(runs)} runs; write ARM @ LABEL"
                    )
                if not any(arm in run.config.arms and label in ("", run.label) for run in runs):
                    example = f"{next(iter(runs[-1].config.arms))} @ {labels[-1]}"
                    raise ValueError(
                        f"predictions: no row {row!r}; rows are ARM, or ARM @ LABEL such as "
                        f"{example!r}"
                    )
            if isinstance(prediction, Contrast | Gap):
                # A metric of the user is known to the config alone.
                if not is_paired(prediction.score, self.base.own_metrics):
                    raise ValueError(f"predictions: {_not_paired(prediction.score)}")
                sums = [prediction] if isinstance(prediction, Contrast) else prediction.sums
                for one in sums:
                    _check_fair(one, runs)
            if (
                isinstance(prediction, Ratio)
                and prediction.length_s not in self.base.evaluation.lengths_s
            ):
                raise ValueError(
                    f"predictions: {prediction.text!r} has length_s={prediction.length_s:g}, which "
                    f"base.evaluation.lengths_s={self.base.evaluation.lengths_s} does not "
                    "measure; add it there"
                )
        return self


class SweepRun(NamedTuple):
    """One point: where it is on disk, what people call it, and what is run."""

    id: str
    label: str
    point: Point
    config: Comparison


def expand(sweep: Sweep) -> list[SweepRun]:
    """Return the runs of a sweep, a pure function of it.

    Raises:
        ConfigError: if a point sets a field that is not there, or makes an impossible comparison.
    """
    runs = []
    for point in sweep.points:
        label = ", ".join(
            f"{name}={_brief(point[path])}" for path in point if (name := name_of(sweep, path))
        )
        overrides = [f"{path}={json.dumps(value)}" for path, value in point.items()]
        # the page is code, and names them
        load_classes(apply_overrides(sweep.base.to_dict(), overrides))
        config = sweep.base.override(overrides)
        config = config.model_copy(update={"name": sweep.name, "question": sweep.question})
        slug = re.sub(r"[^a-z0-9.]+", "_", label.lower()).strip("_")[:40] or "run"
        key = config.digest(exclude={"settings", "name", "question"})
        # A codec is a text in the config, whose digest holds no source, as it does for classes.
        if pins := pins_of({"codec": config.data.codec}):
            key = digest([key, *pins.values()])
        runs.append(SweepRun(f"{slug}-{key}", label, point, config))
    return runs


def name_of(sweep: Sweep, path: str) -> str:
    """Return what labels call a varied field; empty if they leave it out."""
    return sweep.names.get(path, path.rsplit(".", 1)[-1])


def find_question(path: Path) -> str | None:
    """Return what the page asks, without executing it; None if the file is no page of a sweep.

    A question that is put together by the page is not known before it runs; then the first line of
    the page's docstring is used instead.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    functions = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "sweep"
    ]
    if not functions:
        return None
    for call in ast.walk(functions[0]):
        for keyword in call.keywords if isinstance(call, ast.Call) else ():
            text = getattr(keyword.value, "value", None)
            if keyword.arg == "question" and isinstance(text, str):
                return one_line(text)
    return one_line((ast.get_docstring(tree) or "").strip().split("\n")[0])


def load_sweep(path: str | Path) -> Sweep:
    """Return the page of a Python file.

    Raises:
        ConfigError: if there is no such file, it has no `sweep()`, or a field is wrong.
    """
    if not os.path.isfile(path):  # pathlib raises on names longer than the system takes
        raise ConfigError(
            f"sweep {path}: no such page; expected a Python file that defines sweep(), as "
            "docs/first_sweep.py in the repository does; `genlab sweep list FOLDER` shows those in "
            "a folder"
        )
    found = call_page(Path(path), "sweep")
    if not isinstance(found, Sweep):
        raise ConfigError(f"sweep {path}: expected a function sweep() that returns a Sweep")
    return found


def _check_fair(prediction: Contrast, runs: Sequence[SweepRun]) -> None:
    """Refuse to compare different arms of different points, unless these points share what arms
    must share.

    Fair are sums that vanish within every run, and one arm against itself, which shows what the
    point did to it.
    """
    by_run: dict[str, float] = {}
    keys = {run.label: run.config.comparison_key() for run in runs}
    for row, weight in prediction.terms.items():
        label = _label_of(row, runs)
        by_run[label] = by_run.get(label, 0.0) + weight
    one_arm = len({row.split(" @ ")[0] for row in prediction.terms}) == 1
    if (
        len({keys[label] for label in by_run}) > 1
        and not one_arm
        and any(abs(sum_) > 1e-9 for sum_ in by_run.values())
    ):
        raise ValueError(
            f"predictions: {prediction.text!r} compares different arms of the points "
            f"{', '.join(map(repr, by_run))}, which share no data, budget or prompts; compare "
            "arms within a point"
        )


def _label_of(row: str, runs: Sequence[SweepRun]) -> str:
    return row.split(" @ ", 1)[1] if " @ " in row else runs[0].label


def _brief(value: object) -> str:
    return (
        f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"').replace(" ", "")
    )
