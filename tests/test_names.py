"""No id and no listing leads out of the directory that a person named."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlab.config import GenlabError
from genlab.run.names import file_stem, inside
from genlab.sample import claim_samples

RUN = SimpleNamespace(data=SimpleNamespace(corpus=SimpleNamespace()))


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("/etc/passwd", "etc_passwd-"),
        ("../../up.wav", "up_wav-"),
        ("speaker/one.wav", "speaker_one_wav-"),
        ("..", "clip-"),
        ("", "clip-"),
        ("a.codec", "a_codec-"),
        ("C:\\x", "C_x-"),
        ("NUL", "NUL-"),
        ("\u4e00\u4e8c", "clip-"),
        ("x" * 300, "x" * 60 + "-"),
    ],
)
def test_what_is_no_name_becomes_one(text, starts):
    stem = file_stem(text)
    assert stem.startswith(starts) and len(stem) == len(starts) + 10


def test_a_name_stays_as_it_is():
    assert file_stem("00017-alba") == "00017-alba"


@given(st.text(), st.text())
def test_every_text_has_its_own_name_in_the_directory(one, other):
    stem = file_stem(one)
    assert (Path("/out") / f"{stem}.flac").resolve().parent == Path("/out").resolve()
    assert stem.isascii() and "." not in stem and 0 < len(stem) <= 80
    assert (stem == file_stem(other)) == (one == other)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "C:\\x", "a\\..\\x", "a\0b"])
def test_a_listing_leads_nowhere_else(name, tmp_path):
    with pytest.raises(GenlabError, match="leads out of"):
        inside(tmp_path, name)
    assert inside(tmp_path, "a/b.json") == tmp_path / "a" / "b.json"


def test_samples_replace_samples_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    claim_samples(out, ["a.flac"], RUN)
    (out / "a.flac").write_text("sample")
    (out / "mine.flac").write_text("recording")
    claim_samples(out, ["a.flac", "b.flac"], RUN)
    assert json.loads((out / "sampled.json").read_text()) == ["a.flac", "b.flac"]
    with pytest.raises(
        GenlabError, match=r"mine\.flac: already exists, and `genlab sample` did not write it"
    ):
        claim_samples(out, ["mine.flac"], RUN)


def test_samples_do_not_go_into_the_corpus(tmp_path):
    run = SimpleNamespace(
        data=SimpleNamespace(corpus=SimpleNamespace(path=str(tmp_path / "corpus")))
    )
    with pytest.raises(GenlabError, match="lies in the corpus"):
        claim_samples(tmp_path / "corpus" / "new", ["a.flac"], run)
    assert not (tmp_path / "corpus").exists()
    claim_samples(tmp_path / "corpus2", ["a.flac"], run)
