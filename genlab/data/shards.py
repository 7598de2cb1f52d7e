"""Work cut into shards that survive an interruption: the one loop behind every corpus build.

In: a list of shards and a function that makes one, writes its files and returns a JSON-able result.
Out: the results, in order. A shard whose result file is complete is never made again. The file is
written after everything else of the shard and carries a digest of its content, so that a damaged
one is made again.
"""

import json
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from typing_extensions import TypedDict

from genlab.config import digest
from genlab.run.stored import OPEN, DamagedError, read_stored, write_atomically

NUM_THREADS = 2
Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")


class Interrupted(Exception):
    """Raised inside a shard when another one failed, so that the pool ends at once."""


@pydantic.with_config(OPEN)
class _Shard(TypedDict):
    results: list[Any]
    digest: str


def run_shards(
    items: Sequence[Item],
    make: Callable[[Item], Any],
    directory: Path,
    *,
    items_per_shard: int,
    stage: str,
    progress: Progress | None = None,
) -> list[Any]:
    """Return `make(item)` of every item, taking finished shards from `directory`.

    Args:
        items: the work; it must be the same list, in the same order, when an interrupted build
            resumes.
        make: makes one item and writes its files; its result must survive JSON. Called from several
            threads.
        directory: where the result of each finished shard is kept.
        items_per_shard: how much is lost, at most, per thread when the build is interrupted.
        stage: the name shown by `progress`.
        progress: called with the stage, the number of items done, and their total.
    """
    directory.mkdir(parents=True, exist_ok=True)
    firsts = range(0, len(items), items_per_shard)
    paths = [directory / f"{number:06d}.json" for number in range(len(firsts))]
    shards = [items[first : first + items_per_shard] for first in firsts]
    made = {number: _read_shard(path, len(shards[number])) for number, path in enumerate(paths)}
    todo = [number for number, results in made.items() if results is None]
    stop = threading.Event()

    def make_shard(number: int) -> int:
        results = []
        for item in shards[number]:
            if stop.is_set():
                raise Interrupted
            results.append(make(item))
        text = json.dumps(results)
        # As they will be read on the next attempt: JSON makes lists of tuples.
        made[number] = json.loads(text)
        write_atomically(
            paths[number], json.dumps({"results": made[number], "digest": digest(made[number])})
        )
        return len(results)

    finished = len(items) - sum(len(shards[number]) for number in todo)
    # Threads, not processes: onnxruntime, numpy, soxr and libsndfile release the GIL, and no start
    # method can go wrong.
    with ThreadPoolExecutor(max_workers=NUM_THREADS) as pool:
        pending = {pool.submit(make_shard, number) for number in todo}
        try:
            while pending:
                if progress:
                    progress(stage, finished, len(items))
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                finished += sum(job.result() for job in ready)
            if progress:
                progress(stage, len(items), len(items))
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [result for results in made.values() for result in results or []]


def _read_shard(path: Path, num_items: int) -> list[Any] | None:
    """Return the results of a finished shard, None if it has to be made."""
    try:
        shard = read_stored(path, _Shard, fix="making it again")
    except DamagedError as error:
        print(error, file=sys.stderr)
        return None
    if shard is None:
        return None
    if digest(shard["results"]) != shard["digest"] or len(shard["results"]) != num_items:
        print(f"{path}: damaged: it does not match its digest; making it again", file=sys.stderr)
        return None
    return shard["results"]
