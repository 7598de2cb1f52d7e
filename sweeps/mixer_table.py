"""Write docs/mixer_table.md: a training step of 300 M parameters with every mixer on slices of 16,
compiled and not run.

    python sweeps/mixer_table.py rows/ docs/mixer_table.md

Every program leaves `genlab aot`'s JSON in the directory, and what is there is not compiled again;
a compilation takes three minutes of one core and 2 GB. The table is written after every program. A
name after the paths compiles the rows of this slice alone.
"""

import json
import subprocess
import sys
from pathlib import Path

from genlab.speed.table import format_markdown

ROOT = Path(__file__).parents[1]
SLICES = ("v5e-16", "v6e-16", "v5p-16")
MIXER, EXPERTS = "backbone.mixer.", "backbone.ffn.kind=experts"
# Attention has eight heads of 128 channels; latents and states are as wide as in the papers' models.
MIXERS = {
    "attention": (),
    "gqa, 2 heads": (f"{MIXER}kind=gqa", f"{MIXER}kv_heads=2"),
    "mla": (f"{MIXER}kind=mla", f"{MIXER}latent=512", f"{MIXER}rope_channels=64"),
    "window": (f"{MIXER}kind=window",),
    "window, sinks": (f"{MIXER}kind=window", f"{MIXER}sinks=true"),
    "s4d": (f"{MIXER}kind=s4d",),
    "mamba2": (f"{MIXER}kind=mamba2", f"{MIXER}states=128", f"{MIXER}head_channels=64"),
    "experts": (EXPERTS,),
}
# Whatever stands before the frames is out of reach of half of the mixers.
SHARED = ("--arm", "ar", "--program", "train", "condition.route=cross")
HEADER = """# Mixers on TPU slices, compiled

Made by `python sweeps/mixer_table.py rows docs/mixer_table.md`, which calls `genlab aot` for the `ar` arm of
`configs/scale/scale_300m.py` with each mixer ([backbones.md](backbones.md)) at equal width and depth, text read across.
Nothing here was run; columns and estimates are those of [tpu_table.md](tpu_table.md). `experts` is attention with 2 of 8
experts in place of the dense part.
"""


def main(rows_dir: Path, out: Path, slices: tuple[str, ...] = SLICES) -> None:
    """Compile what is missing; write the table after each program."""
    rows_dir.mkdir(parents=True, exist_ok=True)
    for name in slices:
        for mixer, fields in MIXERS.items():
            path = row_path(rows_dir, mixer, name)
            if not path.exists():
                config = str(ROOT / "configs" / "scale" / "scale_300m.py")
                command = ["aot", config, "--topology", name, "--out", str(path), *SHARED, *fields]
                subprocess.run([sys.executable, "-m", "genlab.cli", *command], check=False)
            out.write_text(format_page(rows_dir), encoding="utf-8")


def row_path(rows_dir: Path, mixer: str, name: str) -> Path:
    """Return the file of one program's row."""
    return rows_dir / f"{mixer.replace(', ', '_').replace(' ', '_')}.{name}.json"


def format_page(rows_dir: Path) -> str:
    """Return the page with the rows that are there."""
    rows, missing = [], []
    for name in SLICES:
        for mixer in MIXERS:
            path = row_path(rows_dir, mixer, name)
            if path.exists():
                [row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
                rows.append({**row, "config": mixer})
            else:
                missing.append(f"{mixer} on {name}")
    parts = [HEADER, format_markdown(rows)]
    if missing:
        parts.append(f"\nNot compiled yet: {'; '.join(missing)}.")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3:]) or SLICES)
