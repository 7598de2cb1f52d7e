"""The command line of what arms read: corpora, tokens and codecs.

In: the function that adds a command. Out: its options; what the commands do is in tokens.py,
codecs.py and runs.py.
"""

from genlab.cli.values import AddCommand, local, takes_config, takes_trust, whole


def add_inputs(add: AddCommand) -> None:
    """Add the commands of budgets, corpora and codecs."""
    command = add(
        "budget",
        "Print what every arm would spend, without spending it.",
        "genlab budget quickstart",
    )
    takes_config(command)
    _add_data(add)
    _add_codec(add)


def _add_codec(add: AddCommand) -> None:
    # Positions and not subcommands, because the actions share most options.
    command = add(
        "codec",
        (
            "Load, describe, score, benchmark or probe codecs, export a trained one (or a "
            "recogniser), or code a file."
        ),
        "genlab codec load mimi --weights path/to/mimi",
    )
    command.add_argument(
        "action", choices=["info", "load", "export", "roundtrip", "score", "bench", "probe"]
    )
    command.add_argument(
        "paths",
        nargs="*",
        type=local,
        help=(
            "load KIND | export RUN_DIR OUT.safetensors | roundtrip IN.wav OUT.wav | score, bench "
            "or probe DIR"
        ),
    )
    command.add_argument(
        "--codec",
        default="in_lab_16khz",
        help=(
            "shipped name, path of exported weights, KIND, KIND:SOURCE or KIND@LEVELS:SOURCE "
            "(default: in_lab_16khz); "
            "bench and probe take several, separated by commas; probe also takes several trainings "
            "of one variant, joined by +"
        ),
    )
    command.add_argument(
        "--weights", help="load: a directory with the published files, or a Hub id"
    )
    command.add_argument(
        "--levels", type=whole, help="how many codebooks to decode, from the first (default: all)"
    )
    command.add_argument(
        "--channels",
        type=whole,
        choices=(1, 2),
        help=(
            "score, bench and roundtrip: mono or stereo (default: what the file has for roundtrip, "
            "else mono)"
        ),
    )
    takes_trust(command)
    command.add_argument(
        "--speakers", nargs="+", help="keep only these speakers of the folder's metadata.csv"
    )
    command.add_argument(
        "--json", action="store_true", help="bench: JSON instead of a Markdown table"
    )


def _add_data(add: AddCommand) -> None:
    command = add(
        "data",
        (
            "Build a corpus and its token store and say what is in them; `data check CONFIG` "
            "verifies every byte, `data fetch NAME DIR` downloads a published corpus. `data import "
            "DIR`, `data check DIR` and `data export CONFIG OUT` are for tokens that were encoded "
            "elsewhere, or are to be used elsewhere. `data encode CONFIG` encodes on several "
            "workers with Apache Beam."
        ),
        "genlab data quickstart",
    )
    # `check`, `encode`, `fetch`, `import` and `export` are words before the config and no
    # subcommands, so that `genlab data CONFIG` stays as short as the other commands.
    takes_config(
        command,
        "as in compare; `check` before it verifies, `fetch` alone lists what can be had; `import`, "
        "`encode` and `export` as above",
    )
    command.add_argument(
        "--sources",
        type=local,
        metavar="FILE.json",
        help="fetch: addresses to use instead of those that come with genlab, such as a mirror's",
    )
    command.add_argument(
        "--format",
        choices=["npz", "webdataset", "array_record", "parquet"],
        default="npz",
        help="export: what to write (default: npz)",
    )
    command.add_argument(
        "--picture", type=local, metavar="FILE.png", help="check DIR: also draw the codes"
    )
    command.add_argument(
        "--runner",
        choices=["direct", "dataflow"],
        default="direct",
        help="encode: processes of this machine (default: direct), or Google Cloud Dataflow",
    )
    command.add_argument(
        "--workers", type=whole, default=2, help="encode: how many workers (default 2)"
    )
    command.add_argument(
        "--beam",
        metavar="'--OPTION=VALUE ...'",
        help="encode: further options of Beam's, after an equals sign: --beam='--region=us-east1'",
    )
