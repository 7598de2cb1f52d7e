"""Experts against SwiGLU and against every expert run on every frame; their balance in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest
from flax import nnx

from genlab.config import ConfigError
from genlab.decoders.depth import DepthConfig
from genlab.nets.backbone import Backbone, BackboneConfig
from genlab.nets.experts import Balance, Experts
from genlab.nets.feedforward import Gated
from genlab.nets.mixers.attention import Attention
from genlab.nets.mixers.dilated import Dilated
from genlab.studies.contract.mixer import check_feed_forward

BACKBONE = BackboneConfig(width=32, layers=2, heads=4)
SHAPE = BACKBONE.layer_shape(is_causal=True)


def frames(num_frames=9, seed=3):
    return jax.random.normal(jax.random.key(seed), (2, num_frames, 32))


def build(**fields):
    experts = Experts(**fields).build(SHAPE, key=jax.random.key(0))
    experts.balance[...] = 0.3 * jax.random.normal(jax.random.key(1), experts.balance.shape)
    return experts


@pytest.mark.parametrize("fields", [{}, {"count": 3, "active": 3, "width": 20}])
def test_experts_keep_the_promises_of_a_feed_forward_part(fields):
    findings = check_feed_forward(Experts(**fields))
    assert len(findings) == 6 and [finding for finding in findings if finding.problem] == []


def test_one_expert_is_swiglu():
    one, dense = build(count=1, active=1), Gated().build(SHAPE, key=jax.random.key(5))
    assert one.kernel_in.shape == (1, 32, 2 * SHAPE.ffn_width)
    dense.project_in.kernel[...] = one.kernel_in[...][0]
    dense.project_out.kernel[...] = one.kernel_out[...][0]
    np.testing.assert_allclose(one(frames()), dense(frames()), atol=1e-6)


def test_a_frame_gets_the_weighted_sum_of_its_experts():
    """All experts on all frames in numpy; the bias chooses, the logits weigh."""
    experts, x = build(count=5, active=2, width=24), frames().reshape(-1, 32)
    logits = np.asarray(x @ experts.router.kernel[...])
    gate, value = np.split(np.einsum("rh,ehi->eri", x, experts.kernel_in[...]), 2, axis=-1)
    outs = np.einsum("eri,eih->erh", gate / (1 + np.exp(-gate)) * value, experts.kernel_out[...])
    expected, by_logits = [], 0
    for row, scores in enumerate(logits):
        chosen = np.argsort(-(scores + np.asarray(experts.balance[...])))[:2]
        by_logits += set(chosen) == set(np.argsort(-scores)[:2])
        weights = np.exp(scores[chosen])
        expected.append((weights / weights.sum()) @ outs[chosen, row])
    assert 0 < by_logits < len(logits)
    np.testing.assert_allclose(experts(x[None])[0], expected, atol=1e-5)


def test_the_order_of_the_experts_does_not_matter():
    experts, other = build(count=5, active=2), build(count=5, active=2)
    order = jnp.array([3, 0, 4, 1, 2])
    other.router.kernel[...] = experts.router.kernel[...][:, order]
    for name in ("kernel_in", "kernel_out", "balance"):
        getattr(other, name)[...] = getattr(experts, name)[...][order]
    np.testing.assert_allclose(other(frames()), experts(frames()), atol=1e-6)


def test_training_moves_the_bias_against_the_load_and_evaluation_does_not(key):
    config = BACKBONE.model_copy(update={"ffn": Experts(count=4, active=1, balance=0.01)})
    backbone = Backbone(config, key=key)
    x = frames(20)
    places = jnp.broadcast_to(jnp.arange(20), x.shape[:2])

    def learned(backbone, key):
        """Return the bias after one call, as an update of training has it."""
        graph, params, rest = nnx.split(backbone, nnx.Param, ...)

        def loss(params, rest):
            model = nnx.merge(graph, params, rest)
            out = model(x, positions=places, is_valid=places >= 0, key=key)
            return jnp.square(out).sum(), nnx.state(model, Balance)

        _, state = jax.jit(jax.grad(loss, has_aux=True))(params, rest)
        return np.asarray(state["layers"]["ffn"]["balance"][...])

    moved = learned(backbone, key)
    assert moved.shape == (2, 4)
    # Of four experts one has the most frames and one the fewest, in each layer.
    assert (np.isclose(np.abs(moved), 0.01) | (moved == 0)).all()
    assert (moved.min(axis=1) < 0).all() and (moved.max(axis=1) > 0).all()
    assert (learned(backbone, None) == 0).all()
    backbone.eval()
    assert (learned(backbone, key) == 0).all()


def test_balance_evens_the_load():
    """A router that prefers one expert for every frame: the bias brings all four into use."""
    experts = Experts(count=4, active=1, balance=0.05).build(SHAPE, key=jax.random.key(0))
    experts.router.kernel[...] = experts.router.kernel[...].at[0, 0].add(4.0)
    x = jax.random.normal(jax.random.key(2), (1, 400, 32)).at[:, :, 0].add(2.0)
    graph, params, rest = nnx.split(experts, nnx.Param, ...)

    @jax.jit
    def learn(rest):
        model = nnx.merge(graph, params, rest)
        load = model._run(x)[1]
        model.learn(x)
        return nnx.state(model, Balance), load

    loads = []
    for _ in range(200):
        rest, load = learn(rest)
        loads.append(np.asarray(load))
    assert loads[0].max() > 300
    assert loads[-1].max() < 140 and loads[-1].min() > 60


def test_bfloat16_runs_route_in_float32():
    experts = build(count=4, active=2)
    x = frames().astype(jnp.bfloat16)
    assert experts(x).dtype == jnp.bfloat16
    traced = str(jax.make_jaxpr(lambda x: experts(x))(x))
    assert "f32[18,4]" in traced and "bf16[18,4]" not in traced


def test_experts_share_the_channels_of_the_dense_part_and_begin_as_it_does():
    shape = BackboneConfig(width=192, layers=2, heads=4).layer_shape(is_causal=True)
    assert shape.ffn_width == 512
    assert [Experts(active=active).inner(shape) for active in (1, 2, 4)] == [512, 256, 128]
    assert Experts(width=20).inner(shape) == 20
    experts = Experts().build(shape, key=jax.random.key(0))
    # Of at least 393,216 draws: five standard deviations are 0.6 %.
    assert np.std(experts.kernel_in[...]) == pytest.approx(192**-0.5, rel=6e-3)
    scale = shape.output_scale * 256**-0.5
    assert shape.output_scale == 0.5 and np.std(experts.kernel_out[...]) == pytest.approx(
        scale, rel=6e-3
    )


def test_more_active_experts_than_there_are_is_refused():
    with pytest.raises(pydantic.ValidationError, match="active=3 is more than count=2 experts"):
        Experts(count=2, active=3)


def test_a_depth_transformer_refuses_what_it_cannot_run():
    turns = BACKBONE.model_copy(update={"mixer": (Dilated(), Attention())})
    with pytest.raises(ConfigError, match=r"decoder\.layers=1 must be a multiple of the 2 mixers"):
        DepthConfig(layers=1).depth_backbone(turns)
