"""The runs of a sweep on disk: what each is doing, what the sweep will cost, and what may be
deleted.

    sweep.json              the page, its runs, and all runs that it ever had: the mark of a sweep
    runs/ID.json            the resolved config of a run, which is
                            `genlab compare runs/ID.json --out runs/ID`
    runs/ID/                its run directory; finished when its outputs agree (report/outputs.py)
    runs/ID/attempts.json   how every attempt ended: exit code, seconds, last line of its log
    runs/ID/log.txt         what the attempts printed

Nothing else is kept: the state of a sweep is read from these files, so nothing is lost if a process
is killed, and a run is held by one process at a time (`lock_run`), so nothing is done
twice.
"""

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired

import pydantic
from pydantic import JsonValue
from typing_extensions import TypedDict

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.fairness.budget import check_budget, check_flops, checkpoint_bytes, solve_budget
from genlab.fairness.rates import num_trainings
from genlab.fairness.regression import solve_trained
from genlab.machine.stopping import (
    EXIT_DISK_FULL,
    EXIT_DIVERGED,
    EXIT_LOCKED,
    EXIT_OK,
    EXIT_RESUME,
    EXIT_USER_ERROR,
    LockedError,
)
from genlab.prompts import choose_prompts
from genlab.report import outputs
from genlab.run import bucket
from genlab.run.cache import only_writer
from genlab.run.files import write_json
from genlab.run.ownership import check_has_no_way_out
from genlab.run.status import UNTOUCHED, heartbeat_age_s, lock_to_delete, read_status
from genlab.run.stored import OPEN, Number, read_again, read_stored
from genlab.sweeps.page import Contrast, Gap, Sweep, SweepRun, expand
from genlab.watch.profiling import find_peak_flops
from genlab.watch.progress import Progress

State = Literal["waiting", "running", "interrupted", "failed", "finished"]
MOST_CRASHES = 3
HOPELESS = (EXIT_DIVERGED, EXIT_USER_ERROR)  # the same command would end the same way
HARMLESS = (EXIT_LOCKED, EXIT_RESUME, EXIT_DISK_FULL)
ALIVE_S = 60.0
GOING = ".deleted"  # the ending of what is being deleted
# What is written into the directory of a sweep, here and by its report.
WRITTEN = ("runs", "findings.json", "figure.svg", "hparams", "report.html", "report.md")


def run_directory(out: Path, run: SweepRun) -> Path:
    """Return where a run is made."""
    return out / "runs" / run.id


def config_path(out: Path, run: SweepRun) -> Path:
    """Return the file of a run's resolved config."""
    return out / "runs" / f"{run.id}.json"


@pydantic.with_config(OPEN)
class Attempt(TypedDict):
    """How an attempt ended, an entry of attempts.json."""

    exit: int
    seconds: Number
    reason: str
    ended: NotRequired[Number]


class RunState(NamedTuple):
    """What a run is doing, why, and how often it was begun."""

    run: SweepRun
    state: State
    reason: str
    attempts: int
    seconds: float


class Cost(NamedTuple):
    """What a sweep will spend: training FLOPs, bytes of its run directories, and hours at this
    machine's best rate.
    """

    runs: int
    train_flops: float
    disk_bytes: float
    device_hours: float
    flops_per_s: float


def write_page(sweep: Sweep, out: Path) -> list[SweepRun]:
    """Write page and configs, and return the runs. Files of runs that the page no longer has stay
    until `prune`.

    Raises:
        GenlabError: if `out` has runs that this page did not make.
    """
    runs = expand(sweep)
    _find_ours(sweep, out)  # first: not even a lock is left in a directory of somebody else
    listed = [{"id": run.id, "label": run.label, "point": run.point} for run in runs]
    with only_writer(out, skip=[run.id for run in runs]):  # a run tidies up itself, under its lock
        made = sorted({run.id for run in runs} | _made_in(_find_ours(sweep, out)))
        facts = {"schema": 1, "page": sweep.to_dict(), "runs": listed, "made": made}
        # first: after any kill it says what is genlab's
        write_json(out / "sweep.json", facts)
        (out / "runs").mkdir(exist_ok=True)
        for run in runs:
            write_json(config_path(out, run), run.config.to_dict())
    return runs


def _find_ours(sweep: Sweep, out: Path) -> "SweepFile | None":
    """Return sweep.json, None in a new directory; refuse one that is another sweep's or somebody
    else's.
    """
    found = _read_page(out)
    check_has_no_way_out(out)
    for name in WRITTEN if found is None else ():
        if os.path.lexists(out / name) and not _is_empty_folder(out / name):
            raise GenlabError(
                f"{out / name}: already exists, and no sweep made it; use another --out"
            )
    if found is not None:
        _check_name(found, sweep, out)
    return found


def read_state(run: SweepRun, out: Path) -> RunState:
    """Return what a run is doing, from its files alone."""
    directory = run_directory(out, run)
    fix = "delete it, and its attempts are counted from none"
    attempts = read_stored(directory / "attempts.json", list[Attempt], fix=fix) or []
    seconds = sum(attempt["seconds"] for attempt in attempts)

    def state(name: State, reason: str = "") -> RunState:
        return RunState(run, name, reason, len(attempts), seconds)

    # First: a run that ends between two reads must not look like one that was left.
    status = read_status(directory)
    is_alive = _is_alive(status)
    if outputs.is_finished(directory):
        return state("finished")
    if is_alive:
        return state("running", f"process {status.get('pid')} on {status.get('host')}")
    if not attempts:
        return state("interrupted" if status else "waiting")
    last = attempts[-1]
    crashes = [
        attempt for attempt in attempts if attempt["exit"] not in (*HARMLESS, *HOPELESS, EXIT_OK)
    ]
    if last["exit"] in HOPELESS or (last["exit"] not in HARMLESS and len(crashes) >= MOST_CRASHES):
        return state("failed", f"exit {last['exit']}: {last['reason']}")
    return state("interrupted", last["reason"])


def _is_alive(status: Mapping[str, JsonValue]) -> bool:
    """Return whether the process of a status.json lives: by its heartbeat, and on this host also by
    its number.
    """
    if status.get("state") != "running" or heartbeat_age_s(status) > ALIVE_S:
        return False
    pid = status.get("pid")
    if status.get("host") == socket.gethostname() and isinstance(pid, int):
        with contextlib.suppress(PermissionError, OverflowError):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
    return True


def add_attempt(run: SweepRun, out: Path, exit_code: int, seconds: float) -> None:
    """Note how an attempt ended, with the last line it printed; another process that held the run
    is no attempt.
    """
    if exit_code == EXIT_LOCKED:
        return
    directory = run_directory(out, run)
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "log.txt"
    lines = (
        log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if log.exists()
        else []
    )
    reason = "" if exit_code == EXIT_OK else (lines[-1] if lines else "")[:500]
    # Several coordinators may work on one sweep; none may lose what another has noted.
    with only_writer(directory, skip=UNTOUCHED):
        noted = read_again(
            directory / "attempts.json", list[Attempt], doing="counting from this attempt"
        )
        attempt = Attempt(exit=exit_code, seconds=seconds, reason=reason, ended=time.time())
        write_json(directory / "attempts.json", [*(noted or []), attempt])


def forget_failures(runs: Sequence[SweepRun], out: Path) -> int:
    """Let failed runs be tried again; return how many there were."""
    failed = [run for run in runs if read_state(run, out).state == "failed"]
    for run in failed:
        (run_directory(out, run) / "attempts.json").unlink(missing_ok=True)
    return len(failed)


def find_cost(sweep: Sweep, runs: Sequence[SweepRun], progress: Progress) -> Cost:
    """Build the token stores, solve every budget, and return what the sweep will spend.

    Raises:
        GenlabError: if a budget cannot be met, a FLOP formula is wrong, or predictions compare
            different prompts.
    """
    flops = 0.0
    bytes_ = 0.0
    prompts = {}
    for run in runs:
        check_budget(run.config)
    for done, run in enumerate(runs):
        progress("plan", done, len(runs))
        config = run.config
        store = config.data.open(progress, parts=config.condition.parts)
        budgets = solve_budget(config, store)
        # Walked now: a formula that is off would stop the sweep hours later.
        for name, budget in budgets.items():
            check_flops(config.run(name, config.seeds[0], budget.steps), store)
        trained = solve_trained(config, store, budgets)
        flops += sum(one.train_flops for one in trained.values()) * num_trainings(config)
        bytes_ += checkpoint_bytes(config, trained)
        clips = choose_prompts(store, config.data, config.prompts_split, config.num_prompts)
        prompts[run.label] = (
            store.info.codec_fingerprint,
            tuple((config.data.domain.unit_of(clip), clip.speaker) for clip in clips),
        )
    progress("plan", len(runs), len(runs))
    for prediction in sweep.predictions:
        labels = {row.partition(" @ ")[2] for row in prediction.rows(list(prompts))} & set(prompts)
        if len({prompts[label] for label in labels}) > 1 and isinstance(prediction, Contrast | Gap):
            raise GenlabError(
                f"prediction {prediction.text!r}: its points do not have the same codec and prompts"
            )
    rate = find_peak_flops()
    return Cost(len(runs), flops, bytes_, flops / rate / 3600, rate)


class Prunable(NamedTuple):
    """What may be deleted, and what lies among the runs that no page of this sweep had."""

    paths: list[Path]
    strangers: list[Path]


def find_prunable(sweep: Sweep, runs: Sequence[SweepRun], out: Path) -> Prunable:
    """Return what the page no longer has, and the checkpoints of finished runs; nothing is deleted.

    Only what `write_page` noted in sweep.json is genlab's to delete. Runs at work are left alone.

    Raises:
        GenlabError: if `out` is no sweep, or the one of another page.
    """
    page = _read_page(out)
    if page is None:
        raise GenlabError(
            f"{out}: no sweep here, so nothing in it is genlab's to delete; name the --out of a "
            "sweep"
        )
    _check_name(page, sweep, out)
    made = _made_in(page)
    kept = {run.id for run in runs}
    paths: list[Path] = []
    strangers: list[Path] = []
    for path in sorted((out / "runs").iterdir()) if (out / "runs").is_dir() else ():
        # A config of a run has the name of its directory and .json, a deletion that was cut short
        # another ending.
        run_id = path.name.removesuffix(GOING if path.is_dir() else ".json")
        if run_id in kept and path.suffix != GOING:
            continue
        # A link could point out of the sweep, to what others own.
        is_ours = run_id in made and not _is_behind_link(path, out)
        if is_ours and not _is_alive(read_status(out / "runs" / run_id)):
            paths.append(path)
        elif not is_ours:
            strangers.append(path)
    for run in runs:
        if run.id in made and read_state(run, out).state == "finished":
            directory = run_directory(out, run)
            wanted = ("arms/*/seed*/*", "floors/*/seed*/*", "rates/*/*/*")
            of_seeds = [path for one in wanted for path in directory.glob(one)]
            found = [path for path in of_seeds if _has_name_of_checkpoints(path)]
            paths += sorted(path for path in found if not _is_behind_link(path, out))
    return Prunable(paths, strangers)


def _is_behind_link(path: Path, out: Path) -> bool:
    """Return whether a link below `out` is on the way to `path`: it may lead to what is not
    genlab's.
    """
    return os.path.realpath(path) != os.path.join(os.path.realpath(out), path.relative_to(out))


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def delete(paths: Sequence[Path]) -> list[Path]:
    """Delete what `find_prunable` found, and return what was kept.

    Kept is what belongs to a run in which a process works by now: it was listed before somebody was
    asked, and a run may begin, or be scored again, at any time.
    """
    kept = []
    for path in paths:
        try:
            with lock_to_delete(_run_of(path)):
                _delete_whole(path)
        except LockedError:
            kept.append(path)
    return kept


def _delete_whole(path: Path) -> None:
    """Delete a file or a directory; one that is half deleted never has its own name.

    A process that begins in a run directory meanwhile makes a new one, of which nothing goes.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if path.suffix != GOING:
        going = path.with_name(path.name + GOING)
        if going.is_dir():  # of a deletion that was cut short
            shutil.rmtree(going)
        path = path.rename(going)
    shutil.rmtree(path)


def _has_name_of_checkpoints(path: Path) -> bool:
    return path.name in (bucket.CHECKPOINTS, bucket.CHECKPOINTS + GOING)


def _run_of(path: Path) -> Path:
    """Return the run directory that a prunable path is, is the config of, or lies in."""
    if _has_name_of_checkpoints(path):
        return path.parents[3]  # arms/NAME/seedN/checkpoints, rates/NAME/RATE/checkpoints
    return path.with_suffix("") if path.suffix == ".json" else path


@pydantic.with_config(OPEN)
class PageFacts(TypedDict):
    """The page in sweep.json, of which only the name is read."""

    name: str


@pydantic.with_config(OPEN)
class ListedRun(TypedDict):
    """A run in sweep.json."""

    id: str


@pydantic.with_config(OPEN)
class SweepFile(TypedDict):
    """sweep.json: the page, its runs, and the ids of all runs that it ever had."""

    page: PageFacts
    runs: list[ListedRun]
    made: NotRequired[list[str]]


def _read_page(out: Path) -> SweepFile | None:
    """Return sweep.json, None if there is none."""
    return read_stored(out / "sweep.json", SweepFile, fix="restore it, or use another --out")


def _check_name(found: SweepFile, sweep: Sweep, out: Path) -> None:
    if found["page"]["name"] != sweep.name:
        theirs = shorten(found["page"]["name"])
        raise GenlabError(
            f"{out}: holds the sweep {theirs}, this page is {sweep.name!r}; name another --out"
        )


def _made_in(page: SweepFile | None) -> set[str]:
    """Return the ids of all runs that a sweep.json says its page has, or once had."""
    return set() if page is None else {*(run["id"] for run in page["runs"]), *page.get("made", ())}
