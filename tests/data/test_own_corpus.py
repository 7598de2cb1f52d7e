"""A corpus in a file outside the package: named, hashed, built, resumed, refused and checked like a
built-in one.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from bad_audio import tone
from comparison_toys import make_comparison

from genlab import cli
from genlab.config import GenlabError
from genlab.data.corpus import Embedded, build_corpus, find_corpora
from genlab.data.dialogue import Dialogue
from genlab.data.folder import ImportReport
from genlab.load import load_experiment
from genlab.run import trust
from genlab.run.files import write_config
from genlab.studies.contract import check_class

TUTORIAL = Path(__file__).parents[2] / "docs" / "own_corpus.py"
KIND = "data.corpus.kind=mine.py:Vowels"

LAYOUT = """
from typing import ClassVar
from genlab.data.folder import ImportConfig
from genlab.data.listing import Listing, SourceRow

class Birds(ImportConfig):
    kind: ClassVar[str] = "birds"
    def listing(self):
        names = range(9)
        rows = [SourceRow(f"{n}.wav", f"bird {n}", "tweet", f"b{n % 2}") for n in names]
        return Listing(rows, [], [])
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user who wrote a corpus."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    shutil.copy(TUTORIAL, "mine.py")
    return tmp_path


def vowels(**fields):
    return trust.load_class("mine.py:Vowels")(**({"clips": 6, "vowel_s": 0.05} | fields))


def test_built_in_corpora_keep_their_names_on_disk(place):
    assert find_corpora(Embedded(minutes=1.0), place) == [place / "embedded-be5548b377"]


def test_it_is_built_once_under_a_name_that_follows_fields_and_source(place):
    manifest = build_corpus(vowels())
    assert len(manifest.clips) == 6 and manifest.root.name.startswith("vowels-")
    clip = manifest.clips[4]
    assert (clip.speaker, clip.licence, set(clip.labels)) == ("middle", "CC0", {"gain"})
    assert np.abs(manifest.audio(clip)).max() == round(clip.labels["gain"] * 32767)
    assert {"train", "valid", "test"} == set(manifest.splits)
    (manifest.root / "audio" / "mark").touch()
    assert (build_corpus(vowels()).root / "audio" / "mark").exists(), (
        "a finished corpus was built again"
    )
    assert build_corpus(vowels(seed=1)).root != manifest.root
    # Another wave under the same rows: another corpus, and another hash, which token stores are
    # named by.
    Path("mine.py").write_text(Path("mine.py").read_text().replace("/ 90.0", "/ 50.0"))
    changed = build_corpus(vowels())
    assert changed.root != manifest.root and changed.hash() != manifest.hash()
    assert [c.text for c in changed.clips] == [c.text for c in manifest.clips]


def test_it_stands_in_configs_and_runs_only_on_the_persons_word(place, monkeypatch):
    config = make_comparison(KIND) if trust.load_class("mine.py:Vowels") else None
    assert config.to_dict()["data"]["corpus"]["kind"] == "mine.py:Vowels"
    assert config.digest() != make_comparison().digest()
    talk = Dialogue(corpus=vowels())
    assert Dialogue.from_dict(talk.to_dict()) == talk
    assert len(build_corpus(talk).clips) > 0 and len(find_corpora(talk)) == 2
    (place / "run").mkdir()
    write_config(place / "run", config.to_dict())
    with pytest.raises(
        GenlabError, match=r"data.corpus.kind='mine.py:Vowels' is a Python file.*--trust-code"
    ):
        load_experiment(place / "run")
    assert load_experiment(place / "run", trust_code=True) == config
    assert load_experiment(place / "run", (KIND, "data.corpus.clips=5")).data.corpus.clips == 5


def test_a_layout_of_ones_own_is_imported_like_any_folder(place, capsys):
    (place / "in").mkdir()
    Path("birds.py").write_text(LAYOUT)
    for number in range(8):
        soundfile.write(
            place / "in" / f"{number}.wav", tone(0.1, frequency_hz=200.0 + 20 * number), 16_000
        )
    birds = trust.load_class("birds.py:Birds")
    manifest = build_corpus(birds(path="in", shared_texts=True), is_quiet=True)
    assert {clip.id for clip in manifest.clips} == {f"bird {n}" for n in range(8)}
    assert [item.path for item in ImportReport.load(manifest.root).skipped] == ["8.wav"]
    assert find_corpora(birds(path="in", strict=True, shared_texts=True)) == [manifest.root]
    soundfile.write(place / "in" / "3.wav", tone(0.2), 16_000)
    assert find_corpora(birds(path="in", shared_texts=True)) != [manifest.root]
    assert cli.main(["check", "birds.py:Birds"]) == 2
    assert "path: missing" in capsys.readouterr().err
    assert cli.main(["check", "birds.py:Birds", "path=in", "shared_texts=true"]) == 1
    told = capsys.readouterr().out
    assert "FAILED  train, valid and test have clips" in told and told.count("FAILED") == 1


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            'row.labels["gain"] * wave',
            '4 * row.labels["gain"] * wave',
            r"Vowels.wave of row '0000\d': a peak of \d",
        ),
        (
            "return row.labels",
            "return np.nan * row.labels",
            r"wave of row '00000': a peak of nan, expected floats in",
        ),
        (
            "np.concatenate(parts)",
            "np.stack(parts)",
            r"an array of float64 with shape \(4, 800\), expected floats",
        ),
        (
            "np.abs(wave).max()",
            "gone",
            r"wave of row '0000\d': .*mine.py:\d+: NameError: name 'gone'",
        ),
        ('f"{number:05d}"', '"same"', r"Vowels.rows: the id 'same' is empty or not the first"),
        ("return rows", "return []", r"Vowels.rows: no rows, expected one per clip"),
        (
            "def rows(self):",
            "def rows(self):\n        return [1]",
            r"Vowels.rows: 1, expected SourceRow",
        ),
    ],
)
def test_what_cannot_be_a_corpus_is_told_in_one_line(place, old, new, told):
    Path("mine.py").write_text(Path("mine.py").read_text().replace(old, new))
    with pytest.raises(GenlabError, match=told) as error:
        build_corpus(vowels())
    assert "\n" not in str(error.value)


def test_the_tutorial_keeps_every_promise():
    findings = check_class(trust.load_class(f"{TUTORIAL}:Vowels"), ["vowel_s=0.05"])
    assert [finding for finding in findings if finding.problem] == [] and len(findings) == 7


def test_the_check_names_what_is_broken(place, capsys):
    source = (
        Path("mine.py")
        .read_text()
        .replace("return row.labels", "return np.random.rand() * row.labels")
    )
    Path("broken.py").write_text(source)
    assert (
        cli.main(["check", "broken.py:Vowels", "clips=40", "vowel_s=0.05", "test_fraction=0.01"])
        == 1
    )
    told = capsys.readouterr().out
    assert (
        "FAILED  an interrupted build ends with the same audio: its rows differ from build to build"
        in told
    )
    assert (
        "FAILED  train, valid and test have clips: 1 clips in split 'test', expected at least 2"
        in told
    )
    assert "ok      it is built, and found again" in told
    assert not json.loads(json.dumps(sorted(Path("cache").glob("vowels*")), default=str)), (
        "the check left something"
    )
