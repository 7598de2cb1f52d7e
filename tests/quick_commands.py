"""The variables with which tests and the commands that they start compile toys in a third of the
CPU time, because three quarters of the time of a toy go into compiling.

XLA:CPU's newer emitter of fused loops goes through more compilers than the older one, for the same
operations; a program that is split for several threads to compile costs more than whole; and LLVM's
expensive passes gain nothing where a program runs once.
"""

from importlib.metadata import version

# XLA aborts at a flag that its build does not know, and the first goes when the older emitter does.
FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
FLAGS = FLAGS if version("jaxlib").startswith("0.10.") else ""
# One device, which is what a user has.
QUICKLY = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def with_devices(count: int) -> str:
    """Return XLA_FLAGS for so many devices on a CPU."""
    return f"--xla_force_host_platform_device_count={count} {FLAGS}"
