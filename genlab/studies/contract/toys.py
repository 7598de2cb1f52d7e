"""The toy world that decoders, mixers and conditions are tried in: a token space and a batch."""

import jax
import jax.numpy as jnp

from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.tokens import Cond, Tokens, TokenSpec

SPEC = TokenSpec(sample_rate_hz=16_000, hop_samples=320, codebooks=4, entries=16, latent_channels=8)
VOCAB = CondVocab(num_speakers=3, num_units=10)
CONDITION = ConditionConfig(layers=1, dropout=0.0)
NUM_EXAMPLES, NUM_FRAMES = 3, 12
CLOSE = 1e-4


def toy_batch(seed: int) -> tuple[Tokens, Cond]:
    """Return a batch whose second and third clips are shorter than its frame axis."""
    keys = jax.random.split(jax.random.key(seed), 4)
    shape = (NUM_EXAMPLES, NUM_FRAMES)
    codes = jax.random.randint(keys[0], (*shape, SPEC.codebooks), 0, SPEC.entries)
    latents = jax.random.normal(keys[1], (*shape, SPEC.latent_channels))
    tokens = Tokens(codes, latents, jnp.array([NUM_FRAMES, NUM_FRAMES - 5, NUM_FRAMES - 3]))
    units = jax.random.randint(keys[2], shape, 1, VOCAB.num_units + 1)
    cond = Cond(
        speaker=jax.random.randint(keys[3], (NUM_EXAMPLES,), 0, VOCAB.num_speakers),
        text=jnp.zeros((NUM_EXAMPLES, 0), jnp.int32),
        content=jnp.where(tokens.is_valid, units, 0),
        is_dropped=jnp.zeros(NUM_EXAMPLES, bool),
    )
    return tokens, cond
