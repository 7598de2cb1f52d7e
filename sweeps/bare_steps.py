"""Lab note: in how many calls is the bare law of each iterative family drawn?

Question   How many calls does `bare_sampler` of each family take?
Fixed      Small decoders (2 x 48) of one source of known entropy, 8 levels of 16 codes, 48 frames;
           the same fresh clips and draws at every number of calls, temperature 1, no guidance.
Varied     The calls, doubled: solver steps of what denoises, calls of what reveals codes. A family
           with both (mar: rounds, and the steps of its flow head) has a line for each, the other
           at its bare number.
Rule       Fixed before measuring: the fewest calls from which on doubling moves the energy of the
           next block by less than its standard error over clips.
Result     Energy, and how doubling the calls moved it, 96 clips, 2 draws, standard errors of 0.007:
           diffusion 0.708 at 8; -0.0011 +- 0.0005 to 16, then below 0.0003 up to 128. discrete
           (ancestral) 0.706 at 8; -0.004, -0.000, 0.005, -0.004, each +- 0.008, up to 128. mar,
           rounds: 0.700 at 8; 0.004, 0.004, 0.006, -0.003, each +- 0.009, up to 128. So by the
           rule 8 calls are enough for these three in this task. blockwise (calls per block of 64
           codes) 0.713 at 8; -0.018, 0.004, -0.010, each +- 0.010, up to 64: not fewer than one
           code at a time. The bare numbers are larger because real codes hang together more than
           those of this source: 32 steps, 64 calls, 16 rounds, 64 calls per block. The steps of
           mar's flow head: -0.0002 +- 0.0004 from 8 to 16. latent_blocks was not measured.

    python sweeps/bare_steps.py [FAMILY ...]
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from genlab.arms import train_arm
from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.data.store import TokenStore
from genlab.decoders.blockwise import BlockwiseConfig, BlockwiseSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.latent_blocks import LatentBlocksConfig, LatentBlocksSampler
from genlab.decoders.mar import MARConfig, MARSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.decoders.noise.heads import FlowMatching
from genlab.decoders.task import bare_law
from genlab.experiment import Arm, DecoderRun, TokenData
from genlab.forecasts.draws import BlockEnergy
from genlab.nets.backbone import BackboneConfig
from genlab.run.cache import cache_root
from genlab.train import TrainSettings
from genlab.training.optim import OptimConfig
from genlab.watch.progress import Progress

FRAMES, UPDATES, CLIPS, DRAWS = 48, 400, 96, 2
SOURCE = KnownEntropy(
    codebooks=8,
    entries=16,
    states=16,
    branches=4,
    latent_channels=16,
    noise=0.02,
    clip_frames=FRAMES,
    clips=4096,
)
COUNTS = (8, 16, 32, 64, 128)
HEAD = FlowMatching(width=64, layers=2)
ARMS = {
    "diffusion": Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler()),
    "latent_blocks": Arm(decoder=LatentBlocksConfig(), sampler=LatentBlocksSampler()),
    "discrete": Arm(decoder=DiscreteConfig(), sampler=DiscreteSampler()),
    "blockwise": Arm(decoder=BlockwiseConfig(), sampler=BlockwiseSampler()),
    "masked": Arm(decoder=MaskedConfig(), sampler=MaskedSampler()),
    "mar": Arm(decoder=MARConfig(head=HEAD), sampler=MARSampler()),
    "latent_flow": Arm(decoder=LatentARConfig(head=HEAD), sampler=LatentARSampler()),
}


def make_run(name: str) -> DecoderRun:
    """Return the training of one family."""
    return DecoderRun(
        name=name,
        seed=0,
        steps=UPDATES,
        batch_size=16,
        data=TokenData(corpus=SOURCE, num_frames=FRAMES),
        backbone=BackboneConfig(width=48, layers=2, heads=4),
        condition=ConditionConfig(content="none", speaker=False, dropout=0.0, layers=1),
        optim=OptimConfig(peak_lr=5e-3, weight_decay=0.0, ema_decay=0.99),
        arm=ARMS[name],
        settings=TrainSettings(save_every_s=None),
    )


def axes_of(bare: Any) -> list[str]:
    """Return the fields of a sampler that say how often it calls the network."""
    return [name for name in ("rounds", "steps") if name in type(bare).model_fields]


def trace(run: DecoderRun, model: nnx.Module, store: TokenStore) -> Iterator[str]:
    """Yield a line per number of calls of one trained decoder."""
    clips = SOURCE.fresh_clips(CLIPS, FRAMES, seed=0)
    bare: Any = bare_law(run.arm.decoder, run.arm.sampler, run.task(store)).sampler
    for axis in axes_of(bare):
        earlier = None
        for count in COUNTS:
            value = (count,) if isinstance(getattr(bare, axis), tuple) else count
            energy = BlockEnergy(run, store, clips, bare.model_copy(update={axis: value}))
            scores = energy(model, num_draws=DRAWS, seed=0)
            line = f"| {run.name} | {axis} {count} | {energy.network_calls} | {told(scores)} |"
            yield line + ("" if earlier is None else f" {told(scores - earlier)} |")
            earlier = scores


def told(values: np.ndarray) -> str:
    """Return a mean with its standard error."""
    values = values[np.isfinite(values)]
    return f"{values.mean():.4f} +- {values.std(ddof=1) / np.sqrt(len(values)):.4f}"


def main() -> None:
    """Train and trace the families that were asked for, or all."""
    store = draw_store(SOURCE, cache_root())
    print("| family | | calls | energy | moved by doubling |\n|---|---|---|---|---|")
    for name in sys.argv[1:] or ARMS:
        run = make_run(name)
        with tempfile.TemporaryDirectory() as directory, Progress() as progress:
            model = train_arm(run, store, Path(directory) / name, progress).model
        for line in trace(run, model, store):
            print(line, flush=True)


if __name__ == "__main__":
    main()
