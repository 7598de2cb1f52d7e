"""Lab note: at which temperature, guidance and number of calls does each family speak best in the quick start?

Question   Which sampler should each arm of configs/quickstart.py declare?
Fixed      The trained decoders of one finished comparison, 32 prompts of the *validation* split, one seed, one codec.
Varied     Six settings per family, an equal number for each: two knobs that matter for it, guidance among them.
Predicted  Before the run: temperature below 1 helps both models of codes, because a few minutes of training leave the
           tails of their softmax untrained; guidance helps every family; more solver steps than 24 do not help.
Result     Temperature: as predicted, 1.0 -> 0.6 takes AR from 0.52 [0.44, 0.60] to 0.20 [0.13, 0.28] and 1.0 -> 0.3
           takes masked from 0.29 [0.19, 0.40] to 0.20 [0.12, 0.28]. Guidance: it helps at temperature 1 (AR 0.33,
           masked 0.20)
           and adds nothing once the temperature is low, which was not predicted; diffusion is at 0.06 [0.03, 0.11] in
           all six settings, 12 steps included. The quick start's settings were the best of six in an earlier run of
           the same sweep; here their rivals without guidance are as good, at half the calls.

    genlab compare configs/quickstart.py --out runs/first && python sweeps/sampling_settings.py runs/first
"""

import sys
from pathlib import Path

import jax

from genlab.codecs.frozen import load_codec
from genlab.evaluate.content import word_errors
from genlab.evaluate.scores import ClipValues
from genlab.experiment import load_experiment
from genlab.recognisers.shipped import load_recogniser
from genlab.report.text import format_interval
from genlab.sample import choose_prompts, compile_sampler, conditions, decode
from genlab.train import load_trained

SETTINGS = {
    "ar": (
        {"temperature": 1.0}, {"temperature": 0.8}, {"temperature": 0.6},
        {"temperature": 1.0, "guidance": 2.0}, {"temperature": 0.8, "guidance": 2.0},
        {"temperature": 0.6, "guidance": 1.5},
    ),
    "masked": (
        {"temperature": 1.0}, {"temperature": 0.6}, {"temperature": 0.3},
        {"temperature": 1.0, "guidance": 2.0}, {"temperature": 0.6, "guidance": 2.0},
        {"temperature": 0.3, "guidance": 1.5},
    ),
    "diffusion": (
        {"steps": 24}, {"steps": 12}, {"steps": 32},
        {"steps": 24, "guidance": 1.5}, {"steps": 24, "guidance": 2.0}, {"steps": 12, "guidance": 1.5},
    ),
}  # fmt: skip
NO_GUIDANCE = {"guidance": 1.0}


def main(run_dir: Path) -> None:
    """Print the word error of every setting."""
    config = load_experiment(run_dir)
    store, codec, recogniser = config.data.open(), load_codec(config.data.codec), load_recogniser()
    clips = choose_prompts(store, "valid", 32, config.data.num_frames)
    cond, num_frames = conditions(store, clips, config.data.num_frames)
    texts = [clip.text for clip in clips]
    for name, arm in config.arms.items():
        directory = run_dir / "arms" / name / f"seed{config.seeds[0]}"
        run = load_experiment(directory)
        model = load_trained(lambda key, run=run: run.build_for(store, key), directory)
        for setting in SETTINGS[arm.decoder.kind]:
            sampler = arm.sampler.model_copy(update=NO_GUIDANCE | setting)
            varied = run.model_copy(update={"arm": arm.model_copy(update={"sampler": sampler})})
            compiled, _ = compile_sampler(model, varied, cond, num_frames)
            waves = decode(compiled(cond, num_frames, jax.random.key(0)), store, codec)
            errors = ClipValues(*word_errors(recogniser.transcribe(waves), texts), tuple(texts))
            shown = ", ".join(f"{key} {value:g}" for key, value in setting.items())
            print(f"{name:<10} {shown:<32} word error {format_interval(errors.estimate()._asdict())}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
