"""The report as text: everything that counts is there, and text from a corpus stays text."""

import csv
import io

from report_toys import make_ledger, make_results

from genlab.report.answer import find_answer
from genlab.report.written import render_csv, render_markdown, write_text_reports

AUDIT = {
    "wer_grammar": {
        "failed": [],
        "is_trusted": True,
        "verdicts": {"noise": "ranks"},
        "false_alarms": 0.02,
    },
    "frechet": {
        "failed": ["shuffle"],
        "is_trusted": False,
        "verdicts": {"noise": "blind"},
        "false_alarms": 0.0,
    },
}


def make_audited(seeds=3):
    return {**make_results(seeds), "audit": AUDIT}


def test_the_markdown_holds_the_answer_every_score_and_the_doubts():
    results, ledger = make_audited(), make_ledger()
    text = render_markdown(results, ledger)
    assert find_answer(results, ledger).headline in text
    for title in (
        "Ledger: controlled",
        "Scores",
        "Cost",
        "Controls",
        "Metrics to doubt on this corpus",
        "Reproduce",
    ):
        assert f"\n## {title}\n" in text
    assert "- Fréchet distance: shuffle" in text and "- Word error" not in text
    [line] = [line for line in text.splitlines() if line.startswith("| Word error (grammar) ↓")]
    assert line.count("[") == len(results["arms"])
    widths = {
        line.count(" | ")
        for line in text.split("## Scores")[1].split("##")[0].splitlines()
        if line.startswith("|")
    }
    # the scores and the paired differences, each with as many columns in every line
    assert len(widths) <= 2


def test_each_doubted_metric_is_listed_once():
    audit = {**AUDIT, "dnsmos": {**AUDIT["frechet"], "failed": ["noise"]}}
    text = render_markdown({**make_results(3), "audit": audit}, make_ledger())
    assert text.count("- Fréchet distance: shuffle\n") == text.count(": noise\n") == 1


def test_without_an_audit_it_says_how_to_make_one():
    results = {**make_results(), "audit": None}
    assert "genlab evaluate CONFIG --audit` does it" in render_markdown(results, make_ledger())


def test_text_from_a_corpus_is_no_table_and_no_markup():
    results = {**make_audited(), "question": "a | b\n<script>alert(1)</script>?"}
    first = render_markdown(results, make_ledger()).splitlines()[0]
    assert first == "# a \\| b &lt;script>alert(1)&lt;/script>?"


def test_the_csv_has_a_line_per_arm_and_score():
    results = make_audited()
    rows = list(csv.DictReader(io.StringIO(render_csv(results))))
    assert len(rows) == sum(len(arm["scores"]) for arm in results["arms"])
    found = next(row for row in rows if row["arm"] == "ar" and row["score"] == "frechet")
    assert float(found["value"]) == results["arms"][3]["scores"]["frechet"]["value"]
    assert (
        found["not_trusted"] == "shuffle"
        and found["direction"] == "lower"
        and found["seeds"] == "3"
    )


def test_both_files_are_written(tmp_path):
    write_text_reports(tmp_path, make_audited(), make_ledger())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "scores.csv"]
