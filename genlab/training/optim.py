"""The optimizer of every trained model: AdamW with warm-up and decay, gradient clipping, averaging
of parameters.

In: an `OptimConfig` and the number of steps. Out: an optax transformation over the pure dict of
parameters. The learning rate is a function of the update number alone, so only the optimizer state
has to survive a restart.

Weight decay acts on matrices only. Rank does not distinguish a matrix from a bias, because layers
are stacked for `lax.scan`: the bias of a stacked layer is 2-D. Each parameter therefore
carries a rule (genlab/nets/param.py).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import optax
import pydantic
from flax import nnx
from jax.tree_util import KeyPath
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from genlab.config import Config, GenlabError, added
from genlab.machine.sharding import path_name
from genlab.nets.backbone import BackboneConfig
from genlab.nets.param import Rule, rules_of
from genlab.training.shapes import Shape


class OptimConfig(Config):
    """AdamW and its schedule."""

    peak_lr: float = pydantic.Field(default=1e-3, gt=0, le=100)
    """Highest learning rate."""
    warmup_fraction: float = pydantic.Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the learning rate rises from 0."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the fall after that."""
    final_fraction: float = pydantic.Field(default=0.05, ge=0, le=1)
    """Learning rate of the last step over `peak_lr`; unused by a constant one."""
    weight_decay: float = pydantic.Field(default=0.05, ge=0, le=100)
    """Decoupled weight decay of matrices, per unit of learning rate."""
    b1: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Decay of the moving average of gradients."""
    b2: float = pydantic.Field(default=0.98, ge=0, lt=1)
    """Decay of the moving average of their squares."""
    clip_norm: float | None = pydantic.Field(default=1.0, gt=0)
    """Largest norm of the gradient; larger ones are scaled down. None clips nothing."""
    ema_decay: float | None = pydantic.Field(default=0.999, ge=0, lt=1)
    """Decay per step of the averaged parameters that are sampled and scored; None keeps the last
    ones.
    """
    accumulate: int = pydantic.Field(default=1, ge=1)
    """Parts into which each batch is split, one after another, to save memory."""
    ema_powers: tuple[Annotated[int, pydantic.Field(ge=1, le=20)], ...] | None = added(None)
    """A grid of averages instead of the one of `ema_decay`: the powers k of their decays 1 - 2^-k,
    all kept in one training; a look at validation chooses one (`checkpoint`).
    """
    peak_lrs: tuple[Annotated[float, pydantic.Field(gt=0, le=100)], ...] | None = added(None)
    """A grid of rates instead of the one of `peak_lr`, for a comparison: every arm trains with each
    on a seed that is not reported, and has the best by its looks at validation (`checkpoint`).
    """

    @pydantic.model_validator(mode="after")
    def _check_powers(self) -> "OptimConfig":
        powers = self.ema_powers
        if powers is not None and (not powers or len(set(powers)) != len(powers)):
            raise ValueError(
                f"ema_powers={list(powers)}: expected powers that differ, such as [6, 8, 10], or "
                "null for the one average of ema_decay"
            )
        rates = self.peak_lrs
        if rates is not None and (len(rates) < 2 or len(set(rates)) != len(rates)):
            raise ValueError(
                f"peak_lrs={list(rates)}: expected rates that differ, at least two, such as "
                "[1e-3, 3e-3, 9e-3], or null for the one of peak_lr"
            )
        return self

    @property
    def num_averages(self) -> int:
        """How many averages of the parameters a training keeps."""
        return (self.ema_decay is not None) if self.ema_powers is None else len(self.ema_powers)


class ArmSettings(Config):
    """What one arm may have for itself where all others share.

    None keeps what is shared. `genlab tune` chooses these, and nothing else.
    """

    peak_lr: float | None = pydantic.Field(default=None, gt=0, le=100)
    """As `optim.peak_lr`."""
    warmup_fraction: float | None = pydantic.Field(default=None, ge=0, le=1)
    """As `optim.warmup_fraction`."""
    weight_decay: float | None = pydantic.Field(default=None, ge=0, le=100)
    """As `optim.weight_decay`."""
    ema_decay: float | None = pydantic.Field(default=None, ge=0, lt=1)
    """As `optim.ema_decay`."""
    dropout: float | None = pydantic.Field(default=None, ge=0, lt=1)
    """As `backbone.dropout`."""
    shape: Shape | None = added(None)
    """The arm's own width, depth and heads of the backbone, of the comparison's `shape_grid`."""

    def apply(
        self, optim: OptimConfig, backbone: BackboneConfig
    ) -> tuple[OptimConfig, BackboneConfig]:
        """Return what the arm trains with."""
        own = {
            name: value
            for name in ArmSettings.model_fields
            if (value := getattr(self, name)) is not None
        }
        inside = {"dropout": own.pop("dropout")} if "dropout" in own else {}
        own.pop("shape", None)
        if self.shape is not None:
            inside |= {name: getattr(self.shape, name) for name in Shape.model_fields}
            # Checked: mixers that take turns divide the layers of some shapes and not of others.
            values = {name: getattr(backbone, name) for name in type(backbone).model_fields}
            backbone = type(backbone)(**{**values, **inside})
        # A run has one rate; the grid is for the comparison to try.
        own["peak_lrs"] = None
        return optim.model_copy(update=own), backbone.model_copy(update=inside)


def learning_rate(config: OptimConfig, total_steps: int) -> Callable[[ArrayLike], Array]:
    """Return the learning rate as a function of the number of updates already made.

    It rises linearly over the warm-up so that the first update is not zero, then falls to
    `final_fraction * peak_lr` at the last update.
    """
    warmup_steps = round(config.warmup_fraction * total_steps)
    decay_steps = max(total_steps - 1 - warmup_steps, 1)

    def schedule(count):
        rising = (count + 1) / (warmup_steps + 1)
        progress = jnp.clip((count - warmup_steps) / decay_steps, 0.0, 1.0)
        falling = {
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "linear": 1.0 - progress,
            "constant": jnp.ones_like(progress),
        }[config.decay]
        floor = config.final_fraction if config.decay != "constant" else 0.0
        return config.peak_lr * jnp.where(
            count < warmup_steps, rising, floor + (1.0 - floor) * falling
        )

    return schedule


def decay_tree(params: PyTree, rules: Mapping[str, Rule]) -> PyTree:
    """Return a tree like `params` that holds True where weight decay acts.

    `params` is an `nnx.State` or a pure dict; `rules` are those of its model, by path.

    Raises:
        GenlabError: for a parameter that `rules` does not name.
    """

    def is_decayed(path: KeyPath, _: object) -> bool:
        name = path_name(path)
        if name not in rules:
            raise GenlabError(
                f"parameter {name}: the model that the optimizer was built for has none of this "
                "name; build the optimizer for the model that it updates"
            )
        return rules[name].is_decayed

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def build_optimizer(
    config: OptimConfig,
    total_steps: int,
    model: nnx.Module,
) -> optax.GradientTransformation:
    """Return clipping and AdamW with the schedule of `config` over `total_steps` updates.

    It is for the parameters of `model`, whose values do not matter: they may be shapes or tracers.

    Raises:
        GenlabError: if a parameter does not say whether weight decay acts on it (`rules_of`), or
            there is a grid of rates, which a comparison alone tries.
    """
    if config.peak_lrs is not None:
        raise GenlabError(
            f"optim.peak_lrs={list(config.peak_lrs)}: only a comparison tries several rates; set "
            f"optim.peak_lrs=null to train with optim.peak_lr={config.peak_lr:g}"
        )
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )
    adamw = optax.adamw(
        learning_rate(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        mask=partial(decay_tree, rules=rules_of(model)),
    )
    return optax.chain(clip, adamw)


def start_averages(config: OptimConfig, params: PyTree) -> PyTree:
    """Return the averages before the first update: one like `params`, one per power, or none."""
    if config.ema_powers is not None:
        return {f"k{power}": jax.tree.map(jnp.copy, params) for power in config.ema_powers}
    return {} if config.ema_decay is None else jax.tree.map(jnp.copy, params)


def update_averages(config: OptimConfig, ema: PyTree, params: PyTree, step: Array) -> PyTree:
    """Return the averages of `start_averages` after one update."""
    if config.ema_powers is not None:
        return {
            f"k{power}": update_ema(ema[f"k{power}"], params, 1 - 2.0**-power, step)
            for power in config.ema_powers
        }
    return {} if config.ema_decay is None else update_ema(ema, params, config.ema_decay, step)


def update_ema(ema: PyTree, params: PyTree, decay: float, step: Array) -> PyTree:
    """Return the moving average after one update; the decay ramps up so that short runs forget
    their random start.

    Eq. decay_n = min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage.
    """
    weight = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + weight.astype(old.dtype) * (new - old), ema, params)
