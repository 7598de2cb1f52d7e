"""Whether the recogniser that judges words hears the real clips of a corpus.

In: a manifest and some of its clips. Out: the word error of genlab's recogniser on them, by the
texts that the corpus gives.
"""

from collections.abc import Collection
from typing import Any

from genlab.data.audio import SPEECH_AUDIO, hear, to_float
from genlab.data.manifest import Clip, Manifest
from genlab.data.text import has_symbols
from genlab.evaluate.content import word_errors
from genlab.evaluate.context import spread_evenly
from genlab.evaluate.domains import MOST_ERRORS_ON_REAL, domain_of
from genlab.recognisers.shipped import load_recogniser

HEARD_CLIPS = 32  # of a split, evenly over its order


def recognisers_of(corpus: Any) -> tuple[str, ...]:
    """Return the recognisers whose word errors are scored on a corpus; none where nobody speaks."""
    if not domain_of(corpus).has("wer"):
        return ()
    return getattr(corpus, "recognisers", ("ctc",))


def hear_real(manifest: Manifest, clips: Collection[Clip]) -> float | None:
    """Return the errors per word that the recogniser makes on real clips; None if none of them has
    a text that it could hear.
    """
    spoken = [clip for clip in clips if has_symbols(clip.text)]
    if not spoken:
        return None
    waves = [hear(to_float(manifest.audio(c)), manifest.audio_format, SPEECH_AUDIO) for c in spoken]
    heard = load_recogniser().transcribe(waves)
    errors, words = word_errors(heard, [clip.text for clip in spoken])
    return float(errors.sum() / words.sum())


def describe_hearing(corpus: Any, manifest: Manifest) -> list[str]:
    """Return a line with the word error on real clips of the test split, or of the first one there
    is; none where nobody says words or no clip has a text.
    """
    if "ctc" not in recognisers_of(corpus):
        return []
    name = "test" if "test" in manifest.splits else manifest.splits[0]
    spoken = [clip for clip in manifest.split(name) if has_symbols(clip.text)]
    heard = [spoken[i] for i in spread_evenly(len(spoken), HEARD_CLIPS)]
    error = hear_real(manifest, heard)
    if error is None:
        return []
    told = "below" if error < MOST_ERRORS_ON_REAL else "so it is no judge here: a judge stays below"
    return [
        f"  word error of genlab's recogniser on {len(heard)} real clips of {name}: {error:.2f}, "
        f"{told} {MOST_ERRORS_ON_REAL:g}"
    ]
