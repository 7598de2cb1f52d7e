"""Classifier-free guidance (2207.12598), of all conditions together and of each alone.

One network call runs several copies of every row: as it is told, without all conditions, and
without one of them. Guided is

    without all + guidance * (told - without all) + sum over inputs (its guidance - 1) *
    (told - without it)

so 1 is off for each, and with one input only its own guidance is that of all. Weights of several
conditions are those of 2211.09800 (section 3.2.1) up to the order in which conditions are added.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Float

from genlab.config import Config, Name, added
from genlab.tokens import Cond


class InputGuidance(Config):
    """How strongly one input is stressed."""

    name: Name
    """Of the input: speaker, text, units, duration, or one of condition.parts."""
    guidance: float = pydantic.Field(ge=0, le=1000)
    """Scale of its guidance; 1 is off."""


class GuidedSampler(Config):
    """What every sampler that can be guided has."""

    guidance: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """Scale of classifier-free guidance; 1 is off, anything else doubles the calls' batch."""
    guidances: tuple[InputGuidance, ...] = added(())
    """Guidance of single inputs, beside that of all. Each runs one more copy of the batch, and
    needs a dropout of that input alone in training.
    """

    @pydantic.model_validator(mode="after")
    def _check_names(self) -> "GuidedSampler":
        names = [one.name for one in self.guidances]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"guidances: the input {twice[0]!r} is given twice; leave one out")
        return self


@runtime_checkable
class Guided(Protocol):
    """What every sampler with guidance says; one of your own need not have `guidances`."""

    @property
    def guidance(self) -> float:
        """1 is off."""
        ...


def stressed(sampler: object) -> Sequence[InputGuidance]:
    """Return the inputs whose own guidance is on."""
    return [one for one in getattr(sampler, "guidances", ()) if one.guidance != 1]


def num_copies(sampler: Guided) -> int:
    """Return how many copies of the batch run: guidance takes one without conditions, that of an
    input one without it.
    """
    return 1 + (sampler.guidance != 1) + len(stressed(sampler))


def with_unconditional(cond: Cond, sampler: Guided) -> Cond:
    """Return every row of the batch followed by itself without conditions, and without each that is
    stressed alone, for one network call on all of them.

    Neighbours in the batch lie on the same chip, so nothing has to move when `guide` compares them.
    One copy is `cond`.
    """
    copies = num_copies(sampler)
    if copies == 1:
        return cond
    names = [one.name for one in stressed(sampler)]
    told = jnp.zeros_like(cond.is_dropped)
    absent = {**dict.fromkeys(names, told), **(cond.absent or {})} or None
    rows = [cond._replace(absent=absent)]
    if sampler.guidance != 1:
        rows.append(rows[0]._replace(is_dropped=jnp.ones_like(cond.is_dropped)))
    rows += [rows[0]._replace(absent={**(absent or {}), name: told | True}) for name in names]
    stacked = jax.tree.map(lambda *copies: jnp.stack(copies, axis=1), *rows)
    # b c ... -> (b c) ...: each row is followed by the same one without conditions.
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stacked)


def guide(outputs: Float[Array, "..."], sampler: Guided) -> Float[Array, "..."]:
    """Take the rows that `with_unconditional` made and return what each group of them gives:
    unconditional + guidance * (conditional - unconditional), and the same of single inputs; without
    guidance the rows are returned as they are.
    """
    copies = num_copies(sampler)
    if copies == 1:
        return outputs
    # (b c) ... -> c b ...
    told, *others = jnp.moveaxis(outputs.reshape(-1, copies, *outputs.shape[1:]), 1, 0)
    guided = told
    if sampler.guidance != 1:
        unconditional = others.pop(0)
        guided = unconditional + sampler.guidance * (told - unconditional)
    for one, without in zip(stressed(sampler), others, strict=True):
        guided = guided + (one.guidance - 1) * (told - without)
    return guided
