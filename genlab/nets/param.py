"""What a parameter says about itself: how it is split over chips, whether weight decay acts on it,
and whether it belongs to the family rather than to the backbone that all families share.

In: the value of a parameter, where its module makes it. Out: an `nnx.Param` that carries a `Rule`
as metadata. The rule speaks of the last axes, so it still holds when `jax.vmap` stacks layers in
front of them. It is not saved: checkpoints hold arrays alone.

`matrix` and `vector` make parameters; a flax layer gets its rules through `linear_rules(...)` and
`NORM_RULES`. Flax layers without rules get a default, because flax names what it makes: `kernel`
and `embedding` are matrices whose inputs are split over `fsdp`, `bias` and `scale` are vectors. Any
other parameter with two or more axes and no rule is refused by name, because neither its name nor
its rank tells a matrix from a stack of biases.
"""

import math
from typing import Any, NamedTuple

from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from genlab.config import GenlabError
from genlab.machine.sharding import AXES, INPUTS, WHOLE, place


class Rule(NamedTuple):
    """How the last axes of a parameter are split over the mesh, whether weight decay acts on it,
    and whether a family may add it to what all families share (a noise level's modulation).
    """

    split: PartitionSpec
    is_decayed: bool
    is_delta: bool = False


# It shifts or scales channels: pulling it to zero only changes what the next matrix must undo.
VECTOR = Rule(WHOLE, is_decayed=False)
# What modules say of themselves, in a class attribute of this name.
SHARED = "is_shared"
# For `nnx.LayerNorm(width, **NORM_RULES)`.
NORM_RULES: dict[str, Any] = {f"{name}_metadata": {"rule": VECTOR} for name in ("scale", "bias")}
# What layers of flax call their matrices and their vectors.
FLAX_MATRICES = ("kernel", "embedding")
FLAX_VECTORS = ("bias", "scale")


def matrix(value: Shaped[Array, "..."], split: PartitionSpec = INPUTS) -> nnx.Param:
    """Return a parameter that weight decay acts on; `split` says how its last axes are split."""
    return nnx.Param(value, rule=Rule(split, is_decayed=True))


def vector(value: Shaped[Array, "..."]) -> nnx.Param:
    """Return a parameter that every chip holds whole and that does not decay: a bias, a gain, an
    offset.
    """
    return nnx.Param(value, rule=VECTOR)


def as_delta(param: nnx.Param) -> nnx.Param:
    """Return the parameter, marked as what a family may add to a module that all families share."""
    param.set_metadata(rule=param.get_metadata("rule")._replace(is_delta=True))
    return param


def linear_rules(split: PartitionSpec = INPUTS) -> dict[str, Any]:
    """Return the arguments with which a flax layer gives its kernel and its bias their rules."""
    kernel = Rule(split, is_decayed=True)
    return {"kernel_metadata": {"rule": kernel}, "bias_metadata": {"rule": VECTOR}}


def rules_of(model: nnx.Module) -> dict[str, Rule]:
    """Return the rule of every parameter, and of every other variable that has one, by its path.

    The model may hold arrays, shapes or tracers. Words of a path are joined by slashes.

    Raises:
        GenlabError: for a parameter that has no rule and no default, or a rule that cannot be
            followed.
    """
    rules = {}
    for words, variable in nnx.to_flat_state(nnx.state(model)):
        path = "/".join(map(str, words))
        rule = variable.get_metadata("rule", None)
        if rule is None and not isinstance(variable, nnx.Param):
            continue
        rule = _default_rule(path, variable) if rule is None else rule
        _check_rule(path, variable, rule)
        rules[path] = rule
    return rules


def splits_of(model: nnx.Module) -> dict[str, PartitionSpec]:
    """Return how every parameter is split, by its path: what `lay_out` and `place` are told.

    Raises:
        GenlabError: as `rules_of`.
    """
    return {path: rule.split for path, rule in rules_of(model).items()}


def count_shared(model: nnx.Module) -> int:
    """Return how many numbers are learned by what all families share; shapes are enough.

    A module says so of itself and of all it holds by a class attribute `is_shared`: True of the
    backbone and of the encoder of the conditions, False of a head, whose own small backbone then
    belongs to the head. Everything else is the family's: embeddings, heads, `as_delta`.

    Raises:
        GenlabError: as `rules_of`.
    """
    said = {
        path: getattr(module, SHARED)
        for path, module in nnx.iter_modules(model)
        if hasattr(module, SHARED)
    }
    rules = rules_of(model)

    def is_shared(words: tuple) -> bool:
        around = [said[words[:n]] for n in range(len(words)) if words[:n] in said]
        return bool(around) and all(around) and not rules["/".join(map(str, words))].is_delta

    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return sum(math.prod(param.shape) for words, param in params if is_shared(words))


def place_state(graphdef: nnx.GraphDef, state: dict[str, PyTree]) -> dict[str, PyTree]:
    """Return the shapes of a training state, which say where its arrays belong on the mesh that is
    set.
    """
    return place(state, splits_of(nnx.merge(graphdef, state["params"], state["rest"])))


def _default_rule(path: str, variable: nnx.Variable) -> Rule:
    name = path.rsplit("/", 1)[-1]
    num_axes = len(variable.shape)
    if num_axes < 2 or name in FLAX_VECTORS:
        return VECTOR
    if name in FLAX_MATRICES:
        return Rule(INPUTS, is_decayed=True)
    raise GenlabError(
        f"parameter {path}: its {num_axes} axes do not say whether weight decay acts on it or how "
        "it is split; make it with `matrix` or `vector` of genlab.nets.param, or call its "
        "set_metadata(rule=Rule(...))"
    )


def _check_rule(path: str, variable: nnx.Variable, rule: object) -> None:
    if not isinstance(rule, Rule):
        raise GenlabError(f"parameter {path}: rule={rule!r:.80}: expected a genlab.nets.param.Rule")
    if len(rule.split) > len(variable.shape):
        raise GenlabError(
            f"parameter {path}: split={rule.split} names {len(rule.split)} axes, but its shape is "
            f"{tuple(variable.shape)}; name at most its last axes"
        )
    # An entry of a split is the name of a mesh axis, several names, or None.
    entries = [(entry,) if isinstance(entry, str) else entry or () for entry in rule.split]
    if unknown := [axis for entry in entries for axis in entry if axis not in AXES]:
        raise GenlabError(
            f"parameter {path}: split={rule.split}: {unknown[0]!r} is not one of {', '.join(AXES)}"
        )
