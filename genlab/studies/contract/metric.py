"""The promises of a metric, tried out on six short clips of three voices, and on clips that are
hard to measure.

In: a config whose `metrics` join the table of scores. Out: one finding per promise. A promise that
is broken here makes a comparison wrong without a word: arms are paired prompt by prompt, so the
number of a clip must not depend on the clips beside it, on their order or on the threads.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np

from genlab.config import ConfigError
from genlab.evaluate.context import EvaluationConfig, EvaluationContext, Wanted, Wave, build_context
from genlab.evaluate.metric import Metric
from genlab.evaluate.metrics import RowResult, score_clips
from genlab.evaluate.own import MetricConfig, own_rows
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ
from genlab.studies.contract.trial import Finding, require, require_round_trip, try_out

NUM_CLIPS = 6


def check_metric(config: MetricConfig) -> list[Finding]:
    """Try out a metric's config.

    Raises:
        ConfigError: if what its `metrics` returns cannot be rows of the table.
    """
    try:
        rows = own_rows((config,))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    trial = _MetricTrial(config, rows)
    return try_out(
        {
            "config.json gives it back": partial(require_round_trip, config),
            "every row is measured": trial.measures,
            "values lie in the stated range": trial.keeps_its_range,
            "the same clips have the same values": trial.repeats,
            "other clips, their order and threads move no clip's value": trial.ignores_mates,
            "silence and a few samples are measured or left out": trial.takes_hard_clips,
        }
    )


class _MetricTrial:
    """One metric, and clips that differ from the real ones by their noise."""

    def __init__(self, config: MetricConfig, rows: Sequence[Metric]):
        self.config, self.rows = config, rows
        draw = np.random.default_rng(0)
        lengths = SAMPLE_RATE_HZ + 320 * np.arange(NUM_CLIPS)
        real = [_speak(int(length), 100 + 30 * (i % 3), draw) for i, length in enumerate(lengths)]
        self.prompts = [
            Wanted(f"text {i}", f"text {'abcdef'[i]}", f"voice {i % 3}", wave)
            for i, wave in enumerate(real)
        ]
        self.waves = [
            (0.8 * wave + 0.01 * draw.standard_normal(len(wave))).astype(np.float32)
            for wave in real
        ]
        speakers = [prompt.speaker for prompt in self.prompts]
        others = [_speak(2 * SAMPLE_RATE_HZ, 100 + 30 * (i % 3), draw) for i in range(NUM_CLIPS)]
        self.context: EvaluationContext = build_context(
            EvaluationConfig(), (), others, speakers, _count_levels
        )

    def score(self, order: Sequence[int], context: EvaluationContext | None = None) -> RowResult:
        return score_clips(
            [self.waves[i] for i in order],
            [self.prompts[i] for i in order],
            context or self.context,
            metrics=self.rows,
            is_reconstruction=True,
        )

    def measures(self) -> None:
        row = self.score(range(NUM_CLIPS))
        for metric in self.rows:
            for name in metric.score_names:
                require(name in row.scores, f"{name} is a row, and nothing measures it")
                require(np.isfinite(row.scores[name].value), f"{name} is {row.scores[name].value}")
                is_of_sets = name not in row.per_clip
                require(
                    is_of_sets == metric.is_of_sets,
                    f"{name}: is_of_sets={metric.is_of_sets}, but it is measured "
                    f"{'of the whole set' if is_of_sets else 'per clip'}",
                )

    def keeps_its_range(self) -> None:
        row = self.score(range(NUM_CLIPS))
        for metric in self.rows:
            low, high = metric.range
            for name in metric.score_names:
                values = row.per_clip[name].values if name in row.per_clip else []
                for value in (*values, row.scores[name].value):
                    require(
                        not (value < low or value > high),
                        f"{name} is {value:.4g}, range={metric.range}",
                    )

    def repeats(self) -> None:
        first, again = (self.score(range(NUM_CLIPS)) for _ in range(2))
        for name, score in first.scores.items():
            require(
                _same(score.value, again.scores[name].value),
                f"{name} is {score.value:.6g}, and {again.scores[name].value:.6g} the second time",
            )

    def ignores_mates(self) -> None:
        whole = self.score(range(NUM_CLIPS))
        threads = dataclasses.replace(
            self.context, config=self.context.config.model_copy(update={"threads": 1})
        )
        orders: dict[str, tuple[list[int], EvaluationContext | None]] = {
            "beside fewer clips": ([0, 1, 2], None),
            "in another order": ([*range(NUM_CLIPS)][::-1], None),
            "on one thread": ([*range(NUM_CLIPS)], threads),
        }
        for how, (order, context) in orders.items():
            row = self.score(order, context)
            for name, values in row.per_clip.items():
                expected = whole.per_clip[name].values[order]
                for i, before, after in zip(order, expected, values.values):
                    require(
                        _same(before, after),
                        f"{name} of clip {i} is {before:.6g}, and {after:.6g} {how}",
                    )

    def takes_hard_clips(self) -> None:
        silent = np.zeros(SAMPLE_RATE_HZ, np.float32)
        hard = {"a silent clip": silent, "10 samples": self.waves[0][:10]}
        for what, wave in hard.items():
            try:
                score_clips([wave, *self.waves[1:]], self.prompts, self.context, metrics=self.rows)
            except Exception as error:  # the code is the user's own, and may raise anything
                require(False, f"{what}: {error}; return NaN where there is no value")


def _speak(length: int, f0_hz: float, draw: np.random.Generator) -> Wave:
    """Return a buzz with pauses, which is enough of a voice for a metric to have a value."""
    time_s = np.arange(length) / SAMPLE_RATE_HZ
    buzz = np.sum([np.sin(2 * np.pi * f0_hz * k * time_s) / k for k in range(1, 20)], axis=0)
    is_voiced = np.sin(2 * np.pi * 2 * time_s + draw.uniform(0, 6)) > -0.5
    return (0.2 * buzz * is_voiced + 1e-4 * draw.standard_normal(length)).astype(np.float32)


def _count_levels(waves: Sequence[Wave]) -> list[np.ndarray]:
    """Return codes without a codec: the loudness of each 20 ms in steps."""
    frames = [wave[: len(wave) // 320 * 320].reshape(-1, 320) for wave in waves]
    return [np.abs(of_clip).mean(axis=1)[:, None].round(2).astype(int) for of_clip in frames]


def _same(first: float, second: float) -> bool:
    return bool(np.isclose(first, second, rtol=1e-6, atol=1e-9, equal_nan=True))
