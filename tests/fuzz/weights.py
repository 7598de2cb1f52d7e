"""Weights: exported codecs (safetensors and the JSON beside it) and published ones (config.json and
safetensors).

Accepted means: the very same parameters as before, or another file whose own digest vouches for it
(somebody made it so on purpose), with finite numbers and a token space that makes sense.
"""

import hashlib
import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

from .contract import Trial
from .damage import damage_bytes, damage_file, damage_json, damage_text, to_text
from .world import World


def draw(rng: random.Random, world: World, place: Path) -> Trial:
    """Return the loading of a damaged codec."""
    if rng.random() < 0.3:
        return _draw_published(rng, world, place)
    if rng.random() < 0.1:
        return _draw_name(rng, world, place)
    path, meta = place / "tiny.safetensors", place / "tiny.json"
    shutil.copy(world.codec, path)
    shutil.copy(world.codec.with_suffix(".json"), meta)
    kind, names = rng.randrange(6), [str(path), str(meta), "tiny.json", path.name, "config"]
    is_signed = False
    if kind == 0:
        what = f"{rng.choice((path, meta))}: {damage_file(rng.choice((path, meta)), rng)}"
    elif kind == 1:
        values, where = _damage_deeply(json.loads(meta.read_text()), rng)
        meta.write_text(to_text(values), encoding="utf-8", errors="surrogatepass")
        names += map(str, where)
        what = f"metadata damaged at {where}"
    elif kind == 2:
        meta.write_bytes(damage_text(meta.read_text(), rng).encode("utf-8", "surrogatepass"))
        what = "text of the metadata damaged"
    else:
        header = rng.random() < 0.5
        data = (
            _damage_header(path.read_bytes(), rng)
            if header
            else damage_bytes(path.read_bytes(), rng)
        )
        path.write_bytes(data)
        what = "header damaged" if header else "bytes damaged"
        if is_signed := kind == 5:
            _sign(path, meta)
            what += ", signed again"
    command = rng.random() < 0.1
    return _load(rng, str(path), names, what, world, path, is_signed, command)


def _load(
    rng: random.Random,
    name: str,
    names: list[str],
    what: str,
    world: World,
    path: Path,
    is_signed: bool,
    command: bool,
) -> Trial:
    from genlab.cli import main
    from genlab.codecs.frozen import load_codec, token_spec

    if command:
        return Trial(
            f"codec info: {what}",
            lambda: main(["codec", "info", "--codec", name]),
            tuple(names),
            is_command=True,
        )
    if rng.random() < 0.2:
        return Trial(f"token_spec: {what}", lambda: token_spec(name), tuple(names), check_spec)

    def judge(frozen: Any) -> str | None:
        wrong = check_spec(frozen.spec) or check_finite(frozen)
        is_same = path.read_bytes() == world.codec.read_bytes()
        return wrong or (
            None if is_same or is_signed else "other bytes were taken for the same weights"
        )

    return Trial(f"load_codec: {what}", lambda: load_codec(name), tuple(names), judge)


def _draw_published(rng: random.Random, world: World, place: Path) -> Trial:
    from genlab.codecs.frozen import load_codec

    folder = place / "encodec"
    shutil.copytree(world.published, folder)
    config, tensors = folder / "config.json", folder / "model.safetensors"
    names = [str(folder), "config.json", tensors.name]
    kind = rng.randrange(5)
    if kind == 0:
        file = rng.choice((config, tensors))
        what = f"{file.name}: {damage_file(file, rng)}"
    elif kind == 1:
        tensors.write_bytes(_damage_header(tensors.read_bytes(), rng))
        what = "header damaged"
    elif kind == 2:
        config.write_bytes(damage_text(config.read_text(), rng).encode("utf-8", "surrogatepass"))
        what = "text of config.json damaged"
    else:
        values, where = _damage_deeply(json.loads(config.read_text()), rng)
        config.write_text(to_text(values), encoding="utf-8", errors="surrogatepass")
        names += map(str, where)
        what = f"config.json damaged at {where}"
    kind_of_codec = rng.choice(("encodec",) * 4 + ("mimi", "dac", "oobleck", "speechtokenizer"))
    act = lambda: load_codec(f"{kind_of_codec}:{folder}")  # noqa: E731
    return Trial(
        f"{kind_of_codec}: {what}",
        act,
        tuple(names),
        lambda frozen: check_spec(frozen.spec) or check_finite(frozen),
    )


def _draw_name(rng: random.Random, world: World, place: Path) -> Trial:
    """Return the loading of a codec whose name means nothing, or something that is no codec."""
    odd = (
        "",
        ".",
        "/",
        "none",
        "none.safetensors",
        "mulaw:",
        "mulaw:0",
        "mulaw:-1",
        "mulaw:x",
        "mulaw:1e999",
        "mulaw:nan",
        "encodec:/none",
        "encodec:.",
        "encodec:a b",
        "mimi:../..",
        "mimi:no/",
        "tiny:x",
        ".py",
        "none.py",
        "~",
        "a:b:c",
        f"encodec:{world.run}",
        str(world.run),
        str(world.audio / "c00.wav"),
        f"{world.page}",
        "mulaw:" + "9" * 5000,
        "x" * 5000,
        "x" * 5000 + ".py",
        "encodec:" + "y" * 5000,
        "\x1b[31m",
        "mulaw:1" + "0" * 30,
        "in_lab_16khz/..",
    )
    name = rng.choice(odd)
    names = [
        "codec",
        "no such",
        name[:40],
        name.partition(":")[2][:40],
        "sample_rate_hz",
        "directory",
    ]
    return _load(
        rng, name, names, f"codec {name!r:.80}", world, world.codec, True, rng.random() < 0.5
    )


def _damage_deeply(values: Any, rng: random.Random) -> tuple[Any, tuple]:
    for _ in range(rng.choice((0, 0, 1))):
        with_more, _ = damage_json(values, rng)
        try:
            json.dumps(with_more)
            values = with_more if isinstance(with_more, dict) and with_more else values
        except (RecursionError, ValueError):
            break
    return damage_json(values, rng)


def _damage_header(data: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file whose header is other JSON: shapes, offsets, types, names."""
    (length,) = struct.unpack_from("<Q", data)
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.3:
        text = damage_text(json.dumps(header), rng)
    else:
        text = to_text(_damage_deeply(header, rng)[0])
    encoded = text.encode("utf-8", "surrogatepass")
    size = rng.choice((len(encoded),) * 6 + (0, 1, len(encoded) * 2, 2**63, 2**64 - 1))
    return struct.pack("<Q", size) + encoded + rest


def _sign(path: Path, meta: Path) -> None:
    values = json.loads(meta.read_text())
    values["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    meta.write_text(json.dumps(values))


def check_spec(spec: Any) -> str | None:
    """Return what is impossible about a token space."""
    limits = {
        "sample_rate_hz": 10**6,
        "hop_samples": 10**6,
        "codebooks": 10**4,
        "entries": 2**15,
        "latent_channels": 10**6,
    }
    for name, limit in limits.items():
        value = getattr(spec, name)
        if not (0 if name in ("codebooks", "entries") else 1) <= value <= limit:
            return f"spec.{name}={value!r:.80}"
    return None


def check_finite(frozen: Any) -> str | None:
    """Return which parameters of a codec are no numbers."""
    import jax
    import numpy as np
    from flax import nnx

    for path, leaf in jax.tree_util.tree_flatten_with_path(
        nnx.to_pure_dict(nnx.state(frozen._merge(frozen._state)))
    )[0]:
        array = np.asarray(leaf)
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            return f"parameter {jax.tree_util.keystr(path)} is not finite"
    return None
