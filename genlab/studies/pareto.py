"""Quality against cost: every arm sampled at equally many settings, and those no cheaper one beats.

In: a finished comparison. Out: `pareto.json`: per arm and sampler setting the deciding score on
*validation* prompts, over all training seeds, and four costs: sequential network calls, sampling
FLOPs per second of audio, seconds for one clip alone, and seconds per second of audio when all
prompts are sampled at once. The energy of the bare law, which no sampler moves, is replaced by that
of what the setting draws.

The settings are the arm's own and others of a published grid, calls x temperature x guidance, drawn
in the order of a Halton sequence: as many for each arm as the arm with the fewest has, at most
`NUM_SETTINGS`. On each cost a setting is dropped if another of its arm costs no more and is better
with Holm's correction over all pairs of the arm.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy  # loads its parts when they are first used

from genlab.arms import find_run_dir
from genlab.config import GenlabError
from genlab.decoders.cost import sample_cost
from genlab.decoders.task import SamplerConfig
from genlab.evaluate.comparisons import compare_rows
from genlab.evaluate.content import word_errors
from genlab.evaluate.energy import TUNED_ENERGY
from genlab.evaluate.scores import ClipValues, clip_means
from genlab.evaluate.table import find_metric, make_score
from genlab.experiment import Arm, Comparison
from genlab.forecasts.draws import BlockEnergy
from genlab.load import load_experiment
from genlab.material import Material, gather
from genlab.preflight import deciding_score, find_struck, inspect, pick_from_manifest
from genlab.prompts import choose_prompts
from genlab.recognisers.shipped import load_recogniser
from genlab.report import outputs
from genlab.report.additions import FrontEntry
from genlab.report.fronts import COSTS
from genlab.run.files import write_json
from genlab.run.trust import find_code
from genlab.sample import compile_sampler, conditions, decode, measure_latency
from genlab.train import load_trained
from genlab.watch.progress import Progress

NUM_SETTINGS = 8
CALLS = (0.25, 0.5, 1.0)  # of the arm's own steps or rounds
TEMPERATURES = (0.3, 0.6, 0.8, 1.0)
GUIDANCES = (1.0, 1.5, 2.0)


class Setting(NamedTuple):
    """A sampler of an arm and what it changes from the arm's own, empty for the own one."""

    sampler: SamplerConfig
    change: dict[str, object]

    @property
    def name(self) -> str:
        """The change in words."""
        return ", ".join(f"{name} {value}" for name, value in self.change.items()) or "own setting"


def list_settings(config: Comparison) -> dict[str, list[Setting]]:
    """Return the settings of every arm, equally many for each, its own first."""
    grids = {
        name: _grid(arm, is_guidable=config.condition.dropout > 0)
        for name, arm in config.arms.items()
    }
    number = min(NUM_SETTINGS, *(len(grid) for grid in grids.values()))
    return {name: grid[:number] for name, grid in grids.items()}


def trace_fronts(
    config: Comparison, out: Path, progress: Progress, by: str | None = None
) -> list[FrontEntry]:
    """Sample every setting, write `pareto.json` and return its entries.

    Args:
        config: of the comparison.
        out: its run directory.
        progress: told which setting is measured.
        by: the score; None takes the one that decides, as the report's page of fronts does.

    Raises:
        GenlabError: if the comparison is not finished, or the domain has no such score.
    """
    results = outputs.read_results(out)
    material = gather(config, progress, out)
    # What decides is known by now: the page draws the fronts by the same score.
    decides = by or results.get("primary_score", material.preflight.deciding)
    score = _require_score(config, decides, results.get("struck") or {})
    settings = list_settings(config)
    entries: list[FrontEntry] = []
    for name, of_arm in settings.items():
        values, costs = {}, {}
        for number, setting in enumerate(of_arm):
            progress(f"fronts {name}", number, len(of_arm))
            values[setting.name], costs[setting.name] = _measure(
                config, name, setting, material, out, score
            )
        progress(f"fronts {name}", len(of_arm), len(of_arm))
        entries += _judge(name, values, costs, config.evaluation.seed, score)
    write_json(out / "pareto.json", entries)
    return entries


def check_fronts(config: Comparison, progress: Progress) -> None:
    """Refuse before anything is trained what `trace_fronts` could not measure after it.

    Raises:
        GenlabError: if the deciding score needs more than samples, or there are too few validation
            prompts.
    """
    codec = config.data.load_codec()
    manifest = config.data.build_audio(progress)
    found = inspect(config, manifest, codec)
    struck = find_struck(config, manifest, found.prompts)
    decides = deciding_score(config, found.scores, found.prompts, struck)
    measured = {name for check in found.scores if check.runs for name in check.names}
    _require_score(config, decides if decides in measured - {*struck} else None, struck)
    pick_from_manifest(config, manifest, codec, "valid", config.num_prompts)
    said = {} if find_metric(decides).is_bare else struck
    for name, reason in said.items():
        progress.note(f"--pareto: by {decides}, because {name} does not decide: {reason}")


def _require_score(config: Comparison, decides: str | None, struck: Mapping[str, str]) -> str:
    expected = config.data.domain.searched
    if decides is None or decides not in expected:
        reasons = "".join(f" ({name}: {reason})" for name, reason in struck.items())
        raise GenlabError(
            f"--pareto: the deciding score here is {decides or 'none'}{reasons}, expected "
            f"{' or '.join(expected)}"
        )
    # No sampler moves a score of the bare law: its twin at the setting says what a setting does.
    return TUNED_ENERGY if find_metric(decides).is_bare else decides


def _grid(arm: Arm, *, is_guidable: bool) -> list[Setting]:
    own: Any = arm.sampler
    fields = type(own).model_fields
    axes: dict[str, tuple[object, ...]] = {}
    calls = next((field for field in ("rounds", "steps") if field in fields), None)
    # Heads that draw a frame in one go have no steps, and a mixture has no guided density.
    head = getattr(arm.decoder, "head", None)
    if head is not None and calls == "steps":
        more = own.model_copy(update={calls: 2 * own.steps})
        calls = calls if head.draw_calls(more) != head.draw_calls(own) else None
    is_guidable = is_guidable and getattr(head, "takes_guidance", True)
    if calls is not None:
        axes[calls] = tuple(_scale(getattr(own, calls), factor) for factor in CALLS)
    if "temperature" in fields:
        axes["temperature"] = TEMPERATURES
    if is_guidable and "guidance" in fields:
        axes["guidance"] = GUIDANCES
    shape = [len(levels) for levels in axes.values()]
    # A Halton sequence covers all axes evenly from the start, so a small number of settings is as
    # fair as a large one.
    points = (
        scipy.stats.qmc.Halton(len(axes), scramble=False).random(64 * int(np.prod(shape)))
        if axes
        else []
    )
    # The arm's own setting is always there; rounding makes duplicates, which the digest drops.
    found = {own.digest(): Setting(own, {})}
    for point in points:
        chosen = {
            name: levels[int(at * len(levels))] for at, (name, levels) in zip(point, axes.items())
        }
        sampler = own.model_copy(update=chosen)
        found.setdefault(
            sampler.digest(),
            Setting(sampler, {k: v for k, v in chosen.items() if v != getattr(own, k)}),
        )
    return list(found.values())


def _scale(steps: int | tuple[int, ...], factor: float) -> int | tuple[int, ...]:
    if isinstance(steps, tuple):
        return tuple(max(1, round(factor * step)) for step in steps)
    return max(1, round(factor * steps))


def _names_of(config: Comparison) -> set[str]:
    return {config.data.require_codec(), *(text for _, text in find_code(config.to_dict()))}


def _measure(
    config: Comparison, name: str, setting: Setting, material: Material, out: Path, score: str
) -> tuple[ClipValues, dict[str, float]]:
    """Return the score per clip and seed, and the costs, of one setting."""
    store, codec = material.store, material.codec
    clips = choose_prompts(store, config.data, "valid", config.num_prompts)
    cond, num_frames = conditions(store, clips, config.data.num_frames)
    audio_s = float(num_frames.sum()) / codec.spec.frame_hz
    texts, parts, costs, compiled = [clip.text for clip in clips], [], {}, None
    units = tuple(config.data.domain.unit_of(clip) for clip in clips)
    energy: BlockEnergy | None = None
    for seed in config.seeds:
        directory = find_run_dir(out, name, seed)
        # The comparison's own word for its code is enough for its arms.
        trained = load_experiment(directory, named=_names_of(config))
        run = trained.model_copy(
            update={"arm": trained.arm.model_copy(update={"sampler": setting.sampler})}
        )
        model = load_trained(lambda key, run=run: run.build_for(store, key), directory)
        if compiled is None:
            compiled, _ = compile_sampler(model, run, cond, num_frames)
            median = clips[
                sorted(range(len(clips)), key=lambda i: len(clips[i].units))[len(clips) // 2]
            ]
            latency_s, _, _ = measure_latency(
                model, run, store, codec, median, jax.random.key(seed)
            )
            decode(compiled(cond, num_frames, jax.random.key(seed)), store, codec)
            cost = sample_cost(run.arm.decoder, setting.sampler, run.task(store))
            costs = {"network_calls": compiled.network_calls, "latency_s": latency_s}
            costs["flops_per_s"] = cost.flops * len(clips) / audio_s
        ours = compiled.of(model)
        began = time.perf_counter()
        waves = decode(ours(cond, num_frames, jax.random.key(seed)), store, codec)
        costs.setdefault("throughput_s", (time.perf_counter() - began) / audio_s)
        if find_metric(score).needs == "audio and text":
            parts.append(
                ClipValues(*word_errors(load_recogniser().transcribe(waves), texts), units)
            )
        else:
            draws, draw_seed = config.evaluation.energy_draws, config.evaluation.seed
            energy = energy or BlockEnergy(run, store, clips)
            energies = energy(model, num_draws=draws, seed=draw_seed)
            parts.append(clip_means(energies, units))
    runs = tuple(np.repeat(range(len(config.seeds)), len(clips)).tolist())
    totals, weights = (
        np.concatenate(column) for column in zip(*((one.totals, one.weights) for one in parts))
    )
    return ClipValues(totals, weights, units * len(config.seeds), runs=runs), costs


def _judge(
    arm: str,
    values: Mapping[str, ClipValues],
    costs: Mapping[str, Mapping[str, float]],
    seed: int,
    score_name: str,
) -> list[FrontEntry]:
    """Return the entries of an arm's settings, with what significantly beats each on all costs."""
    # Significant with Holm over all pairs: among many settings the luckiest always looks best.
    pairs = compare_rows({name: {score_name: one} for name, one in values.items()}, seed=seed)
    beaten = {
        (pair.b if pair.better == pair.a else pair.a, pair.better) for pair in pairs if pair.better
    }
    entries = []
    for name, one in values.items():
        score = make_score(score_name, one.estimate(seed), seeds=one.num_runs, covers=one.covers)
        dominated_by = {
            cost: next(
                (o for o in values if (name, o) in beaten and costs[o][cost] <= costs[name][cost]),
                "",
            )
            for cost in COSTS
        }
        entries.append(
            {
                "arm": arm,
                "setting": name,
                "by": score_name,
                "score": score.to_dict(),
                "costs": costs[name],
                "dominated_by": dominated_by,
            }
        )
    return entries


def format_fronts(entries: list[FrontEntry]) -> list[list[str]]:
    """Return the rows of a table: arm, setting, score, costs, and on which costs the setting is on
    the front.
    """
    head = ["", "setting", "score", *COSTS, "on the front of"]
    rows = [head]
    for entry in entries:
        score, on = entry["score"], [cost for cost in COSTS if not entry["dominated_by"][cost]]
        ends = (score["value"], score.get("low"), score.get("high"))
        value, low, high = (math.nan if end is None else end for end in ends)
        interval = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        costs = [f"{entry['costs'][cost]:.3g}" for cost in COSTS]
        where = "all" if len(on) == len(COSTS) else ", ".join(on) or "none"
        rows.append([entry["arm"], entry["setting"], interval, *costs, where])
    return rows
