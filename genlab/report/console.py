"""Tables for the terminal: plain text, aligned, no colour, safe to paste into an issue.

In: results.json and ledger.json as dicts, or budgets. Out: a string. The same words and numbers as report.html.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from genlab.budget import ArmBudget
from genlab.experiment import Comparison
from genlab.report.answer import find_answer, primary_score
from genlab.report.text import (
    arm_title,
    format_interval,
    format_quantity,
    format_score,
    power_cells,
    power_columns,
    score_title,
)
from genlab.report.trust import distrust

MOST_SCORES = 7  # the leading ones of each row: what a terminal holds; report.html has them all


def format_results(results: Mapping[str, Any], ledger: Mapping[str, Any]) -> str:
    """Return the answer, the score table, the cost table and the controls."""
    arms = results["arms"]
    names = list(dict.fromkeys(name for arm in arms for name in list(arm["scores"])[:MOST_SCORES]))
    answer = find_answer(results, ledger)
    head = ["", *(score_title(name) for name in names)]
    body = [
        [arm_title(arm), *(format_score(arm["scores"][name]) if name in arm["scores"] else "" for name in names)]
        for arm in arms
    ]
    notes = ["", *(f"{_unit(arms, name)}" for name in names)]
    doubted = [
        f"not trusted on this corpus, by its audit: {score_title(name)} ({reason})"
        for name in names
        if (reason := distrust(results, name))
    ]
    models = [arm for arm in arms if arm["family"] not in ("real", "floor")]
    cost_head = ["", "parameters", "train FLOPs", "steps", "train s", "calls", "sampling s / audio s", "first audio s"]
    cost = [
        [
            arm_title(arm), f"{arm['params']:,}", format_quantity(arm["train_flops"]), str(arm["steps"]),
            f"{arm['train_wall_s']:.0f}", str(arm["network_calls"]), f"{arm['sampling']['real_time_factor']:.3f}",
            f"{arm['sampling']['first_audio_s']:.3f}",
        ]
        for arm in models
    ]  # fmt: skip
    controls = [
        f"control {item['control']} on {score_title(item['score'])}, {item['arm']}: "
        f"{format_interval({**item, 'value': item['difference']})} {'passed' if item['passed'] else 'FAILED'}"
        for item in results["controls"]
    ]
    name = primary_score(results)
    planned = [item for item in results.get("differences", []) if item["score"] == name and item.get("plan")]
    power = [[f"{item['a']} - {item['b']}", *power_cells(item["plan"])] for item in planned]
    if power:
        power = [[f"{score_title(str(name))}, 80 % power", *power_columns(planned[0]["plan"])], *power]
    parts = [
        f"{results['question']}\n{answer.headline} {answer.shows}",
        f"ledger: {ledger['stamp']}, mode {results['mode']}",
        align([head, notes, *body]),
        align([cost_head, *cost]),
        align(power) if power else "",
        "\n".join([*controls, *doubted]),
        f"{results['wall_s']:.0f} s, peak memory {results['peak_rss_bytes'] / 2**30:.2f} GiB",
    ]
    return "\n\n".join(part for part in parts if part)


def format_budget(config: Comparison, budgets: Mapping[str, ArmBudget], ratios: Mapping[str, float]) -> str:
    """Return one line per arm: parameters, FLOPs, steps, audio seen, sampling cost."""
    head = ["arm", "reads", "parameters", "FLOPs/clip", "walked/formula", "steps", "train FLOPs", "audio seen s"]
    head += ["epochs", "calls", "FLOPs/sample"]
    rows = [
        [
            name, b.reads, f"{b.params:,}", format_quantity(b.flops_per_clip), f"{ratios[name]:.4f}", str(b.steps),
            format_quantity(b.train_flops), f"{b.seconds_seen:,.0f}", f"{b.epochs:.2f}", str(b.network_calls),
            format_quantity(b.sample_flops),
        ]
        for name, b in budgets.items()
    ]  # fmt: skip
    return (
        f"{config.name}: {config.budget.mode}, batch {config.batch_size} x {config.data.num_frames} frames\n"
        + align([head, *rows])
    )


def format_audit(audit: Mapping[str, Any]) -> str:
    """Return which metrics rank which degradations of real clips, one line per metric."""
    degradations = list(dict.fromkeys(seen for found in audit.values() for seen in found["verdicts"]))
    rows = [["", *degradations, "false alarms", "on this corpus"]]
    for name, found in audit.items():
        verdict = "trusted" if found["is_trusted"] else f"NOT TRUSTED: {', '.join(found['failed'])}"
        seen = [found["verdicts"][degradation] for degradation in degradations]
        rows.append([score_title(name), *seen, f"{found['false_alarms']:.0%}", verdict])
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows with padded columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _unit(arms: Sequence[Mapping[str, Any]], name: str) -> str:
    score = next(arm["scores"][name] for arm in arms if name in arm["scores"])
    return f"{'↓' if score['direction'] == 'lower' else '↑'} {score['unit']}"
