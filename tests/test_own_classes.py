"""A decoder and a mixer in a file outside the package: named by config.json, hashed, refused,
checked, compared.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from comparison_toys import make_comparison
from sweep_toys import make_sweep

from genlab import cli
from genlab.config import Config, ConfigError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.experiment import Arm
from genlab.load import load_experiment
from genlab.nets.backbone import BackboneConfig
from genlab.nets.layer import PlainMixer
from genlab.run import trust
from genlab.run.files import write_config, write_json
from genlab.studies.contract import check_class
from genlab.studies.tuned import arm_key
from genlab.sweeps.executors import names_of
from genlab.sweeps.page import expand

DOCS = Path(__file__).parents[1] / "docs"
MIXER = "backbone.mixer.kind"
ONCE = {"decoder": {"kind": "mine.py:OnceConfig"}, "sampler": {"kind": "mine.py:OnceSampler"}}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user who wrote a decoder and a mixer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    shutil.copy(DOCS / "own_decoder.py", "mine.py")
    shutil.copy(DOCS / "own_mixer.py", "mixer.py")
    return tmp_path


def with_classes() -> object:
    return load_experiment(
        "mine.py", ("backbone.mixer.kind=mixer.py:ShortConvolution", "backbone.mixer.reach=5")
    )


def test_json_names_the_file_and_the_class_and_gives_the_same_config(place):
    config = with_classes()
    values = config.to_dict()
    assert {name: values["arms"]["once"][name] for name in ONCE} == ONCE
    assert values["backbone"]["mixer"] == {"kind": "mixer.py:ShortConvolution", "reach": 5}
    assert config.arms["once"].decoder.kind == "once" and config.backbone.mixer.reach == 5
    write_config(place / "run", values)
    assert set(json.loads((place / "run/code.json").read_text())) == {
        "mine.py:OnceConfig",
        "mine.py:OnceSampler",
        "mixer.py:ShortConvolution",
    }
    again = load_experiment(place / "run", trust_code=True)
    assert again == config and again.digest() == config.digest()


def test_the_hash_is_of_the_source_and_not_of_the_place(place):
    before = (
        with_classes().digest(),
        load_experiment("mixer.py").digest(),
        make_comparison().digest(),
    )
    (place / "elsewhere").mkdir()
    shutil.move("mixer.py", "elsewhere/mixer.py")
    assert load_experiment("elsewhere/mixer.py").digest() == before[1]
    key = arm_key(load_experiment("mine.py"), "once")
    with open("mine.py", "a") as file:
        file.write("# another decoder\n")
    shutil.move("elsewhere/mixer.py", "mixer.py")
    assert (
        with_classes().digest() != before[0] and arm_key(load_experiment("mine.py"), "once") != key
    )
    assert make_comparison().digest() == before[2]


def test_a_config_json_runs_no_class_by_itself(place):
    write_config(place / "run", with_classes().to_dict())
    with pytest.raises(
        ConfigError, match=r"mixer.kind='mixer.py:ShortConvolution' is a Python file.*--trust-code"
    ):
        load_experiment(place / "run")
    named = trust.texts_of(
        [f"any={json.dumps(text)}" for text in json.loads(Path("run/code.json").read_text())]
    )
    assert load_experiment(place / "run", named=named).backbone.mixer.reach == 5
    with open("mixer.py", "a") as file:
        file.write("raise SystemExit('must not run')\n")
    with pytest.raises(
        ConfigError, match=r"backbone.mixer.kind='mixer.py:ShortConvolution' has changed since"
    ):
        load_experiment(place / "run", trust_code=True)
    with pytest.raises(
        ConfigError, match=r"mixer: kind='gone.py:Pool' is code, and no class of that name"
    ):
        BackboneConfig.from_dict({"mixer": {"kind": "gone.py:Pool"}})


def test_a_class_in_a_module_is_named_by_it_and_needs_the_same_word(place, monkeypatch):
    (place / "my_package").mkdir()
    shutil.copy("mixer.py", "my_package/mixers.py")
    monkeypatch.syspath_prepend(place)
    override = "backbone.mixer.kind=my_package.mixers:ShortConvolution"
    config = load_experiment("mine.py", (override,))
    assert config.to_dict()["backbone"]["mixer"] == {
        "kind": "my_package.mixers:ShortConvolution",
        "reach": 3,
    }
    write_config(place / "run", config.to_dict())
    with pytest.raises(ConfigError, match=r"is a Python file|is code in a Python module"):
        load_experiment(place / "run", named=["mine.py:OnceConfig", "mine.py:OnceSampler"])
    assert load_experiment(place / "run", trust_code=True) == config
    monkeypatch.delitem(sys.modules, "my_package.mixers")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["backbone.mixer.kind=mixer.py:Nothing"],
            "expected a class Nothing derived from genlab.config.Config",
        ),
        (["backbone.mixer.kind=none.py:Pool"], "backbone.mixer.kind='none.py:Pool': no such file"),
        (["backbone.mixer.kind=no_such_module:Pool"], "No module named 'no_such_module'"),
        (["backbone.mixer.kind=mine.py:OnceConfig"], "OnceConfig lacks chooses, empty, flops"),
        (
            [f"{MIXER}=mixer.py:ShortConvolution", "backbone.mixer.reac=2"],
            "did you mean 'backbone.mixer.reach'",
        ),
        (["arms.once.sampler.kind=ar"], "sampler.kind='ar' cannot sample decoder.kind='once'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(overrides, told, place, capsys):
    assert cli.main(["budget", "mine.py", *overrides]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line and "valid array" not in line


class Keeps(ARConfig):
    """A subclass that would be saved as its parent."""

    extra: float = 0.0


class Renamed(ARConfig):
    """A subclass with a kind of its own."""

    kind: ClassVar[str] = "renamed"  # pyright: ignore
    extra: float = 0.0


def test_a_subclass_needs_a_kind_of_its_own():
    with pytest.raises(
        ValueError, match=r"Keeps has the kind 'ar' of ARConfig.*give it a kind of its own"
    ):
        Arm(decoder=Keeps(), sampler=ARSampler())

    class Inside(PlainMixer):
        kind: ClassVar[str] = "inside"

    with pytest.raises(ValueError, match=r"not at the top level of its file"):
        BackboneConfig(mixer=Inside())
    digests = {
        Arm(decoder=decoder, sampler=ARSampler()).digest()
        for decoder in (ARConfig(), *map(renamed, (0.0, 1.0)))
    }
    assert len(digests) == 3


def renamed(extra):
    return Renamed(extra=extra)


def test_a_sweep_varies_and_names_classes(place):
    points = tuple({MIXER: kind} for kind in ("attention", "mixer.py:ShortConvolution"))
    runs = expand(make_sweep(base=load_experiment("mine.py"), points=points, predictions=()))
    assert runs[0].id != runs[1].id
    assert names_of(runs[1])[0] == 'backbone.mixer.kind="mixer.py:ShortConvolution"'
    write_json(place / "run.json", runs[1].config.to_dict())
    assert load_experiment(place / "run.json", tuple(names_of(runs[1]))) == runs[1].config


BROKEN = """
import jax.numpy as jnp
from typing import ClassVar
from genlab.nets.layer import PlainMixer
from flax import nnx

class Looks(PlainMixer):
    kind: ClassVar[str] = "looks"
    def build(self, shape, *, key):
        return Reversed()
    def empty(self, shape, num_examples, num_slots):
        return jnp.zeros((num_examples, num_slots, shape.width))

class Reversed(nnx.Module):
    def __call__(self, x, context, cache=None):
        return x[:, ::-1] + x.mean(axis=0, keepdims=True), cache
"""


def test_the_check_names_what_is_broken(place, capsys):
    (place / "broken.py").write_text(BROKEN)
    assert cli.main(["check", "broken.py:Looks"]) == 1
    told = capsys.readouterr().out
    assert (
        "FAILED  batch mates and padding move nothing: another clip in the batch moves a frame"
        in told
    )
    assert "FAILED  the past does not see the future: frame [0] moves when frame 8 changes" in told
    assert (
        "FAILED  step by step is the same as at once" in told
        and "ok      frames keep their shape" in told
    )
    assert cli.main(["check", "broken.py:Reversed"]) == 2
    assert "expected a class Reversed derived from genlab.config.Config" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["own_decoder.py:OnceConfig", "own_mixer.py:ShortConvolution"])
def test_the_classes_of_the_documentation_keep_every_promise(name):
    findings = check_class(trust.load_class(str(DOCS / name)))
    assert [finding for finding in findings if finding.problem] == [] and len(findings) > 5


def test_own_arms_are_compared_gone_on_with_and_reported(place, monkeypatch, capsys):
    """One real comparison: the decoder of one file as an arm, on the mixer of another."""
    small = [
        "backbone.width=16",
        "backbone.layers=1",
        "num_prompts=2",
        "batch_size=4",
        "budget.steps=4",
        "evaluation.dnsmos_clips=0",
        "evaluation.reference_clips=6",
        "evaluation.energy_draws=0",
        "baselines=[]",
    ]
    words = [
        "compare",
        "mine.py",
        *small,
        "backbone.mixer.kind=mixer.py:ShortConvolution",
        "--out",
        "run",
    ]
    monkeypatch.setenv("GENLAB_CACHE", str(place / "cache"))
    assert cli.main(words) == 0
    results = json.loads(Path("run/results.json").read_text())
    once = next(arm for arm in results["arms"] if arm["name"] == "once")
    assert once["family"] == "once" and once["network_calls"] == 1 and once["train_flops"] > 0
    assert (
        once["scores"]["bits_per_s"]["validity"] == "exact"
        and 2500 < once["scores"]["bits_per_s"]["value"] < 4400
    )
    assert "once" in Path("run/report.html").read_text()
    assert cli.main(words) == 0  # finished: nothing is made again
    assert json.loads(Path("run/results.json").read_text()) == results
    capsys.readouterr()
    assert cli.main(["report", "run"]) == 2 and "--trust-code" in capsys.readouterr().err
    assert cli.main(["report", "run", "--trust-code"]) == 0
    assert isinstance(load_experiment("run", trust_code=True).arms["once"].decoder, Config)
