"""A language so small that everything about it can be enumerated: the yardstick for bounds on
likelihoods.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from decoder_toys import BACKBONE, VOCAB
from flax import nnx

from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.task import Task
from genlab.tokens import Cond, Tokens, TokenSpec

FRAMES, CODEBOOKS, ENTRIES = 2, 2, 2
SPEC = TokenSpec(
    sample_rate_hz=16_000, hop_samples=320, codebooks=CODEBOOKS, entries=ENTRIES, latent_channels=8
)
NOTHING = ConditionConfig(content="none", speaker=False, dropout=0.0)
# All 16 clips of two frames of two binary codes, and how likely each is.
CLIPS = np.array(list(itertools.product(range(ENTRIES), repeat=FRAMES * CODEBOOKS))).reshape(
    -1, FRAMES, CODEBOOKS
)
SHARES = np.random.default_rng(0).dirichlet(np.full(len(CLIPS), 0.7))
ENTROPY_NATS = float(-(SHARES * np.log(SHARES)).sum())


def clips_as_batch(codes=CLIPS):
    """Every clip once, without conditions."""
    b, t, _ = codes.shape
    cond = Cond(
        jnp.zeros(b, int), jnp.zeros((b, 1), int), jnp.zeros((b, t), int), jnp.zeros(b, bool)
    )
    return Tokens(jnp.asarray(codes), None, jnp.full(b, t)), cond


def shares_of(codes):
    """How often each clip occurs among drawn ones."""
    place = (
        np.asarray(codes).reshape(len(codes), -1) @ ENTRIES ** np.arange(FRAMES * CODEBOOKS)[::-1]
    )
    return np.bincount(place, minlength=len(CLIPS)) / len(codes)


def build(config, seed=0, backbone=BACKBONE):
    """A decoder of the language whose heads say something."""
    decoder = config.build(Task(SPEC, VOCAB, backbone, NOTHING), key=jax.random.key(seed))
    graph, params = nnx.split(decoder)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return nnx.merge(graph, jax.tree.unflatten(tree, noisy))


def belief(likelihoods):
    """Return log p(code | evidence) [b t k v] from the likelihood of each code's evidence under
    each clip [b n t k].
    """
    is_entry = jnp.asarray(CLIPS)[..., None] == jnp.arange(ENTRIES)[None, None, None]
    prior = jnp.asarray(SHARES, jnp.float32)
    shares = jnp.einsum("n,bntk,ntkv->btkv", prior, likelihoods, is_entry.astype(jnp.float32))
    return jnp.log(jnp.maximum(shares / jnp.maximum(shares.sum(-1, keepdims=True), 1e-30), 1e-30))


def belief_of_visible(codes):
    """Return log p(code | codes not absent), the optimum of families that hide codes."""
    clips = jnp.asarray(CLIPS)[None]
    is_consistent = ((codes[:, None] == ENTRIES) | (codes[:, None] == clips)).all(axis=(2, 3))
    return belief(
        jnp.broadcast_to(is_consistent[:, :, None, None], (*is_consistent.shape, FRAMES, CODEBOOKS))
        * 1.0
    )


def belief_of_noisy(codes, share):
    """Return log p(code | all noisy codes but its own), the optimum under uniform noise."""
    is_same = codes[:, None] == jnp.asarray(CLIPS)[None]
    own = (1 - share[:, None, None, None]) * is_same + share[:, None, None, None] / ENTRIES
    b, n = own.shape[:2]
    sites = own.reshape(b, n, -1)
    others = [jnp.prod(jnp.delete(sites, i, axis=2), axis=2) for i in range(sites.shape[2])]
    return belief(jnp.stack(others, axis=2).reshape(own.shape))


def any_order_nats(nats_of_hidden, num_positions):
    """Enumerate all orders: the mean over orders of -log p, and -log of the mean over orders of p.

    `nats_of_hidden` maps a bool array of hidden positions [n] to the nats of every position [b n].
    """
    known = {}
    for subset in itertools.product([False, True], repeat=num_positions):
        known[subset] = np.asarray(nats_of_hidden(np.array(subset)), np.float64)
    totals = []
    for order in itertools.permutations(range(num_positions)):
        is_hidden, total = [True] * num_positions, 0.0
        for position in order:
            total = total + known[tuple(is_hidden)][:, position]
            is_hidden[position] = False
        totals.append(total)
    totals = np.stack(totals)
    return totals.mean(axis=0), -np.log(np.exp(-totals).sum(axis=0) / math.factorial(num_positions))
