"""The hardware pack at toy size: every step asked, cut off, resumed, and wrong where it should be.

No time is asserted: tests run on busy machines.
"""

import json
import math
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_commands import QUICKLY

from genlab.cli import doctor
from genlab.config import GenlabError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.cost import sample_cost, train_flops
from genlab.machine.stopping import EXIT_FAILED, EXIT_OK, EXIT_RESUME
from genlab.speed.hardware import agreement, kernels, needs, pack, race, resume, worker
from genlab.speed.hardware.__main__ import main
from genlab.speed.hardware.families import (
    Family,
    SamplingProgram,
    TrainingProgram,
    main_families,
    other_families,
)
from genlab.speed.hardware.record import Record, read_content
from genlab.speed.hardware.report import REPORT, TITLE, format_report
from genlab.speed.hardware.size import FULL, GLANCE, TOY
from genlab.speed.hardware.step import Case, Skipped
from genlab.speed.hardware.steps import STEPS
from genlab.training.step import split_model

AR = Family("ar", ARConfig(), ARSampler())
# How far the plain products on this CPU may be from themselves, compiled in another way.
NEAR = 1e-5
KEY = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
MINUTES = 240.0  # more than any machine takes


def row(**values):
    return {"state": "measured", "seconds": 1.0, "row": values, "text": ""}


def test_every_step_answers_at_toy_size(tmp_path, monkeypatch):
    """A rehearsal on the CPU, in real processes, as on a machine with an accelerator."""
    for name, value in QUICKLY.items():
        monkeypatch.setenv(name, value)
    told = []
    assert pack.run_pack(tmp_path, GLANCE, MINUTES, told.append) == EXIT_OK, told
    content = read_content(tmp_path)
    assert content is not None and list(content["steps"]) == [step.name for step in STEPS]
    entries = {name: [*kept["cases"].values()] for name, kept in content["steps"].items()}
    states = {name: {entry["state"] for entry in found} for name, found in entries.items()}
    assert states.pop("torch") <= {"measured", "skipped"}  # torch is in no extra of the tests
    assert set().union(*states.values()) == {"measured"}
    [machine] = entries["machine"]
    assert machine["row"]["platform"] == "cpu" and machine["row"]["versions"]["jax"]
    [resumed] = entries["resume"]
    assert resumed["row"]["digest"] == resumed["row"]["digest_resumed"]
    report = (tmp_path / REPORT).read_text()
    assert report.startswith(TITLE) and "say nothing about any hardware" in report
    assert all(step.question in report for step in STEPS)
    # All is known: nothing is asked again.
    again = []
    assert pack.run_pack(tmp_path, GLANCE, MINUTES, again.append) == EXIT_OK
    assert [line for line in again if "measured" in line] == []


class Step:
    """A step whose cases are given."""

    share = 1.0
    environment = {}

    def __init__(self, name="made", **cases):
        self.name, self.question, self._cases = name, "Does it?", cases

    def cases(self, size):
        return [Case(name, measure) for name, measure in self._cases.items()]


def fail():
    raise ValueError("no such kernel")


def skip():
    raise Skipped("torch is not installed")


def test_a_case_that_raises_costs_no_other():
    said = []
    step = Step(bad=fail, absent=skip, good=lambda: {"seconds": 1.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "STEPS", (step,))
        order = worker.Order(step="made", size="toy", seconds=60, done=[], tried=["bad"])
        worker.work(order, said.append)
    assert said[0].names == ["bad", "absent", "good"]
    ended = {line.ended: line.entry for line in said if line.ended}
    assert list(ended) == ["absent", "good", "bad"]  # what failed before comes last
    assert (
        ended["bad"]["state"] == "failed" and "ValueError: no such kernel" in ended["bad"]["text"]
    )
    assert ended["absent"]["state"] == "skipped"
    assert ended["good"]["row"] == {"seconds": 1.0}


def test_no_case_begins_after_the_time_is_over():
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "STEPS", (Step(good=lambda: {}),))
        worker.work(
            worker.Order(step="made", size="toy", seconds=-1, done=[], tried=[]), said.append
        )
    assert [line.begun for line in said if line.begun] == []


def stand_in(tmp_path, *lines):
    """Return a process that prints these lines instead of a worker, then dies by a signal."""
    script = tmp_path / "stand_in.py"
    script.write_text(
        f"import os, signal\nprint({chr(10).join(lines)!r}, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGALRM)\n"
    )
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)


def test_a_step_that_is_cut_off_keeps_its_rows_and_is_asked_again(tmp_path, monkeypatch):
    import contextlib

    orders = []
    lines = (
        '{"names":["first","second","third"]}',
        '{"begun":"first"}',
        '{"ended":"first","entry":{"state":"measured","seconds":1,"row":{"x":2},"text":""}}',
        '{"begun":"second"}',
    )

    @contextlib.contextmanager
    def died(step, order):
        orders.append(order)
        process = stand_in(tmp_path, *lines)
        yield process
        process.stdout.close()

    monkeypatch.setattr(pack, "_worker", died)
    told = []
    assert pack.run_pack(tmp_path, TOY, 1.0, told.append, steps=(Step(),)) == EXIT_RESUME
    content = read_content(tmp_path)
    kept = content["steps"]["made"]
    assert kept["cases"]["first"]["row"] == {"x": 2}
    assert kept["cases"]["second"]["state"] == "cut off"
    assert kept["cases"]["second"]["text"] == "its time was over"
    assert kept["missing"] == ["third"]
    text = (tmp_path / REPORT).read_text()
    assert "second: cut off" in text and "not begun: third" in text
    pack.run_pack(tmp_path, TOY, 1.0, told.append, steps=(Step(),))
    assert orders[1].done == ["first"] and orders[1].tried == ["second"]


def test_a_row_outside_its_tolerance_ends_with_1(tmp_path):
    record = Record(tmp_path, "toy")
    record.begin("made", "Does it?", ["good", "bad"])
    record.put("made", "good", row(passed=True))
    record.put("made", "bad", row(passed=False))
    assert pack.run_pack(tmp_path, TOY, 1.0, print, steps=(Step(),)) == EXIT_FAILED
    assert "**bad is outside its tolerance.**" in (tmp_path / REPORT).read_text()


def test_rows_of_another_size_and_files_of_others_are_left_alone(tmp_path):
    Record(tmp_path, "toy").begin("made", "Does it?", ["good"])
    with pytest.raises(GenlabError, match=r"hardware.json: holds rows of size 'toy'.*--out"):
        pack.run_pack(tmp_path, FULL, 1.0, print)
    other = tmp_path / "other"
    other.mkdir()
    (other / REPORT).write_text("my notes")
    with pytest.raises(GenlabError, match=r"hardware\.md"):
        pack.run_pack(other, TOY, 1.0, print)
    assert (other / REPORT).read_text() == "my notes"
    (other / REPORT).unlink()
    theirs = {"format": "another", "size": "toy", "steps": {}}
    for text in ("{}", json.dumps(theirs)):
        (other / "hardware.json").write_text(text)
        with pytest.raises(GenlabError, match=r"hardware\.json: damaged"):
            pack.run_pack(other, TOY, 1.0, print)
        assert (other / "hardware.json").read_text() == text


def test_a_new_folder_with_too_little_time_for_a_step_has_a_report(tmp_path):
    assert pack.run_pack(tmp_path / "a/new", TOY, 0.05, print) == EXIT_RESUME
    assert (tmp_path / "a/new" / REPORT).read_text().startswith(TITLE)


def test_sizes_of_an_accelerator_are_refused_on_a_cpu(tmp_path):
    record = Record(tmp_path, "full")
    record.begin("machine", "Which?", ["versions and devices"])
    record.put("machine", "versions and devices", row(platform="cpu"))
    with pytest.raises(GenlabError, match=r"--size full: jax finds no accelerator.*--size toy"):
        pack._require_accelerator(record, FULL)
    pack._require_accelerator(record, TOY)
    record.put("machine", "versions and devices", row(platform="gpu"))
    pack._require_accelerator(record, FULL)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "0", "--out", "x"], "--minutes 0.0: expected above 0"),
        (["--minutes", "nan", "--out", "x"], "--minutes nan: expected above 0"),
        (["--minutes", "9"], "--out is missing"),
        (["--minutes", "9", "--out", ""], "--out is missing"),
        (["--size", "huge", "--out", "x"], "invalid choice: 'huge'"),
    ],
)
def test_wrong_words_are_refused_in_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    errors = capsys.readouterr().err
    assert ended.value.code == 2 and said in errors and errors.count("\n") == 1


@pytest.mark.parametrize("python", ["3.12; x", "3.١٢", "three", "3.12.1 ", "4.0"])
def test_a_version_of_python_is_a_version(python, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--wheels", "--python", python])
    said = capsys.readouterr()
    assert ended.value.code == 2 and "--python" in said.err and not said.out


def test_missing_packages_are_named_with_what_brings_them(monkeypatch, capsys):
    absent = needs.Need("no_such_package_at_all", "no-such-wheel")
    monkeypatch.setattr(needs, "CARRIED", (absent,))
    assert needs.find_missing() == [absent]
    with pytest.raises(SystemExit) as ended:
        main(["--out", "x"])
    assert ended.value.code == 2
    assert "missing packages: no-such-wheel; `python -m genlab" in capsys.readouterr().err
    assert main(["--wheels", "--python", "3.12"]) == 0
    printed = capsys.readouterr().out
    assert "--python-version 3.12" in printed and "no-such-wheel" in printed


def test_nothing_but_the_standard_library_is_needed_to_say_what_is_missing():
    """Else a machine without pydantic would print a traceback."""
    program = (
        "import sys; import genlab.speed.hardware.__main__; "
        "print(sorted({'pydantic', 'jax', 'numpy'} & {*sys.modules}))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "[]\n", ended.stderr


def test_what_the_pack_imports_is_carried_or_is_of_the_framework():
    """Each package that genlab's code imports directly, on the way to the steps."""
    program = (
        "import json, sys, genlab.speed.hardware.steps; "
        "print(json.dumps([*{name.split('.')[0] for name in sys.modules}]))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(json.loads(ended.stdout))
    known = {need.imports.split(".")[0] for need in (*needs.FRAMEWORK, *needs.CARRIED)}
    # What genlab depends on beside these may be missing on such a machine.
    others = {"beartype", "diffusers", "tensorboard", "onnxruntime", "jiwer", "hibari", "PIL"}
    assert {"jax", "flax", "optax", "pydantic", "librosa"} <= loaded & known
    assert not loaded & (others - known)


@pytest.mark.parametrize("rule", kernels.RULES, ids=lambda rule: rule.name)
def test_the_reference_of_attention_is_its_gradient(rule):
    """numpy's formulas against jax's own derivative of the definition, and one wrong pair shows."""
    keys = jax.random.split(jax.random.key(3), 4)
    queries, k, values, outer = (jax.random.normal(key, (2, 9, 2, 4)) for key in keys)
    is_valid = np.arange(9)[None, :] < np.array([9, 6])[:, None]
    pairs = rule.pairs(9)

    def plain(q, k, v):
        scores = jnp.einsum("bqac,bsac->baqs", q, k) / 2
        allowed = (pairs[None] & is_valid[:, None, :])[:, None]
        weights = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), -1)
        return jnp.einsum("baqs,bsac->bqac", weights, v)

    out, back = jax.vjp(plain, queries, k, values)
    expected = (out, *back(outer))
    found = kernels.reference(queries, k, values, outer, is_valid, pairs)
    assert kernels._distance(expected, found) < NEAR
    wrong = pairs.copy()
    wrong[4, 1] = not wrong[4, 1]
    moved = kernels.reference(queries, k, values, outer, is_valid, wrong)
    assert kernels._distance(expected, moved) > kernels.TOLERANCES["float32"]


def test_a_device_that_computes_otherwise_is_outside_the_tolerance():
    reference = agreement.loss_and_gradient(TOY, AR, "float32", "cpu")
    assert agreement.distances(reference, reference) == (0.0, 0.0)
    losses, gradient = reference
    # Every layer takes part: of a fresh model only the heads would, and any device would agree.
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    # Half a percent is nothing for bfloat16 and much for float32.
    moved = (losses * 1.005, jax.tree.map(lambda leaf: leaf * 1.005, gradient))
    loss, apart = agreement.distances(moved, reference)
    assert loss == pytest.approx(0.005, rel=1e-3) and apart == pytest.approx(0.005, rel=1e-3)
    allowed = agreement.TOLERANCES
    assert allowed["float32"].loss < loss < allowed["bfloat16"].loss
    assert allowed["float32"].gradient < apart < allowed["bfloat16"].gradient


def test_nothing_was_compared_where_all_derivatives_are_zero():
    nothing = (np.ones(2), {"weight": np.zeros(3)})
    assert math.isnan(agreement.distances(nothing, nothing)[1])


def test_the_steps_know_every_family():
    from typing import get_args

    from genlab.experiment import AnyDecoder

    kinds = {cls.model_fields["kind"].default for cls in get_args(AnyDecoder)[1].kinds}
    assert len(kinds) > 5
    families = [*main_families(TOY), *other_families()]
    assert {family.decoder.kind for family in families} == kinds
    assert all(type(family.sampler) is family.decoder.sampler for family in families)


def test_every_family_can_be_built_and_counted_at_every_size():
    """The sizes of an accelerator too, whose weights no test could hold."""
    for size in (FULL, TOY):
        for family in (*main_families(size), *other_families()):
            model = size.models[-1]
            task = size.task(model)
            build = partial(family.decoder.build, task)
            shapes = jax.eval_shape(lambda key, build=build: split_model(build(key=key))[1:], KEY)
            params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
            assert params > 10 * model.layers * model.width**2
            flops = train_flops(family.decoder, task)
            assert flops > 5 * size.frames * 10 * model.layers * model.width**2
            assert sample_cost(family.decoder, family.sampler, task).network_calls >= 1


def test_programs_count_what_they_compute():
    model = TOY.models[0]
    training = TrainingProgram(AR, TOY.task(model), model.clips)
    first = float(training.step())
    assert float(training.step()) < first  # it learns the one batch
    assert training.planned_bytes > 4 * training.params
    sampling = SamplingProgram(AR, TOY.task(model), 1)
    drawn = sampling.draw()
    assert drawn.codes.shape == (1, TOY.frames, TOY.codebooks)
    # The delay pattern: as many calls as frames and levels after the first.
    assert sampling.network_calls >= TOY.frames
    assert training.flops > 6 * model.clips * TOY.frames * model.layers * 12 * model.width**2 * 0.9


def test_sides_run_in_turn_and_the_ratio_is_theirs_over_ours(monkeypatch):
    now = [0.0]
    calls = []
    monkeypatch.setattr(race, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def side(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds

        return run

    found = race.interleave(side("ours", 1.0), side("torch", 3.0), lambda: None, 2)
    assert found["ratio"] == pytest.approx(3.0) and found["ours_s"] == pytest.approx(1.0)
    assert "".join(name[0] for name in calls[4:12]) == "oottttoo"


def test_a_training_that_ends_before_it_is_killed_proves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(resume, "_start", lambda *arguments: None)
    monkeypatch.setattr(resume, "_finish", lambda process: "same")
    for saved, passed in ((4, True), (TOY.training, False), (0, False)):
        monkeypatch.setattr(resume, "_kill_after_a_save", lambda *given, saved=saved: saved)
        assert resume._kill_and_resume(TOY, resume.FLAG)["passed"] is passed


def test_the_doctor_says_what_to_send_back_from_an_accelerator(monkeypatch):
    chip = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
    monkeypatch.setattr(doctor.jax, "devices", lambda: [chip])
    [told] = [text for sign, text in doctor._examine_devices() if "hardware.json" in text]
    assert "python -m genlab.speed.hardware --minutes 9" in told
    chip.platform = "cpu"
    assert not any("hardware.json" in text for _, text in doctor._examine_devices())


def test_a_report_holds_what_the_record_holds():
    content = {
        "format": "genlab hardware",
        "size": "full",
        "steps": {
            "made": {
                "question": "Does it?",
                "cases": {
                    "a": row(seconds=0.123456, passed=True, lines=["long"], why="x|y"),
                    "b": row(other=None),
                    "c": {"state": "failed", "seconds": 1, "row": {}, "text": "no\nkernel"},
                },
                "missing": [],
            }
        },
    }
    lines = format_report(content).splitlines()
    assert "| case | seconds | passed | why |" in lines and "| a | 0.1235 | yes | x/y |" in lines
    assert "| case | other |" in lines and "- c: failed, no kernel" in lines
    assert "rehearsal" not in "".join(lines)
