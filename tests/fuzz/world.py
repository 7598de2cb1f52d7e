"""The tiny world that inputs are damaged copies of: own audio, its cache, a finished comparison,
weights, a sweep.

Made once, in a process of its own, in under a minute; workers only read it and copy from it.
"""

import dataclasses
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

ROOT_FOLDER = Path(__file__).parents[2]
CLIPS = 24
TEXTS = (
    "lift the red cup",
    "we sat on a wall",
    "no rain today",
    "blue birds sing",
    "take it away",
    "five old men",
)
SPEAKERS = ("ann", "bob")

PAGE = """
from tests.fuzz.world import make_comparison
from genlab.sweeps.page import Sweep


def sweep():
    return Sweep(
        name="tiny", question="Which?", fixed="all", varied="steps",
        base=make_comparison({audio!r}),
        points=({{"budget.steps": 2}}, {{"budget.steps": 3}}), names={{"budget.steps": "steps"}},
    )
"""


@dataclasses.dataclass(frozen=True)
class World:
    """Where everything of the world lies."""

    root: Path

    @property
    def audio(self) -> Path:
        """The user's recordings, and their table m.csv."""
        return self.root / "audio"

    @property
    def cache(self) -> Path:
        """Built corpus and token store."""
        return self.root / "cache"

    @property
    def run(self) -> Path:
        """A finished comparison of two arms."""
        return self.root / "run"

    @property
    def codec(self) -> Path:
        """Weights of a tiny exported codec."""
        return self.root / "weights" / "tiny.safetensors"

    @property
    def published(self) -> Path:
        """A tiny codec as others publish theirs: config.json and model.safetensors."""
        return self.root / "encodec"

    @property
    def page(self) -> Path:
        """The Python file of a sweep of two runs; its directory lies beside it."""
        return self.root / "sweep" / "page.py"

    @property
    def home(self) -> Path:
        """The current directory of every input: nothing may appear or change in it."""
        return self.root / "home"

    @property
    def watched(self) -> tuple[Path, ...]:
        """What no input may touch."""
        names = ("audio", "run", "weights", "encodec", "sweep", "home")
        return tuple(self.root / name for name in names)

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What inputs may rely on without opening anything."""
        return json.loads((self.root / "world.json").read_text())


def make_wave(number: int, num_samples: int) -> Any:
    """Return a tone with harmonics, another one for every number."""
    import numpy as np

    rng = np.random.default_rng(number)
    phase = 2 * np.pi * (90 + 7 * number) * np.arange(num_samples) / 16_000
    tone = sum(np.sin(n * phase) / n for n in range(1, 6))
    return (0.1 * tone + 0.01 * rng.standard_normal(num_samples)).astype(np.float32)


def make_comparison(audio: str) -> Any:
    """Return a comparison of two arms that trains for four steps."""
    from genlab.data.corpus import Folder
    from genlab.decoders.ar import ARConfig, ARSampler
    from genlab.decoders.conditioning import ConditionConfig
    from genlab.decoders.masked import MaskedConfig, MaskedSampler
    from genlab.evaluate.metrics import EvaluationConfig
    from genlab.experiment import Arm, Budget, Comparison, TokenData
    from genlab.nets.backbone import BackboneConfig
    from genlab.train import TrainSettings

    return Comparison(
        name="tiny",
        question="Which one?",
        num_prompts=2,
        batch_size=2,
        data=TokenData(corpus=Folder(path=audio, manifest="m.csv"), num_frames=48),
        backbone=BackboneConfig(width=16, layers=1, heads=2),
        condition=ConditionConfig(layers=1),
        budget=Budget(mode="iso_step", steps=4),
        arms={
            "ar": Arm(decoder=ARConfig(), sampler=ARSampler()),
            "masked": Arm(decoder=MaskedConfig(), sampler=MaskedSampler(steps=(2, 1))),
        },
        baselines=("lookup", "bigram"),
        evaluation=EvaluationConfig(dnsmos_clips=1, reference_clips=8),
        settings=TrainSettings(log_every=2, save_every_steps=2),
    )


def write_audio(folder: Path) -> None:
    """Write the recordings and their table."""
    import soundfile

    folder.mkdir(parents=True)
    rows = ["path,text,speaker,split"]
    for number in range(CLIPS):
        soundfile.write(
            folder / f"c{number:02}.wav", make_wave(number, 6000 + 200 * number), 16_000
        )
        text = TEXTS[number % 3 if number < 6 else 3 + number % 3]
        split = "test" if number < 4 else "valid" if number < 6 else "train"
        rows.append(f"c{number:02}.wav,{text},{SPEAKERS[number % 2]},{split}")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")


def make_world(root: Path) -> World:
    """Return the world in `root`, making it first; a world cut short is made again."""
    world = World(root)
    if (root / "world.json").exists():
        return world
    shutil.rmtree(root, ignore_errors=True)
    write_audio(world.audio)
    world.home.mkdir()
    (world.home / "diary.txt").write_text("mine\n")
    os.environ["GENLAB_CACHE"] = str(world.cache)
    os.chdir(root)
    _make_run(world)
    _make_weights(world)
    _make_published(world)
    _make_sweep(world)
    found = {
        "tokens": next(world.cache.glob("tokens-*")).name,
        "corpus": next(world.cache.glob("folder-*")).name,
    }
    (root / "world.json").write_text(json.dumps(found))
    return world


def score_quickly() -> None:
    """Replace what takes long in a comparison and leaves nothing of its own on the disk."""
    import numpy as np

    from genlab import sample
    from genlab import score as scoring
    from genlab.evaluate.controls import Control
    from genlab.evaluate.metrics import RowResult
    from genlab.evaluate.scores import clip_means
    from genlab.evaluate.table import make_score

    def score(waves: Any, prompts: Any, context: Any, **more: Any) -> RowResult:
        seeds, loudness = (
            more.get("seeds", 1),
            np.array([float(np.abs(wave).mean()) for wave in waves]),
        )
        clusters, runs = (
            tuple(range(len(waves))),
            tuple(np.repeat(range(seeds), len(waves) // seeds).tolist()),
        )
        names = ("wer_ctc", "speaker_similarity", "f0_correlation", "dnsmos_ovrl", "mcd")
        values = {
            name: clip_means(loudness + n / 10, clusters)._replace(runs=runs)
            for n, name in enumerate(names)
        }
        scores = {
            name: make_score(name, found.estimate(0), seeds=seeds) for name, found in values.items()
        }
        control = Control("prompt_swap", "wer_ctc", 0.5, 0.4, 0.6, True)
        return RowResult(scores, values, {"wer_ctc": ["some words"] * len(waves)}, (control,))

    for module, name, quick in (
        (scoring, "score_clips", score),
        (scoring, "evaluation_context", lambda *args: object()),
        (scoring, "_add_bits", lambda row, *args: row),
        (scoring, "add_energies", lambda row, *args: row),
        (sample, "measure_latency", lambda *args: (0.1, 0.1, 0.1)),
    ):
        assert hasattr(module, name), f"{module.__name__}.{name} has another name now"
        setattr(module, name, quick)


def _make_run(world: World) -> None:
    from genlab.compare import compare
    from genlab.watch.progress import Progress

    score_quickly()
    with Progress() as progress:
        compare(make_comparison(str(world.audio)), world.run, progress, "genlab compare tiny.py")


def _make_weights(world: World) -> None:
    from codec_toys import make_codec

    from genlab.codecs.frozen import export_codec

    export_codec(make_codec(), world.codec, {"training": {}})


def _make_published(world: World) -> None:
    from published_toys import make_random, write_published

    from genlab.codecs.encodec import EncodecConfig

    values = {
        "model_type": "encodec",
        "sampling_rate": 24_000,
        "audio_channels": 1,
        "num_filters": 4,
        "hidden_size": 8,
        "codebook_dim": 8,
        "codebook_size": 16,
        "upsampling_ratios": [3, 2],
        "normalize": False,
        "target_bandwidths": [16.0, 48.0],
    }
    config = EncodecConfig.from_published(values)
    write_published(world.published, make_random(config), config, values)


def _make_sweep(world: World) -> None:
    from genlab.sweeps.page import load_sweep
    from genlab.sweeps.runs import run_directory, write_page

    out = world.page.parent / "out"
    out.mkdir(parents=True)
    world.page.write_text(PAGE.format(audio=str(world.audio)))
    for run in write_page(load_sweep(world.page), out):
        directory = run_directory(out, run)
        directory.mkdir(parents=True)
        for name in ("results.json", "ledger.json", "report.html", "status.json"):
            shutil.copy(world.run / name, directory / name)
        (directory / "attempts.json").write_text(
            '[{"exit": 0, "seconds": 2.0, "reason": "", "ended": 1.0}]'
        )
