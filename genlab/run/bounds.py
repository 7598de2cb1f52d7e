"""The rows of every table that are not arms but bound what an arm can do: real audio, and the
floors of the codec.

A floor is the real prompts through the codec alone, from their codes or from their latents. The
names are those of rows, of files in `rows/`, and of audio in TensorBoard.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

Floor: TypeAlias = Literal["codec_floor_codes", "codec_floor_latents"]
REAL: Final = "real"  # name and family of the row of real audio
FLOOR: Final = "floor"  # family of both floors
CODES_FLOOR: Final = "codec_floor_codes"
LATENTS_FLOOR: Final = "codec_floor_latents"
FLOORS: Final[tuple[Floor, ...]] = get_args(Floor)
BOUND_NAMES: Final = (REAL, *FLOORS)
BOUND_FAMILIES: Final = (REAL, FLOOR)


def is_arm(row: Mapping[str, object]) -> bool:
    """Return whether a row of results.json was trained: neither real audio nor a floor."""
    return row.get("family") not in BOUND_FAMILIES
