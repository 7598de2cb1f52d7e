"""The names a library may import: they are there, keep their signatures, and load nothing heavy
that they do not need.

What an import costs is counted in modules, not in seconds: the same on a busy machine. Signatures
are pinned in tests/goldens/surface.json, which `--update-goldens` writes anew.
"""

import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "goldens" / "surface.json"

SURFACE = {
    "genlab": ["load_run"],
    "genlab.tokens": [
        "TokenSpec",
        "Tokens",
        "make_tokens",
        "Cond",
        "Prompt",
        "LossOut",
        "SampleOut",
        "ScoreOut",
        "Decoder",
    ],
    "genlab.decoders": [
        "Task",
        "ARConfig",
        "ARSampler",
        "MaskedConfig",
        "MaskedSampler",
        "DiscreteConfig",
        "DiscreteSampler",
        "DiffusionConfig",
        "DiffusionSampler",
        "LatentARConfig",
        "LatentARSampler",
        "ConditionConfig",
    ],
    "genlab.nets": ["BackboneConfig", "Mixer"],
    "genlab.codecs": ["load_codec", "FrozenCodec", "Codec"],
    "genlab.train": ["train"],
    "genlab.training": ["OptimConfig", "TrainSettings"],
    "genlab.data": ["BatchSource", "as_wave"],
    "genlab.machine": ["ShardingConfig", "use_mesh"],
    "genlab.evaluate": [
        "paired_difference",
        "crossed_difference",
        "Dnsmos",
        "SpeechEmbedder",
        "build_reference",
        "kernel_distance",
        "energy_score",
    ],
    "genlab.watch": ["RunWriter"],
}

# What is slow to import, and the names that need it.
HEAVY = {
    "grain": {"train", "BatchSource", "load_run"},
    "orbax": {"train", "BatchSource", "load_run"},  # grain loads it
    "tensorboard": {"train", "RunWriter", "load_run"},
    "onnxruntime": {"load_run"},  # the networks open it when they are made
    "librosa": {"load_run"},
    "numba": {"load_run"},
    "pocketsphinx": set(),
    "transformers": set(),
    "torch": set(),
}


@functools.cache
def loaded_by(module: str, name: str) -> frozenset[str]:
    """Return the top-level modules that a fresh process holds after `from module import name`."""
    code = f"from {module} import {name}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return frozenset(json.loads(done.stdout))


# One process per module that is loaded, not per name: names of one module cost the same.
COSTS = [
    ("genlab.tokens", "Tokens"),
    ("genlab.decoders", "ARConfig"),
    ("genlab.decoders", "Task"),
    ("genlab.decoders", "DiffusionConfig"),
    ("genlab.codecs", "load_codec"),
    ("genlab.training", "OptimConfig"),
    ("genlab.data", "BatchSource"),
    ("genlab.data", "as_wave"),
    ("genlab.machine", "use_mesh"),
    ("genlab.evaluate", "paired_difference"),
    ("genlab.evaluate", "Dnsmos"),
    ("genlab.evaluate", "kernel_distance"),
    ("genlab.evaluate", "energy_score"),
    ("genlab.watch", "RunWriter"),
    ("genlab.train", "train"),
]


@pytest.mark.parametrize(("module", "name"), COSTS)
def test_a_name_loads_only_what_it_needs(module, name):
    loaded = loaded_by(module, name)
    assert not {top for top, needed in HEAVY.items() if name not in needed} & loaded
    if name in ("paired_difference", "Dnsmos", "as_wave", "RunWriter", "kernel_distance"):
        assert "flax" not in loaded
    if module == "genlab.decoders":  # nothing of the lab but what is above it
        ours = {found for found in loaded if found.startswith("genlab.")}
        assert {found for found in ours if found.startswith("genlab.data.")} <= {"genlab.data.text"}
        above = {"config", "tokens", "machine", "run", "nets", "data", "decoders"}
        assert {found.split(".")[1] for found in ours} <= above


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


def test_the_example_of_the_package_docstring_runs():
    import doctest

    import genlab

    found = doctest.DocTestFinder().find(genlab, "genlab", module=genlab)
    results = [doctest.DocTestRunner().run(example) for example in found]
    assert sum(each.attempted for each in results) == 2 and not sum(each.failed for each in results)
