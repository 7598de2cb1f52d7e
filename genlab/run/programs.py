"""Compiled programs, kept from one command to the next in the cache.

In: the commands that compute call `keep_programs` before anything compiles. Out: jax's persistent
compilation cache is on; a second run, one with other seeds or one that resumes then loads what the
first has compiled. jax finds an entry by a digest of the program, its options, the version of the
compiler and the device, so nothing stale is ever used.

Entries are machine code. They are therefore kept in the user's own cache (`~/.cache/genlab`), not
in the `.genlab_cache` of a directory that may come from somebody else, and only in a folder that
nobody else can write. A GENLAB_CACHE that is set was chosen by the user, and holds them too.

Whoever sets JAX_COMPILATION_CACHE_DIR, or JAX_ENABLE_COMPILATION_CACHE=0, decides instead.
"""

import contextlib
import hashlib
import os
import platform
import stat
import warnings
from pathlib import Path

import jax

from genlab.config import GenlabError
from genlab.run.cache import CACHE_VARIABLE, cache_root

LEAST_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# Loading a program takes a few milliseconds. jax itself keeps those alone that took a second, which
# leaves out most of what a comparison compiles.
LEAST_S = 0.05
KEPT_BYTES = 1 << 30


def keep_programs() -> Path | None:
    """Load compiled programs from the cache and keep new ones there; return the folder, or None if
    they are not kept by genlab.

    A cache that cannot be written costs the time of compiling again and nothing else.
    """
    settings = jax.config
    is_theirs = settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    if is_theirs:
        return None
    try:
        folder = _root().absolute() / f"programs-{_machine()}"
        # jax would make it with the rights of the umask, which often let a group write.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK) or not _is_ours_alone(folder):
            return None
        _remove_oldest(folder)
    # The command says so itself if it needs the cache; RuntimeError is a user without a home.
    except (GenlabError, OSError, RuntimeError):
        return None
    # An entry that a killed process left half-written cannot be read, and a full disk takes no new
    # one. The program is compiled in both cases: nothing that a user has to know.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if LEAST_VARIABLE not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_S)
    return folder


def _root() -> Path:
    if os.environ.get(CACHE_VARIABLE):
        return cache_root()
    ours = os.environ.get("XDG_CACHE_HOME")
    return (Path(ours) if ours else Path.home() / ".cache") / "genlab"


def _is_ours_alone(folder: Path) -> bool:
    """Return whether this user owns the folder and nobody else may write into it."""
    if os.name != "posix":
        return True
    facts = folder.stat()
    return facts.st_uid == os.geteuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _machine() -> str:
    """Return a digest of the processor: what is compiled for one may not run on another, and
    machines can share a cache.
    """
    about = platform.machine() + platform.system()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        # Of the first core: the others are alike, and clock speeds change.
        wanted = ("model name", "flags", "Features", "CPU part")
        named = {line.partition(":")[0].strip(): line for line in reversed(lines)}
        about += "".join(named.get(name, "") for name in wanted)
    return hashlib.sha256(about.encode()).hexdigest()[:8]


def _remove_oldest(folder: Path) -> None:
    """Remove the oldest programs until the others take less than KEPT_BYTES."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may remove it at this moment
            facts = path.stat()
            if path.is_file():
                found.append((facts.st_mtime, facts.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > KEPT_BYTES:
            path.unlink(missing_ok=True)
