"""Settings of the machine under jax: memory that is used again instead of given back.

XLA:CPU allocates large fresh buffers in every step, from its own threads. By default the C library
maps each of them again and returns it to the kernel afterwards, so a training step spends much of
its time in page faults. If it keeps freed memory, and serves all threads from the one heap that can
hold large buffers, it reuses the same pages.

In: nothing. Out: whether it worked; elsewhere than on glibc nothing is changed. And how much memory
there is.
"""

import contextlib
import ctypes
import gc
import os
import platform
from collections.abc import Iterator

# Environment variable of glibc, its number in malloc.h, our value. A trim threshold of -1 switches
# trimming off. Without the last one, buffers above 64 MiB are mapped in every thread but the first,
# despite the other two.
_SETTINGS = (
    ("MALLOC_MMAP_MAX_", -4, 0),
    ("MALLOC_TRIM_THRESHOLD_", -1, -1),
    ("MALLOC_ARENA_MAX", -8, 1),
)

_is_kept = False


def reuse_memory() -> bool:
    """Keep freed memory in the process; call it before jax starts.

    It does what MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=137438953472 MALLOC_ARENA_MAX=1 in the
    environment would do; a variable that is already set there wins.

    Returns:
        Whether freed memory is kept now.
    """
    global _is_kept
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        _is_kept = all(
            [name in os.environ or libc.mallopt(number, value) for name, number, value in _SETTINGS]
        )
    return _is_kept


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Collect no garbage while modules are imported.

    What they make stays, and Python would look at all of it again and again: that is a quarter of
    what the imports cost.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # Both together move all objects to the oldest generation, at no cost: else the next
            # allocation would make up for the whole pause. What somebody froze stays frozen.
            if gc.get_freeze_count() == 0:
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def memory_is_reused() -> bool:
    """Return whether `reuse_memory` has taken effect in this process."""
    return _is_kept


def memory_bytes() -> int | None:
    """Return the memory of this machine, None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def device_memory_bytes() -> int | None:
    """Return the memory of all devices of all processes together, None where it is not known.

    Devices without memory of their own use that of the machine.
    """
    import jax

    devices = jax.devices()
    if devices[0].platform == "cpu":
        here = memory_bytes()
        return None if here is None else here * jax.process_count()
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return None if limit is None else limit * len(devices)
