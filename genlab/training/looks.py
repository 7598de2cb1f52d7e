"""Looks at validation while a model trains: which of its weights it hands over, by a rule that is
fixed before the run.

In: a `CheckpointRule`, and batches of validation clips that never change. Out: at equal shares of
every training the loss (or bits) of those clips with the same keys, once per kept average of the
parameters, and a copy of the best weights so far. A look reads the state of the training and
changes nothing in it, so the steps after it are those of a training without looks; what it found is
saved with every checkpoint, and a resumed run hands over the same weights.

A loss is comparable within one arm only, and only within one arm it chooses here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree
from pydantic import JsonValue
from typing_extensions import TypedDict

from genlab.config import Config, GenlabError
from genlab.machine.sharding import put_everywhere
from genlab.tokens import AnyArray
from genlab.training.optim import ArmSettings, OptimConfig
from genlab.watch import BITS_CURVE, CURVE

SPLIT = "valid"  # what chooses is never what is reported
BEST = ("best", "best_rest")  # in a checkpoint: parameters and other variables of the best look
LOOK_SEED = 20_261  # of the draws; the same at every look of every arm

Rows = tuple[tuple[PyTree, ...], Float[AnyArray, "b"]]
Compiled = Callable[..., tuple[Array, Array]]


class LookEntry(TypedDict):
    """What one look found: the value of each kept average, lower is better; None if not finite."""

    step: int
    values: dict[str, float | None]


class CheckpointRule(Config):
    """Which weights a training hands over, the same rule for every arm of a comparison."""

    rule: Literal["last", "best"] = "last"
    """last: those of the last update. best: those of the look with the lowest value on validation.
    """
    by: Literal["loss", "bits"] = "loss"
    """What a look measures on validation clips: the arm's own loss, or the bits (or their bound) of
    the clips' codes.
    """
    looks: int = pydantic.Field(default=8, ge=1, le=1000)
    """Looks per training, at equal shares of its updates, the last one after the last update."""
    clips: int = pydantic.Field(default=64, ge=2)
    """Validation clips of each look, or all if there are fewer; cut to the frames of an example."""
    draws: int = pydantic.Field(default=4, ge=1, le=1000)
    """Draws of noise per clip and look."""

    def looks_with(self, optim: OptimConfig) -> bool:
        """Return whether anything is to be chosen: a moment, or one of several averages."""
        return self.rule == "best" or optim.ema_powers is not None

    def check_choices(
        self, optim: OptimConfig, arms: Mapping[str, ArmSettings], prompts_split: str
    ) -> None:
        """Refuse a comparison in which what is chosen is also reported, or chosen twice.

        Raises:
            ValueError: naming the field.
        """
        if self.looks_with(optim) and prompts_split == SPLIT:
            raise ValueError(
                f"prompts_split={SPLIT!r}: looks at validation choose the weights on these clips, "
                "so report others: prompts_split=test, or checkpoint.rule=last without "
                "optim.ema_powers"
            )
        # The grid of a setting, and the setting that an arm may have for itself.
        for grid, field in (("ema_powers", "ema_decay"), ("peak_lrs", "peak_lr")):
            given = {name: getattr(arm, field) for name, arm in arms.items()}
            own = [
                f"{name}.{field}={value:g}" for name, value in given.items() if value is not None
            ]
            if own and getattr(optim, grid) is not None:
                raise ValueError(
                    f"arms.{own[0]}: optim.{grid} keeps the same grid in every arm; set it to "
                    f"null, or leave out the arm's {field}"
                )
        if optim.peak_lrs is not None and self.rule != "best":
            raise ValueError(
                f"optim.peak_lrs={list(optim.peak_lrs)}: looks at validation choose one of them; "
                "set checkpoint.rule=best, or optim.peak_lrs=null"
            )

    def steps_of(self, total: int) -> tuple[int, ...]:
        """Return after which updates a training of `total` looks: at the same shares in every arm.

        Raises:
            GenlabError: if there are fewer updates than looks.
        """
        if total < self.looks:
            raise GenlabError(
                f"checkpoint.looks={self.looks}: an arm makes only {total} updates, and every arm "
                f"looks as often; set checkpoint.looks={total} or less, or raise the budget"
            )
        return tuple(round(total * number / self.looks) for number in range(1, self.looks + 1))


class Looks(NamedTuple):
    """The rule, the updates after which to look, and what is looked at: batches whose rows count by
    a weight, 0 for what fills up the last one. `digest` is that of the clips.
    """

    rule: CheckpointRule
    steps: tuple[int, ...]
    batches: Sequence[Rows]
    digest: str

    @property
    def identity(self) -> dict[str, JsonValue]:
        """What a resumed run must share."""
        return {**self.rule.to_dict(), "clips of the looks": self.digest}


def choose_look(looks: Sequence[LookEntry], rule: Literal["last", "best"]) -> tuple[int, str]:
    """Return the step and the average that the rule chooses; of equal values the earliest.

    Raises:
        GenlabError: if no value is finite.
    """
    counted = looks if rule == "best" else looks[-1:]
    found = [
        (value, look["step"], name)
        for look in counted
        for name, value in look["values"].items()
        if value is not None
    ]
    if not found:
        raise GenlabError(
            "checkpoint: the validation loss is not finite at any look; lower optim.peak_lr"
        )
    return min(found, key=lambda item: item[:2])[1:]


class Looker:
    """Looks, and keeps what is handed over: `best` holds the parts named in `BEST`, or nothing."""

    def __init__(self, looks: Looks | None, graphdef: nnx.GraphDef, optim: OptimConfig):
        self.best: dict[str, PyTree] = {}
        self._looks = looks
        self._optim = optim
        self._graphdef = graphdef
        self._evaluate: Compiled | None = None

    @property
    def by(self) -> Literal["loss", "bits"]:
        """What a look measures."""
        return "loss" if self._looks is None else self._looks.rule.by

    def is_due(self, step: int) -> bool:
        """Return whether to look after this update."""
        return self._looks is not None and step in self._looks.steps

    def look(self, state: Mapping[str, PyTree], step: int, before: list[LookEntry]) -> LookEntry:
        """Return what is found, added to what was found `before`, and keep the weights if the rule
        chooses them so far.
        """
        assert self._looks is not None, "is_due comes first"
        averages = self._averages(state)
        values: dict[str, float | None] = {}
        for name, params in averages.items():
            value = self._value(params, state["rest"])
            values[name] = value if math.isfinite(value) else None
        found = LookEntry(step=step, values=values)
        before.append(found)
        is_any = any(value is not None for value in values.values())
        chosen = choose_look(before, self._looks.rule.rule) if is_any else (-1, "")
        if chosen[0] == step:
            # A copy: the next update consumes the arrays of the state.
            kept = (averages[chosen[1]], state["rest"])
            self.best = dict(zip(BEST, jax.tree.map(jnp.copy, kept), strict=True))
        return found

    def chosen(self, state: Mapping[str, PyTree]) -> tuple[PyTree, PyTree]:
        """Return what is handed over: parameters and other variables."""
        params, rest = self.best.values() if self.best else self.newest(state)
        return params, rest

    def newest(self, state: Mapping[str, PyTree]) -> tuple[PyTree, PyTree]:
        """Return the average as it is now, the first of several, and other variables."""
        return next(iter(self._averages(state).values())), state["rest"]

    def take_best(self, parts: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """Keep what earlier looks chose, and return the other parts of a checkpoint."""
        self.best = {name: parts[name] for name in BEST if name in parts}
        return {name: part for name, part in parts.items() if name not in BEST}

    def _averages(self, state: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """Return the parameters that may be chosen, by name: the averages, or the last ones."""
        if self._optim.ema_powers is not None:
            return dict(state["ema"])
        if self._optim.ema_decay is not None:
            return {"average": state["ema"]}
        return {"parameters": state["params"]}

    def _value(self, params: PyTree, rest: PyTree) -> float:
        assert self._looks is not None
        rule = self._looks.rule
        if self._evaluate is None:
            self._evaluate = jax.jit(partial(_evaluate, self._graphdef, rule.by, rule.draws))
        key = put_everywhere(jax.random.key(LOOK_SEED))
        sums = [
            self._evaluate(params, rest, *put_everywhere(rows), jax.random.fold_in(key, number))
            for number, rows in enumerate(self._looks.batches)
        ]
        total, weight = (sum(map(float, column)) for column in zip(*jax.device_get(sums)))
        return total / max(weight, 1e-6)


def handed_over(
    identity: Mapping[str, JsonValue], has_looked: bool, use_ema: bool
) -> tuple[str, str]:
    """Return the parts of a checkpoint that hold the model a training hands over: parameters and
    other variables.
    """
    if use_ema and has_looked:
        return BEST
    # Which average of a grid counts is not known before the first look.
    is_single = identity.get("optim.ema_powers") is None
    averaged = use_ema and is_single and identity.get("optim.ema_decay") is not None
    return "ema" if averaged else "params", "rest"


def curve(look: LookEntry, by: Literal["loss", "bits"]) -> dict[str, float]:
    """Return what a look by a score adds to the log."""
    single = len(look["values"]) == 1
    metric = BITS_CURVE if by == "bits" else CURVE
    return {
        metric if single else f"{metric}_{name}": value
        for name, value in look["values"].items()
        if value is not None
    }


def _evaluate(
    graphdef: nnx.GraphDef,
    by: Literal["loss", "bits"],
    draws: int,
    params: PyTree,
    rest: PyTree,
    args: tuple[PyTree, ...],
    counts: Float[Array, "b"],
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return a sum over the rows of one batch and the weight it is to be divided by."""

    def build() -> Any:
        # In every draw anew: a model may change its own variables in `loss`.
        model = nnx.merge(graphdef, params, rest)
        model.eval()  # no dropout, no dropped conditions
        return model

    if by == "bits":
        out = build().score(*args, key=key, num_draws=draws)
        return (out.bits * counts).sum(), (args[0].num_frames * counts).sum()

    def draw(key: Key[Array, ""]) -> tuple[Array, Array]:
        out = build().loss(*args, key=key)
        weight = out.weight.astype(jnp.float32) * counts
        return (out.per_example * weight).sum(), weight.sum()

    totals, weights = jax.lax.map(draw, jax.random.split(key, draws))
    return totals.sum(), weights.sum()
