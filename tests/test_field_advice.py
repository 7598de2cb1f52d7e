"""What the error of a wrong field says to write instead, and that it is taken as it stands."""

import re
import shlex

import pytest

from genlab.config import ConfigError
from genlab.experiment import Comparison
from genlab.load import load_experiment

QUICKSTART = "configs/quickstart.py"


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(QUICKSTART, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["data.corpus.path=my_audio"],
            "data.corpus.path: no such field in kind 'embedded'; 'folder', 'librispeech', "
            "'ljspeech', 'vctk', 'fsdd', 'speech_commands', 'esc50', 'shards', "
            "'hf_dataset' have it: add data.corpus.kind=folder",
        ),
        (
            ["data.corpus.kind=folder", "data.corpus.path=x", "data.corpus.minutes=3"],
            "data.corpus.minutes: no such field in kind 'folder'; 'embedded' has it: add "
            "data.corpus.kind=embedded",
        ),
        # A field of the table of another arm comes before its kind, and a slip before all.
        (
            ["arms.ar.decoder.path=x"],
            "arms.ar.decoder.path: no such field; did you mean 'arms.diffusion.decoder.path'?",
        ),
        (["data.corpus.minute=3"], "no such field; did you mean 'data.corpus.minutes'?"),
        (["data.nun_frames=3"], "no such field; did you mean 'data.num_frames'?"),
        (["seed=3"], "seed: no such field; did you mean 'seeds'?"),
        (
            ["data.corpus=my_audio"],
            "data.corpus: got 'my_audio', expected a table; set its fields: "
            "data.corpus.kind=folder data.corpus.path=my_audio",
        ),
        (["data.corpus=fsdd"], "set its fields: data.corpus.kind=fsdd"),
        (["data=3"], "data: got 3, expected a table; set its fields: data.corpus=..."),
        (["arms.ar=ar"], "arms.ar: got 'ar', expected a table; set its fields: arms.ar."),
        (["arms=3"], "arms: got 3, expected a table; set arms.NAME=..."),
        (
            ["data.corpus=my_audio", "data.corpus.manifest=t.csv"],
            "data.corpus: holds 'my_audio', which is no table (override data.corpus.manifest=",
        ),
        (["batch_size.x=3"], "batch_size: holds 8, which is no table"),
        (["seeds=3"], "seeds: got 3, expected a list; write seeds='[3]'"),
        (["metrics=3"], "metrics: got 3, expected a list of tables"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_was_meant_is_told(overrides, line):
    assert line in refusal(*overrides)


@pytest.mark.parametrize(
    ("wrong", "mended"),
    [
        (["seeds=3"], lambda config: config.seeds == (3,)),
        (
            ["data.corpus=my audio"],
            lambda config: (
                (config.data.corpus.kind, config.data.corpus.path) == ("folder", "my audio")
            ),
        ),
        (["data.corpus.path=clips"], lambda config: config.data.corpus.path == "clips"),
        (
            ["data.corpus.kind=folder", "data.corpus.path=x", "data.corpus.held_out_speakers=Zoë"],
            lambda config: config.data.corpus.held_out_speakers == ("Zoë",),
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_advised_is_taken_as_it_stands(wrong, mended):
    told = refusal(*wrong)
    # As a shell takes it. A kind is added to what was given; anything else takes its place.
    what, advised = re.findall(r"(add|write|fields:) (.*)$", told)[0]
    kept = wrong if what == "add" else wrong[:-1]
    config = load_experiment(QUICKSTART, (*kept, *shlex.split(advised)))
    assert isinstance(config, Comparison) and mended(config)
