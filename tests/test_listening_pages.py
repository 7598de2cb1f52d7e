"""Many prompts are played on pages of 50 that name files of the run: nothing is loaded before it is
played, from a folder as well as from a server, at the width of a phone.
"""

import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from browser import needs_browser, start_browser
from report_toys import make_ledger, make_results
from test_report import EVIL, Page, make_clips

from genlab.data.wave_files import write_waves
from genlab.evaluate.context import Wanted
from genlab.report import write_report
from genlab.report.listening_pages import PROMPTS_PER_PAGE, write_listening_pages
from genlab.report.text import format_value

PROMPTS = 2 * PROMPTS_PER_PAGE + 20
ROWS = {"real": "floors/real", "ar": "arms/ar/seed0", "masked": "arms/masked/seed0"}
NOTHING = np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run directory with the pages, and half a second of sound in the rows of some prompts."""
    run = tmp_path_factory.mktemp("run with spaces#1")
    wave = 0.3 * np.sin(np.arange(8000) / 9).astype(np.float32)
    for row in ROWS.values():
        for number in (0, 49, 50, PROMPTS - 1):
            write_waves(run / row / "samples", number, [wave], 16_000)
    prompts = [Wanted(f"{i}", f"text {i} {EVIL}", EVIL, NOTHING) for i in range(PROMPTS)]
    marks = {"ar": [{"wer_ctc": number / 256} for number in range(PROMPTS)], "masked": []}
    staged = run / "outputs.partial"
    staged.mkdir()
    samples = {name: run / row / "samples" for name, row in ROWS.items()}
    listed = write_listening_pages(staged, run, prompts, samples, make_results(), marks, "speaker")
    assert listed == [
        "listening/prompts00000-00049.html",
        "listening/prompts00050-00099.html",
        "listening/prompts00100-00119.html",
    ]
    write_report(
        staged, make_results(), make_ledger(), make_clips(), num_prompts=PROMPTS, listed=listed
    )
    for path in [*staged.rglob("*.html")]:  # as the outputs of a run are moved
        target = run / path.relative_to(staged)
        target.parent.mkdir(exist_ok=True)
        shutil.move(path, target)
    return run


def test_every_prompt_is_on_one_page_of_fifty_with_all_rows(run):
    found = []
    for number, path in enumerate(sorted((run / "listening").glob("*.html"))):
        page = Page(path.read_text())
        players = [attributes for tag, attributes in page.tags if tag == "audio"]
        assert len(players) == 3 * (20 if number == 2 else 50)
        assert {player["preload"] for player in players} == {"none"}
        assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
        assert page.text.count(EVIL) == len(players) // 3 * 2  # in the text and as the speaker
        assert path.stat().st_size < 100_000 and "data:audio" not in path.read_text()
        found += [(path.parent / unquote(str(player["src"]))).resolve() for player in players]
        links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
        assert all((path.parent / str(link).split("#")[0]).is_file() for link in links)
        assert len(links) == (3 if number == 1 else 2)
    assert found == [
        (run / row / "samples" / f"prompt{number:02}.flac").resolve()
        for number in range(PROMPTS)
        for row in ROWS.values()
    ]
    first = (run / "listening/prompts00000-00049.html").read_text()
    assert f"<b>{format_value(7 / 256)}</b>" in first


def test_the_report_lists_the_pages_and_plays_the_first_prompts(run):
    page = Page((run / "report.html").read_text())
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    listed = [link for link in links if link.startswith("listening/")]
    assert len(listed) == 3 and all((run / link).is_file() for link in listed)
    assert sum(tag == "audio" for tag, _ in page.tags) == 3
    assert f"1 of {PROMPTS} prompts" in page.text


@needs_browser
def test_a_page_plays_the_files_of_its_run_without_a_server(run, tmp_path):
    with start_browser(tmp_path) as browser:
        browser.resize(360, 800)
        browser.open(run / "listening/prompts00050-00099.html")
        length = browser.run(
            "const heard = document.querySelectorAll('audio');"
            "heard[1].preload = 'metadata'; heard[1].load(); return heard.length;"
        )
        assert length == 3 * PROMPTS_PER_PAGE
        seconds = "return document.querySelectorAll('audio')[1].duration || 0;"
        assert browser.wait(seconds) == pytest.approx(0.5)
        assert browser.run("return document.documentElement.scrollWidth;") <= 360
        browser.run("[...document.querySelectorAll('a')].find(a => a.text == 'Next').click();")
        browser.wait("return document.title.startsWith('genlab: Prompts 100 to 119 of 120');")
