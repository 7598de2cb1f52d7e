"""Page faults of large buffers, counted by the kernel: a number that a busy machine does not
change.
"""

import gc
import subprocess
import sys

import pytest

from genlab.machine.memory import collector_paused, reuse_memory

# 100 MiB, freed and allocated again five times, in a thread that is not the first one, as XLA does.
CHURN = """
import resource, sys, threading
from genlab.machine.memory import memory_is_reused, reuse_memory
if sys.argv[1] == "kept":
    assert reuse_memory() and memory_is_reused()
else:
    assert not memory_is_reused()

def churn():
    for _ in range(5):
        buffer = b"x" * (100 << 20)
        del buffer

thread = threading.Thread(target=churn)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(mode, **environment):
    command = [sys.executable, "-c", CHURN, mode]
    return int(
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.skipif(not reuse_memory(), reason="only glibc has these settings")
def test_freed_memory_is_used_again():
    pages = (100 << 20) // 4096
    fresh, kept = faults("fresh"), faults("kept")
    assert fresh > 5 * pages, "without the setting every buffer is mapped again"
    assert kept < 1.5 * pages + 5000, "with it the first buffer's pages serve all"


@pytest.mark.skipif(not reuse_memory(), reason="only glibc has these settings")
def test_a_variable_in_the_environment_stands():
    pages = (100 << 20) // 4096
    assert faults("kept", MALLOC_MMAP_MAX_="65536", MALLOC_MMAP_THRESHOLD_="131072") > 4 * pages


def test_the_collector_is_as_it_was_after_a_pause():
    for was_enabled in (True, False):
        (gc.enable if was_enabled else gc.disable)()
        try:
            with pytest.raises(ImportError), collector_paused():
                assert not gc.isenabled()
                raise ImportError
            assert gc.isenabled() is was_enabled
        finally:
            gc.enable()
