"""The command line: quick help, an example for every command, one line instead of a traceback for a
user's error.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from genlab.cli import doctor as doctor_module
from genlab.cli import main
from genlab.cli import runs as commands_module
from genlab.cli.extras import EXTRAS
from genlab.cli.parser import build_parser
from genlab.codecs import frozen
from genlab.config.shipped import install_command
from genlab.load import load_experiment
from genlab.machine import memory as host
from genlab.machine.stopping import EXIT_DISK_FULL
from genlab.recognisers import shipped

ROOT = Path(__file__).parents[1]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
KNOWN_ENTROPY = str(ROOT / "configs" / "known_entropy.py")
CODEC = str(ROOT / "configs" / "codec_16khz.py")
COMMANDS = [
    "aot",
    "bench",
    "budget",
    "check",
    "codec",
    "compare",
    "crossover",
    "data",
    "doctor",
    "evaluate",
    "export",
    "init",
    "launch",
    "listen",
    "pull",
    "report",
    "sample",
    "sweep",
    "train",
    "tune",
]

HELP = """
import json, sys, time
from genlab.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    facts = {"code": stop.code, "cpu_s": time.process_time(), "modules": sorted(sys.modules)}
    print(json.dumps(facts), file=sys.stderr)
"""


def commands():
    [group] = [action for action in build_parser()._actions if action.dest == "command"]
    return group.choices


def weights_are_shipped():
    names = (
        ("genlab/codecs/weights", frozen.SHIPPED),
        ("genlab/recognisers/weights", shipped.SHIPPED),
    )
    return all((ROOT / folder / f"{name}.safetensors").is_file() for folder, name in names)


needs_weights = pytest.mark.skipif(
    not weights_are_shipped(), reason="the weights have not been trained yet"
)


def test_help_is_quick_and_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    facts = json.loads(done.stderr)
    assert facts["code"] == 0 and done.stdout.startswith("usage: genlab")
    assert set(COMMANDS) <= set(re.findall(r"^    (\w+)(?: |$)", done.stdout, re.MULTILINE))
    heavy = {"jax", "flax", "numpy", "pydantic", "scipy", "rich", "onnxruntime", "grain"}
    assert heavy.isdisjoint(facts["modules"])
    print(f"genlab --help: {facts['cpu_s']:.3f} s of CPU, {len(facts['modules'])} modules")
    # CPU time from the start of the process, which other processes do not stretch
    assert facts["cpu_s"] < 0.3


def test_the_commands_are_the_promised_ones():
    assert sorted(commands()) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_parses(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"example: genlab {name}")
    arguments = build_parser().parse_args(shlex.split(last.removeprefix("example: genlab ")))
    assert arguments.command == name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_states_every_default(name):
    silent = [
        action.option_strings[0]
        for action in commands()[name]._actions
        if action.option_strings
        and action.nargs != 0
        and action.default not in (None, [], argparse.SUPPRESS)
        and not ("default" in (action.help or "") and str(action.default) in (action.help or ""))
    ]
    assert silent == []


def test_without_a_command_the_help_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    out, err = capsys.readouterr()
    assert stop.value.code == 0 and err == "" and out == build_parser().format_help()


def test_what_stays_on_a_local_disk_refuses_a_bucket(capsys):
    for argv in (["sweep", "run", "page.py", "--out", "gs://lab/x"], ["crossover", "gs://lab/x"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2
        assert "gs://lab/x: expected a path on a local disk" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["report", ""],
        ["listen", " "],
        ["compare", QUICKSTART, "--out", ""],
        ["crossover", "", "x", "--score", "kad"],
    ],
)
def test_a_path_of_nothing_does_not_name_the_current_directory(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "expected a path, got nothing" in capsys.readouterr().err


def refused(capsys, *argv):
    """Run a command that must fail, and return its one line."""
    code = main([str(item) for item in argv])
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == "" and len(err.splitlines()) == 1, err
    assert err.startswith(f"genlab {argv[0]}: ") and "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["compare", "no/such.py"], "no/such.py: no such file; give a config file"),
        (
            ["budget", QUICKSTART, "backbone.widht=64"],
            "backbone.widht: no such field; did you mean 'backbone.width'?",
        ),
        (["budget", QUICKSTART, "backbone.width=wide"], "backbone.width"),
        (["budget", QUICKSTART, "backbone.width"], "expected FIELD=VALUE"),
        (["budget", QUICKSTART, "nothing.here=1"], "nothing: no such table"),
        (["compare", CODEC], "kind 'codec', but this command needs 'compare'"),
        (["sample", QUICKSTART], "kind 'compare', but this command needs 'decoder'"),
        (
            ["train", QUICKSTART, "--arm", "gan"],
            "choose one of its arms: ar, latent_ar, masked, diffusion",
        ),
        (["train", QUICKSTART], "choose one of its arms: ar, latent_ar, masked, diffusion"),
        (
            ["data", QUICKSTART, "data.codec=missing.safetensors"],
            "no weights at missing.safetensors",
        ),
        (["codec", "info", "--codec", "no_such_codec"], "codec 'no_such_codec': no weights at"),
        (["codec", "export", "one"], "expected 2 paths, got 1"),
        (
            ["budget", KNOWN_ENTROPY, "data.num_frames=65"],
            "num_frames=65: longer than the clips of the source",
        ),
        (
            ["budget", KNOWN_ENTROPY, "data.corpus.entrees=9"],
            "data.corpus.entrees: no such field; did you mean 'data.corpus.entries'?",
        ),
        (
            ["budget", KNOWN_ENTROPY, "data.corpus.states=9"],
            "data.corpus: states=9: expected at most entries=8",
        ),
        (["report", QUICKSTART], "expected a run directory"),
        (["evaluate", "no/such/run"], "expected a run directory"),
        (["bench", "ar_trian"], "no such workload"),
        (["bench", "--rounds", "0"], "--rounds 0: expected at least 1"),
        (["bench", "--rounds", "9" * 99], " ...: expected at least 1 and at most 1000000"),
        (["sample", "runs/first", "--prompts", "0"], "--prompts 0: expected at least 1"),
        (["sample", "runs/first", "--prompts", "-1"], "--prompts -1: expected at least 1"),
        (
            ["sample", "runs/first", "--seed", "-1"],
            "--seed -1: expected at least 0 and at most 4294967295",
        ),
        (["sample", "runs/first", "--seed", str(2**32)], "--seed 4294967296: expected at least 0"),
        (
            ["sample", "runs/first", "--keep", "nan:1"],
            "--keep 'nan:1': expected seconds with 0 <= FROM < TO",
        ),
        (
            ["sample", "runs/first", "--keep", "5:1"],
            "--keep '5:1': expected seconds with 0 <= FROM < TO",
        ),
        (["sample", "runs/first", "--keep", "0:inf"], "--keep '0:inf': expected seconds"),
        (["sample", "runs/first", "--keep=-1:1"], "--keep '-1:1': expected seconds"),
        (["sample", "runs/first", "--keep", "1"], "--keep '1': expected FROM:TO in seconds"),
        (["listen", "runs/first", "--prompts", "0"], "--prompts 0: expected at least 1"),
        (["tune", QUICKSTART, "--trials", "1"], "--trials 1: expected at least 2"),
        (["sweep", "run", "page.py", "--slots", "0"], "--slots 0: expected at least 1"),
        (["sweep", "run", "page.py", "--slots", "-3"], "--slots -3: expected at least 1"),
        (["sweep", "list", QUICKSTART], "no such folder; give one that holds pages"),
        (
            ["sweep", "plan", QUICKSTART, "--flops", "1e13,nan"],
            "--flops '1e13,nan': expected different numbers",
        ),
        (
            ["sweep", "plan", QUICKSTART, "--flops", "1e13,1e13"],
            "expected different numbers above zero",
        ),
        (
            ["crossover", "runs/a", "--score", "wer_ctc", "--seeds", "0"],
            "--seeds 0: expected at least 1",
        ),
        (["compare", "a\0b"], "expected UTF-8 text without NUL characters"),
        (["compare", "\udcff.py"], "expected UTF-8 text without NUL characters"),
    ],
    ids=lambda value: (
        ascii(" ".join(value).replace(str(ROOT), ""))[:60] if isinstance(value, list) else ""
    ),
)
def test_a_users_error_is_one_line_and_code_2(capsys, argv, says):
    assert says in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["sample", "x", "--prompts", "x\n\x1b[31m"], r"'x\n\x1b[31m': expected a whole number"),
        (["sample", "x", "--prompts", "9" * 9999], "99 ...: expected a whole number"),
        (["sample", "x", "--prompts", "1_0"], "'1_0': expected a whole number"),
        (["compare"], "the following arguments are required: config; see genlab compare --help"),
        (["nonsense"], "argument COMMAND: invalid choice: 'nonsense'"),
        (
            ["sweep", "run", "page.py", "--nonsense" + "\n" * 99, "z" * 9999],
            "unrecognized arguments: --nonsense",
        ),
    ],
    ids=["control characters", "length", "underscore", "no config", "command", "option"],
)
def test_a_wrong_option_is_one_printable_line_too(capsys, argv, says):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    [line] = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and says in line and line.isprintable() and len(line) < 2200


def test_a_comparison_cannot_be_sampled_but_its_arms_can(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(load_experiment(QUICKSTART).to_dict()))
    assert "train it with `genlab compare`, then name one of arms/ar/seed0" in refused(
        capsys, "sample", tmp_path
    )
    trained = [tmp_path / "arms" / name / "seed0" for name in ("ar", "masked")]
    for directory in trained:
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
    assert f"name one of the trained arms: {trained[0]}, {trained[1]}" in refused(
        capsys, "sample", tmp_path
    )


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("broken.py", "def config(:\n", "SyntaxError"),
        ("empty.py", "x = 1\n", "expected a function config()"),
        (
            "typo.py",
            (
                "from genlab.nets.backbone import BackboneConfig\nconfig = lambda: "
                "BackboneConfig(widht=3)\n"
            ),
            "widht",
        ),
        ("config.json", "{", "config.json: damaged: expected JSON"),
        ("config.json", '{"kind": []}', "kind [], expected one of"),
        (
            "config.json",
            '{"kind": "compare", "kind": "compare"}',
            "field kind: expected once, got 2 times",
        ),
        ("config.json", "[" * 99_999, "config.json: damaged: expected at most 64 levels, got more"),
        ("config.json", '{"kind": "gan"}', "kind 'gan', expected one of"),
        ("config.json", "[1]", "kind None, expected one of"),
        ("notes.txt", "hello", "expected a Python file"),
    ],
)
def test_a_bad_config_file_is_one_line_and_code_2(capsys, tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text)
    assert says in refused(capsys, "budget", path)


def test_a_run_directory_without_config_or_results_says_so(capsys, tmp_path):
    assert "no such file" in refused(capsys, "report", tmp_path)


def test_an_error_of_the_file_system_names_the_file(capsys, monkeypatch):
    def fail(arguments, command):
        raise PermissionError(13, "Permission denied", "runs/x")

    monkeypatch.setattr(commands_module, "doctor", fail)
    assert "runs/x: Permission denied" in refused(capsys, "doctor")


@pytest.mark.parametrize(
    "text", ["No space left on device", "shard 3: RESOURCE: No space left on device [28]"]
)
def test_a_full_disk_has_an_exit_code_of_its_own_however_deep_it_hides(capsys, monkeypatch, text):
    def fail(arguments, command):
        raise ValueError("could not save") from (
            OSError(28, text) if text.startswith("No") else ValueError(text)
        )

    monkeypatch.setattr(commands_module, "doctor", fail)
    assert main(["doctor"]) == EXIT_DISK_FULL
    assert "the disk is full; free some space" in capsys.readouterr().err


@needs_weights
def test_a_missing_recording_is_one_line(capsys, tmp_path):
    assert "missing.wav" in refused(
        capsys, "codec", "roundtrip", tmp_path / "missing.wav", tmp_path / "out.wav"
    )


def test_a_process_prints_the_line_and_nothing_else():
    command = [sys.executable, "-m", "genlab", "compare", "no/such.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1


def test_doctor_says_how_to_get_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    code = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert all(line[:3] in ("ok ", "-- ", "!! ") for line in lines)
    assert code == (1 if any(line.startswith("!!") for line in lines) else 0)
    assert code == 0 or not weights_are_shipped()
    assert any(line.startswith("ok jax: ") for line in lines)
    missing = [line for line in lines if "is not installed" in line]
    assert all("python -m pip install" in line for line in missing)
    assert any(str(tmp_path / "cache") in line for line in lines)


def test_no_two_extras_install_the_same():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names = [frozenset(re.split(r"[><=!~]", entry)[0] for entry in extras[name]) for name in extras]
    assert len(set(names)) == len(names)
    # A package that several extras need is pinned alike in all of them.
    entries = {entry for wanted in extras.values() for entry in wanted}
    assert len({re.split(r"[><=!~]", entry)[0] for entry in entries}) == len(entries)


def test_every_extra_is_explained_by_help_and_doctor(capsys, monkeypatch, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(extra.name for extra in EXTRAS) == sorted(project["optional-dependencies"])
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    found = (
        EXTRAS[0]._replace(name="found", imports=("json",)),
        EXTRAS[0]._replace(name="lost", imports=("no_such",)),
    )
    monkeypatch.setattr(doctor_module, "EXTRAS", (*EXTRAS, *found))
    main(["doctor"])
    told = capsys.readouterr().out
    for argv in (["--help"], ["doctor", "--help"]):
        with pytest.raises(SystemExit):
            main(argv)
        shown = capsys.readouterr().out
        assert all(f"  {extra.name} " in shown and extra.purpose in shown for extra in EXTRAS)
    assert all(f" extra {extra.name} is " in told and extra.purpose in told for extra in EXTRAS)
    assert "ok extra found is installed" in told
    assert "-- extra lost is not installed (" in told and install_command("lost") in told


@needs_weights
def test_budget_prints_a_line_per_arm_that_the_walk_confirms(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    assert main(["budget", QUICKSTART, "data.corpus.minutes=1.0"]) == 0
    out = capsys.readouterr().out
    assert all(f"{arm} " in out for arm in ("ar", "masked", "diffusion"))
    assert "not on this machine" not in out
    monkeypatch.setattr(host, "device_memory_bytes", lambda: 2**20)
    assert main(["budget", QUICKSTART, "data.corpus.minutes=1.0"]) == 0
    told = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split(": ")[1] for line in told] == [
        f"arm '{arm}'" for arm in ("ar", "latent_ar", "masked", "diffusion")
    ]
    assert all("not on this machine" in line and "there are 0.000977 GiB" in line for line in told)


def test_a_run_on_a_known_source_is_held_against_its_entropy(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    small = [
        "budget.steps=2",
        "backbone.width=32",
        "backbone.layers=1",
        "data.corpus.clips=16",
        "data.num_frames=12",
    ]
    assert (
        main(["train", KNOWN_ENTROPY, "--arm", "ar", "--out", str(tmp_path / "run"), *small]) == 0
    )
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    entropy, found = capsys.readouterr().out.splitlines()[-2:]
    assert entropy.startswith(
        "known entropy: 213.8 bits/s; modelling each frame by itself costs 317.3"
    )
    assert (
        found.startswith("exact: ")
        and "on 512 fresh clips" in found
        and found.endswith("not below the source")
    )
    assert main(["data", KNOWN_ENTROPY, "data.corpus.clips=16"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == entropy
    for argv in (
        ["compare", KNOWN_ENTROPY, "--out", tmp_path / "all"],
        ["sample", tmp_path / "run"],
    ):
        assert "tokens that never were audio" in refused(capsys, *argv)


@needs_weights
def test_codec_roundtrip_writes_audio_of_the_same_length(capsys, tmp_path):
    import numpy as np
    import soundfile

    wave = 0.1 * np.sin(np.arange(8000) / 9).astype(np.float32)
    soundfile.write(tmp_path / "in.wav", wave, 16_000)
    assert main(["codec", "roundtrip", str(tmp_path / "in.wav"), str(tmp_path / "out.wav")]) == 0
    assert "25 frames, 4.00 kbit/s" in capsys.readouterr().out
    decoded, rate_hz = soundfile.read(tmp_path / "out.wav")
    assert rate_hz == 16_000 and len(decoded) == 8000
