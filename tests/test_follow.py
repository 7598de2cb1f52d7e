"""A service follows a training: it gets what TensorBoard gets, and its faults stop nothing."""

import sys
from types import ModuleType

import pytest

from genlab.config import ConfigError, GenlabError
from genlab.training.settings import TrainSettings
from genlab.watch.follow import followed


class Kept:
    def __init__(self):
        self.said = []

    def scalars(self, step, values):
        self.said.append((step, dict(values)))


@pytest.fixture
def service(monkeypatch):
    """A stand-in for the package of a service."""
    package = ModuleType("trackio")
    package.calls = []
    package.init = lambda **values: package.calls.append(("init", values))
    package.log = lambda values, step: package.calls.append(("log", step, values))
    package.finish = lambda: package.calls.append(("finish",))
    monkeypatch.setitem(sys.modules, "trackio", package)
    return package


def test_a_service_gets_what_tensorboard_gets(service):
    kept = Kept()
    with followed(kept, "trackio:speech", "first/ar/seed0", {"seed": 0}) as writer:
        writer.scalars(10, {"train/loss": 2.0})
    told = {"project": "speech", "name": "first/ar/seed0", "config": {"seed": 0}}
    assert service.calls == [
        ("init", {**told, "resume": "allow"}),
        ("log", 10, {"train/loss": 2.0}),
        ("finish",),
    ]
    assert kept.said == [(10, {"train/loss": 2.0})]


def test_a_service_that_fails_is_said_once_and_stops_nothing(service, capsys):
    def fail(values, step):
        raise ConnectionError("no route\nto host")

    service.log, kept = fail, Kept()
    with followed(kept, "trackio:speech", "x", {}) as writer:
        for step in (1, 2):
            writer.scalars(step, {"train/loss": 1.0})
    assert [step for step, _ in kept.said] == [1, 2]
    said = capsys.readouterr().err
    assert said.count("ConnectionError") == 1 and "training goes on without it" in said


def test_nothing_is_imported_where_nobody_follows(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    kept = Kept()
    with followed(kept, None, "x", {}) as writer:
        assert writer is kept
    missing = pytest.raises(GenlabError, match="trackio: is not installed; pip install trackio")
    with missing, followed(kept, "trackio:speech", "x", {}):
        pass


def test_a_service_that_refuses_to_begin_is_named(service):
    def fail(**values):
        raise ValueError("no such project")

    service.init = fail
    refused = pytest.raises(GenlabError, match=r"trackio:speech': ValueError: 'no such")
    with refused, followed(Kept(), "trackio:speech", "x", {}):
        pass


@pytest.mark.parametrize("text", ["trackio", "trackio:", "mlflow:speech", "", ":x"])
def test_what_names_no_service_is_refused(text):
    with pytest.raises((ConfigError, ValueError), match="expected SERVICE:PROJECT"):
        TrainSettings(follow=text)
