"""The variables of commands on toys: one device, which is what a user has, and programs compiled
without most optimizations, because three quarters of the time of a toy go into compiling.
"""

QUICKLY = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
