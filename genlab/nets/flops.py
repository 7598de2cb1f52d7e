"""FLOPs of any JAX function, walked over its jaxpr.

In: a function and its arguments (arrays or shapes). Out: the floating-point operations of its
matrix products (2mnk each; of ragged ones only the rows that are routed), convolutions and Fourier
transforms (5 n log2 n of a complex transform of length n, half of that for a real one), times the
length of the scans around them; branches count as their most expensive one. A recurrence has no
products and would train for free, so the additions and multiplications of a scan without products
count too, one each. A primitive that multiplies matrices and is not known here is an error. What
the compiler would discard as unused is not counted. Attention counts as the plain products on every
platform, so a budget does not depend on the machine: a kernel's products are hidden from the walk,
and it repeats some of them. XLA's own `cost_analysis` counts the body of a scan once, so it cannot
serve here. The formulas of the decoders are checked against this walk.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.interpreters import partial_eval
from jax.sharding import AbstractDevice, AbstractMesh
from jaxtyping import PyTree

from genlab.config import GenlabError

# Tracing under it chooses what runs without kernels (nets/attention.py).
PLAIN = AbstractMesh((), (), abstract_device=AbstractDevice("cpu", None, "cpu"))


def count_flops(fn: Callable, *args: PyTree) -> float:
    """Return the FLOPs of the matrix products and convolutions in `fn(*args)`.

    Raises:
        GenlabError: if a loop whose number of turns depends on data contains some, or if `fn` calls
            a kernel itself.
    """
    with jax.sharding.use_abstract_mesh(PLAIN):
        closed = jax.make_jaxpr(fn)(*args)
    used, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _walk(used)


def _walk(jaxpr: Jaxpr) -> float:
    return float(sum(map(_equation_flops, jaxpr.eqns)))


def _equation_flops(equation: JaxprEqn) -> float:
    name = equation.primitive.name
    params = equation.params
    if name in _PRODUCTS:
        return _PRODUCTS[name](equation)
    # A product that is counted as zero would make its arm look cheap, so an unknown one is an
    # error.
    if any(word in name for word in _PRODUCT_WORDS):
        raise GenlabError(
            f"count_flops: the work of {name!r} is not known; add it to genlab/nets/flops.py"
        )
    if name == "pallas_call":
        raise GenlabError(
            f"count_flops: the products inside the kernel {params.get('name')} cannot be counted"
        )
    inner = [_walk(jaxpr) for jaxpr in _inner_jaxprs(params)]
    if name == "scan":
        turn = sum(inner)
        # A recurrence without products still works: its elementwise updates are its cost.
        if turn == 0:
            turn = sum(map(_elementwise, _inner_jaxprs(params)))
        return float(params["length"] * turn)
    if name == "cond":
        # Only one branch runs; which one depends on data, so the more expensive one counts.
        return max(inner, default=0.0)
    if name == "while" and sum(inner) > 0:
        raise GenlabError(
            "count_flops: a while loop contains matrix products and its number of turns depends "
            "on data; use lax.scan, or lax.fori_loop with bounds that are Python integers"
        )
    return float(sum(inner))


def _shaped(value: Var | Literal) -> ShapedArray:
    """Return the shape and type of an array in a program."""
    aval = value.aval
    if not isinstance(aval, ShapedArray):
        raise GenlabError(f"count_flops: {aval} is no array; its product cannot be counted")
    return aval


def _shape(value: Var | Literal) -> tuple[int, ...]:
    return _shaped(value).shape


def _dot_flops(equation: JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(_shape(equation.invars[0])[axis] for axis in contracted)
    out = _shaped(equation.outvars[0])
    # A complex product is four real ones.
    real_products = 4.0 if jnp.issubdtype(out.dtype, jnp.complexfloating) else 1.0
    return 2.0 * real_products * depth * math.prod(out.shape)


def _ragged_flops(equation: JaxprEqn) -> float:
    """Return those of the rows that are there, each against the one group that it is routed to."""
    (contracted, _), _ = equation.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    rows, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
    ragged = equation.params["ragged_dot_dimension_numbers"].lhs_ragged_dimensions
    depth = math.prod(rows[axis] for axis in contracted)
    if set(ragged) & set(contracted):
        # The gradient of the kernels: one product per group, and together the groups have all rows.
        return 2.0 * depth * math.prod(out) / _shape(equation.invars[2])[0]
    return 2.0 * depth * math.prod(out)


def _convolution_flops(equation: JaxprEqn) -> float:
    kernel = _shape(equation.invars[1])
    out_channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) / out_channels


def _fourier_flops(equation: JaxprEqn) -> float:
    length = math.prod(equation.params["fft_lengths"])
    kind = jax.lax.FftType(equation.params["fft_type"])
    is_real = kind in (jax.lax.FftType.RFFT, jax.lax.FftType.IRFFT)
    # The real side has all of the samples; the other one about half as many numbers.
    samples = _shape((equation.outvars if kind == jax.lax.FftType.IRFFT else equation.invars)[0])
    batch = math.prod(samples) / length
    return (2.5 if is_real else 5.0) * batch * length * math.log2(max(length, 1))


_PRODUCTS: dict[str, Callable[[JaxprEqn], float]] = {
    "dot_general": _dot_flops,
    "ragged_dot_general": _ragged_flops,
    "conv_general_dilated": _convolution_flops,
    "fft": _fourier_flops,
}
# What a primitive of this kind would be called; "convert_element_type" is none.
_PRODUCT_WORDS = (
    "dot",
    "matmul",
    "gemm",
    "conv_",
    "fft",
    "solve",
    "cholesky",
    "ffi_call",
    "custom_call",
)
_ELEMENTWISE = frozenset(
    {"add", "sub", "mul", "div", "add_any", "exp", "log", "tanh", "logistic", "rsqrt"}
)


def _elementwise(jaxpr: Jaxpr) -> float:
    """Return the floating-point operations, one per element of the output, also of scans and calls
    inside.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name in _ELEMENTWISE:
            out = _shaped(equation.outvars[0])
            if jnp.issubdtype(out.dtype, jnp.inexact):
                # Each of the two parts of a complex number is one.
                parts = 2 if jnp.issubdtype(out.dtype, jnp.complexfloating) else 1
                total += math.prod(out.shape) * parts
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += turns * sum(map(_elementwise, _inner_jaxprs(equation.params)))
    return float(total)


def _inner_jaxprs(params: Mapping[str, object]) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
