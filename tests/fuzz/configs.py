"""Configs: JSON with damaged fields or damaged text, overrides, Python files that fail, and `genlab
budget` of them.

What is accepted holds only finite numbers, seeds that JAX can tell apart, sizes that some machine
could have, text that can be written to a file, and reads back to the same config.
"""

import functools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .contract import Trial
from .damage import at, damage_json, damage_text, nasty_value, places, to_text
from .world import World, make_comparison

ROOT = Path(__file__).parents[2]
LARGEST = {"width": 10**6, "layers": 10**5, "heads": 10**5, "seed": 2**32 - 1, "batch_size": 10**8}
RAISES = (
    "raise ValueError('x')",
    "raise KeyError('x')",
    "raise SystemExit(3)",
    "raise SystemExit('bye')",
    "1 / 0",
    "{}['x']",
    "[][3]",
    "open('/none/x')",
    "raise KeyboardInterrupt",
    "import no_such_module",
    "x = (",
    "assert False, 'no'",
    "raise Exception('a\\nb')",
    "raise OSError",
    "raise MemoryError",
    "raise RuntimeError('é')",
    "return None",
    "return 3",
    "def f(): return f()\n    f()",
    "raise BaseException('x')",
    "raise StopIteration",
    "return {'kind': 'compare'}",
    "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'y')",
    "raise type('Odd', (Exception,), {'__str__': None})()",
)


@functools.cache
def bases(audio: str) -> list[dict[str, Any]]:
    """Return the configs that are damaged: the tiny comparison, its arms, and every config that
    ships.
    """
    from genlab.load import load_experiment

    tiny = make_comparison(audio)
    files = sorted((ROOT / "configs").rglob("*.py"))
    arms = [tiny.run(name, 0, 4).to_dict() for name in tiny.arms]
    return [tiny.to_dict()] * 6 + arms + [load_experiment(path).to_dict() for path in files]


def draw(rng: random.Random, world: World, place: Path) -> Trial:
    """Return the loading of a damaged config."""
    kinds = (
        (_draw_json, 10),
        (_draw_override, 6),
        (_draw_text, 2),
        (_draw_python, 2),
        (_draw_budget, 1),
    )
    [kind] = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
    return kind(rng, world, place)


def _draw_json(rng: random.Random, world: World, place: Path) -> Trial:
    values, names = rng.choice(bases(str(world.audio))), ["config"]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        try:
            values, path = damage_json(values, rng)
        # as deep as Python goes: the next damage cannot copy it
        except (RecursionError, ValueError):
            break
        names += [str(part) for part in path]
    file = place / "config.json"
    file.write_text(to_text(values), encoding="utf-8", errors="surrogatepass")
    return _loads(file, (), names, f"config.json damaged at {names[1:]}")


def _draw_override(rng: random.Random, world: World, place: Path) -> Trial:
    values = rng.choice(bases(str(world.audio)))
    file = place / "config.json"
    file.write_text(json.dumps(values))
    overrides = [_override(rng, values) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    names = [part for item in overrides for part in item.partition("=")[0].split(".")]
    return _loads(
        file, tuple(overrides), ["override", "UTF-8", *names], f"overrides {overrides!r:.300}"
    )


def _override(rng: random.Random, values: dict[str, Any]) -> str:
    path = rng.choice(list(places(values)))
    if rng.random() < 0.2:
        path = path[rng.randrange(len(path)) :]  # leaves tables out
    name = ".".join(map(str, path))
    if rng.random() < 0.2:
        return damage_text(f"{name}={to_text(nasty_value(rng))}", rng)
    value = at(values, rng.choice(list(places(values)))) if rng.random() < 0.2 else nasty_value(rng)
    return f"{name}={value if isinstance(value, str) else to_text(value)}"


def _draw_text(rng: random.Random, world: World, place: Path) -> Trial:
    text = json.dumps(rng.choice(bases(str(world.audio))), indent=rng.choice((None, 1)))
    for _ in range(rng.choice((1, 2, 5))):
        text = damage_text(text, rng)
    file = place / "config.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    # The field that a cut or an inserted character happens to hit is not known here.
    return _loads(file, (), [], f"text of a config damaged: {text[:80]!r}")


def _draw_python(rng: random.Random, world: World, place: Path) -> Trial:
    line = rng.choice(RAISES)
    text = (
        f"def config():\n    {line}\n"
        if rng.random() < 0.6
        else f"{line}\n"
        if "return" not in line
        else "x = 1\n"
    )
    if rng.random() < 0.15:
        text = damage_text(text, rng)
    file = place / f"{rng.choice(('page', 'a b', 'ünal', '-x'))}.py"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    from genlab.cli import main

    what = f"Python config: {text!r}"
    names = (file.name, "memory", "stopped")
    return Trial(
        what, lambda: main(["budget", str(file)]), names, is_command=True, must_refuse=True
    )


def _draw_budget(rng: random.Random, world: World, place: Path) -> Trial:
    from genlab.cli import main

    values = make_comparison(str(world.audio)).to_dict()
    file = place / "config.json"
    file.write_text(json.dumps(values))
    sizes = (
        "backbone.width",
        "backbone.layers",
        "backbone.heads",
        "data.num_frames",
        "batch_size",
        "budget.steps",
    )
    if rng.random() < 0.5:
        override = (
            f"{rng.choice(sizes)}={rng.choice((0, -1, 1, 2, 10**9, 10**18, 10**30, 1e9, 'nan'))}"
        )
    else:
        override = _override(rng, values)
    if "\0" in override:
        override = override.replace("\0", "")  # no shell passes one
    override = override.encode(
        "utf-8", "surrogateescape" if "\ud800" not in override else "replace"
    ).decode("utf-8")
    name = override.partition("=")[0].split(".")[-1]
    names = (name, "override", "argument", str(file), *override.partition("=")[0].split("."))
    return Trial(
        f"budget {override!r:.300}",
        lambda: main(["budget", str(file), override]),
        names,
        is_command=True,
    )


def _loads(file: Path, overrides: tuple[str, ...], names: list[str], what: str) -> Trial:
    from genlab.load import load_experiment

    names = [shown for name in names for shown in _as_printed(name)]
    return Trial(
        what, lambda: load_experiment(file, overrides), (*names, file.name) if names else (), judge
    )


def _as_printed(name: str) -> list[str]:
    """Return what an error may show of a name: without what no terminal prints, and cut short."""
    printed = "".join(char if char.isprintable() else " " for char in name)
    return [part[:40] for part in printed.split()]


def judge(config: Any) -> str | None:
    """Return what is insane about an accepted config."""
    values = config.to_dict()
    for path, value in leaves(values):
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        where = ".".join(map(str, path))
        if isinstance(value, float) and not math.isfinite(value):
            return f"{where}={value} is not finite"
        if isinstance(value, int) and not isinstance(value, bool):
            limit = LARGEST.get("seed" if name == "seeds" else name, 2**53)
            if abs(value) > limit:
                return (
                    f"{where}={value:.3g} is beyond {limit:.3g}"
                    if abs(value) < 1e300
                    else f"{where}: {name} huge"
                )
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                return f"{where}={value!r:.60} cannot be written to a file"
    again = type(config).from_dict(values)
    return (
        None
        if again == config and again.digest() == config.digest()
        else "does not read back to itself"
    )


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Yield every leaf of JSON with its path."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else None
    )
    if items is None:
        yield path, value
        return
    for key, child in items:
        yield from leaves(child, (*path, key))
