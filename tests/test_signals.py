"""SIGTERM in every stage of a comparison ends it with code 75, and the same command resumes."""

import io
import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kill_points import Counter

from genlab.cli import main, runs
from genlab.data import audio
from genlab.machine.stopping import EXIT_RESUME, Terminated, end_on_sigterm
from genlab.report import outputs

CONFIG = """
from comparison_toys import make_comparison


def config():
    small = ("batch_size=2", "num_prompts=2", "data.num_frames=96")
    quick = ("dnsmos_clips=0", "reference_clips=8", "score_draws=1", "energy_draws=0")
    toy = make_comparison(*small, *(f"evaluation.{change}" for change in quick))
    return toy.model_copy(update={"arms": {"masked": toy.arms["masked"]}})
"""
# The directory whose changes count, and the change before which the signal comes.
STAGES = {
    "encoding": ("cache", "code_vectors.npy"),
    "sampling": ("run", "samples.json"),
    "scoring": ("run", "rows/.masked.json"),
    "reporting": ("run", "outputs.partial/.report.md"),
}


def test_every_stage_ends_with_75_and_the_same_command_resumes(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.py").write_text(CONFIG)
    command = ["compare", str(tmp_path / "tiny.py"), "--out", str(tmp_path / "run")]
    for stage, (folder, change) in STAGES.items():
        sent = Counter(tmp_path / folder, change, signal.SIGTERM)
        sys.addaudithook(sent)
        assert main(command) == EXIT_RESUME, stage
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("genlab compare: stopped by SIGTERM; ")
        sent.stop()
        status = json.loads((tmp_path / "run/status.json").read_text())
        assert status["state"] == "interrupted" and not outputs.is_finished(tmp_path / "run")
        sampled = tmp_path / "run/arms/masked/seed0/samples.json"
        assert sampled.exists() == (stage in ("scoring", "reporting"))
    made_at = sampled.stat().st_mtime_ns
    assert main(command) == 0 and outputs.is_finished(tmp_path / "run")
    assert sampled.stat().st_mtime_ns == made_at, "what was made is not made again"
    assert not list((tmp_path / "run").rglob(".*.tmp"))


@pytest.mark.parametrize(
    ("argv", "resumes"),
    [
        (["train", "x.py"], True),
        (["data", "x.py"], True),
        (["compare", "x.py", "--dry-run"], False),
        (["check", "x.py:Y"], False),
        (["report", "runs/x"], False),
        (["listen", "runs/x"], False),
    ],
)
def test_only_what_resumes_says_so(argv, resumes, monkeypatch, capsys):
    def stops(error):
        def stop(arguments, command):
            raise error

        return stop

    for error, code in ((Terminated("SIGTERM"), EXIT_RESUME), (KeyboardInterrupt(), 130)):
        monkeypatch.setattr(runs, argv[0], stops(error))
        assert main(argv) == code
        line = capsys.readouterr().err.strip()
        assert line.endswith("the same command resumes") == resumes
        assert line.endswith("the same command starts from the beginning") != resumes


def test_the_second_signal_acts_as_it_always_did_and_the_first_is_no_exception():
    with pytest.raises(Terminated), end_on_sigterm():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("code that skips damaged files would skip one here")
        finally:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_inside_a_callback_of_a_library_ends_the_command(tmp_path, monkeypatch, capfd):
    class Loud(io.BytesIO):
        def write(self, data):
            signal.raise_signal(signal.SIGTERM)
            return super().write(data)

    monkeypatch.setattr(audio.io, "BytesIO", Loud)
    for write in (
        lambda: audio.write_flac(tmp_path / "a.flac", np.ones(400, np.int16)),
        lambda: audio.wav_bytes(np.ones(400, np.float32)),
    ):
        with pytest.raises(Terminated), end_on_sigterm():
            write()
    assert not list(tmp_path.iterdir()) and not capfd.readouterr().err


def test_a_signal_that_comes_where_nothing_can_be_raised_comes_again(capfd):
    class Last:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    hook = sys.unraisablehook
    with pytest.raises(Terminated), end_on_sigterm():
        Last()
        for _ in range(1000):
            time.sleep(0.01)
    assert not capfd.readouterr().err and sys.unraisablehook is hook


@pytest.mark.parametrize("kind", [".wav", ".flac", ".ogg", ".mp3"])
def test_audio_of_any_name_is_read_without_callbacks(tmp_path, kind):
    plain, odd = tmp_path / f"a{kind}", tmp_path / f"a\nb\udcff{kind}"
    wave = np.linspace(-9000, 9000, 8000).astype(np.int16)
    audio.write_audio(plain, wave, sample_rate_hz=16_000)
    odd.write_bytes(plain.read_bytes())
    np.testing.assert_array_equal(audio.read_wave(odd), audio.read_wave(plain))
