"""Layers stacked along a first axis: what a scan over them keeps, and how they are taken apart."""

from functools import partial
from typing import Any, Literal

import jax
from flax import nnx
from jaxtyping import Array, PyTree

from genlab.nets.attention import KEPT_NAME


def kept_by_remat(remat: bool | Literal["full"]) -> Any:
    """Return what the backward pass need not compute again."""
    policies = jax.checkpoint_policies
    of_kernel = policies.save_only_these_names(KEPT_NAME)
    if remat == "full":
        return of_kernel
    return policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, of_kernel)


def unstack(stacks: tuple[PyTree, ...], groups: int) -> tuple:
    """Return the layers one by one, in the order of depth."""
    layers = []
    for group in range(groups):
        layers += [jax.tree.map(partial(_take, group=group), stack) for stack in stacks]
    return tuple(layers)


def renew(module: nnx.Module, noted: nnx.State) -> None:
    """Give a module new variables with the values of a state.

    Variables that were merged from outside of a gradient may not be changed inside it, so they are
    replaced.
    """
    for words, variable in nnx.to_flat_state(noted):
        holder: Any = module
        for word in words[:-1]:
            holder = getattr(holder, str(word))
        setattr(holder, str(words[-1]), type(variable)(variable[...]))


def _take(leaf: Array, group: int) -> Array:
    return leaf[group]
