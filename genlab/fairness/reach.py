"""How far ahead a decoder sees its conditions, measured by perturbation.

In: prompts, and what a decoder drew for them before and after everything told about their second
half was replaced, with the same random numbers. Out: per condition, how many frames before the
replaced part something moved. A decoder that sees the whole clip moves from its first frame on; one
that goes from left to right and reads only its own frame's unit and a few after it moves shortly
before. Arms whose reach differs are not told the same, so the ledger compares it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import numpy as np
import pydantic
from jaxtyping import Bool, Int, Shaped
from typing_extensions import TypedDict

from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.parts import is_sequence
from genlab.decoders.task import Task
from genlab.tokens import Cond, Tokens

# Codes far before the cut move rarely, so the farthest of all prompts falls short of all.
WHOLE = 0.5
SWAPS = 4  # ways to tell the second half otherwise, until the whole clip has moved
Frames = Annotated[int, pydantic.Field(ge=0)]


@pydantic.with_config(pydantic.ConfigDict(strict=True, extra="forbid"))
class Reach(TypedDict):
    """How far ahead one condition is seen."""

    ahead: Frames
    """Frames before the replaced part in which something moved, the most of all prompts; 0 if
    nothing did.
    """
    most: Frames
    """Frames before the replaced part that there are."""


class Swap(NamedTuple):
    """Conditions of which the second half of one is replaced."""

    name: str
    cond: Cond


def is_whole(reach: Reach) -> bool:
    """Return whether a decoder sees so far ahead that it may be called the whole clip."""
    return reach["ahead"] >= WHOLE * reach["most"]


def describe_reach(reach: Reach) -> str:
    """Return the reach in words."""
    if is_whole(reach):
        return "whole clip"
    return f"{reach['ahead']} frames ahead"


def has_order(condition: ConditionConfig) -> bool:
    """Return whether anything that is told has an order in time, so that it has a reach."""
    return condition.content != "none" or any(part.is_per_frame for part in condition.parts)


def measure_reach(
    task: Task, draw: Callable[[Cond], Tokens], before: Tokens, cond: Cond
) -> dict[str, Reach]:
    """Return the reach of every condition that has an order in time: units, text, parts by frame
    and sequences.

    Args:
        task: says what is told, and how many values it may have.
        draw: the tokens that it draws for conditions, always by the same random numbers.
        before: what it draws for `cond`.
        cond: the conditions of the prompts.
    """
    num_frames = np.asarray(before.num_frames)
    found: dict[str, Reach] = {}
    for number in range(SWAPS):
        for swap in swaps(cond, num_frames, task.condition, task.vocab, number):
            if swap.name in found and is_whole(found[swap.name]):
                continue
            reach = find_reach(before, draw(swap.cond), num_frames // 2)
            found = merge_reach([found, {swap.name: reach}])
    return found


def swaps(
    cond: Cond,
    num_frames: Int[np.ndarray, "b"],
    condition: ConditionConfig,
    vocab: CondVocab,
    number: int = 0,
) -> list[Swap]:
    """Return the conditions once for each that has an order in time, with its second half replaced
    by other values of the same kind, which differ from `number` to `number`.
    """
    found = []
    if condition.content == "semantic":
        units = np.asarray(cond.content)
        is_late = _after(num_frames // 2, units.shape[1])
        other = cond._replace(
            content=np.where(is_late, _others(units, vocab.num_units, number), units)
        )
        found.append(Swap("units", other))
    if condition.content == "text":
        text = np.asarray(cond.text)
        is_late = _after((text > 0).sum(axis=1) // 2, text.shape[1])
        other = cond._replace(
            text=np.where(is_late, _others(text, vocab.num_symbols - 1, number), text)
        )
        found.append(Swap("text", other))
    for part in condition.parts:
        if is_sequence(part) and cond.parts is not None:
            values = np.asarray(cond.parts[part.name])
            moved = _swap_sequence(values, number)
            found.append(Swap(part.name, cond._replace(parts={**cond.parts, part.name: moved})))
        if part.is_per_frame and cond.parts is not None:
            values = np.asarray(cond.parts[part.name])
            is_late = _after(num_frames // 2, values.shape[1])
            # b t -> b t 1 ..., as many axes as the values have
            is_late = is_late.reshape(*is_late.shape, *[1] * (values.ndim - 2))
            # Those of another clip are values that the corpus has.
            moved = np.where(is_late, np.roll(values, 1 + number, axis=0), values)
            found.append(Swap(part.name, cond._replace(parts={**cond.parts, part.name: moved})))
    return found


def _swap_sequence(values: Shaped[np.ndarray, "b n *c"], number: int) -> Shaped[np.ndarray, "..."]:
    """Return sequences whose second half is that of another clip, where both have one."""
    # Symbols are padded with 0; vectors say in their last channel which are there.
    is_there = values > 0 if values.ndim == 2 else values[:, :, -1] > 0
    others, is_other = (np.roll(each, 1 + number, axis=0) for each in (values, is_there))
    is_late = _after(is_there.sum(axis=1) // 2, values.shape[1]) & is_there & is_other
    return np.where(is_late.reshape(*is_late.shape, *[1] * (values.ndim - 2)), others, values)


def find_reach(before: Tokens, after: Tokens, cut: Int[np.ndarray, "b"]) -> Reach:
    """Return how far before its cut something moved, the farthest of all clips.

    Args:
        before: tokens drawn with the conditions as they are.
        after: tokens drawn with all that is told from frame `cut` on replaced.
        cut: the first frame of each clip of which something else is told.
    """
    is_moved = np.zeros(np.shape(before.is_valid), bool)
    for one, other in ((before.codes, after.codes), (before.latents, after.latents)):
        if one is not None and other is not None:
            is_moved |= (np.asarray(one) != np.asarray(other)).any(axis=2)
    is_early = ~_after(cut, is_moved.shape[1])
    is_moved &= is_early & np.asarray(before.is_valid)
    first = np.where(is_moved.any(axis=1), is_moved.argmax(axis=1), cut)
    return {"ahead": int((cut - first).max()), "most": int(cut.max())}


def merge_reach(reaches: list[Mapping[str, Reach]]) -> dict[str, Reach]:
    """Return the farthest reach of several models of one arm."""
    names = dict.fromkeys(name for reach in reaches for name in reach)
    return {
        name: max((one[name] for one in reaches if name in one), key=lambda reach: reach["ahead"])
        for name in names
    }


def _after(first: Int[np.ndarray, "b"], length: int) -> Bool[np.ndarray, "b t"]:
    return np.arange(length)[None, :] >= np.asarray(first)[:, None]


def _others(values: Int[np.ndarray, "b t"], count: int, number: int) -> Int[np.ndarray, "b t"]:
    """Return another of 1 to `count` at every place; 0 is padding and stays."""
    # Between 1 and count - 1, so that no value stays what it was.
    step = 1 + (max(count // 2, 1) - 1 + number) % max(count - 1, 1)
    shifted = (values - 1 + step) % max(count, 1) + 1
    return np.where(values > 0, shifted, 0).astype(values.dtype)
