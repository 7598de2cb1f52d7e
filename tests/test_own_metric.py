"""A metric in a file outside the package: a row of every output, hashed, resumed, scored again."""

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pydantic
import pytest
from comparison_toys import make_comparison
from sweep_toys import make_sweep

from genlab import cli
from genlab.config import Config, ConfigError, GenlabError
from genlab.data.audio import SPEECH_AUDIO
from genlab.evaluate.audit import audit_metrics
from genlab.evaluate.context import EvaluationConfig, EvaluationContext, Wanted
from genlab.evaluate.metric import Found, Metric, Work, each_clip
from genlab.evaluate.metrics import score_clips
from genlab.evaluate.own import own_rows
from genlab.evaluate.scores import clip_means
from genlab.load import load_experiment
from genlab.report.inputs import Audit
from genlab.report.trust import audit_table
from genlab.run import trust
from genlab.run.files import write_config
from genlab.studies.contract import check_class
from genlab.sweeps.page import Contrast

DOCS = Path(__file__).parents[1] / "docs"
PAUSES = {"kind": "mine.py:Pauses", "quiet_db": 40.0}
SMALL = [
    "backbone.width=16", "backbone.layers=1", "num_prompts=2", "batch_size=4", "budget.steps=4",
    "evaluation.dnsmos_clips=0", "evaluation.reference_clips=6", "evaluation.energy_draws=0",
    "baselines=[]",
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user who wrote a metric."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    shutil.copy(DOCS / "own_metric.py", "mine.py")
    return tmp_path


def append(text: str) -> None:
    with open("mine.py", "a") as file:
        file.write(text)


def test_a_metric_is_hashed_by_its_source_and_none_changes_no_hash(place):
    config = load_experiment("mine.py")
    assert config.to_dict()["metrics"] == [PAUSES]
    assert [metric.name for metric in config.all_metrics][-1] == "pause_error"
    without = config.override(["metrics=[]"])
    assert without.digest() == config.digest(exclude={"metrics"}) != config.digest()
    assert without.comparison_key() != config.comparison_key()
    assert make_comparison().to_dict()["metrics"] == []
    before = config.digest()
    append("# another metric\n")
    assert load_experiment("mine.py").digest() != before
    assert config.override(["metrics.0.quiet_db=30.0"]).metrics[0].quiet_db == 30.0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ('metrics=[{"kind": "mine.py:Pauses", "quiet_d": 3.0}]', "meant? 'metrics.0.quiet_db'"),
        ('metrics=[{"kind": "pauses"}]', "metrics.0: got {'kind': 'pauses'}, expected a Config"),
        ("metrics=[3]", "metrics.0: got 3, expected a Config of your own"),
        (f"metrics={json.dumps([PAUSES, PAUSES])}", "pause_error: another metric has this name"),
        ('equivalence={"pause_eror": 0.1}', "equivalence.pause_eror: no score of this name"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(override, told, place, capsys):
    assert cli.main(["budget", "mine.py", override]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told.replace("meant? ", "did you mean ") in line


class Chosen(Config):
    """A metric whose row the test chooses."""

    kind: ClassVar[str] = "chosen"
    row: ClassVar[object] = None

    def metrics(self):
        return [self.row]


def row_of(**facts: object) -> Metric:
    known = {"name": "loudness", "unit": "dB", "direction": "lower", "needs": "audio"}
    return Metric(**{**known, "measure": each_clip("loudness", loudness), **facts})  # type: ignore[arg-type]


def loudness(wave: np.ndarray, prompt: Wanted) -> float:
    return float(np.abs(wave).mean())


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (row_of(name="wer_mine"), "wer_mine: genlab has scores of this name"),
        (row_of(name="spread_of_pauses"), "spread_of_pauses: genlab has scores of this name"),
        (row_of(name="a b"), "name='a b': expected letters"),
        (row_of(title="LUFS"), "loudness: leave out title; reports show 'Loudness'"),
        (row_of(direction="up"), "loudness: direction='up', expected one of 'lower', 'higher'"),
        (row_of(range=(1.0, 0.0)), r"loudness: range=\(1.0, 0.0\), expected the lower end first"),
        (
            row_of(range=(0.0, None)),
            r"loudness: range=\(0.0, None\), expected two numbers; .* math.inf or -math.inf",
        ),
        (row_of(range=1.0), "loudness: range=1.0, expected two numbers"),
        (row_of(range=(0.0, "1")), r"loudness: range=\(0.0, '1'\), expected two numbers"),
        (row_of(range=(0.0, math.nan)), "loudness: range=.*nan.*, expected the lower end first"),
        (row_of(unit=3), "loudness: unit=3, expected text"),
        (row_of(needs="text"), "loudness: needs='text', expected one of 'audio', 'audio and text'"),
        (
            row_of(must_notice=("nois",)),
            "loudness: must_notice=.*, expected a tuple of one of 'noise'",
        ),
        (row_of(measure=3), "loudness: measure=3, expected a function of Clips"),
        (row_of(endings=(1,)), r"loudness: endings=\(1,\), expected a tuple of text"),
        (row_of(needs="tokens", measure=None), "loudness: needs='tokens'"),
        (3, "metrics.. returns 3, expected genlab.evaluate.metric.Metric"),
    ],
)
def test_what_cannot_be_a_row_is_refused(row, told, monkeypatch):
    monkeypatch.setattr(Chosen, "row", row)
    with pytest.raises(ValueError, match=rf"metrics\.0 \(Chosen\): {told}"):
        own_rows((Chosen(),))


def test_a_range_may_be_open_and_of_any_numbers(monkeypatch):
    for ends in ((0, math.inf), (-math.inf, 1), (np.float32(0.0), np.float32(1.0))):
        monkeypatch.setattr(Chosen, "row", row_of(range=ends))
        assert [row.range for row in own_rows((Chosen(),))] == [ends]


def test_check_tells_of_a_range_without_an_end_in_one_line(place, capsys):
    whole = Path("mine.py").read_text()
    Path("mine.py").write_text(whole.replace("range=(0.0, 1.0)", "range=(0.0, None)"))
    assert cli.main(["check", "mine.py:Pauses"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "pause_error: range=(0.0, None), expected two numbers" in line


def context() -> EvaluationContext:
    """Without networks: these metrics need none."""
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(EvaluationContext))
    told = {"config": EvaluationConfig(), "excused": {}, "audio": SPEECH_AUDIO}
    return EvaluationContext(**{**nothing, **told})  # type: ignore[arg-type]


def score(row: Metric, monkeypatch: pytest.MonkeyPatch, **more: object):
    monkeypatch.setattr(Chosen, "row", row)
    waves = [np.full(400, level, np.float32) for level in (0.1, 0.2, 0.3)]
    prompts = [Wanted(f"text {i}", "", "", wave) for i, wave in enumerate(waves)]
    return score_clips(waves, prompts, context(), metrics=own_rows((Chosen(),)), **more)  # type: ignore[arg-type]


def test_a_row_is_scored_with_its_interval_and_cut_at_its_range(monkeypatch):
    found = score(row_of(range=(0.15, 0.25)), monkeypatch).scores["loudness"]
    assert found.value == pytest.approx(0.2) and (found.low, found.high) == (0.15, 0.25)
    assert (found.n, found.unit, found.direction) == (3, "dB", "lower")


def test_code_that_fails_is_told_by_file_and_line(monkeypatch):
    def fails(wave, prompt):
        raise ZeroDivisionError("nothing to divide")

    line = fails.__code__.co_firstlineno + 1
    with pytest.raises(
        GenlabError, match=rf"metrics.0 \(Chosen\): .*{line}: ZeroDivisionError: no"
    ):
        score(row_of(measure=each_clip("loudness", fails)), monkeypatch)
    few = Work((), lambda _: Found({"loudness": clip_means(np.ones(2), ("a", "b"))}))
    with pytest.raises(
        GenlabError, match="loudness has 2 values, expected one for each of 3 clips"
    ):
        score(row_of(measure=lambda clips: few), monkeypatch)
    with pytest.raises(GenlabError, match="measures 'other', which is none of its rows, loudness"):
        score(row_of(measure=each_clip("other", loudness)), monkeypatch)


def test_a_sweep_may_predict_a_metric_of_its_base(place):
    base = load_experiment("mine.py")
    told = Contrast(
        text="pauses", score="pause_error", terms={"diffusion": 1.0, "masked": -1.0}, expect="below"
    )
    assert make_sweep(base=base, points=({},), predictions=(told,)).predictions == (told,)
    with pytest.raises(ValueError, match="score='pause_error': not compared prompt by prompt"):
        make_sweep(base=base.override(["metrics=[]"]), points=({},), predictions=(told,))


def test_a_config_json_runs_no_metric_by_itself(place):
    write_config(place / "run", load_experiment("mine.py").to_dict())
    with pytest.raises(ConfigError, match=r"metrics.0.kind='mine.py:Pauses' is a Python file"):
        load_experiment(place / "run")
    append("# improved\n")
    with pytest.raises(ConfigError, match=r"score again with it: genlab evaluate .*run metrics.0"):
        load_experiment(place / "run", trust_code=True)
    again = load_experiment(place / "run", ("metrics.0.kind=mine.py:Pauses",))
    assert again.metrics[0].quiet_db == 40.0


def test_a_metric_is_measured_reported_and_improved(place, monkeypatch, capsys):
    """One real comparison: its metric fails before the training, then after it; it is fixed, and is
    changed after the end.
    """
    monkeypatch.setenv("GENLAB_CACHE", str(place / "cache"))
    words = ["compare", "mine.py", *SMALL, 'equivalence={"pause_error": 0.5}', "--out", "run"]
    whole = Path("mine.py").read_text()
    Path("mine.py").write_text(whole.replace("return abs(", "return 1 / 0 * abs("))
    assert cli.main(words) == 2
    assert "metrics.0 (Pauses): mine.py:" in (told := capsys.readouterr().err)
    assert "ZeroDivisionError" in told and not Path("run/arms").exists()
    # On the clips that it is tried on this works, but not where a clip is the real one.
    late = "return 1 // int((wave != prompt.wave).any()) * abs("
    Path("mine.py").write_text(whole.replace("return abs(", late))
    assert cli.main(words) == 2 and "ZeroDivisionError" in capsys.readouterr().err
    Path("mine.py").write_text(whole)
    trained = {path: path.stat().st_mtime_ns for path in Path("run/arms").rglob("samples.json")}
    assert len(trained) == 2 and cli.main(words) == 0
    assert trained == {path: path.stat().st_mtime_ns for path in trained}
    assert "Pause error" in capsys.readouterr().out
    results = check_outputs()
    assert cli.main(words) == 0  # finished: nothing is made again
    assert json.loads(Path("run/results.json").read_text()) == results
    append("# improved\n")
    capsys.readouterr()
    assert cli.main(words) == 2 and "genlab evaluate run metrics.0.kind=" in capsys.readouterr().err
    assert (
        cli.main(["evaluate", "run", "metrics.0.kind=mine.py:Pauses", "metrics.0.quiet_db=9.0"])
        == 0
    )
    again = check_outputs()
    assert json.loads(Path("run/config.json").read_text())["metrics"][0]["quiet_db"] == 9.0
    before, after = (found["arms"][-1]["scores"] for found in (results, again))
    assert before["bits_per_s"] == after["bits_per_s"]
    assert before["pause_error"] != after["pause_error"]
    assert cli.main(["report", "run", "--trust-code"]) == 0


def check_outputs() -> dict:
    """Return results.json of run/ after a look at every place that shows scores."""
    results = json.loads(Path("run/results.json").read_text())
    fact = {"name": "pause_error", "unit": "share of frames", "needs": "audio and the real clip"}
    assert results["metrics"] == [{**fact, "provenance": ""}]
    for arm in results["arms"]:
        found = arm["scores"]["pause_error"]
        assert found["low"] <= found["value"] <= found["high"] and found["n"] == 2
        assert (found["unit"], found["direction"]) == ("share of frames", "lower")
        assert (found["value"] == 0) == (arm["family"] == "real")
    [pair] = [item for item in results["differences"] if item["score"] == "pause_error"]
    assert (pair["a"], pair["b"], pair["margin"]) == ("masked", "diffusion", 0.5)
    with open("run/scores.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["score"] == "pause_error"]
    assert [row["arm"] for row in rows] == [arm["name"] for arm in results["arms"]]
    assert "Pause error ↓ (share of frames)" in Path("run/report.md").read_text()
    page = Path("run/report.html").read_text()
    assert page.count("Pause error") > 2 and "audio and the real clip" in page
    assert set(json.loads(Path("run/code.json").read_text())) == {"mine.py:Pauses"}
    return results


BROKEN = """
import itertools
from typing import ClassVar
import numpy as np
from genlab.config import Config
from genlab.evaluate.metric import Found, Metric, Work
from genlab.evaluate.scores import clip_means

CALLS = itertools.count(2)

class Broken(Config):
    kind: ClassVar[str] = "broken"
    def metrics(self):
        facts = {"unit": "", "direction": "lower", "needs": "audio", "measure": self.measure}
        return [Metric(name="loud", range=(0.0, 1.0), **facts), Metric(name="absent", **facts)]
    def measure(self, clips):
        levels = [np.abs(wave).max() for wave in clips.waves]
        shares = next(CALLS) * np.array(levels) / (min(levels) or 1 / 0)
        return Work((), lambda _: Found({"loud": clip_means(shares, clips.clusters)}))
"""


def test_the_check_names_what_is_broken(place, capsys):
    Path("broken.py").write_text(BROKEN)
    assert cli.main(["check", "broken.py:Broken"]) == 1
    told = capsys.readouterr().out
    assert "ok      config.json gives it back" in told
    assert "FAILED  every row is measured: absent is a row, and nothing measures it" in told
    assert "FAILED  values lie in the stated range: loud is " in told
    assert "FAILED  the same clips have the same values: loud is " in told
    assert "FAILED  other clips, their order and threads move no clip's value: loud of" in told
    assert "a silent clip: metrics.0 (Broken): broken.py:" in told
    assert "4 of 6 promises broken" in told or "5 of 6 promises broken" in told


def test_the_metric_of_the_documentation_keeps_every_promise():
    findings = check_class(trust.load_class(str(DOCS / "own_metric.py:Pauses")))
    assert [finding for finding in findings if finding.problem] == [] and len(findings) == 6


def test_its_audit_says_what_it_must_notice_and_the_report_shows_it(monkeypatch):
    monkeypatch.setattr(Chosen, "row", row_of(must_notice=("noise", "reversal")))
    draw = np.random.default_rng(0)
    waves = [
        draw.uniform(0.1, 0.2) * draw.standard_normal(4000).astype(np.float32) for _ in range(8)
    ]
    prompts = [Wanted(f"text {i}", "", "", wave) for i, wave in enumerate(waves)]
    found = audit_metrics(prompts, context(), metrics=own_rows((Chosen(),)))["loudness"]
    # Noise at 0 dB is louder, which is worse here; reversal leaves the loudness as it is.
    assert found.verdicts["noise"] == "ranks" and found.failed == ("reversal",)
    assert found.must_notice == ("noise", "reversal")
    table = str(audit_table({"audit": {"loudness": found.to_dict()}}))
    assert "Loudness" in table and table.count("must</span>") == 2
    assert "loudness" in pydantic.TypeAdapter(Audit).validate_python({"loudness": found.to_dict()})
    unknown = {name: fact for name, fact in found.to_dict().items() if name != "must_notice"}
    with pytest.raises(pydantic.ValidationError, match="expected names of metrics, got 'loudness'"):
        pydantic.TypeAdapter(Audit).validate_python({"loudness": unknown})
