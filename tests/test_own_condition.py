"""Named conditions: from a column or the audio into the batch, dropped, counted, checked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from comparison_toys import make_comparison

from genlab import cli
from genlab.config import ConfigError, GenlabError
from genlab.data.embedded import Embedded
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.parts import Label, Numbers
from genlab.experiment import Comparison, TokenData
from genlab.load import load_experiment
from genlab.prompts import cut_clip
from genlab.run import trust
from genlab.studies.contract import check_class
from genlab.studies.contract.condition import check_condition

DOCS = Path(__file__).parents[1] / "docs"
RATE = Label(name="rate", column="rate", names=("0.85", "1.0", "1.2"))
GAIN = Numbers(name="gain", columns=("gain", "rate"), route="adaln", mean=0.5, deviation=0.5)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def loudness():
    return trust.load_class(str(DOCS / "own_condition.py:Loudness"))()


@pytest.fixture(scope="module")
def store(cache, loudness):
    data = TokenData(corpus=Embedded(minutes=0.3), num_frames=32)
    return data.open(parts=(RATE, GAIN, loudness)), data.build_audio(), data


def test_no_parts_change_no_digest():
    assert ConditionConfig(layers=1).digest() == "4db08a7490"
    baselines = Comparison.model_fields["baselines"].default  # the toys make fewer
    whole = make_comparison().model_copy(update={"baselines": baselines})
    assert whole.digest() == "f4ca709b8b"
    assert ConditionConfig(layers=1, parts=(RATE,)).digest() != "4db08a7490"


def test_values_lie_beside_the_store_and_come_with_every_clip(store, loudness, tmp_path):
    tokens, manifest, data = store
    rows = {clip.id: clip for clip in manifest.clips}
    for number in (0, 3, tokens.num_clips - 1):
        clip = tokens.clip(number)
        labels, values = rows[clip.id].labels, {part.name: part.value for part in clip.parts}
        assert RATE.names[values["rate"]] == str(labels["rate"])
        wanted = [(labels["gain"] - 0.5) / 0.5, (labels["rate"] - 0.5) / 0.5]
        np.testing.assert_allclose(values["gain"], wanted, rtol=1e-6)
        assert values["loudness"].shape == (len(clip.units), 1) and values["loudness"].max() <= 1
        cond = tokens.example(clip, 32, 5)[1]
        assert cond.parts["loudness"].dtype == np.float32 and cond.parts["rate"].dtype == np.int32
        known = len(clip.units) - 5
        np.testing.assert_array_equal(
            cond.parts["loudness"][:known], values["loudness"][5:37][:known]
        )
        assert (cond.parts["loudness"][known:] == 0).all()
        short = {part.name: part.value for part in cut_clip(clip, 7).parts}
        assert short["loudness"].shape == (7, 1) and short["rate"] == values["rate"]
    # Found again, not computed again; another field is another set of values.
    places = [values.directory for values in tokens.part_values]
    assert [values.directory for values in data.open(parts=(RATE, GAIN, loudness)).part_values] == (
        places
    )
    quieter = loudness.override(["floor_db=-50.0"])
    assert data.open(parts=(quieter,)).part_values[0].directory not in places
    assert data.open().clip(0).parts == ()


def test_what_a_clip_does_not_have_is_told_in_one_line(store):
    data = store[2]
    few = Label(name="rate", column="rate", names=("1.0", "1.2"))
    with pytest.raises(GenlabError, match=r"condition 'rate' of clip .*rate=0.85: not in names"):
        data.open(parts=(few,))
    with pytest.raises(GenlabError, match=r"no column 'mood', expected one of speaker, text"):
        data.open(parts=(Label(name="mood", column="mood", names=("glad",)),))
    with pytest.raises(
        GenlabError, match=r"condition 'kind' of clip .*: \['digits'\]: expected a num"
    ):
        data.open(parts=(Numbers(name="kind", columns=("kind",)),))
    with pytest.raises(ValueError, match=r"the name 'speaker' is a condition of its own already"):
        ConditionConfig(parts=(RATE.override(["name=speaker"]),))
    with pytest.raises(ValueError, match=r"the name 'rate' is given twice"):
        ConditionConfig(parts=(RATE, RATE))


@pytest.mark.parametrize("part", [RATE, GAIN], ids=lambda part: part.kind)
def test_built_in_kinds_keep_every_promise(part):
    findings = check_condition(part)
    assert [finding for finding in findings if finding.problem] == [] and len(findings) == 7


def test_the_tutorial_keeps_every_promise():
    findings = check_class(trust.load_class(str(DOCS / "own_condition.py:Loudness")))
    assert [finding for finding in findings if finding.problem] == [] and len(findings) == 7


BROKEN = """
from typing import ClassVar
import jax, numpy as np
from flax import nnx
from genlab.decoders.parts import PlainPart, Projection

class Drawn(PlainPart):
    kind: ClassVar[str] = "drawn"
    shape: ClassVar[tuple] = (2,)
    name: str = "drawn"
    def value(self, clip):
        return np.random.rand(2)
    def build(self, width, *, key):
        return Mixing(width, key=key)
    def flops(self, width, num_frames):
        return 1e9

class Mixing(nnx.Module):
    def __init__(self, width, *, key):
        self.project = Projection(2, width, key=key)
    def __call__(self, value, is_valid):
        return self.project(value + value.mean(axis=0, keepdims=True), is_valid)
"""


def test_the_check_names_what_is_broken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text(BROKEN)
    assert cli.main(["check", "broken.py:Drawn"]) == 1
    told = capsys.readouterr().out
    assert "the value of a clip differs from call to call" in told
    assert "another clip moves the features" in told
    assert "FAILED  the FLOP formula is that of the program" in told
    assert "ok      what is dropped says nothing" in told


def test_families_on_a_condition_a_corpus_and_a_codec_of_ones_own(tmp_path, monkeypatch, capsys):
    """One real comparison: every part of the data comes from a file of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    for name in ("condition", "corpus", "codec"):
        shutil.copy(DOCS / f"own_{name}.py", f"{name}.py")
    Path("codec.py").write_text(Path("codec.py").read_text().replace("minutes=1.0", "minutes=0.2"))
    gain = {"kind": "numbers", "name": "gain", "columns": ["gain"]}
    parts = [{"kind": "condition.py:Loudness"}, gain]
    own = [
        "data.corpus.kind=corpus.py:Vowels", "data.corpus.clips=60", "data.num_frames=64",
        "data.codec=codec.py", f"condition.parts={json.dumps(parts)}", "condition.dropout=0.2",
        "arms.masked.sampler.guidance=2.0",
    ]  # fmt: skip
    small = [
        "backbone.width=16", "backbone.layers=1", "num_prompts=2", "batch_size=4", "budget.steps=3",
        "evaluation.dnsmos_clips=0", "evaluation.reference_clips=6", "evaluation.energy_draws=0",
        'baselines=["lookup"]',
    ]  # fmt: skip
    words = ["compare", "condition.py", *own, *small, "--out", "run"]
    assert cli.main(words) == 0
    results = json.loads(Path("run/results.json").read_text())
    flops = {arm["name"]: arm.get("train_flops") for arm in results["arms"]}
    assert all(flops[name] > 0 for name in ("ar", "masked", "diffusion"))
    assert len(list((tmp_path / "cache").glob("told-*"))) == 2
    pins = json.loads(Path("run/code.json").read_text())
    assert set(pins) == {"corpus.py:Vowels", "codec.py", "condition.py:Loudness"}
    again = load_experiment("run", trust_code=True)
    assert [part.name for part in again.condition.parts] == ["loudness", "gain"]
    assert cli.main(words) == 0  # finished: nothing is made again
    assert json.loads(Path("run/results.json").read_text()) == results
    arm = str(next(Path("run").glob("arms/ar/seed0")))
    assert cli.main(["sample", arm, "--trust-code", "--prompts", "2", "--out", "heard"]) == 0
    assert len(list(Path("heard").glob("*.flac"))) == 4
    with open("condition.py", "a") as file:
        file.write("# another one\n")
    with pytest.raises(ConfigError, match=r"condition.parts.0.kind=.*has changed since"):
        load_experiment("run", trust_code=True)
