"""One self-contained page that says which arm won, how certain that is and at what cost, with audio
players.
"""

from genlab.report.clips import PromptRow
from genlab.report.page import write_report

__all__ = ["PromptRow", "write_report"]
