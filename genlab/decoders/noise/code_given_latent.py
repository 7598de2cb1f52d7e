"""Codes from latents: p(codes | latent), and q(latent | codes), with which a density of latents
bounds bits of codes.

In: codes "b t k", latents "b t d", and the codec's entries in the units of the latents, whose sum
over the levels of a frame is its quantised latent. Out: log probabilities per frame in nats. For
any density p of latents,

    -log p(codes) <= E_q [log q(latent | codes) - log p(codes | latent) - log p(latent)]

q is a Gaussian of one standard deviation around the quantised latent. p(codes | latent) is a
product over levels, as a residual quantiser chooses: a softmax over the distances of the residual
to the entries (Plaid, 2305.18619, has this for one level),

    softmax_v(-|residual_k - entry_kv|^2 / (2 variance_k)),
    residual_k = latent - sum of the levels before k.

Every q and every variance_k give a valid bound. A small deviation of q costs bits where the model
of latents does not resolve what it must, a large one where neighbouring entries blur; so its width
is chosen among `WIDTHS` on clips that are not scored (evaluate/likelihood.py). `level_variances`
are what the later levels leave on average.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from genlab.config import GenlabError
from genlab.decoders.steps.logits import cross_entropy

Width = float | Float[Array, ""]

# How wide q may be, in units of the root mean square of the last level's entries.
WIDTHS = (0.5, 1.0, 1.5, 2.0)


class CodeVectors(nnx.Variable):
    """The codec's normalised entries: saved with the run, never trained."""


def keep_entries(code_vectors: Float[Array, "k v d"] | None) -> CodeVectors | None:
    """Return the entries as a decoder keeps them."""
    return None if code_vectors is None else CodeVectors(jnp.asarray(code_vectors))


def read_entries(kept: CodeVectors | None) -> Float[Array, "k v d"]:
    """Return the entries that a decoder through latents was built with.

    Raises:
        GenlabError: if there are none.
    """
    if kept is None:
        raise GenlabError(
            "code_vectors: absent, but bits of codes need the codec's entries; give them to build"
        )
    return kept[...]


def posterior_std(vectors: Float[Array, "k v d"], width: Width = 1.0) -> Float[Array, ""]:
    """Return the standard deviation of q: the size of the last level's entries, times `width`."""
    return width * jnp.sqrt(jnp.mean(jnp.square(vectors[-1])) + 1e-8)


def level_variances(vectors: Float[Array, "k v d"], std: Float[Array, ""]) -> Float[Array, "k"]:
    """Return how far, per channel, the residual of a level lies from its own entry on average."""
    sizes = jnp.mean(jnp.square(vectors), axis=(1, 2))
    return jnp.square(std) + jnp.sum(sizes) - jnp.cumsum(sizes)


def chosen_vectors(
    codes: Int[Array, "b t k"], vectors: Float[Array, "k v d"]
) -> Float[Array, "b t k d"]:
    """Return the entry of every code."""
    return vectors[jnp.arange(vectors.shape[0])[None, None, :], codes]


def draw_latents(
    key: Key[Array, ""],
    codes: Int[Array, "b t k"],
    vectors: Float[Array, "k v d"],
    std: Float[Array, ""],
) -> tuple[Float[Array, "b t d"], Float[Array, "b t"]]:
    """Draw latents from q, and return them with log q of each frame."""
    quantised = chosen_vectors(codes, vectors).sum(axis=2)
    noise = jax.random.normal(key, quantised.shape)
    log_density = -0.5 * (jnp.square(noise) + jnp.log(2 * jnp.pi)) - jnp.log(std)
    return quantised + std * noise, log_density.sum(axis=-1)


def code_log_probability(
    codes: Int[Array, "b t k"],
    latents: Float[Array, "b t d"],
    vectors: Float[Array, "k v d"],
    variances: Float[Array, "k"],
) -> Float[Array, "b t"]:
    """Return log p(codes | latent) of each frame."""
    chosen = chosen_vectors(codes, vectors)
    residuals = latents[:, :, None] - jnp.cumsum(chosen, axis=2) + chosen
    # |residual - entry|^2 without |residual|^2, which all entries share.
    halves = 0.5 * jnp.square(vectors).sum(axis=-1)
    logits = jnp.einsum("btkd,kvd->btkv", residuals, vectors) - halves[None, None]
    return -cross_entropy(logits / variances[None, None, :, None], codes).sum(axis=-1)
