"""`genlab data fetch` against a server on this machine: whole and right, or not there at all."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer

from genlab.cli import main
from genlab.config import GenlabError
from genlab.data.download import Checksum, InterruptedDownload, download
from genlab.data.fetch import FETCHED_NAME, NoRoomError, fetch
from genlab.data.sources import Archive, Source, read_sources

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server():
    with FileServer({"a.tar": CONTENT, "elsewhere.tar": CONTENT}) as served:
        yield served


def tar_of(files: dict[str, bytes], kind=tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def source_of(server, names=("a.tar.gz",), **more) -> Source:
    files = [
        Archive(
            url=server.url(name),
            sha256=hashlib.sha256(server.files[name]).hexdigest(),
            bytes=len(server.files[name]),
        )
        for name in names
    ]
    facts = {"title": "Toys", "licence": "CC0", "attribution": "nobody", "page": "https://a.b"}
    return Source(**facts, kind="folder", files=tuple(files), **more)


@pytest.mark.parametrize("ranges", ["kept", "ignored", "shifted", "refused"])
def test_a_part_that_is_there_is_continued(server, tmp_path, ranges):
    server.faults.ranges = ranges
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:100_000])
    seen = []
    download(server.url("a.tar"), tmp_path / "a.tar", SHA256, progress=seen.append, wait_s=0)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT and seen[-1] == len(CONTENT)
    asked = server.faults.asked
    assert asked == (["bytes=100000-"] if ranges in ("kept", "ignored") else ["bytes=100000-", ""])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    download(server.url("a.tar"), tmp_path / "a.tar", SHA256)
    assert server.faults.asked == asked  # what is there is not asked for again


def test_a_bad_line_is_a_slow_one(server, tmp_path):
    server.faults.cut_after, server.faults.failures = 50_000, 2
    download(server.url("a.tar"), tmp_path / "a.tar", SHA256, wait_s=0)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.faults.asked[2:] == ["", *(f"bytes={n}-" for n in range(50_000, 300_000, 50_000))]


def test_a_dead_line_keeps_what_came(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:7])
    server.faults.cut_after = 0
    with pytest.raises(InterruptedDownload, match=r"7 bytes are kept, and the same command resum"):
        download(server.url("a.tar"), tmp_path / "a.tar", SHA256, wait_s=0)
    assert (tmp_path / "a.tar.part").read_bytes() == CONTENT[:7]
    assert len(server.faults.asked) == 5 and InterruptedDownload.exit_code == 75
    with pytest.raises(InterruptedDownload, match="no connection"):
        download("http://127.0.0.1:9/a.tar", tmp_path / "b.tar", SHA256, wait_s=0)


def test_a_part_of_another_file_is_thrown_away(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(b"x" * 1_000)
    download(server.url("a.tar"), tmp_path / "a.tar", SHA256, wait_s=0)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.faults.asked == ["bytes=1000-", ""]
    (tmp_path / "b.tar.part").write_bytes(b"x" * 400_000)  # longer than the whole
    download(server.url("a.tar"), tmp_path / "b.tar", SHA256, wait_s=0)
    assert (tmp_path / "b.tar").read_bytes() == CONTENT


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_another_file_than_promised_is_not_used(server, tmp_path, algorithm):
    wrong = Checksum(algorithm, hashlib.new(algorithm, b"other").hexdigest())
    found = hashlib.new(algorithm, CONTENT).hexdigest()
    with pytest.raises(
        GenlabError, match=f"its {algorithm} is {found}, expected {wrong.digits}: the publisher"
    ):
        download(server.url("a.tar"), tmp_path / "a.tar", wrong)
    assert list(tmp_path.glob("a.tar*")) == []
    right = Checksum(algorithm, found)
    download(server.url("a.tar"), tmp_path / "a.tar", right)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_answers_that_are_final(server, tmp_path):
    with pytest.raises(GenlabError, match=r"nothing\.tar: the server answers 404 Not Found"):
        download(server.url("nothing.tar"), tmp_path / "a.tar", SHA256)
    with pytest.raises(GenlabError, match="sends more than the 10 bytes that the file has"):
        download(server.url("a.tar"), tmp_path / "b.tar", SHA256._replace(num_bytes=10))
    server.faults.ranges = "unasked"
    with pytest.raises(InterruptedDownload, match="answers a part where all of it was asked for"):
        download(server.url("a.tar"), tmp_path / "c.tar", SHA256, wait_s=0)


def test_redirects_stay_on_the_web(server, tmp_path):
    server.faults.redirect = server.url("elsewhere.tar")
    download(server.url("a.tar"), tmp_path / "a.tar", SHA256)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/a"):
        server.faults.redirect = target
        with pytest.raises(
            GenlabError, match=r"expected http or https|Redirection .* is not allowed"
        ):
            download(server.url("a.tar"), tmp_path / "b.tar", SHA256, wait_s=0)
    assert not (tmp_path / "b.tar").exists()


def test_a_corpus_is_whole_or_not_there(server, tmp_path):
    server.files["a.tar.gz"] = tar_of({"./toys/a.wav": b"1", "toys/b.wav": b"2"})
    server.files["b.tar.gz"] = tar_of({"toys/c/d.wav": b"3"})
    source = source_of(server, ("a.tar.gz", "b.tar.gz"), folder="toys")
    told = []
    made = fetch("toys", source, tmp_path / "audio", lambda *stage: told.append(stage[0]))
    found = {path.relative_to(tmp_path / "audio").as_posix() for path in tmp_path.rglob("*.wav")}
    assert found == {"toys/a.wav", "toys/b.wav", "toys/c/d.wav"}
    assert json.loads((tmp_path / "audio" / FETCHED_NAME).read_text()) == made
    assert (made["licence"], made["name"]) == ("CC0", "toys")
    assert set(told) == {
        *("fetch a.tar.gz", "fetch b.tar.gz"),
        *("unpack 0-a.tar.gz", "unpack 1-b.tar.gz"),
    }
    assert not (tmp_path / "audio.partial").exists()
    before = len(server.faults.asked)
    fetch("toys", source, tmp_path / "audio")
    assert len(server.faults.asked) == before
    changed = source_of(server, ("a.tar.gz",))
    with pytest.raises(GenlabError, match="holds something else; name a folder that is new"):
        fetch("toys", changed, tmp_path / "audio")
    (tmp_path / "empty").mkdir()
    fetch("toys", changed, tmp_path / "empty")
    assert (tmp_path / "empty" / "toys" / "a.wav").read_bytes() == b"1"


def test_nothing_of_somebody_else_is_touched(server, tmp_path):
    server.files["a.tar.gz"] = tar_of({"a.wav": b"1"})
    source = source_of(server)
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "mine").write_text("mine")
    with pytest.raises(GenlabError, match="holds something else than an unfinished fetch of toys"):
        fetch("toys", source, tmp_path / "x")
    assert (tmp_path / "x.partial" / "mine").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(GenlabError, match="not a folder"):
        fetch("toys", source, tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "x.partial")
    with pytest.raises(GenlabError, match="not a folder"):
        fetch("toys", source, tmp_path / "link")
    huge = source.override(
        [f'files=[{{"url":"{source.files[0].url}","md5":"{"0" * 32}","bytes":{10**17}}}]']
    )
    with pytest.raises(NoRoomError, match="archives and what is in them need about"):
        fetch("toys", huge, tmp_path / "y")


def test_a_hostile_archive_leaves_nothing(server, tmp_path):
    server.files["a.tar.gz"] = tar_of({"ok.wav": b"1", "../../evil.wav": b"2"})
    with pytest.raises(GenlabError, match=r"member '\.\./\.\./evil.wav' has a name that leads out"):
        fetch("toys", source_of(server), tmp_path / "audio")
    assert not (tmp_path / "audio").exists() and not list(tmp_path.rglob("evil.wav"))
    server.files["a.tar.gz"] = tar_of({"link": b""}, kind=tarfile.SYMTYPE)
    with pytest.raises(GenlabError, match="member 'link' is a link"):
        fetch("toys", source_of(server), tmp_path / "other")
    server.files["a.tar.gz"] = tar_of({"a.wav": b"1"})
    with pytest.raises(GenlabError, match="its archives hold no folder 'gone'"):
        fetch("toys", source_of(server, folder="gone"), tmp_path / "third")


def write_sources(path, server, names=("a.tar.gz",)) -> Path:
    path.write_text(json.dumps({"toys": source_of(server, names).to_dict()}))
    return path


def test_a_killed_command_resumes(server, tmp_path):
    server.files["a.tar.gz"] = tar_of({"a.wav": np.random.default_rng(1).bytes(1_000_000)})
    sources = write_sources(tmp_path / "sources.json", server)
    server.faults.slow_s = 0.3
    command = [sys.executable, "-m", "genlab.cli", "data", "fetch", "toys", "audio"]
    command += ["--sources", str(sources)]
    victim = subprocess.Popen(command, cwd=tmp_path, env=os.environ, stderr=subprocess.DEVNULL)
    part = tmp_path / "audio.partial" / "downloads" / "0-a.tar.gz.part"
    while victim.poll() is None and not (part.exists() and part.stat().st_size > 100_000):
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "audio").exists() and part.exists()
    server.faults.slow_s = 0.0
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "audio" / "a.wav").stat().st_size == 1_000_000
    assert server.faults.asked[0] == "" and server.faults.asked[-1].startswith("bytes=")
    assert "licence: CC0; to be named: nobody" in done.stdout
    assert "data.corpus.kind=folder data.corpus.path=audio" in done.stdout


def test_the_command_says_what_is_wrong(server, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.files["a.tar.gz"] = tar_of({"a.wav": b"1"})
    sources = str(write_sources(tmp_path / "sources.json", server))
    for words, told in [
        (["fetch", "tyos", "x", "--sources", sources], "did you mean 'toys'?"),
        (["fetch", "toys", "--sources", sources], "fetch: expected a name and a folder"),
        (["fetch", "toys", "x", "--sources", "none.json"], "none.json: no such file"),
        (["fecth", "toys"], "did you mean 'fetch toys'?"),
    ]:
        assert main(["data", *words]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and told in error[0]
    assert main(["data", "fetch", "--sources", sources]) == 0
    assert "toys" in capsys.readouterr().out
    server.faults.status = 403
    assert main(["data", "fetch", "toys", "x", "--sources", sources]) == 2
    assert "the server answers 403" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("url", "file:///etc/a.tar", "begins with https"),
        ("url", "https://a.b/c.rar", "expected the address of an archive"),
        ("sha256", "abc", "sha256"),
        ("sha256", None, "nothing is used unchecked"),
        ("code", "import os", "code"),
    ],
)
def test_a_list_holds_addresses_alone(server, tmp_path, field, value, told):
    server.files["a.tar.gz"] = b"x"
    listed = json.loads(write_sources(tmp_path / "s.json", server).read_text())
    listed["toys"]["files"][0][field] = value
    (tmp_path / "s.json").write_text(json.dumps(listed))
    with pytest.raises(GenlabError, match=told):
        read_sources(tmp_path / "s.json")
    listed["toys"]["files"] = source_of(server).to_dict()["files"]
    listed["toys"]["folder"] = "../up"
    (tmp_path / "s.json").write_text(json.dumps(listed))
    with pytest.raises(GenlabError, match="expected a folder inside the archive"):
        read_sources(tmp_path / "s.json")


def test_the_list_that_ships():
    sources = read_sources()
    assert {"speech_commands", "librispeech_100", "ljspeech", "vctk", "fsdd", "esc50"} <= {*sources}
    for name, source in sources.items():
        assert source.licence and source.attribution and source.page.startswith("https://"), name
        assert all(file.url.startswith("https://") for file in source.files)
    sizes = [file.bytes for file in sources["librispeech_960"].files]
    assert sum(sizes) == sources["librispeech_960"].num_bytes == 61_357_943_031
