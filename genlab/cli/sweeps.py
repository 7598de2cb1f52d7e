"""What `genlab sweep` does: list pages, run one, show its progress, judge it, tidy up.

In: the parsed arguments. Out: text on standard output, the exit code, and the files of the sweep.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from genlab.config import GenlabError
from genlab.config.errors import one_line, read_numbers
from genlab.experiment import Comparison
from genlab.fairness.budget import check_budget, solve_budget
from genlab.load import load_experiment
from genlab.machine.stopping import EXIT_FAILED, EXIT_OK
from genlab.report.console import align, fold
from genlab.report.text import format_quantity, format_seconds
from genlab.run.ownership import check_has_no_way_out, refuse_to_replace
from genlab.run.stored import write_atomically
from genlab.sweeps.executors import launch_on_skypilot, print_commands, run_locally
from genlab.sweeps.isoflop import PAGE
from genlab.sweeps.notebook import verdict_of, write_notebook
from genlab.sweeps.page import Sweep, SweepRun, expand, find_question, load_sweep
from genlab.sweeps.runs import (
    Cost,
    delete,
    find_cost,
    find_prunable,
    forget_failures,
    read_state,
    write_page,
)
from genlab.watch.progress import Progress
from genlab.watch.tensorboard import tensorboard_command

FOLDER = Path("sweeps")
TASK_FILE = FOLDER / "cloud" / "tpu.yaml"
STATE_WORDS = (1, 4, 5)  # columns of `_state_rows` that hold words: state, directory, reason


def act_on_sweep(arguments: argparse.Namespace) -> int:
    """Do the action that the arguments name, and return the exit code.

    Raises:
        GenlabError: if the page is missing or wrong, or the sweep cannot be run.
    """
    if arguments.action == "list":
        if not (folder := arguments.page or FOLDER).is_dir():
            raise GenlabError(
                f"sweep list {folder}: no such folder; give one that holds pages, for example "
                "sweeps"
            )
        print(align(list_pages(folder), words=(1, 2)))
        return EXIT_OK
    if arguments.page is None:
        raise GenlabError(
            f"sweep {arguments.action}: which page? give a Python file that defines sweep(), as "
            "docs/first_sweep.py in the repository does"
        )
    if arguments.action == "plan":
        return _plan(arguments)
    sweep = load_sweep(arguments.page)
    out = arguments.out or Path("runs") / f"sweep-{sweep.name}"
    actions = {"run": _run, "status": _status, "report": _report, "prune": _prune}
    return actions[arguments.action](sweep, out, arguments)


def list_pages(folder: Path) -> list[list[str]]:
    """Return a head and a row per page below `folder`; a page with a card shows its outcome.

    Nothing is executed: the folder may be anybody's.
    """
    rows = [["page", "question", "outcome"]]
    for path in sorted(folder.rglob("*.py")):
        question = find_question(path)
        if question is not None:
            card = path.with_suffix(".md")
            title = (
                card.read_text(encoding="utf-8", errors="replace").split("\n")[0]
                if card.is_file()
                else ""
            )
            rows.append([str(path), question, one_line(title.partition(": ")[2])])
    return rows


def describe_cost(cost: Cost) -> str:
    """Return what the sweep will spend, in a line."""
    return (
        f"{cost.runs} runs, {format_quantity(cost.train_flops, 'FLOP')} of training, checkpoints "
        f"{format_quantity(cost.disk_bytes, 'B')} at most, "
        f"an estimated {format_seconds(3600 * cost.device_hours)} of this device if it reached its "
        f"peak of {format_quantity(cost.flops_per_s, 'FLOP/s')} (training does not)"
    )


def _plan(arguments: argparse.Namespace) -> int:
    """Print what every family would spend at every budget and shape, and write the page that runs
    it.
    """
    config = load_experiment(arguments.page)
    if not isinstance(config, Comparison):
        raise GenlabError(f"{arguments.page}: kind {config.kind!r}, but a plan needs a comparison")
    budgets = read_numbers("--flops", arguments.flops or "", "1e13,3e13,1e14")
    families = arguments.families.split(",") if arguments.families else list(config.arms)
    if unknown := [name for name in families if name not in config.arms]:
        raise GenlabError(
            f"--families {unknown[0]}: no such arm in {arguments.page}; its arms are "
            f"{', '.join(config.arms)}"
        )
    out = arguments.out or FOLDER / f"isoflop_{config.name}.py"
    if out.suffix != ".py":
        raise GenlabError(f"--out {out}: expected the name of a page, which ends in .py")
    refuse_to_replace(out)
    facts = {"config": str(arguments.page), "families": tuple(families), "budgets": budgets}
    page = PAGE.format(name=out.stem, **facts)
    with tempfile.TemporaryDirectory() as folder:  # a page that cannot be run is not left behind
        trial = Path(folder) / "page.py"
        trial.write_text(page, encoding="utf-8")
        rows = _plan_rows(load_sweep(trial))
    write_atomically(out, page)
    print(f"{fold(rows)}\n\npage: {out}\nnext: genlab sweep run {shlex.quote(str(out))}")
    return EXIT_OK


def _plan_rows(sweep: Sweep) -> list[list[str]]:
    rows = [["budget", "shape", "family", "parameters", "steps", "epochs"]]
    runs = expand(sweep)
    for run in runs:
        check_budget(run.config)  # all of them, before the first corpus is built
    for run in runs:
        for name, budget in solve_budget(run.config, run.config.data.open()).items():
            backbone = run.config.run(name, run.config.seeds[0], budget.steps).backbone
            shape = f"{backbone.layers} x {backbone.width}"
            cells = [f"{budget.params:,}", f"{budget.steps:,}", f"{budget.epochs:.2f}"]
            rows.append([f"{run.point['budget.train_flops']:g}", shape, name, *cells])
    return rows


def _run(sweep: Sweep, out: Path, arguments: argparse.Namespace) -> int:
    with Progress() as progress:
        progress.note(describe_cost(find_cost(sweep, expand(sweep), progress)))
        runs = write_page(sweep, out)
        if arguments.retry_failed:
            progress.note(f"{forget_failures(runs, out)} failed runs will be retried")
        if arguments.dry_run:
            return EXIT_OK
        if arguments.executor == "print":
            print("\n".join(print_commands(runs, out)))
            return EXIT_OK
        if arguments.executor == "skypilot":
            print("\n".join(launch_on_skypilot(runs, out, TASK_FILE)))
            return EXIT_OK
        run_locally(runs, out, arguments.slots, progress)
    print(align(_state_rows(runs, out), words=STATE_WORDS))
    failed = any(read_state(run, out).state == "failed" for run in runs)
    return EXIT_FAILED if failed else EXIT_OK


def _status(sweep: Sweep, out: Path, arguments: argparse.Namespace) -> int:
    print(align(_state_rows(expand(sweep), out), words=STATE_WORDS))
    return EXIT_OK


def _report(sweep: Sweep, out: Path, arguments: argparse.Namespace) -> int:
    if not (out / "sweep.json").exists():
        raise GenlabError(
            f"{out}: no sweep here; run `genlab sweep run {shlex.quote(str(arguments.page))}` "
            "first, or name another --out"
        )
    check_has_no_way_out(out)
    runs = expand(sweep)
    states = [read_state(run, out).state for run in runs]
    # A card of a page that was not run states what is predicted, before anybody knows.
    if "finished" not in states and not arguments.card:
        told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        raise GenlabError(
            f"{out}: no run of this page has finished ({told}); run `genlab sweep run "
            f"{arguments.page}` first"
        )
    if arguments.card:
        _check_card(arguments.page, sweep)  # before anything is written
    text, findings = write_notebook(sweep, runs, arguments.page, out)
    print(text)
    if arguments.card:
        print(f"card:        {_write_card(arguments.page, text, out / 'figure.svg')}")
    # Apart, because every arm has a row in the table of its own run too.
    print(
        f"page:        {out / 'report.html'}\ntable:       {tensorboard_command(out / 'hparams')}"
    )
    print(f"audio:       {tensorboard_command(out / 'runs')}")
    print(f"verdict:     {verdict_of(findings)}")
    return EXIT_OK


def _check_card(page: Path, sweep: Sweep) -> None:
    """Refuse to write over a text that is no card, or a figure that no card shows: somebody made
    it.
    """
    card, figure = page.with_suffix(".md"), page.with_suffix(".svg")
    found = card.read_bytes() if card.is_file() else b""
    is_ours = found.startswith(f"# {sweep.name}:".encode())
    if found and not is_ours:
        raise GenlabError(
            f"{card}: is not the card of this page, which would begin with '# {sweep.name}:'; "
            "move it away"
        )
    refuse_to_replace(card, is_ours)
    refuse_to_replace(figure, is_ours and f"({figure.name})".encode() in found)


def _write_card(page: Path, text: str, figure: Path) -> Path:
    """Write the card of a page, with its figure, beside the Python file; return the card's path."""
    card, beside = page.with_suffix(".md"), page.with_suffix(".svg")
    # first: it says whose the figure is
    write_atomically(card, text.replace(f"({figure.name})", f"({beside.name})"))
    if figure.exists():
        write_atomically(beside, figure.read_text(encoding="utf-8"))
    else:
        beside.unlink(missing_ok=True)  # of an earlier card, or `_check_card` had refused
    return card


def _prune(sweep: Sweep, out: Path, arguments: argparse.Namespace) -> int:
    """List what would go, ask, delete it."""
    paths, strangers = find_prunable(sweep, expand(sweep), out)
    for path in strangers:
        print(f"{path}: not a run of this sweep, kept", file=sys.stderr)
    if not paths:
        print(f"{out}: nothing to prune")
        return EXIT_OK
    # What goes is listed in full before the question, and also without it under --yes.
    print("\n".join(map(str, paths)))
    if arguments.dry_run:
        return EXIT_OK
    if not arguments.yes:
        # In a script nobody can answer, and silence must not mean yes.
        if not sys.stdin.isatty():
            raise GenlabError(
                f"prune: {len(paths)} items would be deleted; add --yes if you want that"
            )
        if input(f"Delete these {len(paths)}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return EXIT_OK
    kept = delete(paths)
    for path in kept:
        print(f"{path}: a process works in that run, kept", file=sys.stderr)
    print(f"{len(paths) - len(kept)} deleted")
    return EXIT_OK


def _state_rows(runs: Sequence[SweepRun], out: Path) -> list[list[str]]:
    rows = [["run", "state", "attempts", "time", "directory", "reason"]]
    for run in runs:
        state = read_state(run, out)
        directory = os.path.join(out, "runs", run.id)
        spent = format_seconds(state.seconds) if state.seconds else ""
        rows.append(
            [
                run.label or "the run",
                state.state,
                str(state.attempts),
                spent,
                directory,
                state.reason[:120],
            ]
        )
    return rows
