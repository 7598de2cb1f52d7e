"""Whom a sentence is about: the units that intervals resample, and the voices that they do not.

In: what one unit of the statistics is, and the speakers of the scored clips. Out: an entry of
results.json, and the words for it. Prompts clustered by text cover other texts, of the same voices:
texts and voices are both a sample (Clark 1973, "The language-as-fixed-effect fallacy"), and where
each text is spoken by one of eight voices, nothing is known of a ninth. An interval over a handful
of voices would be too wide to use and too unsure to trust, so the sentence is restricted to them.
With `MIN_SPEAKERS` or more, a corpus whose `unit` is "speaker" has them as its units: then the
interval covers other voices, and, where each says texts of its own, other texts as well.
"""

from collections.abc import Sequence
from typing import Final

import pydantic
from typing_extensions import TypedDict

from genlab.run.stored import OPEN, Count

MIN_SPEAKERS: Final = 10


@pydantic.with_config(OPEN)
class UnitsEntry(TypedDict):
    """What the intervals of a comparison resample."""

    unit: str
    """One unit in a word: text, speaker, clip, piece."""
    speakers: Count
    """Speakers of the scored clips; 0 where nobody is named."""


def count_speakers(unit: str, speakers: Sequence[str]) -> UnitsEntry:
    """Return the entry of the scored clips, whose speakers are these."""
    return {"unit": unit, "speakers": len(set(filter(None, speakers)))}


def describe_scope(units: UnitsEntry | None) -> str:
    """Return whom a sentence holds for, as in "for ..."; empty where the units are voices, enough
    of them, or where there are none.
    """
    if units is None or not units["speakers"] or units["unit"] not in ("text", "speaker"):
        return ""
    if units["unit"] == "speaker" and units["speakers"] >= MIN_SPEAKERS:
        return ""
    voices = "the one voice" if units["speakers"] == 1 else f"the {units['speakers']} voices"
    return f"{voices} of this corpus"


def describe_units(units: UnitsEntry | None) -> str:
    """Return a sentence about the units of the intervals; empty where results.json does not say."""
    if units is None:
        return ""
    told = f"Their units are {units['unit']}s"
    if not (scope := describe_scope(units)):
        return f"{told}."
    if units["unit"] == "speaker":
        return f"{told}, too few of them to say anything of others: it is said of {scope}."
    told += f": they cover other texts of {scope}, and say nothing of other voices"
    if units["speakers"] >= MIN_SPEAKERS:
        told += ", which a corpus with unit=speaker covers"
    return f"{told}."
