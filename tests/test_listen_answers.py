"""The answers of a listening test: known minds are recovered, intervals cover, and edited files are
refused.
"""

import copy
import json
import math

import numpy as np
import pytest
from listen_toys import ARMS, ROWS, answer, make_test, save
from report_toys import make_ledger, make_results

from genlab.config import GenlabError
from genlab.listen.key import write_key
from genlab.listen.ratings import MIN_LISTENERS, crossed_mean, crossed_ratio, merge_answers
from genlab.listen.table import format_listening
from genlab.report.listening import listening_section
from genlab.report.page import render_page
from genlab.report.text import format_interval
from genlab.report.written import render_markdown

TRUTH = dict(zip(ROWS, (98.0, 15.0, 85.0, 70.0, 55.0, 55.0)))


@pytest.fixture(scope="module")
def ten_prompts(tmp_path_factory):
    """Return the folder of a sealed test of ten prompts, its key and the digest."""
    folder = tmp_path_factory.mktemp("listen")
    key, digest, _ = make_test(10)
    write_key(folder / "key.json", key.serialise())
    return folder, key, digest


def listen(key, digest, name, seed, careless=False):
    """Return the answers of a listener with a bias of their own, whose mean ratings are `TRUTH`."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0, 6)

    def rate(row, prompt):
        if row == "real":
            return 60 if careless else 98
        return TRUTH[row] + bias + np.random.default_rng(prompt).normal(0, 4) + rng.normal(0, 8)

    def prefer(a, b, prompt):
        if rng.random() < 0.1:
            return "no difference"
        chance = 1 / (1 + math.exp((TRUTH[b] - TRUTH[a]) / 6))
        return a if rng.random() < chance else b

    return answer(key, digest, name, rate, prefer)


def test_the_order_of_known_listeners_is_recovered(ten_prompts, tmp_path):
    folder, key, digest = ten_prompts
    paths = [save(tmp_path, listen(key, digest, f"good{n}", n)) for n in range(12)]
    paths.append(save(tmp_path, listen(key, digest, "careless", 99, careless=True)))
    merged = merge_answers(paths, folder)
    assert json.loads((folder / "listening.json").read_text()) == merged
    assert merged["listeners"]["counted"] == 12
    assert merged["listeners"]["excluded"] == [
        {"listener": "careless", "missed": 10, "screens": 10}
    ]
    rows = {row["row"]: row for row in merged["mushra"]["rows"]}
    ranked = sorted(rows, key=lambda name: -rows[name]["mean"])
    assert ranked[:3] == ["real", "codec_floor_codes", "zebra_arm"] and ranked[-1] == "low_anchor"
    for name in ARMS:
        assert rows[name]["low"] - 1 < TRUTH[name] < rows[name]["high"] + 1
        assert (rows[name]["listeners"], rows[name]["prompts"]) == (12, 10)
    pairs = {(pair["a"], pair["b"]): pair for pair in merged["mushra"]["pairs"]}
    assert pairs["zebra_arm", "gnu_arm"]["low"] < 15 < pairs["zebra_arm", "gnu_arm"]["high"]
    assert [pair["better"] for pair in pairs.values()] == ["zebra_arm", "zebra_arm", ""]
    assert merged["mushra"]["winner"] == merged["ab"]["winner"] == "zebra_arm"
    [first, _, equal] = merged["ab"]["pairs"]
    assert first["prefer_a"] + first["prefer_b"] + first["ties"] == 12 * 10 and first["ties"] > 0
    assert first["low"] > 0.8 and first["p_holm"] < 0.05 and equal["low"] < 0.5 < equal["high"]
    section = str(listening_section(merged))
    assert (
        section.count("<table") == 3
        and "<pre" not in section
        and "zebra_arm is better than every other arm" in section
    )
    for name in (*ARMS, "real", "low_anchor", "codec_floor_codes"):
        assert format_interval({**rows[name], "value": rows[name]["mean"]}) in section
    assert section.count('scope="row"') == 6 + 3 + 3 and "hidden reference" in section
    assert section in render_page({**make_results(), "listening": merged}, make_ledger(), [])
    assert "## Blind listening" in render_markdown(
        {**make_results(), "listening": merged}, make_ledger()
    )
    text = format_listening(merged)
    assert "careless: excluded, hidden reference below 90 on 10 of 10 screens" in text
    assert "rating: zebra_arm is better than every other arm" in text and "3.5 kHz low-pass" in text


def test_too_few_listeners_name_no_winner(ten_prompts, tmp_path):
    folder, key, digest = ten_prompts
    paths = [save(tmp_path, listen(key, digest, f"good{n}", n)) for n in range(MIN_LISTENERS - 1)]
    merged = merge_answers(paths, folder)
    for test in ("mushra", "ab"):
        assert merged[test]["winner"] == "" and not any(
            pair["better"] for pair in merged[test]["pairs"]
        )
        assert merged[test]["pairs"][0]["p_value"] < 0.05  # the numbers are there all the same
    text = format_listening(merged)
    assert text.count("insufficient listeners: 9 of at least 10; no winner is named") == 2


def test_one_listener_and_none_left_still_make_a_table(ten_prompts, tmp_path):
    folder, key, digest = ten_prompts
    merged = merge_answers([save(tmp_path, listen(key, digest, "alone", 1))], folder)
    row = merged["mushra"]["rows"][0]
    assert row["mean"] is not None and row["low"] is None
    merged = merge_answers(
        [save(tmp_path, listen(key, digest, "careless", 1, careless=True))], folder
    )
    assert merged["listeners"]["counted"] == 0
    json.dumps(merged, allow_nan=False)
    assert "insufficient listeners: 0 of" in format_listening(merged)


@pytest.mark.parametrize(("missed", "is_excluded"), [(0, False), (1, False), (2, True)])
def test_post_screening_allows_15_percent(ten_prompts, tmp_path, missed, is_excluded):
    folder, key, digest = ten_prompts

    def rate(row, prompt):
        return (89 if prompt < missed else 90) if row == "real" else 50

    values = answer(key, digest, "edge", rate, lambda a, b, prompt: "no difference")
    merged = merge_answers([save(tmp_path, values)], folder)
    assert bool(merged["listeners"]["excluded"]) is is_excluded
    if not is_excluded:
        assert (
            merged["ab"]["pairs"][0]["ties"] == 10 and merged["ab"]["pairs"][0]["share_a"] is None
        )


def test_the_interval_covers_with_listeners_and_prompts_crossed():
    """95 % of the intervals hold the truth; one that draws ratings as if independent covers far
    less.
    """
    rng = np.random.default_rng(5)
    covered, naive, trials = 0, 0, 200
    for _ in range(trials):
        grid = rng.normal(0, 8, (12, 1)) + rng.normal(0, 6, (1, 10)) + rng.normal(0, 10, (12, 10))
        estimate = crossed_mean(grid)
        covered += estimate.low <= 0 <= estimate.high
        naive += abs(grid.mean()) < 1.96 * grid.std() / math.sqrt(grid.size)
    assert 0.90 <= covered / trials <= 0.99 and naive / trials < 0.75


def test_the_crossed_bootstrap_agrees_with_a_loop():
    rng = np.random.default_rng(1)
    totals, weights = rng.uniform(0, 1, (5, 4)), rng.integers(1, 3, (5, 4)).astype(float)
    draws = []
    for _ in range(4000):
        rows, columns = rng.integers(0, 5, 5), rng.integers(0, 4, 4)
        draws.append(totals[rows][:, columns].sum() / weights[rows][:, columns].sum())
    estimate = crossed_ratio(totals, weights)
    assert estimate.value == pytest.approx(totals.sum() / weights.sum())
    np.testing.assert_allclose(
        [estimate.low, estimate.high], np.quantile(draws, [0.025, 0.975]), atol=0.02
    )


def _rate_110(values):
    values["screens"][0]["clips"][1]["rating"] = 110


def _half_point(values):
    values["screens"][0]["clips"][1]["rating"] = 50.5


def _unrated(values):
    values["screens"][0]["clips"][0]["rating"] = None


def _unplayed(values):
    values["screens"][0]["clips"][0]["plays"] = 0


def _lose_screen(values):
    del values["screens"][2]


def _screen_twice(values):
    values["screens"].append(values["screens"][0])


def _lose_clip(values):
    del values["screens"][0]["clips"][0]


def _clip_twice(values):
    values["screens"][0]["clips"][0] = values["screens"][0]["clips"][1]


def _foreign_screen(values):
    values["screens"].append({**values["screens"][0], "screen": "feedbeef"})


def _foreign_choice(values):
    values["screens"][-1]["choice"] = "feedbeef"


def _no_choice(values):
    values["screens"][-1]["choice"] = ""


def _other_key(values):
    values["key_sha256"] = "0" * 64


def _name(values):
    values["listener"] = "<b>Jane Doe</b>"


def _more(values):
    values["remark"] = "hello"


def _endless(values):
    values["screens"][0]["seconds"] = math.inf


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_rate_110, "rating: Input should be less than or equal to 100 (got 110)"),
        (_half_point, "rating: Input should be a valid integer"),
        (_unrated, "screens.0.clips.0.rating: missing, expected 0 to 100"),
        (_unplayed, "plays: Input should be greater than or equal to 1 (got 0)"),
        (_lose_screen, "screens: 1 of 40 missing"),
        (_screen_twice, "screens: 41 of them, expected each of the 40"),
        (_foreign_screen, "screens: 41 of them, expected each of the 40"),
        (_lose_clip, "screens.0.clips: 5 clips, expected each of the 6"),
        (_clip_twice, "screens.0.clips: 6 clips, expected each of the 6 of the key once"),
        (_foreign_choice, "choice='feedbeef': expected one of the two clips or 'no difference'"),
        (_no_choice, "choice='': expected one of the two clips"),
        (_other_key, "key_sha256=000000000000...: expected "),
        (_name, "listener: String should match pattern"),
        (_more, "remark: no such field"),
        (_endless, "field 'seconds': expected a finite number, got inf"),
    ],
)
def test_edited_answers_are_refused_in_one_line(ten_prompts, tmp_path, spoil, says):
    folder, key, digest = ten_prompts
    values = copy.deepcopy(listen(key, digest, "edited", 1))
    spoil(values)
    path = save(tmp_path, values, "edited")
    with pytest.raises(GenlabError) as error:
        merge_answers([path], folder)
    text = str(error.value)
    assert (
        text.startswith(f"{path}: ")
        and says in text
        and "\n" not in text
        and "use the file as" in text
    )


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_files_that_are_no_answers_are_refused(ten_prompts, tmp_path, content):
    path = tmp_path / "noise.json"
    path.write_bytes(content)
    with pytest.raises(GenlabError, match=r"noise\.json: "):
        merge_answers([path], ten_prompts[0])


def test_nobody_counts_twice(ten_prompts, tmp_path):
    folder, key, digest = ten_prompts
    first = save(tmp_path, listen(key, digest, "jo", 1), "first")
    with pytest.raises(
        GenlabError, match=r"first\.json: the same answers as .*first\.json; give every file once"
    ):
        merge_answers([first, first], folder)
    again = save(tmp_path, listen(key, digest, "jo", 2), "again")
    with pytest.raises(GenlabError, match=r"again\.json: listener='jo' is also in .*first\.json"):
        merge_answers([first, again], folder)


def test_a_key_that_was_changed_opens_nothing(ten_prompts, tmp_path):
    _, key, digest = ten_prompts
    path = save(tmp_path, listen(key, digest, "jo", 1))
    with pytest.raises(GenlabError, match=r"key\.json: no key here"):
        merge_answers([path], tmp_path)
    content = key.serialise()
    write_key(tmp_path / "key.json", content.replace(b"zebra_arm", b"zebra_erm"))
    with pytest.raises(GenlabError, match="or the key was changed"):
        merge_answers([path], tmp_path)
    write_key(tmp_path / "key.json", content[:-20])
    with pytest.raises(GenlabError, match=r"key\.json: damaged: expected JSON"):
        merge_answers([path], tmp_path)
