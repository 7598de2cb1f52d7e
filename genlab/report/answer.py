"""The answer in one sentence, and the reasons why there may be none.

In: results.json and ledger.json. Out: `Answer`. A winner is named only when no gate of
`genlab/fairness/verdict.py` fails and every paired interval against it excludes zero with Holm's
correction. Arms are called equivalent on the same terms, within the margin that the comparison
declared. Otherwise the sentence says which gate failed, or what is missing and how many more seeds
it takes, and no arm is marked in the report.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from genlab.evaluate.entries import ControlEntry, DifferenceEntry, Known, PlanEntry
from genlab.evaluate.scope import describe_scope, describe_units
from genlab.evaluate.scores import is_conclusive
from genlab.evaluate.table import known_metric
from genlab.fairness.evidence import Compared, Evidence
from genlab.fairness.heeding import control_status
from genlab.fairness.verdict import MIN_SEEDS, Gate, failed, find_gates
from genlab.report.inputs import Ledger, Row, Scored
from genlab.report.text import arm_title, format_interval, format_score, format_value, score_title
from genlab.run.bounds import REAL, is_arm

Status = Literal["settled", "equivalent", "not settled", "insufficient seeds", "uncontrolled"]


class Answer(NamedTuple):
    """What the report may claim: `winner` is the name of an arm, or empty."""

    status: Status
    headline: str
    shows: str
    cannot: str
    winner: str = ""
    gates: tuple[Gate, ...] = ()
    """What the verdict had to pass, the gravest first; empty where no score could decide."""


class Difference(DifferenceEntry):
    """Arm `a` minus arm `b`; its value is the difference."""

    value: Known


def model_arms(results: Scored) -> list[Row]:
    """Return the arms that were trained: neither real audio nor a codec floor."""
    return [row for row in results["arms"] if is_arm(row)]


def primary_score(results: Scored) -> str | None:
    """Return the score that decides: the one that results.json names, else the first content error
    of the arms.
    """
    struck = results.get("struck") or {}
    names = [
        name
        for name in dict.fromkeys(n for arm in model_arms(results) for n in arm.get("scores", {}))
        if name not in struck
    ]
    named = results.get("primary_score")
    if named in names:
        return named
    if struck:  # the comparison looked for the next one, and there is none
        return None
    return next(filter(_is_of_content, names), names[0] if names else None)


def _is_of_content(name: str) -> bool:
    """Return whether a score counts errors of what is said; early versions called one just that."""
    metric = known_metric(name)
    return name.split("_")[0] == "content" or (
        metric is not None and metric.needs == "audio and text"
    )


def covered(results: Scored) -> str:
    """Return what the intervals of the primary score cover:
    prompts, or prompts and training seeds.
    """
    name = primary_score(results)
    found = {
        arm["scores"][name].get("covers", "prompts")
        for arm in model_arms(results)
        if name in arm["scores"]
    }
    return found.pop() if len(found) == 1 else "prompts"


def find_answer(results: Scored, ledger: Ledger | None) -> Answer:
    """Return what the evidence allows to say about the primary score."""
    arms, name = model_arms(results), primary_score(results)
    scored = [arm for arm in arms if name and _value(arm, name) is not None]
    if name and len(arms) == 1 and scored:
        shows = (
            f"{arm_title(arms[0])}: {score_title(name)} {format_score(scored[0]['scores'][name])}."
        )
        return Answer("not settled", "Nothing is compared: there is one arm.", shows, "")
    # One arm without the score is enough: a winner among the rest might not be the winner.
    if name is None and (reasons := _struck(results)):
        return Answer("not settled", f"Not settled: no score can decide here.{reasons}", "", "")
    if name is None or len(scored) < 2 or len(scored) < len(arms):
        missing = ", ".join(arm_title(arm) for arm in arms if arm not in scored) or "every arm"
        return Answer(
            "not settled",
            f"Not settled: no deciding score was measured for {missing}.",
            "",
            "",
        )
    seeds = min(int(arm["scores"][name].get("seeds") or 0) for arm in scored)
    evidence = evidence_of(results, ledger, name, scored)
    shows, cannot = _describe(results, scored, evidence, seeds)
    gates = tuple(find_gates(evidence))
    # The last two gates word what was found, and say less than a difference that is in doubt.
    if failed(gates, "enough prompts", "one token type"):
        answer = _refuse(failed(gates)[0], seeds, shows)
    else:
        answer = _decide(results, evidence, gates, shows)
    lost = ", ".join(gate.name for gate in failed(gates))
    reasons = [
        answer.cannot,
        f"Gates that failed: {lost}." if lost else "",
        cannot if seeds < MIN_SEEDS else "",
    ]
    return answer._replace(cannot=" ".join(filter(None, reasons)), gates=gates)


def evidence_of(
    results: Scored,
    ledger: Ledger | None,
    score: str,
    arms: Sequence[Row],
    *,
    needs_all: bool = False,
) -> Evidence:
    """Return what the gates look at, of the `arms` that are compared on a score."""
    scores = {arm["name"]: arm["scores"].get(score) or {"value": None} for arm in arms}
    is_lower_better = scores[arms[0]["name"]].get("direction") == "lower"
    ranked = sorted(arms, key=lambda arm: _value(arm, score) or 0.0, reverse=not is_lower_better)
    real = next((row for row in results["arms"] if row["name"] == REAL), None)
    # Whoever has no ledger counts as uncontrolled, whoever has no audit as not audited.
    return Evidence(
        score,
        [
            Compared(
                arm["name"],
                arm_title(arm),
                arm["family"],
                arm.get("reads", ""),
                scores[arm["name"]],
            )
            for arm in ranked
        ],
        stamp_of(ledger) == "controlled",
        results.get("controls", []),
        results.get("differences", []),
        results.get("audit"),
        results.get("struck") or {},
        None if real is None else _value(real, score),
        needs_all,
        describe_scope(results.get("units")),
    )


def stamp_of(ledger: Ledger | None) -> str:
    """Return whether the arms differ only in what is declared; uncontrolled if nobody says so."""
    return "uncontrolled" if ledger is None else ledger.get("stamp", "uncontrolled")


def _refuse(first: Gate, seeds: int, shows: str) -> Answer:
    """Return the answer where gates failed, of which the `first` is the gravest."""
    if first.name == "ledger controlled":
        headline = "No winner is named: the arms differ in something that is not declared."
        reason = "Any difference may come from what the ledger below does not declare."
        return Answer("uncontrolled", headline, shows, reason)
    if first.name == "three seeds" and seeds < MIN_SEEDS:
        headline = (
            f"No winner is named: there {'is' if seeds == 1 else 'are'} "
            f"{_count(seeds, 'training seed')} per arm. It takes at least {MIN_SEEDS} to tell a "
            "difference between families from a lucky initialisation, and to estimate how many "
            "more would settle it."
        )
        return Answer("insufficient seeds", headline, shows, "")
    headline = f"Not settled: the gate \u201c{first.name}\u201d failed: {first.reason}."
    return Answer("not settled", headline, shows, "")


def _decide(results: Scored, evidence: Evidence, gates: Sequence[Gate], shows: str) -> Answer:
    name, rows = evidence.score, {arm["name"]: arm for arm in results["arms"]}
    best, *rivals = (rows[arm.name] for arm in evidence.compared)
    title = _lower_first(score_title(name))
    alike, beaten = [], []
    for rival in rivals:
        pair = find_difference(results, name, best["name"], rival["name"])
        # One doubtful pair is enough: the best arm must be better than, or equivalent to, every
        # other.
        if doubt := _doubt(best, rival, name, pair):
            return Answer("not settled", f"Not settled: {doubt}", shows, "")
        assert pair is not None, "an unpaired rival is a doubt"
        (beaten if pair.get("better") == best["name"] else alike).append((arm_title(rival), pair))
    if lost := failed(gates, "one token type"):
        return _refuse(lost[0], MIN_SEEDS, shows)
    seeds = min(int(arm.score.get("seeds") or 0) for arm in evidence.compared)
    scope = describe_scope(results.get("units"))
    over = f"on the same prompts, over {seeds} training seeds"
    over += f", for {scope}." if scope else "."
    agrees = next((gate for gate in gates if gate.name == "scores agree"), None)
    if agrees is not None and agrees.state == "passed":
        over += f" {agrees.reason[0].upper()}{agrees.reason[1:]}."
    within, kinds = "", sorted({arm.reads for arm in evidence.compared})
    if len(kinds) > 1 and not failed(gates):
        # What is said of families is said of one token type: the others are no rivals in it.
        within = f"Among models of {best.get('reads', '')} alone: "
        over += f" Nothing is said of families across {' and '.join(kinds)}."
        same = [arm.title for arm in evidence.compared if arm.reads == best.get("reads")]
        alike = [(rival, pair) for rival, pair in alike if rival in same]
        beaten = [(rival, pair) for rival, pair in beaten if rival in same]
    if left_out := [arm.title for arm in evidence.arms if arm not in evidence.compared]:
        over += f" Not compared, because not trained enough: {', '.join(left_out)}."
    if alike:
        facts = "; ".join(f"{rival} differs by {format_interval(pair)}" for rival, pair in alike)
        found = (
            f"{' and '.join([arm_title(best), *(rival for rival, _ in alike)])} are equivalent in "
            f"{title} within {alike[0][1]['margin']:g}: {facts}"
        )
        found += (
            f"; {arm_title(best)} is better than {' and '.join(rival for rival, _ in beaten)}"
            if beaten
            else ""
        )
        answer = Answer("equivalent", f"{within}{found}, {over}", shows, "")
    else:
        # The closest rival alone: the others are beaten by more, and a table below has them all.
        rival, pair = beaten[0]
        headline = (
            f"{within}{arm_title(best)} has the best {title}: "
            f"{format_interval(best['scores'][name])}, better than {rival} by "
            f"{format_interval(pair, absolute=True)} {over}"
        )
        if pair.get("equivalent"):
            headline += (
                f" By the declared margin of {pair['margin']:g} the two are equivalent all the "
                "same."
            )
        answer = Answer("settled", headline, shows, "", best["name"])
    mixed = failed(gates)
    return _of_tokens(answer, mixed[0], evidence) if mixed else answer


def _of_tokens(answer: Answer, gate: Gate, evidence: Evidence) -> Answer:
    """Return what was found as one about codes and latents: which family it is stays open."""
    kind = evidence.compared[0].reads
    leads = f"{kind.capitalize()} lead" if answer.winner and kind else "No family leads"
    told = answer.headline.rstrip(".")
    headline = f"{leads}, and no family is named: {told}; but {gate.reason}."
    return Answer("not settled", headline, answer.shows, answer.cannot)


def _doubt(best: Row, rival: Row, name: str, pair: Difference | None) -> str:
    """Return why `best` is neither better than `rival` nor equivalent to it; empty if it is one of
    the two.
    """
    title = _lower_first(score_title(name))
    # An upper bound can lie far above the value it bounds, so two of them rank nothing.
    if not is_conclusive(_validity(best, name), _validity(rival, name)):
        both = " and ".join(f"{arm_title(arm)} ({_validity(arm, name)})" for arm in (best, rival))
        return (
            f"the {title} of {both} cannot be ranked; of such values, only an upper bound below "
            "an exact one is conclusive."
        )
    if pair is None:
        return f"{arm_title(best)} and {arm_title(rival)} were not compared prompt by prompt."
    if pair.get("better") == best["name"] or pair.get("equivalent"):
        return ""
    margin = pair.get("margin")
    within = f" nor stays within {margin:g}" if margin else ""
    return (
        f"the {title} of {arm_title(best)} and {arm_title(rival)} differs by "
        f"{format_interval(pair)}, which neither excludes zero{within} after correction for the "
        f"number of pairs.{_describe_need(pair.get('plan'))}"
    ).replace("neither excludes zero after", "does not exclude zero after")


def _describe_need(plan: PlanEntry | None) -> str:
    if not plan:
        return ""
    target = f"a difference of {format_value(plan.get('target'))}"
    seeds_needed = plan.get("seeds_needed")
    if seeds_needed is None:
        return f" More seeds alone would not show {target}: more prompts are needed as well."
    more = seeds_needed - plan.get("seeds", 0)
    if more <= 0:
        power = f"{plan.get('power', math.nan):.0%} power"
        return f" These prompts and seeds would show {target} with {power}: it is likely smaller."
    need = f"{_count(more, 'more seed')} per arm {'is' if more == 1 else 'are'} needed"
    return f" To see {target}, about {need} (80 % power)."


def failed_controls(results: Scored, arm: str) -> list[ControlEntry]:
    """Return the controls that an arm failed; one that could not be made counts as none."""
    return [
        item
        for item in results.get("controls", [])
        if item["arm"] == arm and control_status(item) == "failed"
    ]


def missing_controls(results: Scored) -> str:
    """Return a sentence about the controls that could not be made or judged, empty if all were."""
    told = ""
    for state in ("not applicable", "not judged"):
        reasons = {
            (
                f"{str(item['control']).replace('_', ' ')} "
                f"({item.get('reason') or 'it could not be made'})"
            ): None
            for item in results.get("controls", [])
            if control_status(item) == state
        }
        told += f" {state.capitalize()}: {'; '.join(reasons)}." if reasons else ""
    return told


def _struck(results: Scored) -> str:
    """Return a sentence per score that would decide and says nothing here, empty without one."""
    struck = results.get("struck") or {}
    return "".join(
        f" {score_title(name)} does not decide: {reason}." for name, reason in struck.items()
    )


def find_difference(results: Scored, score: str, first: str, second: str) -> Difference | None:
    """Return the paired difference first - second, turned round if results.json holds it the other
    way.
    """
    for item in results.get("differences", []):
        value = item.get("difference")
        if item["score"] != score or {item["a"], item["b"]} != {first, second} or value is None:
            continue
        if item["a"] == first:
            return {**item, "value": value}
        low, high = item["high"], item["low"]
        return {
            **item,
            "a": first,
            "b": second,
            "value": -value,
            "difference": -value,
            "low": None if low is None else -low,
            "high": None if high is None else -high,
        }
    return None


def _describe(
    results: Scored, arms: Sequence[Row], evidence: Evidence, seeds: int
) -> tuple[str, str]:
    name, score = evidence.score, arms[0]["scores"][evidence.score]
    # An arm that loses to what generates nothing is compared with no other.
    left_out = {arm.name: arm.title for arm in evidence.untrained}
    values = "; ".join(f"{arm_title(arm)} {format_score(arm['scores'][name])}" for arm in arms)
    meaning = f"{score.get('unit', '')}, {score.get('direction')} is better, n = {score.get('n')}"
    shows = f"{score_title(name)} ({meaning}): {values}."
    # Pairs that differ and pairs that do not: silence about a pair would read as "no difference".
    told: dict[bool, list[str]] = {True: [], False: []}
    for arm, rival in itertools.combinations(arms, 2):
        pair = find_difference(results, name, arm["name"], rival["name"])
        if pair and not {arm["name"], rival["name"]} & left_out.keys():
            told[bool(pair.get("better"))].append(f"{arm_title(arm)} and {arm_title(rival)}")
    if told[True]:
        shows += f" On the same prompts these trained models differ: {'; '.join(told[True])}."
    if told[False]:
        shows += f" No difference is established between {'; '.join(told[False])}."
    if left_out:
        shows += f" Not compared, because not trained enough: {', '.join(left_out.values())}."
    covers = covered(results)
    units = describe_units(results.get("units"))
    shows += f" The intervals cover the choice of {covers}."
    shows += (f" {units}" if units else "") + missing_controls(results)
    shows += _struck(results)
    if "seeds" not in covers:
        return shows, (
            f"The intervals do not cover the training seed: with {_count(seeds, 'seed')} a "
            "difference between these trained models may come from the family or from the "
            "initialisation."
        )
    return shows, (
        f"{_count(seeds, 'seed')} per arm say too little about how much seeds differ: a "
        "difference between these trained models may come from the family or from the "
        "initialisation."
    )


def _value(arm: Row, name: str) -> float | None:
    score = arm.get("scores", {}).get(name)
    return None if score is None else score["value"]


def _validity(arm: Row, name: str) -> str:
    return arm["scores"][name].get("validity", "metric")


def _lower_first(title: str) -> str:
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def _count(count: int, noun: str) -> str:
    return f"{format_value(count)} {noun}" + ("" if count == 1 else "s")
