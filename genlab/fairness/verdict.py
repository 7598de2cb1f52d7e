"""The gates of a verdict: what must hold before anything may be called a winner, or a claim
reproduced.

In: what results.json and ledger.json say of the compared arms on one score. Out: one `Gate` per
rule, from the gravest to the least, each passed, failed or not applicable, with the reason in
words. The report's answer, the pages of sweeps and `genlab crossover` read the same gates. A gate
whose evidence is missing has failed: what was not measured proves nothing.

    ledger controlled      the arms differ in nothing that is not declared
    controls passed        no compared arm failed a control
    score trusted          the audit of the metrics trusts the score on this corpus
    real clips heard       a recogniser that judges hears the real clips
    floors beaten          mean latents and a regression lose; on a forecast, with a spread too
    counting beaten        for bits: counts of single codes and of pairs lose
    scores agree           the variogram of a block does not contradict its energy
    three seeds            per arm, and the intervals cover them
    enough prompts         as many as the power calculation asks
    one token type         else the sentence is about one token type, or about codes and latents
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from genlab.evaluate.domains import MOST_ERRORS_ON_REAL
from genlab.evaluate.entries import (
    GateEntry,
    GateState,
)
from genlab.evaluate.scores import is_proper
from genlab.evaluate.table import known_metric
from genlab.fairness.agreement import Sides, check_agreement, side_of
from genlab.fairness.evidence import BITS, Evidence
from genlab.fairness.heeding import check_heeding
from genlab.fairness.words import BASELINE_WORDS, list_words, miss_words, score_words
from genlab.statistics.power import POWER

GateName = Literal[
    "ledger controlled",
    "controls passed",
    "score trusted",
    "real clips heard",
    "floors beaten",
    "counting beaten",
    "scores agree",
    "three seeds",
    "enough prompts",
    "one token type",
]
MIN_SEEDS: Final = 3
DECLARED: Final = "declared"
_UNKNOWN_TOKENS: Final = "one of the rows does not say whether it reads codes or latents"
UNDECLARED: Final = "a tenth of the better value, because none was declared"


class Gate(NamedTuple):
    """One rule and what became of it."""

    name: GateName
    state: GateState
    reason: str

    def to_dict(self) -> GateEntry:
        """Return the entry of results.json and findings.json."""
        return {"name": self.name, "state": self.state, "reason": self.reason}

    def describe(self) -> str:
        """Return the gate in one line."""
        return f"{self.name}: {self.state}: {self.reason}"


def find_gates(evidence: Evidence) -> list[Gate]:
    """Return every gate with its state, the gravest first."""
    return [
        _check_ledger(evidence),
        _check_controls(evidence),
        _check_trust(evidence),
        _check_hearing(evidence),
        _check_floors(evidence),
        _check_counting(evidence),
        _check_second(evidence),
        _check_seeds(evidence),
        _check_prompts(evidence),
        _check_tokens(evidence),
    ]


def failed(gates: Iterable[Gate], *but: GateName) -> list[Gate]:
    """Return the gates that failed, the gravest first, without those of the names `but`."""
    return [gate for gate in gates if gate.state == "failed" and gate.name not in but]


def merge_gates(by_run: Mapping[str, Sequence[Gate]]) -> list[Gate]:
    """Return the gates of several runs as one list: failed where one of them failed, each reason
    with the name of its run.
    """
    merged = []
    for gates in zip(*by_run.values(), strict=True):
        states = [gate.state for gate in gates]
        state: GateState = "passed" if "passed" in states else "not applicable"
        state = "failed" if "failed" in states else state
        # Runs that agree say it once.
        told: dict[str, list[str]] = {}
        for label, gate in zip(by_run, gates):
            if gate.state == state:
                told.setdefault(gate.reason, []).append(label)
        is_one = len(by_run) == 1 or (
            len(told) == 1 and len(next(iter(told.values()))) == len(gates)
        )
        reason = "; ".join(
            text if is_one else f"{', '.join(labels)}: {text}" for text, labels in told.items()
        )
        merged.append(Gate(gates[0].name, state, reason))
    return merged


def replace_gates(gates: Iterable[Gate], *others: Gate) -> list[Gate]:
    """Return the gates with those of the names of `others` replaced by these."""
    by_name = {gate.name: gate for gate in others}
    return [by_name.get(gate.name, gate) for gate in gates]


def check_seeds(seeds: int) -> Gate:
    """Return the gate of the training seeds, of which there are so many per arm."""
    told = f"each arm has {seeds} training seed{'' if seeds == 1 else 's'}"
    if seeds < MIN_SEEDS:
        reason = f"{told}, and it takes at least {MIN_SEEDS} to name a winner"
        return Gate("three seeds", "failed", reason)
    return Gate("three seeds", "passed", told)


def check_power(
    target: float,
    power: float,
    prompts: int,
    asked: int | None,
    *,
    level: float,
    rule: str,
    scope: str = "",
) -> Gate:
    """Return the gate of the test set: whether a difference of `target` would be seen.

    Args:
        target: the difference to be seen, in the unit of the score.
        power: the probability of seeing it with what is at hand.
        prompts: at hand.
        asked: prompts that it takes with the seeds at hand, None if that is not known.
        level: of the test, which all that are made share (`first_level`).
        rule: where the target comes from, in words.
        scope: whom it holds for: no number of prompts shows anything of other voices.
    """
    told = (
        f"with {prompts} prompts, a test at the level {level:.2g} would find a difference of "
        f"{target:.3g} ({rule}) in {power:.0%} of all experiments"
        + (f", for {scope}" if scope else "")
    )
    if power >= POWER:
        return Gate("enough prompts", "passed", told)
    need = f"{asked:,} prompts" if asked else "more prompts, more seeds"
    return Gate(
        "enough prompts",
        "failed",
        f"{told}, and it should in {POWER:.0%}: that takes {need}, or a larger margin declared "
        "beforehand",
    )


def check_token_types(
    weights: Mapping[tuple[str, str], float], *, is_about_tokens: bool = False
) -> Gate:
    """Return the gate of the token type for a weighted sum of arms.

    Args:
        weights: by family and token type, the sum of the weights of such arms.
        is_about_tokens: the sentence says codes and latents, not families.
    """
    kinds = {reads for _, reads in weights}
    if "" in kinds:
        return Gate(
            "one token type",
            "failed",
            _UNKNOWN_TOKENS,
        )
    if is_about_tokens:
        if len(kinds) == 1:
            told = f"the sentence is about codes and latents, but every row reads {kinds.pop()}"
            return Gate("one token type", "failed", told)
        return Gate("one token type", "passed", "the sentence is about codes and latents")
    of_kinds, of_families = {}, {}
    for (family, reads), weight in weights.items():
        of_kinds[reads] = of_kinds.get(reads, 0.0) + weight
        of_families[family] = of_families.get(family, 0.0) + weight
    if len(kinds) == 1:
        return Gate("one token type", "passed", f"every row reads {kinds.pop()}")
    # Within every type, or within every family, each weight is made up for by another.
    if not any(abs(sum_) > 1e-9 for sum_ in of_kinds.values()):
        return Gate("one token type", "passed", "families are compared within each token type")
    if not any(abs(sum_) > 1e-9 for sum_ in of_families.values()):
        return Gate("one token type", "passed", "token types are compared within each family")
    told = " and ".join(sorted(kinds))
    return Gate(
        "one token type",
        "failed",
        f"the families read different tokens too, so this compares {told}, not families",
    )


def _check_ledger(evidence: Evidence) -> Gate:
    if evidence.is_controlled:
        return Gate(
            "ledger controlled", "passed", "the arms differ only in what the config declares"
        )
    reason = "the arms differ in something that nobody declared; the ledger names it"
    return Gate("ledger controlled", "failed", reason)


def _check_controls(evidence: Evidence) -> Gate:
    by_arm = {
        arm.title: [item for item in evidence.controls if item["arm"] == arm.name]
        for arm in evidence.compared
    }
    return Gate("controls passed", *check_heeding(by_arm))


def _check_trust(evidence: Evidence) -> Gate:
    for arm in evidence.compared:
        kind = arm.score.get("validity", "metric")
        if not is_proper(kind):
            note = arm.score.get("note", "")
            reason = f"the score of {arm.title} is {kind}" + (f" ({note})" if note else "")
            return Gate("score trusted", "failed", reason)
    if evidence.score == BITS:
        reason = "bits are tested on sources of known entropy, so no audit of audio is needed"
        return Gate("score trusted", "not applicable", reason)
    found = (evidence.audit or {}).get(evidence.score)
    if found is None:
        reason = (
            "nobody has audited this score on this corpus; `genlab evaluate CONFIG --audit` does it"
        )
        return Gate("score trusted", "failed", reason)
    if not found["is_trusted"]:
        reason = f"its audit on this corpus says that {miss_words(found['failed'])}"
        return Gate("score trusted", "failed", reason)
    return Gate("score trusted", "passed", "on this corpus it notices all that it should")


def _check_hearing(evidence: Evidence) -> Gate:
    metric = known_metric(evidence.score)
    if metric is None or metric.needs != "audio and text":
        return Gate("real clips heard", "not applicable", "this score uses no recogniser")
    if reason := evidence.struck.get(evidence.score):
        return Gate("real clips heard", "failed", reason)
    if evidence.real is None:
        return Gate("real clips heard", "failed", "the recogniser was not tried on the real clips")
    rate = f"on the real clips the recogniser has an error rate of {evidence.real:.2f}"
    if evidence.real >= MOST_ERRORS_ON_REAL:
        reason = f"{rate}, too high for a judge, which must stay below {MOST_ERRORS_ON_REAL:g}"
        return Gate("real clips heard", "failed", reason)
    return Gate("real clips heard", "passed", rate)


def _check_floors(evidence: Evidence) -> Gate:
    if evidence.score == BITS:
        return Gate(
            "floors beaten", "not applicable", "the mean latents and the regression have no bits"
        )
    return _beat("floors beaten", evidence)


def _check_counting(evidence: Evidence) -> Gate:
    if evidence.score != BITS:
        return Gate(
            "counting beaten", "not applicable", "counts of codes can be compared in bits only"
        )
    return _beat("counting beaten", evidence)


def _beat(name: GateName, evidence: Evidence) -> Gate:
    """Return the gate that the arms beat every floor of the score."""
    if missing := evidence.unmeasured():
        reason = f"not every arm was compared with {evidence.name_floors(missing)}"
        return Gate(name, "failed", reason)
    untrained = evidence.untrained
    losing = "; ".join(
        f"{arm.title} does not beat {evidence.name_floors(evidence.unbeaten(arm.name))}"
        for arm in untrained
    )
    # The best arm is always needed, and one that it can be compared with.
    is_best_lost = bool(untrained) and untrained[0] is evidence.arms[0]
    if untrained and (is_best_lost or evidence.needs_all or len(evidence.compared) < 2):
        return Gate(name, "failed", f"not trained enough: {losing}")
    beaten = list_words([BASELINE_WORDS[floor] for floor in evidence.floors])
    reason = f"every compared arm is significantly better than {beaten}"
    if untrained:
        reason += f"; left out, because not trained enough: {losing}"
    return Gate(name, "passed", reason)


def _check_second(evidence: Evidence) -> Gate:
    if not evidence.second:
        return Gate(
            "scores agree", "not applicable", "no second score is taken from the same draws"
        )
    best, *rivals = evidence.compared
    sides = {
        rival.title: Sides(
            side_of(evidence.find_pair(best.name, rival.name), best.name),
            side_of(evidence.find_pair(best.name, rival.name, evidence.second), best.name),
        )
        for rival in rivals
    }
    audit = (evidence.audit or {}).get(evidence.second)
    names = score_words(evidence.score), score_words(evidence.second)
    return Gate("scores agree", *check_agreement(names, best.title, sides, audit))


def _check_seeds(evidence: Evidence) -> Gate:
    seeds = min((int(arm.score.get("seeds") or 0) for arm in evidence.compared), default=0)
    # Runs scored by an early version, whose intervals know of prompts only.
    if seeds >= MIN_SEEDS and any(
        "seeds" not in arm.score.get("covers", "prompts") for arm in evidence.compared
    ):
        reason = (
            "the intervals cover the choice of prompts but not the training seeds; score the "
            "comparison again with `genlab evaluate` for intervals that cover both"
        )
        return Gate("three seeds", "failed", reason)
    return check_seeds(seeds)


def _check_prompts(evidence: Evidence) -> Gate:
    compared = evidence.compared
    found = []
    for rival in compared[1:]:
        pair = evidence.find_pair(compared[0].name, rival.name)
        plan = None if pair is None else pair.get("plan")
        if not plan or "power" not in plan or "target" not in plan:
            reason = (
                f"the chance of finding a difference between {compared[0].title} and {rival.title} "
                "was not calculated"
            )
            return Gate("enough prompts", "failed", reason)
        # Power at 5 % promises what Holm's correction takes away.
        if "level" not in plan:
            reason = (
                f"an early version calculated the chance of finding a difference between "
                f"{compared[0].title} and {rival.title}, without a correction for the number of "
                "pairs; score the comparison again with `genlab evaluate`"
            )
            return Gate("enough prompts", "failed", reason)
        needed = plan.get("prompts_needed", {}).get(str(plan.get("seeds")))
        rule = DECLARED if plan.get("declared") else UNDECLARED
        at_hand = plan["target"], plan["power"], plan.get("prompts", 0), needed
        found.append(check_power(*at_hand, level=plan["level"], rule=rule, scope=evidence.scope))
    if not found:
        return Gate("enough prompts", "not applicable", "there is no other arm to compare with")
    return next(iter(failed(found)), found[0])


def _check_tokens(evidence: Evidence) -> Gate:
    compared = evidence.compared
    kinds = sorted({arm.reads for arm in compared})
    # Results of early versions do not say, and what is not known is not equal.
    if "" in kinds:
        return Gate(
            "one token type",
            "failed",
            _UNKNOWN_TOKENS,
        )
    if len(kinds) == 1:
        return Gate("one token type", "passed", f"every compared arm reads {kinds[0]}")
    best, *rivals = compared
    alike = [arm for arm in rivals if arm.reads == best.reads and arm.family != best.family]
    # One pair says nothing of the others of its type, and nothing of the other type.
    if alike and all(evidence.is_better(best.name, arm.name) for arm in alike):
        names = list_words([arm.title for arm in alike])
        reason = f"among models of {best.reads} alone, {best.title} is better than {names}"
        return Gate("one token type", "passed", reason)
    reason = (
        f"the families read different tokens too, so this compares {' and '.join(kinds)}, not "
        "families"
    )
    return Gate("one token type", "failed", reason)
