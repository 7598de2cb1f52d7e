"""The planes of a wave that the layers of the in-lab codec see and make.

In: waves "b s" or "b s 2". Out: planes "p s". Mono has one, the wave. The encoder sees the left
channel, the right one and their mid of stereo: it reads magnitudes alone, so it needs all three to
tell left from right and what is in phase from what is not. The decoder makes mid and side, the half
sum and the half difference of the channels: most recordings have little in the side, which then
costs little. Losses look at each channel as it is heard.
"""

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

LOG_FLOOR = 1e-4
SEEN_OF_STEREO = 3  # left, right, mid


def to_planes(waves: Float[Array, "b s *c"], channels: int) -> Float[Array, "p s"]:
    """Return what the encoder sees: the mono waves, or left, right and mid of each stereo wave.

    Raises:
        ValueError: if the waves have other channels.
    """
    # A mono batch would pass as half as many stereo waves.
    if waves.shape[2:] != (() if channels == 1 else (channels,)):
        expected = "b s" if channels == 1 else f"b s {channels}"
        raise ValueError(f"waves: shape {waves.shape}, expected {expected!r} of this codec")
    if channels == 1:
        return waves
    left, right = waves[..., 0], waves[..., 1]
    # b s, b s, b s -> b 3 s -> (b 3) s
    seen = jnp.stack([left, right, (left + right) / 2], axis=1)
    return seen.reshape(-1, waves.shape[1])


def from_planes(planes: Float[Array, "p s"], channels: int) -> Float[Array, "b s *c"]:
    """Return waves from what the decoder makes: mono waves, or mid and side of stereo ones."""
    if channels == 1:
        return planes
    # (b 2) s -> b 2 s
    both = planes.reshape(-1, 2, planes.shape[1])
    mid, side = both[:, 0], both[:, 1]
    return jnp.stack([mid + side, mid - side], axis=-1)


def each_channel(waves: Float[Array, "b s *c"]) -> Float[Array, "p s"]:
    """Return the channels one by one, as losses hear them."""
    if waves.ndim == 2:
        return waves
    return jnp.moveaxis(waves, 2, 1).reshape(-1, waves.shape[1])


def mean_over_channels(values: Float[Array, "p"], channels: int) -> Float[Array, "b"]:
    """Return one value per wave from one for each of its channels."""
    return values if channels == 1 else values.reshape(-1, channels).mean(axis=1)


def features(
    spectrum: Complex[Array, "p u f"], planes: int, subframes: int
) -> Float[Array, "b t c"]:
    """Return scaled log magnitudes: the STFT frames of a token frame side by side, then the planes.

    Args:
        spectrum: of all planes.
        planes: of each wave.
        subframes: STFT frames in a token frame.
    """
    log_magnitude = 0.5 * jnp.log(spectrum.real**2 + spectrum.imag**2 + LOG_FLOOR)
    frames = spectrum.shape[1] // subframes
    joined = 0.3 * log_magnitude.reshape(spectrum.shape[0], frames, -1)
    if planes == 1:
        return joined
    # (b p) t f -> b p t f -> b t (p f)
    apart = joined.reshape(-1, planes, frames, joined.shape[-1])
    return jnp.moveaxis(apart, 1, 2).reshape(apart.shape[0], frames, -1)


def pairs_of(outputs: Float[Array, "b t f"], channels: int, subframes: int) -> Float[Array, "..."]:
    """Return the pairs of numbers that a decoder's last layer gives for every bin of every plane:
    b t (c u f 2) -> (b c) (t u) f 2.
    """
    batch, frames = outputs.shape[:2]
    if channels > 1:
        apart = outputs.reshape(batch, frames, channels, -1)
        outputs = jnp.moveaxis(apart, 2, 1).reshape(batch * channels, frames, -1)
    return outputs.reshape(batch * channels, frames * subframes, -1, 2)
