"""Run directories: what a disk or a stranger may have done to results, ledger, rows, tuning,
attempts and checkpoints.

Whatever is read back either is refused with the name of its file, or gives what it gave before, or
numbers that are numbers and text that stays text: no markup in a page, no formula in a table.
"""

import functools
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

from .contract import Trial
from .damage import (
    FORMULA,
    HOSTILE,
    at,
    damage_bytes,
    damage_file,
    damage_json,
    damage_text,
    places,
    to_text,
)
from .world import World, make_comparison

COPIED = (
    "config.json",
    "results.json",
    "ledger.json",
    "status.json",
    "wall.json",
    "report.html",
    "report.md",
    "rows",
)


def draw(rng: random.Random, world: World, place: Path) -> Trial:
    """Return the reading of a damaged run directory."""
    kinds = (
        (_draw_crossover, 5),
        (_draw_row, 5),
        (_draw_sweep, 5),
        (_draw_tuning, 3),
        (_draw_listening, 3),
        (_draw_text_reports, 3),
        (_draw_checkpoint, 2),
        (_draw_report, 2),
        (_draw_config, 2),
    )
    [kind] = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
    return kind(rng, world, place)


def damage_stored(path: Path, rng: random.Random) -> str:
    """Damage a JSON file in its values, its text or its bytes, and return how."""
    kind = rng.randrange(10)
    if kind < 7:
        values, where = damage_json(json.loads(path.read_text()), rng)
        path.write_text(to_text(values), encoding="utf-8", errors="surrogatepass")
        return f"{path.name} damaged at {where}"
    if kind < 9:
        path.write_bytes(damage_text(path.read_text(), rng).encode("utf-8", "surrogatepass"))
        return f"text of {path.name} damaged"
    return f"{path.name}: {damage_file(path, rng)}"


def copy_run(world: World, out: Path) -> Path:
    """Copy a finished run without what it trained."""
    out.mkdir()
    for name in COPIED:
        path = world.run / name
        shutil.copytree(path, out / name) if path.is_dir() else shutil.copy(path, out / name)
    for path in world.run.glob("arms/*/seed0"):
        target = out / path.relative_to(world.run)
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("checkpoints", "events*"))
    return out


def copy_pilot(world: World, place: Path) -> list[str]:
    """Copy the run three times, as if it had been trained at other budgets."""
    runs = []
    for times in (0.5, 2, 4):
        run = copy_run(world, place / f"budget{times}")
        results = json.loads((run / "results.json").read_text())
        for arm in results["arms"]:
            for name in ("train_flops", "epochs", "unique_seconds"):
                arm[name] = times * arm.get(name, 0)
        (run / "results.json").write_text(json.dumps(results))
        runs.append(str(run))
    return runs


def _draw_crossover(rng: random.Random, world: World, place: Path) -> Trial:
    from genlab.cli import main

    run, others = copy_run(world, place / "run"), copy_pilot(world, place)
    file = run / rng.choice(("results.json",) * 4 + ("ledger.json",))
    what = damage_stored(file, rng)
    argv = ["crossover", str(run), *others, "--score", "wer_ctc"]
    if rng.random() < 0.3:
        argv += ["--against", rng.choice(("epochs", "seconds"))]

    def judge(code: int) -> str | None:
        return _find_bad_number(run / "crossover.json")

    names = (str(run), file.name, "--score", "wer_ctc", "families", "budgets")
    return Trial(f"crossover: {what}", lambda: main(argv), names, judge, is_command=True)


def _draw_row(rng: random.Random, world: World, place: Path) -> Trial:
    from genlab.evaluate.rows import load_row, save_row

    path = place / "row.json"
    shutil.copy(rng.choice(sorted((world.run / "rows").glob("*.json"))), path)
    what = damage_stored(path, rng)

    def judge(row: Any) -> str | None:
        if row is None:
            return None  # scored again
        save_row(place / "again.json", row)
        for name, values in row.per_clip.items():
            if len(values.totals) != len(values.weights):
                return f"{name}: {len(values.totals)} totals, {len(values.weights)} weights"
        return None

    return Trial(f"row: {what}", lambda: load_row(path), (str(path),), judge)


def _draw_sweep(rng: random.Random, world: World, place: Path) -> Trial:
    from genlab.cli import main

    out = place / "out"
    shutil.copytree(world.page.parent / "out", out)
    files = [path for path in out.rglob("*.json") if path.name != "ledger.json"]
    favoured = [
        path for path in files if path.name in ("attempts.json", "status.json", "results.json")
    ]
    file = rng.choice(favoured if rng.random() < 0.8 else files)
    what = damage_stored(file, rng)
    if file.name in ("attempts.json", "status.json") and rng.random() < 0.6:
        (file.parent / "report.html").unlink()  # not finished: then they are believed
    action = rng.choice(("status", "status", "report", "prune"))
    argv = ["sweep", action, str(world.page), "--out", str(out)] + (
        ["--yes"] if action == "prune" else []
    )
    names = (file.name, file.parent.name, "--out", str(out))
    return Trial(f"sweep {action}: {what}", lambda: main(argv), names, is_command=True)


@functools.cache
def _tuning(audio: str) -> dict[str, Any]:
    from genlab.studies.tuned import arm_key

    config = make_comparison(audio)
    setting = {
        "peak_lr": 1e-3,
        "warmup_fraction": 0.1,
        "weight_decay": 0.01,
        "ema_decay": 0.99,
        "dropout": 0.0,
    }
    trial = {
        "number": 0,
        "setting": setting,
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "train_flops": 1e9,
        "steps": 4,
    }
    arm = {
        "num_trials": 2,
        "train_flops": 2e9,
        "setting": setting,
        "best_of": [],
        "default": trial,
        "best": trial,
    }
    arms = {name: {**arm, "key": arm_key(config, name), "trials": [trial]} for name in config.arms}
    return {"schema": 1, "by": "wer_ctc", "unit": "errors per word", "arms": arms, "num_prompts": 2}


def _draw_tuning(rng: random.Random, world: World, place: Path) -> Trial:
    from genlab.studies.tuned import apply_tuning

    from .configs import judge as judge_config

    path = place / "tuning.json"
    path.write_text(json.dumps(_tuning(str(world.audio))))
    what = damage_stored(path, rng)
    config = make_comparison(str(world.audio))
    return Trial(
        f"tuned: {what}",
        lambda: apply_tuning(config, path),
        (str(path),),
        lambda found: judge_config(found[0]),
    )


def _draw_listening(rng: random.Random, world: World, place: Path) -> Trial:
    from listen_toys import answer, make_test

    from genlab.cli import main

    key, digest, _ = make_test()
    (place / "key.json").write_bytes(key.serialise())
    for listener in ("one", "two"):
        values = answer(key, digest, listener, lambda row, prompt: 50, lambda a, b, prompt: a)
        (place / f"{listener}.json").write_text(json.dumps(values))
    file = place / rng.choice(("key.json", "one.json", "one.json", "two.json"))
    what = damage_stored(file, rng)
    argv = [
        "listen",
        str(world.run),
        "--out",
        str(place),
        "--merge",
        str(place / "one.json"),
        str(place / "two.json"),
    ]
    names = (file.name, "key", "answers")
    return Trial(
        f"listen: {what}",
        lambda: main(argv),
        names,
        lambda code: _find_bad_number(place / "listening.json"),
        is_command=True,
    )


def _draw_text_reports(rng: random.Random, world: World, place: Path) -> Trial:
    """Return the writing of reports from a run whose texts are hostile but whose shape is right."""
    from genlab.report import write_report
    from genlab.report.written import write_text_reports

    results, ledger = (
        json.loads((world.run / name).read_text()) for name in ("results.json", "ledger.json")
    )
    changed = []
    for document in (results, ledger):
        texts = [path for path in places(document) if isinstance(at(document, path), str)]
        texts = [
            path
            for path in texts
            if path[-1] not in ("family", "reads", "direction", "status", "validity")
        ]
        for path in rng.sample(texts, min(len(texts), rng.choice((1, 3, 20)))):
            at(document, path[:-1])[path[-1]] = rng.choice(
                (HOSTILE, FORMULA, f"```\n{HOSTILE}", f"|{HOSTILE}|")
            )
            changed.append(".".join(map(str, path)))

    def judge(result: Any) -> str | None:
        for name in ("report.html", "report.md"):
            # code stays code
            text = re.sub(r"^(`{3,})\n.*?^\1$", "", (place / name).read_text(), flags=re.M | re.S)
            if "<img src=x" in text:
                return f"{name} holds markup of {changed}"
        for line in (place / "scores.csv").read_text().splitlines():
            if any(cell.startswith(("=", "@")) for cell in line.split(",")):
                return f"scores.csv holds a formula of {changed}: {line[:100]}"
        return None

    def act() -> None:
        write_report(place, results, ledger, [])
        write_text_reports(place, results, ledger)

    return Trial(f"reports with hostile {changed!r:.200}", act, (), judge, must_accept=True)


@functools.cache
def _opened(audio: str, cache: str) -> tuple[Any, Any]:
    config = make_comparison(audio)
    return config, config.data.open()


def _draw_checkpoint(rng: random.Random, world: World, place: Path) -> Trial:
    import jax
    import numpy as np
    from flax import nnx

    from genlab.train import load_trained

    config, store = _opened(str(world.audio), str(world.cache))
    run = config.run("ar", 0, 4)
    out = place / "seed0"
    shutil.copytree(
        world.run / "arms" / "ar" / "seed0",
        out,
        ignore=shutil.ignore_patterns("events*", "samples"),
    )
    for step in (out / "checkpoints").iterdir():
        if int(step.name) < 4 and rng.random() < 0.7:
            shutil.rmtree(step)  # then there is nothing to fall back on, which is quicker to find
    file = rng.choice([path for path in (out / "checkpoints").rglob("*") if path.is_file()])
    how = rng.choice(("bytes", "bytes", "file"))
    if how == "bytes":
        file.write_bytes(damage_bytes(file.read_bytes(), rng))
    else:
        how = damage_file(file, rng)

    def values(model: Any) -> list[Any]:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))]

    def judge(model: Any) -> str | None:
        for step in ("4", "2"):
            whole = _trained(
                str(world.run / "arms" / "ar" / "seed0"), step, str(world.audio), str(world.cache)
            )
            if all(np.array_equal(a, b) for a, b in zip(values(model), whole)):
                return None
        return "the model is none that was saved"

    what = f"checkpoint {file.relative_to(out)}: {how}"
    return Trial(
        what, lambda: load_trained(lambda key: run.build_for(store, key), out), (str(out),), judge
    )


@functools.cache
def _trained(directory: str, step: str, audio: str, cache: str) -> list[Any]:
    import tempfile

    import jax
    import numpy as np
    from flax import nnx

    from genlab.train import load_trained

    config, store = _opened(audio, cache)
    run = config.run("ar", 0, 4)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "seed0"
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("events*", "samples"))
        for path in (copy / "checkpoints").iterdir():
            if path.name != step:
                shutil.rmtree(path)
        model = load_trained(lambda key: run.build_for(store, key), copy)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))]


def _draw_report(rng: random.Random, world: World, place: Path) -> Trial:
    from genlab.cli import main

    run = copy_run(world, place / "run")
    files = ["results.json"] * 3 + [
        "ledger.json",
        "arms/ar/seed0/samples.json",
        "arms/masked/seed0/samples.json",
    ]
    files += [
        "arms/ar/seed0/samples/prompt00.flac",
        "tuning.json",
        "pareto.json",
        "crossover.json",
        "config.json",
    ]
    file = run / rng.choice(files)
    if not file.exists():  # what other commands leave beside a run
        file.write_text(
            rng.choice(
                ("{}", "[]", "[1]", "null", '"x"', '{"schema": 1}', "[{}]", json.dumps(_tuning("")))
            )
        )
        what = f"{file.name} of {file.read_text():.40}"
    else:
        what = (
            damage_stored(file, rng)
            if file.suffix == ".json"
            else f"{file.name}: {damage_file(file, rng)}"
        )

    def judge(code: int) -> str | None:
        return (
            "report.html holds markup"
            if "<img src=x" in (run / "report.html").read_text()
            else None
        )

    names = () if file.name == "config.json" else (str(run), file.name)  # a config names the field
    return Trial(
        f"report: {what}", lambda: main(["report", str(run)]), names, judge, is_command=True
    )


def _draw_config(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a run directory whose config wants code to be run or something to be downloaded."""
    from genlab.cli import main

    run = copy_run(world, place / "run")
    evidence = place / "executed"
    own = place / "own_codec.py"
    own.write_text(
        f"open({str(evidence)!r}, 'w').close()\ndef codec():\n    raise ValueError('run')\n"
    )
    values = json.loads((run / "config.json").read_text())
    codec = rng.choice((str(own), "mimi:owner/name", "encodec:owner/name", "dac:x/y", str(own)))
    values["data"]["codec"] = codec
    (run / "config.json").write_text(json.dumps(values))
    arm = run / "arms" / "ar" / "seed0"
    of_arm = json.loads((arm / "config.json").read_text())
    of_arm["data"]["codec"] = codec
    (arm / "config.json").write_text(json.dumps(of_arm))
    argv = rng.choice(
        (
            ["report", str(run)],
            ["evaluate", str(run)],
            ["sample", str(arm), "--out", str(place / "samples")],
            ["listen", str(run), "--out", str(place / "listen")],
            ["budget", str(run)],
            ["data", str(run)],
            ["compare", str(run / "config.json"), "--out", str(place / "new")],
            ["evaluate", str(run), "--audit"],
        )
    )

    def act() -> int:
        code = main(argv)
        if evidence.exists():
            raise AssertionError(f"code of {own.name} was run because config.json names it")
        return code

    names = (codec, "codec", "trust")
    return Trial(
        f"{argv[0]} of a run with codec {codec!r}", act, names, is_command=True, must_refuse=True
    )


def _find_bad_number(path: Path) -> str | None:
    if not path.exists():
        return None
    text = path.read_text()
    bad = next((word for word in ("NaN", "Infinity") if word in text), None)
    return f"{path.name} holds {bad}" if bad else None
