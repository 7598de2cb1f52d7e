"""The transformer as a whole: cached = uncached, causality, padding, the zero start of adaLN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh

from genlab.config import ConfigError
from genlab.machine.sharding import COLUMNS, ROWS
from genlab.nets import attention
from genlab.nets.attention import KeysValues
from genlab.nets.backbone import Backbone, BackboneConfig, backbone_flops
from genlab.nets.context import Text
from genlab.nets.flops import count_flops
from genlab.nets.mixers.attention import Attention
from genlab.nets.mixers.dilated import Dilated
from genlab.nets.param import VECTOR, Rule, rules_of

TPU = AbstractMesh((), (), abstract_device=AbstractDevice("TPU v5 lite", 1, "tpu"))
CONFIG = BackboneConfig(width=32, layers=2, heads=4)
WAVENET = BackboneConfig(width=32, layers=4, heads=4, mixer=Dilated(cycle=3))
TURNS = BackboneConfig(width=32, layers=4, heads=4, mixer=(Dilated(cycle=3), Attention()))


def inputs(key, num_frames=9, num_symbols=4):
    x = jax.random.normal(key, (2, num_frames, 32))
    positions = jnp.broadcast_to(jnp.arange(num_frames)[None, :], x.shape[:2])
    text = Text(
        jax.random.normal(key, (2, num_symbols, 32)),
        jnp.array([[True] * 4, [True] * 2 + [False] * 2]),
    )
    return x, positions, text


@pytest.mark.parametrize(
    ("route", "config"),
    [
        ("none", CONFIG),
        ("prefix", CONFIG),
        ("cross", CONFIG),
        ("none", WAVENET),
        ("cross", WAVENET),
        ("none", TURNS),
        ("cross", TURNS),
    ],
)
def test_decoding_step_by_step_is_the_full_forward_pass(key, route, config):
    backbone = Backbone(config, key=key, is_causal=True, text_route=route)
    x, positions, text = inputs(key)
    text = None if route == "none" else text
    full = backbone(x, positions=positions, is_valid=jnp.ones((2, 9), bool), text=text)

    @jax.jit
    def decode(x):
        plan, cache = backbone.start(2, 9, text)

        def step(cache, i):
            hidden, cache = backbone.extend(
                x[:, i][:, None], plan, cache, positions=positions[:, i][:, None]
            )
            return cache, hidden[:, 0]

        return jax.lax.scan(step, cache, jnp.arange(9))[1]

    np.testing.assert_allclose(jnp.moveaxis(decode(x), 0, 1), full, atol=1e-4)


@pytest.mark.parametrize("config", [CONFIG, WAVENET, TURNS])
@pytest.mark.parametrize("is_causal", [True, False])
def test_only_a_causal_backbone_ignores_the_future(key, is_causal, config):
    backbone = Backbone(config, key=key, is_causal=is_causal)
    x, positions, _ = inputs(key)
    is_valid = jnp.ones((2, 9), bool)
    before = backbone(x, positions=positions, is_valid=is_valid)
    after = backbone(x.at[:, 5].add(1.0), positions=positions, is_valid=is_valid)
    moved = jnp.abs(before - after).max(axis=(0, 2)) > 1e-5
    assert moved[5:].all()
    assert moved[:5].any() != is_causal


def test_padding_keys_are_not_attended(key):
    backbone = Backbone(CONFIG, key=key)
    x, positions, _ = inputs(key)
    is_valid = jnp.broadcast_to(jnp.arange(9)[None, :] < 6, (2, 9))
    before = backbone(x, positions=positions, is_valid=is_valid)
    after = backbone(x.at[:, 6:].add(1.0), positions=positions, is_valid=is_valid)
    np.testing.assert_allclose(before[:, :6], after[:, :6], atol=1e-6)
    alone = backbone(x[:, :6], positions=positions[:, :6], is_valid=is_valid[:, :6])
    np.testing.assert_allclose(before[:, :6], alone, atol=1e-5)


def test_a_modulated_backbone_starts_as_the_identity(key):
    backbone = Backbone(CONFIG, key=key, is_modulated=True)
    x, positions, _ = inputs(key)
    out = backbone(x, positions=positions, is_valid=jnp.ones((2, 9), bool), clip=jnp.ones((2, 32)))
    np.testing.assert_allclose(
        out, x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True)), atol=1e-4
    )


def test_layers_start_different_and_stacked(key):
    kernel = Backbone(CONFIG, key=key).layers.ffn.project_in.kernel[...]
    assert kernel.shape == (2, 32, 2 * CONFIG.ffn_width)
    assert jnp.abs(kernel[0] - kernel[1]).max() > 0.01
    np.testing.assert_allclose(kernel.std(), 32**-0.5, rtol=0.05)


@pytest.mark.parametrize(
    ("width", "multiple", "inner"),
    [(64, 8 / 3, 160), (48, 8 / 3, 128), (32, 8 / 3, 96), (192, 8 / 3, 512), (16, 1.0, 32)],
)
def test_the_inner_width_is_the_nearest_multiple_of_32(width, multiple, inner):
    config = BackboneConfig(width=width, heads=2, ffn_multiple=multiple)
    assert config.ffn_width == config.layer_shape(is_causal=True).ffn_width == inner


def test_families_differ_by_the_modulation_alone(key):
    def count(**options):
        return sum(
            leaf.size for leaf in jax.tree.leaves(nnx.state(Backbone(CONFIG, key=key, **options)))
        )

    assert count(is_causal=True) == count() == count(text_route="prefix")
    assert count(is_modulated=True) - count() == 8 * 32 * 32 + 2 * 6 * 32


def test_dropout_needs_a_key(key):
    config = CONFIG.model_copy(update={"dropout": 0.5})
    backbone = Backbone(config, key=key)
    x, positions, _ = inputs(key)

    def run(**options):
        return backbone(x, positions=positions, is_valid=jnp.ones((2, 9), bool), **options)

    np.testing.assert_array_equal(run(), run())
    assert (run(key=key) != run()).any()
    np.testing.assert_array_equal(run(key=key), run(key=key))


def test_heads_must_divide_the_width():
    with pytest.raises(
        pydantic.ValidationError, match="width=30 must be a multiple of 2 \\* heads=8"
    ):
        BackboneConfig(width=30, heads=4)


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_dilated_stack_reads_exactly_its_receptive_field(key, is_causal):
    # Layers of 1, 2, 4 and, the cycle over, 1 again: 8 frames back.
    backbone = Backbone(WAVENET, key=key, is_causal=is_causal)
    np.testing.assert_array_equal(backbone.layers.conv.dilation[...], [1, 2, 4, 1])
    x, positions, _ = inputs(key, num_frames=21)

    @jax.jit
    def sensitivity(x):
        def output(x):
            return backbone(x, positions=positions, is_valid=jnp.ones(x.shape[:2], bool))[
                0, 10
            ].sum()

        return jnp.abs(jax.grad(output)(x))[0].max(axis=-1)

    read = np.flatnonzero(np.asarray(sensitivity(x)) > 0)
    np.testing.assert_array_equal(read, np.arange(2, 11 if is_causal else 19))


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("config", [WAVENET, TURNS])
def test_the_flops_of_a_stack_are_those_of_its_trace(key, is_causal, config):
    backbone = Backbone(config, key=key, is_causal=is_causal)
    x, positions, _ = inputs(key)
    run = lambda x: backbone(x, positions=positions, is_valid=jnp.ones(x.shape[:2], bool))  # noqa: E731
    assert count_flops(run, x) == 2 * backbone_flops(config, 9, is_causal=is_causal)


@pytest.mark.parametrize("remat", [False, "full"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_period_of_the_same_mixer_is_that_mixer_alone(key, remat, dropout):
    update = {"layers": 4, "dropout": dropout, "remat": remat}
    alone = CONFIG.model_copy(update=update)
    period = alone.model_copy(update={"mixer": (Attention(), Attention())})
    x, positions, text = inputs(key)
    options = {"positions": positions, "is_valid": jnp.ones((2, 9), bool), "text": text, "key": key}

    def run(config):
        backbone = Backbone(config, key=key, text_route="cross")
        return jax.jit(lambda x: backbone(x, **options))(x)

    # The compiler may fuse two layers of a scan's body in another order than one.
    np.testing.assert_allclose(run(period), run(alone), atol=2e-5)


def test_mixers_take_turns_over_depth(key):
    """Layers 0 and 2 are dilated, 1 and 3 attend; each dilated layer knows its place among all
    layers.
    """
    backbone = Backbone(TURNS, key=key, is_causal=True)
    dilated, attending = backbone.stacks
    np.testing.assert_array_equal(dilated.conv.dilation[...], [1, 4])
    assert dilated.mixer is dilated.conv and attending.mixer is attending.attention
    assert attending.attention.project_in.kernel.shape == (2, 32, 96)
    _, cache = backbone.start(2, 9, None)
    assert [isinstance(layer, KeysValues) for layer in cache.layers] == [False, True, False, True]
    rules = rules_of(backbone)
    assert rules["places/0/conv/project_in/kernel"] == Rule(COLUMNS, is_decayed=True)
    assert rules["places/1/ffn/project_out/kernel"] == Rule(ROWS, is_decayed=True)
    assert rules["places/1/attention_norm/scale"] == VECTOR


def test_a_period_must_divide_the_layers():
    told = r"layers=5 must be a multiple of the 2 mixers that take turns; set layers=4"
    with pytest.raises(pydantic.ValidationError, match=told):
        BackboneConfig(layers=5, mixer=(Attention(), Dilated()))
    with pytest.raises(ConfigError, match=r"mixer=dilated cannot be told which frames to read"):
        TURNS.require_attention("x", "y", "z")


def test_a_dilated_stack_refuses_a_text_prefix(key):
    with pytest.raises(ConfigError, match=r"route='prefix'.*use condition\.route='cross'"):
        Backbone(WAVENET, key=key, text_route="prefix")


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("remat", [False, True, "full"])
def test_what_is_laid_out_otherwise_for_tpus_computes_the_same(key, monkeypatch, is_causal, remat):
    """Whole tiles, weights cut in the place of products, rotations by a product, attention kept:
    with gradients.
    """
    kernel = functools.partial(attention._attend_by_splash, is_interpreted=True)
    monkeypatch.setattr(attention, "_attend_by_splash", kernel)
    config = CONFIG.model_copy(update={"remat": remat})
    backbone = Backbone(config, key=key, is_causal=is_causal, text_route="prefix")
    x, positions, text = inputs(key, num_frames=270)
    is_valid = jnp.arange(270)[None, :] < jnp.array([[270], [201]])

    def total(backbone, x):
        out = jnp.where(
            is_valid[:, :, None], backbone(x, positions=positions, is_valid=is_valid, text=text), 0
        )
        return (out * jnp.cos(jnp.arange(32.0))[None, None]).sum(), out

    graph, state = nnx.split(backbone)
    run = jax.grad(lambda state, x: total(nnx.merge(graph, state), x), argnums=(0, 1), has_aux=True)
    expected = jax.tree.leaves(jax.jit(run)(state, x))
    with jax.sharding.use_abstract_mesh(TPU):
        program = jax.make_jaxpr(run)(state, x)
    assert "pallas_call" in str(program)
    found = jax.jit(jax.core.eval_jaxpr, static_argnums=0)(
        program.jaxpr, program.consts, *jax.tree.leaves((state, x))
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
