"""FLOPs of any JAX function, walked over its jaxpr.

In: a function and its arguments (arrays or shapes). Out: the floating-point operations of its matrix products and
convolutions, 2mnk each, times the length of the scans around them; branches count as their dearest. What the compiler
would discard as unused is not counted. Attention counts as the plain products on every platform, so a budget does not
depend on the machine: a kernel's products are hidden from the walk, and it repeats some of them. XLA's own
`cost_analysis` counts the body of a scan once, so it cannot serve here. The formulas of the decoders are checked
against this walk.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters import partial_eval
from jax.sharding import AbstractDevice, AbstractMesh

from genlab.config import GenlabError

# Tracing under it chooses what runs without kernels (nets/attention.py).
PLAIN = AbstractMesh((), (), abstract_device=AbstractDevice("cpu", None, "cpu"))


def count_flops(fn: Callable, *args: Any) -> float:
    """Return the FLOPs of the matrix products and convolutions in `fn(*args)`.

    Raises:
        GenlabError: if a loop whose number of turns depends on data contains some, or if `fn` calls a kernel itself.
    """
    with jax.sharding.use_abstract_mesh(PLAIN):
        closed = jax.make_jaxpr(fn)(*args)
    used, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _walk(used)


def _walk(jaxpr: Jaxpr) -> float:
    return float(sum(_equation_flops(equation) for equation in jaxpr.eqns))


def _equation_flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_channels = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / out_channels
    if name == "pallas_call":
        raise GenlabError(f"count_flops: the products inside the kernel {params.get('name')} cannot be counted")
    inner = [_walk(jaxpr) for jaxpr in _inner_jaxprs(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while" and sum(inner) > 0:
        raise GenlabError(
            "count_flops: a while loop contains matrix products and its number of turns depends on data; "
            "use lax.scan, or lax.fori_loop with bounds that are Python integers"
        )
    return sum(inner)


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
