"""Write docs/tpu_table.md: training steps and samplers of configs/scale on slices of 16, compiled
and not run.

    python sweeps/tpu_table.py rows/ docs/tpu_table.md 2

Every program leaves `genlab aot`'s JSON in the first directory, and what is there is not compiled
again; a compilation takes two or three minutes of one core and 2 GB. The number says how many run
at a time. The table is written after every program.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from genlab.speed.table import format_markdown

ROOT = Path(__file__).parents[1]
SIZES = ("300m", "1b", "30m")
SLICES = ("v6e-16", "v5e-16", "v5p-16")
ARMS = ("ar", "masked", "diffusion")
# The size and slice whose largest batches are searched, and those whose samplers are compiled.
FILLED = ("300m", "v6e-16")
SAMPLED = ("300m", "v5e-16")
# Whose heads and inner channels are split too, over four chips.
SPLIT = ("1b", "v5e-16")
# A search starts where memory would be full to this share if all but the state grew with the batch.
FULL = 0.94
HEADER = """# Programs for TPU slices, compiled

Made by `python sweeps/tpu_table.py rows docs/tpu_table.md 2`, which calls `genlab aot` for the configs of
`configs/scale`. Nothing here was run: memory, collectives and kernels are what the TPU compiler (libtpu) says of the
program; "est." are estimates from published figures of the chips, as if memory, network and arithmetic overlapped
perfectly. The MFU ceiling counts the FLOPs that the model needs; layers are computed again in the backward pass
(`backbone.remat="full"`), which costs a fifth of it. Clips are 30 s at 12.5 frames per second behind 512 symbols of
text; a v5p-16 has 8 chips, the others 16. "Collectives" is what one chip receives per step, "activations gathered per
layer" counts all-gathers in the loop over layers whose result is no weight, and "warnings" counts the partitioner's
complaints about involuntary rematerialisation or resharding. [tpu.md](tpu.md) says what the tables show.
"""
UNCHECKED = """## What could not be checked

Seconds on a chip, which only a chip can tell. Programs for GPUs, for which no compiler is at hand without one: they
are lowered for CUDA, where jax checks what cuDNN's attention is given, and searched for calls of anything else
(`tests/test_gpu.py`), but not compiled. Transfers between slices: every program here is for one slice.
"""
SECTIONS = {
    "train": "## Training steps at the batches of the configs",
    "split": (
        "## Training steps with heads and inner channels split over four chips "
        "(`settings.sharding.tensor=4`)"
    ),
    "largest": "## Training steps at the largest batch that fits, in as many parts as the configs say",
    "sample": "## Samplers, one clip per chip",
}


def main(rows_dir: Path, out: Path, slots: int) -> None:
    """Compile what is missing, `slots` programs at a time; write the table after each one."""
    rows_dir.mkdir(parents=True, exist_ok=True)
    programs = list(plan())
    for wave in (
        [p for p in programs if p[0] != "largest"],
        [p for p in programs if p[0] == "largest"],
    ):
        missing = [program for program in wave if not row_path(rows_dir, *program).exists()]
        # the compiler works in one thread of a process of its own
        with ThreadPoolExecutor(slots) as pool:
            for _ in pool.map(lambda program: compile_row(rows_dir, *program), missing):
                out.write_text(format_page(rows_dir), encoding="utf-8")
    out.write_text(format_page(rows_dir), encoding="utf-8")


def plan() -> Iterator[tuple[str, str, str, str]]:
    """Yield kind of row, size, slice and arm of every program."""
    yield from (("train", size, name, arm) for size in SIZES for name in SLICES for arm in ARMS)
    yield from (("split", *SPLIT, arm) for arm in ARMS)
    yield from (("largest", *FILLED, arm) for arm in ARMS)
    yield from (("sample", *SAMPLED, arm) for arm in ARMS)


def row_path(rows_dir: Path, kind: str, size: str, name: str, arm: str) -> Path:
    """Return the file of one program's row."""
    return rows_dir / f"{kind}.{size}.{name}.{arm}.json"


def compile_row(rows_dir: Path, kind: str, size: str, name: str, arm: str) -> None:
    """Have one program compiled; what goes wrong is printed, and its row is missing."""
    path = row_path(rows_dir, kind, size, name, arm)
    command = [
        "aot",
        str(ROOT / "configs" / "scale" / f"scale_{size}.py"),
        "--topology",
        name,
        "--arm",
        arm,
    ]
    command += ["--program", "sample" if kind == "sample" else "train", "--out", str(path)]
    if kind == "largest":
        command += [
            "--largest-batch",
            f"batch_size={guess_batch(row_path(rows_dir, 'train', size, name, arm))}",
        ]
    if kind == "split":
        command += ["settings.sharding.tensor=4"]
    subprocess.run([sys.executable, "-m", "genlab.cli", *command], check=False)


def guess_batch(path: Path) -> int:
    """Return where the search for the largest batch starts: at the row of the config's batch."""
    [row] = read_rows(path)
    per_clip = (row["peak_bytes"] - row["argument_bytes"]) / row["clips"]
    return int((FULL * row["hbm_bytes"] - row["argument_bytes"]) / per_clip)


def format_page(rows_dir: Path) -> str:
    """Return the page with the rows that are there."""
    programs = list(plan())
    made = sum(row_path(rows_dir, *program).exists() for program in programs)
    parts = (
        [HEADER]
        if made == len(programs)
        else [HEADER, f"Compiled so far: {made} of {len(programs)} programs.\n"]
    )
    for kind, heading in SECTIONS.items():
        rows = [
            row
            for program in programs
            if program[0] == kind
            for row in read_rows(row_path(rows_dir, *program))
        ]
        parts += [heading + "\n", format_markdown(rows) + "\n"] if rows else []
    return "\n".join((*parts, UNCHECKED))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows in a file of `genlab aot`, none if it is not there."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), slots=int(sys.argv[3]) if len(sys.argv) > 3 else 1)
