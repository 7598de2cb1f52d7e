"""How fast this machine multiplies matrices of one size: what the speed of a program is compared
with.

In: the shape of a product. Out: `MatrixProduct`, whose `run` can take turns with the program, so
that both meet the same load, the same threads and the same clock rate.
"""

import jax
import jax.numpy as jnp
import numpy as np

FLOPS_PER_RUN = 2e9  # 10 to 20 ms: long against sending a program to the device
MOST_PAIRS = 500


class MatrixProduct:
    """A float32 product [rows, inner] x [inner, columns] and the one back, time after time, in one
    compiled program.
    """

    def __init__(self, rows: int, inner: int, columns: int):
        self.shape = f"{rows}x{inner}x{columns}"
        pair = 4 * rows * inner * columns
        pairs = min(MOST_PAIRS, max(1, round(FLOPS_PER_RUN / pair)))
        self.flops = float(pairs * pair)
        rng = np.random.default_rng(0)
        # Orthonormal vectors: the second product undoes the first, so however often it is repeated,
        # numbers neither overflow nor become so small that a CPU is slow on them.
        basis, _ = np.linalg.qr(rng.standard_normal((max(inner, columns), min(inner, columns))))
        basis = basis.astype(np.float32)
        there, back = (basis.T, basis) if inner <= columns else (basis, basis.T)
        # Both copies are laid out as they are read, as the weights of a layer are.
        weights = (
            jnp.asarray(np.ascontiguousarray(there)),
            jnp.asarray(np.ascontiguousarray(back)),
        )
        self._args = (jnp.asarray(rng.standard_normal((rows, inner)), jnp.float32), *weights)

        @jax.jit
        def repeat(x, there, back):
            # One after the other, or the compiler would drop all but one of them.
            return jax.lax.fori_loop(0, pairs, lambda _, x: (x @ there) @ back, x)

        self._repeat = repeat

    def run(self) -> jax.Array:
        """Multiply, wait for it, and return the last matrix, [rows, inner]."""
        return jax.block_until_ready(self._repeat(*self._args))
