"""One update of one model, as a pure function: loss, gradient, optimizer, moving average. No files,
no clock.

In: a function that builds an NNX module with `loss(*args, key=key) -> LossOut`. Out: its state as
one dict of arrays, {params, rest, opt, ema, step, first_bad_step}, and a jitted `update(state,
args, key)` that consumes the state and returns the next one. `rest` is what the module holds
besides parameters, such as the moving averages of a codebook; `loss` may change it. Step n draws
its noise from fold_in(key, n), so a restart at step n repeats and skips nothing.

A step whose loss or gradient is not finite is remembered in `first_bad_step` on the device; reading
it costs a synchronisation, so the loop reads it when it logs and before it saves.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.stages import Compiled, Wrapped
from jaxtyping import Array, Key, PyTree

from genlab.config import GenlabError
from genlab.machine.sharding import BATCH, Splits, compiler_options, constrain, lay_out
from genlab.nets.param import splits_of
from genlab.training.optim import (
    OptimConfig,
    build_optimizer,
    learning_rate,
    start_averages,
    update_averages,
)

Build = Callable[[Key[Array, ""]], nnx.Module]
Watch = Callable[[nnx.Module], None]
Model = TypeVar("Model", bound=nnx.Module)
State = dict[str, PyTree]
Update = Callable[[State, tuple[PyTree, ...]], tuple[State, dict[str, Array]]]  # with its key
# The parts of the state that hold arrays; the counters follow from the step.
SAVED = ("params", "rest", "opt", "ema")


def create_state(
    build: Build, optim: OptimConfig, steps: int, key: Key[Array, ""]
) -> tuple[nnx.GraphDef, State]:
    """Build the model and its optimizer state; run it under `jax.jit`."""
    model = build(key)
    graphdef, params, rest = split_model(model)
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(rest)):
        raise GenlabError(
            "model: it keeps a random stream; pass keys explicitly, so that restarts draw the "
            "same noise"
        )
    ema = start_averages(optim, params)
    counters = {"step": jnp.int32(0), "first_bad_step": jnp.int32(-1)}
    opt = build_optimizer(optim, steps, model).init(params)
    state = {"params": params, "rest": rest, "opt": opt, "ema": ema, **counters}
    return graphdef, lay_out(state, splits_of(model))


def make_update(graphdef: nnx.GraphDef, optim: OptimConfig, steps: int) -> Wrapped:
    """Return the jitted `update(state, args, key) -> (state, metrics)`; it consumes (donates) the
    state it is given.
    """
    schedule = learning_rate(optim, steps)

    def update(
        state: State, args: tuple[PyTree, ...], key: Key[Array, ""]
    ) -> tuple[State, dict[str, Array]]:
        step, params = state["step"], state["params"]
        # Traced once, at no cost in the program: the rules stand in `graphdef`.
        model = nnx.merge(graphdef, params, state["rest"])
        optimizer = build_optimizer(optim, steps, model)
        splits = splits_of(model)
        key = jax.random.fold_in(key, step)
        rest = state["rest"]
        grads, weight, sums, rest = _gradient(graphdef, optim, splits, params, rest, args, key)
        scale = 1.0 / jnp.maximum(weight, 1e-6)
        grads = jax.tree.map(lambda grad: grad * scale.astype(grad.dtype), grads)
        norm = optax.global_norm(grads)
        is_good = jnp.isfinite(sums["loss"]) & jnp.isfinite(norm)
        first_bad = jnp.where(
            is_good | (state["first_bad_step"] >= 0), state["first_bad_step"], step
        )
        changes, opt = optimizer.update(grads, state["opt"], params)
        params = optax.apply_updates(params, changes)
        ema = update_averages(optim, state["ema"], params, step)
        metrics = {name: value * scale for name, value in sums.items()}
        metrics |= {"grad_norm": norm, "learning_rate": schedule(step)}
        counters = {"step": step + 1, "first_bad_step": first_bad}
        state = {"params": params, "rest": rest, "opt": opt, "ema": ema, **counters}
        return lay_out(state, splits), metrics

    return jax.jit(update, donate_argnums=0)


def compile_update(
    graphdef: nnx.GraphDef, optim: OptimConfig, steps: int, *args: PyTree
) -> Compiled:
    """Return the update compiled for these arguments and the mesh that is set."""
    return make_update(graphdef, optim, steps).lower(*args).compile(compiler_options())


def _gradient(
    graphdef: nnx.GraphDef,
    optim: OptimConfig,
    splits: Splits,
    params: PyTree,
    rest: PyTree,
    args: tuple[PyTree, ...],
    key: Key[Array, ""],
) -> tuple[PyTree, Array, dict[str, Array], PyTree]:
    """Return the gradient of sum(per_example * weight), sum(weight), weighted sums of the metrics,
    and the new rest.

    Sums, not means: micro-batches of different weight then add up to exactly the whole batch.
    """

    def summed_loss(params, rest, args, key):
        model = nnx.merge(graphdef, params, rest)
        out = model.loss(*args, key=key)
        weight = jax.lax.stop_gradient(out.weight.astype(jnp.float32))
        sums = {
            name: jnp.sum(value * weight)
            for name, value in {"loss": out.per_example, **out.metrics}.items()
        }
        return sums["loss"], (jnp.sum(weight), sums, split_model(model)[2])

    def part(rest, args, key):
        args = jax.tree.map(lambda leaf: constrain(leaf, BATCH), args)
        grads, (weight, sums, rest) = jax.grad(summed_loss, has_aux=True)(params, rest, args, key)
        return (lay_out(grads, splits), weight, sums), rest

    if optim.accumulate == 1:
        totals, rest = part(rest, args, key)
        return *totals, rest

    def body(carry, index_and_args):
        totals, rest = carry
        index, args = index_and_args
        more, rest = part(rest, args, jax.random.fold_in(key, index))
        return (jax.tree.map(jnp.add, totals, more), rest), None

    # Every part takes some clips of each device, so that none has to move. `optax.microbatch` does
    # that and the sums, but hands neither a key nor `rest`, the averages of a codebook, from part
    # to part.
    # b ... -> a (b/a) ...: part i takes clips i, i + a, i + 2a, ...
    parts = jax.tree.map(
        lambda leaf: leaf.reshape(-1, optim.accumulate, *leaf.shape[1:]).swapaxes(0, 1), args
    )
    shapes = jax.eval_shape(part, rest, jax.tree.map(lambda leaf: leaf[0], parts), key)[0]
    grads, *sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    first = ((lay_out(grads, splits), *sums), rest)
    (totals, rest), _ = jax.lax.scan(body, first, (jnp.arange(optim.accumulate), parts))
    return *totals, rest


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, PyTree, PyTree]:
    """Return the structure, the parameters and all other variables of `model`, the latter two as
    plain dicts.
    """
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
