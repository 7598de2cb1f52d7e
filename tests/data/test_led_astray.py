"""What a wrong path, column or extension is told: the whole field, and the name that was meant."""

import numpy as np
import pytest
import soundfile

from genlab.config import GenlabError
from genlab.data.audio import AudioError, read_wave
from genlab.data.corpus import Folder, build_corpus
from genlab.data.folder import ImportReport, list_folder
from genlab.data.table import list_table

TABLE = "path,text,speaker\nclips/a.wav,one,amy\nclips/b.wav,two,bob\nclips/c.wav,six,bob\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory of a user, with recordings and their table in my_audio/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_audio/clips").mkdir(parents=True)
    for number, name in enumerate("abc"):
        tone = np.sin(np.arange(8000 + number) / 9) / 3
        soundfile.write(tmp_path / f"my_audio/clips/{name}.wav", tone, 16_000)
    (tmp_path / "my_audio/table.csv").write_text(TABLE)
    return tmp_path


def refusal(path, manifest=None):
    with pytest.raises(GenlabError) as caught:
        list_folder(Folder(path=path, manifest=manifest))
    return str(caught.value)


def test_a_wrong_path_is_told_by_its_field_with_the_nearest_name(place):
    assert refusal("my_audoi") == (
        "data.corpus.path: 'my_audoi' is not a directory, expected the folder that holds the "
        "corpus; did you mean 'my_audio'?"
    )
    near = f"; did you mean '{place}/my_audio'?"
    assert refusal(f"{place}/my_audoi").endswith(near)
    assert refusal("elsewhere/xyz").endswith("expected the folder that holds the corpus")
    assert refusal(" ").startswith("data.corpus.path: ' ' is empty")


@pytest.mark.parametrize(
    ("written", "ending"),
    [
        ("tabel.csv", "expected a CSV or JSONL file; did you mean 'table.csv'?"),
        ("clips/nothing", "expected a CSV or JSONL file"),
        ("my_audio/table.csv", "it starts at data.corpus.path, so write table.csv"),
        ("other.csv", "it starts at data.corpus.path, so write ../other.csv"),
        ("x" * 300, "expected a CSV or JSONL file"),
    ],
)
def test_a_wrong_table_is_told_where_it_was_looked_for(place, written, ending):
    (place / "other.csv").write_text(TABLE)
    told = refusal("my_audio", written)
    assert told.startswith(f"data.corpus.manifest: '{written[:70]}")
    assert " not found in '" in told and told.endswith(ending)
    if "so write " in ending:  # what is advised is taken
        advised = ending.rpartition(" ")[2]
        assert len(list_folder(Folder(path="my_audio", manifest=advised)).rows) == 3


def test_a_folder_without_audio_names_what_is_accepted(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(GenlabError, match=r"audio file; none below it ends in \.wav, .*\.mp3;"):
        build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache")


def test_a_file_under_another_extension_is_named(place):
    table = TABLE.replace("a.wav", "a.mp3").replace("b.wav", "b")
    (place / "my_audio/table.csv").write_text(table + "my_audio/clips/a.wav,nine,amy\n")
    config = Folder(path="my_audio", manifest="table.csv")
    manifest = build_corpus(config, place / "cache")
    report = ImportReport.load(manifest.root)
    assert report is not None and report.used == 1
    reasons = {item.path: item.reason for item in report.skipped}
    assert reasons["clips/a.mp3"] == "file not found; a.wav is there"
    assert reasons["clips/b"].endswith(".mp3; b.wav is there")
    astray = "file not found: paths in a table start at data.corpus.path"
    assert reasons["my_audio/clips/a.wav"] == astray
    (place / "B.WAV").touch()
    with pytest.raises(AudioError, match=r"file not found; B\.WAV is there"):
        read_wave(place / "B.flac")


def test_a_table_without_text_or_speaker_says_what_was_read(tmp_path):
    def notes(head, row="a.wav,one,amy", name="t.csv"):
        (tmp_path / name).write_text(f"{head}\n{row}\n")
        return list_table(tmp_path, name).notes

    assert notes("path,text;speaker", "a.wav,one;amy") == [
        "no column is read as text or speaker: read path; kept as labels 'text;speaker'; expected "
        "the name text, transcription, transcript, sentence"
    ]
    assert notes("path,words,speaker") == [
        "no column is read as text: read path, speaker; kept as labels 'words'; expected the name "
        "text, transcription, transcript, sentence"
    ]
    assert notes("path,text,voice")[0].endswith("name speaker, speaker_id, speaker_name, client_id")
    # Nothing that could have been meant: a table of texts alone is one.
    assert notes("path,text", "a.wav,one") == notes("path", "a.wav") == []
    rows = '{"path": "a.wav", "take": 1}\n{"path": "b.wav", "text": "two", "speaker": "bob"}'
    assert notes("", rows, "t.jsonl") == []
