"""What parameters say about themselves, what is assumed of those of others, and what is refused."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from genlab.config import GenlabError
from genlab.machine.sharding import COLUMNS, INPUTS, ROWS, WHOLE
from genlab.nets.linear import Linear
from genlab.nets.param import (
    NORM_RULES,
    VECTOR,
    Rule,
    linear_rules,
    matrix,
    rules_of,
    splits_of,
    vector,
)
from genlab.training.optim import OptimConfig, build_optimizer
from genlab.training.step import create_state


class Holder(nnx.Module):
    """One attribute, named as the test likes."""

    def __init__(self, name, value):
        setattr(self, name, value)


def stacked(build):
    """Return three layers whose parameters have a leading axis."""
    return jax.vmap(build)(jax.random.split(jax.random.key(0), 3))


def test_rules_survive_stacking_splitting_and_tracing():
    def build(key):
        return Holder("up", Linear(4, 6, key=key, split=COLUMNS))

    expected = {"layers/up/kernel": Rule(COLUMNS, is_decayed=True)}
    model = Holder("layers", stacked(build))
    assert rules_of(model) == expected and model.layers.up.kernel.shape == (3, 4, 6)
    assert rules_of(nnx.merge(*nnx.split(model))) == expected
    assert rules_of(nnx.eval_shape(lambda: model)) == expected
    graph, params = nnx.split(model)
    traced = []
    jax.jit(lambda params: traced.append(rules_of(nnx.merge(graph, params))))(
        nnx.to_pure_dict(params)
    )
    assert traced == [expected]


def test_makers_and_layers_of_flax_take_rules():
    rngs = nnx.Rngs(0)
    model = Holder("linear", nnx.Linear(4, 6, rngs=rngs, **linear_rules(ROWS)))
    model.norm = nnx.data(nnx.LayerNorm(4, rngs=rngs, **NORM_RULES))
    model.gain, model.table = nnx.data(vector(jnp.ones((2, 4)))), nnx.data(matrix(jnp.ones((3, 4))))
    assert rules_of(model) == {
        "linear/kernel": Rule(ROWS, is_decayed=True),
        "linear/bias": VECTOR,
        "norm/scale": VECTOR,
        "norm/bias": VECTOR,
        "gain": VECTOR,
        "table": Rule(INPUTS, is_decayed=True),
    }
    assert splits_of(model)["gain"] == WHOLE


def test_layers_of_flax_without_rules_get_a_default():
    """Names, not ranks: the bias of stacked layers has two axes and does not decay."""
    default = Rule(INPUTS, is_decayed=True)
    layers = stacked(lambda key: nnx.Linear(4, 6, rngs=nnx.Rngs(key)))
    assert rules_of(Holder("layers", layers)) == {"layers/kernel": default, "layers/bias": VECTOR}
    assert rules_of(nnx.Embed(5, 4, rngs=nnx.Rngs(0))) == {"embedding": default}
    assert rules_of(nnx.BatchNorm(4, rngs=nnx.Rngs(0))) == {"scale": VECTOR, "bias": VECTOR}
    assert rules_of(Holder("temperature", nnx.Param(jnp.ones(())))) == {"temperature": VECTOR}
    assert rules_of(Holder("gains", nnx.Param(jnp.ones((4,))))) == {"gains": VECTOR}


def test_a_parameter_that_says_nothing_is_refused_by_name():
    model = Holder("layers", Holder("offsets", nnx.Param(jnp.zeros((3, 4)))))
    told = (
        r"parameter layers/offsets: its 2 axes .* make it with `matrix` or `vector` of "
        r"genlab\.nets\.param"
    )
    with pytest.raises(GenlabError, match=told):
        build_optimizer(OptimConfig(), 10, model)
    with pytest.raises(GenlabError, match=told):
        create_state(lambda key: model, OptimConfig(), 10, jax.random.key(0))
    model.layers.offsets.set_metadata(rule=VECTOR)
    assert rules_of(model) == {"layers/offsets": VECTOR}


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (
            Rule(PartitionSpec(None, "fsdp"), is_decayed=True),
            r"parameter gain: split=.*names 2 axes, .*\(4,\)",
        ),
        (Rule(PartitionSpec("model"), is_decayed=True), "'model' is not one of data, fsdp, tensor"),
        (PartitionSpec("fsdp"), r"expected a genlab\.nets\.param\.Rule"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(rule, told):
    with pytest.raises(GenlabError, match=told):
        rules_of(Holder("gain", nnx.Param(jnp.ones((4,)), rule=rule)))


def test_checkpoints_hold_arrays_alone():
    """The state's tree is that from before parameters had rules: old checkpoints open."""

    def build(key):
        return Holder("up", Linear(4, 6, key=key))

    _, state = create_state(build, OptimConfig(), 10, jax.random.key(0))
    assert jax.tree.structure(state["params"]) == jax.tree.structure({"up": {"kernel": 0}})
    assert "Rule" not in str(jax.tree.structure(state))
