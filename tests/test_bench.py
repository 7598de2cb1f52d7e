"""The lines of `genlab bench` at toy size. No time is asserted: tests run on busy machines."""

import contextlib
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from genlab.config import GenlabError
from genlab.decoders.ar import ARConfig
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.cost import train_flops
from genlab.decoders.task import Task
from genlab.speed import turns
from genlab.speed.bench import DECODERS, WORKLOADS, Workload, format_line, run_workloads
from genlab.speed.profile import Ran, add_waits, divide, profile
from genlab.speed.rate import MatrixProduct
from genlab.speed.size import QUICK

RATE = ["flops", "flops_per_s", "product", "product_flops_per_s", "rate_share"]
KEYS = ["workload", "size", "ours_s", "peer", "peer_s", "ratio", *RATE, "shape", "dtype", "threads"]
# Of the largest product at toy size: 2 clips of 16 frames in training, 1 in sampling; the delay of
# 2 levels adds a frame, and a decoder that goes step by step sees one.
ROWS = {
    "ar_train_step": 34,
    "masked_train_step": 32,
    "diffusion_train_step": 32,
    "ar_sample": 1,
    "masked_sample": 16,
    "diffusion_sample": 16,
}


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
    assert line["size"] == "toy"
    if name in DECODERS:
        assert line["product"] == f"{ROWS[name]}x32x{2 * QUICK.backbone.ffn_width}"
        assert line["rate_share"] > 0
    else:
        assert [line[key] for key in RATE] == [None] * len(RATE)


def test_the_loader_says_which_share_of_training_was_waiting():
    [line] = run_workloads(("data_loader",), rounds=3, quick=True)
    share = float(line["shape"].split("waited for ")[1].split("%")[0])
    assert 0 <= share <= 100


def test_unknown_workloads_and_no_rounds_are_refused():
    with pytest.raises(GenlabError, match="ar_trian: no such workload, choose from ar_train_step"):
        list(run_workloads(("ar_trian",)))
    with pytest.raises(GenlabError, match="rounds 0"):
        list(run_workloads(("ar_sample",), rounds=0))


class Clock:
    """Seconds pass only where a program says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


def run_known(monkeypatch, *, flops=None, product=None, seconds=(4.0,), **options):
    """Measure a workload of known seconds, whose product takes 1 s, then 3, and so on."""
    clock = Clock()
    monkeypatch.setattr(
        turns,
        "time",
        SimpleNamespace(perf_counter=clock.perf_counter, process_time=clock.perf_counter),
    )
    own, other = iter(seconds), iter([1.0, 1.0, 1.0, 3.0, 1.0])
    known = None
    if product is not None:
        known = SimpleNamespace(
            run=lambda: clock.spend(next(other)), flops=product, shape="known shape"
        )

    @contextlib.contextmanager
    def workload(size):
        yield Workload(lambda: clock.spend(next(own)), "toy", flops=flops, product=known)

    monkeypatch.setitem(WORKLOADS, "known", workload)
    return list(run_workloads(("known",), rounds=3, **options))


def test_the_share_is_the_rate_of_the_work_over_that_of_the_product_in_the_same_round(monkeypatch):
    # Rounds: 100 FLOPs in 4, 4 and 8 s, so at 25, 25 and 12.5 FLOP/s, against 300 in 1, 3 and 1 s:
    # 1/12, 1/4 and 1/24 of its rate. Medians: 25 of 300 FLOP/s, 1/12.
    [line] = run_known(monkeypatch, flops=100.0, product=300.0, seconds=(1, 1, 4.0, 4.0, 8.0))
    assert line["ours_s"] == 4
    assert line["flops"] == 100
    assert line["flops_per_s"] == 25
    assert line["product_flops_per_s"] == 300
    assert line["rate_share"] == pytest.approx(1 / 12)
    assert "8% of the 3e-07 of a product known shape" in format_line(line)


def test_the_shares_of_rounds_are_paired_before_their_median(monkeypatch):
    # 1, 1 and 1/3 of the rate: a median of each side's seconds would say 1/3.
    [line] = run_known(monkeypatch, flops=9.0, product=9.0, seconds=(1, 1, 1.0, 3.0, 3.0))
    assert line["rate_share"] == 1


def test_work_that_nobody_counts_has_no_share(monkeypatch):
    [line] = run_known(monkeypatch, seconds=(1, 1, 2.0, 2.0, 2.0))
    assert [line[key] for key in RATE] == [None] * len(RATE)
    assert "FLOP" not in format_line(line) and "of a product" not in format_line(line)


def test_the_flops_are_those_that_the_project_counts():
    [line] = run_workloads(("ar_train_step",), rounds=1, quick=True)
    nothing = ConditionConfig(content="none", speaker=False)
    task = Task(QUICK.spec, CondVocab(num_speakers=1), QUICK.backbone, nothing, num_frames=16)
    assert line["flops"] == 2 * train_flops(ARConfig(), task)


def test_decoders_are_measured_small_and_medium(monkeypatch):
    asked = []

    @contextlib.contextmanager
    def workload(size):
        asked.append((size.backbone.width, size.backbone.layers))
        yield Workload(lambda: 1.0, "toy")

    for name in ("ar_sample", "mimi_10s"):
        monkeypatch.setitem(WORKLOADS, name, workload)
    monkeypatch.setattr("genlab.speed.bench.peers.find_peer", lambda *arguments: None)
    lines = list(run_workloads(("ar_sample", "mimi_10s"), rounds=1))
    assert [line["size"] for line in lines] == ["small", "medium", "small"]
    assert asked == [(256, 6), (512, 8), (256, 6)]
    [line] = run_workloads(("ar_sample", "mimi_10s"), rounds=1, sizes=("medium",))
    assert (line["workload"], line["size"]) == ("ar_sample", "medium")
    with pytest.raises(GenlabError, match="--size medium: mimi_10s has no such size"):
        list(run_workloads(("mimi_10s",), rounds=1, sizes=("medium",)))
    with pytest.raises(GenlabError, match="--size medium: --quick has a toy size only"):
        list(run_workloads(("ar_sample",), quick=True, sizes=("medium",)))


@pytest.mark.parametrize("shape", [(3, 8, 12), (3, 12, 8)])
def test_a_product_that_is_repeated_keeps_its_numbers_in_range(shape):
    product = MatrixProduct(*shape)
    assert product.shape == "x".join(map(str, shape))
    # 500 pairs of products, each of 2 x 3 x 8 x 12 FLOPs
    assert product.flops == 500 * 2 * 2 * 3 * 8 * 12
    norms = np.linalg.norm(product.run(), axis=1)
    assert np.isfinite(norms).all() and (norms > 0.1).all() and (norms < 10).all()


def test_an_operation_that_runs_by_itself_lasts_as_long_as_it_is_waited_for():
    started = [Ran("conv.1", 0, 2), Ran("add.1", 40, 45), Ran("dot.2", 60, 70)]
    waits = [Ran("wait", 1, 44), Ran("wait", 72, 90)]
    # conv until add begins; add is over after the wait; dot is waited for by itself at the end.
    assert [one.ended for one in add_waits(started[::-1], waits)] == [40, 45, 90]
    assert [one.ended for one in add_waits(started, [])] == [2, 45, 70]
    # A wait that begins with the next operation is for that one.
    apart = add_waits([Ran("conv.1", 0, 2), Ran("conv.2", 10, 12)], [Ran("wait", 12, 30)])
    assert [one.ended for one in apart] == [2, 30]


def test_a_convolution_is_a_product_and_no_idle_host():
    """Its own event lasts for a hundredth of it."""
    kernel = jnp.ones((7, 64, 64))
    names = ("NWC", "WIO", "NWC")
    convolve = jax.jit(
        lambda wave: lax.conv_general_dilated(wave, kernel, (1,), "SAME", dimension_numbers=names)
    )
    wave = jnp.ones((1, 20_000, 64))
    convolve(wave).block_until_ready()
    spent = profile(lambda: convolve(wave).block_until_ready())
    assert spent is not None and spent.products > 0.5 > spent.outside


def test_time_is_divided_into_products_other_operations_and_neither():
    ran = [
        Ran("while", 0.0, 100.0),  # holds the others, and is none
        Ran("ynn_fusion", 10.0, 40.0),
        Ran("wrapped_tanh", 30.0, 60.0),  # of which 10 beside the product
        Ran("wrapped_tanh", 70.0, 80.0),
        Ran("copy", 70.0, 75.0),
    ]
    spent = divide(ran, 200.0)
    assert spent[:3] == pytest.approx((0.15, 0.15, 0.7))
    assert spent.slowest == pytest.approx({"wrapped_tanh": 0.2, "copy": 0.025})
    assert list(spent.slowest) == ["wrapped_tanh", "copy"]
    # One that lies within another does not end it; and only the longest four are named.
    spent = divide([Ran("dot", 0, 100), Ran("copy", 10, 20), Ran("copy", 90, 110)], 110.0)
    assert spent[:3] == pytest.approx((100 / 110, 10 / 110, 0))
    many = divide([Ran(f"op{n}", 10 * n, 11 * n) for n in range(1, 7)], 100.0)
    assert list(many.slowest) == ["op6", "op5", "op4", "op3"]
    # The trace has a clock of its own, which may be ahead.
    assert divide([Ran("dot", 0, 100)], 90.0).outside == 0


def test_who_is_first_alternates():
    order = []
    sides = {name: lambda name=name: order.append(name) for name in "ab"}
    times = turns.take_turns("toy", sides, rounds=3)
    assert "".join(order) == "abab" + "abbaab"  # after two rounds that warm up
    assert [len(found) for found in times.values()] == [3, 3]


@pytest.mark.parametrize(("busy_s", "cores"), [(5.9, None), (6.1, "0.2"), (9.0, "0.5")])
def test_other_processes_that_take_too_much_are_told(monkeypatch, capsys, busy_s, cores):
    """Ten seconds, of which this process used four on the CPU: 1.9, 2.1 and 5 s are others'."""
    clock = iter([0.0, 0.0, 10.0, 10.0])
    cpu, stat = iter([0.0, 4.0]), iter([100.0, 100.0 + busy_s])
    monkeypatch.setattr(turns, "_busy_cpu_s", lambda: next(stat))
    monkeypatch.setattr(
        turns,
        "time",
        SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(cpu)),
    )
    turns.take_turns("toy", {"ours": lambda: None}, rounds=1)
    told = capsys.readouterr().err
    assert (f"other processes used {cores} cores" in told) if cores else told == ""


def test_time_that_a_cpu_idles_or_waits_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "stat").write_text("cpu  100 2 50 1000 20 5 3 0 7 7\ncpu0 1 1 1 1\n")
    monkeypatch.setattr(turns, "Path", lambda name: tmp_path / "stat")
    monkeypatch.setattr(turns.os, "sysconf", lambda name: 100)
    assert turns._busy_cpu_s() == pytest.approx(1.6)


def test_a_trace_finds_the_product_that_ran():
    product = MatrixProduct(64, 64, 64)
    product.run()
    spent = profile(product.run)
    assert spent is not None and spent.products > 0
    assert sum(spent[:3]) == pytest.approx(1, abs=0.05)
    [line] = run_workloads(("masked_train_step",), rounds=1, quick=True, profiles=True)
    assert list(line) == [*KEYS, "profile"] and line["profile"]["others"] > 0
    assert "outside compiled code" in format_line(line)
    [line] = run_workloads(("codec_encode_10s",), rounds=1, quick=True, profiles=True)
    assert line["profile"]["products"] > 0
    [line] = run_workloads(("checkpoint_save",), rounds=1, quick=True, profiles=True)
    assert line["profile"] is None
