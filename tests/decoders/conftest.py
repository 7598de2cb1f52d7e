"""Tests of decoders compile much and run little."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(request):
    """Compile without most optimizations, but for the tests that train for long."""
    jax.config.update(
        "jax_disable_most_optimizations", "known_entropy" not in request.module.__name__
    )
    yield
    jax.config.update("jax_disable_most_optimizations", False)
