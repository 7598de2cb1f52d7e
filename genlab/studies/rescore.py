"""Score the samples of a finished comparison again; models and samples stay as they are.

In: the run directory, and its config with other values for how it is scored. Out: new rows,
results, ledger and reports, which replace the old ones when all of them are whole
(report/outputs.py). Whatever goes wrong before that, and whenever the process is killed, the run is
finished with its old scores.
"""

from pathlib import Path

from genlab.arms import ArmRun, plan, plan_regression, restore_rates
from genlab.changes import scoring_code
from genlab.compare import conclude
from genlab.experiment import Comparison
from genlab.material import Material, gather
from genlab.report import outputs
from genlab.report.inputs import WholeResults
from genlab.run import checkpoint
from genlab.run.clock import DATA, PLAN, WALL, Clock, stage
from genlab.run.files import read_json, write_config
from genlab.run.status import keep_alive, lock_run
from genlab.run.trust import pins_of, read_pins
from genlab.score import score_rows
from genlab.watch.progress import Progress


def rescore(config: Comparison, out: Path, progress: Progress, command: str) -> WholeResults:
    """Score every row of the comparison in `out` by `config`, and return the new results.json.

    Raises:
        GenlabError: if `out` holds no finished comparison, or its models or samples are gone.
        LockedError: if another process works there.
    """
    with lock_run(out):
        # What this very command had made when it was killed need not be made again.
        is_settled = outputs.settle(out)
        outputs.check_made_with(out)
        results, _ = outputs.read_outputs(out)
        values = config.to_dict()
        is_same = read_json(out / "config.json") == values and read_pins(out) == pins_of(values)
        if is_settled and is_same:
            return results
        with Clock(out / WALL) as clock:
            with stage(DATA, ""):
                material = gather(config, progress, out)
            with stage(PLAN, ""):
                arms = _plan(config, material, out)
                tried = restore_rates(config, arms, out)
            for arm in arms:
                arm.restore(material.store)
                arm.read_samples(material)
                arm.draw_more(material, config.evaluation.audio_draws)
            staged = outputs.open_stage(out, values, keep=True)
            clock.keep_in(staged)  # the seconds of the run stay with its old scores
            # The digests of the code that scores move with the scores.
            write_config(staged, values, may_change=scoring_code(values))
            with keep_alive(out):
                rows = score_rows(config, material, arms, staged, progress)
                conclude(tried, material, arms, rows, out, staged, command, clock, progress)
    return outputs.read_outputs(out)[0]


def _plan(config: Comparison, material: Material, out: Path) -> list[ArmRun]:
    """Return all that was trained. A run that was made without it has no regression."""
    arms = plan(config, material.store, out)
    baselines = plan_regression(config, material.store, out, arms)
    return arms + [arm for arm in baselines if checkpoint.saved_steps(arm.run_dir)]
