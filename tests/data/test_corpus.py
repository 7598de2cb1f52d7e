import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pydantic
import pytest
import soundfile
from bad_audio import tone

from genlab.data import embedded
from genlab.data.corpus import FSDD, AnyCorpus, Embedded, Folder, build_corpus
from genlab.data.manifest import Manifest
from genlab.data.shards import run_shards
from genlab.run.cache import cache_root

CONFIG = Embedded(minutes=0.9)  # three shards


class Stop(BaseException):
    """Stands for Ctrl-C: not an Exception, so nothing may swallow it."""


def test_union_picks_the_class_by_kind():
    adapter = pydantic.TypeAdapter(AnyCorpus)
    assert adapter.validate_json('{"kind": "fsdd", "path": "x"}') == FSDD(path="x")
    assert adapter.validate_json('{"kind": "embedded", "minutes": 2}') == Embedded(minutes=2)
    with pytest.raises(pydantic.ValidationError):
        adapter.validate_json('{"kind": "youtube"}')


def test_cache_root(monkeypatch):
    monkeypatch.delenv("GENLAB_CACHE", raising=False)
    assert cache_root() == Path(".genlab_cache")
    monkeypatch.setenv("GENLAB_CACHE", "somewhere")
    assert cache_root() == Path("somewhere")


def test_interrupted_build_goes_on(tmp_path, monkeypatch):
    rendered = []
    real = embedded.render_clip

    def interrupt(parts, clip, seed):
        rendered.append(clip.id)
        if len(rendered) == 40:
            raise Stop
        return real(parts, clip, seed)

    monkeypatch.setattr(embedded, "render_clip", interrupt)
    with pytest.raises(Stop):
        build_corpus(CONFIG, tmp_path / "a")
    names = sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_dir())
    assert len(names) == 1 and names[0].endswith(".partial")
    assert not list((tmp_path / "a").rglob("manifest.jsonl"))
    first = len(rendered)
    resumed = build_corpus(CONFIG, tmp_path / "a")
    assert len(rendered) - first < len(resumed.clips)  # the finished shards were kept
    monkeypatch.setattr(embedded, "render_clip", real)
    straight = build_corpus(CONFIG, tmp_path / "b")
    assert resumed.clips == straight.clips and resumed.hash() == straight.hash()
    assert all((resumed.audio(c) == straight.audio(c)).all() for c in straight.clips)
    assert not list((tmp_path / "a").glob("*/shards"))


def test_finished_corpus_is_not_rendered_again(tmp_path, monkeypatch):
    config = Embedded(minutes=0.2)
    first = build_corpus(config, tmp_path)
    monkeypatch.setattr(embedded, "predict_parts", lambda *args: pytest.fail("rendered again"))
    assert build_corpus(config, tmp_path).clips == first.clips


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_build_goes_on_and_two_builders_share_one_corpus(tmp_path):
    script = (
        "import sys; from pathlib import Path; from genlab.data.corpus import *;"
        f"print(build_corpus(Embedded(minutes=0.4), Path({str(tmp_path)!r})).hash())"
    )
    command = [sys.executable, "-c", script]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while victim.poll() is None and not list(tmp_path.glob("*.partial/audio/*.flac")):
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = {process.communicate()[0].strip() for process in both}
    assert all(process.returncode == 0 for process in both) and len(hashes) == 1
    manifest = Manifest.load(next(tmp_path.glob("embedded-*")))
    assert manifest.hash() in hashes
    assert all(len(manifest.audio(clip)) == clip.num_samples for clip in manifest.clips)
    assert not list(tmp_path.glob("*.partial"))


def test_import_goes_on_too(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for number in range(150):
        soundfile.write(tmp_path / "in" / f"{number:03d}.wav", tone(0.1), 16_000)
    from genlab.data import folder

    calls = []
    real = folder._convert

    def interrupt(config, root, row, target):
        calls.append(row.path)
        if len(calls) == 140:
            raise Stop
        return real(config, root, row, target)

    monkeypatch.setattr(folder, "_convert", interrupt)
    with pytest.raises(Stop):
        build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache")
    assert len(build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache").clips) == 150
    assert len(calls) < 2 * 150


def test_progress_counts_to_the_total_and_errors_end_the_pool(tmp_path):
    seen = []
    result = run_shards(
        list(range(10)),
        lambda item: item * 2,
        tmp_path / "a",
        items_per_shard=3,
        stage="work",
        progress=lambda *args: seen.append(args),
    )
    assert result == [item * 2 for item in range(10)]
    assert seen[0] == ("work", 0, 10) and seen[-1] == ("work", 10, 10)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)

    def fail(item):
        if item == 4:
            raise ValueError("item 4")
        return item

    with pytest.raises(ValueError, match="item 4"):
        run_shards(list(range(10)), fail, tmp_path / "b", items_per_shard=3, stage="work")
