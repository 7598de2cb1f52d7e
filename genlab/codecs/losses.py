"""Reconstruction losses of a codec: multi-resolution log-mel and STFT distances, per example.

In: two waves "b s". Out: "b". The mel term is the L1 distance of log-mel magnitudes over several
windows (HiFi-GAN, Kong et al. 2020, section 2.3; multi-resolution as in DAC, Kumar et al. 2023,
section 3.4). The STFT term adds linear-frequency detail: spectral convergence plus L1 of log
magnitudes (Parallel WaveGAN, Yamamoto et al. 2020, eq. 3 and 4).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from genlab.nets.spectrogram import mel_filters, stft

# (window, mels): short windows see onsets, long ones see harmonics; a short window with many mels
# leaves some empty.
MEL_RESOLUTIONS = ((128, 10), (256, 24), (512, 48), (1024, 80), (2048, 160))
STFT_WINDOWS_SAMPLES = (320, 768, 1536)
LOG_FLOOR = 3e-4


def pad_to_hop(wave: Float[Array, "b s"], hop_samples: int) -> Float[Array, "b s2"]:
    """Right-pad with zeros to a multiple of the hop."""
    return jnp.pad(wave, ((0, 0), (0, -wave.shape[1] % hop_samples)))


def mel_distance(
    real: Float[Array, "b s"], fake: Float[Array, "b s"], sample_rate_hz: int
) -> Float[Array, "b"]:
    """Return the mean absolute difference of log-mel magnitudes (natural log) over all
    `MEL_RESOLUTIONS`.
    """
    total = jnp.zeros(real.shape[0])
    for window, mels in MEL_RESOLUTIONS:
        filters = mel_filters(sample_rate_hz, window, mels)
        log_mels = [
            jnp.log(_magnitude(wave, window) @ filters + LOG_FLOOR) for wave in (real, fake)
        ]
        total = total + jnp.mean(jnp.abs(log_mels[0] - log_mels[1]), axis=(1, 2))
    return total / len(MEL_RESOLUTIONS)


def stft_distance(real: Float[Array, "b s"], fake: Float[Array, "b s"]) -> Float[Array, "b"]:
    """Return spectral convergence plus log-magnitude L1, averaged over `STFT_WINDOWS_SAMPLES`."""
    total = jnp.zeros(real.shape[0])
    for window in STFT_WINDOWS_SAMPLES:
        target, output = _magnitude(real, window), _magnitude(fake, window)
        error = jnp.sqrt(jnp.sum((target - output) ** 2, axis=(1, 2)) + 1e-8)
        energy = jnp.sqrt(jnp.sum(target**2, axis=(1, 2)) + 1e-2)
        log_ratio = jnp.log(target + LOG_FLOOR) - jnp.log(output + LOG_FLOOR)
        total = total + error / energy + jnp.mean(jnp.abs(log_ratio), axis=(1, 2))
    return total / len(STFT_WINDOWS_SAMPLES)


def _magnitude(wave: Float[Array, "b s"], window_samples: int) -> Float[Array, "b t f"]:
    hop_samples = window_samples // 4
    spectrum = stft(pad_to_hop(wave, hop_samples), window_samples, hop_samples)
    # Scaled by the window so that one floor fits every resolution; the epsilon keeps the gradient
    # finite at zero.
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.sqrt(power + 1e-9) * (4.0 / window_samples) ** 0.5
