"""Places: links inside run directories, and `--out` targets where something of somebody's own lies.

A run directory may come from anybody, and a target may be mistyped: whatever lies behind a link or
under a name that a command would write stays as it is, and the command ends with a line and code 2.
"""

import os
import random
import shutil
from pathlib import Path

from .contract import Trial, snapshot
from .run_dirs import copy_run
from .world import World

PRECIOUS = "years of work\n"
# What may be a link in a run directory, and where that leads.
LINKED = (
    *("lock", "status.json", "results.json", "ledger.json", "outputs.json", "report.html"),
    *("report.md", "scores.csv", "wall.json", "rows", "arms", "floors", "previews", "samples"),
    *("outputs.partial", "listen", "tuning.json", "pareto.json", "arms/ar/seed0/samples"),
    *("arms/ar/seed0/lock", "arms/ar/seed0/batch_hashes.txt", "rows/ar.json", "notes"),
)
# The names under which each command would write into its target.
WRITTEN = {
    "compare": ("report.html", "results.json", "lock", "config.json", "rows", "arms"),
    "train": ("batch_hashes.txt", "status.json", "checkpoints", "lock", "config.json"),
    "tune": ("tuning.json", "tuning.html", "tuning_config.json", "lock"),
    "sweep run": ("report.md", "figure.svg", "findings.json", "runs", "hparams", "sweep.json"),
    "sample": ("sampled.json", "CLIP.flac", "CLIP.codec.flac"),
    "listen": ("listen.html", "key.json"),
}
# Commands whose target is one file.
FILES = ("codec roundtrip", "codec export", "codec export json", "sweep plan", "aot", "aot program")


def draw(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a command on a run directory with a link, or with a target that is taken."""
    kinds = ((_draw_linked, 5), (_draw_taken, 4), (_draw_taken_file, 3))
    [kind] = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
    return kind(rng, world, place)


def _draw_linked(rng: random.Random, world: World, place: Path) -> Trial:
    run, mine = copy_run(world, place / "run"), _make_precious(place)
    name = rng.choice(LINKED)
    link = run / name
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    how = rng.choice(("out", "out", "folder", "dangling", "loop", "pair", "inside"))
    if how == "pair":
        link.symlink_to(run / "other")
        (run / "other").symlink_to(link)
    else:
        targets = {
            "out": mine / "thesis.txt",
            "folder": mine,
            "dangling": mine / "nothing",
            "loop": link,
            "inside": run / "config.json",
        }
        link.symlink_to(targets[how])
    argv = rng.choice(
        (
            ["report", str(run)],
            ["evaluate", str(run), "evaluation.energy_draws=0"],
            ["listen", str(run)],
            ["compare", str(run / "config.json"), "--out", str(run), "seeds=[7]"],
            ["train", str(run / "config.json"), "--arm", "ar", "--out", str(run), "seeds=[7]"],
        )
    )
    names = (name, Path(name).name, "run")
    is_out = how in ("out", "folder", "dangling")
    return _guarded(f"{argv[0]} of a run whose {name} is a link, {how}", argv, names, mine, is_out)


def _draw_taken(rng: random.Random, world: World, place: Path) -> Trial:
    command = rng.choice(list(WRITTEN))
    out = place / "out"
    out.mkdir()
    mine = _make_precious(place)
    taken = out / rng.choice(WRITTEN[command]).replace("CLIP", _first_clip(world))
    how = _occupy(rng, taken, mine)
    run, page = str(world.run), str(world.page)
    words = {
        "compare": ["compare", f"{run}/config.json"],
        "train": ["train", f"{run}/config.json", "--arm", "ar"],
        "tune": ["tune", f"{run}/config.json", "--trials", "2"],
        "sweep run": ["sweep", "run", page, "--executor", "print"],
        "sample": ["sample", f"{run}/arms/ar/seed0", "--prompts", "4"],
        "listen": ["listen", run],
    }[command]
    argv = [*words, "--out", str(out)]
    names = (taken.name, str(out))
    return _guarded(f"{command} --out with {taken.name}, {how}", argv, names, out, True, mine)


def _draw_taken_file(rng: random.Random, world: World, place: Path) -> Trial:
    command = rng.choice(FILES)
    mine = _make_precious(place)
    folder = place / "target"
    folder.mkdir()
    target = (
        folder
        / {
            "codec roundtrip": "out.wav",
            "codec export": "out.safetensors",
            "codec export json": "out.json",
            "sweep plan": "page.py",
            "aot": "numbers.json",
            "aot program": "program.bin",
        }[command]
    )
    how = _occupy(rng, target, mine)
    config, wave = str(world.run / "config.json"), str(world.audio / "c00.wav")
    weights = str(folder / "out.safetensors")
    argv = {
        "codec roundtrip": ["codec", "roundtrip", wave, str(target), "--codec", str(world.codec)],
        "codec export": ["codec", "export", str(world.run), weights],
        "codec export json": ["codec", "export", str(world.run), weights],
        "sweep plan": ["sweep", "plan", config, "--out", str(target), "--flops", "1e9"],
        "aot": ["aot", config, "--topology", "v6e-4", "--out", str(target)],
        "aot program": ["aot", config, "--topology", "v6e-4", "--save-executable", str(target)],
    }[command]
    return _guarded(f"{command} onto {how}", argv, (target.name,), folder, True, mine)


def _occupy(rng: random.Random, path: Path, mine: Path) -> str:
    """Put something that is not genlab's at `path`, and return what."""
    how = rng.choice(
        ("a file", "a file", "JSON", "a folder", "a link", "a dangling link", "a loop")
    )
    if how == "a folder":
        path.mkdir()
        (path / "thesis.txt").write_text(PRECIOUS)
    elif how == "a file":
        path.write_text(PRECIOUS)
    elif how == "JSON":
        path.write_text('{"title": "mine", "schema": 1}')
    else:
        targets = {"a link": mine / "thesis.txt", "a dangling link": mine / "no", "a loop": path}
        path.symlink_to(targets[how])
    return how


def _make_precious(place: Path) -> Path:
    mine = place / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text(PRECIOUS)
    return mine


def _first_clip(world: World) -> str:
    from genlab.data.manifest import Manifest
    from genlab.run.names import file_stem

    manifest = Manifest.load(world.cache / world.facts["corpus"])
    clips = sorted(manifest.split("test"), key=lambda clip: (clip.num_samples, clip.id))
    return file_stem(clips[0].id)


def _guarded(
    what: str,
    argv: list[str],
    names: tuple[str, ...],
    kept: Path,
    must_refuse: bool,
    *more: Path,
) -> Trial:
    """Return a command that may change nothing in `kept` and `more`, whatever it says of it."""
    from genlab.cli import main

    before = {path: _state(path) for path in (kept, *more)}

    def act() -> int:
        code = main(argv)
        for path, found in before.items():
            if _state(path) != found:
                raise AssertionError(f"changed {path.name}: {_difference(found, _state(path))}")
        return code

    return Trial(f"genlab {what}", act, names, is_command=True, must_refuse=must_refuse)


def _state(path: Path) -> dict[str, object]:
    """Return what lies below `path`: sizes, times, contents of small files, where links lead."""
    state: dict[str, object] = dict(snapshot(path))
    for name in state:
        if os.path.islink(name):
            state[name] = os.readlink(name)
        elif os.path.isfile(name) and os.path.getsize(name) < 4096:
            state[name] = Path(name).read_bytes()
    return state


def _difference(before: dict[str, object], after: dict[str, object]) -> str:
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return ", ".join(sorted(Path(name).name for name in changed)[:4])
