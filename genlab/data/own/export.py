"""A token store as files that others read: numpy, WebDataset, ArrayRecord or Parquet.

In: any token store, also one that genlab encoded itself. Out: a directory with `tokens.json`, which
`TokenFiles` reads back as the same clips. It is written beside its place and moved there whole.
"""

import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from genlab.config import GenlabError
from genlab.data.own.arrays import INDEX_NAME
from genlab.data.own.columns import load_pyarrow, write_table
from genlab.data.own.row import Facts
from genlab.data.own.shards import RECORD_SUFFIX, add_member, npy_bytes, pack_record
from genlab.data.own.spec import SPEC_NAME, OwnSpec
from genlab.data.shards import Progress
from genlab.data.store import VECTORS_NAME, TokenStore
from genlab.run.stored import partial_path

SHARD_CLIPS = 1000

Clips = list[tuple[Facts, Int[np.ndarray, "t k"]]]


def export_store(
    store: TokenStore, out: Path, kind: str, codec: str, progress: Progress | None = None
) -> int:
    """Write the codes, texts, speakers and splits of a store, and return the number of its clips.

    Args:
        store: what is written.
        out: a directory that does not exist.
        kind: one of `FORMATS`.
        codec: what made the tokens, in words.
        progress: told how many clips are written.

    Raises:
        GenlabError: if the directory exists, or a package is missing.
    """
    if os.path.lexists(out):
        raise GenlabError(f"{out}: already exists; export into another directory, or delete it")
    if kind == "parquet":
        load_pyarrow()  # refused before anything is written
    # Beside its place, so that a directory of this name is whole.
    partial = partial_path(out)
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had this number
    partial.mkdir(parents=True)
    try:
        number = _write(store, partial, kind, codec, progress)
        if os.path.lexists(out):  # os.replace would take the place of a link, or an empty folder
            raise GenlabError(f"{out}: appeared meanwhile; export into another directory")
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return number


def _write(
    store: TokenStore, partial: Path, kind: str, codec: str, progress: Progress | None
) -> int:
    """Write all files of an export, `tokens.json` last, and return the number of clips."""
    number = 0
    for shard, clips in enumerate(_shards(store)):
        FORMATS[kind](partial, shard, clips)
        number += len(clips)
        if progress is not None:
            progress("export", number, store.num_clips)
    if store.has_latents:
        # As the codec has them: a store gives them in normalised units.
        vectors = store.code_vectors * store.latent_std
        vectors[0] += store.latent_mean
        np.save(partial / VECTORS_NAME, vectors.astype(np.float32))
    spec = json.dumps(_spec_of(store, codec).to_dict(), indent=1)
    (partial / SPEC_NAME).write_text(spec + "\n", encoding="utf-8")
    return number


def _spec_of(store: TokenStore, codec: str) -> OwnSpec:
    spec = store.info.spec
    vectors = VECTORS_NAME if store.has_latents else None
    return OwnSpec(
        sample_rate_hz=spec.sample_rate_hz,
        hop_samples=spec.hop_samples,
        codebooks=spec.codebooks,
        entries=spec.entries,
        code_vectors=vectors,
        latent_channels=spec.latent_channels if vectors else None,
        codec=codec[:200],
        licence="; ".join(store.info.licences)[:200] or "unknown",
        causal=spec.causal,
    )


def _shards(store: TokenStore) -> Iterator[Clips]:
    clips: Clips = []
    for split, place in sorted(store.info.splits.items(), key=lambda item: item[1].first):
        for number in range(place.first, place.first + place.clips):
            clip = store.clip(number)
            clips.append((Facts(clip.id, clip.text, clip.speaker, split), clip.codes))
            if len(clips) == SHARD_CLIPS:
                yield clips
                clips = []
    if clips:
        yield clips


def _write_arrays(folder: Path, shard: int, clips: Clips) -> None:
    name = f"codes-{shard:05d}.npz"
    # Ids may be any text; the names of members are not.
    arrays = {f"c{number}": codes.astype(np.int16) for number, (_, codes) in enumerate(clips)}
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, codes in arrays.items():
            archive.writestr(f"{key}.npy", npy_bytes(codes))
    with (folder / INDEX_NAME).open("a", encoding="utf-8") as file:
        for key, (facts, _) in zip(arrays, clips):
            file.write(json.dumps({**facts._asdict(), "file": name, "key": key}) + "\n")


def _write_tar(folder: Path, shard: int, clips: Clips) -> None:
    with tarfile.open(folder / f"shard-{shard:05d}.tar", "w") as archive:
        for number, (facts, codes) in enumerate(clips):
            key = f"{shard:05d}_{number:04d}"
            add_member(archive, f"{key}.json", json.dumps(facts._asdict()).encode())
            add_member(archive, f"{key}.npy", npy_bytes(codes.astype(np.int16)))


def _write_parquet(folder: Path, shard: int, clips: Clips) -> None:
    write_table(folder / f"tokens-{shard:05d}.parquet", clips)


def _write_records(folder: Path, shard: int, clips: Clips) -> None:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    path = folder / f"tokens-{shard:05d}{RECORD_SUFFIX}"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for facts, codes in clips:
        writer.write(pack_record(facts, codes))
    writer.close()


FORMATS: Mapping[str, Callable[[Path, int, Clips], None]] = {
    "npz": _write_arrays,
    "webdataset": _write_tar,
    "parquet": _write_parquet,
    "array_record": _write_records,
}
