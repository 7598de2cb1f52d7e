"""Whether a training that is killed ends with the same bits as one that is not, on the accelerator
with deterministic operations.

Run as `python -m genlab.speed.hardware.resume DIR STEPS [SIZE]` it is the training itself; it
prints a digest of the final weights.
"""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

from genlab.decoders.ar import ARConfig
from genlab.run import checkpoint
from genlab.speed.hardware.families import random_batch
from genlab.speed.hardware.size import SIZES, HardwareSize
from genlab.speed.hardware.step import Case, Row
from genlab.tokens import Cond, Tokens
from genlab.train import TrainSettings, train
from genlab.training.optim import OptimConfig
from genlab.training.step import split_model

FLAG = "--xla_gpu_deterministic_ops=true"
SAVE_EVERY = 2
CLIPS = 64  # of the data set
BATCH = 4
LONGEST_S = 240
PAUSE_S = 0.02


class Resume:
    """Does a killed training resume with the same bits?"""

    name = "resume"
    question = "Does a training that is killed by SIGKILL resume and end with the same bits?"
    share = 3.0
    environment: Mapping[str, str] = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return the promise, then what holds without deterministic operations."""
        return [
            Case("deterministic", partial(_kill_and_resume, size, FLAG)),
            Case("as by default", partial(_kill_and_resume, size, "")),
        ]


def _kill_and_resume(size: HardwareSize, flag: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        whole = _finish(_start(Path(folder) / "whole", size, flag))
        killed = Path(folder) / "killed"
        saved = _kill_after_a_save(_start(killed, size, flag), killed)
        resumed = _finish(_start(killed, size, flag))
    return {
        "steps": size.training,
        "killed_after_saving": saved,
        "digest": whole,
        "digest_resumed": resumed,
        # Only deterministic operations promise it; and a run that ended first resumed nothing.
        "passed": not flag or (whole == resumed and 0 < saved < size.training),
    }


def _start(run_dir: Path, size: HardwareSize, flag: str) -> subprocess.Popen[str]:
    environment = {**os.environ}
    # XLA aborts at a flag that its build does not know, and one for the CPU alone may not.
    if flag and jax.default_backend() != "cpu":
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}".strip()
    command = [sys.executable, "-m", __name__, str(run_dir), str(size.training), size.name]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=LONGEST_S)
    if process.returncode != 0:
        raise RuntimeError(f"training ended with {process.returncode}: {errors[-500:]}")
    return output.strip().splitlines()[-1]


def _kill_after_a_save(process: subprocess.Popen[str], run_dir: Path) -> int:
    """Kill the training as soon as a checkpoint is whole, and return the step of the newest."""
    ends = time.monotonic() + LONGEST_S
    while process.poll() is None and time.monotonic() < ends:
        if checkpoint.saved_steps(run_dir):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(PAUSE_S)
    process.communicate(timeout=LONGEST_S)
    return max(checkpoint.saved_steps(run_dir), default=0)


class Clips:
    """Random clips by number, for grain."""

    def __init__(self, tokens: Tokens, cond: Cond):
        self._batch = jax.device_get((tokens, cond))

    def __len__(self) -> int:
        return CLIPS

    def __getitem__(self, index: int) -> tuple[tuple[Tokens, Cond], np.int32]:
        # The position in the data set, which repeats.
        number = index % CLIPS
        return jax.tree.map(lambda leaf: leaf[number], self._batch), np.int32(number)


def _train(run_dir: Path, steps: int, size: HardwareSize) -> str:
    """Train the smallest autoregressive model and return a digest of its weights."""
    import grain

    from genlab.data.batches import BatchSource

    # What follows depends on nothing but the size, so that both processes do the same.
    task = size.task(size.models[0])
    clips = Clips(*random_batch(task.spec, task.num_frames, CLIPS))
    source = BatchSource(grain.MapDataset.source(clips).seed(0).shuffle().repeat(None), BATCH)
    result = train(
        lambda key: ARConfig().build(task, key=key),
        source,
        steps=steps,
        optim=OptimConfig(),
        seed=0,
        settings=TrainSettings(save_every_s=None, save_every_steps=SAVE_EVERY, keep=2),
        run_dir=run_dir,
    )
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(split_model(result.model)[1:])):
        content.update(np.ascontiguousarray(leaf).tobytes())
    return content.hexdigest()


def main(words: Sequence[str]) -> int:
    """Train in the folder that is named first, and print the digest."""
    run_dir, steps, name = words
    print(_train(Path(run_dir), int(steps), SIZES[name]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
