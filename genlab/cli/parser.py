"""What the command line takes: every command but those of tools.py, its options and its help."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from genlab import __version__
from genlab.cli.extras import list_extras
from genlab.cli.inputs import add_inputs
from genlab.cli.tools import add_machine, add_own, takes_conditions
from genlab.cli.values import AddCommand, local, named, place, takes_config, takes_trust, whole


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line; the usage of a command with many options would bury it."""

    def error(self, message: str) -> NoReturn:
        from genlab.config.errors import one_line
        from genlab.machine.stopping import EXIT_USER_ERROR

        self.exit(EXIT_USER_ERROR, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")

    def refuse_unknown(self, words: list[str]) -> NoReturn:
        """Report words that mean nothing here, with the option that the first may have meant."""
        wrong = next((word for word in words if word.startswith("-")), words[0])
        options = [name for action in self._actions for name in action.option_strings]
        from genlab.config.errors import meant

        self.error(f"unrecognized arguments: {' '.join(words)}{meant(wrong, options)}")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            from genlab.config.errors import meant

            error.message += meant(str(value), map(str, action.choices or ()))
            raise


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; every command's help ends with an example."""
    parser = _Parser(
        prog="genlab",
        description="Compare audio decoders fairly on one token space.",
        epilog=(
            "extras (python -m pip install 'genlab[NAME]'; genlab doctor says which are "
            f"installed):\n{list_extras()}"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"genlab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(parser=command)
        return command

    # In the order of a first day: this is what `genlab --help` prints.
    _add_init(add)
    _add_runs(add)
    _add_results(add)
    _add_crossover(add)
    _add_sweep(add)
    add_inputs(add)
    add_machine(add)
    add_own(add)
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse; FIELD=VALUE may come anywhere, even after options, where argparse alone would refuse
    it. Without a command, print the help.
    """
    parser = build_parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        parser.exit()
    arguments, rest = parser.parse_known_args(argv)
    late = [item for item in rest if "=" in item and not item.startswith("-")]
    if len(late) < len(rest) or (late and not hasattr(arguments, "overrides")):
        # The parser of the command, which knows its options and what --help to look at.
        arguments.parser.refuse_unknown(rest)
    if late:
        arguments.overrides = [*arguments.overrides, *late]
    return arguments


def _add_runs(add: AddCommand) -> None:
    command = add(
        "compare",
        "Train, sample and score every arm of a comparison.",
        "genlab compare quickstart --out runs/first",
    )
    takes_config(command)
    command.add_argument(
        "--out", type=place, help="run directory (default: runs/NAME-KEY), also gs://BUCKET/PATH"
    )
    command.add_argument(
        "--pareto",
        action="store_true",
        help="then sample every arm at the same number of settings and plot quality against cost",
    )
    command.add_argument(
        "--tuned",
        type=local,
        metavar="TUNING.json",
        help="train each arm with its best setting from `genlab tune`",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print what would be done and measured, but train nothing",
    )
    _add_tuning(add)
    command = add(
        "train",
        "Train one model: codec, recogniser, or one arm of a comparison.",
        "genlab train quickstart --arm ar --out runs/ar",
    )
    takes_config(command)
    command.add_argument(
        "--out", type=place, help="run directory (default: runs/NAME-HASH), also gs://BUCKET/PATH"
    )
    # No choices: the arms are known only once the config is loaded.
    command.add_argument("--arm", help="which arm to train, if the config is a comparison")
    command = add(
        "sample",
        "Sample a trained arm from its run directory.",
        "genlab sample runs/first/arms/ar/seed0 --prompts 4 --out samples",
    )
    takes_config(command, "run directory of a trained arm")
    command.add_argument(
        "--out",
        type=place,
        default=Path("samples"),
        help="directory of the FLAC files (default: samples)",
    )
    command.add_argument(
        "--prompts", type=whole, default=8, help="how many held-out clips to sample (default 8)"
    )
    command.add_argument("--seed", type=whole, default=0, help="seed of the draws (default 0)")
    takes_conditions(command)
    _add_packages(add)


def _add_packages(add: AddCommand) -> None:
    command = add(
        "export",
        "Write a trained arm as a folder that travels: safetensors, its config, a README.",
        "genlab export runs/first/arms/ar/seed0 --out my-arm",
    )
    takes_config(command, "run directory of a trained arm")
    command.add_argument(
        "--out", type=local, required=True, metavar="FOLDER", help="a folder that does not exist"
    )
    # What is pushed is private unless somebody says otherwise: it cannot be taken back.
    command.add_argument(
        "--push", metavar="OWNER/NAME", help="upload it to this repository of the Hugging Face Hub"
    )
    command.add_argument(
        "--public", action="store_true", help="anybody may read a repository that --push makes"
    )
    command = add(
        "pull",
        "Download such a folder from the Hugging Face Hub.",
        "genlab pull me/my-arm --out my-arm",
    )
    command.add_argument("repository", type=named, metavar="OWNER/NAME")
    command.add_argument(
        "--out", type=local, required=True, metavar="FOLDER", help="a folder that does not exist"
    )
    command.add_argument("--revision", help="a branch, a tag or a commit (default: the newest)")


def _add_tuning(add: AddCommand) -> None:
    command = add(
        "tune",
        (
            "Tune the training settings of every arm: equal trials, equal FLOPs, one space, one "
            "validation score."
        ),
        "genlab tune quickstart --trials 16 --space 'peak_lr=[5e-4,5e-3]'",
    )
    takes_config(command)
    # No defaults here: the command must tell what was given from what was not, and Tuning has them.
    command.add_argument(
        "--trials", type=whole, help="settings to try per arm, including its own (default 16)"
    )
    command.add_argument(
        "--fraction",
        type=float,
        help="share of the arm's training budget that each trial gets (default 0.25)",
    )
    command.add_argument(
        "--by",
        metavar="SCORE",
        help="wer_ctc (default) or block_energy or block_energy_tuned, on validation prompts",
    )
    command.add_argument(
        "--sampler", help="random (default) or tpe, which gives no best-of-k curve"
    )
    command.add_argument(
        "--seed", type=whole, help="seed of the drawn settings and of sampling (default 0)"
    )
    command.add_argument(
        "--space",
        nargs="+",
        default=[],
        metavar="SETTING=[LOW,HIGH]",
        help=(
            "ranges of peak_lr, warmup_fraction, weight_decay, ema_decay or dropout, in quotation "
            "marks; equal ends fix a setting"
        ),
    )
    command.add_argument(
        "--out", type=place, help="directory of the trials (default: runs/tune-NAME-KEY)"
    )


def _add_init(add: AddCommand) -> None:
    command = add(
        "init",
        "Write the configs that come with genlab to a folder, for you to edit.",
        "genlab init configs",
    )
    command.add_argument(
        "folder",
        type=local,
        metavar="DIR",
        help="the folder; refused, before anything is written, if a file there differs",
    )


def _add_results(add: AddCommand) -> None:
    command = add(
        "evaluate",
        (
            "Score the samples of a comparison again, or print the excess bits of a run on a "
            "known-entropy source."
        ),
        "genlab evaluate runs/first evaluation.dnsmos_clips=32",
    )
    takes_config(
        command,
        "run directory of a comparison, or of an arm trained on a known-entropy source; with "
        "--audit, any config of a comparison",
    )
    command.add_argument(
        "--audit",
        action="store_true",
        help="only audit the metrics: which of them can be trusted on this corpus?",
    )
    command = add(
        "report", "Rewrite report.html from a finished run directory.", "genlab report runs/first"
    )
    takes_config(command, "run directory of a comparison")
    command = add(
        "listen",
        "Write a blind listening test for a finished comparison, or merge its answers.",
        "genlab listen runs/first --prompts 8",
    )
    # Not `takes_config`: a listening test is of a finished run, and overrides would change what
    # was heard.
    command.add_argument(
        "config", type=named, metavar="RUN_DIR", help="run directory of a comparison"
    )
    takes_trust(command)
    command.add_argument(
        "--test",
        choices=["mushra", "ab", "both"],
        default="both",
        help="rate clips, compare pairs, or both (default)",
    )
    command.add_argument(
        "--prompts",
        type=whole,
        help="how many prompts to hear (default: 10, or as many as differ)",
    )
    command.add_argument(
        "--seed",
        type=whole,
        default=0,
        help="seed of the choice of prompts (default 0); the key is always random",
    )
    command.add_argument(
        "--out", type=place, help="directory of the page, key and result (default: RUN_DIR/listen)"
    )
    command.add_argument(
        "--merge", nargs="+", type=local, metavar="ANSWERS.json", help="answers of the listeners"
    )


def _add_crossover(add: AddCommand) -> None:
    command = add(
        "crossover",
        (
            "Find the budget at which the ranking of families flips, and plan a sweep that would "
            "show it."
        ),
        (
            "genlab crossover runs/small runs/medium runs/large --score wer_ctc --against flops "
            "--plan 1e12,3e12,1e13"
        ),
    )
    # Not `takes_config`: several directories, and nothing in them may change.
    command.add_argument(
        "runs",
        nargs="+",
        type=local,
        metavar="RUN_DIR",
        help="finished comparisons at several budgets",
    )
    command.add_argument("--score", required=True, help="name of the score in results.json")
    command.add_argument(
        "--against",
        choices=["flops", "epochs", "seconds"],
        default="flops",
        help="the x axis (default: flops)",
    )
    command.add_argument(
        "--plan",
        metavar="X,X,X",
        help="budgets of a planned sweep: how likely is it to show the crossing?",
    )
    command.add_argument(
        "--seeds", type=whole, default=3, help="training seeds per budget of the plan (default 3)"
    )
    command.add_argument(
        "--exponents",
        metavar="FAMILY=C,...",
        help="plan with score ~ x^-C through the given runs, so that one budget is enough",
    )


def _add_sweep(add: AddCommand) -> None:
    command = add(
        "sweep",
        (
            "Run a page of the lab notebook: many comparisons that can be killed and resumed, "
            "judged by its predictions."
        ),
        "genlab sweep run my_page.py --slots 2",
    )
    # Actions and not subcommands, because they share the page and most options.
    command.add_argument("action", choices=["list", "plan", "run", "status", "report", "prune"])
    command.add_argument(
        "page",
        nargs="?",
        type=local,
        help=(
            "Python file that defines sweep(), as docs/first_sweep.py in the repository does; for "
            "list, a folder; for plan, a config"
        ),
    )
    command.add_argument(
        "--out",
        type=local,
        help="directory of the sweep (default: runs/sweep-NAME); for plan, the page to write",
    )
    command.add_argument(
        "--flops", metavar="C,C,C", help="plan: budgets of an IsoFLOP sweep, in training FLOPs"
    )
    command.add_argument(
        "--families", metavar="ARM,ARM", help="plan: arms of the config (default: all)"
    )
    command.add_argument(
        "--executor", choices=["local", "print", "skypilot"], default="local", help="default: local"
    )
    command.add_argument(
        "--slots",
        type=whole,
        default=1,
        help="run: how many processes at a time on this machine (default 1)",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="run: check everything, print the cost, start nothing; prune: list only",
    )
    command.add_argument("--yes", action="store_true", help="prune: delete without asking")
    command.add_argument(
        "--retry-failed", action="store_true", help="run: retry runs that are marked as failed"
    )
    command.add_argument(
        "--card", action="store_true", help="report: also write the page beside the Python file"
    )
