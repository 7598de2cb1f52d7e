"""hardware.json: what was asked and what came of it, written whole after every row.

A case is `measured`, `failed` (with its error), `skipped` (it cannot be measured here, with the
reason) or `cut off`. A second call asks failed ones and those that were cut off again, after those
that were never begun, so a case that crashes its process cannot keep the rest from being asked.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue
from typing_extensions import TypedDict

from genlab.config import GenlabError
from genlab.run.files import write_json
from genlab.run.ownership import refuse_to_replace, says
from genlab.run.stored import OPEN, Number, read_stored

NAME: Final = "hardware.json"
FORMAT: Final = "genlab hardware"
State = Literal["measured", "failed", "skipped", "cut off"]
FIX = "move it away, and the pack starts from the beginning"


class Entry(TypedDict):
    """One case: `seconds` is what it took, and `row` what was measured."""

    __pydantic_config__ = OPEN  # pyright: ignore[reportGeneralTypeIssues]
    state: State
    seconds: Annotated[Number, Field(ge=0)]
    row: dict[str, JsonValue]
    text: str


class StepRecord(TypedDict):
    """One step: its question and its cases by name; `missing` were never begun."""

    __pydantic_config__ = OPEN  # pyright: ignore[reportGeneralTypeIssues]
    question: str
    cases: dict[str, Entry]
    missing: list[str]


class Content(TypedDict):
    """All of it."""

    __pydantic_config__ = OPEN  # pyright: ignore[reportGeneralTypeIssues]
    format: Literal["genlab hardware"]
    size: str
    steps: dict[str, StepRecord]


class Record:
    """The record of a folder, kept on disk."""

    def __init__(self, folder: Path, size: str):
        self.path = folder / NAME
        self.content: Content = {"format": FORMAT, "size": size, "steps": {}}
        found = read_content(folder)
        if found is None:
            refuse_to_replace(self.path, says(self.path, {"format", "steps"}))
            return
        if found["size"] != size:
            raise GenlabError(
                f"{self.path}: holds rows of size {found['size']!r}, and now {size!r} is asked; "
                "name another folder with --out"
            )
        self.content = found

    def begin(self, step: str, question: str, cases: list[str]) -> None:
        """Note which cases a step has."""
        before = self.content["steps"].get(step)
        known = {} if before is None else before["cases"]
        missing = [case for case in cases if case not in known]
        self.content["steps"][step] = {"question": question, "cases": known, "missing": missing}
        self._write()

    def put(self, step: str, case: str, entry: Entry) -> None:
        """Keep what came of a case."""
        kept = self.content["steps"][step]
        kept["cases"][case] = entry
        kept["missing"] = [name for name in kept["missing"] if name != case]
        self._write()

    def in_state(self, step: str, *states: State) -> list[str]:
        """Return the cases of a step that are in one of these states."""
        cases = self.content["steps"].get(step, {"cases": {}})["cases"]
        return [name for name, entry in cases.items() if entry["state"] in states]

    def is_done(self, step: str) -> bool:
        """Return whether every case of a step was measured or cannot be measured here."""
        kept = self.content["steps"].get(step)
        if kept is None or kept["missing"]:
            return False
        return len(self.in_state(step, "measured", "skipped")) == len(kept["cases"])

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.content)


def read_content(folder: Path) -> Content | None:
    """Return what a folder's record holds, None if there is none.

    Raises:
        DamagedError: if the file is there and is no record.
    """
    return read_stored(folder / NAME, Content, fix=FIX)


def failed(entry: Entry) -> bool:
    """Return whether something is wrong: it failed, or missed its tolerance."""
    return entry["state"] == "failed" or entry["row"].get("passed") is False
