"""One self-contained page that says which arm won, how surely, at what cost, and lets the reader listen."""

from genlab.report.clips import PromptRow
from genlab.report.page import write_report

__all__ = ["PromptRow", "write_report"]
