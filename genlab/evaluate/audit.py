"""Can a metric be trusted on this corpus? Each is run on real clips degraded by known amounts.

In: real clips as prompts and the `EvaluationContext` that will score the arms. Out: per metric and
degradation one of `ranks`, `blind` or `reversed`, and how often it sees a difference between two
halves of the same real clips, where there is none. A metric that does not rank every degradation it
should detect (`Metric.must_notice`), or that raises too many false alarms, is not trusted, and the
tables grey it out; the other degradations are shown for information.

A metric ranks a degradation if its strongest step is significantly worse than the clean clips and
no step is significantly better than a milder one. "Significantly" means a 95 % interval, paired by
clip where the metric has a value per clip; distances between sets differ if their intervals do not
overlap.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float

from genlab.evaluate.entries import AuditEntry, Verdict
from genlab.evaluate.metric import Metric
from genlab.evaluate.metrics import EvaluationContext, RowResult, Wanted, score_clips
from genlab.evaluate.scores import Degradation
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ
from genlab.evaluate.table import METRICS, find_metric
from genlab.statistics.bootstrap import bootstrap_mean

Waves = Sequence[Float[np.ndarray, "_"]]
NUM_HALVES = 200
MOST_FALSE_ALARMS = 0.12  # of 200 splits; 0.05 is expected, and the splits share their clips
PIECE_S = (0.2, 0.1, 0.05)
MEAN_S = (0.06, 0.12, 0.24)


class MetricAudit(NamedTuple):
    """What the audit found about one metric. `values` holds the clean value and then those of each
    step, mild first.
    """

    verdicts: dict[str, Verdict]
    values: dict[str, list[float]]
    false_alarms: float
    failed: tuple[str, ...]
    must_notice: tuple[Degradation, ...] = ()

    @property
    def is_trusted(self) -> bool:
        """True if it saw all that it must, and nothing where there was nothing."""
        return not self.failed

    def to_dict(self) -> AuditEntry:
        """Return the entry of results.json."""
        return {
            "verdicts": self.verdicts,
            "values": {seen: list(values) for seen, values in self.values.items()},
            "false_alarms": self.false_alarms,
            "failed": list(self.failed),
            "is_trusted": self.is_trusted,
            "must_notice": list(self.must_notice),
        }


def spoil(
    waves: Waves, seed: int = 0, rate_hz: int = SAMPLE_RATE_HZ
) -> dict[Degradation, list[list[Float[np.ndarray, "_ *c"]]]]:
    """Return the clips spoiled in every way, each in steps from mild to strong.

    White noise at 20, 10 and 0 dB; a low-pass at 3.4, 2 and 1 kHz; 6, 4 and 3 bits; pieces of 200,
    100 and 50 ms in random order; time reversed; a set in which 1/2, 1/4 and 1/8 of the clips
    replace all others; and the spectrum smoothed to its mean over 60, 120 and 240 ms.
    """
    rng = np.random.default_rng(seed)
    return {
        "noise": [[_add_noise(wave, snr_db, rng) for wave in waves] for snr_db in (20, 10, 0)],
        "low-pass": [
            [_low_pass(wave, cutoff_hz, rate_hz) for wave in waves]
            for cutoff_hz in (3400, 2000, 1000)
        ],
        "coarse": [[_coarsen(wave, bits) for wave in waves] for bits in (6, 4, 3)],
        "shuffle": [
            [_shuffle(wave, round(seconds * rate_hz), rng) for wave in waves] for seconds in PIECE_S
        ],
        "reversal": [[np.ascontiguousarray(wave[::-1]) for wave in waves]],
        "collapse": [
            [waves[i % max(1, len(waves) // share)] for i in range(len(waves))]
            for share in (2, 4, 8)
        ],
        "smoothing": [[_smooth(wave, seconds, rate_hz) for wave in waves] for seconds in MEAN_S],
    }


def audit_metrics(
    prompts: Sequence[Wanted],
    context: EvaluationContext,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    metrics: Sequence[Metric] = METRICS,
) -> dict[str, MetricAudit]:
    """Return the audit of every metric that audio has.

    Args:
        prompts: real clips, none of them among those the context was built from.
        context: what scores the arms.
        progress: told how many rows of audio are scored.
        metrics: rows of the table.
    """
    waves = [prompt.wave for prompt in prompts]
    seed = context.config.seed
    spoiled = spoil(waves, seed, context.audio.sample_rate_hz)
    # Two halves of the same clips: a metric that tells them apart would see a difference anywhere.
    half = np.random.default_rng(seed).permutation(len(prompts))
    jobs: list[tuple[str, Waves, Sequence[Wanted]]] = [("clean", waves, prompts)]
    jobs += [(name, step, prompts) for name, steps in spoiled.items() for step in steps]
    jobs += [
        ("half", [waves[i] for i in part], [prompts[i] for i in part])
        for part in np.array_split(half, 2)
    ]
    rows: dict[str, list[RowResult]] = {}
    for done, (name, row_waves, row_prompts) in enumerate(jobs):
        if progress is not None:
            progress("audit", done, len(jobs))
        rows.setdefault(name, []).append(
            score_clips(row_waves, row_prompts, context, metrics=metrics, is_reconstruction=True)
        )
    if progress is not None:
        progress("audit", len(jobs), len(jobs))
    return {
        name: judge_rows(find_metric(name, metrics), name, rows, seed)
        for name in rows["clean"][0].scores
    }


def judge_rows(
    metric: Metric, name: str, rows: Mapping[str, Sequence[RowResult]], seed: int
) -> MetricAudit:
    """Return the audit of one score.

    Args:
        metric: its row of the table.
        name: of the score.
        rows: one `clean` row, two of each `half` of the clips, and under each degradation those of
            its steps, mild first.
        seed: of the resampling.
    """
    clean = rows["clean"][0]
    halves = rows["half"]
    verdicts: dict[str, Verdict] = {}
    values: dict[str, list[float]] = {}
    for degradation, steps in rows.items():
        if degradation not in ("clean", "half"):
            ladder = [clean, *steps]
            verdicts[degradation] = _judge(metric, name, ladder, seed)
            values[degradation] = [row.scores[name].value for row in ladder]
    false_alarms = _false_alarms(name, clean, halves, seed)
    failed = [seen for seen in metric.must_notice if verdicts.get(seen) != "ranks"]
    failed += ["false alarms"] if false_alarms > MOST_FALSE_ALARMS else []
    return MetricAudit(verdicts, values, false_alarms, tuple(failed), metric.must_notice)


def _judge(metric: Metric, name: str, ladder: Sequence[RowResult], seed: int) -> Verdict:
    """Return whether the rows get worse from first to last."""
    if any(
        _sign(metric, name, milder, stronger, seed) < 0
        for milder, stronger in itertools.pairwise(ladder)
    ):
        return "reversed"
    return "ranks" if _sign(metric, name, ladder[0], ladder[-1], seed) > 0 else "blind"


def _sign(metric: Metric, name: str, first: RowResult, second: RowResult, seed: int) -> int:
    """Return 1 if the second row is significantly worse, -1 if better, 0 if neither."""
    worse = 1 if metric.direction == "lower" else -1
    if name in first.per_clip and name in second.per_clip:
        change = bootstrap_mean(
            second.per_clip[name].values - first.per_clip[name].values, seed=seed
        )
        low, high = change.low, change.high
    else:
        low = second.scores[name].low - first.scores[name].high
        high = second.scores[name].high - first.scores[name].low
    if not (math.isfinite(low) and math.isfinite(high)) or low <= 0 <= high:
        return 0
    return worse if low > 0 else -worse


def _false_alarms(name: str, clean: RowResult, halves: Sequence[RowResult], seed: int) -> float:
    """Return the share of splits of the clean clips in which the halves differ by a Welch test at 5
    %.

    A distance between sets has one split, and a false alarm if the intervals of its halves do not
    meet.
    """
    if name not in clean.per_clip:
        first, second = (half.scores[name] for half in halves)
        return float(first.high < second.low or second.high < first.low)
    values = clean.per_clip[name].values
    values = values[np.isfinite(values)]
    if len(values) < 4 or np.ptp(values) < 1e-6:
        return 0.0
    rng = np.random.default_rng(seed)
    shuffled = np.stack([rng.permutation(values) for _ in range(NUM_HALVES)])
    first, second = np.array_split(shuffled, 2, axis=1)
    _, p_values = scipy.stats.ttest_ind(first, second, axis=1, equal_var=False)
    return float(np.mean(np.nan_to_num(np.asarray(p_values, np.float64), nan=1.0) < 0.05))


def _add_noise(
    wave: Float[np.ndarray, "s *c"], snr_db: float, rng: np.random.Generator
) -> Float[np.ndarray, "s *c"]:
    power = float(np.square(wave).mean()) / 10 ** (snr_db / 10)
    return np.asarray(wave + np.sqrt(power) * rng.standard_normal(wave.shape), np.float32)


def _low_pass(
    wave: Float[np.ndarray, "s *c"], cutoff_hz: float, rate_hz: int
) -> Float[np.ndarray, "s *c"]:
    sections = scipy.signal.butter(8, cutoff_hz, fs=rate_hz, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, wave, axis=0), np.float32)


def _coarsen(wave: Float[np.ndarray, "s *c"], bits: int) -> Float[np.ndarray, "s *c"]:
    peak = max(float(np.abs(wave).max()), 1e-6)
    steps = 2 ** (bits - 1)
    return (np.round(wave / peak * steps) / steps * peak).astype(np.float32)


def _smooth(
    wave: Float[np.ndarray, "s *c"], seconds: float, rate_hz: int
) -> Float[np.ndarray, "s *c"]:
    """Replace the log spectrum by its local mean over time and keep the phase.

    A model that predicts the mean of what is likely instead of drawing from it leaves such sound:
    in the right place, without detail (over-smoothing in parametric synthesis; Toda and Tokuda
    2007).
    """
    if wave.ndim == 2:
        return np.stack([_smooth(side, seconds, rate_hz) for side in wave.T], axis=1)
    # 32 ms and a quarter of it at 16 kHz, and about as long at other rates.
    size = 2 ** round(np.log2(0.032 * rate_hz))
    hop = size // 4
    _, _, spectrum = scipy.signal.stft(wave, nperseg=size, noverlap=size - hop)
    frames = max(1, round(seconds * rate_hz / hop))
    # Far below what is heard, so that digital silence has a logarithm.
    level = np.log(np.abs(spectrum) + 1e-7)
    mean = scipy.ndimage.uniform_filter1d(level, frames, axis=1, mode="nearest")
    _, smooth = scipy.signal.istft(
        np.exp(mean + 1j * np.angle(spectrum)), nperseg=size, noverlap=size - hop
    )
    return np.asarray(smooth[: len(wave)], np.float32)


def _shuffle(
    wave: Float[np.ndarray, "s *c"], piece: int, rng: np.random.Generator
) -> Float[np.ndarray, "s *c"]:
    starts = rng.permutation(np.arange(0, len(wave), piece))
    return np.concatenate([wave[start : start + piece] for start in starts])
