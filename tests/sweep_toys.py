"""The page of the documentation on one seed, as a file for processes, and a page over the toy
comparison.
"""

from pathlib import Path

from comparison_toys import make_comparison

from genlab.sweeps.page import Sweep, product
from genlab.sweeps.runs import run_directory

FIRST_SWEEP = Path(__file__).parents[1] / "docs" / "first_sweep.py"


def write_page(folder: Path, short: int = 300, long: int = 600) -> Path:
    """Write the documentation's page on one seed, with other steps; return its path."""
    path, text = (
        folder / "page.py",
        FIRST_SWEEP.read_text().replace("seeds=(0, 1, 2)", "seeds=(0,)"),
    )
    path.write_text(text.replace("300", str(short)).replace("600", str(long)))
    return path


def make_sweep(**update):
    """Return a page over the budgets of the toy comparison."""
    values = {
        "name": "toy",
        "question": "Which?",
        "fixed": "all",
        "varied": "FLOPs",
        "base": make_comparison(),
        "points": tuple(product({"budget.train_flops": [2e10, 4e10]})),
        "names": {"budget.train_flops": "FLOPs"},
    }
    return Sweep(**{**values, **update})


def finish(run, out):
    """Make the files by which a run counts as finished."""
    directory = run_directory(out, run)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text("{}")
    (directory / "report.html").write_text("")
