"""The optimizer of every trained model: AdamW with warm-up and decay, gradient clipping, averaging of parameters.

In: an `OptimConfig` and the number of steps. Out: an optax transformation over the pure dict of parameters. The
learning rate is a function of the update number alone, so only the optimizer state has to survive a restart.

Weight decay acts on matrices only. Rank does not tell a matrix from a bias, because layers are stacked for `lax.scan`:
the bias of a stacked layer is 2-D. `is_decayed` therefore decides by name and by the stacking convention stated there.
"""

import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import pydantic

from genlab.config import Config
from genlab.nets.backbone import BackboneConfig

# Leaves with these names shift or scale channels; pulling them to zero only changes what the next matrix must undo.
NOT_DECAYED = frozenset({"bias", "scale", "gain", "gamma", "beta", "alpha", "offset", "shift", "modulation"})
# Attributes with these names hold a module whose leaves carry a leading layer axis.
STACKED = frozenset({"layers", "blocks"})
# An attribute of this name holds one such module for each place in a period of layers.
PLACES = "places"


class OptimConfig(Config):
    """AdamW and its schedule. `warmup_fraction` and `final_fraction` are fractions of the steps and of `peak_lr`."""

    peak_lr: float = pydantic.Field(default=1e-3, gt=0, le=100)
    warmup_fraction: float = pydantic.Field(default=0.05, ge=0, le=1)
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final_fraction: float = pydantic.Field(default=0.05, ge=0, le=1)
    weight_decay: float = pydantic.Field(default=0.05, ge=0, le=100)
    b1: float = pydantic.Field(default=0.9, ge=0, lt=1)
    b2: float = pydantic.Field(default=0.98, ge=0, lt=1)
    clip_norm: float | None = pydantic.Field(default=1.0, gt=0)
    ema_decay: float | None = pydantic.Field(default=0.999, ge=0, lt=1)
    accumulate: int = pydantic.Field(default=1, ge=1)


class ArmSettings(Config):
    """What one arm may have for itself where all others share: four fields of `OptimConfig` and the backbone's dropout.

    None keeps what is shared. `genlab tune` chooses these, and nothing else.
    """

    peak_lr: float | None = pydantic.Field(default=None, gt=0, le=100)
    warmup_fraction: float | None = pydantic.Field(default=None, ge=0, le=1)
    weight_decay: float | None = pydantic.Field(default=None, ge=0, le=100)
    ema_decay: float | None = pydantic.Field(default=None, ge=0, lt=1)
    dropout: float | None = pydantic.Field(default=None, ge=0, lt=1)

    def apply(self, optim: OptimConfig, backbone: BackboneConfig) -> tuple[OptimConfig, BackboneConfig]:
        """Return what the arm trains with."""
        own = {name: value for name in ArmSettings.model_fields if (value := getattr(self, name)) is not None}
        dropout = {"dropout": own.pop("dropout")} if "dropout" in own else {}
        return optim.model_copy(update=own), backbone.model_copy(update=dropout)


def learning_rate(config: OptimConfig, total_steps: int) -> Callable[[Any], Any]:
    """Return the learning rate as a function of the number of updates already made.

    It rises linearly over the warm-up so that the first update is not zero, then falls to `final_fraction * peak_lr` at
    the last update.
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
        return config.peak_lr * jnp.where(count < warmup_steps, rising, floor + (1.0 - floor) * falling)

    return schedule


def is_decayed(path: tuple[Any, ...], leaf: Any) -> bool:
    """Return whether weight decay acts on the parameter at `path`.

    A leaf decays if its name does not end in a word of `NOT_DECAYED` and it has at least two axes besides the layer
    axis. The layer axis is there when an attribute named in `STACKED` lies on the path directly above a name; below
    `layers/0`, a list of modules, nothing is stacked, but below `places/0`, a place in a period of layers, it is.
    """
    names = [str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))) for entry in path]
    stacked_axes = sum(
        (name in STACKED and not below.isdigit()) or (name == PLACES and below.isdigit())
        for name, below in itertools.pairwise(names)
    )
    return names[-1].rsplit("_", 1)[-1] not in NOT_DECAYED and jnp.ndim(leaf) - stacked_axes >= 2


def decay_tree(params: Any) -> Any:
    """Return a tree like `params` that holds True where weight decay acts."""
    return jax.tree_util.tree_map_with_path(is_decayed, params)


def build_optimizer(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """Return clipping and AdamW with the schedule of `config` over `total_steps` updates."""
    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    adamw = optax.adamw(
        learning_rate(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        mask=decay_tree,
    )
    return optax.chain(clip, adamw)


def update_ema(ema: Any, params: Any, decay: float, step: Any) -> Any:
    """Return the moving average after one update; the decay ramps up so that short runs forget their random start.

    Eq. decay_n = min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage.
    """
    weight = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + weight.astype(old.dtype) * (new - old), ema, params)
