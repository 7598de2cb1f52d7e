"""A class of each kind, from a file outside genlab, in `tune`, `aot` and `sweep`: found, hashed by
its source, named again for other processes, and traced. What these commands then compute is tested
with built-in classes.
"""

import json
import shutil
from pathlib import Path

import jax
import pytest
from comparison_toys import make_comparison
from sweep_toys import make_sweep

from genlab.load import load_experiment
from genlab.run import trust
from genlab.run.files import write_config
from genlab.speed import aot
from genlab.studies import tune, tuned
from genlab.sweeps.executors import names_of
from genlab.sweeps.page import expand

DOCS = Path(__file__).parents[1] / "docs"
FEED_FORWARD = """
from typing import ClassVar

import jax
from flax import nnx

from genlab.config import Config
from genlab.nets.linear import Linear


class Squared(Config):
    kind: ClassVar[str] = "squared"
    factor: int = 2

    def build(self, shape, *, key):
        return SquaredRelu(shape, self.factor, key=key)

    def flops(self, shape, positions):
        return 4.0 * positions * self.factor * shape.width**2


class SquaredRelu(nnx.Module):
    def __init__(self, shape, factor, *, key):
        in_key, out_key = jax.random.split(key)
        inner = factor * shape.width
        self.project_in = Linear(shape.width, inner, key=in_key)
        self.project_out = Linear(inner, shape.width, key=out_key, scale=shape.output_scale)

    def __call__(self, x):
        return self.project_out(jax.nn.relu(self.project_in(x)) ** 2)
"""
# What the command line is given, and the names of code in it.
KINDS = {
    "decoder": (
        "arms.ar.decoder.kind=own_decoder.py:OnceConfig",
        "arms.ar.sampler.kind=own_decoder.py:OnceSampler",
    ),
    "mixer": ("backbone.mixer.kind=own_mixer.py:ShortConvolution",),
    "feed-forward": ("backbone.ffn.kind=own_ffn.py:Squared", "backbone.ffn.factor=3"),
    "corpus": ("data.corpus.kind=own_corpus.py:Vowels",),
    "codec": ("data.codec=own_codec.py",),
    "metric": ('metrics=[{"kind": "own_metric.py:Pauses"}]',),
    "condition": ('condition.parts=[{"kind": "own_condition.py:Loudness"}]',),
}
IN_ORDER = ((), ("arms.ar.decoder.infill_share=0",))
TRACED = ("decoder", "mixer", "feed-forward", "condition")
KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user who wrote a class of each kind."""
    monkeypatch.chdir(tmp_path)
    for kind in ("decoder", "mixer", "corpus", "codec", "metric", "condition"):
        shutil.copy(DOCS / f"own_{kind}.py", tmp_path)
    (tmp_path / "own_ffn.py").write_text(FEED_FORWARD)
    config = make_comparison("num_prompts=2").to_dict()
    config["arms"] = {"ar": config["arms"]["ar"]}
    (tmp_path / "base.json").write_text(json.dumps(config))
    return tmp_path


def own_file(kind: str) -> Path:
    return Path({"feed-forward": "own_ffn.py"}.get(kind, f"own_{kind}.py"))


@KIND
def test_a_sweep_varies_it_and_names_it_again(kind, place):
    """`sweep plan` writes config.json, and every process is told which code in it may run."""
    load_experiment("base.json", KINDS[kind])  # as the command line does
    base = load_experiment("base.json")
    point = {
        name: value if value[:1] not in "[{" else json.loads(value)
        for name, _, value in (item.partition("=") for item in KINDS[kind])
    }
    point = {name: int(value) if value == "3" else value for name, value in point.items()}
    plain, own = expand(make_sweep(base=base, points=({}, point), predictions=()))
    assert plain.id != own.id and names_of(plain) == []
    named = names_of(own)
    assert [item for item in named if own_file(kind).name in item]
    (place / "run.json").write_text(json.dumps(own.config.to_dict()))
    assert load_experiment("run.json", tuple(named)) == own.config
    with own_file(kind).open("a") as file:
        file.write("# changed\n")
    [changed] = expand(make_sweep(base=base, points=(point,), predictions=()))
    assert changed.id != own.id


@KIND
def test_a_tuning_is_of_the_source_that_it_was_begun_with(kind, place):
    config = load_experiment("base.json", KINDS[kind])
    short = tune.shorten(config, 0.25)
    before = tuned.arm_key(config, "ar")
    run = short.run("ar", short.seeds[0], steps=2)
    (place / "trial").mkdir()
    write_config(place / "trial", run.to_dict())
    assert load_experiment("trial", trust_code=True) == run
    with own_file(kind).open("a") as file:
        file.write("# changed\n")
    # A metric is no part of what an arm trains on, so its settings stay what they are.
    after = tuned.arm_key(load_experiment("base.json", KINDS[kind]), "ar")
    assert (after == before) == (kind == "metric")
    assert bool(trust.pins_of(run.to_dict())) == (kind != "metric")


@pytest.mark.parametrize("kind", TRACED)
def test_a_slice_is_planned_and_its_step_is_traced(kind, place, monkeypatch):
    monkeypatch.setattr(aot, "describe", lambda topology: jax.devices()[: topology.num_devices])
    # This mixer reads frames at fixed distances, so frames are not visited out of order.
    config = load_experiment("base.json", (*KINDS[kind], *IN_ORDER[kind == "mixer"]))
    [plan] = aot.plan_arms(config, "v5e:2x2").values()
    traced = aot.trace(plan, "train", 4)
    assert traced.params > 10_000
    # The formula is that of the program, but for the step of the optimizer.
    assert traced.executed_flops == pytest.approx(traced.model_flops, rel=0.05)
