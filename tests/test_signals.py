"""SIGTERM in every stage of a comparison ends it with code 75, and the same command resumes."""

import json
import signal
import sys
from pathlib import Path

import pytest
from kill_points import Counter

from genlab.cli import main
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


def test_the_second_signal_acts_as_it_always_did_and_the_first_is_no_exception():
    with pytest.raises(Terminated), end_on_sigterm():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("code that skips damaged files would skip one here")
        finally:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
