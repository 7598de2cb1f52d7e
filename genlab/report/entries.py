"""The entries of results.json: what each row is, what it cost, and its scores.

In: a scored row, and the runs behind it where it was trained. Out: a `Row`.
"""

from collections.abc import Sequence

from genlab.arms import ArmRun
from genlab.evaluate.entries import ScoreEntry
from genlab.evaluate.metrics import RowResult
from genlab.report.inputs import Row
from genlab.run.bounds import (
    BASELINE,
    FLOOR,
    FLOORS,
    FORECAST_BASELINES,
    LATENTS_FLOOR,
    REAL,
)
from genlab.statistics.bootstrap import finite_or_none


def bound_entry(name: str, row: RowResult, leading: Sequence[str]) -> Row:
    """Return the entry of a row that was not trained; `leading` scores come first."""
    family = REAL if name == REAL else FLOOR if name in FLOORS else BASELINE
    reads = "latents" if name in (LATENTS_FLOOR, *FORECAST_BASELINES) else "codes"
    reads = "" if name == REAL else reads
    return {
        "name": name,
        "family": family,
        "reads": reads,
        "params": 0,
        "train_flops": 0.0,
        "steps": 0,
        "seconds_seen": 0.0,
        "unique_seconds": 0.0,
        "batch_hash": "",
        "network_calls": 0,
        "sampling": {"wall_s": 0.0, "audio_s": 0.0, "first_audio_s": 0.0, "flops": 0.0},
        "scores": _in_order(row, leading),
    }


def arm_entry(
    arms: Sequence[ArmRun],
    row: RowResult,
    leading: Sequence[str],
    training: str,
    num_sampled: int,
) -> Row:
    """Return the entry of one arm, or of the baseline that is trained.

    Args:
        arms: its training seeds.
        row: its scores.
        leading: scores that come first.
        training: what its models were trained by (`name_trainings`).
        num_sampled: clips that were drawn.
    """
    budget, first = arms[0].budget, arms[0].sampled
    trained = [arm.result for arm in arms]
    train_wall_s = max(1e-9, sum(result.wall_s for result in trained))
    frames = sum(len(wave) for wave in first.waves)
    # What the batch computes beyond the clips' own frames: cheap arms pay for it too.
    padded = len(first.waves) * max((len(wave) for wave in first.waves), default=0)
    return {
        "name": budget.name,
        "family": budget.family,
        "reads": budget.reads,
        "training": training,
        "params": budget.params,
        "shared_params": budget.shared_params,
        "train_flops": budget.train_flops,
        "steps": budget.steps,
        "seconds_seen": budget.seconds_seen,
        "unique_seconds": budget.unique_seconds,
        "epochs": budget.epochs,
        "peak_lr": arms[0].run.optim.peak_lr,
        "batch_hash": "-".join(result.batch_hash for result in trained),
        "train_wall_s": train_wall_s,
        "train_compile_s": sum(result.compile_s for result in trained),
        "data_wait_fraction": sum(result.data_wait_s for result in trained) / train_wall_s,
        "network_calls": first.network_calls,
        "sampling": {
            "wall_s": first.wall_s,
            "audio_s": first.audio_s,
            "first_audio_s": first.first_audio_s,
            "latency_s": first.latency_s,
            "latency_audio_s": first.latency_audio_s,
            "compile_s": first.compile_s,
            "real_time_factor": first.latency_s / first.latency_audio_s,
            "flops": budget.sample_flops * num_sampled,
            "padding_share": 1 - frames / padded if padded else 0.0,
        },
        "by_length": {
            length: {
                "latency_s": [arm.sampled.by_length[length]["latency_s"] for arm in arms],
                "network_calls": cost["network_calls"],
                "flops": cost["flops"],
            }
            for length, cost in first.by_length.items()
        },
        "scores": _in_order(row, leading),
    }


def _in_order(row: RowResult, leading: Sequence[str]) -> dict[str, ScoreEntry]:
    """Return the scores, the deciding and the best understood ones first: that is how tables show
    them.
    """
    first = [name for name in leading if name in row.scores]
    names = [*first, *(name for name in row.scores if name not in first)]
    by_seed = {
        name: [finite_or_none(value) for value in values.by_run()]
        for name, values in row.per_clip.items()
    }
    return {
        name: {**row.scores[name].to_dict(), "by_seed": by_seed.get(name, [])} for name in names
    }
