"""Write docs/tpu_table.md: the training steps of configs/scale on slices of 16, compiled and not run.

    python sweeps/tpu_table.py rows/ docs/tpu_table.md

Each config and slice leaves `genlab aot`'s JSON in the first directory, and what is there is not compiled again; a
compilation takes one to three minutes of one core.
"""

import json
import subprocess
import sys
from pathlib import Path

from genlab.report.compiled import format_markdown

ROOT = Path(__file__).parents[1]
SIZES = ("30m", "300m", "1b")
SLICES = ("v5e-16", "v6e-16", "v5p-16")
HEADER = """# Training steps on TPU slices, compiled

Made by `python sweeps/tpu_table.py rows docs/tpu_table.md`, which calls `genlab aot CONFIG --topology SLICE --program
train` for every config of `configs/scale` and every slice. Nothing here was run: memory, collectives and kernels are
what the TPU compiler (libtpu) says of the program; "est." are estimates from published figures of the chips, as if
memory, network and arithmetic overlapped perfectly. The MFU ceiling counts the FLOPs that the model needs; layers are
computed again in the backward pass (`backbone.remat="full"`), which costs a fifth of it. Clips are 30 s at 12.5 frames
per second behind 512 symbols of text; a v5p-16 has 8 chips, the others 16. "Collectives" is what one chip receives per
step, "activations gathered per layer" counts all-gathers in the layer loop whose result is no weight, and "warnings"
counts the partitioner's complaints about involuntary rematerialisation or resharding. [tpu.md](tpu.md) says what the
table shows.

"""


def main(rows_dir: Path, out: Path) -> None:
    """Compile what is missing and write the table."""
    rows_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in SIZES:
        for name in SLICES:
            path = rows_dir / f"{size}.{name}.json"
            if not path.exists():
                config = str(ROOT / "configs" / "scale" / f"scale_{size}.py")
                command = ["aot", config, "--topology", name, "--program", "train", "--out", str(path)]
                subprocess.run([sys.executable, "-m", "genlab.cli", *command], check=False)
            rows += json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    out.write_text(HEADER + format_markdown(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
