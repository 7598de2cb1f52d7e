"""Numbered FLAC files of prompts in one directory: written one after another, read when asked for.

In: waves in [-1, 1]. Out: promptNN.flac with 16 bits, and sequences that read them back.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from genlab.data.audio import AudioFormat, read_wave, to_int16, write_flac
from genlab.data.streamed import sequence_of


def wave_path(directory: Path, number: int) -> Path:
    """Return where the wave of a prompt lies."""
    return directory / f"prompt{number:02}.flac"


def write_waves(
    directory: Path, first: int, waves: Sequence[Float[np.ndarray, "s *c"]], rate_hz: int
) -> None:
    """Write the waves of the prompts from `first` on."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, wave in enumerate(waves, first):
        write_flac(wave_path(directory, number), to_int16(wave), sample_rate_hz=rate_hz)


def read_waves(
    directory: Path, count: int, audio: AudioFormat
) -> Sequence[Float[np.ndarray, "s *c"]]:
    """Return the waves of the first `count` prompts; many are read whenever they are asked for.

    Raises:
        AudioError: if a file is missing or damaged; of many, when it is asked for.
    """
    return sequence_of(partial(_read, directory, audio), count)


def _read(directory: Path, audio: AudioFormat, number: int) -> Float[np.ndarray, "s *c"]:
    return read_wave(wave_path(directory, number), **audio._asdict())
