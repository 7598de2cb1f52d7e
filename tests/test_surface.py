"""The names a library may import: they are there, keep their signatures, and load nothing heavy
that they do not need.

What an import costs is counted in modules, not in seconds: the same on a busy machine. Signatures
are pinned in tests/goldens/surface.json, which `--update-goldens` rewrites.
"""

import doctest
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

import genlab

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "goldens" / "surface.json"

# Every supported name: where it is imported from, the module that this loads, and how many modules
# of genlab an import may load, itself and packages included.
LOADED = [
    ("genlab", "genlab.studies.finished", ["load_run"], 258),
    (
        "genlab.tokens",
        "genlab.tokens",
        [
            *("TokenSpec", "Tokens", "make_tokens", "Cond", "Prompt"),
            *("LossOut", "SampleOut", "ScoreOut", "Decoder"),
        ],
        8,
    ),
    ("genlab.decoders", "genlab.decoders.task", ["Task"], 53),
    ("genlab.decoders", "genlab.decoders.conditioning", ["ConditionConfig"], 51),
    ("genlab.decoders", "genlab.decoders.ar", ["ARConfig", "ARSampler"], 64),
    ("genlab.decoders", "genlab.decoders.masked", ["MaskedConfig", "MaskedSampler"], 62),
    ("genlab.decoders", "genlab.decoders.discrete", ["DiscreteConfig", "DiscreteSampler"], 65),
    ("genlab.decoders", "genlab.decoders.diffusion", ["DiffusionConfig", "DiffusionSampler"], 70),
    ("genlab.decoders", "genlab.decoders.latent_ar", ["LatentARConfig", "LatentARSampler"], 66),
    ("genlab.nets", "genlab.nets.backbone", ["BackboneConfig"], 34),
    ("genlab.nets", "genlab.nets.layer", ["Mixer"], 15),
    ("genlab.codecs", "genlab.codecs.frozen", ["load_codec", "FrozenCodec"], 56),
    ("genlab.codecs", "genlab.codecs.base", ["Codec"], 10),
    ("genlab.train", "genlab.train", ["train"], 85),
    ("genlab.training", "genlab.training.optim", ["OptimConfig"], 36),
    ("genlab.training", "genlab.training.settings", ["TrainSettings"], 15),
    ("genlab.data", "genlab.data.batches", ["BatchSource"], 11),
    ("genlab.data", "genlab.data.audio", ["as_wave"], 14),
    ("genlab.machine", "genlab.machine.sharding", ["ShardingConfig", "use_mesh"], 9),
    ("genlab.evaluate", "genlab.statistics.bootstrap", ["paired_difference"], 10),
    ("genlab.evaluate", "genlab.statistics.crossed", ["crossed_difference"], 11),
    ("genlab.evaluate", "genlab.evaluate.quality", ["Dnsmos"], 20),
    (
        "genlab.evaluate",
        "genlab.evaluate.distribution",
        ["SpeechEmbedder", "build_reference", "kernel_distance"],
        22,
    ),
    ("genlab.evaluate", "genlab.decoders.noise.heads", ["energy_score"], 60),
    ("genlab.watch", "genlab.watch.tensorboard", ["RunWriter"], 21),
]
SURFACE = {
    place: [name for other, _, names, _ in LOADED if other == place for name in names]
    for place in dict.fromkeys(place for place, *_ in LOADED)
}

# What is slow to import, and the modules that need it.
LOOPS = {"genlab.train", "genlab.data.batches", "genlab.studies.finished"}
ALL = {"genlab.studies.finished"}
HEAVY = {
    "grain": LOOPS,
    "orbax": LOOPS,  # grain loads it
    "tensorboard": {"genlab.train", "genlab.watch.tensorboard", *ALL},
    "onnxruntime": ALL,  # the networks open it when they are made
    "librosa": ALL,
    "numba": ALL,
    "pocketsphinx": set(),
    "transformers": set(),
    "torch": set(),
}
WITHOUT_FLAX = {
    "genlab.data.audio",
    "genlab.evaluate.distribution",
    "genlab.evaluate.quality",
    "genlab.statistics.bootstrap",
    "genlab.statistics.crossed",
    "genlab.watch.tensorboard",
}


def loaded_by(place: str, name: str) -> set[str]:
    """Return the modules that a fresh process holds after `from place import name`."""
    code = f"from {place} import {name}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(json.loads(done.stdout))


MODULES = [module for _, module, *_ in LOADED]


# Names of one module cost the same, so one of each is imported.
@pytest.mark.parametrize(("place", "module", "names", "budget"), LOADED, ids=MODULES)
def test_names_load_only_what_they_need(place, module, names, budget):
    loaded = loaded_by(place, names[0])
    assert not {top for top, needed in HEAVY.items() if module not in needed} & loaded
    assert module in loaded and ("flax" not in loaded or module not in WITHOUT_FLAX)
    ours = {found for found in loaded if found.split(".")[0] == "genlab"}
    assert len(ours) <= budget
    if place == "genlab.decoders":  # nothing of the lab but what is above it
        light = {f"genlab.data.{name}" for name in ("text", "valued", "words", "curves")}
        assert {found for found in ours if found.startswith("genlab.data.")} <= light
        above = {"config", "tokens", "machine", "run", "nets", "data", "decoders"}
        assert {found.split(".")[1] for found in ours if found != "genlab"} <= above


def shape_of(value: object) -> object:
    """Return what a caller relies on: parameters and defaults, fields, public methods."""
    if inspect.isclass(value) and issubclass(value, pydantic.BaseModel):
        return {
            "fields": sorted(value.model_fields),
            "methods": methods_of(value, pydantic.BaseModel),
        }
    if inspect.isclass(value) and hasattr(value, "_fields"):
        return {"fields": list(value._fields), "methods": methods_of(value, tuple)}
    if inspect.isclass(value):
        return {"call": parameters_of(value), "methods": methods_of(value, object)}
    return parameters_of(value)


def parameters_of(value: object) -> str:
    parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    return str(inspect.Signature(plain))


def methods_of(cls: type, base: type) -> dict[str, str]:
    names = [
        name for name in vars(cls) if not name.startswith("_") and callable(getattr(cls, name))
    ]
    return {
        name: parameters_of(getattr(cls, name)) for name in sorted(names) if not hasattr(base, name)
    }


def test_there_are_forty_names_and_two_that_they_need():
    names = [name for names in SURFACE.values() for name in names]
    assert len(set(names)) == len(names) == 42
    assert {"TrainSettings", "as_wave"} < set(names)


def test_the_modules_are_those_that_define_the_names():
    for place, module, names, _ in LOADED:
        package = importlib.import_module(place)
        assert {getattr(package, name).__module__ for name in names} == {module}


def test_every_name_is_there_and_keeps_its_signature(request):
    found = {
        f"{module}.{name}": shape_of(getattr(importlib.import_module(module), name))
        for module, names in SURFACE.items()
        for name in names
    }
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    if request.config.getoption("--update-goldens"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == json.loads(text)


@pytest.mark.parametrize("module", sorted(set(SURFACE) - {"genlab.tokens", "genlab.train"}))
def test_a_folder_lists_its_names_and_still_finds_its_modules(module):
    package = importlib.import_module(module)
    assert sorted(package.__all__) == sorted(SURFACE[module]) and set(package.__all__) <= set(
        dir(package)
    )
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        _ = package.nothing
    with pytest.raises(ImportError):
        exec(f"from {module} import nothing")
    exec("from genlab.decoders import masked; assert masked.Masked")


def modules_with_examples():
    """Modules whose source holds a prompt of Python, found without importing any."""
    root = Path(genlab.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            yield ".".join(("genlab", *path.relative_to(root).with_suffix("").parts)).removesuffix(
                ".__init__"
            )


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, name, module=module)
    runner = doctest.DocTestRunner()
    for each in tests:
        runner.run(each)
    # A prompt outside a docstring would be found here and run nowhere.
    written = Path(module.__file__).read_text(encoding="utf-8").count(">>> ")
    assert runner.tries == written > 0 and runner.failures == 0
