"""Damage to a built corpus is named or harmless, and `genlab data check` finds all of it."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from bad_audio import tone

from genlab.cli import main
from genlab.config import GenlabError
from genlab.data.corpus import build_corpus, find_corpora
from genlab.data.digests import check_directories
from genlab.data.folder import Folder, ImportReport
from genlab.data.manifest import MANIFEST_NAME, Clip, Manifest
from genlab.data.shards import run_shards


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("built")
    (root / "in").mkdir()
    for number in range(4):
        soundfile.write(root / "in" / f"{number}.wav", tone(frequency_hz=200.0 + number), 16_000)
    return Folder(path=str(root / "in")), build_corpus(
        Folder(path=str(root / "in")), root / "cache"
    )


@pytest.fixture
def copied(built, tmp_path):
    return shutil.copytree(built[1].root, tmp_path / "copy")


def with_f0(directory):
    """A corpus of one clip that knows its F0, without digests, as an older version left it."""
    directory.mkdir()
    np.save(directory / "f0.npy", np.full(9, 120.0))
    Manifest([Clip("a", "a.flac", "hi", "s", "test", 9, "CC0", f0_path="f0.npy")], directory).save(
        directory
    )
    return Manifest.load(directory)


def read_all(directory):
    """Return everything that anybody reads of a corpus."""
    manifest = Manifest.load(directory)
    report = ImportReport.load(directory) if manifest.has("report.json") else None
    return manifest.clips, [manifest.audio(clip).tolist() for clip in manifest.clips], report


def test_every_file_of_a_corpus_has_a_digest(built):
    root = built[1].root
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert set(json.loads((root / "digests.json").read_text())["files"]) == files - {"digests.json"}
    assert {"manifest.jsonl", "report.json"} < files and len(files) == 7


def test_any_flipped_bit_of_a_corpus_is_refused(built, copied):
    rng = np.random.default_rng(0)
    assert read_all(copied) == read_all(built[1].root)
    names = [
        path.relative_to(copied).as_posix() for path in sorted(copied.rglob("*")) if path.is_file()
    ]
    for name in names:
        content = (copied / name).read_bytes()
        for place in rng.integers(len(content), size=8):
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            (copied / name).write_bytes(changed)
            with pytest.raises(GenlabError) as error:
                read_all(copied)
            assert f"{copied / name}: damaged: " in str(error.value) and "\n" not in str(
                error.value
            )
            assert f"; delete {copied} and make it again with `genlab data CONFIG`" in str(
                error.value
            )
        (copied / name).write_bytes(content)
    (copied / names[0]).unlink()
    with pytest.raises(GenlabError, match="cannot be read \\(No such file or directory\\)"):
        read_all(copied)


def test_a_corpus_without_digests_is_opened_and_what_is_no_manifest_refused(tmp_path):
    manifest = with_f0(tmp_path / "old")
    assert manifest.f0_hz(manifest.clips[0]).tolist() == [120.0] * 9
    path = tmp_path / "old" / MANIFEST_NAME
    row = json.loads(path.read_text())
    for change, told in (
        (
            {"path": "/etc/passwd"},
            'field path: expected a path below the corpus directory, got "/etc/passwd"',
        ),
        ({"f0_path": "../f0.npy"}, "field f0_path: expected a path below the corpus directory"),
        ({"num_samples": -1}, "field num_samples: expected greater than or equal to 0, got -1"),
        ({"speaker": 3}, "field speaker: expected a valid string, got 3"),
        ({"colour": "red"}, "field colour: expected no such field"),
    ):
        path.write_text(json.dumps({**row, **change}) + "\n")
        with pytest.raises(GenlabError, match="damaged manifest") as error:
            Manifest.load(path.parent)
        assert told in str(error.value)
    for content in (b"\xff", b"[" * 100_000, b'{"id": "a"', b"[1]", b"1" * 5000):
        path.write_bytes(content)
        with pytest.raises(GenlabError, match="damaged manifest"):
            Manifest.load(path.parent)


@pytest.mark.parametrize(
    "values", [np.array([1.0, np.nan]), np.ones((2, 2)), np.array(["a"]), np.array([{}])]
)
def test_f0_that_is_none_is_refused(tmp_path, values):
    manifest = with_f0(tmp_path / "old")
    np.save(tmp_path / "old" / "f0.npy", values, allow_pickle=True)
    with pytest.raises(GenlabError, match=r"f0\.npy: damaged: "):
        manifest.f0_hz(manifest.clips[0])
    (tmp_path / "old" / "f0.npy").write_bytes(b"")
    with pytest.raises(GenlabError, match=r"f0\.npy: damaged: "):
        manifest.f0_hz(manifest.clips[0])


def test_a_damaged_shard_is_made_again(tmp_path, capsys):
    def run():
        calls = []
        results = run_shards(
            list(range(6)),
            lambda item: calls.append(item) or [item],
            tmp_path,
            items_per_shard=2,
            stage="work",
        )
        assert results == [[item] for item in range(6)]
        return sorted(calls)

    assert run() == list(range(6)) and run() == []
    shard = tmp_path / "000001.json"
    for content in (shard.read_text().replace("[2]", "[7]"), "[[2], [3]]", "", "{"):
        shard.write_text(content)
        assert run() == [2, 3]
        assert f"{shard}: damaged: " in capsys.readouterr().err


def test_check_reads_every_byte(built, copied, capsys, monkeypatch):
    assert check_directories([copied], MANIFEST_NAME) == [
        f"{copied}: 6 files, all as they were written"
    ]
    audio = sorted(copied.rglob("*.flac"))
    for path in audio[:2]:
        changed = bytearray(path.read_bytes())
        changed[-1] ^= 1
        path.write_bytes(changed)
    audio[2].unlink()
    with pytest.raises(GenlabError) as error:
        check_directories([copied], MANIFEST_NAME)
    same = "its content does not match its digest"
    assert str(error.value) == (
        f"damaged: {audio[0]}: {same}; {audio[1]}: {same}; {audio[2]}: cannot be read (No such "
        f"file or directory); delete {copied} and make it again with `genlab data CONFIG`"
    )
    (copied / "digests.json").unlink()
    assert "not checked" in check_directories([copied], MANIFEST_NAME)[0]
    (copied / MANIFEST_NAME).unlink()
    assert check_directories([copied], MANIFEST_NAME) == [f"{copied}: not built"]


def test_the_command_checks_what_a_config_uses(built, capsys, monkeypatch):
    config, manifest = built
    assert find_corpora(config, manifest.root.parent) == [manifest.root]
    monkeypatch.setenv("GENLAB_CACHE", str(manifest.root.parent))
    # The folder's digests do not change with what is drawn from it.
    command = [
        "data",
        "check",
        "configs/quickstart.py",
        "data.corpus=" + json.dumps(config.to_dict()),
    ]
    assert main(command) == 0
    told, bars = (text.splitlines() for text in capsys.readouterr())
    assert bars[0].startswith(f"check {manifest.root.name}: ")
    assert told[0] == f"{manifest.root}: 6 files, all as they were written" and told[1].endswith(
        ": not built"
    )
    path = next(manifest.root.rglob("*.flac"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert main(command) == 2
    path.write_bytes(content)
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(
        f"genlab data: damaged: {path}: its content does not match its digest; delete"
    )
    assert main(["data", "check"]) == 2
    assert "which config?" in capsys.readouterr().err
