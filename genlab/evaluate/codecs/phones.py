"""Which phone is spoken when: labels for probes of codes and features on real speech.

In: waves at 16 kHz. Out: one phone number per 10 ms, or nothing where the clip cannot be labelled.
Words come from `whisper.py` (the clips need no transcripts), times from a forced alignment by
pocketsphinx with the CMU pronouncing dictionary. Neither shares data or weights with the in-lab
recogniser, so a probe may judge what that one taught.
"""

import numpy as np
from jaxtyping import Float, Int

from genlab.evaluate.codecs.whisper import Whisper
from genlab.evaluate.content import open_pocketsphinx
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ

LABELS_PER_S = 100


class PhoneAligner:
    """Whisper for the words, pocketsphinx for the times.

    Attributes:
        phones: names of the phones seen so far; a label is an index into it.

    Raises:
        GenlabError: if pocketsphinx or the packages of the `asr` extra are missing.
    """

    def __init__(self) -> None:
        self.phones: list[str] = []
        self._whisper = Whisper()
        self._decoder = open_pocketsphinx()

    def __call__(self, wave: Float[np.ndarray, "s"]) -> Int[np.ndarray, "u"] | None:
        """Return the phone of every 10 ms; None if a word has no pronunciation or the alignment
        fails.
        """
        words = self._whisper.transcribe(wave).split()
        if not words or any(self._decoder.lookup_word(word) is None for word in words):
            return None
        pcm = (np.clip(wave, -1, 1) * 32767).astype(np.int16).tobytes()
        try:
            self._decoder.set_align_text(" ".join(words))
            self._align(pcm)
            # the second pass finds the phones inside the words of the first
            self._decoder.set_alignment()
            self._align(pcm)
            found = self._decoder.get_alignment()
        except RuntimeError:
            return None
        labels = np.full(len(wave) * LABELS_PER_S // SAMPLE_RATE_HZ + 1, -1)
        for phone in (phone for word in found for phone in word):
            if phone.name not in self.phones:
                self.phones.append(phone.name)
            labels[phone.start : phone.start + phone.duration] = self.phones.index(phone.name)
        return labels

    def _align(self, pcm: bytes) -> None:
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()


def labels_at(
    labels: Int[np.ndarray, "u"], num_frames: int, frame_hz: float
) -> Int[np.ndarray, "t"]:
    """Return the label under the centre of each frame, -1 past the last one."""
    centres = ((np.arange(num_frames) + 0.5) * LABELS_PER_S / frame_hz).astype(int)
    return np.append(labels, -1)[np.minimum(centres, len(labels))]
