"""The clock of a comparison: each second is counted once, also over commands that were killed."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from report_toys import make_ledger, make_results
from test_console import make_printable

from genlab.report.console import WIDTH, format_results
from genlab.report.page import render_page
from genlab.report.spent import describe_gates_cost, time_rows
from genlab.report.written import render_markdown
from genlab.run import clock
from genlab.run.bounds import LOOKUP, REGRESSION
from genlab.run.clock import Clock, done_before, stage

TRACE, LOWER, BUILD = (
    f"/jax/core/compile/{name}_duration"
    for name in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)


class Hands:
    """A clock that a test moves."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


def seconds_of(told: clock.TimeEntry) -> dict[str, float]:
    return {row["stage"]: row["seconds"] for row in told["stages"]}


def compare_once(hands: Hands, out: Path) -> clock.TimeEntry:
    """Spend 100 s as a comparison does, and return what the clock tells of them."""
    with Clock(out / clock.WALL, now=hands) as ours:
        ours.keep_in(out)
        with stage(clock.DATA, ""):
            hands.work(5)
        for part, seconds in (("ar/seed0", 20), ("ar/seed1", 10), ("masked/seed0", 15)):
            with stage(clock.TRAIN, part):
                hands.work(seconds)
        with stage(clock.BASELINE, f"{REGRESSION}/seed0"):
            hands.work(12)
        hands.work(1)  # between stages
        for name, seconds in (("ar", 8), (LOOKUP, 4)):
            with stage(clock.METRICS, name):
                hands.work(seconds)
                with stage(clock.CONTROLS):
                    hands.work(2)
                hands.work(1)
        with stage(clock.BARE, "ar"):
            hands.work(6)
        with stage(clock.TUNED, "ar"):
            hands.work(5)
        with stage(clock.AUDIT, ""):
            hands.work(3)
            with stage(clock.CONTROLS):  # those of the audit are its own
                hands.work(4)
        return ours.tell()


def test_every_second_is_counted_once_in_the_stage_that_it_was_in(hands: Hands, tmp_path: Path):
    told = compare_once(hands, tmp_path)
    assert seconds_of(told) == {
        "data and codec": 5,
        "compile": 0,
        "train ar": 30,
        "train masked": 15,
        "baselines: regression": 12,
        "energy, bare law": 6,
        "energy, own sampler": 5,
        "metrics of audio": 14,
        "controls": 4,
        "audit": 7,
        "other": 1,
    }
    assert told["whole_s"] == hands.now_s - 100 == 99
    # The regression, metrics of mean latents (5), the bare energy, both controls and the audit.
    assert told["gates_s"] == 12 + 5 + 6 + 4 + 7
    assert json.loads((tmp_path / clock.WALL).read_text())["wall_s"] == 99


def test_the_shares_add_up_to_one(hands: Hands, tmp_path: Path):
    told = compare_once(hands, tmp_path)
    shares = [row["seconds"] / told["whole_s"] for row in told["stages"]]
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    printed = [
        float(row[-1].removesuffix("%")) for row in time_rows({"arms": [], "time": told})[1:]
    ]
    assert printed == pytest.approx([100 * share for share in shares], abs=0.05)


def test_compilation_is_counted_apart_and_its_nested_parts_once(hands: Hands, tmp_path: Path):
    with Clock(tmp_path / "none", now=hands) as ours:
        with stage(clock.TRAIN, "ar/seed0"):
            hands.work(2)  # a function traced in another one
            ours.hear(TRACE, 2.0)
            hands.work(1)
            ours.hear(TRACE, 3.0)
            hands.work(4)
            ours.hear(LOWER, 4.0)
            ours.hear("/jax/some/other_duration", 9.0)
            hands.work(10)
        with stage(clock.BASELINE, f"{REGRESSION}/seed0"):
            hands.work(6)
            ours.hear(BUILD, 5.0)
        told = ours.tell()
    assert seconds_of(told) == {
        "compile": 12,
        "train ar": 10,
        "baselines: regression": 1,
        "other": 0,
    }
    assert told["gates_s"] == 6  # with what was compiled for it


def test_what_jax_tells_of_a_real_compilation_is_heard(tmp_path: Path):
    with Clock(tmp_path / "none") as ours:
        with stage(clock.SAMPLE, "ar/seed0"):
            jax.jit(lambda value: jnp.tanh(value) * 1.5).lower(jnp.ones(3)).compile()
        told = ours.tell()
    assert seconds_of(told)["compile"] > 0
    assert told["whole_s"] == pytest.approx(sum(seconds_of(told).values()))
    heard = seconds_of(told)["compile"]
    jax.jit(lambda value: jnp.tanh(value) * 2.5).lower(jnp.ones(3)).compile()
    assert seconds_of(ours.tell())["compile"] == heard, "after its end it hears nothing"


def test_a_resumed_command_keeps_the_seconds_of_the_one_before(hands: Hands, tmp_path: Path):
    first = compare_once(hands, tmp_path)
    with Clock(tmp_path / clock.WALL, now=hands) as ours:
        ours.keep_in(tmp_path)
        with stage(clock.TRAIN, "ar/seed0"):  # read back
            hands.work(0.5)
        # Its checkpoint says 45 s: a killed command, which kept nothing, made the other 25.
        done_before(clock.TRAIN, "ar/seed0", 45.5, compile_s=2)
        done_before(clock.TRAIN, "masked/seed0", 14.0, compile_s=1)  # all of it is known
        done_before(clock.METRICS, "ar")
        with stage(clock.REPORT, ""):
            hands.work(7)
        told = ours.tell()
    rows = {row["stage"]: row for row in told["stages"]}
    assert rows["train ar"]["seconds"] == 30 + 0.5 + 25 and rows["train ar"]["before_s"] == 55
    assert rows["compile"]["seconds"] == rows["compile"]["before_s"] == 2
    assert rows["metrics of audio"]["seconds"] == rows["metrics of audio"]["before_s"] == 14
    assert rows["report"]["seconds"] == 7 and rows["report"]["before_s"] == 0
    assert not any(row["unmeasured"] for row in told["stages"])
    assert told["whole_s"] == first["whole_s"] + 0.5 + 25 + 2 + 7
    again = Clock(tmp_path / clock.WALL, now=hands)
    assert again.tell()["whole_s"] == told["whole_s"], "kept after the last stage"


def test_work_that_nobody_measured_is_said_to_be_before_and_never_0_s(hands: Hands, tmp_path: Path):
    (tmp_path / clock.WALL).write_text('{"wall_s": 500.0}')  # of a version without stages
    for attempt in range(2):  # what is unknown stays unknown
        with Clock(tmp_path / clock.WALL, now=hands) as ours:
            ours.keep_in(tmp_path)
            for name in ("ar", LOOKUP):
                done_before(clock.METRICS, name)
            with stage(clock.SAMPLE, "ar/seed0"):
                hands.work(3)
            done_before(clock.SAMPLE, "ar/seed0")  # no: it was now
            told = ours.tell()
        rows = {row["stage"]: row for row in told["stages"]}
        assert rows["metrics of audio"]["unmeasured"] and not rows["sample"]["unmeasured"]
        assert rows["earlier, not by stage"]["seconds"] == 500
        assert told["whole_s"] == 500 + 3 * (attempt + 1)
        table = {row[0]: row[1:] for row in time_rows({"arms": [], "time": told})}
        assert table["metrics of audio"] == ["before", "", "0.0%"]
        assert "at least 0 s of 50" in describe_gates_cost({"arms": [], "time": told})


def test_a_damaged_file_is_said_and_counting_begins_anew(hands: Hands, tmp_path: Path, capsys):
    (tmp_path / clock.WALL).write_text('{"wall_s": "long"}')
    told = compare_once(hands, tmp_path)
    assert told["whole_s"] == 99 and "wall.json: damaged" in capsys.readouterr().err


def test_an_error_in_a_stage_leaves_its_seconds(hands: Hands, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), Clock(tmp_path / clock.WALL, now=hands) as ours:
        ours.keep_in(tmp_path)
        with stage(clock.TRAIN, "ar/seed0"):
            hands.work(9)
            raise KeyboardInterrupt
    assert seconds_of(Clock(tmp_path / clock.WALL, now=hands).tell())["train ar"] == 9


def test_without_a_clock_a_stage_is_nothing():
    with pytest.raises(ZeroDivisionError), stage(clock.TRAIN, "ar/seed0"):
        assert done_before(clock.SAMPLE, "ar/seed0") is None
        raise ZeroDivisionError  # what happens inside is neither timed nor swallowed


def test_terminal_page_and_markdown_show_the_table_and_old_results_show_none(
    hands: Hands, tmp_path: Path
):
    results = {**make_printable(arms=0), "time": compare_once(hands, tmp_path)}
    text = format_results(results, make_ledger())
    assert max(map(len, text.split("\n"))) <= WIDTH
    assert ["train", "masked", "15.0", "15.2%"] in [line.split() for line in text.split("\n")]
    assert "what the gates cost: 34 s of 99 s (34%)" in text
    page = render_page(results, make_ledger(), [])
    assert "<h3>Where the time went</h3>" in page.split('id="controls"')[0].split('id="ledger"')[1]
    assert '<th scope="row">train masked</th><td>15.0</td><td>15.2%</td>' in page
    assert "| train masked | 15.0 | 15.2% |" in render_markdown(results, make_ledger())
    old = make_results()
    assert "Where the time went" not in render_page(old, make_ledger(), [])
    assert time_rows(old) == [] and describe_gates_cost(old) == ""
    assert "gates cost" not in format_results(make_printable(arms=0), make_ledger())
