"""JSON files of a run directory: written whole by one process, read back or None.

`read_json` is for files whose loss costs nothing; what counts is read by `stored.read_stored`.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import JsonValue

from genlab.machine import hosts
from genlab.run import trust
from genlab.run.ownership import check_is_ours
from genlab.run.stored import DamagedError, parse_json, read_content, write_atomically


def write_json(path: Path, values: object) -> None:
    """Write `values` so that a reader, or a restart after a crash, sees the old file or the new
    one, whole.
    """
    if not hosts.is_leader():
        return
    write_atomically(path, json.dumps(values, indent=1))


def write_config(
    run_dir: Path, values: Mapping[str, object], *, may_change: Collection[str] = ()
) -> None:
    """Write config.json and, if it refers to Python files, their digests; those that `may_change`
    refers to may be others than the directory was made with.

    Raises:
        ConfigError: if the directory was made with other files; nothing is written then.
        GenlabError: if somebody else's files lie there, or links that lead out.
    """
    if hosts.is_leader():
        check_is_ours(run_dir)
    trust.check_pins(values, run_dir, except_for=may_change)
    if pins := trust.pins_of(values):
        write_json(run_dir / trust.PINS_NAME, pins)
    write_json(run_dir / "config.json", values)


def read_json(path: Path) -> JsonValue:
    """Return the content of `path`, or None if it is missing or damaged. What counts is read by
    `read_stored`.
    """
    try:
        content = read_content(path, fix="")
        return None if content is None else parse_json(content, path=path, fix="")
    except DamagedError:
        return None
