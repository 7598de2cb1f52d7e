"""Tiny folders of audio laid out like real corpora, and a comparison that takes seconds."""

import csv
from pathlib import Path

import numpy as np
import soundfile

from genlab.data.folder import Folder
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig

RATE_HZ = 16_000
CONDITION = ConditionConfig(layers=1)


def write_clip(path: Path, number: int, seconds: float = 0.8) -> None:
    """Write a buzz whose pitch glides, different for every number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    f0_hz = np.linspace(*rng.uniform(90, 220, 2), round(seconds * RATE_HZ))
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE_HZ
    wave = sum(np.sin(k * phase) / k for k in range(1, 12)) + 0.05 * rng.standard_normal(len(phase))
    soundfile.write(path, 0.1 * wave, RATE_HZ)


def write_corpus(folder: Path, rows: list[tuple[str, str, str]]) -> Folder:
    """Write one clip per row of speaker, text and split, and a manifest."""
    folder.mkdir(parents=True)
    with open(folder / "m.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "speaker", "text", "split"])
        for number, row in enumerate(rows):
            write_clip(folder / f"c{number}.wav", number, seconds=0.7 + 0.02 * (number % 5))
            table.writerow([f"c{number}.wav", *row])
    return Folder(path=str(folder), manifest="m.csv")


def make_small_comparison(
    corpus: Folder, *overrides: str, condition: ConditionConfig = CONDITION
) -> Comparison:
    """Return two arms of a few steps on this corpus."""
    config = Comparison(
        name="small",
        question="Does it reach an answer?",
        data=TokenData(corpus=corpus, num_frames=48),
        batch_size=2,
        backbone=BackboneConfig(width=16, layers=1, heads=2),
        condition=condition,
        budget=Budget(mode="iso_step", steps=3),
        arms={
            "masked": Arm(
                decoder=MaskedConfig(prefix_share=0.5), sampler=MaskedSampler(steps=(2, 1))
            ),
            "diffusion": Arm(
                decoder=DiffusionConfig(prefix_share=0.5), sampler=DiffusionSampler(steps=2)
            ),
        },
        num_prompts=4,
        baselines=("lookup", "uniform", "unigram", "bigram"),  # a regression takes a training
        evaluation=EvaluationConfig(
            dnsmos_clips=0, reference_clips=8, score_draws=2, energy_draws=2
        ),
    )
    return config.override(overrides)
