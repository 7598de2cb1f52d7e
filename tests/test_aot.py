"""Compiling for slices that are not there: names, the compiler's text, the estimate, and one real
compilation.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from genlab.cli import main
from genlab.config import GenlabError
from genlab.config.shipped import install_command
from genlab.machine.sharding import ShardingConfig, make_mesh
from genlab.machine.topologies import CHIPS, find_topology
from genlab.speed.aot import _is_part, _overflow, find_largest_batch, find_warnings, roofline
from genlab.speed.hlo import Program, shape_bytes
from genlab.speed.table import COLUMNS, format_lines, format_markdown

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "compiler_name", "devices"),
    [
        ("v5litepod-16", "v5e:4x4", 16),
        ("v5e-16", "v5e:4x4", 16),
        ("v5e-8", "v5e:2x4", 8),
        ("v6e-256", "v6e:16x16", 256),
        ("v5p-16", "v5p:2x2x2", 8),
        ("v4-16", "v4:2x2x2", 8),
        ("tpu7x-16", "tpu7x:2x2x2", 16),
        ("v5p:2x2x4", "v5p:2x2x4", 16),
    ],
)
def test_names_that_users_know(name, compiler_name, devices):
    topology = find_topology(name)
    assert (topology.compiler_name, topology.num_devices) == (compiler_name, devices)


def test_what_the_compiler_must_be_told():
    assert find_topology("v4-16").options["chip_config_name"] == "megacore"
    assert find_topology("v6e-8").options["chips_per_host_bounds"] == (2, 4, 1)
    assert find_topology("v5e-16").options == {}


@pytest.mark.parametrize("name", ["h100", "v5e-12", "v5p-7", "v9-16", "v5e:2x2x2", "v5p:4x4", "16"])
def test_slices_that_do_not_exist_are_refused(name):
    with pytest.raises(GenlabError, match="--topology"):
        find_topology(name)


def test_shapes_have_bytes():
    assert (
        shape_bytes("(bf16[8,894]{1,0:T(8,128)(2,1)S(1)}, f32[3]{0}, u32[], pred[5])")
        == 8 * 894 * 2 + 12 + 4 + 5
    )
    assert shape_bytes("(bf16[8,894]{1,0:T(8,128)(2,1)S(1)}, f32[3]{0})", only_memory=True) == 12


def test_arrays_in_memory_take_whole_tiles():
    halves_of_heads = "bf16[4,887,8,64]{3,1,2,0:T(8,128)(2,1)}"
    assert shape_bytes(halves_of_heads) == 4 * 887 * 8 * 64 * 2
    assert shape_bytes(halves_of_heads, only_memory=True) == 4 * 888 * 8 * 128 * 2


TEXT = """
HloModule test

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %half = s32[] add(%i, %one)
  %next = s32[] add(%half, %one)
  %x = bf16[4,8]{1,0} get-tuple-element(%p), index=1
  %start = (bf16[4,8]{1,0}, bf16[4,32]{1,0}) all-gather-start(%x), metadata={op_name="jit(f)/while/body/dot"}
  %done = bf16[4,32]{1,0} all-gather-done(%start)
  %again = bf16[4,32]{1,0} all-gather(%x), backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
  ROOT %out = (s32[], bf16[4,8]{1,0}) tuple(%next, %x)
}

%condition (q: (s32[], bf16[4,8])) -> pred[] {
  %q = (s32[], bf16[4,8]{1,0}) parameter(0)
  %bound = s32[] constant(10)
  %j = s32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] compare(%j, %bound), direction=LT
}

ENTRY %main (a: bf16[4,8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %first = (s32[], bf16[4,8]{1,0}) tuple(%zero, %a)
  %loop = (s32[], bf16[4,8]{1,0}) while(%first), condition=%condition, body=%body
  %y = bf16[4,8]{1,0} get-tuple-element(%loop), index=1
  ROOT %sum = bf16[4,8]{1,0} all-reduce(%y), to_apply=%body
}
"""


def test_collectives_in_a_loop_count_its_turns():
    """Ten in steps of two, because the compiler unrolled the body; a piece that goes on with a
    collective is none.
    """
    gathered, summed = Program(TEXT).collectives()
    assert (gathered.kind, gathered.runs, gathered.loops, gathered.shape) == (
        "all-gather",
        5,
        1,
        (4, 32),
    )
    assert gathered.bytes_per_run == 2 * (128 - 32)
    assert (summed.kind, summed.runs, summed.loops, summed.bytes_per_run) == (
        "all-reduce",
        1,
        0,
        2 * 64,
    )


OFFLOADED = """
%called (p: bf16[4,8]) -> bf16[4,32] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %gathered = bf16[4,32]{1,0} all-gather(%p)
}, execution_thread="sparsecore"

%started (q: bf16[4,8]) -> bf16[4,32] {
  %q = bf16[4,8]{1,0} parameter(0)
  ROOT %call = bf16[4,32]{1,0} custom-call(%q), custom_call_target="any", called_computations={%called}
}, execution_thread="sparsecore"

ENTRY %main (a: bf16[4,8]) -> bf16[4,32] {
  %a = bf16[4,8]{1,0} parameter(0)
  %start = ((bf16[4,8]{1,0}), bf16[4,32]{1,0}, u32[]) async-start(%a), calls=%started
  ROOT %done = bf16[4,32]{1,0} async-done(%start)
}
"""


def test_what_a_sparse_core_does_counts():
    [gathered] = Program(OFFLOADED).collectives()
    assert (gathered.kind, gathered.runs, gathered.bytes_per_run) == (
        "all-gather",
        1,
        2 * (128 - 32),
    )


def test_weights_are_told_from_activations():
    """Whole, transposed, or cut along the outputs; four clips of 887 positions are none."""
    matrices = frozenset({(512, 16384), (1376, 512)})
    weights = [(512, 16384), (512, 2048), (2048, 512), (512, 1376)]
    assert all(_is_part(shape, matrices) for shape in weights)
    assert _is_part((128, 16384), matrices, shards=4) and not _is_part(
        (128, 16384), matrices, shards=2
    )
    others = [(4, 887, 512), (3548, 512), (512, 3000), (1376,)]
    assert not any(_is_part(shape, matrices, shards) for shape in others for shards in (1, 4))


def test_collectives_of_a_real_program():
    """Four chips gather a weight of 64 x 64 in each of six layers."""
    mesh = make_mesh(ShardingConfig(fsdp=4), jax.devices()[:4])

    def forward(x, layers):
        def layer(x, kernel):
            whole = jax.lax.with_sharding_constraint(kernel, NamedSharding(mesh, PartitionSpec()))
            return jnp.tanh(x @ whole), None

        return jax.lax.scan(layer, x, layers)[0]

    split = [
        NamedSharding(mesh, PartitionSpec("fsdp")),
        NamedSharding(mesh, PartitionSpec(None, "fsdp")),
    ]
    shapes = (
        jax.ShapeDtypeStruct((8, 64), jnp.float32),
        jax.ShapeDtypeStruct((6, 64, 64), jnp.float32),
    )
    text = jax.jit(forward, in_shardings=split).lower(*shapes).compile().as_text()
    [gathered] = [
        found
        for found in Program(text).collectives()
        if found.kind == "all-gather" and found.runs == 6
    ]
    assert gathered.bytes_per_run == 64 * 64 * 4 * 3 / 4 and gathered.loops == 1


def test_a_slice_of_a_stack_costs_the_slice():
    text = """
%fused (s: f32[10,4], i: s32[]) -> f32[1,4] {
  %s = f32[10,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %cut = f32[1,4]{1,0} dynamic-slice(%s, %i, %i), dynamic_slice_sizes={1,4}
}

ENTRY %main (stack: f32[10,4], at: s32[]) -> f32[1,4] {
  %stack = f32[10,4]{1,0} parameter(0)
  %at = s32[] parameter(1)
  ROOT %layer = f32[1,4]{1,0} fusion(%stack, %at), kind=kLoop, calls=%fused
}
"""
    assert Program(text).memory_bytes() == 16 + 16 + 4


def test_slices_and_updates_of_stacks_are_seen_through_what_is_around_them():
    """A product that takes its weight out of a stack, and a gradient that is put into one: fusions
    in fusions.
    """
    text = """
%cut (s: f32[10,4], i: s32[]) -> f32[4] {
  %s = f32[10,4]{1,0} parameter(0), metadata={op_name="weights"}
  %i = s32[] parameter(1)
  %row = f32[1,4]{1,0} dynamic-slice(%s, %i, %i), dynamic_slice_sizes={1,4}
  ROOT %flat = f32[4]{0} bitcast(%row)
}

%product (x: f32[4], t: f32[10,4], j: s32[], g: f32[10,4]) -> (f32[4], f32[10,4]) {
  %x = f32[4]{0} parameter(0)
  %t = f32[10,4]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %g = f32[10,4]{1,0} parameter(3)
  %weight = f32[4]{0} fusion(%t, %j), kind=kLoop, calls=%cut
  %y = f32[4]{0} multiply(%x, %weight)
  %wide = f32[1,4]{1,0} bitcast(%y)
  %new = f32[10,4]{1,0} dynamic-update-slice(%g, %wide, %j, %j)
  ROOT %both = (f32[4]{0}, f32[10,4]{1,0}) tuple(%y, %new)
}

ENTRY %main (v: f32[4], stack: f32[10,4], at: s32[], grads: f32[10,4]) -> (f32[4], f32[10,4]) {
  %v = f32[4]{0} parameter(0)
  %stack = f32[10,4]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %grads = f32[10,4]{1,0} parameter(3)
  ROOT %out = (f32[4]{0}, f32[10,4]{1,0}) fusion(%v, %stack, %at, %grads), kind=kOutput, calls=%product
}
"""
    x, weight, index, update = 16, 16, 4, 16
    assert Program(text).memory_bytes() == x + weight + index + 16 + update


def test_copies_to_the_chip_count_what_leaves_or_enters_memory():
    text = """
%piece (p: s8[64]) -> s8[16] {
  %p = s8[64]{0} parameter(0)
  ROOT %part = s8[16]{0:S(1)} slice(%p), slice={[0:16]}
}

ENTRY %main (a: s8[64], b: s8[8]) -> s8[8] {
  %a = s8[64]{0} parameter(0)
  %b = s8[8]{0} parameter(1)
  %start = ((s8[64]{0}), s8[16]{0:S(1)}, s32[]{:S(2)}) async-start(%a), calls=%piece
  %near = s8[16]{0:S(1)} async-done(%start)
  %fetch = (s8[8]{0:S(1)}, s8[8]{0}, u32[]{:S(2)}) copy-start(%b)
  %fetched = s8[8]{0:S(1)} copy-done(%fetch)
  %move = (s8[8]{0}, s8[8]{0}, u32[]{:S(2)}) copy-start(%b)
  ROOT %moved = s8[8]{0} copy-done(%move)
}
"""
    piece, fetched, moved = 16, 8, 2 * 8
    assert Program(text).memory_bytes() == piece + fetched + moved


def test_the_longest_time_bounds_the_step():
    chip = CHIPS["v5e"]
    half = roofline(
        chip, executed_flops=2 * 197e12, model_flops=197e12, memory_bytes=819e9, network_bytes=100e9
    )
    assert half.bound == "compute" and half.step_s == 2.0 and half.mfu == 0.5
    assert half[:3] == (2.0, 1.0, 0.5) and half.intensity == pytest.approx(2 * 197e12 / 819e9)
    slow = roofline(
        chip, executed_flops=197e12, model_flops=197e12, memory_bytes=4 * 819e9, network_bytes=0
    )
    assert slow.bound == "memory" and slow.mfu == 0.25


def measured(clips, most, fixed=2.0, says=True, bend=0.0):
    """A row of a program whose memory of 10 is full at 8 * `most` clips, a straight line over clips
    unless it bends.
    """
    share = clips / 8 / most
    peak = fixed + (10 - fixed) * share * (1 + bend * (share - 1))
    row = {
        "fits": clips <= 8 * most,
        "clips": clips,
        "hbm_bytes": 10.0,
        "argument_bytes": 0.8 * fixed,
    }
    return row | {"peak_bytes": peak if says or row["fits"] else None}


@pytest.mark.parametrize("most", [1, 5, 16, 77, 200, 3000])
@pytest.mark.parametrize("fixed", [0.1, 5.0])
def test_the_largest_batch_is_found_in_few_compilations(most, fixed):
    probed = []
    found = find_largest_batch(
        lambda clips: probed.append(clips) or measured(clips, most, fixed), 128, 8
    )
    assert found["fits"] and found["clips"] in probed
    assert found["peak_bytes"] >= 10 * 7 / 8 or most * 7 / 8 - 1 <= found["clips"] / 8 <= most
    assert len(probed) == len(set(probed)) <= 4 and all(clips % 8 == 0 for clips in probed)


@pytest.mark.parametrize("most", [3, 16, 77, 200])
@pytest.mark.parametrize(("bend", "says"), [(0.5, True), (-0.5, True), (0.0, False), (0.9, False)])
def test_the_largest_batch_is_found_where_memory_is_no_line(most, bend, says):
    probed = []
    found = find_largest_batch(
        lambda clips: probed.append(clips) or measured(clips, most, bend=bend, says=says), 2048, 8
    )
    assert found["fits"] and (
        found["peak_bytes"] >= 10 * 7 / 8 or most * 7 / 8 - 1 <= found["clips"] / 8 <= most
    )
    assert len(probed) == len(set(probed)) <= 12


def test_when_nothing_fits_the_smallest_batch_says_so():
    found = find_largest_batch(lambda clips: measured(clips, 0.5), 128, 8)
    assert not found["fits"] and found["clips"] == 8


def test_what_does_not_fit_is_a_row():
    text = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO\n"
        "temporaries (68.66G) exceeds available HBM (15.75G). HLO module: jit_update."
    )
    found = _overflow(text)
    assert found["peak_bytes"] == 68.66 * 2**30 and "\n" not in found["reason"]
    row = {
        "config": "ar",
        "program": "train",
        "params": 1e9,
        "topology": "v5e:4x4",
        "clips": 4096,
        "fits": False,
        "mesh": {"data": 1, "fsdp": 16, "tensor": 1},
        "hbm_bytes": CHIPS["v5e"].hbm_bytes,
        **found,
    }
    assert "| does not fit |" in format_markdown([row]) and "| 436% |" in format_markdown([row])
    assert "does not fit  68.66 of 15.75 GiB" in format_lines(row | {"frames": 375})


def test_the_partitioner_is_heard():
    line = (
        "W1 spmd_partitioner.cc:1] [SPMD] Involuntary full rematerialization. The compiler cannot "
        "go from ..."
    )
    assert find_warnings(["I0 hello", line, line]) == [line]


def test_without_the_compiler_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in (
        "JAX_PLATFORMS",
        "TPU_SKIP_MDS_QUERY",
        "TPU_ACCELERATOR_TYPE",
        "TPU_WORKER_HOSTNAMES",
        "ALLOW_MULTIPLE_LIBTPU_LOAD",
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    assert main(["aot", str(ROOT / "configs/scale/scale_30m.py"), "--topology", "v5e-16"]) == 2
    assert f"run `{install_command('aot')}`" in capsys.readouterr().err


TINY = [
    "backbone.width=256",
    "backbone.layers=2",
    "backbone.heads=2",
    "data.num_frames=256",
    "batch_size=16",
    'condition.content="none"',
    "budget.train_flops=1e18",
]


def compile_tiny(out, *assignments):
    """Compile the training step of one arm of the smallest scale, made smaller still; return its
    row and the words.
    """
    pytest.importorskip("libtpu")
    given = {item.partition("=")[0] for item in assignments}
    tiny = [item for item in TINY if item.partition("=")[0] not in given]
    config = str(ROOT / "configs/scale/scale_30m.py")
    command = [sys.executable, "-m", "genlab.cli", "aot", config, *tiny, *assignments]
    command += [
        "--topology",
        "v5litepod-4",
        "--arm",
        "masked",
        "--program",
        "train",
        "--out",
        str(out),
    ]
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION")
    }
    env = {**env, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        command, check=True, cwd=ROOT, env=env, timeout=600, capture_output=True, text=True
    ).stdout
    [row] = json.loads(out.read_text())["rows"]
    return row, said


def test_a_slice_is_compiled_for_from_here(tmp_path):
    row, said = compile_tiny(tmp_path / "rows.json")
    for told in (
        "of 15.75 GiB",
        "collective    all-gather of bf16, in a loop in a loop",
        "attention     splash",
        "MFU at most",
    ):
        assert told in said
    assert (
        row["fits"]
        and row["attention"] == "splash"
        and row["devices"] == 4
        and row["mesh"]["fsdp"] == 4
    )
    assert (
        0 < row["estimate"]["mfu"] <= 1
        and 0 < row["peak_bytes"] < row["hbm_bytes"]
        and row["warnings"] == []
    )
    assert sum(count for name, count in row["kernels"].items() if "fwd" in name) == 2 * 4, (
        "per layer and part of the batch, and kept for the backward pass"
    )
    gathers = [
        item for item in row["collectives"] if item["loops"] == 2 and item["kind"] == "all-gather"
    ]
    assert gathers and not any(item["activations"] for item in gathers)
    assert format_markdown([row]).count("| masked |") == 1 and len(COLUMNS) == format_markdown(
        []
    ).count("---")


def test_split_heads_and_channels_stay_where_they_are(tmp_path):
    """In the layer loop frames cross `tensor` in sums only; of the joint projections weights move,
    which are few.
    """
    row, _ = compile_tiny(tmp_path / "rows.json", "settings.sharding.tensor=2", "batch_size=64")
    assert row["mesh"] == {"data": 1, "fsdp": 2, "tensor": 2} and row["warnings"] == []
    moved = {"all-reduce": 0.0, "all-gather": 0.0, "collective-permute": 0.0, "all-to-all": 0.0}
    for item in row["collectives"]:
        moved[item["kind"]] += item["bytes"] * (item["loops"] == 2)
    sums, frames = moved["all-reduce"], 64 // 2 * 256 * 256 * 2
    layers, products = 2, 5  # of a layer: two forward, two backward, and one again
    assert 2 * frames * layers * products <= sums < 1.2 * 2 * frames * layers * products
    assert moved["collective-permute"] + moved["all-to-all"] < sums / 10
    assert not any(item["activations"] for item in row["collectives"])
