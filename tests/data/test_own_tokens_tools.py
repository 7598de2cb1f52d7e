"""`genlab data import`, `check` and `export`: what they print, and that what is exported reads back
as the same clips.
"""

import io
import os
import sys

import numpy as np
import pytest
from own_toys import SPEC, make_clips, write_arrays, write_tars
from PIL import Image

from genlab.cli import main
from genlab.config import GenlabError
from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.data.own.columns import load_pyarrow
from genlab.data.own.export import export_store
from genlab.data.own.row import Facts
from genlab.data.own.source import TokenFiles
from genlab.data.own.statistics import inspect_tokens

CLIPS = make_clips(30)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))


def all_clips(store):
    clips = [store.clip(number) for number in range(store.num_clips)]
    split_of = {
        number: name
        for name, place in store.info.splits.items()
        for number in range(place.first, place.first + place.clips)
    }
    return {
        clip.id: (clip.text, clip.speaker, split_of[number], clip.codes.tolist())
        for number, clip in enumerate(clips)
    }


@pytest.mark.parametrize("kind", ["npz", "webdataset", "array_record", "parquet"])
def test_what_is_exported_reads_back_as_the_same_clips(tmp_path, kind, monkeypatch):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="the extra arrow is not installed")
    monkeypatch.setattr("genlab.data.own.export.SHARD_CLIPS", 11)
    first = TokenFiles(write_arrays(tmp_path / "tokens", CLIPS)).open(tmp_path / "cache")
    assert export_store(first, tmp_path / "out", kind, "mine") == 30
    files = TokenFiles(tmp_path / "out")
    assert files.spec.codec == "mine" and files.spec.token_spec() == first.info.spec
    again = files.open(tmp_path / "cache")
    assert all_clips(again) == all_clips(first) and again.directory != first.directory
    assert len(files.layout.files) >= 3
    with pytest.raises(GenlabError, match="out: already exists"):
        export_store(first, tmp_path / "out", kind, "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out", "tokens"]


def test_code_vectors_are_exported_as_the_codec_has_them(tmp_path):
    source = KnownEntropy(clips=40, clip_frames=8, latent_channels=4, noise=0.02)
    export_store(draw_store(source, tmp_path / "cache"), tmp_path / "out", "npz", "source")
    vectors = TokenFiles(tmp_path / "out").code_vectors
    np.testing.assert_allclose(vectors, source.code_vectors, atol=1e-5)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    store = TokenFiles(write_arrays(tmp_path / "tokens", CLIPS)).open(tmp_path / "cache")
    with pytest.raises(GenlabError, match=r"need pyarrow; run `.*\[arrow\].*`, or use npz or tar"):
        export_store(store, tmp_path / "out", "parquet", "")
    with pytest.raises(GenlabError, match="need pyarrow"):
        load_pyarrow()
    assert not (tmp_path / "out").exists()


def test_a_report_counts_what_is_there(tmp_path):
    codes = np.tile(np.array([[0, 1, 5], [8, 1, 5]], np.int16), (8, 1))
    other = np.tile(np.array([[0, 1, 6], [8, 1, 5], [8, 1, 5]], np.int16), (4, 1))
    clips = [
        (Facts("a", "one", "s", "train"), codes),
        (Facts("b", "two", "s", "train"), codes),
        (Facts("c", "one", "t", "test"), other),
    ]
    found = inspect_tokens(TokenFiles(write_tars(tmp_path / "tokens", clips)))
    assert found.counts.sum(axis=1).tolist() == [44, 44, 44]
    assert found.counts[0, 0] == 20 and found.counts[0, 8] == 24 and found.counts[2, 6] == 4
    share = 20 / 44
    bits = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    np.testing.assert_allclose(found.entropies()[:2], [bits, 0])
    text = "\n".join(found.lines())
    assert "3 clips, 0.1 min, 2 speakers, 12.5 frames/s, 3 codebooks of 16 entries" in text
    assert "frames of a clip: 12 to 16, half have at most 16" in text
    assert "codebook 0: 2 of 16 entries occur, 0.99 bits by counts of 4.00" in text
    assert "1 clip with the codes of an earlier one, for example b those of a" in text
    assert "1 of 1 texts of test occur in train too" in text and "no clips in split valid" in text
    picture = np.asarray(Image.open(io.BytesIO(found.picture())))
    assert picture.shape == (12 * 7, 512) and picture.min() == 0 and picture.max() == 255
    # Entry 8 of codebook 0 is used most, entry 1 never.
    assert picture[0, 512 * 8 // 16] < picture[0, 0] < 60
    assert picture[0, 512 // 16] == 255


def test_the_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_arrays(tmp_path / "tokens", CLIPS)
    assert main(["data", "check", "tokens", "--picture", "codes.png"]) == 0
    said = capsys.readouterr().out
    assert "tokens: every row is as it should be" in said and "30 clips" in said
    assert Image.open(tmp_path / "codes.png").size == (512, 84)
    assert main(["data", "import", "tokens"]) == 0
    said = capsys.readouterr().out
    assert "train: 18 clips" in said and "genlab compare own_tokens data.tokens=tokens" in said
    assert main(["data", "export", "tokens", "shards", "--format", "webdataset"]) == 0
    assert "shards: 30 clips as webdataset" in capsys.readouterr().out
    assert main(["data", "check", "shards"]) == 0
    assert "30 clips" in capsys.readouterr().out


def test_wrong_words_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_arrays(tmp_path / "tokens", CLIPS)
    os.truncate(folder / "codes.npz", 500)
    for words, said in (
        (["import"], "import: expected one directory of tokens"),
        (["import", "nowhere"], "tokens 'nowhere': no such directory"),
        (["import", "a", "b"], "import: expected one directory of tokens"),
        (["export", "tokens"], "export: expected a config or a directory of tokens"),
        (["export", "nothing", "out"], "nothing"),
        (["exprt", "tokens", "out"], "did you mean 'export tokens'?"),
        (["check", "tokens"], "index.jsonl:1: "),
        (["check", "gs://lab/tokens"], "expected a directory on this disk; copy the tokens here"),
        (["import", "gs://lab/tokens"], "tokens 'gs:/lab/tokens': expected a directory on this"),
        (["own_tokens", "data.tokens=gs://lab/tokens"], "expected a directory on this disk"),
    ):
        assert main(["data", *words]) == 2
        captured = capsys.readouterr()
        assert said in captured.err and captured.err.count("\n") == 1, words
    assert not (tmp_path / "out").exists() and SPEC["entries"] == 16


def test_a_picture_replaces_only_a_picture(tmp_path, capsys):
    folder = write_arrays(tmp_path / "tokens", CLIPS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "link.png").symlink_to(folder / "tokens.json")
    for name in ("tokens/tokens.json", "link.png"):
        assert main(["data", "check", str(folder), "--picture", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for _ in range(2):
        assert main(["data", "check", str(folder), "--picture", str(tmp_path / "own.png")]) == 0


def test_an_export_leaves_what_is_beside_it_and_nothing_half_written(tmp_path, monkeypatch):
    store = draw_store(KnownEntropy(clips=8, clip_frames=12), tmp_path / "store")
    mine = tmp_path / ".out.partial"
    mine.mkdir()
    (mine / "mine").write_text("mine")

    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("genlab.data.own.export._spec_of", fail)
        with pytest.raises(KeyboardInterrupt):
            export_store(store, tmp_path / "out", "npz", "")
    assert {path.name for path in tmp_path.iterdir()} == {"store", ".out.partial"}
    assert export_store(store, tmp_path / "out", "npz", "") == store.num_clips
    assert (mine / "mine").read_text() == "mine"
