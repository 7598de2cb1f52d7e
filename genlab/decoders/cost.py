"""What a decoder costs: by the formulas of its config, or, where it has none, by a walk over the
traced program.

In: a decoder config and the task. Out: FLOPs of one training example, and of drawing one clip.
Every built-in family states formulas, which stay true where a program is too large to trace; a
user's own decoder need not.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from genlab.decoders.parts import part_shapes
from genlab.decoders.task import DecoderConfig, SamplerConfig, Task
from genlab.nets.flops import count_flops
from genlab.tokens import Cond, SampleCost, Tokens


def train_flops(config: DecoderConfig, task: Task) -> float:
    """Return the FLOPs of one loss and its gradient over one training example."""
    formula: Callable[[Task], float] | None = getattr(config, "train_flops", None)
    return float(formula(task)) if formula is not None else walk_loss(config, task)


def sample_cost(config: DecoderConfig, sampler: SamplerConfig, task: Task) -> SampleCost:
    """Return what drawing one clip of `task.num_frames` costs."""
    # It takes the sampler of its own family.
    formula: Callable[[SamplerConfig, Task], SampleCost] | None = getattr(
        config, "sample_cost", None
    )
    if formula is not None:
        return formula(sampler, task)
    return _walk_sample(config, sampler, task._replace(code_vectors=None))


def example_of(task: Task, num_examples: int = 1) -> tuple[Tokens, Cond]:
    """Return the shapes and types of a batch of training examples, without arrays."""
    t, spec = task.num_frames, task.spec

    def array(*shape: int, dtype: DTypeLike = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct((num_examples, *shape), dtype)

    codes = array(t, spec.codebooks)
    latents = array(t, spec.latent_channels, dtype=jnp.float32)
    side = array(spec.side_channels, dtype=jnp.float32) if spec.side_channels else None
    other = codes if task.vocab.is_two_sided else None
    parts = part_shapes(task.condition.parts, num_examples, t)
    cond = Cond(array(), array(task.num_symbols), array(t), array(dtype=jnp.bool_), other, parts)
    return Tokens(codes, latents, array(), side), cond


def abstract_decoder(config: DecoderConfig, task: Task) -> Any:
    """Return the decoder with shapes instead of arrays."""
    return nnx.eval_shape(lambda: config.build(task, key=jax.random.key(0)))


def walk_loss(config: DecoderConfig, task: Task) -> float:
    """Return the FLOPs of one loss and its gradient over one training example, walked over the
    traced program.
    """
    # arrays cost nothing and cannot be hashed
    return _walk_loss(config, task._replace(code_vectors=None))


@functools.lru_cache(maxsize=256)
def _walk_loss(config: DecoderConfig, task: Task) -> float:
    graph, params, rest = nnx.split(abstract_decoder(config, task), nnx.Param, ...)

    def loss(params: nnx.State, rest: nnx.State, batch: tuple[Tokens, Cond], key: Array) -> Array:
        out = nnx.merge(graph, params, rest).loss(*batch, key=key)
        return (out.per_example * out.weight).sum()

    key = jax.eval_shape(lambda: jax.random.key(0))
    return count_flops(jax.value_and_grad(loss), params, rest, example_of(task), key)


@functools.lru_cache(maxsize=256)
def _walk_sample(config: DecoderConfig, sampler: SamplerConfig, task: Task) -> SampleCost:
    draw, arguments, calls = _drawing(config, sampler, task)
    flops = count_flops(draw, *arguments)
    return SampleCost(calls[-1], flops)


def drawn_tokens(config: DecoderConfig, sampler: SamplerConfig, task: Task) -> Tokens:
    """Return the shapes of the tokens of one drawn clip, without arrays."""
    draw, arguments, _ = _drawing(config, sampler, task._replace(code_vectors=None))
    return jax.eval_shape(draw, *arguments)


def _drawing(
    config: DecoderConfig, sampler: SamplerConfig, task: Task
) -> tuple[Callable[..., Tokens], tuple[Any, ...], list[int]]:
    """Return how a clip is drawn, from which shapes, and the list that its calls are added to when
    it is traced.
    """
    graph, state = nnx.split(abstract_decoder(config, task))
    calls: list[int] = []

    def draw(state: nnx.State, cond: Cond, num_frames: Array, key: Array) -> Tokens:
        decoder: Any = nnx.merge(graph, state)
        out = decoder.sample(cond, num_frames=num_frames, key=key, sampler=sampler)
        calls.append(out.num_network_calls)
        return out.tokens

    tokens, cond = example_of(task)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return draw, (state, cond, tokens.num_frames, key), calls
