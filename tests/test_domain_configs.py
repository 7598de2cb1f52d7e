"""The comparisons of four domains: what they share, ask of the user, and withhold."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from genlab import cli
from genlab.load import call_page, load_experiment

CONFIGS = Path(__file__).parents[1] / "configs"
FOLDERS = {
    "real_speech": "SPEECH_COMMANDS_DIR",
    "real_orders": "ORDERS_DIR",
    "sounds_esc10": "ESC50_DIR",
}
UNITS = {"real_speech": "speaker", "real_orders": "text", "sounds_esc10": "clip"}
NAMES = (*FOLDERS, "music_chorales")
CLASSES = ("dog", "rain")
PAGE = CONFIGS.parent / "sweeps" / "withheld_words.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_comparison_is_the_square_with_the_rates_of_the_quick_start(name):
    config = load_experiment(CONFIGS / f"{name}.py")
    quick = load_experiment(CONFIGS / "quickstart.py")
    arms = {name: (arm.decoder, arm.peak_lr) for name, arm in config.arms.items()}
    assert arms == {
        "ar_codes": (quick.arms["ar"].decoder, None),
        "ar_latents": (quick.arms["latent_ar"].decoder, None),
        "masked_codes": (quick.arms["masked"].decoder, 2.1e-3),
        "diffusion_latents": (quick.arms["diffusion"].decoder, 6.6e-3),
    }
    # Autoregression over latents learns to continue by its own law, and has no share of it.
    shares = {getattr(arm.decoder, "prefix_share", 0.5) for arm in config.arms.values()}
    assert shares == {0.5} and config.optim.peak_lr == config.regression.peak_lr == 2e-3
    assert config.seeds == (0, 1, 2) and config.budget.train_flops == 3e12
    assert config.backbone.width == 128 and config.evaluation.token_prompts == 200
    assert config.evaluation.energy_draws == config.evaluation.audio_draws == 2
    assert config.baselines == quick.baselines and config.comparison_key()


@pytest.mark.parametrize("name", FOLDERS)
def test_the_audio_is_named_by_the_user(name, monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDERS[name], str(tmp_path))
    config = load_experiment(CONFIGS / f"{name}.py")
    assert config.data.corpus.path == str(tmp_path) and config.data.domain.unit == UNITS[name]


def test_what_is_told_and_heard_is_that_of_the_domain():
    music, sounds = (load_experiment(CONFIGS / f"{name}.py") for name in (NAMES[-1], NAMES[2]))
    for config in (music, sounds):
        assert (config.condition.content, config.condition.speaker) == ("none", True)
        assert not config.data.domain.has_units and config.data.domain.label == "class"
        assert config.data.corpus.audio_format == (16_000, 1)
    assert music.data.domain.unit == "piece" and sounds.data.corpus.esc10
    orders = load_experiment(CONFIGS / "real_orders.py")
    # No clip is longer than an example, so none is cut apart from its text.
    assert orders.data.corpus.max_clip_s * 50 == orders.data.num_frames
    assert (orders.condition.content, orders.condition.speaker) == ("text", False)
    assert orders.checkpoint.rule == "last"  # the table has no clips to look at


def test_a_word_is_withheld_of_people_who_are_heard_in_training():
    rows = [
        {"path": f"{person}{word}{take}", "text": word, "speaker": f"p{person:02d}", "split": "old"}
        for person in range(30)
        for word in ("bed", "cat", "happy")
        for take in range(1 + person % 2)
    ]
    held = call_page(PAGE, "hold_out_words", rows=rows)
    assert [row["path"] for row in held] == [row["path"] for row in rows]
    pairs = {split: set() for split in ("train", "valid", "test")}
    for row in held:
        pairs[row["split"]].add((row["speaker"], row["text"]))
    assert {split: len(found) for split, found in pairs.items()} == {
        "train": 72,
        "valid": 6,
        "test": 12,
    }
    assert not pairs["test"] & pairs["train"] and not pairs["valid"] & pairs["train"]
    assert {speaker for speaker, _ in pairs["train"]} == {row["speaker"] for row in rows}
    assert Counter(word for _, word in pairs["test"]) == {"bed": 4, "cat": 4, "happy": 4}


def test_a_dry_run_plans_sounds_with_a_condition_by_name(tmp_path, monkeypatch, capsys):
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    (tmp_path / "in" / "audio").mkdir(parents=True)
    (tmp_path / "in" / "meta").mkdir()
    for number in range(20):
        name = f"{number}.wav"
        tone = 0.3 * np.sin(np.arange(8000) * (0.05 + 0.01 * number))
        soundfile.write(tmp_path / "in" / "audio" / name, tone, 16_000)
        lines.append(f"{name},{number % 5 + 1},0,{CLASSES[number // 10]},True,{number},A")
    (tmp_path / "in" / "meta" / "esc50.csv").write_text("\n".join(lines))
    monkeypatch.setenv("ESC50_DIR", str(tmp_path / "in"))
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    chroma = '[{"kind": "curve", "name": "chroma", "measured": "chroma", "route": "cross"}]'
    page = str(CONFIGS / "sounds_esc10.py")
    assert cli.main(["compare", page, "--dry-run", f"condition.parts={chroma}"]) == 0
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "prompts: 4 of split 'test', 2 classes" in told
    assert "deciding score: block_energy" in told and "control class_swap: yes" in told
    assert "each with 3 training seeds" in told and "nothing was encoded or trained" in told
    for floor in ("lookup", "regression", "climatology", "regression_residuals"):
        assert floor in told.split("baselines: ")[1].split("prompts:")[0]
