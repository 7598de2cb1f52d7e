"""What `genlab aot` prints: a few lines about every program as soon as it is compiled, or a table
in Markdown.

In: a config and the arguments of the command, or rows as aot.py makes them. Out: text. Times and
shares of the peak are estimates and are labelled so.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from genlab.config import ConfigError
from genlab.experiment import Comparison, DecoderRun
from genlab.run.files import write_json
from genlab.run.ownership import refuse_to_replace, says
from genlab.speed.aot import compile_program, find_largest_batch, plan_arms

GIB = 2**30
COLUMNS = (
    "arm",
    "program",
    "parameters",
    "slice",
    "mesh",
    "clips",
    "memory (GiB)",
    "of HBM",
    "attention",
    "collectives (GB)",
    "activations gathered per layer",
    "FLOP/byte",
    "bound (est.)",
    "step s (est.)",
    "MFU ceiling (est.)",
    "warnings",
)


def format_row(row: dict[str, Any]) -> dict[str, str]:
    """Return the cells of one row by column."""
    peak = row.get("peak_bytes")
    mesh = "x".join(str(size) for size in row["mesh"].values())
    cells = {
        "arm": row["config"],
        "program": row["program"],
        "parameters": f"{row['params'] / 1e6:.0f} M",
        "slice": row["topology"],
        "mesh": mesh,
        "clips": str(row["clips"]),
        "memory (GiB)": f"{peak / GIB:.2f}" if peak else "?",
        "of HBM": f"{peak / row['hbm_bytes']:.0%}" if peak else "?",
    }
    # A program that was refused has no estimate to read.
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


def format_lines(row: dict[str, Any]) -> str:
    """Return a few lines about one program; bytes and FLOPs are those of one chip and step."""
    cells = format_row(row)
    peak = row.get("peak_bytes")
    total = row["hbm_bytes"] / GIB
    mesh = " x ".join(f"{name} {size}" for name, size in row["mesh"].items())
    head = (
        f"{row['config']}, {row['program']}, compiled and not run: {row['params'] / 1e6:.0f} M "
        "parameters, "
    )
    head += f"{row['topology']} ({mesh}), {row['clips']} clips of {row['frames']} frames"
    # A program that was refused has no estimate to read.
    if not row["fits"]:
        wanted = f"{cells['memory (GiB)']} of {total:.2f} GiB" if peak else row["reason"]
        return f"{head}\n  does not fit  {wanted}"
    estimate = row["estimate"]
    parts = (f"{name} {row[f'{name}_bytes'] / GIB:.2f}" for name in ("argument", "temp", "output"))
    times = (f"{name} {estimate[f'{name}_s']:.3g} s" for name in ("compute", "memory", "network"))
    facts = [
        (
            "fits",
            (
                f"{cells['memory (GiB)']} of {total:.2f} GiB ({cells['of HBM']}); "
                f"{', '.join(parts)} GiB"
            ),
        ),
        ("FLOPs", f"{row['flops']:.3g}, {cells['FLOP/byte']} per byte of memory traffic"),
        (
            "estimate",
            (
                f"{', '.join(times)}: bound by {cells['bound (est.)']}, MFU at most "
                f"{cells['MFU ceiling (est.)']}"
            ),
        ),
        ("attention", row["attention"]),
        *(("collective", _describe_collective(item)) for item in row["collectives"]),
        ("warnings", "; ".join(row["warnings"]) or "none"),
        ("compiled in", f"{row['compile_s']:.0f} s"),
    ]
    return "\n".join((head, *(f"  {name:<13} {value}" for name, value in facts)))


def _describe_collective(item: dict[str, Any]) -> str:
    where = ("once", "in a loop", "in a loop in a loop")[min(item["loops"], 2)]
    what = ", ACTIVATIONS" if item["activations"] else ""
    return (
        f"{item['kind']} of {item['dtype']}, {where}{what}: {item['bytes'] / 1e6:,.2f} MB in "
        f"{item['runs']:,} runs"
    )


def format_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return all columns as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    for row in rows:
        cells = format_row(row)
        lines.append("| " + " | ".join(cells[name] for name in COLUMNS) + " |")
    return "\n".join(lines)


def report_compiled(config: Any, arguments: argparse.Namespace, command: str) -> int:
    """Compile every program that was asked for, print what it is like, and return 1 if one of them
    does not fit.

    Raises:
        ConfigError: if `config` has no decoder.
        GenlabError: if a file that would be written is there already and genlab did not make it.
    """
    if not isinstance(config, Comparison | DecoderRun):
        raise ConfigError(
            f"{arguments.config}: kind {config.kind!r}, but this command needs 'compare' or "
            "'decoder'"
        )
    if arguments.out:
        refuse_to_replace(arguments.out, says(arguments.out, {"command", "rows"}))
    if arguments.save_executable:
        refuse_to_replace(arguments.save_executable)
    plans = plan_arms(config, arguments.topology)
    rows = []
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
            if not arguments.markdown:
                print(format_lines(rows[-1]), flush=True)
            if arguments.out:  # after every program: each takes a minute
                write_json(arguments.out, {"command": command, "rows": rows})
    if arguments.markdown:
        print(format_markdown(rows))
    return 0 if all(row["fits"] for row in rows) else 1
