"""Distortions that the recogniser learns to read through, drawn inside the compiled training step.

In: a wave, or its mel magnitudes. Out: the same with noise, another vocal tract, another
microphone, the roughness of a codec, and holes (SpecAugment, Park et al. 2019, without time
warping). Everything is drawn per example from its own key by counter-based generators, so the draw
for a frame does not depend on batch mates or on how far the batch is padded.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from pydantic import Field

from genlab.config import Config

_NATS_PER_DB = np.log(10.0) / 20.0


class SpectrumAugment(Config):
    """How strong each distortion may be; each example draws its own strength below these limits."""

    noise_probability: float = Field(default=0.7, ge=0, le=1)
    """Probability that noise is added."""
    min_snr_db: float = Field(default=5.0, ge=-200, le=200)
    """Lowest ratio of signal to noise, in dB."""
    max_snr_db: float = Field(default=40.0, ge=-200, le=200)
    """Highest ratio of signal to noise, in dB."""
    formant_warp: float = Field(default=0.18, ge=0, lt=1)
    """Largest relative stretch of the frequency axis, which moves formants as another vocal tract
    would.
    """
    equaliser_db: float = Field(default=8.0, ge=0, le=200)
    """Largest boost or cut of a smooth curve over frequency, in dB."""
    roughness_db: float = Field(default=3.0, ge=0, le=200)
    """Largest standard deviation of noise on the log spectrum, in dB."""
    masked_bands: int = Field(default=2, ge=0)
    """Bands of frequency that are hidden."""
    max_band_mels: int = Field(default=12, ge=1)
    """Widest hidden band, in mel bins."""
    masked_spans: int = Field(default=2, ge=0)
    """Spans of time that are hidden."""
    max_span_columns: int = Field(default=10, ge=1)
    """Longest hidden span, in spectrogram columns."""


def add_noise(
    wave: Float[Array, "s"],
    num_samples: Int[Array, ""],
    config: SpectrumAugment,
    key: Key[Array, ""],
) -> Float[Array, "s"]:
    """Return the wave with coloured noise at a random signal-to-noise ratio, or unchanged."""
    draw_key, snr_key, colour_key, noise_key = jax.random.split(key, 4)
    white = jax.random.normal(noise_key, wave.shape)
    colour = jax.random.uniform(colour_key, (), minval=-0.95, maxval=0.95)
    noise = white + colour * jnp.pad(white, (1, 0))[:-1]
    snr_db = jax.random.uniform(snr_key, (), minval=config.min_snr_db, maxval=config.max_snr_db)
    wave_power = jnp.sum(wave**2) / jnp.maximum(num_samples, 1)
    level = jnp.sqrt(wave_power / (1.0 + colour**2)) * 10.0 ** (-snr_db / 20.0)
    is_noisy = jax.random.uniform(draw_key) < config.noise_probability
    return wave + jnp.where(is_noisy, level, 0.0) * noise


def warp_formants(
    mels: Float[Array, "t m"],
    centres_hz: Float[np.ndarray, "m"],
    config: SpectrumAugment,
    key: Key[Array, ""],
) -> Float[Array, "t m"]:
    """Return mel magnitudes with the frequency axis scaled by a random factor, as another vocal
    tract would.
    """
    limit = np.log1p(config.formant_warp)
    factor = jnp.exp(jax.random.uniform(key, (), minval=-limit, maxval=limit))
    channels = jnp.arange(mels.shape[1], dtype=mels.dtype)
    source = jnp.interp(factor * centres_hz, centres_hz, channels)
    # Linear interpolation as a matrix product: column i mixes the two channels next to source[i].
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(channels[:, None] - source[None, :]))
    return mels @ weights


def distort_log_mels(
    log_mels: Float[Array, "t m"], config: SpectrumAugment, key: Key[Array, ""]
) -> Float[Array, "t m"]:
    """Return log mels with a smooth random equaliser and frame-wise roughness."""
    curve_key, strength_key, rough_key = jax.random.split(key, 3)
    num_mels = log_mels.shape[1]
    basis = np.cos(np.pi * np.arange(1, 5)[:, None] * (np.arange(num_mels) + 0.5) / num_mels)
    curve_db = (
        config.equaliser_db * jax.random.uniform(curve_key, (4,), minval=-1.0) @ (basis / 2.0)
    )
    strength_db = config.roughness_db * jax.random.uniform(strength_key)
    # One row of draws per column in time, so the first rows do not depend on how many follow.
    roughness_db = strength_db * jax.random.normal(rough_key, log_mels.shape)
    return log_mels + _NATS_PER_DB * (curve_db[None, :] + roughness_db)


def mask_patches(
    features: Float[Array, "t m"],
    num_columns: Int[Array, ""],
    config: SpectrumAugment,
    key: Key[Array, ""],
) -> Float[Array, "t m"]:
    """Return features with random bands and time spans set to zero, their mean."""
    band_key, span_key = jax.random.split(key)
    mels = jnp.arange(features.shape[1])
    columns = jnp.arange(features.shape[0])
    is_masked = jnp.zeros(features.shape, bool)
    for number in range(config.masked_bands):
        start, stop = _draw_span(
            jax.random.fold_in(band_key, number), config.max_band_mels, features.shape[1]
        )
        is_masked |= ((mels >= start) & (mels < stop))[None, :]
    for number in range(config.masked_spans):
        start, stop = _draw_span(
            jax.random.fold_in(span_key, number), config.max_span_columns, num_columns
        )
        is_masked |= ((columns >= start) & (columns < stop))[:, None]
    return jnp.where(is_masked, 0.0, features)


def _draw_span(
    key: Key[Array, ""], max_width: int, total: Int[Array, ""] | int
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    width_key, start_key = jax.random.split(key)
    width = jax.random.randint(width_key, (), 0, max_width + 1)
    start = jax.random.uniform(start_key) * jnp.maximum(total - width, 0)
    start = start.astype(jnp.int32)
    return start, start + width
