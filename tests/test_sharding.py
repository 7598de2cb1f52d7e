"""Where parameters, moments and batches lie on a mesh, and that a mesh does not change what is
learnt.
"""

import contextlib
import functools
import re
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from decoders.decoder_toys import BACKBONE, FAMILIES, SEMANTIC, SPEC, VOCAB, toy_batch
from flax import nnx
from jax.sharding import PartitionSpec
from micro_models import CODEC
from train_toy import build as build_toy
from train_toy import make_source

from genlab.codecs.dac import DacConfig
from genlab.codecs.discriminator import AdversarialConfig
from genlab.codecs.distillation import DistillationConfig
from genlab.codecs.encodec import EncodecConfig
from genlab.codecs.lyra import LyraConfig
from genlab.codecs.mimi import MimiConfig
from genlab.codecs.oobleck import OobleckConfig
from genlab.codecs.speechtokenizer import SpeechTokenizerConfig
from genlab.config import ConfigError
from genlab.decoders.ar import ARConfig
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.noise.denoisers import StableAudioNetwork
from genlab.decoders.steps.streams import PlanStream
from genlab.decoders.task import Task
from genlab.machine.sharding import (
    CHANNELS,
    COLUMNS,
    INPUTS,
    ROWS,
    WHOLE,
    ShardingConfig,
    fit,
    make_mesh,
    path_name,
    put_batch,
    spec_of,
    specs_of,
)
from genlab.nets.mixers.dilated import Dilated
from genlab.nets.param import VECTOR, rules_of, splits_of
from genlab.recognisers.ctc import RecogniserConfig
from genlab.train import TrainSettings, train
from genlab.training.optim import OptimConfig, decay_tree
from genlab.training.step import create_state, make_update

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}
# Sums over channels and over the batch are added in another order.
TOLERANCE = 1e-4
OPTIM = OptimConfig(peak_lr=3e-3)
CROSSING = ConditionConfig(content="text", route="cross", clip_route="adaln")
EXTRAS = {
    "dilated": (
        ARConfig(infill_share=0.0),
        BACKBONE.model_copy(update={"mixer": Dilated()}),
        SEMANTIC,
    ),
    "plan": (
        ARConfig(plan=PlanStream(num_units=10), infill_share=0.0),
        BACKBONE,
        ConditionConfig(content="text"),
    ),
    "stable_audio": (DiffusionConfig(network=StableAudioNetwork()), BACKBONE, CROSSING),
    **{
        f"{name}_crossing": (family.config, BACKBONE, CROSSING) for name, family in FAMILIES.items()
    },
    **{name: (family.config, BACKBONE, SEMANTIC) for name, family in FAMILIES.items()},
}


def make(name, key):
    """Build the model of that name."""
    if name in EXTRAS:
        config, backbone, condition = EXTRAS[name]
        return config.build(Task(SPEC, VOCAB, backbone, condition), key=key)
    return (CODECS | FROZEN | {"recogniser": RecogniserConfig(width=16, blocks=2)})[name].build(
        key=key
    )


CODECS = {
    "codec": CODEC,
    "codec_adversarial": CODEC.model_copy(update={"adversarial": AdversarialConfig(start_step=1)}),
    "codec_side": CODEC.model_copy(update={"side_channels": 4, "kl_weight": 0.1}),
    "codec_distilled": CODEC.model_copy(update={"distillation": DistillationConfig()}),
}
# Codecs that are read and never trained: every chip holds all of them.
FROZEN = {
    config.kind: config
    for config in (
        DacConfig(),
        EncodecConfig(),
        LyraConfig(),
        MimiConfig(),
        OobleckConfig(),
        SpeechTokenizerConfig(),
    )
}
TRAINED = [*EXTRAS, "codec", "codec_adversarial", "codec_side", "codec_distilled", "recogniser"]
MODELS = [*TRAINED, *FROZEN]


def is_spec(leaf):
    return isinstance(leaf, PartitionSpec)


@functools.cache
def abstract(name):
    """Return the model with shapes in the place of arrays."""
    return nnx.eval_shape(partial(make, name, jax.random.key(0)))


@functools.cache
def matrices(name):
    """Return path, shape and split of every matrix of a model: what weight decay acts on."""
    params = nnx.to_flat_state(nnx.state(abstract(name), nnx.Param))
    shapes, rules = (
        {"/".join(map(str, words)): param.shape for words, param in params},
        rules_of(abstract(name)),
    )
    return {
        path: (shape, rules[path].split) for path, shape in shapes.items() if rules[path].is_decayed
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_carries_a_rule_and_large_matrices_are_split(name):
    """No parameter of the package relies on the default for layers that know nothing of rules."""
    params = nnx.to_flat_state(nnx.state(abstract(name), nnx.Param))
    assert [words for words, param in params if param.get_metadata("rule", None) is None] == []
    splits = splits_of(abstract(name))
    large = {
        path: shape for path, (shape, _) in matrices(name).items() if np.prod(shape[-2:]) >= 32 * 32
    }
    assert large, name
    for path, shape in large.items():
        is_split = any(spec_of(path, shape, splits, SIZES))
        assert is_split or name in FROZEN, f"{path} {shape} is copied to every chip"


@pytest.mark.parametrize("name", MODELS)
def test_a_state_of_variables_is_split_and_decays_like_its_plain_dict(name):
    """`nnx.split` gives an `nnx.State`; a name table that misses it would replicate and decay all
    of it.
    """
    state, rules, splits = (
        nnx.state(abstract(name), nnx.Param),
        rules_of(abstract(name)),
        splits_of(abstract(name)),
    )
    plain = nnx.to_pure_dict(state)

    def read(function, tree):
        leaves = jax.tree_util.tree_leaves_with_path(function(tree), is_leaf=is_spec)
        return {path_name(path): leaf for path, leaf in leaves}

    specs = read(lambda tree: specs_of(tree, splits, SIZES), plain)
    assert read(lambda tree: specs_of(tree, splits, SIZES), state) == specs
    decays = read(lambda tree: decay_tree(tree, rules), plain)
    assert read(lambda tree: decay_tree(tree, rules), state) == decays
    assert set(specs) == set(decays) == {path for path in rules if "/teacher/" not in path}
    assert any(decays.values()) and not all(decays.values())


SPLITS = {
    "conditioner/content/table": CHANNELS,
    "conditioner/layers/ffn/project_in/kernel": COLUMNS,
    "conditioner/layers/ffn/project_out/kernel": ROWS,
    "conditioner/layers/kernel": WHOLE,
    "conditioner/speakers/table": CHANNELS,
    "network/backbone/layers/attention/project_in/kernel": COLUMNS,
    "network/backbone/layers/attention/project_out/kernel": ROWS,
    "network/backbone/layers/cross/project_out/kernel": ROWS,
    "network/backbone/layers/cross/project_query/kernel": COLUMNS,
    "network/backbone/layers/cross/project_text/kernel": COLUMNS,
    "network/backbone/layers/ffn/project_in/kernel": COLUMNS,
    "network/backbone/layers/ffn/project_out/kernel": ROWS,
    "network/backbone/modulation/kernel": INPUTS,
    "network/embed/kernel": INPUTS,
    "network/head/kernel": COLUMNS,
    "network/level_embedding/project_in/kernel": COLUMNS,
    "network/level_embedding/project_out/kernel": ROWS,
}


def test_these_matrices_of_one_family_decay_and_are_split_so():
    """What does not decay is whole on every chip."""
    assert {path: split for path, (_, split) in matrices("diffusion_crossing").items()} == SPLITS
    rest = {
        path: rule
        for path, rule in rules_of(abstract("diffusion_crossing")).items()
        if path not in SPLITS
    }
    assert {rule._replace(is_delta=False) for rule in rest.values()} == {VECTOR}
    assert rest["network/backbone/layers/modulation"] == VECTOR._replace(is_delta=True)


def feeders(path):
    """The products whose outputs, channel by channel, are what the product at `path` reads."""
    for last, firsts in {
        "cross/project_out": ["cross/project_query", "cross/project_text"],
        "project_out": ["project_in"],
        "attn1_out": ["attn1_q", "attn1_k", "attn1_v"],
        "attn2_out": ["attn2_q", "attn2_k", "attn2_v"],
        "_out": ["_in"],
        "outer": ["inner"],
        "down": ["up"],
    }.items():
        if last in path:
            return {path.replace(last, first) for first in firsts}
    raise AssertionError(f"{path}: which products feed it?")


@pytest.mark.parametrize("name", MODELS)
def test_tensor_parallel_products_come_in_pairs(name):
    """Columns, then rows, with nothing but elementwise work between; only the last product of a
    network is alone.
    """
    found = {path: split for path, (_, split) in matrices(name).items()}
    columns, rows = (
        {path for path, spec in found.items() if spec == kind} for kind in (COLUMNS, ROWS)
    )
    fed = [path for row in rows for path in feeders(row)]
    assert set(fed) <= columns and len(fed) == len(set(fed))
    assert all(re.search(r"heads?(/kernel)?$", path) for path in columns - set(fed)), columns - set(
        fed
    )


def test_leading_layer_axes_stay_whole_and_odd_sizes_too():
    splits = {
        "layers/project_in/kernel": COLUMNS,
        "layers/project_out/kernel": ROWS,
        "heads/kernel": COLUMNS,
    }
    moment = "opt/1/0/mu/layers/project_out/kernel"
    assert spec_of("layers/project_in/kernel", (2, 32, 64), splits, SIZES) == PartitionSpec(
        None, *COLUMNS
    )
    assert spec_of(moment, (2, 64, 32), splits, SIZES) == PartitionSpec(None, *ROWS)
    assert spec_of("heads/kernel", (32, 33), splits, SIZES) == PartitionSpec("fsdp", None)
    assert spec_of("rest/entries", (32, 32), splits, SIZES) == PartitionSpec(None, None)
    longer = splits | {"mu/heads/kernel": ROWS}
    assert spec_of("params/mu/heads/kernel", (32, 32), longer, SIZES) == ROWS
    assert spec_of("params/heads/kernel", (32, 32), longer, SIZES) == COLUMNS
    assert fit(PartitionSpec(("data", "fsdp")), (6, 4), SIZES) == PartitionSpec("data", None)
    assert fit(PartitionSpec(("data", "fsdp")), (8,), SIZES) == PartitionSpec(("data", "fsdp"))


def test_sizes_make_up_the_devices():
    assert ShardingConfig().sizes(8) == (1, 8, 1)
    assert ShardingConfig(data=None, fsdp=4).sizes(8) == (2, 4, 1)
    with pytest.raises(ConfigError, match="8 devices"):
        ShardingConfig(fsdp=3).sizes(8)
    with pytest.raises(ConfigError, match="8 devices"):
        ShardingConfig(data=3).sizes(8)
    with pytest.raises(ConfigError, match="only one"):
        ShardingConfig.from_dict({"data": None})


QUICK = {"xla_backend_optimization_level": 0}  # compiling costs more than running
MESHES = {"8x1x1": (8, 1, 1), "2x4x1": (2, 4, 1), "2x2x2": (2, 2, 2)}


def curve(name, steps, sizes=None, parts=1):
    """Return loss and gradient norm of `steps` updates on one batch of 8, in so many parts, and the
    last state.
    """
    optim = OPTIM.model_copy(update={"accumulate": parts})
    create = partial(create_state, partial(make, name), optim, steps)
    key, args = jax.random.key(3), jax.tree.map(np.asarray, toy_batch(num_examples=8))
    with contextlib.ExitStack() as stack:
        if sizes:
            config = ShardingConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])
            stack.enter_context(jax.set_mesh(make_mesh(config, jax.devices())))
        graphdef, state = jax.jit(create)(key)
        losses, args = [], put_batch(args)
        update = (
            make_update(graphdef, optim, steps)
            .lower(state, args, key)
            .compile(compiler_options=QUICK)
        )
        for _ in range(steps):
            state, metrics = jax.block_until_ready(update(state, args, key))
            losses += [float(metrics["loss"]), float(metrics["grad_norm"])]
    return np.array(losses), state


@functools.cache
def plain_curve(name, steps):
    return curve(name, steps)[0]


def check_curve(name, steps, mesh):
    losses, state = curve(name, steps, MESHES[mesh])
    np.testing.assert_allclose(losses, plain_curve(name, steps), rtol=TOLERANCE)
    return state


@pytest.mark.parametrize(
    ("name", "mesh"),
    [*(("ar", mesh) for mesh in MESHES), ("masked", "2x2x2"), ("diffusion", "2x2x2")],
)
def test_three_updates_are_the_same_on_every_mesh(name, mesh):
    state = check_curve(name, 3, mesh)
    sizes = dict(zip(("data", "fsdp", "tensor"), MESHES[mesh]))
    kernels = jax.tree_util.tree_leaves_with_path(state)
    kernels = {
        path_name(path): leaf
        for path, leaf in kernels
        if path_name(path).endswith("ffn/project_in/kernel")
    }
    parts = {
        path.split("/")[0] + path.split("/")[3] if "opt" in path else path.split("/")[0]
        for path in kernels
    }
    assert len(parts) == 4, "parameter, average and two moments"
    for path, leaf in kernels.items():
        held = leaf.addressable_shards[0].data.shape
        assert np.prod(leaf.shape) == np.prod(held) * sizes["fsdp"] * sizes["tensor"], path


# One for every way of using the backbone; what their parameters are called is tested for all above.
@pytest.mark.parametrize("name", ["depth", "latent_flow", "latent_blocks"])
def test_an_update_is_the_same_on_two_by_two_by_two(name):
    check_curve(name, 1, "2x2x2")


def test_an_update_in_parts_is_the_same_on_two_by_two_by_two():
    """The same clips make up the parts, whose noise differs; every chip keeps its share of the
    gradients' sum.
    """
    losses, state = curve("masked", 1, MESHES["2x2x2"], parts=2)
    np.testing.assert_allclose(losses, curve("masked", 1, parts=2)[0], rtol=TOLERANCE)
    moments = jax.tree_util.tree_leaves_with_path(state["opt"])
    [moment] = [
        leaf
        for path, leaf in moments
        if path_name(path).endswith("mu/backbone/layers/ffn/project_in/kernel")
    ]
    assert 4 * np.prod(moment.addressable_shards[0].data.shape) == moment.size


def test_training_resumes_on_another_mesh(tmp_path):
    """The loop makes its own mesh; a run that was stopped on one device continues on eight."""
    settings = {
        name: TrainSettings(log_every=5, save_every_s=None, save_every_steps=3, sharding=sharding)
        for name, sharding in {
            "one": ShardingConfig(),
            "eight": ShardingConfig(data=2, fsdp=4),
        }.items()
    }
    optim = OptimConfig(peak_lr=1e-2)
    run = partial(train, build_toy, make_source(), steps=8, optim=optim, seed=1)
    one = run(settings=settings["one"], run_dir=tmp_path / "one")
    eight = run(settings=settings["eight"], run_dir=tmp_path / "eight")
    (tmp_path / "both").mkdir()
    shutil.copytree(tmp_path / "one" / "checkpoints" / "6", tmp_path / "both" / "checkpoints" / "6")
    shutil.copy(tmp_path / "one" / "lock", tmp_path / "both" / "lock")
    both = run(settings=settings["eight"], run_dir=tmp_path / "both")
    for result in (eight, both):
        assert result.last_metrics["loss"] == pytest.approx(one.last_metrics["loss"], rel=TOLERANCE)
        assert all(
            leaf.devices() == {jax.devices()[0]}
            for leaf in jax.tree.leaves(nnx.state(result.model))
        )
