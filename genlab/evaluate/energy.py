"""Scores of the next block: what a decoder would do next, scored on its samples alone, for every
family.

Given the first half of a clip, how far are draws of the block after its middle from the real one
(Gneiting and Raftery 2007, section 4.3, with the sign turned, so that lower is better)?

    Eq. E |X - y| - 1/2 E |X - X'|,

with y the real block and X, X' independent draws. It is proper: in expectation no forecast beats
the true distribution. That ranks laws, so it decides at the bare law of each family: temperature
1, no guidance, nothing cut off. At a sampler that was tuned for another score it judges the tuning
as well, and only describes what is heard. `genlab.forecasts.draws` draws the continuations of a
trained decoder.

The distance of whole blocks hardly moves when the values of a draw stop hanging together, which is
what separates the families. So a second score of the same draws, the variogram of the block
(`genlab.evaluate.blocks`), must not contradict what the energy says (`SECOND_SCORES`).
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeVar

BLOCK_S = 0.24
BARE_ENERGY, TUNED_ENERGY = "block_energy", "block_energy_tuned"
ENERGIES = (BARE_ENERGY, TUNED_ENERGY)
BARE_VARIOGRAM = "block_variogram"
SECOND_SCORES: Final[Mapping[str, str]] = dict.fromkeys(ENERGIES, BARE_VARIOGRAM)
"""By deciding score, the one that must not contradict it."""
T = TypeVar("T")
EnergyLaw = Literal["bare law"]
ENERGY_LAW: EnergyLaw = "bare law"
"""Beside scores whose `block_energy` is that of the bare law. Files without it are of earlier
versions, whose one energy was of the arm's own sampler: it is read under the name of that.
"""


def name_energies(by_score: Mapping[str, T]) -> dict[str, T]:
    """Return scores of an earlier version under today's names."""
    return {
        TUNED_ENERGY if name == BARE_ENERGY else name: value for name, value in by_score.items()
    }
