"""A file that a person named is replaced only if genlab wrote it and it says so; what is written is
there whole.
"""

import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from listen_toys import ARMS, make_clips, make_test
from sweep_toys import finish, make_sweep

from genlab import cli
from genlab.cli import sweeps
from genlab.config import GenlabError
from genlab.listen import page
from genlab.listen.ratings import merge_answers
from genlab.nets.weights import load_weights, save_weights
from genlab.run.cache import only_writer
from genlab.run.files import write_json
from genlab.run.names import file_stem
from genlab.run.ownership import refuse_to_replace
from genlab.run.stored import partial_path, write_atomically, write_whole
from genlab.speed import table
from genlab.sweeps.page import expand
from genlab.sweeps.runs import write_page


@pytest.fixture(params=["file", "link", "dangling", "folder"])
def foreign(request):
    """Return a function that puts something of somebody else at a path, and one that says whether
    it is still there.
    """

    def put(path):
        elsewhere = path.parent / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        if request.param == "file":
            path.write_text("# toy notes of mine, with (page.svg)")
        elif request.param == "folder":
            path.mkdir()
        else:
            (elsewhere / "mine").write_text("mine")
            path.symlink_to(elsewhere / ("mine" if request.param == "link" else "nothing"))
        found = describe(path)
        return lambda: describe(path) == found

    def describe(path):
        content = path.read_text() if path.is_file() else None
        return (
            os.path.islink(path),
            path.is_dir(),
            content,
            sorted(os.listdir(path.parent / "elsewhere")),
        )

    return put


def test_weights_replace_nothing_that_is_not_theirs(tmp_path, foreign):
    tree = {"a": np.ones(3, np.float32)}
    for name in ("m.safetensors", "m.json"):
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        is_untouched = foreign(folder / name)
        with pytest.raises(GenlabError, match=rf"{name}: .*(already exists|is a )"):
            save_weights(folder / "m.safetensors", tree, {})
        assert is_untouched()
        assert sorted(os.listdir(folder)) == sorted(["elsewhere", name])
    save_weights(tmp_path / "m.safetensors", tree, {})
    save_weights(tmp_path / "m.safetensors", {"a": np.zeros(3, np.float32)}, {})  # its own
    assert load_weights(tmp_path / "m.safetensors", tree)["a"].sum() == 0


def test_an_export_is_refused_before_the_run_is_read(tmp_path, capsys):
    (tmp_path / "m.json").write_text('{"sha256": "of my own", "pages": 3}')
    assert (
        cli.main(["codec", "export", str(tmp_path / "none"), str(tmp_path / "m.safetensors")]) == 2
    )
    assert "m.json: already exists, and genlab did not make it" in capsys.readouterr().err


def test_an_export_that_was_cut_short_can_be_made_again(tmp_path, monkeypatch):
    replaced = []

    def kill(source, target):
        replaced.append(Path(target).name)
        if len(replaced) == 2:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr("genlab.run.stored.os.replace", kill)
    with pytest.raises(KeyboardInterrupt):
        save_weights(tmp_path / "m.safetensors", {"a": np.ones(3)}, {})
    assert replaced == ["m.json", "m.safetensors"] and os.listdir(tmp_path) == ["m.json"]
    monkeypatch.undo()
    save_weights(tmp_path / "m.safetensors", {"a": np.ones(3)}, {})
    assert sorted(os.listdir(tmp_path)) == ["m.json", "m.safetensors"]


def test_compiled_programs_and_their_numbers_replace_nothing_of_others(
    tmp_path, foreign, monkeypatch
):
    compiled = []
    plan = SimpleNamespace(topology=SimpleNamespace(num_devices=1))
    monkeypatch.setattr(table, "plan_arms", lambda config, topology: {"ar": plan})
    monkeypatch.setattr(
        table, "compile_program", lambda *args: compiled.append(args) or {"fits": True}
    )
    config = table.Comparison.model_construct(batch_size=1)

    def run(**named):
        arguments = SimpleNamespace(
            **({"out": None, "save_executable": None} | named),
            arm=None,
            program="train",
            markdown=True,
            largest_batch=False,
            topology="x",
            config="c",
        )
        monkeypatch.setattr(table, "format_markdown", lambda rows: "")
        return table.report_compiled(config, arguments, "genlab aot")

    for option in ("out", "save_executable"):
        path = tmp_path / option
        is_untouched = foreign(path)
        with pytest.raises(GenlabError, match=f"{option}: "):
            run(**{option: path})
        assert is_untouched() and not compiled
    for _ in range(2):  # its own numbers
        assert run(out=tmp_path / "numbers.json") == 0
    write_whole(tmp_path / "program", pickle.dumps(1))
    with pytest.raises(
        GenlabError, match="program: already exists, and genlab did not make it or cannot tell"
    ):
        run(save_executable=tmp_path / "program")


def test_a_coded_file_replaces_no_recording(tmp_path, foreign, capsys):
    soundfile.write(tmp_path / "in.wav", np.zeros(800), 16_000)
    is_untouched = foreign(tmp_path / "out.wav")
    argv = [
        "codec",
        "roundtrip",
        str(tmp_path / "in.wav"),
        str(tmp_path / "out.wav"),
        "--codec",
        "mulaw",
    ]
    assert cli.main(argv) == 2
    assert "out.wav: " in capsys.readouterr().err and is_untouched()


def test_a_page_is_planned_over_nothing(tmp_path, foreign, capsys):
    is_untouched = foreign(tmp_path / "page.py")
    argv = [
        "sweep",
        "plan",
        "configs/quickstart.py",
        "--flops",
        "1e12",
        "--out",
        str(tmp_path / "page.py"),
    ]
    assert cli.main(argv) == 2
    assert "page.py: " in capsys.readouterr().err and is_untouched()


@pytest.mark.parametrize("name", ["page.md", "page.svg"])
def test_a_card_replaces_no_text_and_no_figure_of_a_person(tmp_path, foreign, name):
    is_untouched = foreign(tmp_path / name)
    with pytest.raises(GenlabError, match=rf"{name}: "):
        sweeps._check_card(tmp_path / "page.py", make_sweep())
    assert is_untouched()


def test_a_card_and_its_figure_are_written_and_written_again(tmp_path):
    page_path, figure = tmp_path / "page.py", tmp_path / "out.svg"
    for content in ("<svg>1</svg>", "<svg>2</svg>"):
        figure.write_text(content)
        sweeps._check_card(page_path, make_sweep())
        card = sweeps._write_card(page_path, "# toy: found\n![What](out.svg)\n", figure)
        assert card.read_text() == "# toy: found\n![What](page.svg)\n"
        assert (tmp_path / "page.svg").read_text() == content
    (tmp_path / "page.md").write_text("# toy: found, without a figure\n")
    with pytest.raises(GenlabError, match=r"page\.svg: already exists, and genlab did not make it"):
        sweeps._check_card(page_path, make_sweep())


def listen(tmp_path, out, monkeypatch):
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    write_json(run_dir / "results.json", {"arms": [], "comparison_key": "0a1b2c3d4e"})
    clips = make_clips(2, ARMS, seconds=0.2)
    monkeypatch.setattr(page, "read_clips", lambda *_: (clips, 16_000))
    monkeypatch.setattr(page.outputs, "read_results", lambda run: {"comparison_key": "0a1b2c3d4e"})
    return page.write_test(
        SimpleNamespace(arms=dict.fromkeys(ARMS)), run_dir, out, ("mushra",), None, 0, None
    )


@pytest.mark.parametrize("name", ["listen.html", "key.json"])
def test_a_listening_test_replaces_no_page_and_no_key(tmp_path, foreign, monkeypatch, name):
    out = tmp_path / "out"
    out.mkdir()
    is_untouched = foreign(out / name)
    with pytest.raises(GenlabError, match=f"{name}: "):
        listen(tmp_path, out, monkeypatch)
    assert is_untouched() and sorted(os.listdir(out)) == sorted(["elsewhere", name])


def test_a_listening_page_without_its_key_is_made_again(tmp_path, monkeypatch):
    listen(tmp_path, tmp_path / "out", monkeypatch)
    (tmp_path / "out" / "key.json").unlink()  # as if it had been killed between the two
    first = (tmp_path / "out" / "listen.html").read_bytes()
    listen(tmp_path, tmp_path / "out", monkeypatch)
    assert (tmp_path / "out" / "listen.html").read_bytes() != first
    assert sorted(os.listdir(tmp_path / "out")) == ["key.json", "listen.html"]


def test_merged_answers_replace_no_notes(tmp_path, foreign, monkeypatch):
    (tmp_path / "key.json").write_bytes(make_test()[0].serialise())
    is_untouched = foreign(tmp_path / "listening.json")
    with pytest.raises(GenlabError, match=r"listening\.json: "):
        merge_answers([], tmp_path)
    assert is_untouched()


def test_the_report_of_a_sweep_writes_nothing_behind_a_link(tmp_path, capsys):
    out, sweep = tmp_path / "out", make_sweep()
    for run in write_page(sweep, out):
        finish(run, out)
    (tmp_path / "mine").mkdir()
    (out / "hparams").symlink_to(tmp_path / "mine")
    with pytest.raises(GenlabError, match="hparams: a link to"):
        sweeps._report(sweep, out, SimpleNamespace(page=tmp_path / "page.py", card=False))
    assert os.listdir(tmp_path / "mine") == []


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x", "x" * 240 + ".json", "漢" * 85])
def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path, name):
    write_atomically(tmp_path / name, "whole")
    assert (tmp_path / name).read_text() == "whole" and os.listdir(tmp_path) == [name]
    other = tmp_path / (name[:-1] + "y")
    assert partial_path(tmp_path / name) != partial_path(other)
    assert len(os.fsencode(partial_path(tmp_path / file_stem(name)).name)) <= 255


def test_what_cannot_be_written_is_named_as_the_person_knows_it(tmp_path, monkeypatch):
    (tmp_path / "old").write_text("old")
    monkeypatch.setattr(
        os, "fsync", lambda number: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
    )
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "old", "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "old"))
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old").read_text() == "old"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "none" / "new", "new")
    assert caught.value.filename == str(tmp_path / "none" / "new")


def test_what_another_machine_is_writing_is_not_tidied_away(tmp_path):
    """A process number of another machine looks dead here; only the lock tells."""
    leftover = tmp_path / ".sweep.json.genlab-999999999.tmp"
    leftover.write_text("half")
    hold = (
        "import sys\nfrom pathlib import Path\nfrom genlab.run.cache import only_writer\n"
        "with only_writer(Path(sys.argv[1])):\n"
        "    Path(sys.argv[1], '.sweep.json.genlab-999999999.tmp').write_text('half')\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "held\n"
        found = []

        def wait():
            with only_writer(tmp_path):
                found.append(leftover.exists())

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert leftover.exists() and not found
        other.stdin.close()
        waiting.join()
    assert found == [False]


def test_a_page_of_a_sweep_waits_for_the_directory(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "genlab.run.cache._lock",
        lambda number: seen.append(os.path.realpath(f"/proc/self/fd/{number}")),
    )
    runs = write_page(make_sweep(), tmp_path / "out")
    assert seen == [str(tmp_path / "out")] and len(runs) == len(expand(make_sweep()))


@pytest.mark.parametrize("place", ["/dev/null", "file", "/proc"])
def test_a_cache_that_cannot_be_written_is_named_by_its_variable(
    tmp_path, monkeypatch, capsys, place
):
    (tmp_path / "file").write_text("mine")
    where = str(tmp_path / place) if place == "file" else place
    monkeypatch.setenv("GENLAB_CACHE", where)
    soundfile.write(tmp_path / "a.wav", np.ones(16_000) / 9, 16_000)
    with pytest.raises(
        GenlabError,
        match=f"GENLAB_CACHE={where}: cannot be written .*; set GENLAB_CACHE to a folder",
    ):
        from genlab.data.corpus import Folder, build_corpus

        build_corpus(Folder(path=str(tmp_path)))


def test_nothing_there_may_be_written(tmp_path):
    refuse_to_replace(tmp_path / "new")
    refuse_to_replace(tmp_path / "none" / "new")
    assert list(tmp_path.iterdir()) == []  # asking makes nothing
