"""The families as the pack runs them: a decoder, its sampler, and random tokens of its shape.

In: a size. Out: `Family` objects, the three that the comparisons are about first, and programs that
train and sample them. These say which memory the compiler planned: on a machine with the chip, this
is what `genlab aot` estimates on one without.
"""

import time
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.stages import Compiled
from jaxtyping import Array, PyTree

from genlab.config import Config
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.blockwise import BlockwiseConfig, BlockwiseSampler
from genlab.decoders.cost import sample_cost, train_flops
from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.latent_blocks import LatentBlocksConfig, LatentBlocksSampler
from genlab.decoders.mar import MARConfig, MARSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.decoders.regression import RegressionConfig, RegressionSampler
from genlab.decoders.task import DecoderConfig, SamplerConfig, Task
from genlab.run.bounds import REGRESSION
from genlab.speed.hardware.size import HardwareSize
from genlab.tokens import Cond, Decoder, Tokens, TokenSpec
from genlab.training.optim import OptimConfig
from genlab.training.step import compile_update, create_state

STEPS = 1_000_000  # of the learning rate's schedule
TOP_K = 250


class Family(NamedTuple):
    """A decoder and how it is sampled."""

    name: str
    decoder: DecoderConfig
    sampler: SamplerConfig


def main_families(size: HardwareSize) -> list[Family]:
    """Return the three families that have a peer in torch."""
    return [
        _family("ar", ARConfig(), ARSampler(top_k=min(TOP_K, size.entries))),
        _family("masked", MaskedConfig(), MaskedSampler(steps=size.masked_steps)),
        _family("diffusion", DiffusionConfig(), DiffusionSampler(steps=size.diffusion_steps)),
    ]


def other_families() -> list[Family]:
    """Return the families beside them, with the samplers of their defaults."""
    return [
        _family("depth", DepthConfig(), DepthSampler()),
        _family("latent_ar", LatentARConfig(), LatentARSampler()),
        _family("mar", MARConfig(), MARSampler()),
        _family("blockwise", BlockwiseConfig(), BlockwiseSampler()),
        _family("discrete", DiscreteConfig(), DiscreteSampler()),
        _family("latent_blocks", LatentBlocksConfig(), LatentBlocksSampler()),
        _family(REGRESSION, RegressionConfig(), RegressionSampler()),
    ]


def _family(name: str, decoder: Config, sampler: SamplerConfig) -> Family:
    # Class variables of the configs are properties of the protocol, which pyright takes for two
    # things.
    return Family(name, cast(DecoderConfig, decoder), sampler)


def random_batch(spec: TokenSpec, frames: int, clips: int, seed: int = 0) -> tuple[Tokens, Cond]:
    """Return random tokens of full length, and conditions of which nothing is told."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, spec.entries, (clips, frames, spec.codebooks)).astype(np.int32)
    latents = rng.standard_normal((clips, frames, spec.latent_channels)).astype(np.float32)
    tokens = Tokens(
        jnp.asarray(codes), jnp.asarray(latents), jnp.full(clips, frames, dtype=jnp.int32)
    )
    return tokens, Cond.none(clips, frames)


class TrainingProgram:
    """The product's training step (clipping, AdamW, the average), compiled, with its state."""

    def __init__(self, family: Family, task: Task, clips: int):
        optim, key = OptimConfig(), jax.random.key(0)
        create = partial(create_state, partial(_build, family.decoder, task), optim, STEPS)
        self.batch = random_batch(task.spec, task.num_frames, clips)
        graph, _ = jax.eval_shape(jax.jit(create), key)
        self._state = jax.jit(create)(key)[1]
        began = time.perf_counter()
        self._update = compile_update(graph, optim, STEPS, self._state, self.batch, key)
        self.compile_s = time.perf_counter() - began
        self.params = sum(leaf.size for leaf in jax.tree.leaves(self._state["params"]))
        self.flops = clips * train_flops(family.decoder, task)
        self.planned_bytes = planned_bytes(self._update)
        self._key = key

    def step(self) -> Array:
        """Send one update and return its loss, which need not be known yet."""
        self._state, metrics = self._update(self._state, self.batch, self._key)
        return metrics["loss"]


class SamplingProgram:
    """A sampler of one family, compiled, with random weights."""

    def __init__(self, family: Family, task: Task, clips: int):
        build = partial(_build, family.decoder, task)
        self._graph = nnx.split(nnx.eval_shape(build, _key(0)))[0]
        self._weights = jax.jit(lambda key: nnx.split(build(key))[1])(_key(0))
        self.params = sum(leaf.size for leaf in jax.tree.leaves(self._weights))
        tokens, self._cond = random_batch(task.spec, task.num_frames, clips)
        self._num_frames = tokens.num_frames
        cost = sample_cost(family.decoder, family.sampler, task)
        self.flops, self.network_calls = clips * cost.flops, float(cost.network_calls)
        began = time.perf_counter()
        self._draw = self._compile(family.sampler)
        self.compile_s = time.perf_counter() - began
        self.planned_bytes = planned_bytes(self._draw)
        self._drawn = 0

    def _compile(self, sampler: SamplerConfig) -> Compiled:
        graph = self._graph

        def draw(weights: nnx.State, cond: Cond, num_frames: Array, key: Array) -> Tokens:
            model = cast(Decoder, nnx.merge(graph, weights))
            return model.sample(cond, num_frames=num_frames, key=key, sampler=sampler).tokens

        return jax.jit(draw).lower(self._weights, self._cond, self._num_frames, _key(0)).compile()

    def draw(self) -> PyTree:
        """Send one call of the sampler and return its tokens, which need not be known yet."""
        self._drawn += 1
        return self._draw(self._weights, self._cond, self._num_frames, _key(self._drawn))


def planned_bytes(compiled: Compiled) -> int | None:
    """Return the device memory that the compiler planned for a program, None if it does not say."""
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    kept = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return kept + plan.temp_size_in_bytes


def _build(config: DecoderConfig, task: Task, key: Array) -> nnx.Module:
    return config.build(task, key=key)


def _key(number: int) -> Array:
    return jax.random.key(number)
