"""The SkyPilot task, read by SkyPilot's own parser; nothing is started. Needs `pip install -e
'.[cloud]'`.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_task_is_a_spot_slice_that_resumes():
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml(str(ROOT / "sweeps" / "cloud" / "tpu.yaml"))
    [resources] = task.resources
    assert resources.accelerators == {"tpu-v5litepod-16": 1} and resources.use_spot
    # stopping.EXIT_RESUME; jax is not at hand here
    assert resources.job_recovery["recover_on_exit_codes"] == [75]
    assert (ROOT / task.envs["CONFIG"]).exists()
    assert 'genlab compare "$CONFIG" --out "gs://$BUCKET/$RUN"' in task.run and task.envs["BUCKET"]
