"""What `genlab aot` prints: the programs of every arm as a table for the terminal or as Markdown.

In: a config and the arguments of the command, or rows as aot.py makes them. Out: a table. Times and shares of the peak
are estimates and are labelled so.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from genlab import checkpoint
from genlab.aot import compile_program, find_largest_batch, plan_arms
from genlab.config import ConfigError
from genlab.experiment import Comparison, DecoderRun

GIB = 2**30
COLUMNS = (
    "arm", "program", "parameters", "slice", "mesh", "clips", "memory (GiB)", "of HBM", "attention", "collectives (GB)",
    "activations gathered per layer", "FLOP/byte", "bound (est.)", "step s (est.)", "MFU ceiling (est.)", "warnings",
)  # fmt: skip
KEPT = ("arm", "program", "slice", "clips", "memory (GiB)", "of HBM", "attention", "bound (est.)", "MFU ceiling (est.)")


def format_row(row: dict[str, Any]) -> dict[str, str]:
    """Return the cells of one row by column."""
    peak = row.get("peak_bytes")
    mesh = "x".join(str(size) for size in row["mesh"].values())
    cells = {
        "arm": row["config"], "program": row["program"], "parameters": f"{row['params'] / 1e6:.0f} M",
        "slice": row["topology"], "mesh": mesh, "clips": str(row["clips"]),
        "memory (GiB)": f"{peak / GIB:.2f}" if peak else "?",
        "of HBM": f"{peak / row['hbm_bytes']:.0%}" if peak else "?",
    }  # fmt: skip
    if not row["fits"]:
        return dict.fromkeys(COLUMNS, "") | cells | {"bound (est.)": "does not fit"}
    estimate = row["estimate"]
    gathered = sum(item["bytes"] for item in row["collectives"] if item["activations"])
    return cells | {
        "attention": row["attention"],
        "collectives (GB)": f"{sum(item['bytes'] for item in row['collectives']) / 1e9:.2f}",
        "activations gathered per layer": f"{gathered / 1e6:.0f} MB" if gathered else "none",
        "FLOP/byte": f"{estimate['intensity']:.0f}",
        "bound (est.)": estimate["bound"],
        "step s (est.)": f"{estimate['step_s']:.3g}",
        "MFU ceiling (est.)": f"{estimate['mfu']:.0%}",
        "warnings": str(len(row["warnings"])),
    }


def format_terminal(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the columns that fit a terminal; the JSON has the rest."""
    table = Table(title="compiled, not run; times and MFU are estimates")
    for name in KEPT:
        table.add_column(name)
    for row in rows:
        cells = format_row(row)
        cells["attention"] = cells["attention"].split(":")[0]  # the reason is in the JSON
        table.add_row(*(cells[name] for name in KEPT))
    return table


def format_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return all columns as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    for row in rows:
        cells = format_row(row)
        lines.append("| " + " | ".join(cells[name] for name in COLUMNS) + " |")
    return "\n".join(lines)


def report_compiled(config: Any, arguments: argparse.Namespace, command: str) -> int:
    """Compile every program that was asked for, print the table, and return 1 if one of them does not fit.

    Raises:
        ConfigError: if `config` has no decoder.
    """
    if not isinstance(config, Comparison | DecoderRun):
        raise ConfigError(f"{arguments.config}: kind {config.kind!r}, but this command needs 'compare' or 'decoder'")
    plans, rows = plan_arms(config, arguments.topology), []
    if arguments.arm is not None and arguments.arm not in plans:
        raise ConfigError(f"--arm {arguments.arm}: no such arm, choose one of {', '.join(plans)}")
    for plan in (plan for name, plan in plans.items() if arguments.arm in (None, name)):
        for verb in ("train", "sample") if arguments.program == "both" else (arguments.program,):
            num_devices = plan.topology.num_devices
            clips = config.batch_size if verb == "train" else num_devices
            if arguments.largest_batch:
                # Every chip has as many clips in each part of a step.
                unit = num_devices * (config.optim.accumulate if verb == "train" else 1)
                rows.append(find_largest_batch(partial(compile_program, plan, verb), clips, unit))
            else:
                rows.append(compile_program(plan, verb, clips, arguments.save_executable))
            if arguments.out:  # after every program: each takes a minute
                checkpoint.write_json(arguments.out, {"command": command, "rows": rows})
    if arguments.markdown:
        print(format_markdown(rows))
    else:
        Console().print(format_terminal(rows))
    return 0 if all(row["fits"] for row in rows) else 1
