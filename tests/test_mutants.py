"""The table of faults is true of the code as it is, and the kit tells a noticed fault from others.

Faults themselves are tried by hand or before a release: `python -m tests.mutants`.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the kit is the package tests.mutants

from tests.mutants.__main__ import choose
from tests.mutants.runner import KitError, Report, Trial, run_faults, wilson
from tests.mutants.table import ROOT, TableError, check_tests, parse, read_table

FAULTS = read_table()
# What decides what is printed as true has more faults than its share.
CLAIMS = {
    "genlab/report/ledger.py": 30,
    "genlab/sweeps/judge.py": 5,
    "genlab/fairness/verdict.py": 30,
    "genlab/report/answer.py": 5,
    "genlab/fairness/budget.py": 20,
    "genlab/nets/flops.py": 10,
    "genlab/run/checkpoint.py": 15,
    "genlab/data/batches.py": 8,
    "genlab/statistics/bootstrap.py": 12,
    "genlab/statistics/crossed.py": 15,
}


def test_every_fault_is_one_of_the_code_as_it_is():
    broken = []
    for fault in FAULTS:
        try:
            fault.apply((ROOT / fault.file).read_text(encoding="utf-8"))
        except (TableError, OSError) as error:
            broken.append(str(error))
    assert not broken, "\n".join(broken)
    check_tests(FAULTS)
    rows = [(fault.file, fault.scope, fault.old, fault.new) for fault in FAULTS]
    assert len(set(rows)) == len(rows)


def test_the_table_covers_every_package():
    assert len(FAULTS) >= 250
    packages = {
        path.name for path in (ROOT / "genlab").iterdir() if (path / "__init__.py").exists()
    }
    assert {fault.package for fault in FAULTS} == packages | {"hall"}
    for file, fewest in CLAIMS.items():
        assert sum(fault.file == file for fault in FAULTS) >= fewest, file
    # Faults that change nothing are the exception, and each says why.
    equivalent = [fault for fault in FAULTS if fault.equivalent]
    assert len(equivalent) < len(FAULTS) / 20
    assert all(len(fault.equivalent.split()) >= 5 for fault in equivalent)


def test_a_sample_is_drawn_by_its_seed_from_what_was_asked_for():
    one, again, other = (choose(FAULTS, [""], 40, seed) for seed in (0, 0, 1))
    assert one == again != other and len(set(one)) == 40
    assert not any(fault.equivalent for fault in one)
    assert {fault.package for fault in choose(FAULTS, ["data"], None, 0)} == {"data"}
    found = choose(FAULTS, ["fairness/verdict.py", "run"], None, 0)
    assert {fault.package for fault in found} == {"fairness", "run"}
    assert len({fault.file for fault in found if fault.package == "fairness"}) == 1


TABLE = """; a comment
# toy/sums.py: tests/test_sums.py
- return a + b
+ return a - b
@ scale
- return 2 * a
+ return 2 + a
@ Twice.scale_twice
- return 2 * a
+ return a
= it is never called with anything but zero
"""
SUMS = """def add(a, b):
    return a + b


def scale(a):
    return 2 * a


class Twice:
    def scale_twice(self, a):
        return 2 * a
"""


def test_a_row_names_one_part_of_one_line():
    add, scale, twice = parse(TABLE, "toy")
    assert add.apply(SUMS) == SUMS.replace("a + b", "a - b")
    assert scale.apply(SUMS) == SUMS.replace("2 * a", "2 + a", 1)
    assert twice.apply(SUMS).endswith("        return a\n") and twice.equivalent and not add.scope
    assert (twice.place, twice.tests, twice.package) == ("toy:10", ("tests/test_sums.py",), "hall")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# f.py: t.py\n- 2 * a\n+ 3", r"toy:3: '2 \* a' is 2 times in f\.py, expected once"),
        ("# f.py: t.py\n- a ** b\n+ 3", "is 0 times in f.py"),
        ("# f.py: t.py\n@ gone\n- a + b\n+ 3", "has 0 functions or classes 'gone'"),
        ("# f.py: t.py\n- a + b\n+ a +", "the fault is no Python"),
        ("# f.py: t.py\n- a + b", "toy: the last - line has no . line"),
        ("# f.py: t.py\n+ a", "toy:2: expected #, @, -, . or = in its turn"),
        ("# f.py", "toy:1: expected '# FILE: TESTS'"),
    ],
)
def test_a_row_that_is_no_longer_true_fails_loudly(text, told):
    with pytest.raises(TableError, match=told):
        for fault in parse(text, "toy"):
            fault.apply(SUMS)


def test_a_test_that_is_not_there_fails_loudly(tmp_path):
    (tmp_path / "t.py").write_text("def test_a():\n    pass\n")
    check_tests(parse("# f.py: t.py::test_a\n- a\n+ b", "toy"), tmp_path)
    with pytest.raises(TableError, match=r"toy:3: there is no test t\.py::test_b"):
        check_tests(parse("# f.py: t.py::test_b\n- a\n+ b", "toy"), tmp_path)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A project whose tests notice a wrong sum, and a wrong scale only if all are run."""
    # Plugins that toys do not need take a second each time.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist")
    root = tmp_path / "project"
    (root / "toy").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "toy/__init__.py").touch()
    (root / "toy/sums.py").write_text(SUMS)
    (root / "tests/test_sums.py").write_text(
        "from toy.sums import add\n\ndef test_add():\n    assert add(2, 3) == 5\n"
    )
    (root / "tests/test_wide.py").write_text(
        "import toy.sums\n\ndef test_scale():\n    assert toy.sums.scale(3) == 6\n"
    )
    return root


def test_faults_are_tried_against_their_own_tests_and_then_against_all_that_know_them(toy):
    faults = parse(TABLE, "toy")
    told = []
    wide = run_faults(faults, toy, workers=1, tell=told.append)
    assert [trial.outcome for trial in wide.trials] == ["noticed", "noticed", "survived"]
    assert [trial.by for trial in wide.trials] == [
        "tests/test_sums.py::test_add",
        "tests/test_wide.py::test_scale",
        "",
    ]
    assert told == wide.trials and (toy / "toy/sums.py").read_text() == SUMS
    narrow = run_faults(faults[1:2], toy, workers=1, is_wide=False)
    assert narrow.trials[0].outcome == "survived"
    assert "    - return 2 * a\n    + return 2 + a" in narrow.describe_survivors()


def test_tests_that_fail_without_a_fault_say_nothing(toy):
    (toy / "tests/test_sums.py").write_text("def test_add():\n    assert False\n")
    with pytest.raises(KitError, match="test_add fails without a fault, so it cannot notice toy:4"):
        run_faults(parse(TABLE, "toy")[:1], toy, workers=1)


def test_the_score_has_an_interval():
    """Wilson's, by hand: of 9 in 10 it is 0.596 to 0.982; of all and of none it is not a point."""
    assert wilson(9, 10) == pytest.approx((0.596, 0.982), abs=5e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.278), abs=5e-4)
    assert wilson(10, 10) == pytest.approx((0.722, 1.0), abs=5e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    fault = FAULTS[0]
    outcomes = ["noticed"] * 8 + ["survived", "undecided"]
    report = Report([Trial(fault, outcome, "", 1.0) for outcome in outcomes])
    last = report.table().splitlines()[-1].split()
    assert last[:6] == ["all", "10", "8", "1", "1", "80%"]
