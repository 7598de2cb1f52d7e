"""The lines of `genlab bench` at toy size. No time is asserted: tests run on busy machines."""

import json
import math

import pytest

from genlab.config import GenlabError
from genlab.speed.bench import WORKLOADS, run_workloads

KEYS = ["workload", "ours_s", "peer", "peer_s", "ratio", "shape", "dtype", "threads"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_gives_one_line_of_the_stated_shape(name):
    [line] = run_workloads((name,), rounds=2, quick=True)
    assert list(line) == KEYS
    assert (
        line["workload"] == name
        and line["shape"]
        and line["dtype"] == "float32"
        and line["threads"] >= 1
    )
    assert math.isfinite(line["ours_s"]) and line["ours_s"] > 0
    fields = (line["peer"], line["peer_s"], line["ratio"])
    assert all(field is None for field in fields) or (
        isinstance(line["peer"], str) and min(fields[1:]) > 0
    )
    assert json.loads(json.dumps(line)) == line


def test_the_loader_says_which_share_of_training_was_waiting():
    [line] = run_workloads(("data_loader",), rounds=3, quick=True)
    share = float(line["shape"].split("waited for ")[1].split("%")[0])
    assert 0 <= share <= 100


def test_unknown_workloads_and_no_rounds_are_refused():
    with pytest.raises(GenlabError, match="ar_trian: no such workload, choose from ar_train_step"):
        list(run_workloads(("ar_trian",)))
    with pytest.raises(GenlabError, match="rounds 0"):
        list(run_workloads(("ar_sample",), rounds=0))
