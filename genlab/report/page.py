"""Write report.html: one file that opens offline and asks the network for nothing.

In: a run directory, results.json and ledger.json as dicts, and the clips of some prompts. Out:
`report.html` in that directory, written atomically. A Content-Security-Policy forbids every request
and allows exactly the script and the style sheet of this package, by their hashes, so text that
slipped through the escaping could still not run.

Beside the fields of results.json that every tool reads, the page uses these if they are there:
`question`, `command`, `commit`, `versions` (name: version), `primary_score`, `differences` (paired,
as `compare_rows` makes them), `method` (a list of paragraphs), and the file config.json of the run
directory.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from genlab.config import GenlabError
from genlab.fairness.heeding import control_status
from genlab.report.additions import Tuning
from genlab.report.answer import (
    Answer,
    covered,
    find_answer,
    model_arms,
    primary_score,
)
from genlab.report.clips import PromptRow, prompt_articles
from genlab.report.crossings import crossings_section
from genlab.report.dots import dot_plots, has_rings
from genlab.report.fronts import fronts_section
from genlab.report.inputs import Ledger, Shown
from genlab.report.listening import listening_section, page_links
from genlab.report.plot import cost_plots
from genlab.report.spent import time_table
from genlab.report.tables import (
    STATUS_MEANINGS,
    control_table,
    cost_table,
    difference_table,
    gate_table,
    join,
    ledger_table,
    score_table,
)
from genlab.report.text import QUESTION, format_quantity, format_seconds, score_title, typeset
from genlab.report.training import Curves, training_plots
from genlab.report.trust import audit_table, metric_table
from genlab.report.tuning import tuning_section
from genlab.run.stored import write_atomically
from genlab.watch.mel import CEILING_DB, FLOOR_DB, NUM_MELS, PLOT_SHARE, PLOT_START

_MODES = {
    "iso_flop": (
        "every arm spends the same training FLOPs, within 1 %; parameters and updates may differ"
    ),
    "iso_step": (
        "every arm makes the same number of updates, with the same backbone parameters within 1 % "
        "and the same batches"
    ),
    "iso_data": (
        "every arm sees the same unique audio the same number of times; compute is free and "
        "reported"
    ),
    "iso_time": (
        "every arm trains for the same time on this machine, by the time of an update measured "
        "before training; compute is free and reported"
    ),
    "iso_latency": (
        "every arm spends the same training FLOPs, and draws a clip in the same time on this "
        "machine, or with the most steps that a budget of calls or FLOPs allows"
    ),
    "iso_bitrate": (
        "every arm spends the same training FLOPs; codes have the same kbit/s, and resynthesis "
        "from codes and from latents is as close to the audio, within the stated tolerance"
    ),
}
_VALIDITIES = {
    "exact": "an exact likelihood",
    "upper bound": (
        "the truth is at most this: below an exact value it is conclusive, beside another bound "
        "it is not"
    ),
    "biased": "the estimate leans to one side at this sample size; compare only at the same n",
    "not a likelihood": "comparable within one family only",
    "metric": "a plain measurement",
    "impossible": "the arm was not trained for it; the notes below say why",
}


def write_report(
    run_dir: Path,
    results: Shown,
    ledger: Ledger,
    clips: Sequence[PromptRow],
    *,
    num_prompts: int | None = None,
    curves: Curves | None = None,
    listed: Sequence[str] = (),
) -> Path:
    """Write report.html into `run_dir` and return its path.

    Args:
        run_dir: the directory of the comparison; its config.json is shown if it exists.
        results: results.json.
        ledger: ledger.json: {"schema": 1, "stamp": "controlled" | "uncontrolled", "rows": [{"item",
            "status", "values": {arm: value}, "note"}]} with the status matched, bounded, free or
            declared.
        clips: the prompts to listen to; each second of audio adds 43 kB to the page and each
            picture about 40 kB.
        num_prompts: of the comparison, if `clips` are only some of them.
        curves: the losses of every arm and training seed.
        listed: pages beside the report that play all prompts, if these are too many for one.

    Raises:
        GenlabError: if `results` has no arms.
    """
    if not results.get("arms"):
        raise GenlabError(
            "results.json: arms: empty; a report needs at least one row, run `genlab compare` first"
        )
    config_path = Path(run_dir) / "config.json"
    config = config_path.read_text(encoding="utf-8") if config_path.is_file() else ""
    path = Path(run_dir) / "report.html"
    page = render_page(
        results, ledger, clips, config, num_prompts=num_prompts, curves=curves, listed=listed
    )
    write_atomically(path, page)
    return path


def render_page(
    results: Shown,
    ledger: Ledger,
    clips: Sequence[PromptRow],
    config: str = "",
    *,
    num_prompts: int | None = None,
    curves: Curves | None = None,
    listed: Sequence[str] = (),
) -> Markup:
    """Return the whole page; see `write_report`."""
    answer = find_answer(results, ledger)
    question = str(results.get("question") or QUESTION)
    bodies = {
        "scores": ("Scores", _scores(results, answer)),
        "listen": ("Listen", _listen(clips, results, num_prompts, listed)),
        "cost": ("Quality against cost", cost_plots(results) + cost_table(results)),
        "fronts": ("Fronts", _made(results, "pareto")),
        "crossings": ("Where the ranking flips", _made(results, "crossover")),
        "ledger": ("Is the comparison fair?", _ledger(ledger, results)),
        "controls": ("Controls", _controls(results)),
        "audit": ("Can the metrics be trusted?", _made(results, "audit")),
        "training": ("Training", training_plots(results, curves or {})),
        "tuning": ("Tuning", _made(results, "tuning")),
        "method": ("Method", _method(results)),
        "reproduce": ("Reproduce", _reproduce(results, config) + _not_made(results)),
    }
    # a section without content is left out
    bodies = {anchor: part for anchor, part in bodies.items() if part[1]}
    sections = [_section(anchor, title, body) for anchor, (title, body) in bodies.items()]
    links = join(
        Markup('<li><a href="#{}">{}</a></li>').format(anchor, title)
        for anchor, (title, _) in bodies.items()
    )
    contents = Markup('<nav class="contents" aria-label="Contents"><ul>{}</ul></nav>').format(links)
    return _document(
        f"genlab: {answer.status}: {question}",
        Markup('<a class="skip" href="#scores">Skip to the scores</a>\n'),
        Markup("{}\n{}\n{}").format(
            _head(question, answer, results, ledger), contents, Markup("\n").join(sections)
        ),
    )


def write_tuning_page(path: Path, tuning: Tuning) -> None:
    """Write the page of a tuning by itself, before anything is compared with it."""
    sections = {"Equal trials for every arm": tuning_section(tuning)}
    write_page(path, "genlab tuning", f"Tuning: {tuning['name']}", sections)


def write_page(path: Path, kind: str, title: str, sections: Mapping[str, Markup]) -> None:
    """Write a page of titled sections in the style of the report."""
    head = Markup('<header class="top"><p class="kind">{}</p><h1>{}</h1></header>').format(
        kind, title
    )
    parts = (
        _section(heading.split()[0].lower(), heading, body) for heading, body in sections.items()
    )
    write_atomically(path, _document(f"genlab: {title}", Markup(""), head + join(parts)))


def _document(title: str, skip: Markup, body: Markup) -> Markup:
    style, script = (_read(name) for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src '{source_hash(style)}'; "
        f"script-src '{source_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light '
        'dark">\n'
        '<link rel="icon" href="data:,">\n<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n'
        "{}<main>\n{}\n</main>\n<script>{}</script>\n</body>\n</html>\n"
    ).format(policy, title, Markup(style), skip, body, Markup(script))


def _head(question: str, answer: Answer, results: Shown, ledger: Ledger) -> Markup:
    counts = [
        f"{number} {status}"
        for status in STATUS_MEANINGS
        if (number := sum(row.get("status") == status for row in ledger.get("rows", [])))
    ]
    states = [control_status(item) for item in results.get("controls", [])]
    # What does not apply to an arm cannot be passed, and must not lower the count.
    controls = [state for state in states if state != "not applicable"]
    passed = controls.count("passed")
    facts = [
        ("Matching", str(results.get("mode", "not stated"))),
        (
            "Ledger",
            _badge(_stamp(ledger) == "controlled", _stamp(ledger)) + ", ".join(["", *counts])[1:],
        ),
        (
            "Controls",
            _badge(passed == len(controls), f"{passed} of {len(controls)} passed")
            if controls
            else "none run",
        ),
        ("Comparison key", str(results.get("comparison_key", "")) or "none"),
    ]
    reasons = [
        Markup("<p><b>{}</b> {}</p>").format(label, text)
        for label, text in (
            ("What the numbers show.", answer.shows),
            ("What they cannot show.", answer.cannot),
        )
        if text
    ]
    return Markup(
        '<header class="top"><p class="kind">genlab comparison</p><h1>{}</h1><div class="answer '
        '{}"><p class="status">{}</p><p class="headline">{}</p>{}{}</div><dl '
        'class="facts">{}</dl></header>'
    ).format(
        question,
        answer.status.replace(" ", "-"),
        answer.status.capitalize(),
        answer.headline,
        join(reasons),
        gate_table(answer.gates),
        join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*fact) for fact in facts),
    )


def _ledger(ledger: Ledger, results: Shown) -> Markup:
    stamp = _stamp(ledger)
    meaning = {
        "controlled": (
            "Every difference between the arms is matched, bounded, part of the question, or "
            "declared."
        ),
        "uncontrolled": (
            "A difference between the arms is not declared: do not read the scores as an answer."
        ),
    }[stamp]
    badge = Markup('<p class="lead">{} {}</p>').format(
        _badge(stamp == "controlled", stamp), meaning
    )
    keys = join(Markup("<li><b>{}</b>: {}</li>").format(*item) for item in STATUS_MEANINGS.items())
    # What was equal, and what the checks of it cost, are read together.
    return (
        badge
        + ledger_table(ledger, results)
        + Markup('<ul class="key">{}</ul>').format(keys)
        + time_table(results)
    )


def _scores(results: Shown, answer: Answer) -> Markup:
    name = primary_score(results)
    lead = Markup(
        '<p class="lead">Bars and brackets are 95 % intervals{}. Arrows point to the better side. '
        "Every arm ends in the same codec. The codec rows are real audio that went "
        "through it: the gap between them and real audio is caused by the codec, and an arm can "
        "score better than they do, since it need not repeat what the codec did to that one "
        "recording. {}{}</p>"
    ).format(
        ", rings are single training seeds" if has_rings(results) else "",
        f"The deciding score is {score_title(name)}. " if name else "",
        "The best arm is marked."
        if answer.winner
        else "No arm is marked, because no winner is established.",
    )
    # The key explains only what occurs on this page.
    used = {
        str(score.get("validity"))
        for arm in results["arms"]
        for score in arm.get("scores", {}).values()
    }
    meanings = [
        (name, text) for name, text in _VALIDITIES.items() if name in used and name != "metric"
    ]
    keys = join(Markup("<li><b>{}</b>: {}</li>").format(*item) for item in meanings)
    key_list = Markup('<ul class="key">{}</ul>').format(keys) if meanings else ""
    return (
        lead
        + dot_plots(results)
        + score_table(results, answer)
        + key_list
        + difference_table(results)
    )


def _controls(results: Shown) -> Markup:
    if not results.get("controls"):
        return Markup(
            "<p>No control was run: the scores do not show that the arms follow their prompts.</p>"
        )
    return Markup(
        '<p class="lead">Prompt swap: the same audio scored against the text of another prompt. '
        "If an arm speaks its "
        "own text, that must be significantly worse: the interval of the difference excludes "
        "zero. Speaker swap: the "
        "same "
        "test with the voices of the other speakers. Class swap: with the classes of other "
        "clips.</p>"
    ) + control_table(results)


def _listen(
    clips: Sequence[PromptRow], results: Shown, num_prompts: int | None, listed: Sequence[str]
) -> Markup:
    heard = _made(results, "listening")
    if not clips:
        return heard + Markup("<p>This run kept no clips.</p>")
    # The script reads where the plot begins in the pictures from data attributes, so that the
    # playhead cannot drift from what mel.py draws.
    found = Markup(
        '<p class="lead">{} The same prompts and sampling seeds in every arm. Audio is lossless '
        "and not normalised. "
        "Starting a player stops the others; with a play button in focus, the arrow keys move by "
        "0.2 s. Pictures share "
        "one scale, {} to {} dB below a full-scale sine:</p>"
        '<div class="scale" aria-hidden="true"><span>{} dB</span><span '
        'class="ramp"></span><span>{} dB</span></div>'
        '<div id="prompts" data-start="{:.6f}" data-share="{:.6f}">{}</div>'
    ).format(
        _count_prompts(len(clips), num_prompts or len(clips), bool(listed)),
        _db(-CEILING_DB),
        _db(-FLOOR_DB),
        _db(FLOOR_DB),
        _db(CEILING_DB),
        PLOT_START,
        PLOT_SHARE,
        prompt_articles(clips, results),
    )
    return heard + found + page_links(listed)


def _count_prompts(shown: int, total: int, is_listed: bool) -> str:
    if shown == total:
        return (
            "Every prompt of the comparison." if total > 1 else "The one prompt of the comparison."
        )
    if is_listed:
        return f"{shown} of {total} prompts; the pages below them play all."
    return (
        f"{shown} of {total} prompts; TensorBoard and arms/NAME/seedN/samples in the run "
        "directory have all of them."
    )


# What other commands add to the page. Without data each says which command makes it.
_ADDITIONS: dict[str, Callable[[Shown], Markup]] = {
    "pareto": fronts_section,
    "crossover": lambda results: crossings_section(results.get("crossover") or []),
    "audit": audit_table,
    "tuning": lambda results: tuning_section(results.get("tuning")),
    "listening": lambda results: listening_section(results.get("listening")),
}


def _made(results: Shown, name: str) -> Markup:
    return _ADDITIONS[name](results) if results.get(name) else Markup("")


def _not_made(results: Shown) -> Markup:
    """Return what else this page could show, and the commands that make it."""
    missing = [make(results) for name, make in _ADDITIONS.items() if not results.get(name)]
    return (
        Markup("<h3>Not made for this run</h3>{}").format(join(missing)) if missing else Markup("")
    )


def _method(results: Shown) -> Markup:
    mode = str(results.get("mode", ""))
    seeds = sorted(
        {
            int(s.get("seeds") or 0)
            for arm in model_arms(results)
            for s in arm.get("scores", {}).values()
        }
    )
    # Generated from the results rather than written: the text cannot claim what was not done.
    paragraphs = [
        f"Matching: {mode}: {_MODES[mode]}." if mode in _MODES else "",
        "One codec gives both views of the audio: codes are the residual quantisation of its "
        "latents. Arms differ in the decoder only. A codec floor is real audio encoded and "
        "decoded again, from codes or from latents: it shows what that view of the audio keeps. "
        "A baseline models nothing that must be sampled: an arm that does not beat it has shown "
        "nothing.",
        "All arms train on the same batches in the same order, get the same conditions, and "
        "sample the same prompts with the same seeds. Losses of different families are not "
        "compared: they are not the same quantity.",
        f"Intervals are 95 % intervals over {covered(results)}. Two arms are compared by the "
        "paired difference on the same prompts, with Holm's correction for the number of pairs. "
        f"Training seeds per arm: {', '.join(map(str, seeds)) or 'not stated'}. A winner is named "
        "only where every gate passed or does not apply, and every paired interval lies beyond "
        "zero.",
        f"Pictures: {NUM_MELS} mel bands, 32 ms Hann windows, one every 5 ms, fixed dB range.",
        *map(str, results.get("method", [])),
    ]
    return join(Markup("<p>{}</p>").format(text) for text in paragraphs if text) + metric_table(
        results
    )


def _reproduce(results: Shown, config: str) -> Markup:
    parts = [
        Markup("<pre><code>{}</code></pre>").format(
            results.get("command") or "genlab compare config.json"
        )
    ]
    versions = dict(results.get("versions", {}))
    if commit := results.get("commit"):
        versions = {"commit": commit, **versions}
    if results.get("wall_s"):
        versions["wall time of the run"] = format_seconds(results["wall_s"])
    if results.get("peak_rss_bytes"):
        versions["peak memory"] = format_quantity(results["peak_rss_bytes"], "B")
    if versions:
        rows = join(
            Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, text)
            for name, text in versions.items()
        )
        parts.append(Markup('<dl class="facts">{}</dl>').format(rows))
    # The page carries its data, so that it can be checked when the run directory is gone.
    data = {"results.json": json.dumps(results, indent=2, ensure_ascii=False, default=str)}
    if config:
        data = {"config.json": config, **data}
    for name, text in data.items():
        parts.append(
            Markup(
                '<details><summary>{}</summary><pre tabindex="0"><code>{}</code></pre></details>'
            ).format(name, text)
        )
    return join(parts)


def _section(anchor: str, title: str, body: Markup) -> Markup:
    return Markup(
        '<section id="{0}" aria-labelledby="{0}-title"><h2 id="{0}-title">{1}</h2>{2}</section>'
    ).format(anchor, title, body)


def _badge(is_good: bool, text: str) -> Markup:
    return Markup('<span class="badge {}">{}</span>').format("good" if is_good else "bad", text)


def _stamp(ledger: Ledger) -> str:
    # A ledger without a stamp proves nothing.
    return "controlled" if ledger.get("stamp") == "controlled" else "uncontrolled"


def _db(level_db: float) -> str:
    return typeset(f"{level_db:g}")


def _read(name: str) -> str:
    return (resources.files("genlab.report") / name).read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline script or style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
