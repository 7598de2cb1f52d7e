"""Content error: did the audio say the words of its prompt?

In: waveforms at 16 kHz and reference texts. Out: transcripts, and errors with reference counts per
clip, so that a corpus rate is a ratio of sums and its interval resamples clips. The recogniser is
pocketsphinx 5.1.1 (BSD, acoustic model inside the wheel) bound to a JSGF grammar: on a closed
language it is fast (about 50 times real time) and says nothing that the grammar cannot say. Any
other recogniser joins through `word_errors` or `character_errors` on its transcripts. Edit
distances come from jiwer. A rate can exceed 1 when words are inserted.
"""

import threading
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from genlab.config import GenlabError
from genlab.data.audio import as_wave
from genlab.data.text import normalise_text
from genlab.evaluate.sessions import open_once
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ

PEAK = 0.5
PADDING_S = 0.2


class ContentErrors(NamedTuple):
    """Edit errors (substitutions, deletions, insertions) and reference units per clip."""

    errors: Float[np.ndarray, "n"]
    reference_units: Float[np.ndarray, "n"]

    @property
    def rate(self) -> float:
        """Errors over reference units of the whole set."""
        return float(self.errors.sum() / self.reference_units.sum())


class GrammarRecogniser:
    """pocketsphinx restricted to a grammar. A transcript depends on its clip alone, not on the
    clips before it.

    Args:
        jsgf: the grammar as a JSGF 1.0 string with one public rule.
        vocabulary: every word the grammar may say; each must be in the CMU pronouncing dictionary.

    Raises:
        GenlabError: if pocketsphinx is missing, a word has no pronunciation, or the grammar does
            not parse.
    """

    def __init__(self, jsgf: str, vocabulary: Collection[str]):
        self._arguments = jsgf, tuple(vocabulary)
        self._decoder = open_pocketsphinx()
        # one decoder holds one utterance, and pocketsphinx keeps the GIL anyway
        self._lock = threading.Lock()
        unknown = sorted(word for word in vocabulary if self._decoder.lookup_word(word) is None)
        if unknown:
            raise GenlabError(
                f"vocabulary: no pronunciation for {', '.join(map(repr, unknown[:5]))}"
                f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''} in the CMU "
                "dictionary; "
                "use lower-case English words, or score this corpus with the CTC recogniser only"
            )
        try:
            self._decoder.add_jsgf_string("genlab", jsgf)
            self._decoder.activate_search("genlab")
        except (ValueError, RuntimeError, KeyError) as error:
            raise GenlabError(
                f"grammar: pocketsphinx refused it ({error}); expected JSGF 1.0 with one public "
                "rule whose "
                "words are all in the vocabulary"
            ) from None

    def transcribe(self, wave: Shaped[np.ndarray, "..."]) -> str:
        """Return the likeliest sentence of the grammar, or "" if none fits."""
        wave = as_wave(wave)
        peak = float(np.abs(wave).max(initial=0.0))
        if peak < 1e-4 or len(wave) < SAMPLE_RATE_HZ // 20:
            return ""
        padding = np.zeros(int(PADDING_S * SAMPLE_RATE_HZ), np.float32)
        samples = np.concatenate([padding, wave * (PEAK / peak), padding])
        with self._lock:
            self._decoder.start_utt()
            self._decoder.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
            self._decoder.end_utt()
            hypothesis = self._decoder.hyp()
        return normalise_text(hypothesis.hypstr) if hypothesis else ""

    def transcribe_all(self, waves: Sequence[Shaped[np.ndarray, "..."]]) -> list[str]:
        """Return `transcribe` of each wave."""
        return [self.transcribe(wave) for wave in waves]

    def __reduce__(self) -> tuple[object, ...]:
        return open_once, (type(self), *self._arguments)


def open_pocketsphinx() -> Any:
    """Return a pocketsphinx decoder with its English acoustic model and the CMU dictionary, and no
    search yet.

    Raises:
        GenlabError: if pocketsphinx is missing.
    """
    try:
        import pocketsphinx
    except ImportError:
        raise GenlabError(
            "evaluate: package 'pocketsphinx' is not installed, it recognises the content of "
            "clips; "
            "run `python -m pip install pocketsphinx==5.1.1`"
        ) from None
    # cmn=batch normalises each clip by itself; the default carries its running mean from clip to
    # clip.
    return pocketsphinx.Decoder(
        hmm=pocketsphinx.get_model_path("en-us/en-us"),
        dict=pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"),
        lm=None,
        loglevel="FATAL",
        samprate=SAMPLE_RATE_HZ,
        cmn="batch",
    )


def word_errors(hypotheses: Sequence[str], references: Sequence[str]) -> ContentErrors:
    """Count word errors per clip after `normalise_text` on both sides."""
    return _count_errors(hypotheses, references, in_characters=False)


def character_errors(hypotheses: Sequence[str], references: Sequence[str]) -> ContentErrors:
    """Count character errors (spaces included) per clip after `normalise_text` on both sides."""
    return _count_errors(hypotheses, references, in_characters=True)


def _count_errors(
    hypotheses: Sequence[str], references: Sequence[str], *, in_characters: bool
) -> ContentErrors:
    if len(hypotheses) != len(references):
        raise ValueError(
            f"hypotheses: expected one per reference, got {len(hypotheses)} for {len(references)}"
        )
    import jiwer  # here, because reading a config does not need it

    process = jiwer.process_characters if in_characters else jiwer.process_words
    errors, units = np.zeros(len(references)), np.zeros(len(references))
    for i, (hypothesis, reference) in enumerate(
        zip(map(normalise_text, hypotheses), map(normalise_text, references))
    ):
        if not reference:  # jiwer refuses an empty reference; all that was said is then inserted
            errors[i] = len(hypothesis) if in_characters else len(hypothesis.split())
            continue
        counts = process(reference, hypothesis)
        errors[i] = counts.substitutions + counts.deletions + counts.insertions
        units[i] = counts.hits + counts.substitutions + counts.deletions
    return ContentErrors(errors, units)
