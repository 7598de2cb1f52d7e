"""Scores of a codec on a folder: what is read, what is skipped, and that a codec that keeps more
scores better.
"""

import csv
import json

import pytest
import soundfile
from codec_toys import make_frozen, make_wave

from genlab.codecs.frozen import load_codec
from genlab.config import GenlabError
from genlab.evaluate.codecs.score import score_folder

SPEAKERS = ("ann", "bob", "eve")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("voices")
    (root / "deep").mkdir()
    rows = []
    for number, speaker in enumerate(SPEAKERS):
        path = root / "deep" / f"{speaker}.wav"
        soundfile.write(path, make_wave(number, 24_000), 16_000)
        rows.append({"path": f"deep/{speaker}.wav", "speaker": speaker})
    (root / "broken.wav").write_bytes(b"RIFF")
    (root / "notes.txt").write_text("no audio")
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "speaker"])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def shipped(folder):
    return {
        levels: score_folder(load_codec(), folder, levels, dnsmos_files=1) for levels in (1, None)
    }


def test_the_scores_are_json_with_intervals(shipped):
    facts = shipped[None]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["files"] == 3 and facts["seconds"] == 4.5
    assert len(facts["skipped"]) == 1 and facts["skipped"][0].startswith("broken.wav: ")
    assert facts["bitrate_bps"] == 4000 and shipped[1]["bitrate_bps"] == 500
    assert len(facts["code_entropy_bits"]) == 8 and all(
        0 <= bits <= 10 for bits in facts["code_entropy_bits"]
    )
    scores = facts["scores"]
    for name in ("mel_distance_db", "speaker_cosine", "speaker_cosine_between_files"):
        assert scores[name]["n"] == 3
        assert scores[name]["low"] <= scores[name]["value"] <= scores[name]["high"]
    # one file has no spread
    assert scores["dnsmos_ovrl"]["n"] == 1 and scores["dnsmos_ovrl"]["low"] is None
    assert 1 <= scores["dnsmos_ovrl_original"]["value"] <= 5
    assert {"pesq", "estoi"} <= scores.keys()  # null where the package is missing


def test_more_levels_keep_more(shipped):
    def value(levels, name):
        return shipped[levels]["scores"][name]["value"]

    assert value(None, "mel_distance_db") < value(1, "mel_distance_db")
    assert value(None, "speaker_cosine") > value(1, "speaker_cosine")
    assert value(None, "speaker_cosine") > value(None, "speaker_cosine_between_files")


def test_speakers_are_chosen_by_the_table(folder, tmp_path):
    frozen = make_frozen()
    facts = score_folder(frozen, folder, speakers=("bob",), dnsmos_files=1)
    assert facts["files"] == 1 and facts["skipped"] == []
    assert facts["scores"]["speaker_cosine_between_files"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
    }
    assert facts["bitrate_bps"] == 50 * 3 * 4
    with pytest.raises(GenlabError, match="no readable audio of these speakers"):
        score_folder(frozen, folder, speakers=("zoe",))
    with pytest.raises(
        GenlabError, match=r"metadata\.csv: no such file; choosing speakers needs a table"
    ):
        score_folder(frozen, tmp_path, speakers=("bob",))
    (tmp_path / "metadata.csv").write_text("file,who\na.wav,bob\n")
    with pytest.raises(GenlabError, match="columns file, who, expected path and speaker"):
        score_folder(frozen, tmp_path, speakers=("bob",))


def test_nothing_to_score_is_refused(tmp_path):
    with pytest.raises(GenlabError, match="no readable audio"):
        score_folder(make_frozen(), tmp_path)
    soundfile.write(tmp_path / "a.wav", make_wave(0, 1600), 16_000)
    with pytest.raises(GenlabError, match=r"levels: expected 1\.\.3, got 0"):
        score_folder(make_frozen(), tmp_path, levels=0)
