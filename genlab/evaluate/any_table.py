"""Rows of the table of scores for audio that need not be speech; table.py joins them with its own.

No row here loads a network, and all of them hear waves as the corpus keeps them: at its rate, with
its channels.
"""

import math

from genlab.evaluate import any_audio
from genlab.evaluate.classes import ClassProbe
from genlab.evaluate.context import TIMBRE
from genlab.evaluate.diversity import NEIGHBOURS
from genlab.evaluate.metric import AS_KEPT, Metric
from genlab.evaluate.scores import Degradation
from genlab.evaluate.timbre import TimbreEmbedder

_ABOVE_ZERO = (0.0, math.inf)
_SHARE = (0.0, 1.0)
_SOUND: tuple[Degradation, ...] = ("noise", "low-pass", "coarse")
_ALL: tuple[Degradation, ...] = (*_SOUND, "shuffle", "smoothing")

LONG_TERM = Metric(
    name="ltas_distance",
    title="Long-term spectrum distance",
    unit="dB",
    direction="lower",
    needs="audio and the real clip",
    hears=AS_KEPT,
    range=_ABOVE_ZERO,
    must_notice=_SOUND,
    measure=any_audio.long_term_spectrum,
)
ALIGNED = Metric(
    name="stft_distance",
    title="Spectral distance",
    unit="dB",
    direction="lower",
    needs="audio and the real clip",
    hears=AS_KEPT,
    range=_ABOVE_ZERO,
    must_notice=_ALL,
    measure=any_audio.aligned_spectra,
    is_of_floors=True,
)
CHROMA = Metric(
    name="chroma_similarity",
    title="Chroma similarity",
    unit="cosine",
    direction="higher",
    needs="audio and the real clip",
    hears=AS_KEPT,
    range=_SHARE,
    must_notice=("noise", "shuffle"),
    measure=any_audio.chroma,
)
CLASS_ACCURACY = Metric(
    name="class_accuracy",
    title="Class accuracy",
    unit="share",
    direction="higher",
    needs="audio and real speech",
    hears=AS_KEPT,
    networks=(TimbreEmbedder, ClassProbe),
    range=_SHARE,
    must_notice=("noise",),
    measure=any_audio.classes,
)
SETS = (
    Metric(
        name=f"kad{TIMBRE}",
        title="Kernel distance of timbre",
        unit="MMD^2 x 100",
        direction="lower",
        needs="audio and real speech",
        hears=AS_KEPT,
        networks=(TimbreEmbedder,),
        must_notice=_ALL,
        is_of_sets=True,
        measure=any_audio.timbre,
        fewest_real=2,
    ),
    Metric(
        name=f"frechet{TIMBRE}",
        title="Fréchet distance of timbre",
        unit="squared deviations",
        direction="lower",
        needs="audio and real speech",
        hears=AS_KEPT,
        networks=(TimbreEmbedder,),
        must_notice=_ALL,
        is_of_sets=True,
        measure=any_audio.timbre,
        fewest_real=2,
    ),
    Metric(
        name=f"coverage{TIMBRE}",
        title="Coverage of timbre",
        unit="share of real clips",
        direction="higher",
        needs="audio and real speech",
        hears=AS_KEPT,
        networks=(TimbreEmbedder,),
        range=_SHARE,
        must_notice=("noise", "collapse"),
        is_of_sets=True,
        measure=any_audio.timbre,
        fewest_real=NEIGHBOURS + 1,
    ),
    Metric(
        name=f"density{TIMBRE}",
        title="Density of timbre",
        unit="balls of real clips per clip",
        direction="higher",
        needs="audio and real speech",
        hears=AS_KEPT,
        networks=(TimbreEmbedder,),
        range=_ABOVE_ZERO,
        must_notice=("noise", "collapse"),
        is_of_sets=True,
        measure=any_audio.timbre,
        fewest_real=NEIGHBOURS + 1,
    ),
    Metric(
        name=f"spread{TIMBRE}",
        title="Spread of timbre",
        unit="share of the real spread",
        direction="higher",
        needs="audio and real speech",
        hears=AS_KEPT,
        networks=(TimbreEmbedder,),
        range=_ABOVE_ZERO,
        must_notice=("collapse",),
        is_of_sets=True,
        measure=any_audio.timbre,
        fewest_real=2,
    ),
)
OF_ANY_AUDIO = (CLASS_ACCURACY, CHROMA, LONG_TERM, ALIGNED, *SETS)
