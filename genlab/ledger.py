"""The ledger: what was held equal, what was bounded, what was free, what differed and was declared.

In: a `Comparison`, its budgets, and what training reported. Out: `ledger.json`, with a stamp: `controlled` if every row that must
agree does, else `uncontrolled`. A row whose values differ although it should match loses its status, which stamps the whole
comparison; nothing is ever printed as fair by default (fairness.md sections 3 and 7 are the list of rows).
"""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from genlab.budget import TOLERANCE, ArmBudget
from genlab.data.store import TokenStore
from genlab.experiment import Comparison
from genlab.train import RunResult

SEEDS_FOR_A_STATEMENT = 3


def build_ledger(
    config: Comparison,
    store: TokenStore,
    budgets: Mapping[str, ArmBudget],
    trained: Mapping[str, Mapping[int, RunResult]],
    run_dirs: Mapping[str, Mapping[int, Path]],
) -> dict[str, Any]:
    """Return the ledger of a comparison."""
    is_iso_flop = config.budget.mode == "iso_flop"
    shared = min(budget.steps for budget in budgets.values())
    runs = {name: config.run(name, config.seeds[0], budgets[name].steps) for name in budgets}
    rows = [
        _matched("Token store", {name: f"{store.info.manifest_hash} / {store.info.codec_fingerprint}" for name in runs}, "manifest hash / codec fingerprint"),
        _matched("Data order", {name: prefix_hash(run_dirs[name], shared) for name in runs}, f"hash over the batches of the first {shared} steps, all seeds"),
        _matched("Backbone", {name: runs[name].backbone.digest() for name in runs}, "width, depth, heads, norm, positions; deltas: causal or full attention, noise-level modulation, input and output heads"),
        _matched("Conditioning", {name: runs[name].condition.digest() for name in runs}, f"content={config.condition.content}, speaker={config.condition.speaker}, dropout={config.condition.dropout:g}"),
        _close("Training FLOPs", {name: b.train_flops for name, b in budgets.items()}, is_iso_flop, "executed matrix products, formula checked against a walk over the traced step"),
        _close("Parameters", {name: b.params for name, b in budgets.items()}, not is_iso_flop, "heads and noise-level modulation differ by family"),
        _close("Updates", {name: b.steps for name, b in budgets.items()}, not is_iso_flop, "training FLOPs over FLOPs per step"),
        _close("Seconds of audio seen", {name: round(b.seconds_seen) for name, b in budgets.items()}, not is_iso_flop, "without padding"),
        _matched("Unique seconds", {name: round(b.unique_seconds) for name, b in budgets.items()}, "training split"),
        _matched("Batch size", {name: runs[name].batch_size for name in runs}, f"clips of {config.data.num_frames} frames"),
        _tuned("Peak learning rate", {name: runs[name].optim.peak_lr for name in runs}),
        _matched("Optimiser, other fields", {name: runs[name].optim.model_copy(update={"peak_lr": 1.0}).digest() for name in runs}, f"AdamW, warm-up {config.optim.warmup_fraction:g}, weight decay {config.optim.weight_decay:g}"),
        _matched("EMA decay", {name: runs[name].optim.ema_decay for name in runs}, "averaged parameters are sampled in every arm"),
        _matched("Precision", {name: runs[name].backbone.dtype for name in runs}, "compute; parameters, losses and categorical sampling in float32"),
        _declared("Sampler calls", {name: b.network_calls for name, b in budgets.items()}, "sequential network calls per clip; each family at its own sampler"),
        _declared("Guidance", {name: config.arms[name].sampler.guidance for name in runs}, "1 is off; not swept"),
        _matched("Tuning trials", {name: 1 for name in runs}, "one published setting per arm; see the peak learning rate"),
        _matched("Seeds", {name: len(trained[name]) for name in runs}, "training seeds" + ("" if len(config.seeds) >= SEEDS_FOR_A_STATEMENT else ": insufficient seeds for a statement")),
        _matched("Checkpoint rule", {name: "last" for name in runs}, "fixed before the run; no selection on test"),
        {"item": "Training wall clock", "status": "free", "values": {name: f"{sum(r.wall_s for r in seeds.values()):.0f} s" for name, seeds in trained.items()}, "note": device_text()},
    ]  # fmt: skip
    stamp = "controlled" if all(row["status"] != "undeclared" for row in rows) else "uncontrolled"
    return {"schema": 1, "stamp": stamp, "mode": config.budget.mode, "rows": rows}


def prefix_hash(run_dirs: Mapping[int, Path], steps: int) -> str:
    """Return a hash over the logged batch hashes of the first `steps` steps of every seed."""
    from genlab.config import digest

    return digest([(run_dirs[seed] / "batch_hashes.txt").read_text().split()[:steps] for seed in sorted(run_dirs)])


def device_text() -> str:
    """Return the device and the versions that a timing belongs to."""
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind} ({platform.machine()}), jax {version('jax')}"


def _matched(item: str, values: dict[str, Any], note: str) -> dict[str, Any]:
    is_equal = len({str(value) for value in values.values()}) == 1
    return {"item": item, "status": "matched" if is_equal else "undeclared", "values": values, "note": note}


def _close(item: str, values: dict[str, float], must_match: bool, note: str) -> dict[str, Any]:
    """A quantity that this mode holds within `TOLERANCE`, or leaves free."""
    spread = max(values.values()) / max(min(values.values()), 1e-9) - 1
    if not must_match:
        return {"item": item, "status": "free", "values": values, "note": note}
    status = "bounded" if spread <= TOLERANCE else "undeclared"
    return {
        "item": item,
        "status": status,
        "values": values,
        "note": f"{note}; spread {spread:.2%}, limit {TOLERANCE:.0%}",
    }


def _declared(item: str, values: dict[str, Any], note: str) -> dict[str, Any]:
    return {"item": item, "status": "declared", "values": values, "note": note}


def _tuned(item: str, values: dict[str, float]) -> dict[str, Any]:
    if len(set(values.values())) == 1:
        return {"item": item, "status": "matched", "values": values, "note": "shared by all arms"}
    return {
        "item": item,
        "status": "declared",
        "values": values,
        "note": "set per arm in the config file, which says how it was found",
    }
