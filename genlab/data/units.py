"""Semantic units: what a domain may know of every frame, here as a contract, and the lack of them.

In: waves at 16 kHz, mono. Out: one small integer per frame. Speech has units of its recogniser
(recognisers/units.py); music and sound have none.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int


class Units(Protocol):
    """What makes the units of a corpus."""

    @property
    def num_units(self) -> int:
        """U: units are 1 to U; 0 is padding."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digits that change with whatever makes the units."""
        ...

    def encode_units(self, waves: Sequence[Float[np.ndarray, "s"]]) -> list[Int[np.ndarray, "t"]]:
        """Return the units of each wave."""
        ...


class NoUnits:
    """One unit for every frame: it says nothing, and nothing is loaded for it."""

    num_units = 1
    fingerprint = "none"

    def encode_units(self, waves: Sequence[Float[np.ndarray, "s"]]) -> list[Int[np.ndarray, "t"]]:
        """Return a single unit for each wave; every frame of the codec gets it."""
        return [np.ones(1, np.int16) for _ in waves]
