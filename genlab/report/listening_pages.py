"""Pages that play all prompts of a comparison with many: listening/ beside report.html, 50 prompts
a page.

In: where the samples of every row lie. Out: one HTML file per page. A page names the files of the
run directory and holds no audio, so it opens at once, from a folder as from a server, and loads a
clip when it is played. Without the run directory beside it nothing is heard; report.html carries
its own clips.
"""

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from genlab.data.wave_files import wave_path
from genlab.evaluate.context import Wanted
from genlab.report.clips import score_marks
from genlab.report.inputs import Scored
from genlab.report.page import source_hash
from genlab.report.tables import join
from genlab.report.text import arm_title
from genlab.run.stored import write_atomically

FOLDER = "listening"
PROMPTS_PER_PAGE = 50


def write_listening_pages(
    pages: Path,
    run_dir: Path,
    prompts: Sequence[Wanted],
    samples: Mapping[str, Path],
    results: Scored,
    marks: Mapping[str, Sequence[Mapping[str, float]]],
    label: str,
) -> list[str]:
    """Write the pages, and return their paths relative to the report.

    Args:
        pages: where the report is written.
        run_dir: where it will lie.
        prompts: what was asked for.
        samples: by row, the directory of its samples.
        results: results.json, for the titles of rows.
        marks: by row, the scores of every clip; empty of a row that is not kept.
        label: what a prompt's speaker is called in the domain.
    """
    (pages / FOLDER).mkdir(exist_ok=True)
    titles = {arm["name"]: arm_title(arm) for arm in results["arms"]}
    places = {name: os.path.relpath(at, run_dir / FOLDER) for name, at in samples.items()}
    firsts = range(0, len(prompts), PROMPTS_PER_PAGE)
    spans = [range(first, min(first + PROMPTS_PER_PAGE, len(prompts))) for first in firsts]
    names = [f"prompts{span[0]:05}-{span[-1]:05}.html" for span in spans]
    # Page by page: the prompts of one are in memory, and no audio is.
    for number, span in enumerate(spans):
        articles = []
        for place, prompt in zip(span, prompts[span.start : span.stop]):
            figures = join(
                _figure(
                    titles.get(name, name.replace("_", " ")),
                    quote(wave_path(Path(at), place).as_posix()),
                    f"prompt{place:02}",
                    marks[name][place] if marks.get(name) else {},
                )
                for name, at in places.items()
            )
            articles.append(_article(f"prompt{place:02}", prompt, label, figures))
        title = f"Prompts {span[0]} to {span[-1]} of {len(prompts)}"
        turn = _turn(names, number)
        body = join([Markup("<h1>{}</h1>").format(title), turn, *articles, turn])
        write_atomically(pages / FOLDER / names[number], _document(title, body))
    return [f"{FOLDER}/{name}" for name in names]


def _article(name: str, prompt: Wanted, label: str, figures: Markup) -> Markup:
    return Markup(
        '<article class="prompt" aria-label="{0}"><header><h3>{0}</h3><p class="said">{1}</p>'
        '<p class="facts">{2} {3}</p></header><div class="clips">{4}</div></article>'
    ).format(name, prompt.text, label, prompt.speaker, figures)


def _figure(title: str, source: str, prompt: str, scores: Mapping[str, float]) -> Markup:
    return Markup(
        '<figure class="clip"><figcaption><span class="name">{title}</span></figcaption>'
        '<audio controls preload="none" aria-label="{title}, {prompt}" src="{source}"></audio>'
        "{marks}</figure>"
    ).format(title=title, prompt=prompt, source=source, marks=score_marks(scores))


def _turn(names: Sequence[str], number: int) -> Markup:
    """Return the links to the pages before and after, and to the report."""
    link = Markup('<li><a href="{}">{}</a></li>')
    links = [link.format(names[number - 1], "Previous")] if number else []
    links.append(link.format("../report.html#listen", "Report"))
    if number + 1 < len(names):
        links.append(link.format(names[number + 1], "Next"))
    return Markup('<nav aria-label="Pages"><ul class="key">{}</ul></nav>').format(join(links))


def _document(title: str, body: Markup) -> Markup:
    style = (resources.files("genlab.report") / "style.css").read_text(encoding="utf-8")
    # Audio comes from the folder of the run, or from the server that the page came from.
    policy = (
        f"default-src 'none'; img-src data:; media-src 'self' file:; "
        f"style-src '{source_hash(style)}'; base-uri 'none'; form-action 'none'"
    )
    return Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light '
        'dark">\n<link rel="icon" href="data:,">\n<title>genlab: {}</title>\n<style>{}</style>\n'
        "</head>\n<body>\n<main>\n{}\n</main>\n</body>\n</html>\n"
    ).format(policy, title, Markup(style), body)
