"""Names longer than the file system takes are no such file, for everything that takes a path."""

import pytest

from genlab.codecs.frozen import load_codec
from genlab.config.errors import GenlabError
from genlab.load import load_experiment
from genlab.sweeps.page import load_sweep

LONG = "x" * 5000


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (load_codec, LONG),
        (load_codec, f"{LONG}.py"),
        (load_codec, f"{LONG}.safetensors"),
        (load_codec, f"encodec:{LONG}"),
        (load_experiment, f"{LONG}.py"),
        (load_sweep, f"{LONG}.py"),
    ],
)
def test_a_name_that_is_too_long_is_no_such_file(load, name):
    with pytest.raises(GenlabError, match=r"no such|no weights"):
        load(name)
