"""The published grids of backbone shapes, from which each family may take its own best.

Equal FLOPs at one shape are not equal chances: heads that predict every code cost more of a narrow
model than of a wide one, so a family's best width and depth on a budget differ from another's. A
comparison names a grid (`shape_grid`), `genlab tune` tries every shape of it in every arm alike,
and the best on validation is the arm's own.
"""

from typing import Literal

import pydantic

from genlab.config import Config

GridName = Literal["small", "medium"]


class Shape(Config):
    """Width, depth and heads of a backbone; everything else stays that of the comparison."""

    width: int = pydantic.Field(gt=0)
    """As `backbone.width`."""
    layers: int = pydantic.Field(gt=0, le=4096)
    """As `backbone.layers`."""
    heads: int = pydantic.Field(gt=0)
    """As `backbone.heads`."""

    @property
    def title(self) -> str:
        """Return the shape in short: layers x width."""
        return f"{self.layers} x {self.width}"


def _shapes(*sizes: tuple[int, int, int]) -> tuple[Shape, ...]:
    return tuple(Shape(width=width, layers=layers, heads=heads) for width, layers, heads in sizes)


# Heads of 32 to 64 channels. Wide and shallow to narrow and deep, at three scales of parameters
# each: small around the quick start's 4 x 192, medium around 12 x 512.
GRIDS: dict[GridName, tuple[Shape, ...]] = {
    "small": _shapes(
        (128, 3, 4),
        (128, 6, 4),
        (128, 12, 4),
        (192, 2, 4),
        (192, 4, 4),
        (192, 8, 4),
        (256, 1, 4),
        (256, 2, 4),
        (256, 6, 4),
    ),
    "medium": _shapes(
        (384, 6, 6),
        (384, 12, 6),
        (384, 24, 6),
        (512, 6, 8),
        (512, 12, 8),
        (512, 18, 8),
        (768, 3, 12),
        (768, 6, 12),
        (768, 12, 12),
    ),
}
