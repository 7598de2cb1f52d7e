"""Arms with shapes of their own: declared where each is the best of one published grid."""

import json

import pytest
from comparison_toys import make_comparison
from test_ledger import make_ledger as make_true_ledger
from test_ledger import row

from genlab.config import ConfigError
from genlab.training.shapes import GRIDS

SMALL = [shape.to_dict() for shape in GRIDS["small"]]


@pytest.mark.parametrize(
    ("overrides", "trials", "status"),
    [
        (["shape_grid=small"], len(SMALL), "declared"),
        (["shape_grid=small"], len(SMALL) - 1, "undeclared"),
        (["shape_grid=null"], len(SMALL), "undeclared"),
        (["shape_grid=medium"], len(SMALL), "undeclared"),
        (["shape_grid=small", "arms.ar.shape.heads=8"], len(SMALL), "undeclared"),
    ],
)
def test_own_shapes_are_declared_if_each_is_the_best_of_one_grid(
    tmp_path, overrides, trials, status
):
    own = zip(("ar", "masked", "diffusion"), SMALL)
    config = make_comparison(
        *(f"arms.{name}.shape={json.dumps(shape)}" for name, shape in own),
        *(f"arms.{name}.training_trials={trials}" for name in ("ar", "masked", "diffusion")),
        *overrides,
    )
    ledger = make_true_ledger(tmp_path, config)
    found = row(ledger, "Backbone")
    assert found["status"] == status
    assert found["values"] == {"ar": "3 x 128", "masked": "6 x 128", "diffusion": "12 x 128"}
    assert ledger["stamp"] == ("controlled" if status == "declared" else "uncontrolled")
    assert ("grid 'small' (9 shapes" in found["note"]) == (status == "declared")


def test_a_shape_that_cannot_be_is_refused():
    shape = '{"width":100,"layers":2,"heads":8}'
    with pytest.raises(ConfigError, match=r"arms\.ar\.shape: width=100 must be a multiple of 2"):
        make_comparison(f"arms.ar.shape={shape}")
    step = ("budget.mode=iso_step", "budget.train_flops=null", "budget.steps=4")
    with pytest.raises(ConfigError, match=r"shape_grid='small': budget\.mode='iso_step' holds"):
        make_comparison("shape_grid=small", *step)
    plain = make_comparison()
    assert make_comparison("shape_grid=null", "arms.ar.shape=null").digest() == plain.digest()
    one = make_comparison('arms.ar.shape={"width":64,"layers":3,"heads":2}')
    assert one.run("ar", 0, 1).backbone.width == 64 and one.run("masked", 0, 1).backbone.width == 32
