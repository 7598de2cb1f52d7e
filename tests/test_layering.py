"""The rules of the source, checked on the syntax trees: one import direction, short files and functions, banned names.

`ORDER` is the reading order of the library: a module imports only modules above it, lazily or not. A new module fails
here until it has a place.
"""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "genlab"

# The contract comes first: what a token is, and what a decoder promises. All that follows reads it.
ORDER = """
    genlab errors extras
    overrides config names stored trust onnx tokens weights decoders decoders.base host hosts sharding topologies hlo
    data data.text data.grammar data.container data.audio data.digests data.manifest data.shards data.shared
    data.embedded data.listing data.table data.folder data.layouts
    data.dialogue data.corpus data.waves data.batches data.store data.known_entropy
    nets nets.linear nets.dilated nets.attention nets.blocks nets.backbone nets.stable_audio nets.convolution
    nets.snake nets.recurrent
    codecs codecs.base codecs.published codecs.spectrogram codecs.losses codecs.discriminator codecs.quantiser
    codecs.seanet codecs.encodec codecs.speechtokenizer codecs.mimi_convolutions codecs.mimi_transformer codecs.mimi
    codecs.dac codecs.oobleck codecs.mulaw
    recognisers recognisers.augment recognisers.ctc recognisers.transcribe recognisers.units recognisers.shipped
    recognisers.export
    codecs.convnext codecs.distillation codecs.spectral codecs.frozen codecs.cache
    decoders.conditioning decoders.denoisers decoders.logits decoders.patterns decoders.schedules decoders.paths
    decoders.solvers
    decoders.visiting decoders.streams decoders.stepwise decoders.levels decoders.unmasking decoders.densities
    decoders.corruption decoders.code_given_latent decoders.ar decoders.depth decoders.masked decoders.diffusion_score
    decoders.diffusion decoders.scheduler_export decoders.discrete decoders.blockwise decoders.heads
    decoders.latent_ar decoders.mar decoders.latent_blocks
    flops optim stopping liveness profiling bucket checkpoint train_step train_settings train
    progress figures tensorboard curves
    evaluate evaluate.spectrum evaluate.statistics evaluate.crossed evaluate.power evaluate.crossover
    evaluate.sessions evaluate.scores evaluate.best_of evaluate.likelihood evaluate.content evaluate.pitch
    evaluate.speaker evaluate.quality evaluate.distribution evaluate.diversity evaluate.cepstrum evaluate.reconstruction
    evaluate.codec_score evaluate.whisper evaluate.speech_coders evaluate.codec_bench evaluate.phones
    evaluate.codec_probe evaluate.reference evaluate.comparisons evaluate.metrics evaluate.rows evaluate.audit
    experiment inputs changes prompts budget ledger sample previews evaluate.energy preflight aot
    report.inputs report.additions outputs report.text report.answer report.trust report.tables report.plot report.dots
    report.training report.fronts report.tuning report.listening report.crossings report.clips report.page report
    report.written report.console report.crossover results compare rescore pareto tune
    listen listen.key listen.stimuli listen.answers listen.ratings listen.page listen.table
    report.compiled doctor peers bench codec_commands
    sweeps sweeps.page sweeps.runs sweeps.executors sweeps.judge sweeps.figures sweeps.isoflop sweeps.notebook
    sweeps.command commands cli __main__
""".split()

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_TRAIN_LINES = 250
MAX_CONFIG_LINES = 40  # below the docstring, which is the lab note
# `mask` does not say what True means; public code disagrees on which of x0 and x1 is data.
BANNED_NAMES = {"mask", "x0", "x1"}
BANNED_FILES = {"utils", "common", "helpers", "misc"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "genlab"


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FOLDERS = ("genlab", "configs", "sweeps", "tests")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> set[str]:
    """Return the modules of the library that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import; name the module in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        # `from genlab import checkpoint` names a module, `from genlab.config import Config` a class inside one.
        inside = [name.removeprefix("genlab.") for name in names if name.split(".")[0] == "genlab"]
        found |= {name for name in inside if name in MODULES and (name != "genlab" or len(inside) == 1)}
    return found


def test_every_module_has_a_place_in_the_order():
    assert len(ORDER) == len(set(ORDER))
    assert sorted(ORDER) == sorted(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_upwards(name):
    place = {module: number for number, module in enumerate(ORDER)}
    wrong = [module for module in imported_modules(MODULES[name]) if place[module] >= place[name]]
    assert not wrong, f"{name} imports {wrong}, which come after it in the order"


def test_nothing_imports_configs_tests_or_sweeps():
    for path in MODULES.values():
        for node in ast.walk(parse(path)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {"configs", "sweeps", "tests"}, path


def test_files_are_short():
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count >= MAX_FILE_LINES} == {}
    assert lines["genlab/train.py"] < MAX_TRAIN_LINES
    notes = {path: parse(path).body[0].end_lineno for path in SOURCES if ROOT / "configs" in path.parents}
    code = {path.name: lines[str(path.relative_to(ROOT))] - note for path, note in notes.items()}
    assert {name: count for name, count in code.items() if count > MAX_CONFIG_LINES} == {}


def test_functions_are_short():
    functions = {
        f"{path.relative_to(ROOT)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: count for name, count in functions.items() if count >= MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_they_mean(path):
    assert path.stem not in BANNED_FILES
    found = []
    for node in ast.walk(parse(path)):
        # Only names that this file gives; keyword arguments of other libraries are theirs.
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append((node.id, node.lineno))
        elif isinstance(node, ast.arg):
            found.append((node.arg, node.lineno))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.append((node.attr, node.lineno))
    assert [item for item in found if item[0] in BANNED_NAMES] == []


def test_every_module_and_public_function_says_what_it_does():
    silent = []
    for name, path in MODULES.items():
        tree = parse(path)
        if tree.body and not ast.get_docstring(tree):
            silent.append(name)
        for node in tree.body:
            is_public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if is_public and not ast.get_docstring(node):
                silent.append(f"{name}.{node.name}")
    assert silent == []
