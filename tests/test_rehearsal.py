"""A user's metrics and conditions are tried on real clips before anything is encoded or trained."""

from pathlib import Path

import pytest

from genlab import cli, runs

PAGE = """
from typing import ClassVar

import numpy as np
from comparison_toys import make_comparison

from genlab.config import Config
from genlab.decoders.parts import PlainPart, Projection
from genlab.evaluate.metric import Metric, each_clip


class Mine(Config):
    kind: ClassVar[str] = "mine"
    fault: str = ""

    def metrics(self):
        return [
            Metric(
                name="loudness",
                unit="of full scale",
                direction="lower",
                needs="audio",
                measure=each_clip("loudness", self.measure),
            )
        ]

    def measure(self, wave, prompt):
        if self.fault == "raises":
            return wave["left"]
        return {"nan": np.nan, "inf": np.inf, "shape": np.ones(2)}.get(self.fault, abs(wave).mean())


class Told(PlainPart):
    kind: ClassVar[str] = "told"
    shape: ClassVar[tuple[int, ...]] = (1,)
    name: str = "told"
    fault: str = ""

    def value(self, clip):
        if self.fault == "raises":
            return [clip.wave()[10**9]]
        return {"nan": [np.nan], "shape": [1, 2]}.get(self.fault, [abs(clip.wave()).mean()])

    def build(self, width, *, key):
        return Projection(1, width, key=key)


def config():
    small = ("data.corpus.minutes=0.3", "data.num_frames=160", "num_prompts=2")
    steps = ("budget.mode=iso_step", "budget.train_flops=null", "budget.steps=8")
    return make_comparison(*small, *steps)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Encoding(Exception):
    """The corpus would be encoded now."""


@pytest.fixture
def place(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user, in which a comparison stops where it would begin to cost."""

    def encode(*args: object) -> None:
        raise Encoding

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENLAB_CACHE", str(cache))
    monkeypatch.setattr(runs, "encode_corpus", encode)
    (tmp_path / "page.py").write_text(PAGE)
    return tmp_path


def asked(metric: str, condition: str) -> list[str]:
    return [
        f'metrics=[{{"kind": "page.py:Mine", "fault": "{metric}"}}]',
        f'condition.parts=[{{"kind": "page.py:Told", "fault": "{condition}"}}]',
    ]


@pytest.mark.parametrize(
    ("metric", "condition", "told"),
    [
        ("raises", "", "metrics.0 (Mine): page.py:29: IndexError"),
        ("nan", "", "metrics: loudness gives none of 2 real clips a number"),
        ("inf", "", "metrics: loudness gives none of 2 real clips a number"),
        ("shape", "", "loudness has values of shape (2, 2), expected one number for each of 2"),
        ("", "raises", ": page.py:41: IndexError"),
        ("", "nan", ": a value that is not finite, expected finite numbers"),
        ("", "shape", ": a value of shape (2,), expected (1,)"),
    ],
)
def test_a_class_that_fails_is_told_before_anything_is_encoded(
    metric, condition, told, place, capsys
):
    assert cli.main(["compare", "page.py", *asked(metric, condition), "--dry-run"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert told in line and ("condition 'told' of clip" in line) == bool(condition)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("compare",), asked("nan", "")),
        (("compare",), asked("", "nan")),
        (("tune",), asked("", "nan")),
        (("train", "--arm", "ar"), asked("", "nan")),
    ],
)
def test_every_command_that_trains_tries_them(words, parts, place, capsys):
    assert cli.main([words[0], "page.py", *parts, *words[1:]]) == 2
    assert "loudness gives none of" in (told := capsys.readouterr().err) or (
        "condition 'told' of clip" in told
    )
    assert not list(place.rglob("checkpoints"))


def test_classes_that_work_let_the_comparison_begin(place):
    with pytest.raises(Encoding):
        cli.main(["compare", "page.py", *asked("", "")])
