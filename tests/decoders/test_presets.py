"""The presets at toy size: each builds, trains and samples."""

from pathlib import Path

import jax
import numpy as np
import pytest
from decoder_toys import BACKBONE, SPEC, VOCAB, jitted_loss, toy_batch, train

from genlab.experiment import load_experiment

PRESETS = sorted((Path(__file__).parents[2] / "configs" / "presets").glob("*.py"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_trains_and_samples(path):
    experiment = load_experiment(path)
    [(name, arm)] = experiment.arms.items()
    assert name == experiment.name == path.stem
    tokens, cond = toy_batch()
    decoder = arm.decoder.build(SPEC, VOCAB, BACKBONE, experiment.condition, key=jax.random.key(0))
    decoder = train(decoder, (tokens, cond), steps=3)[0]
    decoder.eval()
    # Fresh heads are zero, so training starts at the entropy of a uniform code.
    assert (jitted_loss(decoder)(tokens, cond, jax.random.key(2)).per_example < np.log(SPEC.entries)).all()
    drawn = decoder.sample(cond, num_frames=tokens.num_frames, key=jax.random.key(1), sampler=arm.sampler).tokens
    assert drawn.codes.shape == tokens.codes.shape and len(np.unique(drawn.codes)) > 2
