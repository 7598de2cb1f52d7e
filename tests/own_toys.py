"""Directories of tokens as other people's pipelines write them: small, and wrong where asked."""

import io
import json
import tarfile

import numpy as np

from genlab.data.own.row import Facts
from genlab.data.own.shards import add_member, pack_record
from genlab.data.own.spec import SPEC_NAME

SPEC = {"sample_rate_hz": 24_000, "hop_samples": 1920, "codebooks": 3, "entries": 16}
SPLITS = ("train", "train", "train", "valid", "test")


def make_clips(number=20, *, seed=0, frames=24, spec=SPEC):
    """Return facts and codes of clips, the splits in turn; the same for the same seed."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(number):
        length = frames + index % 3
        codes = rng.integers(0, spec["entries"], (length, spec["codebooks"])).astype(np.int16)
        text = f"word {chr(97 + index)}"
        facts = Facts(f"clip{index:03d}", text, f"s{index % 2}", SPLITS[index % len(SPLITS)])
        made.append((facts, codes))
    return made


def write_spec(folder, **more):
    """Write tokens.json, with other values or further ones."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in {**SPEC, **more}.items() if value is not None}
    (folder / SPEC_NAME).write_text(json.dumps(values))
    return folder


def npy(values):
    """Return the bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def write_arrays(folder, clips, *, kind="npz", **more):
    """Write clips as index.jsonl with one .npz, one .npy for each, or one long .npy for all."""
    write_spec(folder, **more)
    rows, first = [], 0
    for facts, codes in clips:
        row = {name: value for name, value in facts._asdict().items() if value}
        if kind == "npz":
            row["file"] = "codes.npz"
        elif kind == "npy":
            row["file"] = f"{facts.id}.npy"
            np.save(folder / row["file"], codes)
        else:
            row |= {"file": "all.npy", "first": first, "frames": len(codes)}
            first += len(codes)
        rows.append(row)
    if kind == "npz":
        np.savez_compressed(folder / "codes.npz", **{facts.id: codes for facts, codes in clips})
    if kind == "long":
        np.save(folder / "all.npy", np.concatenate([codes for _, codes in clips]))
    write_index(folder, rows)
    return folder


def write_index(folder, rows):
    """Write index.jsonl of rows, which may be lines already."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "index.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_tars(folder, clips, *, per_shard=7, **more):
    """Write clips as WebDataset shards."""
    write_spec(folder, **more)
    for number, start in enumerate(range(0, len(clips), per_shard)):
        with tarfile.open(folder / f"shard-{number:04d}.tar", "w") as archive:
            for facts, codes in clips[start : start + per_shard]:
                about = {name: value for name, value in facts._asdict().items() if name != "id"}
                add_member(archive, f"{facts.id}.json", json.dumps(about).encode())
                add_member(archive, f"{facts.id}.npy", npy(codes))
    return folder


def write_records(folder, clips, **more):
    """Write clips as an ArrayRecord file."""
    from array_record.python import array_record_module

    write_spec(folder, **more)
    writer = array_record_module.ArrayRecordWriter(str(folder / "a.array_record"), "group_size:1")
    for facts, codes in clips:
        writer.write(pack_record(facts, codes))
    writer.close()
    return folder
