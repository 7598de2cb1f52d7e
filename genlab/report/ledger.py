"""The ledger: what was held equal, what was bounded, what was free, what differed and was declared.

In: a `Comparison`, its budgets, and what training reported. Out: `ledger.json`, with a stamp:
`controlled` if every row that must agree does, else `uncontrolled`. Rows are matched (equal),
bounded (within 1 %), free (this mode lets it vary) or declared (differs on purpose, in the open). A
row whose values differ although they should match is `undeclared`, and one such row stamps the
whole comparison; nothing is ever printed as fair by default.
"""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import jax
from pydantic import JsonValue

from genlab.arms import ArmRun, by_name
from genlab.config import digest
from genlab.data.manifest import Manifest, overlap_of_splits
from genlab.data.store import TokenStore
from genlab.decoders.task import guidance_of
from genlab.experiment import Comparison, DecoderRun
from genlab.fairness.budget import TOLERANCE, ArmBudget
from genlab.fairness.measured import TIMED
from genlab.fairness.rates import how_chosen
from genlab.fairness.reach import describe_reach, has_order, merge_reach
from genlab.fairness.regression import describe_rate, describe_trials
from genlab.fairness.timing import TIMED as DRAWS_TIMED
from genlab.fairness.verdict import MIN_SEEDS
from genlab.report.inputs import Ledger, LedgerRow
from genlab.report.prompt_row import gap_rows, prompt_row
from genlab.training.looks import choose_look
from genlab.training.optim import ArmSettings
from genlab.training.shapes import GRIDS, Shape
from genlab.training.spend import Budget, Mode, SamplingBudget

# The rows that each mode holds within `TOLERANCE`; the others it leaves free.
HELD: dict[Mode, tuple[str, ...]] = {
    "iso_flop": ("Training FLOPs",),
    "iso_step": ("Backbone parameters", "Updates", "Epochs", "Seconds of audio seen"),
    "iso_data": ("Updates", "Epochs", "Seconds of audio seen"),
    "iso_time": (),
    "iso_latency": ("Training FLOPs",),
    "iso_bitrate": ("Training FLOPs",),
}


def build_ledger(
    config: Comparison, store: TokenStore, arms: Sequence[ArmRun], manifest: Manifest | None = None
) -> Ledger:
    """Return the ledger of trained arms, with the overlap of splits if the `manifest` is given."""
    by_seed = by_name(arms)
    budgets = {name: runs[0].budget for name, runs in by_seed.items()}
    runs = {name: runs[0].run for name, runs in by_seed.items()}
    seconds = {
        name: f"{sum(arm.result.wall_s for arm in runs):.0f} s" for name, runs in by_seed.items()
    }
    rows = [
        *_data_rows(config, store, by_seed),
        *([] if manifest is None else [_overlap_row(list(runs), manifest)]),
        *compute_rows(config, budgets),
        *_reach_rows(config, by_seed),
        prompt_row(runs, config.evaluation.energy_draws > 0),
        *gap_rows(runs, bool(config.evaluation.gaps_s)),
        *_recipe_rows(config, runs),
        *_sampling_rows(config, budgets),
        _seeds_row({name: len(runs) for name, runs in by_seed.items()}),
        *_checkpoint_rows(config, by_seed),
        _row("Training wall clock", "free", seconds, device_text()),
    ]
    # One row that nobody declared is enough: the difference may come from there.
    is_controlled = all(row.get("status") != "undeclared" for row in rows)
    return {
        "schema": 1,
        "stamp": "controlled" if is_controlled else "uncontrolled",
        "mode": config.budget.mode,
        "rows": rows,
    }


def _data_rows(
    config: Comparison, store: TokenStore, by_seed: Mapping[str, Sequence[ArmRun]]
) -> list[LedgerRow]:
    shared = min(arms[0].budget.steps for arms in by_seed.values())
    tokens = f"{store.info.manifest_hash} / {store.info.codec_fingerprint}"
    seconds = {name: round(arms[0].budget.unique_seconds) for name, arms in by_seed.items()}
    runs = {name: arms[0].run for name, arms in by_seed.items()}
    batch = {name: run.batch_size for name, run in runs.items()}
    hashes = {name: read_hashes(arms, shared) for name, arms in by_seed.items()}
    return [
        _matched("Token store", dict.fromkeys(runs, tokens), "manifest hash / codec fingerprint"),
        _order_row(hashes, shared),
        _matched("Unique seconds", seconds, "training split"),
        _matched("Batch size", batch, f"clips of {config.data.example_frames} frames"),
        *([_hearing_row(runs)] if store.info.is_two_sided else []),
    ]


def _overlap_row(names: Sequence[str], manifest: Manifest) -> LedgerRow:
    """Count the recordings of train that another split has too, or of valid: there must be none."""
    repeated = overlap_of_splits(manifest.clips)
    unknown = sum(not clip.audio_digest for clip in manifest.clips)
    note = "recordings in two splits, by the digest of their samples"
    if unknown:
        note += f"; {unknown} rendered clips have none and are not compared"
    status = "undeclared" if repeated else "matched"
    return _row("Overlap of splits", status, dict.fromkeys(names, len(repeated)), note)


def _hearing_row(runs: Mapping[str, DecoderRun]) -> LedgerRow:
    hears = {
        name: getattr(run.arm.decoder, "other", None) is not None for name, run in runs.items()
    }
    if len(set(hears.values())) == 1:
        return _row("Other speaker", "matched", hears, "whether what they say is heard")
    return _row(
        "Other speaker",
        "declared",
        hears,
        "the arms that hear it get more information than the others",
    )


def _reach_rows(config: Comparison, by_seed: Mapping[str, Sequence[ArmRun]]) -> list[LedgerRow]:
    """Compare how far ahead the arms see what they are told, where that has an order in time."""
    if not has_order(config.condition):
        return []
    found = {
        name: merge_reach([arm.sampled.reach for arm in arms if hasattr(arm, "sampled")])
        for name, arms in by_seed.items()
    }
    # In words, not in frames: prompts of all arms are alike, but which code moves first is chance.
    told = {
        name: ", ".join(f"{item}: {describe_reach(one)}" for item, one in reach.items())
        or "not measured"
        for name, reach in found.items()
    }
    row = _matched(
        "Reach of the conditions",
        told,
        "how far before a change in what is told the samples change, on the prompts",
    )
    if not all(found.values()):  # what nobody measured is not known to be equal
        row["status"] = "undeclared"
        row["note"] = row.get("note", "") + "; samples of an earlier version do not say: draw again"
    elif row.get("status") == "undeclared":
        row["note"] = row.get("note", "") + (
            "; an arm that sees less of them is told less: condition.units_route=cross shows all "
            "arms the whole clip"
        )
    return [row]


def compute_rows(config: Comparison, budgets: Mapping[str, ArmBudget]) -> list[LedgerRow]:
    """Return what the mode holds equal and what it leaves free, of budgets that are solved."""
    held = HELD[config.budget.mode]

    def values(field: str) -> dict[str, float]:
        return {name: getattr(budget, field) for name, budget in budgets.items()}

    def row(item: str, found: Mapping[str, float], note: str) -> LedgerRow:
        return _close(item, found, item in held, note)

    # Heads differ by family on purpose; what all families share must not.
    backbone, total = values("shared_params"), values("params")
    heads = {name: total[name] - backbone[name] for name in budgets}
    is_equal = len(set(heads.values())) == 1
    own = "declared" if "Backbone parameters" in held else "free"
    seen = {name: round(budget.seconds_seen) for name, budget in budgets.items()}
    flops_note = "executed matrix products, formula checked against a walk over the traced step"
    return [
        row("Training FLOPs", values("train_flops"), flops_note),
        row(
            "Backbone parameters",
            backbone,
            "the backbone and the encoder of the conditions, which all families share",
        ),
        _row(
            "Head parameters",
            "matched" if is_equal else own,
            heads,
            "a family's own: embeddings, heads, the modulation by a noise level",
        ),
        row("Updates", values("steps"), "of the parameters"),
        row("Epochs", values("epochs"), "passes over the training clips"),
        row("Seconds of audio seen", seen, "without padding"),
        *_measured_rows(config.budget, budgets),
    ]


def _measured_rows(budget: Budget, budgets: Mapping[str, ArmBudget]) -> list[LedgerRow]:
    """Return what was measured before training: the time of an update, the floors of the codec."""
    times = {name: arm.step_s for name, arm in budgets.items() if arm.step_s is not None}
    floors = {name: arm.floor_db for name, arm in budgets.items() if arm.floor_db is not None}
    rows = []
    if times:
        planned = {name: seconds * budgets[name].steps for name, seconds in times.items()}
        note = f"median of {TIMED} compiled updates before training"
        told = {name: f"{1000 * seconds:.3g} ms" for name, seconds in times.items()}
        rows.append(_row("Time of an update", "free", told, note))
        rows.append(_close("Planned training time", planned, True, "s, of all updates"))
    rates = {name: arm.bitrate_bps for name, arm in budgets.items() if arm.bitrate_bps is not None}
    if budget.mode == "iso_bitrate":
        told = {
            name: f"{rates[name] / 1000:.3g} kbit/s" if name in rates else "latents have none"
            for name in budgets
        }
        # Codes of other rates were refused before training.
        note = "of the codes that are drawn: levels x log2(entries) x frames per second"
        rows.append(_row("Bitrate", "matched", told, note))
    if floors:
        # Further apart they were refused before training (fairness/budget.py).
        told = {name: f"{value:.3g} dB" for name, value in floors.items()}
        note = (
            "mel distance of validation clips from their resynthesis from what the arm reads; "
            f"limit {budget.floor_tolerance:.0%} apart"
        )
        rows.append(_row("Codec floor", "bounded", told, note))
    return rows


def _recipe_rows(config: Comparison, runs: Mapping[str, DecoderRun]) -> list[LedgerRow]:
    condition, optim = config.condition, config.optim
    # What tuning may change has a row of its own; the rest must be equal as a whole.
    others = {
        name: run.optim.digest(exclude=set(ArmSettings.model_fields)) for name, run in runs.items()
    }
    told = (
        f"content={condition.content}, speaker={condition.speaker}, dropout={condition.dropout:g}"
    )
    recipe = (
        f"AdamW, {optim.decay} decay, b1 {optim.b1:g}, b2 {optim.b2:g}, gradients clipped at "
        f"{optim.clip_norm}"
    )
    precision = "compute; parameters, losses and categorical sampling in float32"
    trials = {name: config.arms[name].training_trials for name in runs}
    stated = "training settings tried per arm, this one included, as the config states"
    return [
        _backbone_row(config, runs),
        _matched(
            "Conditioning", {name: run.condition.digest() for name, run in runs.items()}, told
        ),
        _tuned(
            "Peak learning rate",
            {name: run.optim.peak_lr for name, run in runs.items()},
            describe_rate(config),
        ),
        _tuned("Warm-up share", {name: run.optim.warmup_fraction for name, run in runs.items()}),
        _tuned("Weight decay", {name: run.optim.weight_decay for name, run in runs.items()}),
        _average_row(config, runs),
        _tuned("Dropout", {name: run.backbone.dropout for name, run in runs.items()}),
        _matched("Optimiser, other fields", others, recipe),
        _matched("Precision", {name: run.backbone.dtype for name, run in runs.items()}, precision),
        _matched(
            "Training trials",
            trials,
            "; ".join(filter(None, (stated, how_chosen(config), describe_trials(config)))),
        ),
        _tuning_row(config),
        *_weighting_rows(runs),
    ]


def _backbone_row(config: Comparison, runs: Mapping[str, DecoderRun]) -> LedgerRow:
    """Return whether arms share a backbone, or have each its own best of a published grid."""
    deltas = "deltas: causal or full attention, noise-level modulation, input and output heads"
    whole = {name: run.backbone.digest(exclude={"dropout"}) for name, run in runs.items()}
    if len(set(whole.values())) == 1:
        return _matched("Backbone", whole, f"width, depth, heads, norm, positions; {deltas}")
    rest = {run.backbone.digest(exclude={"dropout", *Shape.model_fields}) for run in runs.values()}
    shapes = {
        name: Shape(**{field: getattr(run.backbone, field) for field in Shape.model_fields})
        for name, run in runs.items()
    }
    titles = {name: shape.title for name, shape in shapes.items()}
    grid = () if config.shape_grid is None else GRIDS[config.shape_grid]
    trials = [config.arms[name].training_trials for name in runs]
    # A shape of the grid is an arm's best only if the arm has tried the others, too.
    is_best = all(shape in grid for shape in shapes.values()) and min(trials) >= len(grid)
    if len(rest) == 1 and grid and is_best:
        note = (
            f"layers x width, each arm's own of the grid {config.shape_grid!r} ({len(grid)} shapes "
            f"tried per arm); {deltas}"
        )
        return _row("Backbone", "declared", titles, note)
    note = (
        "arms differ in their backbones, and not each by its own best of one published grid "
        "(shape_grid, training_trials)"
    )
    return _row("Backbone", "undeclared", titles if len(rest) == 1 else whole, note)


def _average_row(config: Comparison, runs: Mapping[str, DecoderRun]) -> LedgerRow:
    powers = config.optim.ema_powers
    if powers is None:
        return _tuned("EMA decay", {name: run.optim.ema_decay for name, run in runs.items()})
    grid = {name: str(list(run.optim.ema_powers or ())) for name, run in runs.items()}
    return _matched("EMA grid", grid, "powers k of the decays 1 - 2^-k, all kept in one training")


def _weighting_rows(runs: Mapping[str, DecoderRun]) -> list[LedgerRow]:
    """Say where the training of an arm weighs or orders its examples unlike its score does."""
    decoders = {name: run.arm.decoder for name, run in runs.items()}
    weighting = {name: getattr(one, "loss_weighting", "") for name, one in decoders.items()}
    infilling = {name: getattr(one, "infill_share", None) for name, one in decoders.items()}
    rows = []
    if any(weighting.values()):
        note = "of masked arms: as published, or as the bound on their bits weighs"
        values = {name: value or "own" for name, value in weighting.items()}
        rows.append(_row("Loss weighting", "declared", values, note))
    if any(infilling.values()):
        note = "share of training examples visited in the order that fills a hole, not scored"
        values = {name: value or 0.0 for name, value in infilling.items()}
        rows.append(_row("Infilling orders", "declared", values, note))
    return rows


def _tuning_row(config: Comparison) -> LedgerRow:
    spent = {name: arm.tuning_flops for name, arm in config.arms.items()}
    if not any(spent.values()):
        return _row("Tuning FLOPs", "matched", spent, "nothing was tuned by this program")
    return _close("Tuning FLOPs", spent, config.budget.holds_flops, "training FLOPs of all trials")


def _sampling_rows(config: Comparison, budgets: Mapping[str, ArmBudget]) -> list[LedgerRow]:
    calls = {name: budget.network_calls for name, budget in budgets.items()}
    guidance = {name: guidance_of(config.arms[name].sampler) for name in budgets}
    trials = {name: config.arms[name].sampler_trials for name in budgets}
    flops = {name: budget.sample_flops for name, budget in budgets.items()}
    limit = config.budget.sampling
    status, told = "declared", "each family at its own sampler"
    more = []
    if limit is not None:
        # What a step costs differs by family, so calls, FLOPs and seconds cannot all be equal.
        unit = "calls" if limit.calls is not None else "flops" if limit.flops else "seconds"
        most = f"at most {getattr(limit, unit):g}, the most steps that fit"
        status = "bounded" if unit == "calls" else "free"
        told = most if unit == "calls" else f"as the {unit.replace('flops', 'FLOPs')} allow"
        of_flops = ("bounded", f"per clip; {most}") if unit == "flops" else ("free", "per clip")
        more = [
            _row("Sampling FLOPs", of_flops[0], flops, of_flops[1]),
            *_clip_rows(limit, budgets),
        ]
    return [
        _row("Sampler calls", status, calls, f"sequential network calls per clip; {told}"),
        *more,
        _row("Guidance", "declared", guidance, "1 is off; it counts as two calls"),
        _matched("Sampler trials", trials, "sampling settings tried per arm on validation prompts"),
    ]


def _clip_rows(limit: SamplingBudget, budgets: Mapping[str, ArmBudget]) -> list[LedgerRow]:
    """Return the time of a clip where it is held equal; arms further apart were refused."""
    times = {name: arm.sample_s for name, arm in budgets.items() if arm.sample_s is not None}
    if limit.seconds is None:
        return []
    told = {name: f"{seconds:.3g} s" for name, seconds in times.items()}
    spread = max(times.values()) / min(times.values()) - 1
    note = (
        f"one clip alone, compiled, median of {DRAWS_TIMED} draws on {device_text()} before "
        f"training, without the codec that all share; within {limit.tolerance:.0%} of "
        f"{limit.seconds:g} s, spread {spread:.1%}"
    )
    return [_row("Seconds per clip", "bounded", told, note)]


def _checkpoint_rows(
    config: Comparison, by_seed: Mapping[str, Sequence[ArmRun]]
) -> list[LedgerRow]:
    """Return the rule by which each arm chose its weights, how often it looked, what it chose."""
    rule = config.checkpoint
    fixed = "fixed before the run; no selection on test"
    if not rule.looks_with(config.optim):
        return [_matched("Checkpoint rule", dict.fromkeys(by_seed, rule.rule), fixed)]
    # Looks, not their shares: an arm that looked more often had more to choose from.
    told = f"{rule.rule}, by the {rule.by} of {rule.clips} validation clips"
    looked = {
        name: "; ".join(str(len(arm.result.looks)) for arm in arms)
        for name, arms in by_seed.items()
    }
    chosen = {
        name: [choose_look(arm.result.looks, rule.rule) for arm in arms]
        for name, arms in by_seed.items()
    }
    steps = {
        name: "; ".join(
            f"{step} of {arm.run.steps}" for arm, (step, _) in zip(by_seed[name], found)
        )
        for name, found in chosen.items()
    }
    seconds = {
        name: f"{sum(arm.result.look_s for arm in arms):.0f} s" for name, arms in by_seed.items()
    }
    averages = {name: "; ".join(average for _, average in found) for name, found in chosen.items()}
    return [
        _matched("Checkpoint rule", dict.fromkeys(by_seed, told), fixed),
        _matched("Looks at validation", looked, "per seed, at equal shares of the updates"),
        _row("Chosen update", "free", steps, "per seed; no arm chooses on what is reported"),
        *(
            []
            if config.optim.ema_powers is None
            else [_row("Chosen average", "free", averages, "per seed; k: a decay of 1 - 2^-k")]
        ),
        _row("Looking wall clock", "free", seconds, "no part of the training wall clock"),
    ]


def read_hashes(arms: Sequence[ArmRun], steps: int) -> list[list[str]]:
    """Return the logged batch hashes of the first `steps` steps of every seed, seeds in ascending
    order.
    """
    ordered = sorted(arms, key=lambda arm: arm.seed)
    return [(arm.run_dir / "batch_hashes.txt").read_text().split()[:steps] for arm in ordered]


def device_text() -> str:
    """Return the device and the versions that a timing belongs to."""
    device = jax.devices()[0]
    return (
        f"{jax.device_count()} x {device.device_kind} ({platform.machine()}), jax {version('jax')}"
    )


def _order_row(hashes: dict[str, list[list[str]]], steps: int) -> LedgerRow:
    """Compare the batches of the arms. A log that lacks steps proves nothing, so it counts as a
    difference.
    """
    row = _matched(
        "Data order",
        {name: digest(by_seed) for name, by_seed in hashes.items()},
        f"hash over the batches of the first {steps} steps, all seeds",
    )
    short = [name for name, by_seed in hashes.items() if any(len(seed) < steps for seed in by_seed)]
    if short:
        row["status"] = "undeclared"
        row["note"] = f"batch_hashes.txt of {', '.join(short)} ends before step {steps}"
    return row


def _seeds_row(counts: dict[str, int]) -> LedgerRow:
    is_enough = min(counts.values()) >= MIN_SEEDS
    return _matched(
        "Seeds",
        counts,
        "training seeds" + ("" if is_enough else ": insufficient seeds for a statement"),
    )


def _matched(item: str, values: Mapping[str, JsonValue], note: str) -> LedgerRow:
    is_equal = len({str(value) for value in values.values()}) == 1
    return _row(item, "matched" if is_equal else "undeclared", values, note)


def _close(item: str, values: Mapping[str, float], must_match: bool, note: str) -> LedgerRow:
    """A quantity that this mode holds within `TOLERANCE`, or leaves free."""
    if not must_match:
        return _row(item, "free", values, note)
    spread = max(values.values()) / max(min(values.values()), 1e-9) - 1
    status = "bounded" if spread <= TOLERANCE else "undeclared"
    return _row(item, status, values, f"{note}; spread {spread:.2%}, limit {TOLERANCE:.0%}")


def _tuned(item: str, values: Mapping[str, float | None], more: str = "") -> LedgerRow:
    is_shared = len(set(values.values())) == 1
    note = "set per arm; the trials and the tuning FLOPs below say how it was found"
    note = "; ".join(filter(None, ("shared by all arms" if is_shared else note, more)))
    return _row(item, "matched" if is_shared else "declared", values, note)


def _row(item: str, status: str, values: Mapping[str, JsonValue], note: str) -> LedgerRow:
    return {"item": item, "status": status, "values": dict(values), "note": note}
