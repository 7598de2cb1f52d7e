import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genlab.config import GenlabError
from genlab.nets.param import matrix, rules_of, vector
from genlab.training.optim import (
    OptimConfig,
    build_optimizer,
    decay_tree,
    learning_rate,
    update_ema,
)


class Net(nnx.Module):
    """Layers of flax, stacked and not, and parameters with rules of their own."""

    def __init__(self, rngs):
        make = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: nnx.Linear(4, 6, rngs=rngs)))
        self.layers = make(rngs)
        self.blocks = nnx.List([nnx.Linear(4, 6, rngs=rngs)])
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.up_bias = vector(jnp.zeros((3, 6)))
        self.embed = matrix(jnp.zeros((9, 6)))


DECAYS = {
    # the bias of stacked layers is 2-D and must not decay
    "layers": {"kernel": True, "bias": False},
    "blocks": {0: {"kernel": True, "bias": False}},
    "norm": {"scale": False, "bias": False},
    "up_bias": False,
    "embed": True,
}


def test_only_matrices_decay():
    model = Net(nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert decay_tree(params, rules_of(model)) == DECAYS
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = build_optimizer(OptimConfig(weight_decay=0.5, warmup_fraction=0.0), 10, model)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(ones), ones)
    moved = jax.tree.map(lambda update: bool((update != 0).any()), updates)
    assert moved == DECAYS, "with no gradient, exactly the decayed leaves move"


def test_an_optimizer_of_flax_decays_the_same():
    """`nnx.Optimizer` hands over an `nnx.State`, whose paths are one word longer."""
    model = Net(nnx.Rngs(0))
    nnx.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    transformation = build_optimizer(OptimConfig(weight_decay=0.5, warmup_fraction=0.0), 10, model)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert jax.tree.map(lambda leaf: bool((leaf != 1).any()), params) == DECAYS


def test_an_optimizer_is_refused_the_parameters_of_another_model():
    model = Net(nnx.Rngs(0))
    optimizer = build_optimizer(OptimConfig(), 10, model)
    with pytest.raises(GenlabError, match="parameter down/kernel: the model that the optimizer"):
        optimizer.init({"down": {"kernel": jnp.zeros((2, 2))}})


def test_schedule_reaches_its_points():
    rate = learning_rate(OptimConfig(peak_lr=2.0, warmup_fraction=0.1, final_fraction=0.25), 101)
    assert 0 < rate(0) < rate(5) < rate(10) == pytest.approx(2.0)
    assert rate(100) == pytest.approx(0.5)
    assert rate(55) == pytest.approx(2.0 * (0.25 + 0.75 * 0.5))
    linear = learning_rate(
        OptimConfig(peak_lr=1.0, warmup_fraction=0.0, final_fraction=0.0, decay="linear"), 11
    )
    np.testing.assert_allclose([linear(0), linear(5), linear(10)], [1.0, 0.5, 0.0])
    constant = learning_rate(OptimConfig(peak_lr=1.0, warmup_fraction=0.0, decay="constant"), 10)
    assert constant(9) == 1.0


def test_average_ramps_up_and_then_lags():
    ema = update_ema({"w": jnp.zeros(())}, {"w": jnp.ones(())}, 0.999, jnp.int32(0))
    assert float(ema["w"]) == pytest.approx(0.9)
    ema = update_ema({"w": jnp.zeros(())}, {"w": jnp.ones(())}, 0.99, jnp.int32(10**6))
    assert float(ema["w"]) == pytest.approx(0.01, rel=1e-4)


def test_config_refuses_nonsense():
    with pytest.raises(GenlabError, match="peak_lr"):
        OptimConfig.from_dict({"peak_lr": -1.0})
