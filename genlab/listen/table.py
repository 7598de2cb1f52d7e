"""The result of a listening test as plain text. In: listening.json as a dict. Out: tables and one
verdict per test.
"""

from genlab.report.additions import Listening
from genlab.report.console import fold
from genlab.report.listening import counted, listening_tables, verdicts_of


def format_listening(merged: Listening) -> str:
    """Return who was counted, the tables, and what they settle."""
    tables = [fold(rows) for _, rows in listening_tables(merged)]
    return "\n\n".join(["\n".join(counted(merged)), *tables, "\n".join(verdicts_of(merged))])
