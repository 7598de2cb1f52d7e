"""Everything written must come back: from the event files and from a live TensorBoard server."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from wave_toys import RATE_HZ, sine

from genlab.config import GenlabError
from genlab.decoders.ar import ARConfig
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.latent_ar import LatentARConfig
from genlab.decoders.masked import MaskedConfig
from genlab.watch.mel import mel_png
from genlab.watch.profiling import find_peak_flops, measure_flops_per_s
from genlab.watch.tensorboard import (
    ClipNote,
    RunWriter,
    StepCost,
    TrainingLog,
    level_steps,
    loss_tag,
    mel_tag,
    prompt_tag,
    tensorboard_command,
)

NOTE = ClipNote("set *the* <script>red</script> lamp", "s3", 7, 128, 2.0, "temperature 0.9")

HALF_S = {"seconds": 0.5, "level": 0.25}


def read(log_dir) -> EventAccumulator:
    events = EventAccumulator(str(log_dir), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_scalars_audio_pictures_text_and_hparams_come_back(tmp_path):
    wave, tag = sine(440, **HALF_S), prompt_tag("samples", 3)
    png = mel_png(wave, RATE_HZ)
    with RunWriter(tmp_path) as writer:
        writer.hparams(
            {"decoder": {"kind": "ar", "width": 64}, "ema": True, "none": None, "grid": [1, 2]},
            run_id="run-1",
        )
        writer.scalars(
            5,
            {loss_tag("ar", "nats"): 3.5, "cost/train_flops": 1e12, "valid/nan_kept": float("nan")},
        )
        writer.scores(5, {"content_error": {"value": 0.25}, "bits_per_s": {"value": None}})
        writer.audio(tag, [wave, sine(220, **HALF_S)], RATE_HZ, [NOTE.markdown(), "second"], step=5)
        writer.picture(mel_tag(tag), png, step=5, description="a mel")
        writer.text("about/run", "**hello**")
    events = read(tmp_path)

    assert [(point.step, point.value) for point in events.Scalars("train/loss_ar_nats")] == [
        (5, 3.5)
    ]
    assert events.Scalars("score/content_error")[0].value == 0.25
    assert np.isnan(events.Scalars("valid/nan_kept")[0].value)
    assert "score/bits_per_s" not in events.Tags()["scalars"]

    pairs = np.array(
        events.Tensors("prompt03/samples")[0].tensor_proto.string_val, dtype=object
    ).reshape(2, 2)
    for (wav, label), written in zip(pairs, (wave, sine(220, **HALF_S))):
        heard, rate_hz = soundfile.read(io.BytesIO(wav), dtype="float32")
        assert (rate_hz, label) == (RATE_HZ, b"")
        # exactly as sampled: no gain per clip
        np.testing.assert_allclose(heard, written, atol=1 / 32768)
    description = events.SummaryMetadata("prompt03/samples").summary_description
    assert "- **network calls**: 128" in description and "- **guidance**: 2\\.0" in description

    width, height, stored = events.Tensors("prompt03/samples_mel")[0].tensor_proto.string_val
    assert (width, height, stored) == (b"640", b"320", png)
    assert events.Tensors("about/run")[0].tensor_proto.string_val == [b"**hello**"]

    content = events.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    row = hparams_metadata.parse_session_start_info_plugin_data(content)
    assert row.group_name == "run-1"
    assert set(row.hparams) == {"decoder.kind", "decoder.width", "ema", "grid"}
    assert (
        row.hparams["decoder.width"].number_value == 64
        and row.hparams["grid"].string_value == "[1, 2]"
    )


def test_loud_or_broken_samples_clip_instead_of_wrapping(tmp_path):
    wave = np.array([0.0, 1.5, -1.5, 0.5], np.float32)
    with RunWriter(tmp_path) as writer:
        writer.audio("prompt00/samples", [wave], RATE_HZ, [""])
    wav = read(tmp_path).Tensors("prompt00/samples")[0].tensor_proto.string_val[0]
    heard, _ = soundfile.read(io.BytesIO(wav), dtype="float32")
    np.testing.assert_allclose(heard, [0.0, 1.0, -1.0, 0.5], atol=2 / 32768)


def test_losses_of_two_families_never_share_a_tag(tmp_path):
    assert loss_tag("ar", ARConfig().loss_unit, "valid") == "valid/loss_ar_nats_per_code"
    kinds = [
        ARConfig(),
        MaskedConfig(),
        DiffusionConfig(),
        DiffusionConfig(predicts="clean"),
        LatentARConfig(),
    ]
    assert len({loss_tag(config.kind, config.loss_unit) for config in kinds}) == len(kinds)
    with RunWriter(tmp_path) as writer:
        with pytest.raises(GenlabError, match="share no chart"):
            writer.scalars(0, {"train/loss": 1.0})
        with pytest.raises(GenlabError, match="expected GROUP/NAME"):
            writer.scalars(0, {"speed": 1.0})
        with pytest.raises(GenlabError, match="one per clip"):
            writer.audio("prompt00/samples", [sine(440, **HALF_S)], RATE_HZ, [])
    with pytest.raises(GenlabError, match="audio kind"):
        prompt_tag("sample", 0)  # type: ignore[arg-type]


def test_the_names_of_a_training_step_get_the_tags_of_the_family(tmp_path):
    with RunWriter(tmp_path) as writer:
        TrainingLog(writer, "masked", "nats_per_hidden_code").scalars(
            2, {"loss": 4.0, "grad_norm": 1.0, "accuracy": 0.5, "steps_per_s": 9.0}
        )
    tags = {
        "train/loss_masked_nats_per_hidden_code",
        "train/grad_norm",
        "train/masked_accuracy",
        "cost/steps_per_s",
    }
    assert set(read(tmp_path).Tags()["scalars"]) == tags


def test_speed_is_told_in_seconds_of_audio_and_as_a_share_of_the_peak(tmp_path):
    with RunWriter(tmp_path) as writer:
        cost = StepCost(audio_s=4.0, flops=3e9, peak_flops_per_s=6e10)
        TrainingLog(writer, "ar", "nats_per_code", cost).scalars(2, {"steps_per_s": 5.0})
    events = read(tmp_path)
    told = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert told == pytest.approx(
        {"cost/steps_per_s": 5.0, "cost/audio_s_per_s": 20.0, "cost/mfu": 0.25}
    )


def test_the_peak_is_that_of_the_catalogue_or_measured(monkeypatch):
    assert 1e9 < measure_flops_per_s() < 1e14
    monkeypatch.setattr(
        jax, "devices", lambda: [SimpleNamespace(device_kind="TPU v5 lite", platform="tpu")] * 4
    )
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    find_peak_flops.cache_clear()
    assert find_peak_flops() == 4 * 197e12
    find_peak_flops.cache_clear()


def test_a_resumed_attempt_hides_the_steps_it_repeats(tmp_path):
    with RunWriter(tmp_path, attempt="a") as writer:
        for step in range(10):
            writer.scalars(step, {"train/grad_norm": 1.0})
    with RunWriter(tmp_path, resume_step=5, attempt="b") as writer:
        for step in range(6, 12):
            writer.scalars(step, {"train/grad_norm": 2.0})
    assert len(list(tmp_path.iterdir())) == 2  # written within one second, yet two files
    points = read(tmp_path).Scalars("train/grad_norm")
    assert [(point.step, point.value) for point in points] == [(s, 1.0) for s in range(6)] + [
        (s, 2.0) for s in range(6, 12)
    ]


def test_an_attempt_from_the_start_hides_all_of_the_one_before(tmp_path):
    for value in (1.0, 2.0):
        with RunWriter(tmp_path, resume_step=0) as writer:
            writer.scalars(0, {"train/grad_norm": value})
    assert [point.value for point in read(tmp_path).Scalars("train/grad_norm")] == [2.0]


def test_samples_written_twice_replace_each_other_and_keep_the_training_curve(tmp_path):
    with RunWriter(tmp_path, resume_step=0) as writer:
        writer.scalars(9, {"train/grad_norm": 1.0})
    for value in (0.5, 0.25):
        with RunWriter(tmp_path, attempt="samples") as writer:
            writer.scalars(0, {"score/content_error": value})
    events = read(tmp_path)
    assert [point.step for point in events.Scalars("train/grad_norm")] == [9]
    assert [point.value for point in events.Scalars("score/content_error")] == [0.25]


def test_flush_leaves_nothing_in_memory(tmp_path):
    writer = RunWriter(tmp_path)
    writer.scalars(1, {"train/grad_norm": 1.0})
    writer.flush()
    assert read(tmp_path).Scalars("train/grad_norm")[0].step == 1
    writer.close()
    writer.close()


def test_the_command_quotes_the_directory_and_shows_every_clip():
    command = tensorboard_command("runs/my run; rm x")
    assert (
        command.startswith("tensorboard --logdir 'runs/my run; rm x' ") and "audio=100" in command
    )


@pytest.fixture
def server(tmp_path):
    """Start TensorBoard on a free port over two arms with the same tags; yield a function that
    fetches from it.
    """
    for arm in ("ar", "masked"):
        with RunWriter(tmp_path / arm) as writer:
            writer.audio(
                prompt_tag("samples", 3), [sine(440, **HALF_S)], RATE_HZ, [NOTE.markdown()], step=5
            )
            writer.scalars(5, {loss_tag(arm, "nats"): 1.0, "score/content_error": 0.5})
            writer.hparams({"decoder": {"kind": arm}}, run_id=arm)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(tmp_path),
        "--port",
        str(port),
    ]
    options = ["--host", "127.0.0.1", "--samples_per_plugin=audio=100,images=100"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    base = f"http://127.0.0.1:{port}/"

    def fetch(path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            base + path, data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.read()

    try:
        yield fetch
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the data server is a child in the same group
        process.wait(timeout=10)


def test_a_live_server_returns_audio_descriptions_and_the_hparams_table(server):
    deadline_s, tags = time.monotonic() + 240, {}
    while time.monotonic() < deadline_s and len(tags) < 2:
        try:
            tags = json.loads(server("data/plugin/audio/tags"))
        except OSError:
            pass
        time.sleep(0.3)
    assert {arm: list(found) for arm, found in tags.items()} == {
        a: ["prompt03/samples"] for a in ("ar", "masked")
    }
    description = tags["ar"]["prompt03/samples"]["description"]
    assert "<strong>network calls</strong>: 128" in description
    assert "<script>" not in description and "set *the* &lt;script&gt;" in description

    query = urllib.parse.urlencode({"run": "masked", "tag": "prompt03/samples", "sample": 0})
    (clip,) = json.loads(server(f"data/plugin/audio/audio?{query}"))
    assert clip["step"] == 5
    heard, _ = soundfile.read(
        io.BytesIO(server(f"data/plugin/audio/individualAudio?{clip['query']}")), dtype="float32"
    )
    np.testing.assert_allclose(heard, sine(440, **HALF_S), atol=1 / 32768)

    table = json.loads(server("data/plugin/hparams/experiment", {"experimentName": "any"}))
    assert [(column["name"], column["differs"]) for column in table["hparamInfos"]] == [
        ("decoder.kind", True)
    ]
    assert "score/content_error" in {metric["name"]["tag"] for metric in table["metricInfos"]}


def test_the_layout_puts_each_quantity_of_every_arm_on_one_chart(tmp_path):
    with RunWriter(tmp_path) as writer:
        scores = {"score/kad": "KAD ↓ (MMD)", "score/kad_voice": "KAD of voices"}
        writer.layout({"Scores": scores, "Cost": {"cost/train_flops": "FLOPs"}})
        with pytest.raises(GenlabError, match="share no chart"):
            writer.layout({"Training": {"train/loss_ar_nats_per_code": "Loss"}})
    [event] = read(tmp_path).Tensors(layout_metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["Scores", "Cost"]
    # The page shows charts of intervals last to first: the deciding score has to come last.
    assert [chart.title for chart in layout.category[0].chart] == ["KAD of voices", "KAD ↓ (MMD)"]
    [scores, costs] = [
        [tuple(chart.margin.series) for chart in category.chart] for category in layout.category
    ]
    assert [(one.value, one.lower, one.upper) for series in scores for one in series] == [
        ("score/kad_voice", "interval/kad_voice_low", "interval/kad_voice_high"),
        ("score/kad", "interval/kad_low", "interval/kad_high"),
    ]
    assert [(one.value, one.lower, one.upper) for series in costs for one in series] == [
        ("cost/train_flops",) * 3
    ]


def test_no_arm_is_an_outlier_of_its_chart(tmp_path):
    # ten rows, of which one is far better and one far worse
    values = [0.01, 0.02, 0.02, *np.linspace(0.1, 0.9, 7)]
    for number, value in enumerate(values):
        with RunWriter(tmp_path / str(number)) as writer:
            for step in level_steps(40 * number, 400):
                writer.scores(
                    step, {"wer": {"value": value, "low": value - 0.01, "high": value + 0.01}}
                )
    events = [read(tmp_path / str(number)) for number in range(len(values))]
    tags = ("score/wer", "interval/wer_low", "interval/wer_high")
    points = [point.value for run in events for tag in tags for point in run.Scalars(tag)]
    values = np.float32(values)
    # what the page draws unless "ignore outliers" is switched off
    low, high = np.percentile(points, [5, 95])
    assert low <= values.min() and values.max() <= high
    assert [point.step for point in events[3].Scalars("score/wer")] == [120, 441]
    assert all(len(run.Scalars(tag)) == 2 for run in events for tag in tags)


def test_a_score_without_an_interval_is_its_own_two_ends(tmp_path):
    with RunWriter(tmp_path) as writer:
        writer.scores(
            3, {"mos": {"value": 2.5, "low": None, "high": None}, "gone": {"value": None}}
        )
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {"score/mos", "interval/mos_low", "interval/mos_high"}
    assert {events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]} == {2.5}


def test_players_of_a_prompt_stand_together_and_previews_apart():
    assert [prompt_tag(kind, 7) for kind in ("reference", "samples", "previews")] == [
        *("prompt07/reference", "prompt07/samples"),
        "validation07/preview",
    ]
    assert mel_tag("prompt07/samples") == "prompt07/samples_mel"


def test_the_hparams_table_names_the_scores_first_and_only_what_differs(tmp_path):
    rows = [
        {"family": "ar", "steps": 10, "width": 8, "note": "x", "peak_lr": 0.002},
        {"family": "masked", "steps": 30, "width": 8, "note": None, "peak_lr": 0.002},
    ]
    with RunWriter(tmp_path) as writer:
        writer.hparams_head(rows, ["score/wer", "cost/mfu"])
    content = read(tmp_path).SummaryMetadata(hparams_metadata.EXPERIMENT_TAG).plugin_data.content
    head = hparams_metadata.parse_experiment_plugin_data(content)
    assert [metric.name.tag for metric in head.metric_infos] == ["score/wer", "cost/mfu"]
    assert [(info.name, info.differs, info.type) for info in head.hparam_infos] == [
        ("family", True, api_pb2.DATA_TYPE_STRING),
        ("steps", True, api_pb2.DATA_TYPE_FLOAT64),
        ("note", True, api_pb2.DATA_TYPE_STRING),
        # What every table of runs must say, although all arms share it.
        ("peak_lr", False, api_pb2.DATA_TYPE_FLOAT64),
    ]
