"""The outputs of a comparison: whether they belong together, and how new ones replace them.

    results.json ledger.json report.html report.md scores.csv rows/NAME.json
    outputs.json        the digest of each of these files, and one digest of all
    outputs.partial/    outputs that are being made; once outputs.json is in there, they are whole

A run is finished when its files have the digests in outputs.json, so a mixture of old and new files
never counts as finished. New outputs are written to outputs.partial/ and moved when they are
complete. If a process is killed before that, the old outputs are unchanged; if it is killed while
moving them, `settle` completes the move. Runs made before
outputs.json existed count as finished if they have results and a report.
"""

import functools
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from genlab.config import ConfigError, GenlabError, digest
from genlab.experiment import Comparison
from genlab.machine import hosts
from genlab.report.inputs import Ledger, Results, WholeResults, read_ledger, read_scores
from genlab.report.inputs import read_results as read_whole
from genlab.run.files import read_json, write_json
from genlab.run.status import check_held

MANIFEST = "outputs.json"
STAGE = "outputs.partial"
SCORED = ("results.json", "ledger.json")
RENDERED = ("report.html", "report.md", "scores.csv")


def open_stage(run_dir: Path, config: Mapping[str, object], *, keep: bool = False) -> Path:
    """Return the directory for new outputs; with `keep`, what was made for the same config."""
    staged = run_dir / STAGE
    is_wanted = keep and read_json(staged / "config.json") == config
    if not is_wanted and hosts.is_leader():
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        write_json(staged / "config.json", config)
    return staged


def seal(results: WholeResults, ledger: Ledger) -> None:
    """Give results and ledger the digest by which they are known to belong together."""
    results.pop("digest", None)
    ledger.pop("digest", None)
    results["digest"] = ledger["digest"] = digest([results, ledger])


def publish(run_dir: Path) -> None:
    """Replace the outputs of a run by the staged ones; those that are not staged stay."""
    check_held(run_dir)
    staged = run_dir / STAGE
    rows = {path.name for at in (run_dir, staged) for path in (at / "rows").glob("[!.]*.json")}
    names = [*SCORED, *RENDERED, *(f"rows/{name}" for name in sorted(rows))]
    places = {name: staged / name if (staged / name).exists() else run_dir / name for name in names}
    files = {name: _digest_of(path) for name, path in places.items()}
    values = {"schema": 1, "digest": digest(files), "files": files}
    values |= {"config": _config_at(staged)}
    write_json(staged / MANIFEST, values)  # from here on the old outputs are history
    settle(run_dir)


def check_made_with(run_dir: Path) -> None:
    """Refuse a config.json that is not the one whose outputs lie there; call it after `settle`.

    Somebody may have edited it: what it then says was never trained, sampled or scored.

    Raises:
        GenlabError: if so.
    """
    manifest = read_json(run_dir / MANIFEST)
    made = manifest.get("config") if isinstance(manifest, dict) else None
    if made is not None and made != _config_at(run_dir):
        raise GenlabError(
            f"{run_dir / 'config.json'}: changed since the results here were made with it; restore "
            "it, or use another --out (how a run is scored is changed with `genlab evaluate "
            "RUN_DIR FIELD=VALUE`)"
        )


def _config_at(folder: Path) -> str | None:
    """Return the digest of the comparison whose config.json lies in a folder, None if there is none
    that can be read. It leaves out `settings`, which say how a run is watched and not what it is,
    and `evaluation` and `metrics`, whose own code may change before a run is scored again.
    """
    found = read_json(folder / "config.json")
    if not isinstance(found, dict):
        return None
    try:
        return Comparison.from_dict(found).digest(exclude={"settings", "evaluation", "metrics"})
    except ConfigError:
        return None


def settle(run_dir: Path) -> bool:
    """Complete a replacement that was cut short; call it under the run's lock.

    Returns whether there was one.
    """
    staged = run_dir / STAGE
    manifest = read_json(staged / MANIFEST)
    if manifest is None or not hosts.is_leader():
        # killed when all had been moved: what is left holds no file
        if hosts.is_leader() and not any(path.is_file() for path in staged.rglob("*")):
            shutil.rmtree(staged, ignore_errors=True)
        return False
    places = (staged, run_dir)  # some may have been moved already
    if any(all(_digest_of(at / name) != file for at in places) for name, file in _files(manifest)):
        shutil.rmtree(staged)  # damaged afterwards: what it would have replaced may still be whole
        return False
    found = [path for path in staged.rglob("[!.]*") if path.is_file()]
    for path in sorted(path for path in found if path != staged / MANIFEST):
        target = run_dir / path.relative_to(staged)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
    os.replace(staged / MANIFEST, run_dir / MANIFEST)  # last: without it all of this is done again
    shutil.rmtree(staged)
    return True


def is_finished(run_dir: Path) -> bool:
    """Return whether all outputs are there and belong together."""
    manifest = read_json(run_dir / MANIFEST)
    if (run_dir / STAGE / MANIFEST).exists():
        return False
    if manifest is not None:
        return not find_wrong(run_dir)
    results = read_json(run_dir / "results.json")
    is_old = isinstance(results, dict) and "digest" not in results
    return is_old and (run_dir / "report.html").exists()


def find_wrong(run_dir: Path) -> list[str]:
    """Return the outputs that are not as outputs.json lists them; itself, if it is missing."""
    manifest = read_json(run_dir / MANIFEST)
    wrong = [name for name, file in _files(manifest) if _digest_of(run_dir / name) != file]
    return wrong if manifest is not None else [MANIFEST]


def read_results(run_dir: Path) -> Results:
    """Return results.json.

    Raises:
        GenlabError: if it is missing, or ledger.json is not of the same `compare` or `evaluate`.
    """
    parts = [read_json(run_dir / name) for name in SCORED]
    ours, theirs = (part.get("digest") if isinstance(part, dict) else None for part in parts)
    if ours is not None and ours != theirs:
        raise GenlabError(
            f"{run_dir}: results.json has digest {ours!s:.20} and ledger.json "
            f"{theirs!s:.20}, so they do not belong together; run the last "
            "`genlab compare` or `genlab evaluate` again"
        )
    results = read_scores(run_dir)
    if results is None:
        raise GenlabError(f"{run_dir}: no finished comparison here; run `genlab compare` first")
    return results


def read_outputs(run_dir: Path) -> tuple[WholeResults, Ledger]:
    """Return results.json and ledger.json, as `read_results` does, of a run that has both."""
    read_results(run_dir)
    results, ledger = read_whole(run_dir), read_ledger(run_dir)
    if results is None or ledger is None:
        raise GenlabError(f"{run_dir}: no finished comparison here; run `genlab compare` first")
    return results, ledger


def _files(manifest: object) -> list[tuple[str, str]]:
    files = manifest.get("files") if isinstance(manifest, dict) else None
    return list(files.items()) if isinstance(files, dict) else [(MANIFEST, "")]  # damaged


def _digest_of(path: Path) -> str | None:
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return _digest_at(str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


@functools.lru_cache(maxsize=4096)  # a sweep asks every second
def _digest_at(path: str, *state: int) -> str | None:
    """Return the digest of a file in this state: a clock that was set back may give two contents
    one time, but no two files that replace each other one inode and both times.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None
