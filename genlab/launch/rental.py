"""Who rents the slice and runs the job there: what every way of doing it has to say and do.

In: a slice and a job. Out: the steps as commands that a person could type, and the same commands
carried out. `GcloudRental` asks Google for a queued resource and works over SSH; `SkyRental` hands
the job to SkyPilot. A class of your own does as well: `carry_out` in errand.py needs no more.
"""

import abc
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

from genlab.launch.job import Job
from genlab.launch.slices import Slice

Say = Callable[[str], None]
Finding = tuple[str, str]  # a sign (ok, -- or !!) and a text, as `genlab doctor` prints them


class Step(NamedTuple):
    """One step: what it is for, and the words of a command; none for what genlab does itself."""

    what: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"# {self.what}\n{shlex.join(self.words)}".rstrip()


class Sight(NamedTuple):
    """What became of the job: waiting, running, preempted, or ended with `code`."""

    state: str
    code: int | None = None


class Rental(abc.ABC):
    """A slice for a job."""

    tool: ClassVar[str]
    where_to_get: ClassVar[str]

    def __init__(self, rented: Slice, job: Job):
        self.rented, self.job = rented, job
        self.holds = True  # False: the slice is another errand's, which this one must not delete

    @abc.abstractmethod
    def steps(self) -> Sequence[Step]:
        """Return what is done, in order, less the copy of the report, which is genlab's own."""

    @abc.abstractmethod
    def check(self) -> Iterator[Finding]:
        """Yield what the tool and the cloud say before anything is rented; nothing is changed."""

    @abc.abstractmethod
    def begin(self, say: Say) -> None:
        """Rent the slice and start the job, or resume with what is already there.

        Raises:
            ToolError: if the cloud refuses, or a host cannot be reached.
        """

    @abc.abstractmethod
    def look(self) -> Sight:
        """Return what the job is doing.

        Raises:
            ToolError: if nothing can be learned just now.
        """

    @abc.abstractmethod
    def last_words(self) -> str:
        """Return the end of the job's log, "" if there is none; never raises `ToolError`."""

    @abc.abstractmethod
    def end(self) -> None:
        """Give the slice back; without one do nothing.

        Raises:
            ToolError: if it may still be there.
        """

    @property
    @abc.abstractmethod
    def end_command(self) -> str:
        """What a person types to give the slice back."""
