"""From a hidden vector to a distribution over codes: a softmax, or a density cut at the borders of
ordered codes.

In: numbers "... o" that one product makes of a hidden vector. Out: logits "... v", or the nats of
given codes. Where the codes are values in order, as mu-law samples are, a density with a few
parameters can take the place of a softmax over all of them. Cut into the same bins it is a
distribution over the same codes, so the bits of both compare, and everything that reads logits
serves both. This is the choice that WaveNet had (1609.03499 section 2.2): a softmax, or a mixture
model such as a mixture density network.

A bin's mass is F(upper border) - F(lower border), weighted over the components, and the outermost
bins take the tails (PixelCNN++, 1701.05517 section 2.1). Differences: no channels to couple,
Gaussians as well, and no density in the place of a mass that is too small: masses are computed as
logarithms and are right in float32 however far away a mean lies.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import pydantic
from jax import lax
from jax.core import Tracer
from jax.scipy.special import erf, erfc
from jaxtyping import Array, Float, Int, Key

from genlab.config import Config, ConfigError
from genlab.decoders.steps.logits import cross_entropy
from genlab.machine.sharding import COLUMNS
from genlab.nets.linear import Linear, code_heads
from genlab.tokens import TokenSpec

# The scale that components start with: about the spread of speech under mu-law, whose values lie
# between -1 and 1.
FIRST_SCALE = 0.3
# Scales between the inner border of an outermost bin and an outer one that represents infinity, at
# the least.
FAR = 40.0


class Softmax(Config):
    """One logit per code: no shape is assumed."""

    kind: Literal["softmax"] = "softmax"

    def numbers(self, entries: int) -> int:
        """Return how many numbers describe one distribution."""
        return entries

    def check(
        self, spec: TokenSpec, num_streams: int, code_vectors: Float[Array, "k v d"] | None
    ) -> None:
        """Accept all codes."""

    def build(
        self,
        codebooks: int,
        entries: int,
        width: int,
        *,
        key: Key[Array, ""],
        code_vectors: Float[Array, "k v d"] | None = None,
    ) -> Linear:
        """Return the product with the first weights of `code_heads`, level by level."""
        product = Linear(width, codebooks * entries, key=key, scale=0.0, split=COLUMNS)
        heads = code_heads(codebooks, entries, width, key=key, code_vectors=code_vectors)
        # k h o -> h (k o)
        product.kernel[...] = heads.swapaxes(0, 1).reshape(width, -1)
        return product

    def logits(self, numbers: Float[Array, "*n o"], entries: int) -> Float[Array, "*n v"]:
        """Return the numbers."""
        return numbers

    def nats(
        self, numbers: Float[Array, "*n o"], codes: Int[Array, "*n"], entries: int
    ) -> Float[Array, "*n"]:
        """Return -log p of the codes."""
        return cross_entropy(numbers, codes)


class DiscretisedMixture(Config):
    """A mixture of densities on the line on which code i of v is the value 2i / (v - 1) - 1, in
    bins of equal width.
    """

    kind: Literal["mixture"] = "mixture"
    components: int = pydantic.Field(default=10, gt=0, le=1024)
    """Components of the mixture."""
    shape: Literal["gaussian", "logistic"] = "logistic"
    """Shape of a component."""
    min_scale: float = pydantic.Field(default=0.001, gt=0)
    """Least scale of a component (the standard deviation of a Gaussian), on that line: 0.001 is an
    eighth of a bin of 256, below which a component is a single code wherever its mean lies in the
    bin.
    """

    def numbers(self, entries: int) -> int:
        """Return how many numbers describe one distribution: weights, means and scales."""
        return 3 * self.components

    def check(
        self, spec: TokenSpec, num_streams: int, code_vectors: Float[Array, "k v d"] | None
    ) -> None:
        """Refuse codes that are not values in order.

        Raises:
            ConfigError: if a frame has more than one code or another stream beside it, or codes are
                no even scale.
        """
        fix = "use data.codec='mulaw:16000', or decoder.output.kind='softmax'"
        expected = (
            "decoder.output.kind='mixture': expected one code per frame that is a value on a scale"
        )
        if spec.codebooks != 1 or spec.latent_channels != 1:
            found = f"codebooks={spec.codebooks} of latent_channels={spec.latent_channels}"
            raise ConfigError(f"{expected}, but the codec has {found}; {fix}")
        if num_streams != 1:
            raise ConfigError(
                f"{expected}, but decoder.plan or decoder.other add streams; set both to null"
            )
        if code_vectors is not None and not isinstance(code_vectors, Tracer):
            gaps = jnp.diff(code_vectors[0, :, 0])
            if gaps.min() < 0 or gaps.max() - gaps.min() > 0.01 * gaps.mean():
                found = f"{float(gaps.min()):.3g} to {float(gaps.max()):.3g}"
                raise ConfigError(
                    f"{expected}, but the codec's neighbouring entries are {found} apart; {fix}"
                )

    def build(
        self,
        codebooks: int,
        entries: int,
        width: int,
        *,
        key: Key[Array, ""],
        code_vectors: Float[Array, "k v d"] | None = None,
    ) -> Linear:
        """Return the product with zero weights: components start where `_components` puts them."""
        outputs = codebooks * self.numbers(entries)
        return Linear(width, outputs, key=key, scale=0.0, split=COLUMNS)

    def logits(self, numbers: Float[Array, "*n o"], entries: int) -> Float[Array, "*n v"]:
        """Return the log of the mass of every bin; they sum to one as they are."""
        every = jnp.broadcast_to(jnp.arange(entries), (*numbers.shape[:-1], entries))
        return self._log_masses(numbers, every, entries)

    def nats(
        self, numbers: Float[Array, "*n o"], codes: Int[Array, "*n"], entries: int
    ) -> Float[Array, "*n"]:
        """Return -log p of the codes, from their own bins alone."""
        return -self._log_masses(numbers, codes[..., None], entries)[..., 0]

    def _components(
        self, numbers: Float[Array, "*n o"]
    ) -> tuple[Float[Array, "*n m"], Float[Array, "*n m"], Float[Array, "*n m"]]:
        """Return log weights, means and scales, which start equal, spread evenly over the line, and
        `FIRST_SCALE`.
        """
        m = self.components
        weights, means, scales = jnp.split(numbers.astype(jnp.float32), 3, axis=-1)
        first_means = jnp.broadcast_to((2 * jnp.arange(m) + 1) / m - 1, means.shape)
        scales = self.min_scale + jax.nn.softplus(scales + jnp.log(jnp.expm1(FIRST_SCALE)))
        return jax.nn.log_softmax(weights, axis=-1), first_means + means, scales

    def _log_masses(
        self, numbers: Float[Array, "*n o"], codes: Int[Array, "*n c"], entries: int
    ) -> Float[Array, "*n c"]:
        """Return the log of the mass of the bin of each code.

        Both shapes are symmetric, so a bin is given by the border nearer to the mean, negative if
        the mean lies inside, and by its width. Both are counted from the mean in scales: "*n c m".
        """
        log_weights, means, scales = (part[..., None, :] for part in self._components(numbers))
        codes = codes[..., None]
        half = 1 / (entries - 1)
        away = 2 * half * codes - 1 - means
        is_first = codes == 0
        is_last = codes == entries - 1
        near = (jnp.where(is_last, away, jnp.where(is_first, -away, jnp.abs(away))) - half) / scales
        # A tail has no other border: one that is far outside represents it, since infinity has no
        # gradient.
        width = jnp.where(is_first | is_last, FAR + 2 * jax.nn.relu(-near), 2 * half / scales)
        log_mass = _log_mass_of_gaussian if self.shape == "gaussian" else _log_mass_of_logistic
        return jax.nn.logsumexp(log_weights + log_mass(near, width), axis=-1)


Output = Annotated[Softmax | DiscretisedMixture, pydantic.Field(discriminator="kind")]


def _log_mass_of_logistic(
    near: Float[Array, "*n"], width: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    # F(u) - F(l) = F(u) (1 - F(l)) (1 - exp(l - u)): a product, so nothing cancels.
    return -jax.nn.softplus(near) - jax.nn.softplus(-near - width) + jnp.log(-jnp.expm1(-width))


def _log_mass_of_gaussian(
    near: Float[Array, "*n"], width: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    # Mills' ratios keep the tail's exponent apart. jax's log_ndtr has no gradient there: it is the
    # exponential of a difference of two numbers of the size of x^2.
    is_beside = near >= 0
    first = jnp.where(is_beside, near, 0.0)
    rest = jnp.exp(-width * (first + width / 2)) * _mills_ratio(first + width)
    beside = (
        jnp.log(_positive(_mills_ratio(first) - rest))
        - jnp.square(first) / 2
        - 0.5 * jnp.log(2 * jnp.pi)
    )
    inside = jnp.where(is_beside, -1.0, near)
    root = 2.0**-0.5
    around = jnp.log(_positive(0.5 * erf(-inside * root) + 0.5 * erf((inside + width) * root)))
    return jnp.where(is_beside, beside, around)


def _mills_ratio(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return what is right of x >= 0 in the normal distribution, over its density at x.

    By Laplace's continued fraction 1 / (x + 1 / (x + 2 / (x + ...))) where it converges fast: to
    1e-7 from 3 on. jax's erfcx is the same up to a factor, and 0 around x = 13 in float32.
    """
    small, fraction = jnp.minimum(x, 3.0), (large := jnp.maximum(x, 3.0))
    for depth in range(12, 0, -1):
        fraction = large + depth / fraction
    by_erfc = jnp.sqrt(jnp.pi / 2) * jnp.exp(jnp.square(small) / 2) * erfc(small * 2.0**-0.5)
    return jnp.where(x < 3, by_erfc, 1 / fraction)


def _positive(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    # Where rounding leaves nothing of a mass, its logarithm stays finite.
    return lax.max(x, jnp.full_like(x, jnp.finfo(x.dtype).tiny))
