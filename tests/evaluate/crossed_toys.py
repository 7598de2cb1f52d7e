"""Drawn scores of seeds and prompts whose truth is known, for the tests of the statistics.

`python tests/evaluate/crossed_toys.py` prints the coverage table of docs/measurement.md.
"""

import numpy as np

from genlab.evaluate.scores import clip_means
from genlab.statistics.crossed import crossed_difference, crossed_mean

REPETITIONS = 1000
DESIGNS = [(3, 32), (5, 64)]
REGIMES = [
    (0.0, 1.0, 1.0),
    (0.1, 1.0, 1.0),
    (0.3, 1.0, 1.0),
    (1.0, 1.0, 1.0),
    (1.0, 1.0, 0.2),
    (0.3, 0.1, 1.0),
]
REGIMES += [(2.0, 1.0, 1.0), (1.0, 0.1, 1.0)]
WIDE = (0.0, 0.1, 1.0)
"""Neither seeds nor prompts matter: 3 seeds cannot show it, so the interval is too long."""


def draw_prompts(rng, deviation, num_prompts, repetitions=REPETITIONS):
    return deviation * rng.standard_normal((repetitions, 1, num_prompts))


def draw_arm(rng, regime, prompts, num_seeds):
    seeds = regime[0] * rng.standard_normal((len(prompts), num_seeds, 1))
    rest = regime[2] * rng.standard_normal((len(prompts), num_seeds, prompts.shape[-1]))
    return seeds + prompts + rest


def draw_pair(regime, design, repetitions=REPETITIONS):
    """Two arms of one distribution on the same prompts."""
    rng = np.random.default_rng(1)
    prompts = draw_prompts(rng, regime[1], design[1], repetitions)
    return tuple(draw_arm(rng, regime, prompts, design[0]) for _ in range(2))


def covered(found, truth):
    """The share of intervals that hold the truth."""
    return float(np.mean(np.abs(found.value - truth) <= found.half_width))


def make_row(rng, shifts, difficulty):
    runs, clusters = (
        tuple(axis.ravel().tolist()) for axis in np.indices((len(shifts), len(difficulty)))
    )
    values = (np.array(shifts)[:, None] + difficulty[None, :]).ravel() + rng.normal(
        0, 0.1, len(runs)
    )
    return {"dnsmos_ovrl": clip_means(values, clusters)._replace(runs=runs)}


def main():
    for regime in [*REGIMES, WIDE]:
        cells = []
        for design in DESIGNS:
            a, b = draw_pair(regime, design, repetitions=10_000)
            found = crossed_mean(a), crossed_difference(a, b)
            cells.append(" / ".join(f"{100 * covered(one, 0.0):.1f}" for one in found))
        print(f"| {', '.join(f'{deviation:g}' for deviation in regime)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
