"""Waves whose spectrum is known."""

import numpy as np

RATE_HZ = 16_000


def sine(frequency_hz: float, seconds: float = 1.0, level: float = 1.0) -> np.ndarray:
    """Return a sine in [-level, level], at 16 kHz."""
    return (
        level * np.sin(2 * np.pi * frequency_hz * np.arange(int(RATE_HZ * seconds)) / RATE_HZ)
    ).astype(np.float32)
