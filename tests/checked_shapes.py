"""Shapes and types of the networks and decoders are checked in every test, from a function's first
call on.

Checks are compiled where a function is decorated, which took 1.5 s of every test process, most of
it for functions that no test of the file calls.
"""

import functools
import types
from collections.abc import Callable

import jaxtyping


def check_when_called(packages: list[str]) -> None:
    """Have jaxtyping and beartype check all functions of these packages, which are not imported
    yet.
    """
    at_once = jaxtyping.jaxtyped

    def when_called(function: object = None, *, typechecker: object) -> object:
        if function is None:
            return functools.partial(when_called, typechecker=typechecker)
        if not isinstance(function, types.FunctionType):
            return at_once(function, typechecker=typechecker)
        checked: Callable[..., object] | None = None

        @functools.wraps(function)
        def call(*arguments: object, **named: object) -> object:
            nonlocal checked
            if checked is None:
                checked = at_once(function, typechecker=typechecker)
            return checked(*arguments, **named)

        return call

    # The import hook puts `@jaxtyping.jaxtyped(typechecker=...)` before every function.
    jaxtyping.jaxtyped = when_called
    jaxtyping.install_import_hook(packages, "beartype.beartype")
