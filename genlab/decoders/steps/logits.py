"""From logits to a loss and to a choice: cross-entropy, top-k, top-p, temperature, categorical
draws.

In: logits "... v". Out: nats "...", filtered logits, or indices. Everything here runs in float32
and without sorting: a threshold found by bisection keeps the same set as `lax.top_k` up to ties, at
a fraction of its cost on CPU.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

# Halvings of the interval that holds the threshold: the resolution of a float32 mantissa.
BISECTIONS = 24
# The logits, the logs of their sums of exponentials, the labels.
Residuals = tuple[Float[Array, "*n v"], Float[Array, "*n"], Int[Array, "*n"]]


@jax.custom_vjp
def cross_entropy(logits: Float[Array, "*n v"], labels: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Return -log softmax(logits)[label] in nats.

    The gradient, softmax - onehot, is written out: autodiff would scatter into zeros of the logits'
    shape.
    """
    return _cross_entropy_forward(logits, labels)[0]


def _cross_entropy_forward(
    logits: Float[Array, "*n v"], labels: Int[Array, "*n"]
) -> tuple[Float[Array, "*n"], Residuals]:
    log_total = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0].astype(jnp.float32)
    return log_total - chosen, (logits, log_total, labels)


def _cross_entropy_backward(
    residuals: Residuals, gradient: Float[Array, "*n"]
) -> tuple[Float[Array, "*n v"], None]:
    logits, log_total, labels = residuals
    probabilities = jnp.exp(logits.astype(jnp.float32) - log_total[..., None])
    is_label = (
        jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == labels[..., None]
    )
    return ((probabilities - is_label) * gradient[..., None]).astype(logits.dtype), None


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def keep_top_k(logits: Float[Array, "*n v"], k: int) -> Float[Array, "*n v"]:
    """Set all but the k largest logits to -inf; ties with the k-th are kept."""
    threshold = _bisect(
        logits.min(axis=-1), logits.max(axis=-1), lambda t: _count(logits >= t[..., None]) >= k
    )
    return jnp.where(logits >= threshold[..., None], logits, -jnp.inf)


def keep_top_p(logits: Float[Array, "*n v"], p: float) -> Float[Array, "*n v"]:
    """Set to -inf all but the smallest set of entries that holds probability p; ties with its last
    member are kept.
    """
    shares = jax.nn.softmax(logits, axis=-1)
    threshold = _bisect(
        jnp.zeros(logits.shape[:-1]),
        shares.max(axis=-1),
        lambda t: jnp.where(shares >= t[..., None], shares, 0).sum(axis=-1) >= p,
    )
    return jnp.where(shares >= threshold[..., None], logits, -jnp.inf)


def _count(is_kept: Bool[Array, "*n v"]) -> Int[Array, "*n"]:
    return is_kept.sum(axis=-1)


def _bisect(
    low: Float[Array, "*n"],
    high: Float[Array, "*n"],
    is_enough: Callable[[Float[Array, "*n"]], Bool[Array, "*n"]],
) -> Float[Array, "*n"]:
    # The largest threshold for which is_enough holds. It holds at `low`; the top end is tried
    # first, for k = 1 and ties.
    low = jnp.where(is_enough(high), high, low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = is_enough(middle)
        low, high = jnp.where(enough, middle, low), jnp.where(enough, high, middle)
    return low


def draw(
    key: Key[Array, ""],
    logits: Float[Array, "*n v"],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    noise_bits: int | None = None,
) -> Int[Array, "*n"]:
    """Draw from softmax(logits / temperature), cut by top-k, then top-p; temperature 0 takes the
    largest.

    `top_k` is the number of entries kept, 0 for all; `top_p` the probability kept, 1 for all;
    `noise_bits` as in `draw_entry`.
    """
    logits = logits.astype(jnp.float32)
    if temperature == 0:
        return jnp.argmax(logits, axis=-1)
    return draw_entry(key, cut(logits, temperature, top_k, top_p), noise_bits)


def cut(
    logits: Float[Array, "*n v"], temperature: float, top_k: int, top_p: float
) -> Float[Array, "*n v"]:
    """Return the logits of softmax(logits / temperature), -inf where top-k, then top-p, leave
    nothing.
    """
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = keep_top_k(logits, top_k)
    if top_p < 1:
        logits = keep_top_p(logits, top_p)
    return logits


def draw_entry(
    key: Key[Array, ""], logits: Float[Array, "*n v"], noise_bits: int | None = None
) -> Int[Array, "*n"]:
    """Draw from softmax(logits): the largest after Gumbel noise, jax's own, or `coarse_gumbel` of
    so many bits.
    """
    if noise_bits is None:
        return jax.random.categorical(key, logits, axis=-1)
    return jnp.argmax(logits + coarse_gumbel(key, logits.shape, noise_bits), axis=-1)


def coarse_gumbel(key: Key[Array, ""], shape: tuple[int, ...], bits: int) -> Float[Array, "*n"]:
    """Return Gumbel noise -log(-log u) from uniforms u of `bits` random bits, 24 at most in
    float32.

    u is k / 2^bits, as torch.rand draws it in float32 with 24 bits and `jax.random.uniform` with
    23. So the noise is bounded above, by -log(-log(1 - 2^-bits)), which is nearly bits * log 2, and
    unlikely entries are drawn too rarely (2409.02908). Below it would reach -inf, at u = 0; half a
    step in its place ends it at -log((bits + 1) * log 2), as near to the cell's median as can be.
    The same key gives the leading bits of the same noise for every value of `bits`.
    """
    drawn = jax.random.bits(key, shape, jnp.uint32) >> (32 - bits)
    return -jnp.log(-jnp.log(jnp.maximum(drawn.astype(jnp.float32), 0.5) * 0.5**bits))
