"""Keys whose draws are a hash of their place: a few operations, where threefry's are rounds.

Toys are made random by programs that are compiled once and run once, so that is what they cost.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl


def key_of(seed: int) -> jax.Array:
    """Return a key for toys, and nothing that needs good random numbers."""
    return jax.random.key(seed, impl=HASHED)


def _mix(bits):
    """Return a bijection of uint32 that leaves no bit alone (lowbias32 by Chris Wellons)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def _seed(seed):
    return jnp.asarray(seed).astype(jnp.uint32)[None]


def _fold_in(key, number):
    return _mix(key + jnp.uint32(0x9E3779B9) * (jnp.asarray(number).astype(jnp.uint32) + 1))


def _random_bits(key, bit_width, shape):
    if bit_width != 32:
        raise NotImplementedError(f"bit_width={bit_width}: expected 32")
    places = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return _fold_in(key, places).reshape(shape)


def _split(key, shape):
    return _random_bits(_mix(key), 32, (*shape, 1))


HASHED = define_prng_impl(
    key_shape=(1,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="hashed",
    tag="hashed",
)
