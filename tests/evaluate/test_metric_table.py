"""The table of scores: it knows every score that any code makes, and nothing that no code makes."""

import ast
import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from genlab.evaluate.context import (
    SPACES,
    ContentMetric,
    EmbeddingSpace,
    EvaluationConfig,
    EvaluationContext,
    Wanted,
)
from genlab.evaluate.distribution import build_reference
from genlab.evaluate.energy import BARE_ENERGY, BARE_VARIOGRAM, TUNED_ENERGY
from genlab.evaluate.metric import Metric, each_clip
from genlab.evaluate.metrics import score_clips
from genlab.evaluate.pitch import PitchTrack
from genlab.evaluate.quality import QualityScores
from genlab.evaluate.table import METRICS, find_metric, is_paired, known_metric
from genlab.report.text import score_title

PACKAGE = Path(__file__).parents[2] / "genlab"
RATE_HZ = 16_000


def windows(wave: np.ndarray) -> np.ndarray:
    return wave[: len(wave) // 400 * 400].reshape(-1, 400)[:, :6].astype(np.float64)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(RATE_HZ)).astype(np.float32) for _ in range(8)]


@pytest.fixture(scope="module")
def context(clips) -> EvaluationContext:
    """Every measurement is made, by networks that cost nothing."""

    def quality(waves):
        return QualityScores(*(np.full(len(waves), value) for value in (1.0, 2.0, 3.0, 4.0)))

    quality.batch_windows = 2
    spaces = tuple(
        EmbeddingSpace(ending, windows, build_reference(list(map(windows, clips))))
        for ending in SPACES
    )
    return EvaluationContext(
        EvaluationConfig(dnsmos_clips=2),
        (
            ContentMetric("ctc", "word", lambda waves: ["one two"] * len(waves)),
            ContentMetric("whisper", "character", lambda waves: ["one"] * len(waves)),
        ),
        lambda wave: np.eye(256)[int(wave[0] > 0)],  # type: ignore[arg-type]
        {"a": np.eye(256)[0], "b": np.eye(256)[1]},
        spaces,
        lambda wave: PitchTrack(100 + 10 * np.arange(50.0), 0.02),  # type: ignore[arg-type]
        quality,  # type: ignore[arg-type]
        lambda waves: [np.arange(10)[:, None] % (2 + i) for i in range(len(waves))],
    )


@pytest.fixture(scope="module")
def prompts(clips) -> list[Wanted]:
    return [
        Wanted(f"text {i}", f"text {'abcdefgh'[i]}", "ab"[i % 2], wave)
        for i, wave in enumerate(clips)
    ]


def test_what_scoring_makes_is_in_the_table_and_what_is_in_the_table_is_made(
    clips, prompts, context
):
    row = score_clips(clips, prompts, context, is_reconstruction=True)
    expected = [
        name
        for metric in METRICS
        if metric.measure and _installed(metric)
        for name in metric.score_names
    ]
    assert set(row.scores) == {*expected, "wer_ctc", "cer_whisper"}
    for name, score in row.scores.items():
        metric = find_metric(name)
        assert (score.unit, score.direction) == (metric.unit, metric.direction)
        assert (name in row.per_clip) == is_paired(name) == (not metric.is_of_sets)
    assert {(control.control, control.score) for control in row.controls} == {
        ("speaker_swap", "speaker_similarity"),
        ("prompt_swap", "wer_ctc"),
        ("prompt_swap", "cer_whisper"),
    }


def _installed(metric: Metric) -> bool:
    return all(importlib.util.find_spec(name) for name in metric.packages)


def test_every_score_that_is_named_in_the_source_is_in_the_table():
    made = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "make_score"
            ):
                made += [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
    # One call makes all scores of a block, by these names.
    made += [BARE_ENERGY, BARE_VARIOGRAM, TUNED_ENERGY]
    assert set(made) == {metric.name for metric in METRICS if metric.measure is None}


def test_rows_are_whole_and_their_names_differ():
    assert (
        len({metric.name for metric in METRICS})
        == len({metric.title for metric in METRICS})
        == len(METRICS)
    )
    for metric in METRICS:
        low, high = metric.range
        assert low < high and metric.unit and metric.title == score_title(metric.name)
        assert metric.provenance or metric.needs in ("tokens", "audio and the real clip")
    assert known_metric("nonsense") is None and known_metric("wer_whisper") is find_metric("wer")
    assert find_metric("kad_voice") is find_metric("kad")
    assert score_title("kad_voice") == "Kernel audio distance (voice)"
    with pytest.raises(KeyError, match="nonsense: no metric of this name"):
        find_metric("nonsense")


def test_weights_have_a_licence_and_what_needs_audio_a_measurement():
    facts = {"name": "loudness", "title": "Loudness", "unit": "dB", "direction": "higher"}
    with pytest.raises(ValueError, match="loudness: expected a licence"):
        Metric(**facts, needs="tokens", weights=("a network",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="loudness: expected `measure`"):
        Metric(**facts, needs="audio")  # type: ignore[arg-type]


def test_a_measurement_of_several_scores_runs_once(clips, prompts, context):
    calls = []

    def loudness(wave: np.ndarray, prompt: Wanted) -> float:
        calls.append(prompt.clip_id)
        return float(np.abs(wave).mean() - np.abs(prompt.wave).mean())

    measure = each_clip("mcd", loudness)
    metrics = [find_metric("code_entropy"), find_metric("clip_code_entropy")]
    metrics += [dataclasses.replace(find_metric("mcd"), measure=measure)] * 2
    row = score_clips([2 * wave for wave in clips], prompts, context, metrics=metrics)
    assert sorted(calls) == [prompt.clip_id for prompt in prompts]
    assert list(row.scores) == ["clip_code_entropy", "mcd", "code_entropy"]
    np.testing.assert_allclose(
        row.per_clip["mcd"].values, [np.abs(wave).mean() for wave in clips], rtol=1e-5
    )
