"""Tiny arms that draw many prompts, for tests of blocks, kills and memory; as a script it draws in
a process that may be killed: `python drawing_toys.py DIRECTORY PROMPTS [BLOCKS_BEFORE_THE_KILL]`.
"""

import os
import resource
import signal
import sys
from pathlib import Path
from tempfile import mkdtemp

import jax
import numpy as np
from comparison_toys import make_comparison

from genlab.data.drawn import BLOCK_PROMPTS, DrawnWaves
from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.experiment import TokenData
from genlab.machine.rows import ALONE
from genlab.sample import compile_sampler, conditions

SOURCE = KnownEntropy(
    states=4, codebooks=2, entries=8, latent_channels=3, noise=0.02, clips=16, clip_frames=16
)
RATE_HZ = 16_000
SAMPLES_PER_FRAME = 4000  # 4 s a clip: 256 kB, so that what is kept is seen


def make_run(name="ar"):
    """Return the training run of a tiny arm."""
    config = make_comparison("condition.content=none", "condition.speaker=false")
    data = TokenData(corpus=SOURCE, num_frames=16)
    return config.model_copy(update={"data": data}).run(name, 0, 2)


class Toy:
    """An arm with random weights, its store and prompts."""

    def __init__(self, folder: Path, prompts: int, name: str = "ar"):
        self.run = make_run(name)
        self.store = draw_store(SOURCE, folder)
        self.model = self.run.build_for(self.store, jax.random.key(0))
        self.clips = SOURCE.fresh_clips(prompts, 16)

    def tell(self, clips):
        """Return the conditions and frames of prompts."""
        return conditions(self.store, clips, 16)

    def compile(self, prompts: int, spread=ALONE):
        """Return the sampler for so many prompts."""
        cond, frames = self.tell(self.clips[:prompts])
        return compile_sampler(self.model, self.run, cond, frames, spread=spread)[0]

    def waves(self, directory: Path, seed: int = 0) -> DrawnWaves:
        """Return the waves of all prompts."""
        sampler = self.run.arm.sampler.to_dict()
        return DrawnWaves(directory, sampler, self.clips, jax.random.key(seed))

    def decode(self, out):
        """Return a staircase whose steps are the codes of the frames."""
        codes = np.asarray(out.tokens.codes)
        steps = (1 + codes @ np.array([1, 8])).astype(np.float32) / 128
        return [np.repeat(row, SAMPLES_PER_FRAME) for row in steps]


def peak_mb() -> float:
    """Return the largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main(directory: Path, prompts: int, killed_after: int | None) -> None:
    """Draw, and die after some blocks if that is asked for; else print the peak of memory."""
    toy = Toy(Path(mkdtemp()), prompts)
    decoded = 0

    def decode(out):
        nonlocal decoded
        if decoded == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        decoded += 1
        return toy.decode(out)

    draw = toy.compile(min(prompts, BLOCK_PROMPTS))
    toy.waves(directory).draw(draw, toy.tell, decode, RATE_HZ)
    print(decoded, peak_mb())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
