"""Residual vector quantisation with codebooks that follow the data.

In: latents "b t d". Out: codes "b t k" and their sum of entries. Level q quantises what levels
below q left over, so the first codes alone already decode (SoundStream, Zeghidour et al. 2021,
section III-C). Codebooks are not trained by gradient: each is the running mean (EMA) of the vectors
assigned to it (van den Oord et al. 2017, appendix A.1), and an entry that nothing uses is moved
onto a vector of the current batch ("revival"). An untouched codebook starts with every entry
unused, so revival is the initialisation as well. A split quantiser gives level 1 the first channels
to itself and all other levels the rest (Mimi's parallel levels, Défossez et al. 2024, section
3.3.1): entries are zero in the channels that are not theirs, so encoding and decoding stay as they
are.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

SIDE_LEVELS = 8  # values of a side channel: 3 bits


class Codebook(nnx.Variable):
    """State of the quantiser that EMA updates move, not the optimiser."""


class ResidualQuantiser(nnx.Module):
    """K codebooks of V entries over D channels.

    Attributes:
        entries: the code vectors [k v d].
        usage: running count of assignments per entry and step [k v]; 0 means dead.
    """

    def __init__(
        self,
        codebooks: int,
        entries: int,
        channels: int,
        decay: float,
        revival_usage: float,
        first_channels: int = 0,
    ):
        self.entries = Codebook(jnp.zeros((codebooks, entries, channels)))
        self.usage = Codebook(jnp.zeros((codebooks, entries)))
        self.decay = decay
        self.revival_usage = revival_usage
        self.first_channels = first_channels

    def encode(self, latents: Float[Array, "b t d"]) -> Int[Array, "b t k"]:
        """Return the codes, nearest entry level by level (ties go to the lower index)."""
        residual = latents
        codes = []
        for level in range(self.entries.shape[0]):
            entries = self.entries[level]
            codes.append(nearest_entry(residual, entries))
            residual = residual - entries[codes[-1]]
        return jnp.stack(codes, axis=-1)

    def partial_sums(self, codes: Int[Array, "b t k"]) -> Float[Array, "k b t d"]:
        """Return the sum of the first q + 1 entries for every level q; codes may have fewer levels
        than there are.
        """
        chosen = [self.entries[level][codes[..., level]] for level in range(codes.shape[-1])]
        return jnp.cumsum(jnp.stack(chosen), axis=0)

    def decode(self, codes: Int[Array, "b t k"]) -> Float[Array, "b t d"]:
        """Return the latents that the codes stand for."""
        return self.partial_sums(codes)[-1]

    def owned_channels(self, level: int) -> Float[Array, "d"]:
        """Return 1 on the channels that this level quantises and 0 elsewhere."""
        is_first = jnp.arange(self.entries.shape[2]) < self.first_channels
        owned = (
            jnp.ones_like(is_first)
            if not self.first_channels
            else is_first
            if level == 0
            else ~is_first
        )
        return owned.astype(jnp.float32)

    def update(
        self,
        latents: Float[Array, "b t d"],
        codes: Int[Array, "b t k"],
        is_used: Bool[Array, "b t k"],
        key: Key[Array, ""],
    ) -> None:
        """Move every codebook towards the vectors assigned to it and revive dead entries; changes
        state in place.
        """
        levels, num_entries, channels = self.entries.shape
        # b t d -> (b t) d
        residual = jax.lax.stop_gradient(latents).reshape(-1, channels)
        new_entries, new_usage = [], []
        for level in range(levels):
            owned = residual * self.owned_channels(level)[None]
            entries = self.entries[level]
            flat_codes = codes[..., level].reshape(-1)
            weight = is_used[..., level].reshape(-1).astype(jnp.float32)
            count = jnp.zeros(num_entries).at[flat_codes].add(weight)
            total = jnp.zeros((num_entries, channels)).at[flat_codes].add(owned * weight[:, None])
            usage = self.usage[level] * self.decay + count * (1 - self.decay)
            # The running mean of assigned vectors, as a step from the old entry so that no sum has
            # to be stored.
            step = (
                (1 - self.decay)
                * (total - count[:, None] * entries)
                / jnp.maximum(usage, 1e-6)[:, None]
            )
            candidates = owned[
                jax.random.choice(jax.random.fold_in(key, level), residual.shape[0], (num_entries,))
            ]
            is_dead = usage < self.revival_usage
            new_entries.append(jnp.where(is_dead[:, None], candidates, entries + step))
            # A revived entry starts at twice the threshold: it has about ln 2 / (1 - decay) steps
            # to find users.
            new_usage.append(jnp.where(is_dead, 2 * self.revival_usage, usage))
            residual = residual - entries[flat_codes]
        self.entries[...] = jnp.stack(new_entries)
        self.usage[...] = jnp.stack(new_usage)


def nearest_entry(vectors: Float[Array, "*b d"], entries: Float[Array, "v d"]) -> Int[Array, "*b"]:
    """Return the index of the entry with the smallest squared distance; the norm of the vector
    itself cancels.
    """
    offsets = 0.5 * jnp.sum(entries**2, axis=-1)
    score = vectors @ entries.T - offsets.reshape((1,) * (vectors.ndim - 1) + (-1,))
    return jnp.argmax(score, axis=-1).astype(jnp.int32)


def draw_levels(
    key: Key[Array, ""], batch: int, codebooks: int, share_continuous: float, share_fewer: float
) -> Int[Array, "b"]:
    """Draw how many code levels each example of a training batch decodes from; 0 means raw latents.

    Args:
        key: of the draw.
        batch: examples.
        codebooks: levels that there are.
        share_continuous: share of examples with raw latents.
        share_fewer: share of examples without a random number of upper levels.
    """
    choice_key, level_key = jax.random.split(key)
    choice = jax.random.uniform(choice_key, (batch,))
    fewer = jax.random.randint(level_key, (batch,), 1, codebooks)
    levels = jnp.where(choice < share_continuous + share_fewer, fewer, codebooks)
    return jnp.where(choice < share_continuous, 0, levels)


def round_side(side: Float[Array, "b c"]) -> Float[Array, "b c"]:
    """Round to one of SIDE_LEVELS values between -1 and 1, with the gradient of the unrounded
    (Mentzer et al. 2023, finite scalar quantisation, section 3.1).
    """
    bounded = 0.5 * (jnp.tanh(side) + 1.0) * (SIDE_LEVELS - 1)
    rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
    return rounded / (SIDE_LEVELS - 1) * 2.0 - 1.0
