"""What became of the files of an imported corpus, as `report.json` keeps it beside the audio."""

import dataclasses
import json
from pathlib import Path

from genlab.data.digests import rebuild
from genlab.data.listing import Skipped, count_of, shorten
from genlab.run.stored import read_stored, write_atomically

REPORT_NAME = "report.json"
SUMMARY_LINES = 20


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What became of the files of a corpus."""

    used: int
    used_s: float
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    copies: int = 0

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What is worth saying of files that were used: copies first."""
        if not self.copies:
            return self.notes
        are = "is a copy" if self.copies == 1 else "are copies"
        clips = count_of(self.copies, "clip")
        return (f"{clips} {are} of another one in the same split", *self.notes)

    def summary(self, max_lines: int = SUMMARY_LINES) -> str:
        """Return a few lines for a person: the counts, then each skipped file with its reason.

        The caller says where the full report is, if it was written.
        """
        lines = [
            (
                f"{count_of(self.used, 'clip')} used ({self.used_s / 60:.1f} min), "
                f"{len(self.skipped)} skipped"
            )
        ]
        lines += [f"  {shorten(item.path)}: {item.reason}" for item in self.skipped[:max_lines]]
        if len(self.skipped) > max_lines:
            lines.append(f"  and {len(self.skipped) - max_lines} more skipped")
        lines += [f"  note: {note}" for note in self.all_notes[:max_lines]]
        if len(self.all_notes) > max_lines:
            lines.append(f"  and {len(self.all_notes) - max_lines} more notes")
        return "\n".join(lines)

    def in_one_line(self, max_lines: int = SUMMARY_LINES) -> str:
        """Return the summary as an error quotes it."""
        return "; ".join(line.strip() for line in self.summary(max_lines).splitlines())

    def save(self, directory: Path) -> None:
        """Write `report.json`."""
        values = dataclasses.asdict(self) | {"skipped": [item._asdict() for item in self.skipped]}
        write_atomically(directory / REPORT_NAME, json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> "ImportReport | None":
        """Read the report of a built corpus; None if its kind has no report."""
        return read_stored(Path(directory) / REPORT_NAME, cls, fix=rebuild(Path(directory)))
