"""The presets at toy size: each builds, trains and samples."""

from pathlib import Path

import jax
import numpy as np
import pytest
from decoder_toys import BACKBONE, SPEC, VOCAB, jitted_loss, toy_batch, train, view_of

from genlab.experiment import Comparison, load_experiment

PRESETS = sorted((Path(__file__).parents[2] / "configs" / "presets").glob("*.py"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_trains_and_samples(path):
    experiment = load_experiment(path)
    arms = experiment.arms if isinstance(experiment, Comparison) else {experiment.name: experiment.arm}
    [(name, arm)] = arms.items()
    assert name == experiment.name == path.stem
    tokens, cond = toy_batch()
    decoder = arm.decoder.build(SPEC, VOCAB, BACKBONE, experiment.condition, key=jax.random.key(0))
    decoder = train(decoder, (tokens, cond), steps=3)[0]
    decoder.eval()
    per_example = jitted_loss(decoder)(tokens, cond, jax.random.key(2)).per_example
    assert np.isfinite(per_example).all()
    if decoder.reads == "codes":  # fresh heads are zero, so training starts at the entropy of a uniform code
        plan = getattr(arm.decoder, "plan", None)
        of_plan = plan.weight * np.log(plan.num_units + 1) / SPEC.codebooks if plan else 0
        assert per_example.mean() < np.log(SPEC.entries) + of_plan
    out = decoder.sample(cond, num_frames=tokens.num_frames, key=jax.random.key(1), sampler=arm.sampler)
    drawn = view_of(decoder, out.tokens)
    assert drawn.shape == view_of(decoder, tokens).shape and len(np.unique(drawn)) > 2
    cost = arm.decoder.sample_cost(
        arm.sampler, SPEC, BACKBONE, experiment.condition, num_frames=tokens.num_frames.max().item(),
        num_symbols=cond.text.shape[1],
    )  # fmt: skip
    assert out.num_network_calls == cost.network_calls
