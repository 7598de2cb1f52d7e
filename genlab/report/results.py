"""results.json and what people see of it: the entries of every row, the TensorBoard pages, the HTML
report.

In: what the stages of `compare` produced. Out: the dict of results.json, event files beside every
arm, report.html. Nothing is computed here that a score or a ledger row does not already hold.
"""

import functools
import operator
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from genlab import __version__
from genlab.arms import ArmRun, by_name, find_run_dir, name_trainings
from genlab.config import digest
from genlab.data.streamed import IN_MEMORY, each_of
from genlab.decoders.task import SamplerConfig, guidance_of
from genlab.evaluate.comparisons import Difference, compare_rows
from genlab.evaluate.controls import Control
from genlab.evaluate.energy import ENERGY_LAW
from genlab.evaluate.entries import MetricEntry
from genlab.evaluate.metric import Metric
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import load_row
from genlab.evaluate.scope import count_speakers
from genlab.experiment import Comparison
from genlab.material import Material, decode_row, floor_waves, lookup_latents
from genlab.preflight import deciding_score
from genlab.prompts import choose_scored
from genlab.report import PromptRow, write_report
from genlab.report.additions import made_beside
from genlab.report.answer import primary_score
from genlab.report.curves import read_curves
from genlab.report.entries import arm_entry, bound_entry
from genlab.report.inputs import Ledger, Row, Scored, Shown, WholeResults
from genlab.report.listening_pages import write_listening_pages
from genlab.report.method import describe_method
from genlab.report.tables import ARROWS
from genlab.report.text import arm_title, score_title
from genlab.report.written import render_answer, render_prompts, render_scores, write_text_reports
from genlab.run.bounds import (
    BASELINES,
    BOUND_NAMES,
    FLOORS,
    HEARD_BASELINES,
    LOOKUP,
    REAL,
    SILENT_BASELINES,
)
from genlab.run.clock import TimeEntry
from genlab.run.stored import DamagedError
from genlab.sample import Sampled
from genlab.watch.mel import mel_png
from genlab.watch.tensorboard import (
    ClipNote,
    Kind,
    RunWriter,
    is_loss_tag,
    level_steps,
    mel_tag,
    prompt_tag,
)

CLIPS_IN_REPORT = 12
MARKS_PER_CLIP = 4  # scores written beside each player


def assemble(
    config: Comparison,
    material: Material,
    arms: Sequence[ArmRun],
    rows: Mapping[str, RowResult],
    command: str,
    time: TimeEntry,
) -> WholeResults:
    """Return results.json; `time` is what everything took so far."""
    own = [row for metric in config.own_metrics for row in _own_entries(metric)]
    leading = [*config.data.domain.leading, *(row["name"] for row in own)]
    codec: Any = {"fingerprint": material.codec.fingerprint, **material.codec.spec.to_dict()}
    trained, trainings = by_name(arms), name_trainings(arms)
    bounds = [name for name in BOUND_NAMES if name in rows]
    entries = [
        arm_entry(trained[name], rows[name], leading, trainings[name], len(material.clips))
        if name in trained
        else bound_entry(name, rows[name], leading)
        for name in (*bounds, *config.arms)
    ]
    if config.data.own is not None:
        for entry in entries:
            if entry["name"] == REAL:
                entry["title"] = "Given codes, decoded"  # there are no recordings
    real = rows[REAL].scores if REAL in rows else {}  # own tokens may have no audio
    struck = config.data.domain.struck({name: score.value for name, score in real.items()})
    pairs = _compare(config, rows, trainings)
    results: WholeResults = {
        "schema": 1,
        "name": config.name,
        "question": config.question,
        "mode": config.budget.mode,
        # Names and paths do not tell whether weights and audio are the same; fingerprints do.
        "comparison_key": digest(
            [config.comparison_key(), material.codec.fingerprint, material.store.info.manifest_hash]
        ),
        "command": command,
        "commit": current_commit(),
        # Our own is not looked up: a source tree that was never installed has none.
        "versions": {"genlab": __version__}
        | {name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        "wall_s": time["whole_s"],
        "time": time,
        "peak_rss_bytes": peak_rss_bytes(),
        "primary_score": _deciding_score(config, material, rows, struck),
        "struck": struck,
        "codec": codec,
        "arms": entries,
        "differences": [pair.to_dict() for pair in pairs],
        "controls": [
            _judged(control, struck).to_dict(name)
            for name in (*config.arms, *HEARD_BASELINES)
            if name in rows
            for control in rows[name].controls
        ],
        "method": describe_method(config, material),
        "energy": ENERGY_LAW,
        "units": count_speakers(
            config.data.domain.unit,
            [clip.speaker for clip in choose_scored(material.store, config)],
        ),
    }
    if own:
        results["metrics"] = own
    return results


def _compare(
    config: Comparison, rows: Mapping[str, RowResult], trainings: Mapping[str, str]
) -> list[Difference]:
    """Return the differences of the arms, then those of each arm and each baseline."""
    arms = {name: rows[name].per_clip for name in config.arms}
    baselines = {name: rows[name].per_clip for name in BASELINES if name in rows}
    own = config.own_metrics
    found = compare_rows(arms, config.equivalence, metrics=own, trainings=trainings)
    if not baselines:
        return found
    # Apart, so that Holm's price for a pair of arms does not depend on the baselines. What it would
    # take to see a difference is planned for pairs of arms alone.
    more = compare_rows({**arms, **baselines}, metrics=own, baselines=baselines)
    return found + [pair._replace(plan=None) for pair in more]


def _own_entries(metric: Metric) -> list[MetricEntry]:
    """Return what a report that cannot run the user's code needs to know of a metric."""
    return [
        {
            "name": name,
            "unit": metric.unit,
            "needs": metric.needs,
            "provenance": metric.provenance,
        }
        for name in metric.score_names
    ]


def _deciding_score(
    config: Comparison,
    material: Material,
    rows: Mapping[str, RowResult],
    struck: Mapping[str, str],
) -> str | None:
    """Return the score that decides, None if every one that could is struck or was not measured."""
    found = material.preflight
    if not struck:
        return found.deciding
    name = deciding_score(config, found.scores, found.prompts, struck)
    is_measured = all(name in rows[arm].scores for arm in config.arms)
    return name if name not in struck and is_measured else None


def _judged(control: Control, struck: Mapping[str, str]) -> Control:
    """Return a control; one by a score that is struck shows nothing: it is not judged."""
    if control.score not in struck:
        return control
    return control._replace(passed=False, reason=struck[control.score])


def collect_shown(
    config: Comparison,
    material: Material,
    heard: Mapping[str, Sampled],
    results: WholeResults,
) -> dict[str, Sequence[np.ndarray]]:
    """Return the waves of every row that can be heard; `heard`: by arm, what it sampled on its
    first training seed.
    """
    shown: dict[str, Sequence[np.ndarray]] = {}
    if material.prompts:
        real = each_of(operator.attrgetter("wave"), material.prompts)
        shown[REAL] = decode_row(REAL, list, real, material)
    shown |= floor_waves(material)
    if any(entry["name"] == LOOKUP for entry in results["arms"]):
        means = lookup_latents(config, material)
        shown[LOOKUP] = decode_row(LOOKUP, material.codec.decode_latents, means, material)
    return {**shown, **{name: sampled.waves for name, sampled in heard.items()}}


def write_events(
    config: Comparison,
    material: Material,
    heard: Mapping[str, Sampled],
    shown: Mapping[str, Sequence[np.ndarray]],
    scored: WholeResults,
    ledger: Ledger,
    out: Path,
) -> None:
    """Write TensorBoard events into `out`; `shown` is of `collect_shown`. Of many prompts the first
    ones are shown.
    """
    shown = {name: list(waves[:IN_MEMORY]) for name, waves in shown.items()}
    results: Shown = {**scored, **made_beside(out)}
    seed, label = config.seeds[0], config.data.domain.label
    rate = material.codec.wave_rate_hz
    kinds: dict[str, Kind] = {REAL: "reference", **{name: name for name in FLOORS}}
    entries = _entries_of(results, shown, out)
    steps = {name: entry.get("steps", 0) for name, entry in entries.items()}
    last_step = max(steps[name] for name in heard)
    # Counts of codes and forecasts of a block cannot be heard, and have scores all the same.
    silent = {name: [] for name in SILENT_BASELINES if name in entries}
    for name, waves in {**shown, **silent}.items():
        log_dir = find_run_dir(out, name, seed) if name in heard else out / "floors" / name
        with RunWriter(log_dir, attempt="samples") as writer:
            for number, (prompt, wave) in enumerate(zip(material.prompts, waves)):
                tag = prompt_tag(kinds.get(name, "samples"), number)
                note = ClipNote(prompt.text, prompt.speaker, label=label)
                if name in config.arms:
                    sampler, calls = config.arms[name].sampler, heard[name].network_calls
                    drawn = (seed, calls, guidance_of(sampler), sampler.kind)
                    note = ClipNote(prompt.text, prompt.speaker, *drawn, label=label)
                writer.audio(tag, [wave], rate, [note.markdown()], step=steps[name])
                longest_s = max(len(other[number]) for other in shown.values()) / rate
                writer.picture(
                    mel_tag(tag),
                    mel_png(wave, rate, extent_s=longest_s),
                    step=steps[name],
                )
            for step in level_steps(steps[name], last_step):
                writer.scores(step, entries[name]["scores"])
            if name in config.arms:
                cost = {
                    f"cost/sampling_{key}": value
                    for key, value in _sampling_of(entries[name]).items()
                }
                cost["cost/train_flops"] = entries[name].get("train_flops", 0.0)
                for step in level_steps(steps[name], last_step):
                    writer.scalars(step, cost)
                writer.hparams(_hparams(config, entries[name]), run_id=f"{config.name}-{name}")
    _write_overview(config, material, heard, results, ledger, out)


def write_pages(
    config: Comparison,
    material: Material,
    heard: Mapping[str, Sampled],
    shown: Mapping[str, Sequence[np.ndarray]],
    scored: WholeResults,
    ledger: Ledger,
    out: Path,
    pages: Path,
) -> None:
    """Write the reports of the run in `out` into `pages`."""
    results: Shown = {**scored, **made_beside(out)}
    rows_of = {
        # New scores lie beside the new reports; without them the reports are of the old ones.
        name: load_row(pages / "rows" / f"{name}.json") or load_row(out / "rows" / f"{name}.json")
        for name in shown
    }
    leading = [primary_score(results) or "", *config.data.domain.leading]
    label = config.data.domain.label
    seed, num_prompts = config.seeds[0], len(material.prompts)
    marks = {name: _marks(row, leading, num_prompts) for name, row in rows_of.items()}
    rows = _prompt_rows(material, shown, heard, seed, marks, label)
    listed: list[str] = []
    if num_prompts > IN_MEMORY:  # more than one page can hold, and not in memory
        folders = {
            name: (find_run_dir(out, name, seed) if name in heard else out / "floors" / name)
            / "samples"
            for name in shown
        }
        listed = write_listening_pages(pages, out, material.prompts, folders, results, marks, label)
    curves = {
        name: [
            read_curves(find_run_dir(out, name, run_seed), is_loss_tag) for run_seed in config.seeds
        ]
        for name in heard
    }
    write_report(
        pages, results, ledger, rows, num_prompts=num_prompts, curves=curves, listed=listed
    )
    write_text_reports(pages, results, ledger)


def _prompt_rows(
    material: Material,
    shown: Mapping[str, Sequence[np.ndarray]],
    heard: Mapping[str, Sampled],
    seed: int,
    marks: Mapping[str, list[dict[str, float]]],
    label: str,
) -> list[PromptRow]:
    """Return what the report plays of one training seed, with the scores of every clip."""
    return [
        PromptRow(
            f"prompt{number:02}",
            prompt.text,
            prompt.speaker,
            seed,
            {name: waves[number] for name, waves in shown.items()},
            material.codec.wave_rate_hz,
            {
                name: f"{sampled.network_calls} call" + "s" * (sampled.network_calls != 1)
                for name, sampled in heard.items()
            },
            {name: by_prompt[number] for name, by_prompt in marks.items() if by_prompt},
            label,
        )
        for number, prompt in enumerate(material.prompts[:CLIPS_IN_REPORT])
    ]


def _marks(
    row: RowResult | None,
    leading: Sequence[str],
    num_prompts: int,
) -> list[dict[str, float]]:
    """Return the leading scores of each prompt's clip in a row of the first seed; empty if the row
    is not kept.
    """
    if row is None:
        return []
    # Only what has a value for every clip: the clips of the first seed come first, in the order of
    # the prompts.
    found = {
        score: row.per_clip[score].values
        for score in dict.fromkeys(leading)
        if score in row.per_clip
    }
    kept = [(score, values) for score, values in found.items() if len(values) >= num_prompts][
        :MARKS_PER_CLIP
    ]
    return [
        {score: float(values[number]) for score, values in kept if np.isfinite(values[number])}
        for number in range(num_prompts)
    ]


def _entries_of(results: Shown, names: Iterable[str], out: Path) -> dict[str, Row]:
    """Return the entry of every row that is shown; results.json may have been edited since it was
    written.
    """
    entries = {arm["name"]: arm for arm in results["arms"]}
    for name in names:
        if "steps" not in entries.get(name, {}):
            raise DamagedError(
                f"{out / 'results.json'}: damaged: expected an entry with steps of row {name!r}, "
                f"got {', '.join(entries)}; run the same `genlab compare` again"
            )
    return entries


def _write_overview(
    config: Comparison,
    material: Material,
    heard: Mapping[str, Sampled],
    results: Shown,
    ledger: Ledger,
    out: Path,
) -> None:
    """Write what TensorBoard shows of all arms together: charts, the head of the HParams table, and
    pages of text.
    """
    entries = {arm["name"]: arm for arm in results["arms"]}
    # The arms' own order, whose first scores are the deciding ones: floors have others before them.
    found = dict.fromkeys(name for arm in reversed(results["arms"]) for name in arm["scores"])
    first = [
        name for name in (primary_score(results), *config.data.domain.leading) if name in found
    ]
    scores = [f"score/{name}" for name in dict.fromkeys([*first, *found])]
    costs = dict.fromkeys(
        f"cost/sampling_{name}" for name in heard for name in _sampling_of(entries[name])
    )
    rates = ["cost/train_flops", "cost/audio_s_per_s", "cost/mfu"]
    charts = {
        f"score/{name}": chart_title(results, name) for name in dict.fromkeys([*first, *found])
    }
    # Beside the events of real audio: in the run directory itself they would be a run named ".".
    with RunWriter(out / "floors" / REAL, attempt="layout") as writer:
        writer.layout({"Scores": charts, "Cost": {tag: tag for tag in (*costs, *rates)}})
        writer.hparams_head(
            [_hparams(config, entries[name]) for name in config.arms], [*scores, *costs, *rates]
        )
        writer.text("comparison/1_answer", render_answer(results, ledger))
        writer.text("comparison/2_scores", render_scores(results))
        writer.text(
            "comparison/3_prompts",
            render_prompts([(p.text, p.speaker) for p in material.prompts[:IN_MEMORY]]),
        )
    for path in out.glob("*tfevents*.layout"):  # where earlier versions wrote them
        path.unlink(missing_ok=True)


def current_commit() -> str:
    """Return the git commit of this source tree, with "+" if it has local changes; empty outside a
    checkout.

    An installed package may lie in the checkout of something else, whose commit says nothing about
    genlab.
    """
    here = Path(__file__).parents[1]
    run = functools.partial(
        subprocess.run, cwd=here, capture_output=True, text=True, check=True, timeout=10
    )
    try:
        run(["git", "ls-files", "--error-unmatch", __file__])
        commit = run(["git", "rev-parse", "--short=10", "HEAD"]).stdout.strip()
        return commit + (
            "+" if run(["git", "status", "--porcelain", "--", str(here)]).stdout else ""
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _sampling_of(entry: Row) -> dict[str, float]:
    """Return what sampling cost, by what was measured."""
    found = entry.get("sampling", {}).items()
    return {name: value for name, value in found if isinstance(value, int | float)}


def _hparams(config: Comparison, entry: Row) -> dict[str, JsonValue]:
    steps = entry.get("steps", 0)
    run = config.run(entry["name"], config.seeds[0], steps)
    return {
        "family": entry["family"],
        "params": entry.get("params"),
        "steps": steps,
        "train_flops": entry.get("train_flops"),
        "sampler": describe_sampler(run.arm.sampler),
        "network_calls": entry.get("network_calls"),
        "width": run.backbone.width,
        "layers": run.backbone.layers,
        "batch_size": config.batch_size,
        "peak_lr": run.optim.peak_lr,
        "dropout": run.backbone.dropout,
        "content": config.condition.content,
    }


def chart_title(results: Scored, name: str) -> str:
    """Return the title of a score's chart: the better side, the unit, and which rows are bounds."""
    scores = {
        arm_title(arm): arm["scores"][name] for arm in results["arms"] if name in arm["scores"]
    }
    facts = next(iter(scores.values()))
    bounds = [title for title, score in scores.items() if score.get("validity") == "upper bound"]
    told = f"; upper bounds: {', '.join(bounds)}" if bounds else ""
    arrow = ARROWS.get(facts.get("direction", ""), "")
    return f"{score_title(name)} {arrow} ({facts.get('unit', '')}{told})"


def describe_sampler(sampler: SamplerConfig) -> str:
    """Return the kind of a sampler with its settings that are not the defaults, in one line."""
    fields = getattr(type(sampler), "model_fields", {})
    own = [
        f"{name}={value}"
        for name, value in sampler.to_dict().items()
        if name != "kind" and getattr(sampler, name) != getattr(fields.get(name), "default", None)
    ]
    return " ".join([sampler.kind, *own])
