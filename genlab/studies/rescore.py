"""Score the samples of a finished comparison again; models and samples stay as they are.

In: the run directory, and its config with other values for how it is scored. Out: new rows,
results, ledger and reports, which replace the old ones when all of them are whole (outputs.py).
Whatever goes wrong before that, and whenever the process is killed, the run is finished with its
old scores.
"""

import time
from pathlib import Path
from typing import Any

from genlab.arms import read_all_samples
from genlab.changes import scoring_code
from genlab.compare import conclude, list_run_dirs
from genlab.config import GenlabError
from genlab.experiment import Comparison, DecoderRun
from genlab.fairness.budget import solve_budget
from genlab.material import Material, gather
from genlab.report import outputs
from genlab.run.files import read_json, write_config
from genlab.run.status import keep_alive, lock_run
from genlab.run.trust import pins_of, read_pins
from genlab.score import score_rows
from genlab.train import RunResult, restore_trained
from genlab.watch.progress import Progress


def rescore(config: Comparison, out: Path, progress: Progress, command: str) -> dict[str, Any]:
    """Score every row of the comparison in `out` by `config`, and return the new results.json.

    Raises:
        GenlabError: if `out` holds no finished comparison, or its models or samples are gone.
        LockedError: if another process works there.
    """
    with lock_run(out):
        # What this very command had made when it was killed need not be made again.
        is_settled = outputs.settle(out)
        results, _ = outputs.read_outputs(out)
        values = config.to_dict()
        is_same = read_json(out / "config.json") == values and read_pins(out) == pins_of(values)
        if is_settled and is_same:
            return results
        began = time.perf_counter()
        material = gather(config, progress, out)
        budgets = solve_budget(config, material.store)
        trained = {
            name: {
                seed: _load_result(config.run(name, seed, budgets[name].steps), material, path)
                for seed, path in by_seed.items()
            }
            for name, by_seed in list_run_dirs(config, out).items()
        }
        sampled = read_all_samples(config, material, out)
        staged = outputs.open_stage(out, values, keep=True)
        # The digests of the code that scores move with the scores.
        write_config(staged, values, may_change=scoring_code(values))
        with keep_alive(out):
            rows = score_rows(config, material, trained, sampled, staged, progress)
            conclude(
                config,
                material,
                budgets,
                trained,
                sampled,
                rows,
                out,
                staged,
                command,
                began,
                progress,
            )
    return outputs.read_outputs(out)[0]


def _load_result(run: DecoderRun, material: Material, run_dir: Path) -> RunResult:
    """Return what `train` returned when it had made all steps; nothing is trained or written."""
    model, restored = restore_trained(lambda key: run.build_for(material.store, key), run_dir)
    if restored.step != run.steps:
        raise GenlabError(
            f"{run_dir}: the newest intact checkpoint is of step {restored.step}, expected "
            f"{run.steps}; finish the run with `genlab compare` first"
        )
    return RunResult(run.steps, model, **restored.meta["tally"])
