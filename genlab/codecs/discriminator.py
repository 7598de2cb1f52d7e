"""A multi-resolution spectrogram discriminator made of patches, for the adversarial switch of the codec.

In: waves "b s". Out: per resolution, logits and the activations that feature matching compares. The idea is the
multi-resolution complex STFT discriminator of EnCodec and Vocos (Siuzdak 2023, section 3.3); where we differ: strided 2-d
convolutions are replaced by cutting the spectrogram into patches (a reshape and one matrix product) followed by small dense
3x3 convolutions on the coarse grid, which costs a tenth on machines that only like matrix products.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from genlab.codecs.losses import pad_to_hop
from genlab.codecs.spectrogram import stft

WINDOWS_SAMPLES = (512, 1024, 2048)
PATCH = (2, 8)  # frames x frequency bins


class PatchDiscriminator(nnx.Module):
    """One resolution: complex STFT, patches, two 3x3 convolutions, one logit per patch."""

    def __init__(self, window_samples: int, width: int, rngs: nnx.Rngs):
        self.window_samples = window_samples
        self.embed = nnx.Linear(PATCH[0] * PATCH[1] * 2, width, rngs=rngs)
        self.convs = nnx.List([nnx.Conv(width, width, (3, 3), rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, wave: Float[Array, "b s"]) -> tuple[Float[Array, "b i j"], list[Array]]:
        hop = self.window_samples // 4
        spectrum = stft(pad_to_hop(wave, hop), self.window_samples, hop)[..., 1:]
        # Power-law compression keeps quiet partials visible next to loud ones.
        compressed = spectrum * (jnp.abs(spectrum) ** 2 + 1e-6) ** -0.35
        frames = compressed.shape[1] // PATCH[0] * PATCH[0]
        planes = jnp.stack([compressed.real, compressed.imag], axis=-1)[:, :frames]
        batch, _, bins, _ = planes.shape
        # b (i 2) (j 8) c -> b i j (2 8 c)
        patches = planes.reshape(batch, frames // PATCH[0], PATCH[0], bins // PATCH[1], PATCH[1], 2)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, frames // PATCH[0], bins // PATCH[1], -1)
        hidden = jax.nn.leaky_relu(self.embed(patches), 0.1)
        activations = [hidden]
        for conv in self.convs:
            hidden = jax.nn.leaky_relu(conv(hidden), 0.1)
            activations.append(hidden)
        return self.head(hidden)[..., 0], activations


class Discriminator(nnx.Module):
    """All resolutions."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.parts = nnx.List([PatchDiscriminator(window, width, rngs) for window in WINDOWS_SAMPLES])

    def __call__(self, wave: Float[Array, "b s"]) -> list[tuple[Array, list[Array]]]:
        return [part(wave) for part in self.parts]


def adversarial_losses(
    discriminator: Discriminator, real: Float[Array, "b s"], fake: Float[Array, "b s"]
) -> tuple[Float[Array, "b"], Float[Array, "b"], Float[Array, "b"]]:
    """Return per example: the generator's hinge loss, feature matching, and the discriminator's hinge loss.

    One sum of the three can be minimised with one optimiser: the generator's terms see a discriminator without gradient, the
    discriminator's term sees a wave without gradient.
    """
    graph, state = nnx.split(discriminator)
    frozen = nnx.merge(graph, jax.lax.stop_gradient(state))
    seen_by_generator = frozen(fake)
    seen_real = discriminator(real)
    seen_fake = discriminator(jax.lax.stop_gradient(fake))
    generator = sum(jnp.mean(-logits, axis=(1, 2)) for logits, _ in seen_by_generator)
    critic = sum(
        jnp.mean(jax.nn.relu(1 - real_logits), axis=(1, 2)) + jnp.mean(jax.nn.relu(1 + fake_logits), axis=(1, 2))
        for (real_logits, _), (fake_logits, _) in zip(seen_real, seen_fake)
    )
    matching = sum(
        jnp.mean(jnp.abs(fake_part - jax.lax.stop_gradient(real_part)), axis=(1, 2, 3))
        / (jnp.mean(jnp.abs(jax.lax.stop_gradient(real_part))) + 1e-3)
        for (_, real_parts), (_, fake_parts) in zip(seen_real, seen_by_generator)
        for real_part, fake_part in zip(real_parts, fake_parts)
    )
    scale = 1 / len(seen_real)
    return generator * scale, matching * scale / 3, critic * scale
