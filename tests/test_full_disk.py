"""A full disk, or one that cannot be written to, is one line and its code: no tracebacks, nothing
half-written, nothing lost.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAVE = """
import sys
from pathlib import Path
import jax
from genlab.machine.stopping import is_disk_full
from genlab.run.checkpoint import CheckpointWriter

run_dir = Path(sys.argv[1]) / "run"
run_dir.mkdir()
writer = CheckpointWriter(run_dir, keep=1)
try:
    writer.save(1, {"model": {"a": jax.random.normal(jax.random.key(0), (1 << 20,))}}, {})
    writer.close()
except Exception as error:
    sys.exit(74 if is_disk_full(error) else 1)
"""
# The trained codec is a toy; all else is the command.
EXPORT = """
import os
import sys
from pathlib import Path
from codec_toys import make_codec
from genlab import train
from genlab.cli import main

disk, config = sys.argv[1:]
trained = []
train.load_trained = lambda *args: trained.append(1) or make_codec()
target = Path(disk) / "own.safetensors"
code = main(["codec", "export", config, str(target)])
print(len(trained), sorted(os.listdir(disk)))
sys.exit(code)
"""


def run_on_a_disk(disk, options, script, *arguments):
    """Run a script with a small file system at `disk`, mounted with these options."""
    if shutil.which("unshare") is None:
        pytest.skip("takes unshare of util-linux")
    disk.mkdir()
    mount = f'mount -t tmpfs -o {options} tmpfs "{disk}" && "$@"'
    small = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount in a user namespace")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [*small, sys.executable, "-c", script, str(disk), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_full_disk_while_saving_prints_nothing_of_its_own(tmp_path):
    done = run_on_a_disk(tmp_path / "disk", "size=256k", SAVE)
    assert done.returncode == 74, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) < 5, done.stderr[:2000]


@pytest.mark.parametrize(
    ("options", "code", "told", "trained"),
    [
        ("size=16k", 74, "the disk is full; free some space, then the same command resumes", 1),
        ("ro", 2, "may not be written to; name a file in another folder", 0),
    ],
)
def test_an_export_that_cannot_be_written_is_one_line_and_leaves_nothing(
    tmp_path, options, code, told, trained
):
    disk = tmp_path / "disk"
    done = run_on_a_disk(disk, options, EXPORT, ROOT / "configs/codec_16khz.py")
    assert done.returncode == code, done.stderr[-2000:]
    [line] = done.stderr.splitlines()
    assert line.startswith("genlab codec: ") and line.endswith(told), line
    assert done.stdout == f"{trained} []\n", "refused before the model is read, if it can be"
