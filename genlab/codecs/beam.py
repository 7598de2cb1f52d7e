"""Encoding on Apache Beam: one piece per element, on processes of this machine or on Dataflow.

In: a `PieceEncoder` and the numbers of the pieces to make. Out: the pieces, in its place. The
pipeline runs in a process of its own (`python -m genlab.codecs.beam JOB`), because Beam's local
runner waits forever for a worker that was killed: here the death of one ends that process with all
its workers, and what is missing is given to new ones.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

from genlab.codecs.cache import (
    encode_corpus,
    find_missing,
    pieces_directory,
    store_directory,
)
from genlab.codecs.pieces import Material, Opens, PieceEncoder
from genlab.config import GenlabError
from genlab.config.shipped import install_command
from genlab.data.corpus import Progress
from genlab.data.store import INFO_NAME, TokenStore
from genlab.run.cache import only_builder
from genlab.run.shared import SCHEME, SHARED_VARIABLE, fetch

WORKER_DIED = 70
MOST_DEATHS = 3  # in a row, without a piece made between them
LOOK_S = 0.5


class Engine(Protocol):
    """Where a pipeline runs."""

    @property
    def flags(self) -> list[str]:
        """The options of Beam's own `PipelineOptions`."""
        ...

    def place(self, pieces: Path) -> str:
        """Return where its workers put pieces; `pieces` is the folder on this machine."""
        ...


class LocalEngine(NamedTuple):
    """Processes of this machine."""

    workers: int
    more: tuple[str, ...] = ()

    @property
    def flags(self) -> list[str]:
        """One process per worker, which takes one piece at a time."""
        # FnApiRunner and not DirectRunner, which first looks for a program of Beam's to download.
        where = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
        count = f"--direct_num_workers={self.workers}"
        return [where, "--direct_running_mode=multi_processing", count, *self.more]

    def place(self, pieces: Path) -> str:
        """Return the folder itself."""
        return str(pieces.resolve())


class DataflowEngine(NamedTuple):
    """Machines of Google Cloud Dataflow; corpus and pieces are in the shared cache."""

    workers: int
    more: tuple[str, ...] = ()

    @property
    def flags(self) -> list[str]:
        """As many machines as workers, from the first on."""
        number, most = f"--num_workers={self.workers}", f"--max_num_workers={self.workers}"
        return ["--runner=DataflowRunner", number, most, *self.more]

    def place(self, pieces: Path) -> str:
        """Return a folder of the shared cache.

        Raises:
            GenlabError: without a shared cache, or without what Dataflow asks for.
        """
        root = os.environ.get(SHARED_VARIABLE, "").rstrip("/")
        if not root.startswith(SCHEME):
            raise GenlabError(
                f"--runner dataflow: its machines see no disk of this one; set {SHARED_VARIABLE}="
                "gs://BUCKET/PATH, from where they read the corpus and where they put tokens"
            )
        # Beam would say so too, once the corpus is built.
        for name in ("--project", "--region", "--temp_location"):
            if not any(word.startswith(f"{name}=") for word in self.more):
                raise GenlabError(
                    f"--runner dataflow: {name} is missing; give it as --beam='--project=PROJECT "
                    "--region=REGION --temp_location=gs://BUCKET/tmp'"
                )
        return f"{root}/{pieces.name}"


RUNNERS = {"direct": LocalEngine, "dataflow": DataflowEngine}


def check_beam(engine: Engine) -> None:
    """Refuse to start without Beam, or with options that it does not know.

    Raises:
        GenlabError: naming what is missing or wrong.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise GenlabError(
            f"--runner: needs Apache Beam; run `{install_command('beam')}`, best in an environment "
            "of its own (docs/encoding.md in the repository)"
        )
    # What it says while it is imported is for its developers.
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from apache_beam.options import pipeline_options
    finally:
        logging.disable(before)
    # Several of Beam's classes have an option of the same name.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in pipeline_options.PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            _, unknown = parser.parse_known_args(engine.flags)
    except SystemExit:
        reason = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise GenlabError(f"--beam: {reason}; see Beam's pipeline options") from None
    if unknown:
        raise GenlabError(f"--beam {unknown[0]}: no option of Apache Beam's; see its list")


def encode_on(
    engine: Engine,
    opens: Opens,
    material: Material,
    cache_dir: Path,
    progress: Progress | None = None,
) -> TokenStore:
    """Return the token store of `material`, as `encode_corpus` does, with its pieces made on an
    engine.

    Raises:
        GenlabError: as `encode_corpus`, or with the reason of a worker that failed.
    """
    directory = store_directory(*material, cache_dir)
    pieces = pieces_directory(directory)
    encoder = PieceEncoder(opens, engine.place(pieces), directory.name)
    # Not the lock of the store, which `encode_corpus` takes.
    with only_builder(pieces.with_name(f"{pieces.name}.lock")):
        is_made = (directory / INFO_NAME).exists() or fetch(directory, INFO_NAME)
        numbers = [] if is_made else find_missing(directory, len(material.manifest.clips))
        if numbers:
            encoder.check_place()
            _make_pieces(encoder, numbers, engine, progress)
            encoder.collect(directory, numbers)
        store = encode_corpus(*material, cache_dir, progress)
        if numbers:
            encoder.forget()
        return store


def _make_pieces(
    encoder: PieceEncoder,
    numbers: Sequence[int],
    engine: Engine,
    progress: Progress | None,
) -> None:
    """Make pieces on an engine; those that are there already cost a look at each.

    Raises:
        GenlabError: with the reason of the worker that failed; what was made stays.
    """
    deaths, made = 0, 0
    while True:
        code, log = _run_once(encoder, numbers, engine, progress)
        if code == 0:
            return
        before, made = made, _count(encoder)
        deaths = 1 if made > before else deaths + 1
        if code != WORKER_DIED or deaths == MOST_DEATHS:
            raise GenlabError(_reason(log, code))
        print("a worker died; what it had not finished is made again", file=sys.stderr)


def _run_once(
    encoder: PieceEncoder,
    numbers: Sequence[int],
    engine: Engine,
    progress: Progress | None,
) -> tuple[int, str]:
    """Run the pipeline in a process with its workers; return its exit code and what was said."""
    with tempfile.TemporaryDirectory(prefix="genlab-beam-") as folder:
        job, log = Path(folder) / "job", Path(folder) / "log"
        job.write_bytes(pickle.dumps((encoder, list(numbers), engine.flags, os.getpid())))
        command = [sys.executable, "-m", "genlab.codecs.beam", str(job)]
        with log.open("wb") as file:
            child = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            while child.poll() is None:
                if progress is not None:
                    progress("encode pieces", _count(encoder), len(numbers))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(LOOK_S)
        finally:  # its workers too, whatever ended this
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return child.returncode, log.read_text(errors="replace")


def _count(encoder: PieceEncoder) -> int:
    """Return how many pieces are there, as far as a folder tells."""
    if encoder.place.startswith(SCHEME):
        return 0
    return sum(1 for _ in Path(encoder.place).glob("part-*.json"))


def _reason(log: str, code: int) -> str:
    """Return why a pipeline failed: what a worker said, or else the last line."""
    ours = re.findall(
        r"(?:GenlabError|DamagedError|ConfigError): (.+?)(?: \[while running|\n|$)", log
    )
    if ours:
        return ours[-1]
    last = (log.strip().splitlines() or [f"it ended with code {code}"])[-1]
    return f"Apache Beam: {last:.300}; the same command goes on with what is missing"


def _run_pipeline(job: Path) -> None:
    """Run the pipeline of a job, in the process that is there for it."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    encoder, numbers, flags, parent = pickle.loads(job.read_bytes())

    def end_with_worker(told: threading.ExceptHookArgs) -> None:
        sys.__excepthook__(told.exc_type, told.exc_value or told.exc_type(), told.exc_traceback)
        # Beam's thread that waits for a worker ends with this, and nothing else notices.
        if "Worker subprocess exited" in str(told.exc_value):
            os._exit(WORKER_DIED)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os.killpg(0, signal.SIGKILL)

    threading.excepthook = end_with_worker
    threading.Thread(target=end_with_parent, daemon=True).start()
    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        _ = (
            pipeline
            | "numbers" >> beam.Create(numbers)
            | "spread" >> beam.Reshuffle()
            | "encode" >> beam.Map(encoder)
        )


def _main(job: Path) -> NoReturn:
    code = 1
    try:
        _run_pipeline(job)
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of Beam's would keep it alive


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
