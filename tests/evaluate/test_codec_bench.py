"""The table of codecs: real tools where they are installed, and arithmetic that needs none."""

import json
import math

import numpy as np
import pytest
import soundfile
from codec_toys import make_frozen, make_wave

from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError
from genlab.evaluate.codecs import bench as codec_bench
from genlab.evaluate.codecs import speech_coders
from genlab.evaluate.codecs.bench import (
    SCORES,
    Row,
    bench_folder,
    compare_with_opus,
    to_json,
    to_markdown,
)
from genlab.evaluate.codecs.speech_coders import (
    Coded,
    code_with_codec2,
    code_with_opus,
    missing_tools,
)

needs_tools = pytest.mark.skipif(
    bool(missing_tools()), reason=f"system packages {missing_tools()} are not installed"
)


def row(name, value, usage=()):
    values = {score: np.array([value, value + 0.1, value - 0.1]) for score in SCORES}
    return Row(name, 4000.0, {**values, "pesq": None}, list(usage), 10.0, 20.0)


def test_differences_are_signed_so_that_above_zero_is_ahead():
    rows = [
        row("ours", 3.0, [9.5, 9.0]),
        row("Opus 6 kbit/s, default", 2.0),
        row("Opus 9 kbit/s, default", 5.0),
    ]
    pairs = {pair["score"]: pair for pair in compare_with_opus(rows)}
    assert {pair["opus"] for pair in pairs.values()} == {"Opus 6 kbit/s, default"}
    assert pairs["stoi"]["value"] == pytest.approx(1) and pairs["stoi"]["is_ahead"]
    assert pairs["word_error"]["value"] == pytest.approx(-1) and not pairs["word_error"]["is_ahead"]
    assert "pesq" not in pairs


def test_the_table_and_the_json_say_the_same():
    rows = [row("ours", 3.0, [9.5, 9.0]), row("Opus 6 kbit/s, default", 2.0)]
    table, facts = to_markdown(rows), to_json(rows)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts[0]["scores"]["pesq"] is None and facts[0]["scores"]["stoi"]["value"] == 3.0
    assert "| ours | 4,000 | 3.00 [" in table and "9.0 to 9.5" in table and "PESQ" not in table
    assert "| ours | Opus 6 kbit/s, default | 1.00" in table


@pytest.fixture
def folder(tmp_path):
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", make_wave(number, 20_000), 16_000)
    return tmp_path


def test_every_coder_is_judged_on_every_file(folder, monkeypatch):
    def halve(wave, **_):
        return Coded(wave / 2, 6000 * len(wave) / 16_000, 0.1, 0.2)

    monkeypatch.setattr(codec_bench, "code_with_opus", halve)
    monkeypatch.setattr(codec_bench, "code_with_codec2", halve)
    monkeypatch.setattr(codec_bench.whisper, "is_installed", lambda: False)
    rows = {row.name: row for row in bench_folder({"tiny": (make_frozen(), [3, 1, 0])}, folder)}
    ours, fewer, latents = rows["tiny, 3 levels"], rows["tiny, 1 levels"], rows["tiny, latents"]
    assert ours.rate_bps == pytest.approx(50 * 3 * 4, rel=0.02) and fewer.rate_bps == pytest.approx(
        50 * 4, rel=0.02
    )
    assert math.isnan(latents.rate_bps) and len(ours.usage) == 3 and len(fewer.usage) == 1
    assert all(0 <= bits <= 4 for bits in ours.usage)
    assert all(len(row.values["mel_distance_db"]) == 2 for row in rows.values())
    assert rows["original"].values["mel_distance_db"].max() == 0
    assert rows["Opus 6 kbit/s, default"].rate_bps == pytest.approx(6000)
    assert rows["Opus 6 kbit/s, default"].encode_speed == pytest.approx(2.5 / 0.2)
    assert rows["original"].values["word_error"] is None


def test_another_sample_rate_is_refused(folder):
    codec = make_frozen()
    other = FrozenCodec(codec._merge(codec._state), "x", {}, wave_rate_hz=24_000)
    with pytest.raises(
        GenlabError, match="codec tiny: gives 24000 Hz mono, scores need 16000 Hz mono"
    ):
        bench_folder({"tiny": (other, [1])}, folder)


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert missing_tools() == ["codec2", "opus-tools"]
    with pytest.raises(
        GenlabError, match="opusenc: not installed; install codec2, opus-tools with"
    ):
        code_with_opus(make_wave(0, 8000), 6)


@needs_tools
def test_opus_spends_what_it_is_given():
    wave = make_wave(3, 32_000)
    few, many = (
        code_with_opus(wave, 6, speech_coders.OPUS_SETTINGS["speech, 60 ms, constant rate"]),
        code_with_opus(wave, 24),
    )
    assert few.bits == pytest.approx(12_000, rel=0.1) and many.bits > 2 * few.bits
    assert len(few.wave) == len(many.wave) == len(wave)
    assert np.corrcoef(many.wave, wave)[0, 1] > 0.9, "neither shifted nor turned around"


@needs_tools
def test_codec2_spends_what_it_is_given():
    coded = code_with_codec2(make_wave(3, 32_000), 3200)
    assert coded.bits == pytest.approx(2 * 3200, rel=0.05)
    assert len(coded.wave) == 32_000 and np.abs(coded.wave).max() > 0.01
