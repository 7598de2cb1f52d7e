"""The Snake activation: a line plus a periodic bump whose frequency is learnt per channel.

In: frames "b t c". Out: frames "b t c". `Snake` is x + sin^2(alpha x) / alpha (Ziyin, Hartwig and
Ueda 2020, section 3) in the form that DAC uses; `SnakeBeta` is Oobleck's variant, whose frequency
exp(alpha) and inverse height exp(beta) are learnt apart and in logarithms. Where we differ: on CPU
sin^2 is a polynomial, because XLA:CPU computes sine six times slower than torch, and Snake would be
a fifth of a codec's time. sin^2 has period pi, so its argument is first brought to -pi/2 .. pi/2.
The choice is made while lowering for a platform; the programs for TPU and GPU hold plain sines.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from genlab.nets.param import vector

# pi in two parts: the first has few bits, so that its product with a whole number below 2^13 is
# exact.
PI_FIRST = 3.140625
PI_REST = 9.676535897932385e-4
# A little past pi / 2: the nearest multiple of a large angle is only found to within rounding.
LIMIT = 1.58
# The best odd polynomials on -pi/2 .. pi/2: of sin r (error 3e-9) and of sin 2r (error 1e-7).
SINE = (
    0.9999999765897213,
    -0.16666647634534945,
    0.008332899821568162,
    -1.9800897652812177e-4,
    2.5904882780536376e-6,
)
SINE_OF_DOUBLE = (
    1.9999992078410525,
    -1.3333242757182981,
    0.26663704296681134,
    -0.025355187198075363,
    1.3823092353044686e-3,
    -4.171003472852597e-5,
)
# Keeps the height finite where alpha is 0, as the published codecs do.
FLOOR = 1e-9


class Snake(nnx.Module):
    """x + sin^2(alpha x) / alpha, with one alpha per channel."""

    def __init__(self, channels: int):
        self.alpha = vector(jnp.ones((channels,)))

    def __call__(self, frames: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Return the activated frames."""
        alpha = self.alpha[...].astype(frames.dtype)[None, None]
        return frames + sine_squared(alpha * frames) / (alpha + FLOOR)


class SnakeBeta(nnx.Module):
    """x + sin^2(exp(alpha) x) / exp(beta), with one alpha and one beta per channel."""

    def __init__(self, channels: int):
        self.alpha = vector(jnp.zeros((channels,)))
        self.beta = vector(jnp.zeros((channels,)))

    def __call__(self, frames: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Return the activated frames."""
        frequency = jnp.exp(self.alpha[...]).astype(frames.dtype)[None, None]
        height = (1 / (jnp.exp(self.beta[...]) + FLOOR)).astype(frames.dtype)[None, None]
        return frames + sine_squared(frequency * frames) * height


One = tuple[Float[Array, "*shape"]]


@jax.custom_jvp
def sine_squared(angle: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return sin^2, within 1e-6 of the exact value for angles up to 10,000."""
    return lax.platform_dependent(
        angle, cpu=_fast_sine_squared, default=lambda angle: jnp.sin(angle) ** 2
    )


@jax.custom_jvp
def sine_of_double(angle: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return sin(2 angle), the slope of sin^2."""
    return lax.platform_dependent(
        angle, cpu=_fast_sine_of_double, default=lambda angle: jnp.sin(2 * angle)
    )


@sine_squared.defjvp
def _sine_squared_jvp(primals: One, tangents: One) -> tuple[Array, Array]:
    (angle,), (tangent,) = primals, tangents
    return sine_squared(angle), sine_of_double(angle) * tangent


@sine_of_double.defjvp
def _sine_of_double_jvp(primals: One, tangents: One) -> tuple[Array, Array]:
    (angle,), (tangent,) = primals, tangents
    return sine_of_double(angle), (2 - 4 * sine_squared(angle)) * tangent


def _fast_sine_squared(angle: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    sine = _odd_polynomial(_reduce(angle), SINE)
    return (sine * sine).astype(angle.dtype)


def _fast_sine_of_double(angle: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return _odd_polynomial(_reduce(angle), SINE_OF_DOUBLE).astype(angle.dtype)


def _reduce(angle: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the angle less the nearest multiple of pi, in float32."""
    angle = angle.astype(jnp.float32)
    turns = jnp.round(angle * (1 / jnp.pi))
    # Past 2^13 turns the difference is no longer exact; the polynomial must not leave its interval.
    return jnp.clip(angle - turns * PI_FIRST - turns * PI_REST, -LIMIT, LIMIT)


def _odd_polynomial(
    x: Float[Array, "*shape"], coefficients: tuple[float, ...]
) -> Float[Array, "*shape"]:
    square = x * x
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * square + coefficient
    return total * x
