"""What errors and notes advise: plain words, whole names, and the fix."""

import gzip
import sys

import numpy as np
import pytest
import soundfile
from report_toys import beat_floors, make_audit

from genlab.cli import main
from genlab.config import GenlabError
from genlab.data.audio import read_wave
from genlab.data.corpus import Folder, build_corpus
from genlab.data.folder import list_folder
from genlab.data.table import is_table
from genlab.load import load_experiment
from genlab.watch.progress import Progress

QUICKSTART = "configs/quickstart.py"
TONE = np.sin(np.arange(16_000) / 9) / 3


def refused(capsys, *argv):
    try:
        code = main([*map(str, argv)])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and len(err.splitlines()) == 1, err
    return err.strip()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["compare", QUICKSTART, "--ot", "x"],
            "genlab compare: unrecognized arguments: --ot x; did you mean '--out'?; see genlab "
            "compare --help",
        ),
        (
            ["budget", QUICKSTART, "--zzzzzz"],
            "genlab budget: unrecognized arguments: --zzzzzz; see genlab budget --help",
        ),
        (["comapre", QUICKSTART], "; did you mean 'compare'?; see genlab --help"),
        (
            ["sample", "runs/nothing"],
            "genlab sample: runs/nothing: no such directory; expected a run directory, for "
            "example runs/first/arms/ar/seed0",
        ),
        (
            ["report", "test"],
            "test: expected a run directory, for example runs/first; did you mean 'tests'?",
        ),
        (
            ["budget", "quikstart"],
            "; did you mean 'quickstart'?",
        ),
        (["budget", "runs/nothing"], "or a name such as quickstart"),
        (
            ["data", "chekc", "quickstart"],
            "; did you mean 'check quickstart'",
        ),
        (["data", "quickstart", "nothing"], "override 'nothing': expected FIELD=VALUE"),
        (["sweep", "run", "x.py"], "`genlab sweep list FOLDER` shows those in a folder"),
        (["sweep", "lst"], "; did you mean 'list'?; see genlab sweep --help"),
        (["codec", "exprot"], "; did you mean 'export'?; see genlab codec --help"),
        (
            ["train", QUICKSTART],
            "--arm is missing: this config is a comparison, choose one of its arms: ar, "
            "latent_ar, masked, diffusion; for example --arm ar",
        ),
        (
            ["budget", QUICKSTART, "data.corpus.kind=foldr"],
            "data.corpus.kind: got 'foldr', expected one of 'embedded', 'folder', ",
        ),
        (["budget", QUICKSTART, "data.corpus.kind=foldr"], "; did you mean 'folder'?"),
        (["budget", QUICKSTART, "arms.ar.decoder.kind=maksed"], "; did you mean 'masked'?"),
        (
            ["budget", QUICKSTART, "budget.mode=iso_step"],
            "mode='iso_step' takes steps and not train_flops: the other one follows from it; set "
            "budget.steps=1000 budget.train_flops=null, or budget.mode=iso_flop "
            "budget.train_flops=8e+12 budget.steps=null",
        ),
        (
            ["budget", QUICKSTART, "budget.steps=100"],
            "budget.train_flops=1e13 budget.steps=null, or budget.mode=iso_step budget.steps=100 "
            "budget.train_flops=null",
        ),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(capsys, argv, line):
    assert line in refused(capsys, *argv)


def test_the_modes_that_are_advised_are_taken():
    told = ("budget.mode=iso_step", "budget.steps=100", "budget.train_flops=null")
    budget = load_experiment(QUICKSTART, told).budget
    assert (budget.mode, budget.steps, budget.train_flops) == ("iso_step", 100, None)
    told = ("budget.mode=iso_flop", "budget.train_flops=8e+12", "budget.steps=null")
    budget = load_experiment(QUICKSTART, told).budget
    assert (budget.mode, budget.steps, budget.train_flops) == ("iso_flop", None, 8e12)


@pytest.mark.parametrize(
    ("text", "found"),
    [("x = 1\n", ""), ("def config():\n    return 3\n", "; it returned int")],
)
def test_a_file_without_a_config_is_told_the_classes(tmp_path, text, found):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(GenlabError) as caught:
        load_experiment(tmp_path / "own.py")
    assert str(caught.value).endswith(
        "expected a function config() that returns one of genlab.experiment.Comparison, "
        "genlab.experiment.DecoderRun, genlab.runs.CodecRun, genlab.runs.RecogniserRun" + found
    )


def test_a_budget_below_one_step_says_how_far():
    from genlab.experiment import Budget
    from genlab.fairness.budget import solve_steps

    with pytest.raises(
        GenlabError, match=r"needs 1\.5e\+08 a step, 1\.5e\+05 times the whole budget"
    ):
        solve_steps(Budget(train_flops=1000.0), "ar", 1.5e8)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("table.csv", "path,text\na.wav,hello\n", True),
        ("all.tsv", "file_name\ttext\na.wav\thello\n", True),
        ("x.jsonl", '{"audio_filepath": "a.wav"}\n', True),
        ("x.json", '[{"path": "a.wav"}]', True),
        ("x.csv.gz", gzip.compress(b"path,text\n", mtime=0), True),
        ("x.csv", "\ufeffPath;Text\n", True),
        ("pitch.csv", "time,f0\n0.0,100\n", False),
        ("x.json", '{"a": 1}', False),
        ("x.csv.gz", b"no gzip", False),
        ("notes.txt", "path,text\n", False),
        ("empty.csv", "", False),
    ],
)
def test_a_table_among_the_recordings_is_noted(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert is_table(path) is expected
    soundfile.write(tmp_path / "a.wav", TONE, 16_000)
    notes = list_folder(Folder(path=str(tmp_path))).notes
    told = f"table not read: set data.corpus.manifest={name} to use its texts and speakers"
    assert (told in notes) is expected


def test_hidden_files_are_counted(tmp_path):
    for name in (".a.wav", ".DS_Store", ".bin/b.wav", "c/.d.wav", "c/e.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = list_folder(Folder(path=str(tmp_path)))
    assert [row.path for row in listing.rows] == ["c/e.wav"]
    assert listing.notes == [
        "3 hidden files and folders not read (for example .a.wav): the name begins with a dot"
    ]
    for name in (".a.wav", "c/.d.wav"):
        (tmp_path / name).unlink()
    assert list_folder(Folder(path=str(tmp_path))).notes == [
        "1 hidden file or folder not read (for example .bin): the name begins with a dot"
    ]


def test_a_long_recording_names_the_whole_field(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, 16_000)
    with pytest.raises(
        GenlabError, match=r"the limit is data\.corpus\.max_clip_s=0\.5: cut it or raise that"
    ):
        build_corpus(Folder(path=str(tmp_path), max_clip_s=0.5), tmp_path / "cache")


def test_a_corpus_is_summed_up_once_a_command(tmp_path, capsys):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", TONE, 16_000)
    (tmp_path / "c.wav").write_bytes(b"broken")
    config = Folder(path=str(tmp_path), valid_fraction=0, test_fraction=0)
    for _ in range(2):  # each a command, which has a progress of its own
        with Progress() as progress:
            for _ in range(3):
                build_corpus(config, tmp_path / "cache", progress)
        assert capsys.readouterr().err.count("c.wav: ") == 1


def test_damaged_mp3_prints_nothing_of_its_own(tmp_path, capfd):
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.tile(TONE, 4), 16_000)
    content = bytearray(path.read_bytes())
    for place in range(600, len(content), 97):
        content[place] ^= 0xFF
    path.write_bytes(content)
    try:
        read_wave(path)
    except GenlabError as error:
        assert "a.mp3" in str(error)
    print("heard", file=sys.stderr)
    assert capfd.readouterr().err == "heard\n"


def test_one_seed_names_no_winner_in_plain_words():
    from genlab.report.answer import find_answer

    scores = {"wer_ctc": {"value": 0.5, "low": 0.4, "high": 0.6, "seeds": 1, "direction": "lower"}}
    arms = [{"name": name, "family": name, "scores": scores} for name in ("ar", "masked")]
    arms += [{"name": "real", "family": "real", "scores": scores | {"wer_ctc": {"value": 0.01}}}]
    differences = beat_floors(("ar", "masked"), "wer_ctc")
    results = {"arms": arms, "audit": {"wer_ctc": make_audit()}, "differences": differences}
    assert find_answer(results, {"stamp": "controlled"}).headline == (
        "No winner is named: there is 1 training seed per arm. It takes at least 3 to tell a "
        "difference between families from a lucky initialisation, and to estimate how many more "
        "would settle it."
    )
