"""Encoding on several workers: the same bytes as one process makes, whoever is killed."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from bucket_server import BUCKET, serve_bucket
from codec_toys import LoudnessUnits, make_manifest
from corpus_toys import make_small_comparison, write_corpus
from encode_toys import CLIPS, Broken, Toy

from genlab.cli.encode import ConfigMaterial
from genlab.codecs import beam, cache, pieces
from genlab.codecs.beam import RUNNERS, DataflowEngine, LocalEngine, check_beam, encode_on
from genlab.codecs.cache import encode_corpus, pieces_directory, store_directory
from genlab.codecs.pieces import PieceEncoder
from genlab.config import GenlabError
from genlab.data.manifest import Manifest
from genlab.run.cache import cache_root

TESTS = Path(__file__).parents[1]
WHY = "Apache Beam is not installed; it needs an environment of its own"
LIMIT_S = 600
MARK = "GENLAB_TEST_OF_BEAM"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    make_manifest(root, CLIPS, seconds=(0.1, 0.2)).save(root)
    return root


@pytest.fixture
def importable(monkeypatch, tmp_path):
    paths = [str(TESTS.parent), str(TESTS)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv(MARK, str(tmp_path))


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name[0] != "."}


def workers(mark):
    """Return the processes of Beam's workers that this test started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (
                b"sdk_worker_main" in (path / "cmdline").read_bytes()
                and f"{MARK}={mark}".encode() in (path / "environ").read_bytes()
            ):
                found.append(int(path.name))
        except OSError:
            pass
    return found


def wait_for(what):
    until = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_pieces_that_workers_made_are_not_made_again(root, tmp_path, monkeypatch):
    toy = Toy(str(root))
    material = toy()
    whole = encode_corpus(*material, tmp_path / "whole")
    directory = store_directory(*material, tmp_path)
    place = pieces_directory(directory)
    encoder = PieceEncoder(toy, str(place), directory.name)
    encoder.check_place()
    assert [encoder(number) for number in (3, 1)] == [3, 1]
    assert encoder.has(1) and not encoder.has(0)
    (place / "part-00003.array_record").write_bytes(b"damaged")
    units = LoudnessUnits()
    store = encode_corpus(material.manifest, material.codec, units, tmp_path)
    assert units.num_waves == 128 + 128 + 32  # 0 and 2, and the damaged one
    assert content(store.directory) == content(whole.directory)
    # A worker that outlived its job finds no folder to write to.
    with pytest.raises(GenlabError, match="cannot be written"):
        encoder(0)
    assert content(store.directory) == content(whole.directory)


def test_the_order_of_the_clips_is_found_once(root, tmp_path, monkeypatch):
    """To sort a million clips takes as long as to encode a piece of them."""
    toy, asked, sort = Toy(str(root), 300), [], Manifest.in_record_order

    def count(manifest):
        asked.append(1)
        return sort(manifest)

    encoder = PieceEncoder(toy, str(tmp_path), store_directory(*toy(), tmp_path).name)
    monkeypatch.setattr(Manifest, "in_record_order", count)
    assert [encoder(number) for number in (2, 0, 1)] == [2, 0, 1] and asked == [1]


def test_a_piece_is_there_once_its_sums_are_and_is_made_once(root, tmp_path, monkeypatch):
    toy = Toy(str(root), 140)
    encoder = PieceEncoder(toy, str(tmp_path), store_directory(*toy(), tmp_path).name)
    renamed, replace = [], os.replace

    def fill_the_disk(source, target):
        renamed.append(Path(target).suffix)
        if len(renamed) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(pieces, "os", SimpleNamespace(replace=fill_the_disk, environ=os.environ))
    with pytest.raises(OSError, match="No space left"):
        encoder(1)
    # The sums come last: what a dead worker left is no piece.
    assert renamed == [".array_record", ".json"] and not encoder.has(1)
    monkeypatch.undo()
    assert encoder(1) == 1 and encoder.has(1)
    monkeypatch.setattr(pieces, "encode_part", None)
    assert encoder(1) == 1
    path = tmp_path / "part-00001.array_record"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert not encoder.has(1)


@pytest.mark.parametrize(
    ("made", "runs", "told"),
    [
        ([1, 2, 3, 4], 5, ""),  # each death comes after a piece
        ([0, 0, 0], 3, "no piece"),  # three in a row come after none
        ([0, 0, 1, 1, 1], 5, "no piece"),
    ],
)
def test_workers_that_die_are_replaced_unless_nothing_is_made(
    tmp_path, monkeypatch, made, runs, told
):
    encoder, codes = PieceEncoder(Toy("none"), str(tmp_path), "x"), []

    def run_once(*_):
        if len(codes) < len(made):
            for number in range(made[len(codes)]):
                for suffix in ("json", "array_record"):
                    (tmp_path / f"part-{number:05d}.{suffix}").touch()
            codes.append(beam.WORKER_DIED)
            return beam.WORKER_DIED, "said before\nno piece"
        codes.append(0)
        return 0, ""

    monkeypatch.setattr(beam, "_run_once", run_once)
    if told:
        with pytest.raises(GenlabError, match=told):
            beam._make_pieces(encoder, [0, 1], LocalEngine(2), None)
    else:
        beam._make_pieces(encoder, [0, 1], LocalEngine(2), None)
    assert len(codes) == runs


def test_an_error_of_a_worker_ends_it_at_once_with_the_last_reason(tmp_path, monkeypatch):
    ran = []
    log = "GenlabError: first\nnoise\nConfigError: codec: gone [while running 'encode']\nmore\n"

    def run_once(*_):
        ran.append(1)
        return 1, log

    monkeypatch.setattr(beam, "_run_once", run_once)
    encoder = PieceEncoder(Toy("none"), str(tmp_path), "x")
    with pytest.raises(GenlabError, match=r"^codec: gone$"):
        beam._make_pieces(encoder, [0], LocalEngine(2), None)
    assert ran == [1] and not beam._count(encoder)
    (tmp_path / "part-00000.json").touch()
    (tmp_path / "part-00000.array_record").touch()
    assert beam._count(encoder) == 1


def test_a_worker_with_another_corpus_is_refused(root, tmp_path):
    encoder = PieceEncoder(Toy(str(root), 7), str(tmp_path), "tokens-a-b")
    with pytest.raises(GenlabError, match=r"worker: its corpus, .* expected tokens-a-b"):
        encoder(0)
    assert not list(tmp_path.iterdir())


def test_machines_that_share_a_bucket_put_pieces_there(root, tmp_path, monkeypatch):
    toy = Toy(str(root), 140)
    material = toy()
    whole = encode_corpus(*material, tmp_path / "whole")
    directory = store_directory(*material, tmp_path)
    with serve_bucket(None) as environ:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GENLAB_SHARED_CACHE", f"gs://{BUCKET}/shared")
        flags = ("--project=p", "--region=r", f"--temp_location=gs://{BUCKET}/tmp")
        place = DataflowEngine(2, flags).place(pieces_directory(directory))
        encoder = PieceEncoder(toy, place, directory.name)
        encoder.check_place()
        for number in (1, 0, 1):
            encoder(number)
        encoder.collect(directory, [0, 1])
        encoder.forget()
        assert not encoder.has(0)
        monkeypatch.setattr(cache, "encode_part", None)
        store = encode_corpus(*material, tmp_path)
    assert content(store.directory) == content(whole.directory)


def test_a_bucket_that_cannot_be_written_is_refused_before_a_worker_starts(tmp_path, monkeypatch):
    with serve_bucket(None) as environ:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        encoder = PieceEncoder(Toy(str(tmp_path)), "gs://nobodys/x/pieces", "tokens-a-b")
        with pytest.raises(GenlabError, match="gs://nobodys/x/pieces: cannot be written"):
            encoder.check_place()


def test_a_worker_opens_what_the_config_encodes(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    rows = [("ann", "take it away", "train"), ("ann", "no rain today", "train")]
    rows += [("ann", "five old men", "valid"), ("ann", "we sat on a wall", "test")]
    data = make_small_comparison(write_corpus(tmp_path / "audio", rows)).data
    config = make_small_comparison(data.corpus, "data.num_frames=40")
    manifest = data.build_audio()
    opens = ConfigMaterial(json.dumps(config.to_dict()), manifest.root.name)
    material = pickle.loads(pickle.dumps(opens))()
    assert material.manifest.root == manifest.root
    assert store_directory(*material, cache_root()) == config.data.find_store()


DATAFLOW = ("--project=p", "--region=us-central1", "--temp_location=gs://b/tmp")


@pytest.mark.parametrize("missing", range(3))
def test_dataflow_without_what_it_asks_for_is_refused(missing, monkeypatch):
    monkeypatch.setenv("GENLAB_SHARED_CACHE", "gs://b/shared")
    name = DATAFLOW[missing].partition("=")[0]
    words = (*DATAFLOW[:missing], *DATAFLOW[missing + 1 :])
    with pytest.raises(GenlabError, match=f"{name} is missing; give it as --beam="):
        DataflowEngine(2, words).place(Path("x"))
    assert DataflowEngine(2, DATAFLOW).place(Path("x")) == "gs://b/shared/x"
    monkeypatch.delenv("GENLAB_SHARED_CACHE")
    with pytest.raises(GenlabError, match="set GENLAB_SHARED_CACHE=gs://BUCKET/PATH"):
        DataflowEngine(2, DATAFLOW).place(Path("x"))


def test_beam_reads_the_options_as_they_are_meant():
    options = pytest.importorskip("apache_beam.options.pipeline_options", reason=WHY)
    page = (TESTS.parent / "docs/encoding.md").read_text(encoding="utf-8")
    engine = DataflowEngine(3, tuple(re.search(r"--beam='(.+?)'", page, re.DOTALL)[1].split()))
    check_beam(engine)
    found = options.PipelineOptions(engine.flags)
    workers = found.view_as(options.WorkerOptions)
    assert (workers.num_workers, workers.max_num_workers) == (3, 3)
    assert workers.machine_type == "n2-standard-2"
    assert found.view_as(options.SetupOptions).sdk_location == "container"
    assert workers.sdk_container_image == "us-central1-docker.pkg.dev/PROJECT/genlab/worker:1"
    assert found.view_as(options.DebugOptions).number_of_worker_harness_threads == 1
    cloud = found.view_as(options.GoogleCloudOptions)
    assert (cloud.project, cloud.region) == ("PROJECT", "us-central1")
    assert cloud.temp_location == "gs://BUCKET/tmp"
    assert found.view_as(options.StandardOptions).runner == "DataflowRunner"
    direct = options.PipelineOptions(LocalEngine(2).flags).view_as(options.DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == (2, "multi_processing")
    with pytest.raises(GenlabError, match="--beam --regoin=x: no option of Apache Beam"):
        check_beam(LocalEngine(2, ("--regoin=x",)))
    with pytest.raises(GenlabError, match=r"--beam: .*--num_workers"):
        check_beam(LocalEngine(2, ("--num_workers=many",)))


def test_without_beam_the_install_is_named(monkeypatch):
    monkeypatch.setattr(beam.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GenlabError, match=r"--runner: needs Apache Beam; run `.*beam.*`"):
        check_beam(LocalEngine(2))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--workers", "0"], "--workers 0: expected at least 1 and at most 4000"),
        (["--runner", "flink"], "argument --runner: invalid choice: 'flink'"),
        (["--beam", "'open"], "No closing quotation"),
        (["more"], "encode: expected one config"),
    ],
)
def test_slips_of_the_command_are_told_in_one_line(words, told, capsys):
    from genlab.cli import main

    try:
        code = main(["data", "encode", "quickstart", *words])
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr().err
    assert code == 2 and told in said and said.count("\n") == 1
    assert set(RUNNERS) == {"direct", "dataflow"}


def test_what_a_worker_cannot_do_is_told_in_one_line(importable, root, tmp_path):
    pytest.importorskip("apache_beam", reason=WHY)
    toy = Toy(str(root))
    with pytest.raises(GenlabError, match=r"^codec: its weights are somewhere else$"):
        encode_on(LocalEngine(1), Broken(str(root)), toy(), tmp_path)


def test_killed_workers_and_a_killed_launcher_change_no_byte(importable, root, tmp_path, capfd):
    pytest.importorskip("apache_beam", reason=WHY)
    toy, there = Toy(str(root), pause_s=0.5), tmp_path / "there"
    material = Toy(str(root))()
    whole = encode_corpus(*material, tmp_path / "whole")
    pieces = pieces_directory(store_directory(*material, there))
    # The launcher dies while it has made a piece; its workers do not outlive it.
    code = (
        "import sys; from pathlib import Path; from encode_toys import Toy\n"
        "from genlab.codecs.beam import LocalEngine, encode_on\n"
        "toy = Toy(sys.argv[1], pause_s=0.5)\n"
        "encode_on(LocalEngine(2), toy, toy(), Path(sys.argv[2]))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code, str(root), str(there)])
    wait_for(lambda: list(pieces.glob("part-*.json")) or launcher.poll() is not None)
    launcher.kill()
    assert launcher.wait() == -signal.SIGKILL
    wait_for(lambda: not workers(tmp_path))
    kept = {path: path.stat().st_mtime_ns for path in pieces.glob("part-*.json")}
    assert 0 < len(kept) < 4 and not (pieces.parent / whole.directory.name).exists()
    # One worker dies; others take its place.
    seen = []

    def kill_one():
        wait_for(lambda: workers(tmp_path))
        seen.extend(path.stat().st_mtime_ns == kept[path] for path in kept)
        os.kill(workers(tmp_path)[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    store = encode_on(LocalEngine(2), toy, material, there)
    killer.join()
    assert seen and all(seen)
    assert "a worker died" in capfd.readouterr().err
    assert content(store.directory) == content(whole.directory)
    assert not pieces.exists()
    # It is whole: nothing starts again.
    assert encode_on(LocalEngine(2), toy, material, there).info == whole.info
