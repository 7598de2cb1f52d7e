"""Corpora and token stores that one machine builds and others find in a bucket."""

import json

import pytest
from bucket_server import BUCKET, serve_bucket
from codec_toys import LoudnessUnits, make_frozen, make_manifest

from genlab.codecs import cache
from genlab.codecs.cache import encode_corpus
from genlab.config import GenlabError
from genlab.data import embedded
from genlab.data.corpus import Embedded, build_corpus
from genlab.data.manifest import MANIFEST_NAME
from genlab.data.store import INFO_NAME
from genlab.machine import hosts
from genlab.run import shared

CONFIG = Embedded(minutes=0.3)


@pytest.fixture(scope="module")
def server():
    with serve_bucket() as environ:
        yield environ


@pytest.fixture
def url(server, tmp_path, monkeypatch):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GENLAB_SHARED_CACHE", f"gs://{BUCKET}/{tmp_path.name}")
    return f"gs://{BUCKET}/{tmp_path.name}"


def content(root):
    """Every file under a directory but locks, with its bytes."""
    paths = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def fail(*args, **more):
    raise AssertionError("it was made again")


def test_a_corpus_is_built_once(url, tmp_path, monkeypatch):
    built = build_corpus(CONFIG, tmp_path / "here")
    monkeypatch.setattr(embedded, "build_embedded", fail)
    found = build_corpus(CONFIG, tmp_path / "there")
    assert found.hash() == built.hash() and len(found.clips) > 0
    assert content(found.root) == content(built.root) and found.root.is_relative_to(
        tmp_path / "there"
    )
    assert (found.audio(found.clips[0]) == built.audio(built.clips[0])).all()
    assert not list((tmp_path / "there").glob("*fetched*"))


def test_a_corpus_is_encoded_once(url, tmp_path, monkeypatch):
    manifest, codec, units = make_manifest(tmp_path / "corpus", 12), make_frozen(), LoudnessUnits()
    encoded = encode_corpus(manifest, codec, units, tmp_path / "here")
    monkeypatch.setattr(cache, "encode_part", fail)
    found = encode_corpus(manifest, codec, units, tmp_path / "there")
    assert found.info == encoded.info and content(found.directory) == content(encoded.directory)
    assert (found.clip(3).codes == encoded.clip(3).codes).all()


def test_half_a_directory_is_not_taken_but_completed(url, tmp_path):
    manifest, codec, units = make_manifest(tmp_path / "corpus", 12), make_frozen(), LoudnessUnits()
    encoded = encode_corpus(manifest, codec, units, tmp_path / "here")
    files, there = shared.open_bucket(), f"{url}/{encoded.directory.name}"
    whole = sorted(files.find(there))
    files.rm_file(f"{there}/{INFO_NAME}")
    again = encode_corpus(manifest, codec, units, tmp_path / "there")
    assert again.directory != encoded.directory and json.loads(
        (again.directory / INFO_NAME).read_text()
    )
    assert sorted(files.find(there)) == whole


def test_what_was_made_before_is_shared_too(url, tmp_path, monkeypatch):
    monkeypatch.delenv("GENLAB_SHARED_CACHE")
    built = build_corpus(CONFIG, tmp_path)
    monkeypatch.setenv("GENLAB_SHARED_CACHE", url)
    build_corpus(CONFIG, tmp_path)
    assert len(shared.open_bucket().find(f"{url}/{built.root.name}")) == len(content(built.root))


def test_only_the_leader_writes(url, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "is_leader", lambda: False)
    built = build_corpus(CONFIG, tmp_path / "here")
    assert (built.root / MANIFEST_NAME).exists() and not shared.open_bucket().find(url)


def test_a_failing_bucket_is_told_and_leaves_nothing_half_done(url, tmp_path, monkeypatch):
    build_corpus(CONFIG, tmp_path / "here")
    whole, real = content(tmp_path / "here"), shared.open_bucket

    class Failing:
        def __getattr__(self, name):
            if name == "get":
                raise OSError("connection lost\nwith details")
            return getattr(real(), name)

    monkeypatch.setattr(shared, "open_bucket", Failing)
    with pytest.raises(
        GenlabError, match=rf"^{url}/embedded-\w+: cannot be read: connection lost; [^\n]*$"
    ):
        build_corpus(CONFIG, tmp_path / "there")
    assert not list((tmp_path / "there").rglob(MANIFEST_NAME))
    monkeypatch.setattr(shared, "open_bucket", real)
    build_corpus(CONFIG, tmp_path / "there")
    assert content(tmp_path / "there") == whole


@pytest.mark.parametrize(
    "content", [b"", b"\r", b"RIFF\r\n", b"a\n--==0==--\r\nb\r", bytes(range(256)) * 2048 + b"\r"]
)
def test_every_byte_arrives(url, content, monkeypatch):
    monkeypatch.setattr(shared, "CHUNK_BYTES", 2**18)
    files = shared.open_bucket()
    shared.put(files, content, f"{url}/object")
    assert files.cat_file(f"{url}/object") == content


@pytest.mark.parametrize("value", ["s3://bucket/cache", "/a/directory", "gs://"])
def test_a_shared_cache_is_in_a_bucket(value, tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_SHARED_CACHE", value)
    with pytest.raises(GenlabError, match=r"GENLAB_SHARED_CACHE=.*expected gs://BUCKET/PATH"):
        build_corpus(CONFIG, tmp_path)


def test_without_one_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("GENLAB_SHARED_CACHE", raising=False)
    monkeypatch.setattr(shared, "open_bucket", fail)
    assert build_corpus(CONFIG, tmp_path).clips
