"""Arguments: commands with numbers, paths, names and flags that are wrong, missing, doubled or out
of place.

Every command line has at least one argument that cannot be right, or is harmless as it is: nothing
here trains.
"""

import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

from . import clouds
from .contract import Trial, snapshot
from .damage import TEXTS
from .run_dirs import copy_pilot, copy_run
from .world import World

BAD_NUMBERS = (
    "-1",
    "0",
    "nan",
    "inf",
    "1e999",
    "x",
    "",
    "1.5",
    "9" * 5000,
    "-0",
    "0x10",
    "1,2",
    "--1",
    "²",
)
BAD_PATHS = (
    "none",
    "/none/x",
    "",
    ".",
    "..",
    "/dev/null",
    "~",
    "a\nb",
    "x" * 300,
    "x" * 5000,
    "gs://",
    "s3://x/y",
    "http://x/y",
    "none.py",
    "none.json",
    "-",
    "é",
    "\x1b[31m.py",
)
# Words in capitals are replaced: ODD by a path that may be there, BAD by one that is not.
PATH_COMMANDS = (
    "budget ODD",
    "data ODD",
    "data check",
    "data check ODD",
    "report ODD",
    "listen ODD --out OUT",
    "listen RUN --out OUT --merge ODD",
    "sample ODD --out OUT",
    "sample RUN --out OUT",
    "evaluate ODD",
    "evaluate RUN FIELD",
    "crossover ODD RUN --score wer_ctc",
    "sweep status ODD --out OUT",
    "sweep report PAGE --out OUT",
    "sweep run ODD --out OUT",
    "sweep list ODD x",
    "sweep plan ODD --out OUT --flops 1e9",
    "compare ODD --out OUT",
    "compare CONFIG --out OUT --tuned ODD",
    "train ODD --out OUT",
    "train CONFIG --out OUT --arm ARM",
    "tune ODD --out OUT",
    "aot ODD --topology v6e-16",
    "aot CONFIG --topology ODD",
    "codec export ODD TARGET",
    "codec roundtrip BAD TARGET",
    "codec roundtrip WAV NOWHERE",
    "codec roundtrip WAV MISNAMED",
    "codec info --codec ODD",
    "codec score BAD",
    "codec bench BAD",
    "codec probe BAD",
    "codec probe AUDIO --codec ODD",
    "codec load ODD",
    "codec load encodec --weights ODD",
)
COMMANDS = (
    "aot",
    "bench",
    "budget",
    "codec",
    "compare",
    "crossover",
    "data",
    "doctor",
    "evaluate",
    "launch",
    "listen",
    "report",
    "sample",
    "sweep",
    "train",
    "tune",
)


def draw(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a command line."""
    kinds = (
        (_draw_number, 5),
        (_draw_path, 5),
        (_draw_grammar, 4),
        (_draw_mixture, 3),
        (_draw_deletion, 1),
        (clouds.draw, 4),
    )
    [kind] = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
    return kind(rng, world, place)


def _run_process(argv: list[str]) -> int:
    """Run the command as a user does, in a process of its own; its streams are ours."""
    return subprocess.run(
        [sys.executable, "-m", "genlab.cli", *argv], stdin=subprocess.DEVNULL, check=False
    ).returncode


def _run(
    argv: list[str], names: list[str], world: World, place: Path, must_refuse: bool = True
) -> Trial:
    from genlab.cli import main as run_here

    argv = [_as_shell(item) for item in argv]
    shown = " ".join(repr(item) if len(item) < 80 else f"{item[:40]!r}..." for item in argv)
    names = [" ".join(name.split()) for name in names]  # a line shows line breaks as blanks
    names = [name[:40] for name in names if name and name[:40].isprintable()]
    # A few in processes of their own, chosen by what they are: the same input is always run in the
    # same way.
    is_apart = (
        zlib.crc32(" ".join(word for word in argv if "/" not in word).encode("utf-8", "replace"))
        % 40
        == 0
    )
    main = _run_process if is_apart and "" not in argv else run_here
    return Trial(
        f"genlab {shown}",
        lambda: main(argv),
        tuple(names),
        is_command=True,
        must_refuse=must_refuse,
    )


def _as_shell(text: str) -> str:
    """Return what a shell can pass: no NUL, and bytes that are no text as surrogates."""
    return (
        text.replace("\0", "")
        .encode("utf-8", "replace" if "\ud800" in text else "surrogateescape")
        .decode("utf-8")
    )


def _draw_number(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a number where another one is expected."""
    run, number, out = str(world.run), rng.choice(BAD_NUMBERS), ["--out", str(place / "out")]
    arm, page, pilot = f"{run}/arms/ar/seed0", str(world.page), copy_pilot(world, place)
    spans = (
        "nan:1",
        "5:1",
        "0:99",
        "inf:inf",
        "0:nan",
        "-1:1",
        "0",
        "0:1:2",
        ":",
        "a:b",
        "1e999:2",
        "0:0",
        "9:9",
    )
    span, word = rng.choice(spans), rng.choice(("0", "-1", "x", ""))
    cases: list[tuple[str, list[str]]] = [
        ("--prompts", ["sample", arm, *out, "--prompts", number]),
        (
            "--seed",
            [
                "sample",
                arm,
                *out,
                "--seed",
                rng.choice(("-1", "x", str(2**32), str(2**64), "9" * 5000, "nan")),
            ],
        ),
        ("--keep", ["sample", arm, *out, "--keep", span]),
        ("--prompts", ["listen", run, *out, "--prompts", number]),
        ("--slots", ["sweep", "run", page, *out, "--slots", number]),
        ("--rounds", ["bench", "--rounds", number]),
        ("--trials", ["tune", run, *out, "--trials", number]),
        (
            "--fraction",
            [
                "tune",
                run,
                *out,
                "--fraction",
                rng.choice(("0", "-1", "nan", "inf", "2", "x", "1e999")),
            ],
        ),
        (
            "--seed",
            ["tune", run, *out, "--seed", rng.choice(("-1", "x", "1e9", str(2**32), "9" * 5000))],
        ),
        (
            "peak_lr",
            ["tune", run, *out, "--space", f"peak_lr=[{number},{rng.choice(BAD_NUMBERS)}]"],
        ),
        (
            "--space",
            [
                "tune",
                run,
                *out,
                "--space",
                rng.choice(("x=1", "peak_lr", "=", "peak_lr=[1]", "lr=[1,2]")),
            ],
        ),
        (
            "--seeds",
            ["crossover", *pilot, "--score", "wer_ctc", "--plan", "1e9,2e9,4e9", "--seeds", number],
        ),
        (
            "--plan",
            [
                "crossover",
                *pilot,
                "--score",
                "wer_ctc",
                "--plan",
                rng.choice((number, f"{number},1e9", ",")),
            ],
        ),
        (
            "--exponents",
            [
                "crossover",
                *pilot,
                "--score",
                "wer_ctc",
                "--plan",
                "1e9,2e9,4e9",
                "--exponents",
                f"ar={number}",
            ],
        ),
        (
            "--flops",
            [
                "sweep",
                "plan",
                f"{run}/config.json",
                *out,
                "--flops",
                rng.choice((word, f"1e9,{word}", "nan")),
            ],
        ),
        (
            "--levels",
            [
                "codec",
                "roundtrip",
                str(world.audio / "c00.wav"),
                str(place / "o.wav"),
                "--levels",
                number,
            ],
        ),
        ("--prompts", ["sample", arm, *out, "--prompts", str(10**9)]),
        ("--by", ["tune", run, *out, "--by", number]),
        ("--sampler", ["tune", run, *out, "--sampler", number]),
    ]
    flag, argv = rng.choice(cases)
    return _run(
        argv,
        [flag, flag.strip("-"), "unrecognized", "expected one argument", "which"],
        world,
        place,
    )


def _draw_path(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a path where there is nothing, or something else."""
    odd = rng.choice((*BAD_PATHS, str(world.audio), str(world.audio / "c00.wav"), str(world.cache)))
    # these hold who knows what
    bad = rng.choice([path for path in BAD_PATHS if path not in (".", "..", "~", "")])
    words = {
        "ODD": odd,
        "BAD": bad,
        "OUT": str(place / "out"),
        "RUN": str(world.run),
        "CONFIG": str(world.run / "config.json"),
        "PAGE": str(world.page),
        "AUDIO": str(world.audio),
        "WAV": str(world.audio / "c00.wav"),
        "TARGET": str(place / "o.wav"),
        "NOWHERE": str(place / "none" / "o.wav"),
        "MISNAMED": str(place / f"o{rng.choice(('', '.m4a', '.txt', '.py'))}"),
        "FIELD": rng.choice(
            ("batch_size=3", "seeds=[1]", "evaluation.none=1", "data.num_frames=1")
        ),
        "ARM": rng.choice(("x", "", "real")),
    }
    command = rng.choice(PATH_COMMANDS)
    if command.startswith("evaluate RUN"):
        return _draw_evaluate(copy_run(world, place / "run"), words["FIELD"])
    argv = [words.get(word, word) for word in command.split()]
    names = [
        "--speakers",
        "trained arms",
        bad,
        repr(bad)[1:-1],
        repr(odd)[1:-1],
        odd,
        odd.strip(),
        Path(odd).stem if odd else "",
        "config",
        "expected",
        "--out",
        "path",
        "directory",
    ]
    return _run(argv, [*names, *argv[2:]], world, place)


def _draw_evaluate(run: Path, field: str) -> Trial:
    """Return an evaluation with an override that would need another training: the run must stay as
    it is.
    """
    from genlab.cli import main

    before = snapshot(run)

    def act() -> int:
        code = main(["evaluate", str(run), field])
        changed = {name for name, state in before.items() if snapshot(run).get(name) != state}
        if code and {Path(name).name for name in changed} - {"lock", "status.json"}:
            raise AssertionError(f"refused, but changed {sorted(changed)[:3]}")
        return code

    names = (field.partition("=")[0], "evaluation")
    return Trial(f"genlab evaluate RUN {field}", act, names, is_command=True, must_refuse=True)


def _draw_grammar(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a command line that is none: unknown commands and flags, values missing, too much of
    everything.
    """
    name, odd = rng.choice(COMMANDS), rng.choice(TEXTS)
    cases = [
        [odd],
        [name.upper()],
        [name[:-1] + "q"],
        [name, "--no-such-flag"],
        [name, "--out"],
        ["--verbose", name],
        [name, "--no-such=1", "x"],
        ["codec", "no_such_action"],
        ["sweep", "no_such_action"],
        ["codec"],
        ["sweep"],
        ["codec", "roundtrip", "a", "b", "c"],
        ["codec", "info", "x"],
        ["sweep", "run"],
        ["crossover"],
        ["sample"],
        ["crossover", "a", "--score"],
        ["listen", str(world.run), "--test", "abx"],
        ["aot", str(world.run)],
        ["bench", odd or "x"],
        ["bench", "--quick", "no_such_workload"],
        ["crossover", str(world.run), "--against", "x"],
        ["budget"],
        ["budget", str(world.run), "--", odd],
        ["doctor", odd or "x"],
        ["launch", str(world.run)],
        ["data", "encode"],
        ["report", str(world.run), "a", "b"],
        ["tune", str(world.run), "--trials"],
        ["train", str(world.run), "--arm", "ar", "--arm"],
    ]
    return _run(rng.choice(cases), [], world, place)


def _draw_mixture(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a command that only reads, with overrides and flags that may be anything: accepted or
    refused.
    """
    run, page = str(copy_run(world, place / "run")), str(world.page)
    cases = [
        ["budget", run],
        [
            "crossover",
            run,
            *copy_pilot(world, place),
            "--score",
            rng.choice(("wer_ctc", "dnsmos_ovrl", "kad", *TEXTS)),
        ],
        ["sweep", "status", page, "--out", str(place / "sweep")],
        ["codec", "info", "--codec", str(world.codec)],
        ["sweep", "list", str(world.page.parent)],
        ["sweep", "run", page, "--out", str(place / "sweep"), "--dry-run"],
        ["sweep", "run", page, "--out", str(place / "sweep"), "--executor", "print"],
    ]
    argv = rng.choice(cases)
    more = (
        "batch_size=3",
        "x=1",
        "seeds=[1,2]",
        "--json",
        "--card",
        "name=y",
        "arms.ar.sampler.guidance=3",
        "-h?",
    )
    for item in rng.sample(more, rng.choice((0, 0, 1, 2))):
        argv.insert(rng.randrange(1, len(argv) + 1), item)
    return _run(argv, [], world, place, must_refuse=False)


def _draw_deletion(rng: random.Random, world: World, place: Path) -> Trial:
    """Return `sweep prune` of a directory that is no sweep: what lies there must stay."""
    from genlab.cli import main

    mine = place / "mine"
    (mine / "runs" / "thesis").mkdir(parents=True)
    precious = mine / "runs" / "thesis" / "chapter.txt"
    precious.write_text("years of work")
    if rng.random() < 0.5:
        shutil.copytree(
            world.run,
            mine / "runs" / "first",
            ignore=shutil.ignore_patterns("checkpoints", "events*"),
        )
    argv = ["sweep", "prune", str(world.page), "--out", str(mine), *rng.choice(([], ["--yes"]))]

    def act() -> int:
        code = main(argv)
        if not precious.exists():
            raise AssertionError("deleted what is no part of a sweep")
        return code

    return Trial(
        f"genlab {' '.join(argv)}", act, (str(mine), "sweep"), is_command=True, must_refuse=True
    )
