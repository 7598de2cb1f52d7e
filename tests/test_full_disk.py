"""A full disk while Orbax saves is one line and code 74, not the tracebacks of its threads."""

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


@pytest.mark.skipif(shutil.which("unshare") is None, reason="takes unshare of util-linux")
def test_a_full_disk_while_saving_prints_nothing_of_its_own(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    small = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=256k tmpfs "{disk}" && "$@"',
        "sh",
    ]
    if subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount in a user namespace")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*small, sys.executable, "-c", SAVE, str(disk)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 74, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) < 5, done.stderr[:2000]
