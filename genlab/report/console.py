"""Tables for the terminal: plain text, aligned, no colour, safe to paste into an issue.

In: results.json and ledger.json as dicts, or budgets. Out: a string. The same words and numbers as
report.html.
"""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence

from genlab.data.listing import count_of
from genlab.evaluate.entries import AuditEntry, ControlEntry
from genlab.experiment import Comparison
from genlab.fairness.budget import ArmBudget
from genlab.fairness.heeding import control_status
from genlab.preflight import Check, DryRun
from genlab.report.answer import find_answer, model_arms, primary_score, stamp_of
from genlab.report.baselines import missing_baselines
from genlab.report.inputs import Ledger, Row, WholeResults
from genlab.report.spent import describe_gates_cost, time_rows
from genlab.report.tables import ARROWS, column_decimals
from genlab.report.text import (
    arm_title,
    format_interval,
    format_quantity,
    format_score,
    format_seconds,
    interval_of,
    power_cells,
    power_columns,
    score_title,
)
from genlab.report.trust import distrust

WIDTH = 80  # columns of a terminal that nobody has widened
_GAP = "  "
_HEAD = 12  # a head wraps when it is wider than this and than its cells
# The leading ones of each row: what a terminal holds, beside those of the user's own metrics;
# report.html has them all.
MOST_SCORES = 7


def format_results(results: WholeResults, ledger: Ledger | None) -> str:
    """Return the answer, the score tables, the cost tables and the controls, none wider than
    `WIDTH`.
    """
    arms = results["arms"]
    names = [name for arm in arms for name in list(arm["scores"])[:MOST_SCORES]]
    own = [row["name"] for row in results.get("metrics", [])]
    names = list(
        dict.fromkeys([*names, *(name for name in own if any(name in a["scores"] for a in arms))])
    )
    answer = find_answer(results, ledger)
    head = ["", *(f"{score_title(name)}\n{_unit(arms, name)}" for name in names)]
    decimals = {name: column_decimals(arms, name) for name in names}
    body = [
        [
            arm_title(arm),
            *(format_score(arm["scores"].get(name), decimals[name]) for name in names),
        ]
        for arm in arms
    ]
    # The same reasons as on the page: who reads only the console must not miss them.
    doubted = [
        f"not trusted on this corpus, by its audit: {score_title(name)} ({reason})"
        for name in names
        if (reason := distrust(results, name))
    ]
    name = primary_score(results)
    planned = [
        (item, plan)
        for item in results.get("differences", [])
        if item["score"] == name and (plan := item.get("plan"))
    ]
    # The plan is of the deciding score alone; one for every score would fill the screen.
    power = [[f"{item['a']} - {item['b']}", *power_cells(plan)] for item, plan in planned]
    if power:
        power = [
            [f"{score_title(str(name))}, 80 % power", *power_columns(planned[0][1])],
            *power,
        ]
    parts = [
        wrap(results["question"]),
        wrap(f"{answer.headline} {answer.shows}"),
        f"ledger: {stamp_of(ledger)}, mode {results['mode']}",
        "\n".join(wrap(f"gate {gate.describe()}") for gate in answer.gates),
        fold([head, *body]),
        wrap(missing_baselines(results)),
        fold(_cost_rows(results)),
        fold(power) if power else "",
        "\n".join(wrap(line) for line in [*map(_describe_control, results["controls"]), *doubted]),
        *([fold(rows), wrap(describe_gates_cost(results))] if (rows := time_rows(results)) else []),
        f"{results['wall_s']:.0f} s, peak memory {results['peak_rss_bytes'] / 2**30:.2f} GiB",
    ]
    return "\n\n".join(part for part in parts if part)


def _cost_rows(results: WholeResults) -> list[list[str]]:
    head = [
        "",
        "parameters",
        "train\nFLOPs",
        "steps",
        "train s",
        "calls",
        "sampling s\n/ audio s",
        "first\naudio s",
    ]
    # Line breaks in the heads keep the table narrow enough for a terminal.
    rows = [head]
    for arm in model_arms(results):
        sampling = arm.get("sampling", {})
        rows.append(
            [
                arm_title(arm),
                f"{arm.get('params', 0):,}",
                format_quantity(arm.get("train_flops")),
                str(arm.get("steps")),
                f"{arm.get('train_wall_s', math.nan):.0f}",
                str(arm.get("network_calls")),
                f"{sampling.get('real_time_factor', math.nan):.3f}",
                f"{sampling.get('first_audio_s', math.nan):.3f}",
            ]
        )
    return rows


def _describe_control(item: ControlEntry) -> str:
    head = f"control {item['control']} on {score_title(item['score'])}, {item['arm']}:"
    status = control_status(item)
    if status in ("not applicable", "not judged"):
        return f"{head} {status}: {item.get('reason') or 'it could not be made'}"
    interval = format_interval(interval_of(item))
    return f"{head} {interval} {'FAILED' if status == 'failed' else status}"


def format_budget(
    config: Comparison, budgets: Mapping[str, ArmBudget], ratios: Mapping[str, float]
) -> str:
    """Return one line per arm: parameters, FLOPs, steps, audio seen, sampling cost."""
    head = [
        "arm",
        "reads",
        "parameters",
        "of the head",
        "FLOPs/clip",
        "walked/formula",
        "steps",
        "train FLOPs",
        "audio seen s",
    ]
    # What the walk of the program finds over what the formula says: near 1, or one of them is
    # wrong.
    head += ["epochs", "calls", "FLOPs/sample"]
    rows = [
        [
            name,
            b.reads,
            f"{b.params:,}",
            f"{b.params - b.shared_params:,}",
            format_quantity(b.flops_per_clip),
            f"{ratios[name]:.4f}",
            str(b.steps),
            format_quantity(b.train_flops),
            f"{b.seconds_seen:,.0f}",
            f"{b.epochs:.2f}",
            str(b.network_calls),
            format_quantity(b.sample_flops),
        ]
        for name, b in budgets.items()
    ]
    # Where the time of a clip is held equal, it was measured for this plan.
    if any(b.sample_s is not None for b in budgets.values()):
        head.append("clip alone s")
        for row, b in zip(rows, budgets.values()):
            row.append("" if b.sample_s is None else f"{b.sample_s:.3g}")
    return (
        f"{config.name}: {config.budget.mode}, batch {config.batch_size} x "
        f"{config.data.example_frames} frames\n"
    ) + fold([head, *rows])


def format_plan(config: Comparison, found: DryRun, flops_per_s: float) -> str:
    """Return what a comparison would do: arms, prompts, scores, controls, the deciding score, and
    the cost.
    """
    preflight = found.preflight
    seeds = f"{len(config.seeds)} training seed{'s' * (len(config.seeds) != 1)}"
    labels = len({clip.speaker for clip in preflight.prompts})
    # Bits depend on what each family can score, so they are known only after the budgets.
    bits = Check(
        ("bits_per_s",),
        bool(found.with_bits),
        f"of {', '.join(found.with_bits)}" if found.with_bits else "",
    )
    checks = [*preflight.scores, bits]
    names = [name for check in checks if check.runs for name in check.names]
    lines = [
        format_budget(config, found.budgets, found.ratios),
        "",
        f"arms: {', '.join(config.arms)}, each with {seeds}",
        f"baselines: {', '.join(config.measured_baselines) or 'none'}",
        (
            f"prompts: {len(preflight.prompts)} of split {config.prompts_split!r}, "
            f"{count_of(labels, config.data.domain.label)}"
        ),
        f"deciding score: {preflight.deciding}",
        f"scores: {', '.join(names)}",
        *(f"score {check.describe()}" for check in checks if check.note or not check.runs),
        *(f"control {check.describe()}" for check in preflight.controls),
        *(f"note: {note}" for note in preflight.notes),
        f"cost: {format_quantity(found.flops, 'FLOP')} of training and sampling, an estimated "
        f"{format_seconds(found.flops / flops_per_s)} at the speed of a matrix product on this "
        f"machine, as busy as it is now; checkpoints {found.disk_bytes / 1e6:,.0f} MB",
        "nothing was encoded or trained (--dry-run)",
    ]
    # The first line is the table of budgets, which is folded already.
    return "\n".join(wrap(line) if number and line else line for number, line in enumerate(lines))


def format_audit(audit: Mapping[str, AuditEntry]) -> str:
    """Return which metrics rank which degradations of real clips, one line per metric."""
    degradations = list(
        dict.fromkeys(seen for found in audit.values() for seen in found["verdicts"])
    )
    rows = [["", *degradations, "false alarms", "on this corpus"]]
    for name, found in audit.items():
        verdict = "trusted" if found["is_trusted"] else f"NOT TRUSTED: {', '.join(found['failed'])}"
        seen = [found["verdicts"].get(degradation, "") for degradation in degradations]
        rows.append([score_title(name), *seen, f"{found['false_alarms']:.0%}", verdict])
    return fold(rows)


def align(rows: Sequence[Sequence[str]], words: Collection[int] = ()) -> str:
    """Return the rows with padded columns: the first and those of `words` to the left, the others
    to the right.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(_line(row, widths, words) for row in rows)


def fold(rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Return a table as one or more tables below each other, none wider than `width`.

    Each repeats the first column. A head breaks where it says so and wraps to the width of the
    cells below it; a cell that no table could hold wraps too, so that nothing is cut.
    """
    whole = align(rows)
    if "\n" not in "".join(rows[0]) and max(map(len, whole.split("\n"))) <= width:
        return whole
    head, *body = rows
    widest = [max([len(row[i]) for row in body], default=0) for i in range(len(head))]
    longest_words = [max(map(len, title.split()), default=0) for title in head]
    longest_lines = [min(max(map(len, title.split("\n"))), _HEAD) for title in head]
    widths = [max(needs) for needs in zip(widest, longest_words, longest_lines)]
    # The first column is repeated in every table, so it may take two fifths of the width.
    widths[0] = min(max(widths[0], len(head[0])), 2 * width // 5)
    widths[1:] = [min(wanted, width - widths[0] - len(_GAP)) for wanted in widths[1:]]
    blocks: list[list[int]] = [[0]]
    for i in range(1, len(head)):
        if sum(widths[j] + len(_GAP) for j in (*blocks[-1], i)) - len(_GAP) > width:
            blocks.append([0])
        blocks[-1].append(i)
    return "\n\n".join(
        _wrapped_table([[row[i] for i in block] for row in rows], [widths[i] for i in block])
        for block in blocks
    )


def wrap(text: str, width: int = WIDTH) -> str:
    """Return the text as lines of at most `width`; a longer word, such as a path, stays whole."""
    return textwrap.fill(
        " ".join(text.split()), width, break_long_words=False, break_on_hyphens=False
    )


def _wrapped_table(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    lines = []
    for number, row in enumerate(rows):
        cells = [
            [line for part in cell.split("\n") for line in textwrap.wrap(part, max(width, 1))]
            for cell, width in zip(row, widths)
        ]
        height = max([len(cell) for cell in cells] + [1])
        for cell in cells:
            padding = [""] * (height - len(cell))
            # heads stand on their columns
            cell[:] = [*padding, *cell] if number == 0 else [*cell, *padding]
        lines += [_line(line, widths) for line in zip(*cells)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], words: Collection[int] = ()) -> str:
    padded = [
        cell.ljust(width) if number in {0, *words} else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths))
    ]
    return _GAP.join(padded).rstrip()


def _unit(arms: Sequence[Row], name: str) -> str:
    score = next(arm["scores"][name] for arm in arms if name in arm["scores"])
    return f"{ARROWS.get(score.get('direction', ''), '')} {score.get('unit', '')}"
