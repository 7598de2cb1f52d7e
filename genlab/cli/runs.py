"""What each command does: load its config, call one function of the library, print what a person
needs next.

Every function takes the parsed arguments and the command line as typed (it goes into results.json),
and returns the exit code.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any, TypeVar

from genlab.cli.directories import (
    DATA_WORDS,
    name_arms,
    refuse_slip_of_check,
    require_run,
    run_directory,
)
from genlab.config import Config, ConfigError, GenlabError
from genlab.config.shipped import find_config
from genlab.data.known_entropy import KnownEntropy
from genlab.experiment import Comparison, DecoderRun
from genlab.load import load_experiment
from genlab.machine import hosts
from genlab.report.inputs import read_ledger
from genlab.run import checkpoint
from genlab.run.bucket import shown
from genlab.run.files import write_config
from genlab.run.trust import texts_of
from genlab.watch.progress import Progress

Made = TypeVar("Made", bound=Config)


def compare(arguments: argparse.Namespace, command: str) -> int:
    """Run a comparison and print its table."""
    from genlab.compare import compare as run_comparison
    from genlab.compare import rewrite_report
    from genlab.report.console import fold, format_results
    from genlab.studies.pareto import check_fronts, format_fronts, trace_fronts
    from genlab.watch.tensorboard import tensorboard_command

    config, tuning = _load(arguments, Comparison), None
    if arguments.tuned:
        from genlab.studies.tuned import apply_tuning

        config, tuning = apply_tuning(config, arguments.tuned)
    if arguments.dry_run:
        return _rehearse(config, arguments)
    out = arguments.out or Path("runs") / f"{config.name}-{config.digest(exclude={'settings'})}"
    with Progress() as progress:
        if arguments.pareto:
            check_fronts(config, progress)
        results = run_comparison(config, out, progress, command, tuning)
        fronts = (
            trace_fronts(config, out, progress) if arguments.pareto and hosts.is_leader() else []
        )
        if fronts:
            rewrite_report(config, out, progress)
    hosts.wait_for_all("everything is written")
    if results is None or not hosts.is_leader():  # they need not be on the disk of another
        return 0
    print(format_results(results, read_ledger(out)))
    if fronts:
        print("\n" + fold(format_fronts(fronts)))
    print(
        f"\nreport:      {shown(out / 'report.html')}\ntensorboard: "
        f"{tensorboard_command(shown(out))}"
    )
    return 0


def _rehearse(config: Comparison, arguments: argparse.Namespace) -> int:
    """Print what a comparison would do."""
    from genlab.preflight import rehearse
    from genlab.report.console import format_plan
    from genlab.studies.pareto import check_fronts
    from genlab.watch.profiling import find_peak_flops

    with Progress() as progress:
        found = rehearse(config, progress)
        if arguments.pareto:
            check_fronts(config, progress)
    print(format_plan(config, found, find_peak_flops()))
    return 0


def tune(arguments: argparse.Namespace, command: str) -> int:
    """Tune every arm with equal trials and print what was found."""
    from genlab.studies.tune import tune_from_arguments

    with Progress() as progress:
        print(tune_from_arguments(arguments, _load(arguments, Comparison), progress))
    return 0


def train(arguments: argparse.Namespace, command: str) -> int:
    """Train one model in its run directory."""
    from genlab.arms import train_arm
    from genlab.changes import check_same_training
    from genlab.inputs import open_store
    from genlab.run.ownership import check_is_ours
    from genlab.run.status import hold_run
    from genlab.train import train as run_training
    from genlab.watch.tensorboard import RunWriter, TrainingLog

    run = _read(arguments)
    with Progress() as progress, contextlib.ExitStack() as stack:
        if isinstance(run, Comparison):
            run = _pick_arm(run, arguments.arm, progress)
        out = arguments.out or Path("runs") / run.slug
        stack.enter_context(hold_run(out))
        if isinstance(run, DecoderRun):
            result = train_arm(
                run, open_store(run.data, out, progress, parts=run.condition.parts), out, progress
            )
        else:
            # Everything that can refuse comes before the directory is made and the corpus is built.
            check_is_ours(out)
            check_same_training(run, out)
            out.mkdir(parents=True, exist_ok=True)
            write_config(out, run.to_dict())
            source = run.source(progress)
            with RunWriter(out, resume_step=max(checkpoint.saved_steps(out), default=0)) as writer:
                result = run_training(
                    run.build,
                    source,
                    steps=run.steps,
                    optim=run.optim,
                    seed=run.seed,
                    settings=run.settings,
                    run_dir=out,
                    writer=TrainingLog(writer, run.kind, run.loss_unit),
                    progress=progress,
                )
    print(
        f"{shown(out)}: {result.steps} steps in {result.wall_s:.0f} s, batches {result.batch_hash}"
    )
    print(json.dumps({name: round(value, 5) for name, value in result.last_metrics.items()}))
    return 0


def sample(arguments: argparse.Namespace, command: str) -> int:
    """Sample a trained arm and write FLAC files."""
    from genlab.decoders.told.by_hand import ByHand
    from genlab.prompts import parse_span
    from genlab.sample import sample_run

    keep, by_hand = parse_span(arguments.keep), ByHand.read(vars(arguments), arguments.seconds)
    require_run(arguments.config, "runs/first/arms/ar/seed0")
    run = _read(arguments)
    if isinstance(run, Comparison):
        raise GenlabError(name_arms(run, Path(arguments.config)))
    run = _load(arguments, DecoderRun)
    run_dir, out = Path(arguments.config), arguments.out
    if arguments.endless is not None:
        from genlab.studies.endless import play_endless

        # Neither means anything here: there is no clip to keep a part of, nor one to be as long as.
        if keep is not None or arguments.seconds is not None:
            raise GenlabError(
                "--endless: nothing is kept and it has no other length; leave out "
                "--keep and --seconds"
            )
        lines = play_endless(run, run_dir, out, arguments.endless, arguments.seed, by_hand)
    else:
        lines = sample_run(run, run_dir, out, arguments.prompts, arguments.seed, keep, by_hand)
    print("\n".join(lines))
    return 0


def export(arguments: argparse.Namespace, command: str) -> int:
    """Write a trained arm as a folder that travels."""
    from genlab.cli.packages import export_run

    require_run(arguments.config, "runs/first/arms/ar/seed0")
    run = _read(arguments)
    if isinstance(run, Comparison):
        raise GenlabError(name_arms(run, Path(arguments.config)))
    export_run(run, arguments)
    return 0


def pull(arguments: argparse.Namespace, command: str) -> int:
    """Download such a folder."""
    from genlab.cli.packages import pull as pull_here

    pull_here(arguments)
    return 0


def evaluate(arguments: argparse.Namespace, command: str) -> int:
    """Score a comparison's samples again, or compare the score of a run with the entropy of its
    source.
    """
    from genlab.changes import SCORING, check_changes
    from genlab.report.console import format_audit, format_results
    from genlab.score import audit
    from genlab.studies.rescore import rescore

    if arguments.audit:
        with Progress() as progress:
            print(format_audit(audit(_load(arguments, Comparison), progress)))
        return 0
    out = run_directory(arguments.config)
    # Without audio there are no samples to score: the bits are compared with the entropy of the
    # source.
    made, run = _read_made(arguments), _read(arguments)
    if isinstance(run, DecoderRun) and run.data.source is not None:
        check_changes(made, run, ("settings",))
        return _evaluate_on_source(run, run.data.source, out)
    config = _load(arguments, Comparison)
    check_changes(made, config, SCORING)
    with Progress() as progress:
        results = rescore(config, out, progress, command)
    print(format_results(results, read_ledger(out)))
    return 0


def _evaluate_on_source(run: DecoderRun, source: KnownEntropy, run_dir: Path) -> int:
    from genlab.evaluate.likelihood import can_score, measure_excess
    from genlab.inputs import open_store
    from genlab.train import load_trained

    store = open_store(run.data, run_dir)
    decoder = load_trained(lambda key: run.build_for(store, key), run_dir)
    if not can_score(decoder):
        raise GenlabError(
            f"{run_dir}: the {run.arm.decoder.kind} decoder has no likelihood, so it cannot be "
            "scored in bits"
        )
    print(source.describe())
    print(measure_excess(decoder, source, store, num_frames=run.data.num_frames).describe())
    return 0


def budget(arguments: argparse.Namespace, command: str) -> int:
    """Print what every arm will spend."""
    from genlab.fairness.budget import check_budget, check_flops, check_memory, solve_budget
    from genlab.report.console import format_budget

    config = _load(arguments, Comparison)
    check_budget(config)
    with Progress() as progress:
        store = config.data.open(progress, parts=config.condition.parts)
    budgets = solve_budget(config, store)
    runs = {name: config.run(name, config.seeds[0], budgets[name].steps) for name in budgets}
    print(
        format_budget(
            config, budgets, {name: check_flops(run, store) for name, run in runs.items()}
        )
    )
    for name, run in runs.items():
        try:
            check_memory(run, budgets[name].params)
        except GenlabError as error:  # it may be meant for another machine
            print(f"not on this machine: {error}")
    return 0


def data(arguments: argparse.Namespace, command: str) -> int:
    """Build corpus and token store, check what was built, or download a corpus."""
    from genlab.cli.corpora import check_data, describe_corpus
    from genlab.cli.tokens import act_on_words
    from genlab.data.corpus import build_corpus
    from genlab.evaluate.hearing import describe_hearing

    if arguments.config in DATA_WORDS:
        return 0 if act_on_words(arguments) else check_data(arguments)
    refuse_slip_of_check(arguments.config, arguments.overrides)
    config = _read(arguments)
    with Progress() as progress:
        if isinstance(config, Comparison | DecoderRun):
            source = config.data.source
            if not config.data.has_recordings:
                manifests, store = [], config.data.open(progress)
            else:
                config.data.load_codec()  # missing weights must not cost the wait for a corpus
                manifests = [build_corpus(config.data.corpus, progress=progress, is_quiet=True)]
                store = config.data.open(progress, manifests[0], parts=config.condition.parts)
            print(
                f"token store {store.directory}: codec {store.info.codec_fingerprint}, "
                f"{store.info.num_units} units"
            )
            if source is not None:
                print(source.describe())
        else:
            manifests = [
                build_corpus(share.corpus, progress=progress, is_quiet=True)
                for share in config.data
            ]
    corpora = (
        [config.data.corpus]
        if isinstance(config, Comparison | DecoderRun)
        else [share.corpus for share in config.data]
    )
    for corpus, manifest in zip(corpora, manifests):  # tokens that never were audio have none
        print("\n".join([*describe_corpus(manifest), *describe_hearing(corpus, manifest)]))
    return 0


def codec(arguments: argparse.Namespace, command: str) -> int:
    """Export a codec, load a published one, describe or score one, bench or probe several, or code
    a file.
    """
    from genlab.cli.codecs import act_on_codec

    act_on_codec(arguments)
    return 0


def sweep(arguments: argparse.Namespace, command: str) -> int:
    """List, run, watch, judge or tidy sweeps."""
    from genlab.cli.sweeps import act_on_sweep

    return act_on_sweep(arguments)


def report(arguments: argparse.Namespace, command: str) -> int:
    """Write report.html and the TensorBoard pages again."""
    from genlab.changes import check_changes
    from genlab.compare import rewrite_report

    out = run_directory(arguments.config)
    config = _load(arguments, Comparison)
    check_changes(_read_made(arguments), config, ("settings",))
    with Progress() as progress:
        print(shown(rewrite_report(config, out, progress)))
    return 0


def crossover(arguments: argparse.Namespace, command: str) -> int:
    """Print where the ranking of families flips."""
    from genlab.studies.crossover import describe_crossover

    print(describe_crossover(arguments))
    return 0


def listen(arguments: argparse.Namespace, command: str) -> int:
    """Write a listening test, or merge the answers to it."""
    from genlab.listen.page import write_test
    from genlab.listen.ratings import merge_answers
    from genlab.listen.table import format_listening

    run_dir = run_directory(arguments.config)
    out = arguments.out or run_dir / "listen"
    if arguments.merge:
        print(
            format_listening(merge_answers(arguments.merge, out))
            + f"\n\n{shown(out / 'listening.json')}"
        )
        return 0
    arguments.overrides = []
    tests = ("mushra", "ab") if arguments.test == "both" else (arguments.test,)
    with Progress() as progress:
        config = _load(arguments, Comparison)
        print(write_test(config, run_dir, out, tests, arguments.prompts, arguments.seed, progress))
    return 0


def bench(arguments: argparse.Namespace, command: str) -> int:
    """Measure speed."""
    from genlab.speed.bench import format_line, run_workloads

    for line in run_workloads(
        tuple(arguments.workloads),
        rounds=arguments.rounds,
        quick=arguments.quick,
        sizes=tuple(arguments.size or ()),
        profiles=arguments.profile,
    ):
        print(json.dumps(line) if arguments.json else format_line(line), flush=True)
    return 0


def aot(arguments: argparse.Namespace, command: str) -> int:
    """Compile the programs of every arm for a TPU slice that need not be there."""
    from genlab.speed.table import report_compiled

    return report_compiled(_read(arguments), arguments, command)


def check(arguments: argparse.Namespace, command: str) -> int:
    """Try out a class of the user's own; the exit code says whether all promises hold."""
    from genlab.studies.contract import check_target

    findings = check_target(arguments.target, arguments.overrides)
    for finding in findings:
        print(
            f"FAILED  {finding.promise}: {finding.problem}"
            if finding.problem
            else f"ok      {finding.promise}"
        )
    broken = sum(bool(finding.problem) for finding in findings)
    print(
        f"{arguments.target}: "
        f"{f'{broken} of {len(findings)} promises broken' if broken else 'all promises kept'}"
    )
    return 1 if broken else 0


def init(arguments: argparse.Namespace, command: str) -> int:
    """Write the configs that come with genlab to a folder."""
    from genlab.cli.init import write_configs

    written = write_configs(arguments.folder)
    print(
        f"{len(written)} configs in {arguments.folder}; next: genlab compare "
        f"{arguments.folder / 'quickstart.py'}"
    )
    return 0


def launch(arguments: argparse.Namespace, command: str) -> int:
    """Run a comparison on a rented slice."""
    from genlab.cli.launch import launch as launch_there

    return launch_there(_load(arguments, Comparison), arguments)


def doctor(arguments: argparse.Namespace, command: str) -> int:
    """Print what this machine has."""
    from genlab.cli.doctor import examine

    lines, is_healthy = examine()
    print("\n".join(lines))
    return 0 if is_healthy else 1


def _read(arguments: argparse.Namespace) -> Any:
    """Return the experiment that the arguments name, with their overrides.

    What a config.json refers to is not downloaded for it; compiling alone needs no codec.
    """
    from genlab.codecs.frozen import check_is_local

    overrides = tuple(arguments.overrides)
    config = load_experiment(arguments.config, overrides, trust_code=arguments.trust_code)
    is_data = (
        isinstance(config, Comparison | DecoderRun)
        and find_config(arguments.config).suffix != ".py"
    )
    codec = config.data.codec if is_data else None
    if codec is not None and arguments.command != "aot" and codec not in texts_of(overrides):
        check_is_local(codec, Path(arguments.config))
    return config


def _read_made(arguments: argparse.Namespace) -> Any:
    """Return the experiment of a run directory as it was made, without overrides."""
    named = texts_of(tuple(arguments.overrides))
    return load_experiment(arguments.config, named=named, trust_code=arguments.trust_code)


def _load(arguments: argparse.Namespace, kind: type[Made]) -> Made:
    config = _read(arguments)
    if not isinstance(config, kind):
        wanted = kind.model_fields["kind"].default
        raise ConfigError(
            f"{arguments.config}: kind {config.kind!r}, but this command needs {wanted!r}"
        )
    return config


def _pick_arm(config: Comparison, name: str | None, progress: Progress) -> DecoderRun:
    from genlab.fairness.budget import check_budget, check_memory, solve_budget

    if name is None:
        raise GenlabError(
            "--arm is missing: this config is a comparison, choose one of its arms: "
            f"{', '.join(config.arms)}; for example --arm {next(iter(config.arms))}"
        )
    if name not in config.arms:
        raise GenlabError(
            f"--arm {name}: this config is a comparison, choose one of its arms: "
            f"{', '.join(config.arms)}"
        )
    check_budget(config)
    store = config.data.open(progress, parts=config.condition.parts)
    budget = solve_budget(config, store)[name]
    run = config.run(name, config.seeds[0], budget.steps)
    check_memory(run, budget.params)
    return run
