"""Every test runs on 8 fake CPU devices, with checked shapes and without silent rank promotion."""

import itertools
import os
import tempfile
from pathlib import Path

from quick_commands import with_devices

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {with_devices(8)}"
# A collective holds its thread until all devices came. On 8 threads, devices with two of them in
# flight lock each other out of the pool, and XLA aborts after 40 s.
os.environ.setdefault("NPROC", "64")
# Compiled programs survive from one run of the tests to the next, and are shared with the processes
# that tests start.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "genlab-compiled-tests")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

from checked_shapes import check_when_called
from executed import VARIABLE, count_package

check_when_called(["genlab.nets", "genlab.decoders"])
COUNTING = count_package() if VARIABLE in os.environ else None

from genlab.machine.memory import reuse_memory  # noqa: E402

reuse_memory()

import jax  # noqa: E402
import pytest  # noqa: E402

QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"
# Toys compile for longer than they run, so programs are compiled without most optimizations, and so
# are those of commands that tests start. Not in these files: they train for long, or what they
# compare is that of optimized programs.
OPTIMIZED = {"test_known_entropy"}

TESTS = itertools.count()
LONG = {"test_compare", "test_fuzz", "test_hosts", "test_library", "test_sweep_kills"}


def pytest_addoption(parser):
    """Goldens are replaced on purpose, never by loosening a comparison."""
    parser.addoption(
        "--update-goldens",
        action="store_true",
        help="rewrite tests/goldens from what the code gives",
    )


def pytest_collection_modifyitems(items):
    """Put the files with the longest tests first: at the end, no process waits for such a one, and
    the second process takes others' tests from the end of the list.
    """
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_sessionfinish():
    """Write which parts of genlab/ this process ran, where that is asked for."""
    if COUNTING is not None:
        COUNTING.write(Path(os.environ[VARIABLE]))


@pytest.fixture
def key():
    """A fixed random key."""
    return jax.random.key(20)


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(request):
    """Compile without most optimizations, in the files that do not ask for them."""
    if request.path.stem not in OPTIMIZED:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    os.environ[QUICK] = "0"
    yield
    os.environ[QUICK] = "1"
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def forget_programs():
    """Drop compiled programs before their memory maps run out: past 65,530 of them XLA crashes on
    Linux.
    """
    yield
    # Counting them takes 5 ms, and no test adds more than some hundred.
    maps = Path("/proc/self/maps")
    if next(TESTS) % 16 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
