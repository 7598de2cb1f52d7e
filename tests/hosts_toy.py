"""A small decoder trained by as many processes as start this: what the tests of several hosts start
and kill.

Run as `python tests/hosts_toy.py RUN_DIR FAMILY [key=value ...]`; RUN_DIR may be gs://BUCKET/PATH.
The leader prints one JSON line with the losses, the hash of all batches and the sum of the final
parameters.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from genlab.config import GenlabError
from genlab.data.batches import BatchSource
from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.decoders.ar import ARConfig
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.masked import MaskedConfig
from genlab.decoders.task import Task
from genlab.machine import hosts, liveness
from genlab.machine.sharding import ShardingConfig
from genlab.nets.backbone import BackboneConfig
from genlab.run import bucket
from genlab.run.cache import cache_root
from genlab.train import TrainSettings, train
from genlab.training.optim import OptimConfig

SOURCE = KnownEntropy(states=4, codebooks=2, entries=8, noise=0.02, clips=32, clip_frames=16)
BACKBONE = BackboneConfig(width=32, layers=2, heads=4, dropout=0.1)
CONDITION = ConditionConfig(content="semantic", dropout=0.1)
FAMILIES = {"ar": ARConfig(), "masked": MaskedConfig()}


class Slowly(BatchSource):
    """Batches that take their time, so that signals find a run in the middle; the last process may
    fail to read one.
    """

    delay_s, failing_step = 0.0, -1

    def iterate(self, start_step=0):
        """Yield batches after a while each."""
        for step, batch in enumerate(super().iterate(start_step), start=start_step + 1):
            time.sleep(self.delay_s)
            if step == self.failing_step and hosts.index() == jax.process_count() - 1:
                raise OSError("the disk of this host is broken")
            yield batch


class Losses:
    """Keeps what would be logged."""

    def __init__(self):
        self.by_step = {}

    def scalars(self, step, values):
        """Keep the loss of a step."""
        self.by_step[step] = values["loss"]


def main():
    hosts.join()
    place, family = sys.argv[1], FAMILIES[sys.argv[2]]
    is_remote = place.startswith(bucket.SCHEME)
    options = {
        "steps": 12,
        "save_every_steps": 4,
        "delay_s": 0.0,
        "failing_step": -1,
        "data": 1,
        "tensor": 1,
    }
    options |= {key: float(value) for key, value in (item.split("=") for item in sys.argv[3:])}
    store = draw_store(SOURCE, cache_root() if is_remote else Path(place).parent)
    vocab = CondVocab(num_speakers=len(store.info.speakers), num_units=store.info.num_units)
    source = Slowly(store.dataset("train", num_frames=SOURCE.clip_frames, seed=3), 8)
    source.delay_s, source.failing_step, losses = (
        options["delay_s"],
        options["failing_step"],
        Losses(),
    )
    fsdp = jax.device_count() // int(options["data"] * options["tensor"])
    settings = TrainSettings(
        log_every=1,
        save_every_s=None,
        save_every_steps=int(options["save_every_steps"]),
        sharding=ShardingConfig(
            data=int(options["data"]), fsdp=fsdp, tensor=int(options["tensor"])
        ),
    )
    try:
        copy = bucket.working_copy(place) if is_remote else contextlib.nullcontext(Path(place))
        with liveness.shared_fate(), copy as run_dir:
            result = train(
                lambda key: family.build(
                    Task(store.info.spec, vocab, BACKBONE, CONDITION), key=key
                ),
                source,
                steps=int(options["steps"]),
                optim=OptimConfig(peak_lr=3e-3, ema_decay=0.9),
                seed=1,
                settings=settings,
                run_dir=run_dir,
                writer=losses,
            )
    except GenlabError as error:
        print(error, file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    total = sum(
        float(np.abs(leaf).sum())
        for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(result.model)))
    )
    if hosts.is_leader():
        print(
            json.dumps({"losses": losses.by_step, "batch_hash": result.batch_hash, "total": total})
        )


if __name__ == "__main__":
    main()
