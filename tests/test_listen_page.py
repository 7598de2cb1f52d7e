"""The listening test: what is heard, what is sealed, and a listener who goes through it by mouse
and by keyboard.
"""

import html
import io
import json
import re
import stat
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.signal
import soundfile
from browser import Browser, needs_browser, start_browser
from comparison_toys import make_comparison
from listen_toys import ARMS, RATE_HZ, ROWS, make_clips, make_test

from genlab.cli import main
from genlab.config import GenlabError
from genlab.listen import page, stimuli
from genlab.listen.key import digest_key, read_key, write_key
from genlab.listen.page import render_test, write_test
from genlab.listen.ratings import merge_answers, prompts_needed
from genlab.listen.stimuli import choose_texts, cut_alike, low_anchor
from genlab.report.page import source_hash
from genlab.run.files import write_json


def write_run(folder, monkeypatch, arms=ARMS, num_prompts=2):
    """Write what `write_test` reads of a finished comparison, but for its audio."""
    run_dir = folder / "zoo_run"
    run_dir.mkdir()
    entries = [{"name": name, "family": "ar", "scores": {}} for name in arms]
    write_json(run_dir / "results.json", {"arms": entries, "comparison_key": "0a1b2c3d4e"})
    clips = make_clips(num_prompts, arms, seconds=0.2)
    monkeypatch.setattr(page, "read_clips", lambda *_: (clips, RATE_HZ))
    return SimpleNamespace(arms=dict.fromkeys(arms)), run_dir


def test_the_page_holds_no_name_and_no_path(tmp_path, monkeypatch):
    config, run_dir = write_run(tmp_path, monkeypatch)
    said = write_test(config, run_dir, run_dir / "listen", ("mushra", "ab"), None, 0, None)
    text = (run_dir / "listen" / "listen.html").read_text()
    key, digest = read_key(run_dir / "listen" / "key.json")
    assert sorted(path.name for path in (run_dir / "listen").iterdir()) == [
        "key.json",
        "listen.html",
    ]
    for word in (
        *(row for row in ROWS if row != "real"),
        "zoo_run",
        str(tmp_path),
        key.nonce,
        key.comparison_key,
    ):
        assert word not in text
    assert not re.search(
        r'"real"|codec|floor|anchor|autoregressive|diffusion', text.replace("Math.floor", ""), re.I
    )
    assert (
        digest in text
        and "2 screens of 6 clips and 6 pairs" in said
        and "note:  2 prompts settle no pair" in said
    )
    clips = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert (
        list(clips["clips"]) == sorted(clips["clips"])
        and len(set(map(len, clips["clips"].values()))) == 1
    )
    assert [screen["id"] for screen in clips["screens"]] == sorted(key.screens)
    assert all(
        screen["clips"] == sorted(key.screens[screen["id"]].rows) for screen in clips["screens"]
    )
    assert text.count("</script>") == 2 and clips["screens"][0]["text"].endswith("</script>")


def test_the_page_asks_the_network_for_nothing():
    _, digest, sealed = make_test()
    page_source = render_test(sealed, digest)
    style, script = (
        re.search(rf"<{tag}>(.*?)</{tag}>", page_source, re.S)[1] for tag in ("style", "script")
    )
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)">', page_source)[1])
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert (
        f"style-src '{source_hash(style)}';" in policy
        and f"script-src '{source_hash(script)}';" in policy
    )
    assert not re.search(r"url\(|@import|@font-face|https?:|//", style)
    assert not re.search(
        r"fetch\(|XMLHttpRequest|import\(|WebSocket|sendBeacon|innerHTML|eval\(|https?:", script
    )
    assert not re.findall(
        r"\s(?:on\w+|style)=", re.sub(r"<(script|style).*?</\1>", "", page_source, flags=re.S)
    )


def test_the_audio_is_what_the_key_says_it_is():
    key, _, sealed = make_test()
    clips = make_clips()
    for screen in key.screens.values():
        for clip_id, row in screen.rows.items():
            heard, rate_hz = soundfile.read(io.BytesIO(sealed.clips[clip_id]), dtype="float32")
            assert rate_hz == RATE_HZ
            np.testing.assert_allclose(heard, clips[screen.prompt].waves[row], atol=1 / 32767)
    open_ids = {screen["reference"] for screen in sealed.screens}
    assert not open_ids & {clip_id for screen in key.screens.values() for clip_id in screen.rows}


def test_the_key_is_secret_and_comes_back_whole(tmp_path):
    key, digest, _ = make_test()
    path = tmp_path / "key.json"
    for _ in range(2):
        write_key(path, key.serialise())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert read_key(path) == (key, digest)
    other, other_digest, _ = make_test()
    assert (
        other.nonce != key.nonce
        and other_digest != digest
        and not set(other.screens) & set(key.screens)
    )
    assert digest_key(path.read_bytes()) == digest and len(key.nonce) == 64


def test_a_key_is_never_written_over(tmp_path, monkeypatch):
    config, run_dir = write_run(tmp_path, monkeypatch)
    write_test(config, run_dir, tmp_path / "out", ("ab",), None, 0, None)
    with pytest.raises(GenlabError, match=r"key\.json: exists, .*use another --out, or delete it"):
        write_test(config, run_dir, tmp_path / "out", ("ab",), None, 0, None)
    with pytest.raises(GenlabError, match="no finished comparison here"):
        write_test(config, tmp_path, tmp_path / "other", ("ab",), None, 0, None)
    key, _ = read_key(tmp_path / "out" / "key.json")
    assert {name for screen in key.screens.values() for name in screen.rows.values()} == set(ARMS)


def test_clips_come_from_the_run_with_the_floors_that_its_arms_can_reach(tmp_path, monkeypatch):
    config = make_comparison("seeds=[3,4]")
    rng = np.random.default_rng(0)

    def waves(_=None):
        return [
            rng.uniform(-0.1, 0.1, 4000 + 10 * number).astype(np.float32) for number in range(4)
        ]

    prompts = [
        SimpleNamespace(text=f"text {min(number, 2)}", clip_id=f"text {min(number, 2)}", wave=wave)
        for number, wave in enumerate(waves())
    ]
    material = SimpleNamespace(prompts=prompts, codec=SimpleNamespace(wave_rate_hz=RATE_HZ))
    sampled = {}
    monkeypatch.setattr(stimuli, "gather", lambda *_: material)
    monkeypatch.setattr(
        stimuli,
        "floor_waves",
        lambda _: {"codec_floor_codes": waves(), "codec_floor_latents": waves()},
    )
    monkeypatch.setattr(
        stimuli,
        "read_samples",
        lambda path, _: sampled.setdefault(path.name, SimpleNamespace(waves=waves())),
    )
    reads = {
        "codec_floor_codes": "codes",
        "codec_floor_latents": "latents",
        "real": "",
        **dict.fromkeys(config.arms, "codes"),
    }
    results = {"arms": [{"name": name, "reads": view} for name, view in reads.items()]}
    clips, rate_hz = stimuli.read_clips(config, tmp_path, results, None, 0, None)
    # the fourth repeats a text
    assert rate_hz == RATE_HZ and [clip.prompt for clip in clips] == [0, 1, 2]
    assert list(clips[0].waves) == ["real", "low_anchor", "codec_floor_codes", *config.arms]
    assert [clip.seed for clip in clips] == [3, 4, 3]
    np.testing.assert_array_equal(clips[1].waves["ar"][:3000], sampled["seed4"].waves[1][:3000])
    with pytest.raises(GenlabError, match="--prompts 4: expected 1 to 3"):
        stimuli.read_clips(config, tmp_path, results, 4, 0, None)


def test_prompts_differ_in_their_text():
    texts = ["a", "b", "a", "c", "b", "d"]
    assert choose_texts(texts, None, 0) == [0, 1, 3, 5]
    assert len({tuple(choose_texts(texts, 2, seed)) for seed in range(20)}) > 3
    assert choose_texts(["clip a", "clip b", "clip c"], None, 0) == [0, 1, 2]
    for num_prompts, seed in ((0, 0), (5, 0), (2, -1)):
        with pytest.raises(GenlabError, match=r"--(prompts|seed) .*expected"):
            choose_texts(texts, num_prompts, seed)


def test_enough_prompts_is_what_a_unanimous_test_needs():
    assert [prompts_needed(arms) for arms in (2, 3, 5)] == [6, 7, 9]


def test_the_low_anchor_is_the_filter_of_the_recommendation():
    impulse = np.zeros(4001, np.float32)
    impulse[2000] = 1.0
    response = low_anchor(impulse, RATE_HZ)
    assert int(np.argmax(response)) == 2000  # no delay against the reference
    hz, gain = scipy.signal.freqz(response, worN=8000, fs=RATE_HZ)
    gain_db = 20 * np.log10(np.maximum(np.abs(gain), 1e-9))
    assert np.abs(gain_db[hz <= 3500]).max() < 0.1
    assert gain_db[hz >= 4000].max() < -25 and gain_db[hz >= 4500].max() < -50
    with pytest.raises(GenlabError, match="8000 Hz leaves nothing"):
        low_anchor(impulse, 8000)


def test_no_length_gives_a_clip_away():
    waves = {"a": np.ones(4000, np.float32), "b": np.ones(4320, np.float32)}
    cut = cut_alike(waves, RATE_HZ, 0)
    assert {len(wave) for wave in cut.values()} == {4000} and all(
        wave[-1] == 0 for wave in cut.values()
    )
    np.testing.assert_array_equal(cut["b"], cut["a"])
    assert cut["b"][:3840].min() == 1.0
    with pytest.raises(GenlabError, match=r"prompt07: a lasts 0\.25 s, the longest clip 1\.00 s"):
        cut_alike({**waves, "b": np.ones(16_000, np.float32)}, RATE_HZ, 7)


def test_the_command_line_merges(tmp_path, capsys):
    assert main(["listen", str(tmp_path / "nowhere")]) == 2
    assert main(["listen", str(tmp_path), "--merge", str(tmp_path / "none.json")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert (
        len(errors) == 2 and "expected a run directory" in errors[0] and "no key here" in errors[1]
    )


LABEL = (
    "return document.activeElement.textContent.trim() || "
    "document.activeElement.getAttribute('aria-label') || ''"
)
HEARD = (
    "return !(document.getElementById('missing').textContent.match(/hear to the end: ([^.]*)/) || "
    "['', ''])[1].split(', ').includes(arguments[0])"
)
RATINGS = {"real": "End", "low_anchor": "Home", "codec_floor_codes": "Right"}


def current(browser: Browser) -> dict:
    """Return the screen that is shown, as the page keeps it."""
    return browser.run(
        "const s = JSON.parse(localStorage[Object.keys(localStorage)[0]]); return s.answers[s.at] "
        "|| {}"
    )


def tab_to(browser: Browser, label: str) -> None:
    for _ in range(30):
        if browser.run(LABEL) == label:
            return
        browser.press("Tab")
    raise AssertionError(f"{label}: the Tab key does not get there")


def by_keyboard(browser: Browser, key) -> None:
    """Go through one screen without a pointer."""
    screen = current(browser)
    rows = key.screens[screen["screen"]].rows
    is_rating = len(screen["clips"]) > 2
    if is_rating:
        tab_to(browser, "Play reference")
        browser.press(" ")
        browser.wait(HEARD, "the reference")
    for index, clip in enumerate(screen["clips"]):
        letter = "ABCDEF"[index]
        tab_to(browser, f"Play {letter}")
        browser.press(" ")
        browser.wait(HEARD, letter)
        if is_rating:
            tab_to(browser, f"Rating of {letter}")
            browser.press(RATINGS.get(rows[clip["id"]], "Down"))
    if not is_rating:
        browser.press("Tab", " ", "Down")  # A, then one down: no difference
    assert (
        browser.run("return document.getElementById('missing').textContent")
        == "All done on this screen."
    )
    tab_to(browser, "Next")
    browser.press("Enter")


def by_mouse(browser: Browser, key) -> None:
    """Go through one screen with clicks; "Next" stays shut until the last thing is done."""
    screen = current(browser)
    rows = [key.screens[screen["screen"]].rows[clip["id"]] for clip in screen["clips"]]
    is_rating = len(rows) > 2
    assert browser.run("return document.getElementById('next').disabled")
    if is_rating:
        browser.click("#reference")
        browser.wait(HEARD, "the reference")
    for index, row in enumerate(rows, start=1):
        browser.click(f"#clips li:nth-child({index}) .hear")
        browser.wait(HEARD, "ABCDEF"[index - 1])
        assert browser.run("return document.getElementById('next').disabled")
        if is_rating:
            # the middle, where it stands: not yet a rating
            browser.click(f"#clips li:nth-child({index}) input")
            browser.press(RATINGS.get(row, "Down"))
    if not is_rating:
        browser.click(f"#choices label:nth-of-type({1 + 2 * rows.index(ARMS[0])})")
    browser.click("#next")


@needs_browser
def test_a_listener_goes_through_by_mouse_and_keyboard(tmp_path, monkeypatch):
    config, run_dir = write_run(tmp_path, monkeypatch, ARMS[:2])
    out = run_dir / "listen"
    write_test(config, run_dir, out, ("mushra", "ab"), None, 0, None)
    key, _ = read_key(out / "key.json")
    with start_browser(tmp_path / "downloads") as browser:
        browser.open(out / "listen.html")
        browser.run("document.getElementById('listener').value = 'not a name'")
        browser.click("#begin")
        assert "letters" in browser.run("return document.getElementById('bad-name').textContent")
        browser.run("document.getElementById('listener').value = 'tester_1'")
        browser.click("#begin")
        by_mouse(browser, key)
        browser.post("refresh")  # nothing is lost
        assert browser.run("return document.getElementById('count').textContent") == "Screen 2 of 4"
        by_keyboard(browser, key)
        browser.click("#back")
        assert (
            browser.run("return document.getElementById('missing').textContent")
            == "All done on this screen."
        )
        browser.click("#next")
        by_mouse(browser, key)
        by_keyboard(browser, key)
        browser.click("#save")
        path = tmp_path / "downloads" / "answers-tester_1.json"
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline, "no file came"
            time.sleep(0.02)
        shown = browser.run("return document.getElementById('answers').value")
        wide = browser.run("return document.documentElement.scrollWidth <= innerWidth")
        log = browser.post("se/log", type="browser")
    assert wide and log == [] and path.read_text() == shown
    merged = merge_answers([path], out)
    means = {row["row"]: row["mean"] for row in merged["mushra"]["rows"]}
    assert means == {
        "real": 100,
        "low_anchor": 0,
        "codec_floor_codes": 51,
        ARMS[0]: 49,
        ARMS[1]: 49,
    }
    [pair] = merged["ab"]["pairs"]
    assert (pair["prefer_a"], pair["prefer_b"], pair["ties"]) == (1, 0, 1)
    answers = json.loads(shown)
    assert all(
        screen["seconds"] > 0 and all(clip["plays"] == 1 for clip in screen["clips"])
        for screen in answers["screens"]
    )
    assert set(answers) == {"format", "key_sha256", "listener", "screens"}


@needs_browser
def test_a_browser_that_keeps_nothing_says_so_and_works(tmp_path):
    _, digest, sealed = make_test(1, ("ab",), ARMS[:2])
    path = tmp_path / "listen.html"
    path.write_text(render_test(sealed, digest))
    deny = (
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', "
        "'SecurityError'); }})"
    )
    with start_browser(tmp_path / "downloads") as browser:
        browser.post(
            "goog/cdp/execute", cmd="Page.addScriptToEvaluateOnNewDocument", params={"source": deny}
        )
        browser.open(path)
        assert "keeps no progress" in browser.run("return document.body.innerText")
        browser.resize(390, 844)
        browser.click("#begin")
        assert browser.run("return document.getElementById('count').textContent") == "Screen 1 of 1"
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        for index in (1, 2):
            browser.click(f"#clips li:nth-child({index}) .hear")
            browser.wait(HEARD, "AB"[index - 1])
        browser.click("#choices label:nth-of-type(2)")
        browser.click("#next")
        saved = json.loads(browser.run("return document.getElementById('answers').value"))
    assert saved["screens"][0]["choice"] == "no difference"
