"""The report: what it may claim, that it asks the network for nothing, and that no text becomes
markup.
"""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
import soundfile
from report_toys import PLAN, beat_floors, make_audit, make_ledger, make_results, score

from genlab.config import GenlabError
from genlab.report import PromptRow, write_report
from genlab.report.answer import find_answer, find_difference, primary_score
from genlab.report.text import (
    arm_title,
    score_title,
)
from genlab.run.bounds import BIGRAM, UNIGRAM

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&\""
VOID = {"meta", "link", "img", "br", "hr", "input"}


def make_clips(text: str = "set the red lamp now", count: int = 1) -> list[PromptRow]:
    time_s = np.arange(16_000) / 16_000
    waves = {
        "real": 0.3 * np.sin(2 * np.pi * 300 * time_s),
        "ar": 0.3 * np.sin(2 * np.pi * (200 * time_s + 900 * time_s**2)),
        "diffusion": 0.3 * np.sin(2 * np.pi * 500 * time_s[:12_000]),
    }
    waves = {name: wave.astype(np.float32) for name, wave in waves.items()}
    return [
        PromptRow(f"prompt{index:02}", text, "s3", 7, waves, notes={"ar": f"128 calls {text}"})
        for index in range(count)
    ]


class Page(HTMLParser):
    """Parse the page; fail on tags that do not nest."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.raw, self._open = "", {"script": "", "style": ""}, []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"{tag}: an attribute twice"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in self.raw:
            self.raw[self._open[-1]] += data
        else:
            self.text += data


@pytest.fixture
def html(tmp_path) -> str:
    (tmp_path / "config.json").write_text(json.dumps({"name": EVIL}))
    results = make_results() | {
        "question": f"who wins? {EVIL}",
        "command": f"genlab {EVIL}",
        "versions": {EVIL: EVIL},
    }
    results["method"] = [EVIL]
    results["arms"][5] |= {"title": EVIL}
    results["arms"][4]["scores"][EVIL] = score(1.0, 0.1, unit=EVIL, note=EVIL, validity=EVIL)
    results["controls"][0]["control"] = EVIL
    ledger = make_ledger()
    ledger["rows"].append(
        {"item": EVIL, "status": EVIL, "values": {"ar": EVIL, EVIL: 1}, "note": EVIL}
    )
    path = write_report(tmp_path, results, ledger, make_clips(EVIL))
    assert path == tmp_path / "report.html" and sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "report.html",
    ]
    return path.read_text()


def test_no_text_becomes_markup(html):
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.raw["script"] == (resources.files("genlab.report") / "script.js").read_text()
    assert not [
        name
        for _, attributes in page.tags
        for name in attributes
        if name.startswith("on") or name == "style"
    ]
    assert page.text.count(EVIL) >= 10  # yet every one of them can be read


def test_no_external_request(html):
    page = Page(html)
    addresses = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href")
    ]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|@font-face|https?:|//", page.raw["style"])
    assert not re.search(
        r"fetch\(|XMLHttpRequest|import\(|new WebSocket|innerHTML|eval\(", page.raw["script"]
    )
    anchors = {address[1:] for address in addresses if address.startswith("#")}
    assert anchors <= {attributes.get("id") for _, attributes in page.tags}


def test_the_policy_allows_exactly_our_script_and_style(html):
    page = Page(html)
    (policy,) = [
        a["content"]
        for tag, a in page.tags
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    assert (
        rules.pop("default-src") == "'none'"
        and rules.pop("base-uri") == "'none'"
        and rules.pop("form-action") == "'none'"
    )
    assert (rules.pop("img-src"), rules.pop("media-src")) == ("data:", "data:")
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.raw[name].encode()).digest()).decode()
        assert rules.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert not rules


def test_the_page_holds_every_score_and_is_accessible(html):
    page = Page(html)
    for arm in make_results()["arms"]:
        assert arm["name"] == "diffusion" or arm_title(arm) in page.text
        for name, found in arm["scores"].items():
            assert score_title(name) in page.text
            # The column of a score fixes the decimals, so only the leading digits of the value are
            # certain.
            assert f"{found['value']:.4g}"[:4] in page.text.replace(",", "")
    for expected in (
        "[0.092, 0.112]",
        "1,321",
        "exact",
        "biased",
        "few vectors",
        "n = 64",
        "128",
        "0.200 s",
        "3.00 TFLOP",
    ):
        assert expected in page.text
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(
        attributes.get("aria-label") for tag, attributes in page.tags if tag in ("button", "audio")
    )
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    plots = [
        attributes
        for tag, attributes in page.tags
        if tag == "svg" and attributes.get("role") == "img"
    ]
    assert len(plots) == 2 + 5 and all(
        set((plot["aria-labelledby"] or "").split()) <= set(ids) for plot in plots
    )
    assert sum(tag == "title" for tag, _ in page.tags) == 1 + len(plots)
    assert ("html", {"lang": "en"}) in page.tags


def test_the_audio_is_lossless_and_the_pictures_are_png(html):
    page = Page(html)
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "audio"]
    assert len(sources) == 3
    heard, rate_hz = soundfile.read(
        io.BytesIO(base64.b64decode(sources[1].split(",")[1])), dtype="float32"
    )
    assert rate_hz == 16_000
    np.testing.assert_allclose(heard, make_clips()[0].waves["ar"], atol=1 / 32767)
    pictures = [a["src"] or "" for tag, a in page.tags if tag == "img"]
    assert all(
        base64.b64decode(picture.split(",")[1]).startswith(b"\x89PNG") for picture in pictures
    )


def test_the_size_is_bounded(tmp_path):
    size = write_report(tmp_path, make_results(), make_ledger(), make_clips(count=8)).stat().st_size
    assert size < 8 * 3 * (50_000 + 43_000) + 100_000


def test_one_seed_names_no_winner_and_says_what_it_shows(tmp_path):
    answer = find_answer(make_results(seeds=1), make_ledger())
    assert (answer.status, answer.winner) == ("insufficient seeds", "")
    assert "1 training seed per arm" in answer.headline and "at least 3" in answer.headline
    assert "Autoregressive 0.102 [0.092, 0.112]" in answer.shows and "n = 64" in answer.shows
    assert (
        "differ: Autoregressive and Masked parallel; Autoregressive and Latent diffusion."
        in answer.shows
    )
    assert "initialisation" in answer.cannot
    page = write_report(tmp_path, make_results(seeds=2), make_ledger(), []).read_text()
    assert 'class="best"' not in page and "has the best" not in page


def test_three_seeds_and_clear_intervals_name_a_winner(tmp_path):
    answer = find_answer(make_results(seeds=3), make_ledger())
    assert (answer.status, answer.winner) == ("settled", "ar")
    assert answer.headline.startswith(
        "Autoregressive has the best word error (grammar): 0.102 [0.092, 0.112], better than"
    )
    assert "Masked parallel by 0.041 [0.031, 0.051]" in answer.headline
    assert (
        write_report(tmp_path, make_results(seeds=3), make_ledger(), [])
        .read_text()
        .count('class="best"')
        == 1
    )


def _without_pair(results):
    results["differences"] = results["differences"][1:]


def _overlapping(results):
    results["differences"][0]["better"] = ""


def _failed_control(results):
    results["controls"][0]["passed"] = False


def _missing_value(results):
    results["arms"][4]["scores"]["wer_grammar"]["value"] = None


@pytest.mark.parametrize("spoil", [_without_pair, _overlapping, _failed_control, _missing_value])
def test_anything_missing_leaves_it_not_settled(spoil):
    results = make_results(seeds=5)
    spoil(results)
    answer = find_answer(results, make_ledger())
    assert (answer.status, answer.winner) == ("not settled", "") and answer.headline.startswith(
        "Not settled"
    )


def test_one_arm_is_reported_and_compared_with_nothing():
    results = make_results(3)
    results["arms"] = [
        arm for arm in results["arms"] if arm["family"] not in ("masked", "diffusion")
    ]
    answer = find_answer(results, make_ledger())
    assert (
        answer.headline == "Nothing is compared: there is one arm."
        and "0.102" in answer.shows
        and not answer.winner
    )


@pytest.mark.parametrize("ledger", [make_ledger("uncontrolled"), {}])
@pytest.mark.parametrize("seeds", [1, 5])
def test_an_uncontrolled_comparison_is_stamped_and_has_no_winner(ledger, seeds, tmp_path):
    answer = find_answer(make_results(seeds), ledger)
    assert (answer.status, answer.winner) == ("uncontrolled", "")
    assert (
        '<span class="badge bad">uncontrolled</span>'
        in write_report(tmp_path, make_results(seeds), ledger, []).read_text()
    )


def test_a_failed_control_stands_in_the_score_table(tmp_path):
    results = make_results(seeds=5)
    _failed_control(results)
    page = write_report(tmp_path, results, make_ledger(), []).read_text()
    failed = (
        '<th scope="col" class="model">Autoregressive<span class="badge bad">failed prompt '
        "swap</span></th>"
    )
    assert page.count(failed) == 1
    assert "2 of 3 passed" in page


def _decide_by_bits(results, bound_of_masked):
    """Two arms with bits: AR exact, masked an upper bound that is said to be better."""
    results["arms"] = [arm for arm in results["arms"] if arm["name"] in ("real", "ar", "masked")]
    results["arms"][2]["scores"]["bits_per_s"] = score(
        bound_of_masked, 12, 3, validity="upper bound", unit="bits/s"
    )
    better = "masked" if bound_of_masked < 1321 else ""
    pair = {
        "score": "bits_per_s",
        "a": "ar",
        "b": "masked",
        "difference": 1321 - bound_of_masked,
        "better": better,
    }
    pair |= {"low": -9, "high": 9, "p_value": 0.001, "p_holm": 0.001, "plan": PLAN}
    counted = beat_floors(("ar", "masked"), "bits_per_s", (UNIGRAM, BIGRAM))
    results["differences"] = [pair, *counted]
    return results | {"primary_score": "bits_per_s"}


def test_a_bound_wins_below_an_exact_value_and_never_loses_above_it(tmp_path):
    below, above = (_decide_by_bits(make_results(seeds=3), bound) for bound in (1100.0, 1500.0))
    assert find_answer(below, make_ledger()).winner == "masked"
    answer = find_answer(above, make_ledger())
    assert (answer.status, answer.winner) == ("not settled", "")
    assert (
        "Autoregressive (exact) and Masked parallel (upper bound) cannot be ranked"
        in answer.headline
    )
    assert "Masked parallel ≤ 1,500 [1,488, 1,512]" in answer.shows
    page = write_report(tmp_path, above, make_ledger(), []).read_text()
    assert (
        "<b>≤ 1,500</b>" in page
        and "<b>1,321</b>" in page
        and "beside another bound it is not" in page
    )


def test_a_higher_score_can_decide_and_pairs_are_found_either_way_round():
    results = make_results(seeds=3) | {"primary_score": "speaker_similarity"}
    assert primary_score(results) == "speaker_similarity"
    for item in results["differences"]:
        item["score"] = "speaker_similarity"
    results["audit"] = {"speaker_similarity": make_audit()}
    assert find_answer(results, make_ledger()).winner == "ar"
    turned = find_difference(results, "speaker_similarity", "ar", "diffusion")
    straight = find_difference(results, "speaker_similarity", "diffusion", "ar")
    assert (
        turned
        and straight
        and turned["value"] == -straight["value"]
        and turned["low"] == -straight["high"]
    )


def test_sparse_results_still_make_a_page(tmp_path):
    bare = {
        "name": "ar",
        "family": "ar",
        "scores": {"kad": score(float("nan"), 0), "f0": score(1.0, 0.0) | {"low": None}},
    }
    page = write_report(tmp_path, {"arms": [bare], "controls": []}, {}, []).read_text()
    Page(page)
    assert "No control was run" in page and "kept no clips" in page
    other = write_report(
        tmp_path, {"arms": [{"name": "real", "family": "real", "scores": {}}]}, {}, []
    ).read_text()
    Page(other)
    with pytest.raises(GenlabError, match="arms"):
        write_report(tmp_path, {"arms": []}, {}, [])


def test_broken_and_empty_waves_still_make_a_page(tmp_path):
    waves = {"real": np.full(100, np.nan, np.float32), "ar": np.zeros(0, np.float32)}
    page = Page(
        write_report(
            tmp_path, make_results(), make_ledger(), [PromptRow("p", "t", "s", None, waves)]
        ).read_text()
    )
    assert sum(tag == "audio" for tag, _ in page.tags) == 2


def _luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return float(
        np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        @ [0.2126, 0.7152, 0.0722]
    )


def test_colours_have_aa_contrast_in_both_schemes():
    style = (resources.files("genlab.report") / "style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(blocks) == 2
    pairs = [
        (ink, back)
        for ink in ("ink", "soft", "good", "bad", "warn", "focus")
        for back in ("page", "panel")
    ]
    pairs += [(name, f"{name}-back") for name in ("good", "bad", "warn", "calm")]
    pairs += [(f"arm{index}", "page") for index in range(6)] + [
        ("ink", "good-back"),
        ("soft", "good-back"),
    ]
    for block in blocks:
        colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))
        for front, back in pairs:
            dark, light = sorted(_luminance(colours[name]) for name in (front, back))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


def test_a_control_that_could_not_be_made_says_why_and_is_not_failed(tmp_path):
    results = make_results(seeds=5)
    reason = "there is no other speaker to compare with"
    absent = {"difference": None, "low": None, "high": None, "passed": False}
    results["controls"] += [
        {"arm": arm, "control": "speaker_swap", "score": "speaker_similarity", **absent}
        | {"status": "not applicable", "reason": reason}
        for arm in ("ar", "masked", "diffusion")
    ]
    page = write_report(tmp_path, results, make_ledger(), []).read_text()
    assert "3 of 3 passed" in page and "failed speaker swap" not in page
    assert f'<span class="badge bounded">not applicable</span> {reason}' in page
    assert f"Not applicable: speaker swap ({reason})." in page
    answer = find_answer(results, make_ledger())
    assert (answer.status, answer.winner) == ("settled", "ar")
    # Runs of older versions have no status: a control without a number was not made either.
    for item in results["controls"]:
        item.pop("status", None)
        item.pop("reason", None)
    assert find_answer(results, make_ledger()).winner == "ar"
