"""Caches: the built corpus and the token store after a disk, a sync tool or a person damaged one of
their files.

Accepted means that everything which is read back is bit for bit what was written, or made again as
it was.
"""

import functools
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

from .contract import Trial
from .damage import damage_bytes, damage_file, damage_json, damage_text, to_text
from .world import World, make_wave


@functools.cache
def _codec_and_units() -> tuple[Any, Any]:
    from genlab.codecs.frozen import SHIPPED, load_codec
    from genlab.data.audio import SAMPLE_RATE_HZ
    from genlab.recognisers.shipped import load_units

    return load_codec(SHIPPED, SAMPLE_RATE_HZ), load_units()


@functools.cache
def _content_before(cache: Path, audio: Path) -> str:
    return _content(*_open(cache, audio))


def _open(cache: Path, audio: Path) -> tuple[Any, Any]:
    from genlab.codecs.cache import encode_corpus
    from genlab.data.corpus import build_corpus
    from genlab.data.folder import Folder

    manifest = build_corpus(Folder(path=str(audio), manifest="m.csv"), cache)
    return manifest, encode_corpus(manifest, *_codec_and_units(), cache)


def _content(manifest: Any, store: Any) -> str:
    """Return a digest of all that training and scoring read of a corpus and its store."""
    found = hashlib.sha256(json.dumps(store.info.to_dict(), sort_keys=True).encode())
    for clip in sorted(manifest.clips, key=lambda clip: clip.id):
        found.update(
            repr(clip).encode("utf-8", "backslashreplace") + manifest.audio(clip).tobytes()
        )
    for index in range(sum(split.clips for split in store.info.splits.values())):
        clip = store.clip(index)
        found.update(
            repr((clip.id, clip.text, clip.speaker, clip.path)).encode("utf-8", "backslashreplace")
        )
        for array in (clip.codes, clip.latents, clip.units):
            found.update(array.tobytes())
    found.update(store.code_vectors.tobytes())
    return found.hexdigest()


def draw(rng: random.Random, world: World, place: Path) -> Trial:
    """Return the opening of a corpus and its token store of which one file is damaged."""
    chance = rng.random()
    if chance < 0.3:
        return _draw_known_entropy(rng, place) if chance < 0.15 else _draw_f0(rng, place)
    cache = place / "cache"
    cache.mkdir()
    for name in (world.facts["corpus"], world.facts["tokens"]):
        shutil.copytree(world.cache / name, cache / name)
    file, how = _damage_one(rng, cache)
    names = (file.name, file.parent.name, str(cache))
    if rng.random() < 0.1 and (file.parent / file.name).parent.name != "audio":
        return _check_command(world, cache, file, how)

    def judge(opened: tuple[Any, Any]) -> str | None:
        is_same = _content(*opened) == _content_before(world.cache, world.audio)
        return (
            None
            if is_same
            else f"{file.relative_to(cache)} ({how}): other content was taken for the same"
        )

    return Trial(
        f"{file.relative_to(cache)}: {how}", lambda: _open(cache, world.audio), names, judge
    )


def _damage_one(rng: random.Random, cache: Path) -> tuple[Path, str]:
    """Damage one file, the few that are not audio more often, and return it and how."""
    files = sorted(path for path in cache.rglob("*") if path.is_file() and path.name != ".lock")
    audio = [path for path in files if path.suffix == ".flac"]
    file = rng.choice(
        audio
        if audio and rng.random() < 0.15
        else [path for path in files if path.suffix != ".flac"]
    )
    kind = rng.randrange(4)
    if file.suffix == ".json" and kind == 0:
        values, where = damage_json(json.loads(file.read_text()), rng)
        file.write_text(to_text(values), encoding="utf-8", errors="surrogatepass")
        return file, f"damaged at {where}"
    if file.suffix in (".json", ".jsonl") and kind == 1:
        file.write_bytes(damage_text(file.read_text(), rng).encode("utf-8", "surrogatepass"))
        return file, "text damaged"
    # without it the whole is made again, which takes long
    if file.name in ("dataset.json", "manifest.jsonl"):
        file.write_bytes(damage_bytes(file.read_bytes(), rng))
        return file, "bytes changed"
    return file, damage_file(file, rng)


def _check_command(world: World, cache: Path, file: Path, how: str) -> Trial:
    """Return `genlab data check`, which must find every change of every byte."""
    import os

    from genlab.cli import main

    from .world import make_comparison

    config = cache.parent / "config.json"
    config.write_text(json.dumps(make_comparison(str(world.audio)).to_dict()))
    original = world.cache / file.relative_to(cache)
    is_same = file.is_file() and file.read_bytes() == original.read_bytes()
    is_free = file.name in ("digests.json", ".lock") or (
        file.suffix == ".json" and file.name.startswith("part")
    )

    def act() -> int:
        before = os.environ["GENLAB_CACHE"]
        os.environ["GENLAB_CACHE"] = str(cache)
        try:
            return main(["data", "check", str(config)])
        finally:
            os.environ["GENLAB_CACHE"] = before

    what = f"data check: {file.relative_to(cache)}: {how}"
    must = not is_same and not is_free
    return Trial(
        what,
        act,
        (file.name, file.parent.name),
        is_command=True,
        must_refuse=must,
        must_accept=is_same,
    )


def _draw_known_entropy(rng: random.Random, place: Path) -> Trial:
    from genlab.data.known_entropy import KnownEntropy, draw_store

    source, cache = KnownEntropy(clips=8), place / "cache"
    cache.mkdir()
    before = _content_of_store(draw_store(source, cache))
    file, how = _damage_one(rng, cache)

    def judge(store: Any) -> str | None:
        is_same = _content_of_store(store) == before
        return (
            None
            if is_same
            else f"{file.relative_to(cache)} ({how}): other content was taken for the same"
        )

    what = f"known entropy, {file.relative_to(cache)}: {how}"
    return Trial(
        what, lambda: draw_store(source, cache), (file.name, file.parent.name, str(cache)), judge
    )


def _draw_f0(rng: random.Random, place: Path) -> Trial:
    """Return the reading of a corpus that knows the true F0 of its clips."""
    import numpy as np

    from genlab.data.audio import to_int16, write_flac
    from genlab.data.digests import digest_files, write_digests
    from genlab.data.manifest import Clip, Manifest

    root = place / "cache"
    root.mkdir()
    clips = []
    for number in range(3):
        wave = to_int16(make_wave(number, 4000))
        write_flac(root / f"{number}.flac", wave)
        np.save(root / f"{number}.npy", np.full(20, 100.0 + number, np.float32))
        clips.append(
            Clip(
                str(number),
                f"{number}.flac",
                "yes",
                "ann",
                "train",
                len(wave),
                "CC0-1.0",
                f0_path=f"{number}.npy",
            )
        )
    names = [f"{number}.{suffix}" for number in range(3) for suffix in ("flac", "npy")]
    Manifest(clips, root).save(root)
    write_digests(root, digest_files(root, [*names, "manifest.jsonl"]))
    before = _content_of_f0(root)
    file, how = _damage_one(rng, root)

    def judge(found: str) -> str | None:
        return (
            None
            if found == before
            else f"{file.name} ({how}): other content was taken for the same"
        )

    names = (file.name, root.name, str(root))
    return Trial(f"F0 truth, {file.name}: {how}", lambda: _content_of_f0(root), names, judge)


def _content_of_f0(root: Path) -> str:
    from genlab.data.manifest import Manifest

    manifest = Manifest.load(root)
    found = hashlib.sha256()
    for clip in manifest.clips:
        found.update(repr(clip).encode("utf-8", "backslashreplace"))
        found.update(manifest.audio(clip).tobytes() + manifest.f0_hz(clip).tobytes())
    return found.hexdigest()


def _content_of_store(store: Any) -> str:
    found = hashlib.sha256(json.dumps(store.info.to_dict(), sort_keys=True).encode())
    for index in range(sum(split.clips for split in store.info.splits.values())):
        clip = store.clip(index)
        for array in (clip.codes, clip.latents, clip.units):
            found.update(array.tobytes())
    found.update(store.code_vectors.tobytes())
    return found.hexdigest()
