"""Programs for GPUs, lowered on a machine without one: cuDNN's attention takes them, and nothing in
them is for TPUs.

jax checks the shapes of cuDNN's calls while it lowers them. What XLA and cuDNN make of them only a
GPU can tell.
"""

import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh

from genlab.load import load_experiment
from genlab.machine.sharding import ShardingConfig, make_mesh
from genlab.machine.topologies import find_topology
from genlab.nets import attention
from genlab.nets.attention import (
    KeysValues,
    _attend_by_cudnn,
    attend_within,
    missing_positions,
    why_plain,
)
from genlab.speed.aot import CompilePlan, _token_shape, abstract_batch, build_abstract
from genlab.training.step import create_state, make_update

ROOT = Path(__file__).parents[1]
GPU = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H100", None, "gpu"))
# Text of 512 symbols and 257 frames: a length that no tile divides.
SMALL = (
    "backbone.width=256",
    "backbone.layers=2",
    "backbone.heads=2",
    "data.num_frames=257",
    "batch_size=4",
    "optim.accumulate=2",
    "budget.train_flops=1e18",
)
ARMS = ("ar", "masked", "diffusion")


@pytest.fixture(autouse=True)
def cudnn_is_there(monkeypatch):
    """Answer what jax asks of the GPU: a Hopper with a recent cuDNN."""
    from jax._src.cudnn import fused_attention_stablehlo as asked

    monkeypatch.setattr(asked, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(asked, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(asked, "is_cuda_compute_capability_equal", lambda capability: False)


def plan(arm, *overrides):
    given = {override.split("=")[0] for override in overrides}
    small = [each for each in SMALL if each.split("=")[0] not in given]
    config = load_experiment(str(ROOT / "configs/scale/scale_30m.py"), (*small, *overrides))
    mesh = make_mesh(ShardingConfig(), jax.devices()[:1])
    return CompilePlan(
        config.run(arm, 0, 10), find_topology("v5e-1"), mesh, *_token_shape(config.data, "text")
    )


def without_placement(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def custom_calls(function, *args):
    """Return the names of what a program for CUDA calls outside XLA."""
    with jax.sharding.use_abstract_mesh(GPU):
        text = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    return set(re.findall(r"custom_call @?([\w$]+)", text))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_training_steps_run_cudnns_attention_in_half_precision(arm, dtype):
    planned = plan(arm, f"backbone.dtype={dtype}")
    key = jax.eval_shape(lambda: jax.random.key(0))
    optim = planned.run.optim
    graph, state = jax.eval_shape(partial(create_state, build_abstract(planned), optim, 10), key)
    called = custom_calls(
        make_update(graph, optim, 10), state, without_placement(abstract_batch(planned, 4)), key
    )
    kernels = {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}
    assert called == (kernels if dtype == "bfloat16" else set())


@pytest.mark.parametrize("arm", ARMS)
def test_samplers_hold_nothing_for_other_machines(arm):
    planned = plan(arm)
    key = jax.eval_shape(lambda: jax.random.key(0))
    graph, weights = nnx.split(nnx.eval_shape(partial(build_abstract(planned)), key))
    tokens, cond = without_placement(abstract_batch(planned, 4))

    def draw(weights, cond, num_frames, key):
        sampled = nnx.merge(graph, weights).sample(
            cond, num_frames=num_frames, key=key, sampler=planned.run.arm.sampler
        )
        return sampled.tokens

    called = custom_calls(draw, weights, cond, tokens.num_frames, key)
    # Autoregression reads a cache, frame by frame, for which plain products serve.
    assert called == (set() if arm == "ar" else {"__cudnn$fmhaScaleBiasSoftmax"})


def test_every_mixer_and_experts_are_lowered():
    """One layer of each; state spaces, windows and experts are products that XLA has itself."""
    kinds = ("attention", "gqa", "mla", "window", "s4d", "mamba2", "dilated")
    mixers = [{"kind": kind} for kind in kinds]
    mixers[kinds.index("window")] |= {"frames": 64, "sinks": True}
    planned = plan(
        "ar",
        f"backbone.mixer={json.dumps(mixers)}",
        f"backbone.layers={len(kinds)}",
        "backbone.ffn.kind=experts",
        "condition.route=cross",
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    optim = planned.run.optim
    graph, state = jax.eval_shape(partial(create_state, build_abstract(planned), optim, 10), key)
    batch = without_placement(abstract_batch(planned, 4))
    called = custom_calls(make_update(graph, optim, 10), state, batch, key)
    assert called == {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}


@pytest.mark.parametrize(("is_causal", "prefix"), [(False, 0), (True, 0), (True, 100)])
def test_what_cudnn_is_asked_is_the_attention(key, monkeypatch, is_causal, prefix):
    """With jax's plain products in the place of the kernel: the padding, and who reads whom."""
    queries, keys, values = jax.random.normal(key, (3, 2, 261, 2, 16))
    is_valid = jnp.arange(261)[None, :] < jnp.array([261, 200])[:, None]
    memory, rule = KeysValues(keys, values), {"is_causal": is_causal, "prefix": prefix}
    expected = attend_within(queries, memory, is_valid, **rule)
    plain = jax.nn.dot_product_attention

    def stand_in(queries, *more, implementation, **options):
        assert (
            implementation == "cudnn"
            and options["mask"].shape[2:] == (264, 264) == (queries.shape[1],) * 2
        )
        return plain(queries, *more, **options)

    monkeypatch.setattr(attention.jax.nn, "dot_product_attention", stand_in)
    found = _attend_by_cudnn(queries, memory, is_valid, **rule)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_what_cudnn_refuses_has_a_reason():
    half = jnp.dtype(jnp.bfloat16)
    assert missing_positions("gpu", (2, 887, 4, 128), half, False) == 1
    for channels in (136, 20):
        assert f"not {channels}" in why_plain("gpu", (2, 887, 4, channels), half, False)
        assert missing_positions("gpu", (2, 887, 4, channels), half, False) == 0
