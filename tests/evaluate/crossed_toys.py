"""Drawn scores of seeds and prompts whose truth is known, for the tests of the statistics."""

import numpy as np

from genlab.evaluate.scores import clip_means

REPETITIONS = 1000
DESIGNS = [(3, 32), (5, 64)]
REGIMES = [(0.0, 1.0, 1.0), (0.1, 1.0, 1.0), (0.3, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 0.2), (0.3, 0.1, 1.0)]
REGIMES += [(2.0, 1.0, 1.0), (1.0, 0.1, 1.0)]
WIDE = (0.0, 0.1, 1.0)
"""Neither seeds nor prompts matter: 3 seeds cannot show it, so the interval is too long."""


def draw_prompts(rng, deviation, num_prompts):
    return deviation * rng.standard_normal((REPETITIONS, 1, num_prompts))


def draw_arm(rng, regime, prompts, num_seeds):
    seeds = regime[0] * rng.standard_normal((REPETITIONS, num_seeds, 1))
    rest = regime[2] * rng.standard_normal((REPETITIONS, num_seeds, prompts.shape[-1]))
    return seeds + prompts + rest


def make_row(rng, shifts, difficulty):
    runs, clusters = (tuple(axis.ravel().tolist()) for axis in np.indices((len(shifts), len(difficulty))))
    values = (np.array(shifts)[:, None] + difficulty[None, :]).ravel() + rng.normal(0, 0.1, len(runs))
    return {"dnsmos_ovrl": clip_means(values, clusters)._replace(runs=runs)}
