"""Short-time Fourier transforms whose frames line up with tokens, and mel filters.

In: waves "b s", or complex spectrograms "b t f". Out: the other one, or mel features.

A wave of `n * hop` samples gives exactly n frames: frame i is centred on samples [i*hop, (i+1)*hop)
("same" padding, as in Vocos, Siuzdak 2023, section 3). Framing and overlap-add are reshapes and
shifted adds, not gathers, because those are what XLA turns into copies on every backend. The window
length must be a multiple of the hop.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float


@functools.cache
def hann_window(window_samples: int) -> np.ndarray:
    """Return the periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window_samples) / window_samples)).astype(
        np.float32
    )


def frame_wave(
    wave: Float[Array | np.ndarray, "b s"],
    window_samples: int,
    hop_samples: int,
    before: int | None = None,
) -> Float[Array, "b t w"]:
    """Cut a wave whose length is a multiple of the hop into overlapping frames, one per hop.

    Args:
        wave: the samples.
        window_samples: of a frame.
        hop_samples: from frame to frame.
        before: samples of the first frame that lie before the wave; half of the overlap if absent.
            With the whole overlap (window - hop) no frame sees past its own hop.
    """
    if window_samples % hop_samples or wave.shape[1] % hop_samples:
        raise ValueError(
            f"window {window_samples} and wave {wave.shape[1]} must be multiples of the hop "
            f"{hop_samples}"
        )
    before = (window_samples - hop_samples) // 2 if before is None else before
    return cut_frames(
        jnp.pad(wave, ((0, 0), (before, window_samples - hop_samples - before))),
        window_samples,
        hop_samples,
    )


def cut_frames(
    wave: Float[Array | np.ndarray, "b s"], window_samples: int, hop_samples: int
) -> Float[Array, "b t w"]:
    """Return every whole frame of the wave, unpadded; its length is a multiple of the hop."""
    overlap = window_samples // hop_samples
    # A frame is `overlap` neighbouring hops: b (u hop) -> b u hop
    pieces = wave.reshape(wave.shape[0], -1, hop_samples)
    num_frames = pieces.shape[1] - overlap + 1
    return jnp.concatenate([pieces[:, i : i + num_frames] for i in range(overlap)], axis=-1)


def spread_frames(
    frames: Float[Array | np.ndarray, "b t w"], hop_samples: int
) -> Float[Array, "b s"]:
    """Add overlapping frames up: (t - 1) * hop + window samples."""
    batch, _, window_samples = frames.shape
    overlap = window_samples // hop_samples
    # b t (overlap hop) -> b t overlap hop: piece i of frame t is added at t + i.
    pieces = frames.reshape(batch, -1, overlap, hop_samples)
    shifted = [
        jnp.pad(pieces[:, :, i], ((0, 0), (i, overlap - 1 - i), (0, 0))) for i in range(overlap)
    ]
    return functools.reduce(jnp.add, shifted).reshape(batch, -1)


def overlap_add(
    frames: Float[Array | np.ndarray, "b t w"], hop_samples: int, before: int | None = None
) -> Float[Array, "b s"]:
    """Invert the framing: add overlapping frames and cut the padding to t * hop samples."""
    before = (int(frames.shape[2]) - hop_samples) // 2 if before is None else before
    return spread_frames(frames, hop_samples)[:, before : before + frames.shape[1] * hop_samples]


def stft(
    wave: Float[Array | np.ndarray, "b s"],
    window_samples: int,
    hop_samples: int,
    before: int | None = None,
) -> Complex[Array, "b t f"]:
    """Return the complex spectrogram with a Hann window; `before` as in `frame_wave`."""
    window = hann_window(window_samples)[None, None]
    return jnp.fft.rfft(frame_wave(wave, window_samples, hop_samples, before) * window, axis=-1)


def istft(
    spectrum: Complex[Array | np.ndarray, "b t f"],
    window_samples: int,
    hop_samples: int,
    before: int | None = None,
) -> Float[Array, "b s"]:
    """Return the wave whose `stft` is nearest to `spectrum` (windowed overlap-add over the summed
    squared window).
    """
    window = hann_window(window_samples)[None, None]
    frames = jnp.fft.irfft(spectrum, n=window_samples, axis=-1) * window
    envelope = overlap_add(jnp.broadcast_to(window**2, (1, *frames.shape[1:])), hop_samples, before)
    return overlap_add(frames, hop_samples, before) / jnp.maximum(envelope, 1e-3)


@functools.cache
def mel_filters(
    sample_rate_hz: int, window_samples: int, num_mels: int, high_hz: float | None = None
) -> np.ndarray:
    """Return Slaney-normalised triangular filters [f, mels].

    The same matrix as `librosa.filters.mel` (a test checks it); written out because importing
    librosa costs seconds, which every command would pay.
    """
    high_hz = high_hz or sample_rate_hz / 2
    knee_hz = 1000.0
    knee_mel = 15.0
    log_step = np.log(6.4) / 27.0

    # Slaney's scale: linear up to 1 kHz, where it is 15 mel, then logarithmic.
    def to_mel(hz: np.ndarray) -> np.ndarray:
        return np.where(
            hz < knee_hz, hz * 3 / 200, knee_mel + np.log(np.maximum(hz, 1e-9) / knee_hz) / log_step
        )

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(
            mel < knee_mel, mel * 200 / 3, knee_hz * np.exp(log_step * (mel - knee_mel))
        )

    edges_hz = to_hz(np.linspace(0.0, to_mel(np.asarray(high_hz)), num_mels + 2))
    bins_hz = np.arange(window_samples // 2 + 1) * (sample_rate_hz / window_samples)
    rising = (bins_hz[:, None] - edges_hz[:-2]) / np.maximum(np.diff(edges_hz)[:-1], 1e-9)
    falling = (edges_hz[2:] - bins_hz[:, None]) / np.maximum(np.diff(edges_hz)[1:], 1e-9)
    filters = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges_hz[2:] - edges_hz[:-2]))
    return filters.astype(np.float32)
