"""The audit of the metrics: a table, and the scores that are greyed out.

In: the `audit` of results.json, which maps a score to what `MetricAudit.to_dict` holds. Out:
`Markup`, and reasons. A score without an audit is neither trusted nor distrusted here: likelihoods
are proven on sources of known entropy.
"""

from markupsafe import Markup

from genlab.evaluate.table import known_metric
from genlab.report.inputs import Scored
from genlab.report.text import score_title

_VERDICTS = {"ranks": "ranks", "blind": "does not see", "reversed": "reversed"}


def distrust(results: Scored, name: str) -> str:
    """Return why not to trust a score on this corpus, "" if nothing speaks against it."""
    found = (results.get("audit") or {}).get(name)
    return ", ".join(found["failed"]) if found else ""


def audits_audio(results: Scored) -> bool:
    """Return whether metrics of audio were audited; those of tokens always are."""
    found = [known_metric(name) for name in results.get("audit") or {}]
    return any(metric is None or metric.needs != "tokens" for metric in found)


def audit_table(results: Scored) -> Markup:
    """Return one row per audited metric and one column per degradation; what a metric must see is
    marked.
    """
    audit = results.get("audit") or {}
    missing = Markup(
        '<p class="lead">The metrics of audio were not audited on this corpus: <code>genlab '
        "evaluate CONFIG --audit</code> does it, and greys out here what does not rank known "
        "degradations of real clips.</p>"
    )
    if not audit:
        return missing
    degradations = list(
        dict.fromkeys(seen for found in audit.values() for seen in found["verdicts"])
    )
    titles = ["Metric", *degradations, "False alarms", "On this corpus"]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(title) for title in titles)
    rows = []
    for name, found in audit.items():
        metric = known_metric(name)
        must_notice = found.get("must_notice", metric.must_notice if metric else ())
        # A metric may miss what it was not made for; what it must see decides about trust.
        cells = [
            Markup('<td class="{}">{}{}</td>').format(
                "bad" if seen in found["failed"] else "",
                _VERDICTS[found["verdicts"][seen]] if seen in found["verdicts"] else "not applied",
                Markup(' <span class="must">must</span>') if seen in must_notice else "",
            )
            for seen in degradations
        ]
        verdict = "trusted" if found["is_trusted"] else f"not trusted: {', '.join(found['failed'])}"
        badge = Markup('<span class="badge {}">{}</span>').format(
            "good" if found["is_trusted"] else "bad", verdict
        )
        rows.append(
            Markup('<tr><th scope="row">{}</th>{}<td>{:.0%}</td><td>{}</td></tr>').format(
                score_title(name), Markup("").join(cells), found["false_alarms"], badge
            )
        )
    return (Markup("") if audits_audio(results) else missing) + Markup(
        '<p class="lead">Real clips, degraded by known amounts. A metric ranks a degradation if '
        "its strongest step is "
        "significantly worse than the clean clips and no step is significantly better than a "
        "milder "
        "one; a metric is trusted if it "
        "ranks all it exists to notice and sees no difference between halves of the same real "
        "clips.</p>"
        '<div class="scroll" role="region" aria-label="Audit" tabindex="0"><table class="audit">'
        "<caption "
        'class="hidden">Audit</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, Markup("").join(rows))


def metric_table(results: Scored) -> Markup:
    """Return what each metric of the page needs, and whose weights it runs on."""
    names = list(dict.fromkeys(name for arm in results["arms"] for name in arm.get("scores", {})))
    # Results of another version may hold scores that the table of metrics does not know.
    facts = {
        name: (metric.unit, metric.needs, metric.provenance)
        for name in names
        if (metric := known_metric(name)) is not None
    }
    facts |= {
        own["name"]: (own.get("unit", ""), own.get("needs", ""), own.get("provenance", ""))
        for own in results.get("metrics", [])
    }
    rows = [
        Markup('<tr><th scope="row">{}</th><td>{}</td><td>{}</td><td>{}</td></tr>').format(
            score_title(name), unit, needs, weights or "none"
        )
        for name in names
        if name in facts
        for unit, needs, weights in [facts[name]]
    ]
    head = Markup("").join(
        Markup('<th scope="col">{}</th>').format(title)
        for title in ("Metric", "Unit", "Needs", "Weights")
    )
    return Markup(
        '<details><summary>What each metric needs</summary><div class="scroll" role="region" '
        'aria-label="Metrics" '
        'tabindex="0"><table class="metrics"><caption '
        'class="hidden">Metrics</caption><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div></details>"
    ).format(head, Markup("").join(rows))
