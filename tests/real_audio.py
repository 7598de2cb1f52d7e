"""Recordings of real people and sounds, for tests that use them where they are there.

They are no part of the repository. `GENLAB_REAL_AUDIO` names their folder; without it the folder
../shared/data beside the checkout is looked at.
"""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("GENLAB_REAL_AUDIO") or Path(__file__).parents[2] / "shared/data")


def real_audio(name: str) -> Path:
    """Return the folder of a set, which has a metadata.csv; skip the test where it is absent."""
    folder = FOLDER / name
    if not (folder / "metadata.csv").is_file():
        pytest.skip(f"no recordings in {folder}: set GENLAB_REAL_AUDIO to the folder that has them")
    return folder
