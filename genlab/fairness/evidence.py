"""What the gates of a verdict look at: one comparison on one score.

In: entries of results.json and ledger.json. Out: which arms are compared, and which baselines each
of them does and does not beat.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from genlab.evaluate.energy import SECOND_SCORES
from genlab.evaluate.entries import AuditEntry, ControlEntry, DifferenceEntry, ScoreEntry
from genlab.evaluate.table import known_metric
from genlab.fairness.words import BASELINE_WORDS, list_words, score_words
from genlab.run.bounds import BIGRAM, FORECAST_BASELINES, HEARD_BASELINES, UNIGRAM, Baseline

BITS: Final = "bits_per_s"


class Compared(NamedTuple):
    """An arm that is compared, on the score that decides."""

    name: str
    title: str
    family: str
    reads: str
    """Codes or latents; empty if results.json does not say."""
    score: ScoreEntry


class Evidence(NamedTuple):
    """What the gates look at: one comparison and one score."""

    score: str
    arms: Sequence[Compared]
    """Best first."""
    is_controlled: bool
    controls: Sequence[ControlEntry] = ()
    differences: Sequence[DifferenceEntry] = ()
    audit: Mapping[str, AuditEntry] | None = None
    struck: Mapping[str, str] = {}
    real: float | None = None
    """The score of the prompts' real clips; None if they have none."""
    needs_all: bool = False
    """Every arm is part of what is said, so each must beat its floors; else one that does not is
    left out of the sentence as not trained enough.
    """
    scope: str = ""
    """Whom it holds for, if not for everybody (`evaluate/scope.py`)."""

    def find_pair(self, arm: str, other: str, score: str = "") -> DifferenceEntry | None:
        """Return the paired difference of two rows, whichever way round it is stored; on another
        score than the deciding one if it is named.
        """
        return next(
            (
                item
                for item in self.differences
                if item["score"] == (score or self.score)
                and {item["a"], item["b"]} == {arm, other}
                and item["difference"] is not None
            ),
            None,
        )

    def is_better(self, arm: str, other: str, score: str = "") -> bool:
        """Return whether an arm is significantly better than another row."""
        pair = self.find_pair(arm, other, score)
        return pair is not None and pair.get("better") == arm

    @property
    def second(self) -> str:
        """The score that must not contradict the deciding one; empty if there is none."""
        return SECOND_SCORES.get(self.score, "")

    def unbeaten(self, arm: str) -> dict[str, Sequence[Baseline]]:
        """Return by score the floors that an arm does not significantly beat, those alone that were
        measured.
        """
        return self._floors_where(
            lambda floor, score: (
                self.find_pair(arm, floor, score) is not None
                and not self.is_better(arm, floor, score)
            )
        )

    def unmeasured(self) -> dict[str, Sequence[Baseline]]:
        """Return by score the floors that some compared arm was not compared with."""
        return self._floors_where(
            lambda floor, score: any(
                self.find_pair(arm.name, floor, score) is None for arm in self.compared
            )
        )

    def name_floors(self, found: Mapping[str, Sequence[Baseline]]) -> str:
        """Return floors by score in the words of a sentence that denies something of them."""
        told = [
            list_words([BASELINE_WORDS[floor] for floor in floors], "or")
            # One score needs no name: the page says which decides.
            + (f" by {score_words(score)}" if self.second else "")
            for score, floors in found.items()
        ]
        return ", nor ".join(told)

    def _floors_where(
        self, holds: Callable[[Baseline, str], bool]
    ) -> dict[str, Sequence[Baseline]]:
        found: dict[str, Sequence[Baseline]] = {}
        for score in filter(None, (self.score, self.second)):
            found[score] = [floor for floor in self.floors if holds(floor, score)]
        return {score: floors for score, floors in found.items() if floors}

    @property
    def floors(self) -> Sequence[Baseline]:
        """The rows that an arm must beat on this score: all that have it."""
        if self.score == BITS:
            return (UNIGRAM, BIGRAM)
        metric = known_metric(self.score)
        is_forecast = metric is not None and metric.needs == "tokens"
        return FORECAST_BASELINES if is_forecast else HEARD_BASELINES

    @property
    def untrained(self) -> list[Compared]:
        """The arms that do not significantly beat every floor that was measured."""
        return [arm for arm in self.arms if self.unbeaten(arm.name)]

    @property
    def compared(self) -> list[Compared]:
        """The arms that the sentence is about: the best one, and the others that are trained
        enough.
        """
        left_out = [] if self.needs_all else self.untrained
        return [arm for arm in self.arms if arm is self.arms[0] or arm not in left_out]
