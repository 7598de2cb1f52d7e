"""Waves of many prompts while they are drawn: block after block, each on disk before the next one
begins.

In: the prompts, a random key, and what draws and decodes a block. Out: the files of
wave_files.py. A process that is killed leaves its whole blocks, and the same call goes on after the
last of them; memory holds one block.

A block has `BLOCK_PROMPTS` prompts, whatever the machine. Its random numbers are those of its key
and of a prompt's place in it, and jax draws the same ones for the first rows of a batch whether
more follow or not (`jax_threefry_partitionable`). So the numbers of prompt i depend on the seed and
on i alone. The first block has the plain key: few prompts sound as they always did.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, Protocol

import jax
import numpy as np
from jaxtyping import Float
from typing_extensions import TypedDict

from genlab.config import digest
from genlab.data.record import TokenClip
from genlab.data.wave_files import write_waves
from genlab.run.files import read_json, write_json
from genlab.tokens import Cond, SampleOut

BLOCK_PROMPTS = 64
STATE = "drawn.json"
_KEYS_OF_BLOCKS = 2**31 - 1  # far above the number of any draw, whose keys come of the same seed

Told = tuple[Cond, np.ndarray]
Waves = Sequence[Float[np.ndarray, "s *c"]]


class DrawnSoFar(TypedDict):
    """drawn.json: what the whole blocks were, and what they took."""

    of: str
    """A digest of what is drawn."""
    blocks: int
    wall_s: float
    measured: NotRequired[Mapping[str, object]]
    """What was measured on the first block."""


class Draw(Protocol):
    """Draws the tokens of prompts: a compiled sampler."""

    def __call__(self, cond: Cond, num_frames: np.ndarray, key: jax.Array) -> SampleOut:
        """Return the tokens of prompts with so many frames."""
        ...


def block_key(key: jax.Array, number: int) -> jax.Array:
    """Return the key of a block of prompts."""
    if not number:
        return key
    return jax.random.fold_in(jax.random.fold_in(key, _KEYS_OF_BLOCKS), number)


class DrawnWaves:
    """The waves of prompts in a directory, of which the first blocks may be there already.

    Args:
        directory: where they are written.
        sampler: how they are drawn, as JSON.
        clips: the prompts.
        key: of all random numbers.
        check: raises if another process has taken the directory; called before it is written to.
        is_heard: whether waves are kept; what is not heard is drawn for what it costs alone.
    """

    def __init__(
        self,
        directory: Path,
        sampler: Mapping[str, object],
        clips: Sequence[TokenClip],
        key: jax.Array,
        check: Callable[[], None] = lambda: None,
        is_heard: bool = True,
    ):
        self.directory, self.clips, self.key = directory, clips, key
        self._is_heard = is_heard
        self.blocks = range(0, len(clips), BLOCK_PROMPTS)
        self._check = check
        numbers = np.asarray(jax.random.key_data(key)).tolist()
        self._of = digest([dict(sampler), [clip.id for clip in clips], numbers])

    def draw(
        self,
        draw: Draw,
        told: Callable[[Sequence[TokenClip]], Told],
        decode: Callable[[SampleOut], Waves],
        rate_hz: int,
        *,
        warm: Callable[[Sequence[TokenClip]], None] = lambda clips: None,
        measure: Callable[[Cond, np.ndarray, SampleOut], Mapping[str, object]] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> DrawnSoFar:
        """Draw, decode and write what is missing; return what all of it took, in seconds.

        Args:
            draw: the tokens of a block.
            told: the conditions of a block, and the frames of each prompt.
            decode: its waves.
            rate_hz: of the waves.
            warm: called before a block is drawn, outside the times.
            measure: measures something on the first block, outside the times.
            progress: told after each half of a block how many of these are done.
        """
        found = self._read()
        for number, first in enumerate(self.blocks):
            if number >= found["blocks"]:
                block = list(self.clips[first : first + BLOCK_PROMPTS])
                cond, num_frames = told(block)
                warm(block)
                began = time.perf_counter()
                drawn = draw(cond, num_frames, block_key(self.key, number))
                found["wall_s"] += time.perf_counter() - began
                if measure is not None and number == 0:
                    found["measured"] = measure(cond, num_frames, drawn)
                progress(2 * number + 1)  # outside the times: a terminal may be slow
                began = time.perf_counter()
                waves = decode(drawn)
                found["wall_s"] += time.perf_counter() - began
                self._check()
                write_waves(self.directory, first, waves if self._is_heard else (), rate_hz)
                found["blocks"] = number + 1
                write_json(self.directory / STATE, found)  # last: it says that the block is whole
            progress(2 * number + 2)
        return found

    def finish(self) -> None:
        """Forget how far it came: all of it is there, and something else says so."""
        (self.directory / STATE).unlink(missing_ok=True)

    def _read(self) -> DrawnSoFar:
        found = read_json(self.directory / STATE)
        match found:
            case {"of": self._of, "blocks": int(blocks), "wall_s": float(wall_s), **more}:
                done = DrawnSoFar(of=self._of, blocks=blocks, wall_s=wall_s)
                if isinstance(measured := more.get("measured"), dict):
                    done["measured"] = measured
                return done
        return DrawnSoFar(of=self._of, blocks=0, wall_s=0.0)


def decode_blocks(
    directory: Path,
    decode: Callable[[Sequence[np.ndarray]], Waves],
    views: Sequence[np.ndarray],
    rate_hz: int,
    of: str,
) -> None:
    """Decode codes or latents block after block into files, unless they are there; a call that was
    killed leaves its whole blocks. `of` is a digest of what they are.
    """
    state = directory / STATE
    found = read_json(state)
    done = 0
    match found:
        case {"of": str(theirs), "blocks": int(blocks)} if theirs == of:
            done = blocks
    for number, first in enumerate(range(0, len(views), BLOCK_PROMPTS)):
        if number >= done:
            block = list(views[first : first + BLOCK_PROMPTS])
            write_waves(directory, first, decode(block), rate_hz)
            write_json(state, DrawnSoFar(of=of, blocks=number + 1, wall_s=0.0))
