"""Settings of the machine under jax: memory that is used again instead of given back.

XLA:CPU allocates large fresh buffers in every step. By default the C library maps each of them anew and returns it to
the kernel afterwards, so a training step spends much of its time in page faults. Told to keep freed memory, it hands
the same pages out again. In: nothing. Out: whether it worked; elsewhere than on glibc nothing is changed.
"""

import ctypes
import os
import platform

# malloc.h of glibc. A threshold of -1 switches trimming off.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEEP_ALL, _NEVER_MAP = -1, 0

_was_set = False


def reuse_memory() -> bool:
    """Keep freed memory in the process; call it before jax starts, at most once.

    It has the effect of the environment variables MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=137438953472, and
    yields to them: whoever sets either has decided.

    Returns:
        Whether freed memory is kept now.
    """
    global _was_set
    if memory_is_reused() or not _is_glibc() or _environment() != (None, None):
        return memory_is_reused()
    libc = ctypes.CDLL(None)
    _was_set = bool(libc.mallopt(_M_MMAP_MAX, _NEVER_MAP)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_ALL))
    return _was_set


def memory_is_reused() -> bool:
    """Return whether freed memory is kept, by `reuse_memory` or by the environment."""
    return _was_set or (_is_glibc() and _environment()[0] == "0")


def _environment() -> tuple[str | None, str | None]:
    return os.environ.get("MALLOC_MMAP_MAX_"), os.environ.get("MALLOC_TRIM_THRESHOLD_")


def _is_glibc() -> bool:
    return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"
