"""The families at toy size, and one batch they all read."""

import dataclasses
import functools
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from hashed_keys import key_of

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.blockwise import BlockwiseConfig, BlockwiseSampler
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.latent_blocks import LatentBlocksConfig, LatentBlocksSampler
from genlab.decoders.mar import MARConfig, MARSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.decoders.noise.flow_map import MeanFlow
from genlab.decoders.noise.heads import EnergyScore, FlowMatching, GaussianMixture
from genlab.decoders.noise.paths import CosinePath
from genlab.decoders.noise.solvers import DPMSolver, FlowMap
from genlab.decoders.steps.patterns import FlatPattern
from genlab.decoders.task import Task
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import Cond, Prompt, Tokens, TokenSpec

SPEC = TokenSpec(sample_rate_hz=16_000, hop_samples=320, codebooks=4, entries=16, latent_channels=8)
VOCAB = CondVocab(num_speakers=3, num_units=10)
BACKBONE = BackboneConfig(width=32, layers=2, heads=4)
SEMANTIC = ConditionConfig(content="semantic", dropout=0.3)
DEPTH = DepthConfig(width=16, layers=1, heads=2, acoustic_delay_frames=1, trained_share=0.5)
NUM_EXAMPLES, NUM_FRAMES, NUM_SYMBOLS = 3, 12, 5


@dataclasses.dataclass(frozen=True)
class Family:
    """A decoder config, a cheap sampler for it, and a greedy or precise one."""

    config: Any
    sampler: Any
    precise: Any
    is_guided: bool = True
    fresh_loss: tuple[float, float] | None = None

    @functools.lru_cache  # noqa: B019 - families live as long as the tests
    def build(self, backbone=BACKBONE, condition=SEMANTIC, spec=SPEC, seed=0):
        return self.config.build(Task(spec, VOCAB, backbone, condition), key=jax.random.key(seed))


DIFFUSION_V = DiffusionConfig(path=CosinePath(), predicts="v")
FAMILIES = {
    "ar": Family(ARConfig(), ARSampler(), ARSampler(temperature=0.0)),
    "flat": Family(ARConfig(pattern=FlatPattern()), ARSampler(), ARSampler(temperature=0.0)),
    "depth": Family(DEPTH, DepthSampler(), DepthSampler(temperature=0.0)),
    "masked": Family(
        MaskedConfig(), MaskedSampler(steps=(4, 1)), MaskedSampler(steps=(4, 1), temperature=0.0)
    ),
    "diffusion": Family(DiffusionConfig(), DiffusionSampler(steps=4), DiffusionSampler(steps=32)),
    "diffusion_v": Family(
        DIFFUSION_V, DiffusionSampler(steps=4, solver=DPMSolver()), DiffusionSampler(steps=32)
    ),
    "mean_flow": Family(
        DiffusionConfig(objective=MeanFlow(share=0.5)),
        DiffusionSampler(steps=2, solver=FlowMap()),
        DiffusionSampler(steps=4, solver=FlowMap()),
    ),
    # 8 channels of a unit Gaussian have 11.4 nats, and their distance to 0 is 2.7.
    "latent_gmm": Family(
        LatentARConfig(head=GaussianMixture(components=4, min_std=0.1), context_noise=0.3),
        LatentARSampler(),
        LatentARSampler(temperature=0.0),
        is_guided=False,
        fresh_loss=(11.0, 13.0),
    ),
    "latent_flow": Family(
        LatentARConfig(head=FlowMatching(width=32, layers=2), context_noise=0.3),
        LatentARSampler(steps=4),
        LatentARSampler(steps=16),
        fresh_loss=(1.5, 2.5),
    ),
    "latent_energy": Family(
        LatentARConfig(head=EnergyScore(width=32, layers=2, noise_channels=8), context_noise=0.3),
        LatentARSampler(),
        LatentARSampler(temperature=0.0),
        is_guided=False,
        fresh_loss=(2.4, 3.0),
    ),
    "discrete": Family(
        DiscreteConfig(), DiscreteSampler(steps=4), DiscreteSampler(steps=16, temperature=0.0)
    ),
    "blockwise": Family(
        BlockwiseConfig(block_frames=5),
        BlockwiseSampler(steps=2),
        BlockwiseSampler(steps=6, temperature=0.0),
    ),
    "mar": Family(
        MARConfig(head=FlowMatching(width=32, layers=2)),
        MARSampler(rounds=3, steps=4),
        MARSampler(rounds=6, steps=16),
        fresh_loss=(1.5, 2.5),
    ),
    "latent_blocks": Family(
        LatentBlocksConfig(block_frames=5),
        LatentBlocksSampler(steps=4),
        LatentBlocksSampler(steps=16),
        fresh_loss=(1.5, 2.5),
    ),
}


def toy_batch(
    num_examples=NUM_EXAMPLES, num_frames=NUM_FRAMES, spec=SPEC, seed=1
) -> tuple[Tokens, Cond]:
    """A batch whose second and third examples are shorter than its frame axis."""
    keys = jax.random.split(jax.random.key(seed), 5)
    shape = (num_examples, num_frames)
    lengths = jnp.asarray([num_frames, num_frames - 5, num_frames - 3])[
        jnp.arange(num_examples) % 3
    ]
    codes = jax.random.randint(keys[0], (*shape, spec.codebooks), 0, spec.entries)
    tokens = Tokens(codes, jax.random.normal(keys[1], (*shape, spec.latent_channels)), lengths)
    is_valid = tokens.is_valid
    cond = Cond(
        speaker=jnp.arange(num_examples) % VOCAB.num_speakers,
        text=jax.random.randint(keys[2], (num_examples, NUM_SYMBOLS), 1, VOCAB.num_symbols),
        content=jnp.where(is_valid, jax.random.randint(keys[3], shape, 1, VOCAB.num_units + 1), 0),
        is_dropped=jnp.zeros(num_examples, bool),
    )
    return tokens, cond


def view_of(decoder, tokens: Tokens):
    """The view of the tokens that the decoder reads."""
    return tokens.codes if decoder.reads == "codes" else tokens.latents


# One compiled program per graph and shape, whichever test asks first.
@functools.partial(jax.jit, static_argnums=0)
def _loss(graph, state, tokens, cond, key):
    return nnx.merge(graph, state).loss(tokens, cond, key=key)


@functools.partial(jax.jit, static_argnums=0)
def _update(graph, params, rest, adam, batch, key, learning_rate):
    def mean_loss(params):
        out = nnx.merge(graph, params, rest).loss(*batch, key=key)
        return (out.per_example * out.weight).sum() / out.weight.sum()

    loss, gradient = jax.value_and_grad(mean_loss)(params)
    updates, adam = ADAM.update(gradient, adam)
    return (
        optax.apply_updates(params, jax.tree.map(lambda u: -learning_rate * u, updates)),
        adam,
        loss,
    )


ADAM = optax.scale_by_adam()


def jitted_loss(decoder):
    """The loss as a compiled function of the batch and the key."""
    graph, state = nnx.split(decoder)
    return lambda tokens, cond, key: _loss(graph, state, tokens, cond, key)


def train(decoder, batch, steps: int, learning_rate: float = 3e-3):
    """Return the decoder after `steps` updates on one batch, and the loss before each."""
    graph, params, rest = nnx.split(decoder, nnx.Param, ...)
    adam, losses = ADAM.init(params), []
    for step, key in enumerate(jax.random.split(jax.random.key(7), steps)):
        rate = learning_rate * (1 - 0.9 * step / steps)
        params, adam, loss = _update(graph, params, rest, adam, batch, key, rate)
        losses.append(loss)
    return nnx.merge(graph, params, rest), np.array(losses)


def randomised(decoder, seed=3):
    """The decoder with heads that say something."""
    graph, params = nnx.split(decoder)
    # One draw for all: each is a good part of the program that makes them.
    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    noisy = unflatten(flat + 0.3 * jax.random.normal(key_of(seed), flat.shape))
    return nnx.merge(graph, noisy)


@functools.lru_cache(maxsize=64)
def _random_parts(config, task, seed):
    graph = None

    def make(key):
        nonlocal graph
        graph, state = nnx.split(randomised(config.build(task, key=key)))
        return state

    # One program: built outside of one, a decoder is some hundred of them, and each is lowered.
    state = jax.jit(make)(key_of(seed))
    return graph, state


def make_random(config, task, seed=0):
    """Return a decoder whose every parameter says something: another one at each call, with the
    same weights.
    """
    return nnx.merge(*_random_parts(config, task, seed))


def with_state_of(fresh, decoder):
    """`fresh` with the weights of a decoder of the same shape."""
    return nnx.merge(nnx.graphdef(fresh), nnx.state(decoder))


def prompt_where(tokens: Tokens, is_known) -> Prompt:
    """A prompt from the batch itself."""
    return Prompt(tokens, jnp.broadcast_to(jnp.asarray(is_known), tokens.is_valid.shape))
