"""Batches by position: the batch of a step is a pure function of the data set (which holds its
seed) and of the step.

In: a grain `MapDataset` whose element is `(args, clip_id)`, shuffled and repeated but not batched.
Out: `Batch`es from any step on. Nothing about the iterator is ever stored: a restart asks for the
step it needs, on any number of hosts.

Every batch has a digest, and the digests of a run are chained, so two runs that report the same
final hash have read the same content in the same order.
"""

import copy
import sys
import zlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import PyTree, UInt32

from genlab.config import GenlabError
from genlab.run.digests import combine_digests

if TYPE_CHECKING:
    import grain


READ_AHEAD = 8  # batches


class Batch(NamedTuple):
    """`args` go to `model.loss(*args, key=key)`; `clip_ids` say which clips they came from."""

    args: tuple[PyTree, ...]
    clip_ids: np.ndarray


class BatchSource:
    """Batches of `batch_size` elements of `dataset`, read ahead by a few threads."""

    def __init__(
        self,
        dataset: "grain.MapDataset",
        batch_size: int,
        *,
        threads: int = 2,
        read_ahead: int | None = None,
    ):
        import grain  # here, because it takes as long as jax, and reading a config needs no data

        if batch_size < 1:
            raise GenlabError(f"batch_size: expected at least 1, got {batch_size}")
        if len(dataset) < batch_size:
            raise GenlabError(
                f"batch_size: the data set holds {len(dataset)} elements, fewer than one batch of "
                f"{batch_size}; use a smaller batch, or repeat the data set"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        ahead = max(READ_AHEAD, threads) if read_ahead is None else read_ahead
        self._read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        self._check: Callable[[Batch], None] = lambda batch: None

    def checked(self, check: Callable[[Batch], None]) -> Self:
        """Return the same batches, each passed to `check` before it is given away."""
        source = copy.copy(self)
        source._check = check
        return source

    @property
    def num_batches(self) -> int:
        """Whole batches in the data set; `sys.maxsize` for a data set that repeats for ever."""
        return (
            sys.maxsize
            if len(self.dataset) >= sys.maxsize // 2
            else len(self.dataset) // self.batch_size
        )

    def check_length(self, steps: int, accumulate: int = 1) -> None:
        """Check that there is a batch for each step, and that every batch falls into `accumulate`
        equal parts.

        Raises:
            GenlabError: naming the field, its value and what there is.
        """
        if self.num_batches < steps:
            raise GenlabError(
                f"steps: the data set ends after {self.num_batches} batches, {steps} asked; "
                "repeat it"
            )
        if self.batch_size % accumulate:
            raise GenlabError(
                f"optim.accumulate: {accumulate} does not divide the batch size {self.batch_size}"
            )

    def iterate(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of `start_step`, `start_step + 1`, ... until the data set ends.

        Each process yields its own rows of every batch, those of process 0 first.
        """
        import grain

        rows = _Rows(self, start_step, jax.process_index(), jax.process_count())
        batches = iter(
            grain.MapDataset.source(rows).batch(rows.count).to_iter_dataset(read_options=self._read)
        )
        try:
            for args, clip_ids in batches:
                batch = Batch(tuple(args), np.asarray(clip_ids))
                self._check(batch)
                yield batch
        finally:
            batches.close()

    def batch_at(self, step: int) -> Batch:
        """Return the batch of one step by random access; equal to what `iterate` yields for it."""
        first = step * self.batch_size
        elements = [self.dataset[index] for index in range(first, first + self.batch_size)]
        args, clip_ids = jax.tree.map(lambda *leaves: np.stack(leaves), *elements)
        batch = Batch(tuple(args), clip_ids)
        self._check(batch)
        return batch


class _Rows:
    """The elements that one of several processes reads, one after another.

    Its rows of a batch lie together: noise is drawn by row, and must not depend on how many
    processes share the rows.
    """

    def __init__(self, source: BatchSource, start_step: int, process: int, num_processes: int):
        self.source, self.start_step = source, start_step
        self.count, rest = divmod(source.batch_size, num_processes)
        if rest:
            raise GenlabError(
                f"batch_size: {source.batch_size} clips cannot be shared by {num_processes} "
                "processes; use a multiple"
            )
        self.first = process * self.count

    def __len__(self) -> int:
        return min((self.source.num_batches - self.start_step) * self.count, sys.maxsize)

    def __getitem__(self, index: int) -> Any:
        step, row = divmod(index, self.count)
        return self.source.dataset[
            (self.start_step + step) * self.source.batch_size + self.first + row
        ]


def batch_digest(batch: Batch) -> str:
    """Return 16 hex digits that depend on the clip ids and on every byte, shape and type of the
    content.
    """
    return combine_digests(example_digests(batch))


def example_digests(batch: Batch) -> UInt32[np.ndarray, "b"]:
    """Return a digest of each example, so processes that read parts of a batch know the whole
    batch.

    The bytes enter through their CRC-32, which costs 0.25 ms per MB where SHA-256 costs three times
    that in every step.
    """
    running = [0] * len(batch.clip_ids)
    for leaf in (np.asarray(batch.clip_ids), *map(np.asarray, jax.tree.leaves(batch.args))):
        kind = f"{leaf.dtype.str}{leaf.shape[1:]}".encode()
        rows = np.ascontiguousarray(leaf).reshape(len(running), -1).view(np.uint8)
        running = [
            zlib.crc32(row.data, zlib.crc32(kind, crc))
            for row, crc in zip(rows, running, strict=True)
        ]
    return np.array(running, np.uint32)
