"""The rows of every table that are not arms: real audio, the floors of the codec, and the
baselines that an arm must beat.

A floor is the real prompts through the codec alone, from their codes or from their latents. A
baseline models nothing that must be sampled: mean latents and a regression, which can be heard;
the same with a spread that costs nothing ("dressed"), and blocks of training clips, which forecast
one block alone; and counts of codes, which have bits alone. The names are those of rows, of files
in `rows/`, and of audio in TensorBoard.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

Floor: TypeAlias = Literal["codec_floor_codes", "codec_floor_latents"]
REAL: Final = "real"  # name and family of the row of real audio
FLOOR: Final = "floor"  # family of both floors
CODES_FLOOR: Final = "codec_floor_codes"
LATENTS_FLOOR: Final = "codec_floor_latents"
FLOORS: Final[tuple[Floor, ...]] = get_args(Floor)

HeardBaseline: TypeAlias = Literal["lookup", "regression"]
DressedBaseline: TypeAlias = Literal["climatology", "lookup_residuals", "regression_residuals"]
CountedBaseline: TypeAlias = Literal["uniform", "unigram", "bigram"]
ChosenBaseline: TypeAlias = Literal[HeardBaseline, CountedBaseline]
Baseline: TypeAlias = Literal[HeardBaseline, DressedBaseline, CountedBaseline]
BASELINE: Final = "baseline"  # family of all of them
LOOKUP: Final = "lookup"  # the mean latent per condition over the training clips
REGRESSION: Final = "regression"  # a network of the diffusion family trained by squared error
CLIMATOLOGY: Final = "climatology"  # blocks of training clips, whatever is told
LOOKUP_RESIDUALS: Final = "lookup_residuals"  # `lookup` plus what it misses in validation clips
REGRESSION_RESIDUALS: Final = "regression_residuals"  # the same of `regression`
UNIFORM: Final = "uniform"  # every entry of a codebook alike
UNIGRAM: Final = "unigram"  # counts of entries per level
BIGRAM: Final = "bigram"  # counts given the same level of the frame before
HEARD_BASELINES: Final[tuple[HeardBaseline, ...]] = get_args(HeardBaseline)
DRESSED_BASELINES: Final[tuple[DressedBaseline, ...]] = get_args(DressedBaseline)
COUNTED_BASELINES: Final[tuple[CountedBaseline, ...]] = get_args(CountedBaseline)
# What a config chooses from: who wants mean latents or a regression gets them dressed as well.
CHOSEN_BASELINES: Final[tuple[ChosenBaseline, ...]] = (*HEARD_BASELINES, *COUNTED_BASELINES)
DRESSED_WITH: Final[Mapping[Baseline, tuple[DressedBaseline, ...]]] = {
    LOOKUP: (CLIMATOLOGY, LOOKUP_RESIDUALS),
    REGRESSION: (REGRESSION_RESIDUALS,),
}
FORECAST_BASELINES: Final[tuple[Baseline, ...]] = (*HEARD_BASELINES, *DRESSED_BASELINES)
SILENT_BASELINES: Final[tuple[Baseline, ...]] = (*DRESSED_BASELINES, *COUNTED_BASELINES)
BASELINES: Final[tuple[Baseline, ...]] = (*FORECAST_BASELINES, *COUNTED_BASELINES)

BOUND_NAMES: Final = (REAL, *FLOORS, *BASELINES)
BOUND_FAMILIES: Final = (REAL, FLOOR, BASELINE)


def is_arm(row: Mapping[str, object]) -> bool:
    """Return whether a row of results.json is an arm: neither real audio nor a floor nor a
    baseline.
    """
    return row.get("family") not in BOUND_FAMILIES
