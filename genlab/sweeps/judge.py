"""What became of the predictions of a sweep.

In: a page and its finished runs. Out: one `Finding` per prediction: reproduced, reversed, either of
them in bounds, inconclusive, not tested at this scale, or not run; arithmetic, for a ratio that
follows from the configs and that no run could contradict; and one per part of the claim that the
page leaves out, not tested at this scale. A page may withdraw a verdict with a reason: what was
found stays, the verdict goes.

A verdict has passed the gates of `genlab/fairness/verdict.py` in every run that it is about; where
a compared row does not lie below counting, the prediction was not tested at this scale. Holm's
correction runs over everything that the page decides: contrasts, crossings and ratios of seconds.
Contrasts are weighted sums over rows of per-prompt values, with the interval of
`contrast_of_trainings` over prompts and training seeds. What contains upper bounds shows a
direction only where the bounds could not reverse it, unless the prediction says that its source
compares bounds as values, and then the verdict is one "in bounds". Beside a mean over codes and
latents stands the interaction, and where that matters the mean is no verdict (`cells`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from genlab.fairness.verdict import failed
from genlab.report.inputs import read_ledger
from genlab.statistics.bootstrap import holm_correction
from genlab.statistics.power import first_level
from genlab.studies.crossover import read_finished
from genlab.sweeps.drafts import (
    LEVEL,
    Draft,
    Loaded,
    draft_contrast,
    draft_crossing,
    draft_ratio,
    expected,
)
from genlab.sweeps.finding import Finding, Verdict
from genlab.sweeps.gaps import draft_gap
from genlab.sweeps.page import Contrast, Crossing, Gap, Prediction, Ratio, Sweep, SweepRun
from genlab.sweeps.runs import read_state, run_directory


def judge(sweep: Sweep, runs: Sequence[SweepRun], out: Path) -> list[Finding]:
    """Return one finding per prediction, in their order, and one per part of the claim that is not
    tested.

    Raises:
        GenlabError: if a finished run lacks a score, or two rows were scored on different prompts.
    """
    finished = {run.label: run for run in runs if read_state(run, out).state == "finished"}
    labels = [run.label for run in runs]
    loaded: dict[str, Loaded] = {}
    # Whatever has finished so far: the price of a test is fixed before the run.
    level = first_level(sum(map(_is_tested, sweep.predictions)))
    drafts: dict[int, Draft] = {}
    for index, prediction in enumerate(sweep.predictions):
        needed = _needed(prediction, labels)
        if needed <= set(finished):
            for label in needed - set(loaded):
                loaded[label] = _load(finished[label], out)
            drafts[index] = _draft(prediction, labels, loaded, level)
    # Holm over all that the page decides: with twenty predictions one would come true by chance.
    tested = {index: draft.p_value for index, draft in drafts.items() if draft.p_value is not None}
    p_values = list(tested.values())
    corrected = dict(zip(tested, holm_correction(p_values).tolist() if p_values else []))
    findings = []
    for index, prediction in enumerate(sweep.predictions):
        if index in drafts:
            findings.append(conclude(drafts[index], corrected.get(index)))
            continue
        missing = sorted(_needed(prediction, labels) - set(finished))
        note = f"waits for {', '.join(label or 'the run' for label in missing)}"
        said = prediction.text, prediction.kind, prediction.score, expected(prediction)
        findings.append(Finding(*said, "not run", note=note))
    # Withdrawn after judging: the finding stays, only its verdict does not count.
    findings = [_withdraw(finding, sweep.withdrawn) for finding in findings]
    return findings + [
        Finding(text, "untested", "", "", "not tested at this scale") for text in sweep.untested
    ]


def conclude(draft: Draft, p_holm: float | None) -> Finding:
    """Return the finding with the verdict that its gates and Holm's correction leave it."""
    if p_holm is None:
        return draft.finding
    finding = draft.finding._replace(p_holm=p_holm)
    lost = failed(finding.gates)
    verdict: Verdict = finding.verdict if p_holm < LEVEL and not lost else "inconclusive"
    # Where models lose to counting, their order says nothing of the claim, for or against.
    if any(gate.name == "counting beaten" for gate in lost):
        verdict = "not tested at this scale"
    notes = [*filter(None, [finding.note]), *(f"{gate.name}: {gate.reason}" for gate in lost)]
    return finding._replace(verdict=verdict, note="; ".join(notes))


def _load(run: SweepRun, out: Path) -> Loaded:
    directory = run_directory(out, run)
    return Loaded(run, directory, read_finished(directory), read_ledger(directory))


def _draft(
    prediction: Prediction, labels: Sequence[str], loaded: Mapping[str, Loaded], level: float
) -> Draft:
    if isinstance(prediction, Contrast):
        return draft_contrast(prediction, labels, loaded, level)
    if isinstance(prediction, Gap):
        return draft_gap(prediction, labels, loaded, level)
    if isinstance(prediction, Crossing):
        return draft_crossing(prediction, labels, loaded)
    return draft_ratio(prediction, labels, loaded)


def _is_tested(prediction: Prediction) -> bool:
    """Return whether chance has a part in it: ratios of calls and FLOPs follow from the configs."""
    return not isinstance(prediction, Ratio) or prediction.cost == "latency_s"


def _withdraw(finding: Finding, reasons: Mapping[str, str]) -> Finding:
    """Keep what was found and take its verdict back, if the page gives a reason to."""
    if finding.verdict == "not run" or finding.text not in reasons:
        return finding
    return finding._replace(verdict="withdrawn", note=reasons[finding.text])


def _needed(prediction: Prediction, labels: Sequence[str]) -> set[str]:
    return {row.partition(" @ ")[2] or labels[0] for row in prediction.rows(labels)}
