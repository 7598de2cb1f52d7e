"""Flow maps: a network that is told where it goes as well as where it is, and jumps there in one
call.

In: an interval of noise levels from `level` down to `target`. The average velocity of a trajectory
over it,

    u(z, level, target) = integral of the velocity from target to level / (level - target),

carries z at `level` to z - (level - target) u at `target`, however far that is (MeanFlow,
2505.13447). At target = level it is the velocity itself. Differentiating along the trajectory gives
what training asks for, without the integral:

    u = v - (level - target) D,    D = v . grad_z u + d u / d level

Both forms of training regress the sum u + (level - target) D, D without a gradient, on the velocity
noise - clean of the example (iMF, 2512.02012); its gradient is that of MeanFlow's loss. They differ
in the v along which D is taken: MeanFlow has the example's, whose variance D multiplies, iMF the
network's own at target = level.

D is a central difference: two more calls without gradient, as many as forward mode takes, for any
layer. Forward mode is refused by layers with a gradient of their own (`Linear`) and by fused
attention. For it to be one, the network must be smooth in the level, so its sinusoids turn once
from level 0 to 1, not 160 times.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from genlab.config import Config, ConfigError
from genlab.decoders.conditioning import Conditioner, Conditions
from genlab.decoders.noise.denoisers import LEVEL_CHANNELS, LevelEmbedding
from genlab.decoders.noise.schedules import LevelDraw
from genlab.decoders.prefix import Known
from genlab.decoders.task import Task
from genlab.tokens import Cond

# Folded into the key of a loss, so that its other draws stay.
_INTERVAL, _STRENGTH = 0xF1, 0xF2
# Folded into the key of a network, so that its own weights stay.
_JUMP = 0xF0
# What levels of flow maps are multiplied by before their sinusoids, the fastest of which are of
# 1000 times that.
SLOW = 2 * np.pi / 1000
# Below this a difference of activations rounded to bfloat16 is mostly rounding: against the
# derivative of a small network it was wrong by 12 % at 0.01 and by 1.3 % at 0.1.
LEAST_ROUNDED_DIFFERENCE = 0.05

T = TypeVar("T")
Average = Callable[
    [Float[Array, "b t d"], Float[Array, "b"], Float[Array, "b"]], Float[Array, "b t d"]
]


class Instant(Config):
    """The velocity at a level, as flow matching learns it."""

    kind: Literal["instant"] = "instant"
    guidance: ClassVar[float] = 1.0
    num_told: ClassVar[int] = 0
    still_calls: ClassVar[int] = 0

    def check(self, task: Task) -> None:
        """Accept all."""

    def interval(
        self, key: Key[Array, ""], level: Float[Array, "b"], levels: LevelDraw, noisiest: float
    ) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
        """Return the level twice."""
        return level, level

    def errors(
        self,
        average: Average,
        still: Average,
        noisy: Float[Array, "b t d"],
        velocity: Float[Array, "b t d"],
        level: Float[Array, "b"],
        target: Float[Array, "b"],
    ) -> Float[Array, "b t d"]:
        """Return what is squared: the prediction less what it should be."""
        return average(noisy, level, target) - velocity

    def weigh(self, errors: Float[Array, "b"]) -> Float[Array, "b"]:
        """Return them."""
        return errors


class MeanFlow(Config):
    """The average velocity of intervals, by the identity of MeanFlow."""

    kind: Literal["mean_flow"] = "mean_flow"
    share: float = pydantic.Field(default=0.25, ge=0, le=1)
    """Share of the examples with an interval; the others learn the velocity at their level, which
    the identity builds on. It changes no cost: the derivative is computed for the whole batch.
    """
    tangent: Literal["predicted", "conditional"] = "predicted"
    """Velocity along which the derivative is taken: the network's own (iMF), which is one more
    call, or that of the example (MeanFlow).
    """
    difference: float = pydantic.Field(default=0.01, gt=0, le=0.2)
    """Half the distance of levels between the two calls of the central difference. At least 0.05
    where backbone.dtype is bfloat16.
    """
    power: float = pydantic.Field(default=0.0, ge=0, le=2)
    """Training weighs each example by 1 / (its squared error + 0.001)^power; MeanFlow has 1. 0
    weighs all alike, as validation does.
    """
    guidance: float = pydantic.Field(default=1.0, ge=1, le=100)
    """Highest strength of guidance that is trained in: each example draws one between 1 and it,
    even in its logarithm, and the network is told. `sampler.told_guidance` asks for one in a single
    call. It takes one more call without conditions. 1 trains none.
    """

    @property
    def num_told(self) -> int:
        """How many numbers the network is told beside its level."""
        return 1 + (self.guidance > 1)

    @property
    def still_calls(self) -> int:
        """Calls of the network without a gradient, for one with."""
        return 2 + (self.tangent == "predicted") + (self.guidance > 1)

    def check(self, task: Task) -> None:
        """Refuse a backbone or conditions that the objective cannot be trained with.

        Raises:
            ConfigError: naming the field, the reason and the fix.
        """
        is_rounded = task.backbone.dtype != "float32"
        if is_rounded and self.difference < LEAST_ROUNDED_DIFFERENCE:
            raise ConfigError(
                f"decoder.objective.difference={self.difference:g}: in "
                f"backbone.dtype={task.backbone.dtype!r} so small a difference is mostly rounding; "
                "set decoder.objective.difference=0.1, or backbone.dtype='float32'"
            )
        if self.guidance > 1 and task.condition.dropout == 0:
            raise ConfigError(
                f"decoder.objective.guidance={self.guidance:g}: guidance compares with the network "
                "without conditions, which condition.dropout=0 never trains; set "
                "condition.dropout=0.1, or decoder.objective.guidance=1"
            )

    def interval(
        self, key: Key[Array, ""], level: Float[Array, "b"], levels: LevelDraw, noisiest: float
    ) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
        """Return where each example starts and where it goes: two draws in order in a `share` of
        the examples, elsewhere `level` twice. `key` is that of the loss.
        """
        other_key, some_key = jax.random.split(jax.random.fold_in(key, _INTERVAL))
        other = jnp.minimum(levels.draw(other_key, level.shape[0]), noisiest)
        is_interval = jax.random.bernoulli(some_key, self.share, level.shape)
        start = jnp.where(is_interval, jnp.maximum(level, other), level)
        return start, jnp.where(is_interval, jnp.minimum(level, other), level)

    def strength(self, key: Key[Array, ""], num_examples: int) -> Float[Array, "b"]:
        """Return the logarithm of each example's strength of guidance; `key` is the loss's."""
        drawn = jax.random.uniform(jax.random.fold_in(key, _STRENGTH), (num_examples,))
        return float(np.log(self.guidance)) * drawn

    def errors(
        self,
        average: Average,
        still: Average,
        noisy: Float[Array, "b t d"],
        velocity: Float[Array, "b t d"],
        level: Float[Array, "b"],
        target: Float[Array, "b"],
    ) -> Float[Array, "b t d"]:
        """Return what is squared: `average`, and its part from the derivative of `still`, the same
        function without a gradient, less the velocity.
        """
        tangent = velocity if self.tangent == "conditional" else still(noisy, level, level)
        slope = central_difference(still, noisy, tangent, level, target, self.difference)
        span = (level - target)[:, None, None]
        return average(noisy, level, target) + span * slope - velocity

    def weigh(self, errors: Float[Array, "b"]) -> Float[Array, "b"]:
        """Return mean squared errors with the weights of training."""
        if self.power == 0:
            return errors
        return errors * jax.lax.stop_gradient(errors + 0.001) ** -self.power


Objective = Annotated[Instant | MeanFlow, pydantic.Field(discriminator="kind")]


def central_difference(
    average: Average,
    noisy: Float[Array, "b t d"],
    tangent: Float[Array, "b t d"],
    level: Float[Array, "b"],
    target: Float[Array, "b"],
    difference: float,
) -> Float[Array, "b t d"]:
    """Return the derivative of `average` by the level along a trajectory of this tangent, its
    target held: [u(z + e v, level + e) - u(z - e v, level - e)] / 2e.
    """
    after = average(noisy + difference * tangent, level + difference, target)
    before = average(noisy - difference * tangent, level - difference, target)
    return (after - before) / (2 * difference)


class JumpEmbedding(nnx.Module):
    """What modulates a network that is told more than its level: one vector per number, times the
    number, so that 0 leaves the network as it is.
    """

    def __init__(self, width: int, num_told: int, *, key: Key[Array, ""]):
        keys = jax.random.split(key, num_told)
        self.embeddings = nnx.List([LevelEmbedding(width, key=key) for key in keys])

    def __call__(self, told: Float[Array, "b n"]) -> Float[Array, "b h"]:
        """Return the sum of the vectors."""
        parts = (
            told[:, one, None] * embedding(SLOW * told[:, one])
            for one, embedding in enumerate(self.embeddings)
        )
        return sum(parts, start=jnp.zeros(()))


def make_jump(width: int, num_told: int, key: Key[Array, ""]) -> JumpEmbedding | None:
    """Return the embedding of a flow map; `key` may serve other weights too, and those of a model
    that is none stay what they were.
    """
    return JumpEmbedding(width, num_told, key=jax.random.fold_in(key, _JUMP)) if num_told else None


def tell(
    jump: JumpEmbedding | None,
    conditions: Conditions,
    span: Float[Array, "b"],
    log_strength: Float[Array, "b"] | Float[Array, ""],
) -> Conditions:
    """Return the conditions with how far a flow map goes and how strongly it is guided."""
    if jump is None:
        return conditions
    told = jnp.stack([span, jnp.broadcast_to(log_strength, span.shape)], axis=1)
    clip = jump(told[:, : len(jump.embeddings)])
    return conditions._replace(clip=clip if conditions.clip is None else conditions.clip + clip)


class Inputs(NamedTuple):
    """What the network calls of one loss share."""

    cond: Cond
    conditions: Conditions
    is_valid: Bool[Array, "b t"]
    given: Known
    key: Key[Array, ""]
    """Of dropout, the same in all calls: a derivative is of one network."""


@runtime_checkable
class Jumper(Protocol):
    """A model whose prediction is an average velocity."""

    conditioner: Conditioner

    def average(self, inputs: Inputs, log_strength: Float[Array, "b"]) -> Average:
        """Return it as a function of an interval."""
        ...


def objective_errors(
    objective: "Objective",
    model: Jumper,
    inputs: Inputs,
    noisy: Float[Array, "b t d"],
    velocity: Float[Array, "b t d"],
    level: Float[Array, "b"],
    target: Float[Array, "b"],
    key: Key[Array, ""],
) -> Float[Array, "b t d"]:
    """Return what the loss of an objective squares; `key` is that of the loss.

    Guidance that is trained in moves the velocity away from that of the network without conditions,
    v + (strength - 1) (v - u without), as MeanFlow's section 4.2 does.
    """
    if isinstance(objective, Instant):
        average = model.average(inputs, jnp.zeros_like(level))
        return objective.errors(average, average, noisy, velocity, level, target)
    log_strength = objective.strength(key, level.shape[0])
    still = without_gradient(model)
    conditions = jax.tree.map(jax.lax.stop_gradient, inputs.conditions)
    if objective.guidance > 1:
        dropped = inputs.cond._replace(is_dropped=jnp.ones_like(inputs.cond.is_dropped))
        alone = inputs._replace(conditions=still.conditioner(dropped, inputs.is_valid))
        without = still.average(alone, jnp.zeros_like(level))(noisy, level, level)
        velocity = velocity + jnp.expm1(log_strength)[:, None, None] * (velocity - without)
    average = model.average(inputs, log_strength)
    fixed = still.average(inputs._replace(conditions=conditions), log_strength)
    return objective.errors(average, fixed, noisy, velocity, level, target)


def without_gradient(module: T) -> T:
    """Return the same module, to whose weights no gradient goes back."""
    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree.map(jax.lax.stop_gradient, state))


def jump_flops(width: int, num_told: int) -> float:
    """Return the FLOPs of one embedding of `num_told` numbers."""
    return 2.0 * num_told * width * (LEVEL_CHANNELS + width)


def jump_data_flops(width: int, num_told: int) -> float:
    """Return the FLOPs of its products that read only data."""
    return 2.0 * num_told * width * LEVEL_CHANNELS
