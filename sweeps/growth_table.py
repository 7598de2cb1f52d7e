"""Lab note: how do compile time, FLOPs and memory of a training step grow with layers, width,
frames and devices?

Question   Does anything grow faster than it has to, before somebody pays for a slice to find out?
Fixed      The masked arm of configs/scale/scale_30m.py, 8 clips per chip, v5e, the real TPU
           compiler; nothing is run.
Varied     One at a time from 8 layers of width 512, 375 frames, 16 chips.
Predicted  Compile time is flat in layers, because they are scanned, and nearly so in width and
           devices. FLOPs per clip are linear in layers, square in width, a little more than linear
           in frames. Memory per chip is linear in layers and frames and does not grow with devices.
Result     As predicted (docs/growth_table.md), after one fix: 2 to 32 layers compile in 49 to 54
           CPU seconds with no trend. At first memory grew with devices (0.52 GiB on 16, 1.04 on
           64), because every chip looked up the codes of all chips in its channels of the
           embedding table. Frames and width also lengthen compilation, by half at most for a
           doubling, which was not predicted.

    python sweeps/growth_table.py rows/ docs/growth_table.md
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from genlab.config import GenlabError

ROOT = Path(__file__).parents[1]
CLIPS_PER_CHIP = 8
BASE = {"layers": 8, "width": 512, "frames": 375, "devices": 16}
AXES = {
    "layers": (2, 4, 8, 16, 32),
    "width": (256, 512, 1024),
    "frames": (188, 375, 750),
    "devices": (4, 16, 64),
}
HEADER = """# Growth of a training step, compiled

Made by `python sweeps/growth_table.py rows docs/growth_table.md` with the TPU compiler on a machine without a TPU: the
masked arm of `configs/scale/scale_30m.py` on v5e, 8 clips per chip, one thing varied at a time. FLOPs are executed ones
by the walk over the traced step, recomputation included. Compile time is in processor seconds, all threads together,
which other work on the machine moves less than wall clock: read ratios of two and more, not percents.

| varied | layers | width | frames | chips | compile, CPU s | TFLOP per clip | peak HBM per chip, GiB |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main(rows_dir: Path, out: Path) -> None:
    """Compile what is missing and write the table."""
    rows_dir.mkdir(parents=True, exist_ok=True)
    lines = []
    for axis, values in AXES.items():
        for value in values:
            size = {**BASE, axis: value}
            row = compile_row(rows_dir, size)
            flops = row["flops"] * row["devices"] / row["clips"] / 1e12
            told = [
                f"{row['compile_cpu_s']:.0f}",
                f"{flops:.3f}",
                f"{row['peak_bytes'] / 2**30:.2f}",
            ]
            cells = [axis, *size.values(), *told]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
            # a part of the table is a table
            out.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


def compile_row(rows_dir: Path, size: dict[str, int]) -> dict[str, Any]:
    """Return the row of one size, from its file if it was compiled before."""
    path = rows_dir / ("-".join(map(str, size.values())) + ".json")
    if not path.exists():
        fields = {
            "backbone.layers": size["layers"],
            "backbone.width": size["width"],
            "backbone.heads": size["width"] // 128,
            "data.num_frames": size["frames"],
            "batch_size": CLIPS_PER_CHIP * size["devices"],
            "optim.accumulate": 1,
        }
        command = [
            "aot",
            str(ROOT / "configs" / "scale" / "scale_30m.py"),
            "--arm",
            "masked",
            "--program",
            "train",
        ]
        command += ["--topology", f"v5e-{size['devices']}", "--out", str(path)]
        overrides = [f"{name}={value}" for name, value in fields.items()]
        subprocess.run([sys.executable, "-m", "genlab.cli", *command, *overrides], check=False)
    if not path.exists():
        raise GenlabError(f"{path}: genlab aot wrote nothing for {size}")
    return json.loads(path.read_text(encoding="utf-8"))["rows"][0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
