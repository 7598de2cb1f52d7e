"""Attention by the accelerator's kernel, beside the plain products: how far both are from numpy in
float64, and how long they take, forward and backward.

Lengths that no tile divides, clips that end early, causality, and a prefix that all may read.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from genlab.machine.sharding import compiled_platform
from genlab.nets.attention import KeysValues, attend, attend_causally, attend_within, why_plain
from genlab.speed.hardware.size import HardwareSize
from genlab.speed.hardware.step import Case, Row
from genlab.speed.hardware.timing import seconds_per_call

# Of the largest output and the largest gradient. bfloat16 keeps 8 bits; its sums do not.
TOLERANCES = {"bfloat16": 4e-2, "float32": 5e-3}
PREFIX_SHARE = 3  # the prefix is a third of the positions
LONGEST_CHECKED = 1024  # numpy in float64 takes seconds beyond


class Rule(NamedTuple):
    """Which keys a query reads, in the words of `attend_within`."""

    name: str
    is_causal: bool
    has_prefix: bool

    def pairs(self, length: int) -> np.ndarray:
        """Return which query [q] may read which key [s], by the definition."""
        query, key = np.arange(length)[:, None], np.arange(length)[None, :]
        is_earlier = (key <= query) | (not self.is_causal)
        return is_earlier | (key < self.prefix(length))

    def prefix(self, length: int) -> int:
        """Return how many first positions all may read."""
        return length // PREFIX_SHARE if self.has_prefix else 0


RULES = (
    Rule("full", False, False),
    Rule("causal", True, False),
    Rule("causal with a prefix", True, True),
)


class Kernels:
    """Is the attention kernel right, and what does it save?"""

    name = "attention"
    question = "Is the attention kernel right, and how much faster is it than plain products?"
    share = 2.0
    environment: Mapping[str, str] = {}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return every rule at every length, in the type of training."""
        return [
            Case(f"{rule.name}, {length} positions", partial(_compare, size, rule, length))
            for length in size.attention
            for rule in RULES
        ]


def _compare(size: HardwareSize, rule: Rule, length: int) -> Row:
    clips, heads, channels = size.attention_shape
    shape, dtype = (clips, length, heads, channels), jnp.dtype(size.dtype)
    queries, keys, values, outer = jax.random.normal(jax.random.key(length), (4, *shape), dtype)
    # The last clip ends early, at a place that no tile knows.
    ends = jnp.full(clips, length).at[-1].set(length - length // 3)
    is_valid = jnp.arange(length)[None, :] < ends[:, None]
    prefix = rule.prefix(length)
    arguments = (queries, keys, values, outer)
    chosen = _with_gradient(
        lambda q, memory: attend_within(
            q, memory, is_valid, is_causal=rule.is_causal, prefix=prefix
        )
    )
    plain = _with_gradient(
        lambda q, memory: (
            attend_causally(q, memory, is_valid, prefix)
            if rule.is_causal
            else attend(q, memory, is_valid[:, None, :])
        )
    )
    row: Row = {
        "why_plain": why_plain(compiled_platform(), shape, dtype, False),
        "chosen_s": seconds_per_call(lambda: chosen(*arguments), size.repeats),
        "plain_s": seconds_per_call(lambda: plain(*arguments), size.repeats),
    }
    if length <= LONGEST_CHECKED:
        allowed = TOLERANCES[size.dtype]
        expected = reference(*arguments, np.asarray(is_valid), rule.pairs(length))
        apart = _distance(chosen(*arguments), expected)
        row |= {"distance": apart, "tolerance": allowed, "passed": apart <= allowed}
    return row


def _with_gradient(
    run: Callable[[Array, KeysValues], Array],
) -> Callable[[Array, Array, Array, Array], tuple[Array, ...]]:
    """Return a program that gives the output and the three gradients for an outer one."""

    @jax.jit
    def both(queries, keys, values, outer):
        out, back = jax.vjp(lambda q, k, v: run(q, KeysValues(k, v)), queries, keys, values)
        return out, *back(outer)

    return both


def reference(
    queries: Float[Array, "b s a c"],
    keys: Float[Array, "b s a c"],
    values: Float[Array, "b s a c"],
    outer: Float[Array, "b s a c"],
    is_valid: np.ndarray,
    pairs: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Return softmax(q k / sqrt(c)) v and its three gradients, in numpy's float64."""
    q, k, v, g = (np.asarray(x, np.float64) for x in (queries, keys, values, outer))
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("bqac,bsac->baqs", q, k) * scale
    scores = np.where((pairs[None] & is_valid[:, None, :])[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    # The gradient of softmax: w (d - sum w d).
    down = np.einsum("bqac,bsac->baqs", g, v)
    back = weights * (down - (weights * down).sum(-1, keepdims=True)) * scale
    return (
        np.einsum("baqs,bsac->bqac", weights, v),
        np.einsum("baqs,bsac->bqac", back, k),
        np.einsum("baqs,bqac->bsac", back, q),
        np.einsum("baqs,bqac->bsac", weights, g),
    )


def _distance(found: Sequence[Array], expected: Sequence[np.ndarray]) -> float:
    """Return the largest difference, as a share of the largest value of its array."""
    return max(
        float(np.max(np.abs(np.asarray(a, np.float64) - b)) / np.max(np.abs(b)))
        for a, b in zip(found, expected, strict=True)
    )
