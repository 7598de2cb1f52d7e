"""What `genlab sample --keep FROM:TO` keeps of prompts of different lengths, and what it says about
that.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.prompts import check_span, parse_span
from genlab.sample import note_fewer

STORE = SimpleNamespace(info=SimpleNamespace(spec=SimpleNamespace(frame_hz=50.0)))
CLIPS = [SimpleNamespace(units=np.zeros(frames)) for frames in (50, 60, 100)]


def test_a_span_is_two_times():
    assert parse_span(None) is None
    assert parse_span("0:0.5") == (0.0, 0.5)
    for text in ("", "1", "a:b", "1:2:3", "nan:1", "0:nan", "0:inf", "5:1", "1:1", "-1:1"):
        with pytest.raises(GenlabError, match="--keep"):
            parse_span(text)


@pytest.mark.parametrize(
    ("keep_s", "told"),
    [
        ((0.0, 0.5), []),
        ((1.1, 9.0), ["--keep 1.1:9: keeps nothing of 1 of 3 prompts"]),
        ((0.0, 1.2), ["--keep 0:1.2: keeps everything of 2 of 3 prompts"]),
    ],
)
def test_prompts_that_are_kept_in_part_only_are_counted(keep_s, told):
    assert check_span(STORE, CLIPS, keep_s) == told


@pytest.mark.parametrize(
    ("keep_s", "told"),
    [
        ((2.0, 3.0), "--keep 2:3: keeps no frame of any prompt; they last 1 to 2 s"),
        ((0.0, 0.001), "keeps no frame of any prompt; they last 1 to 2 s, a frame 0.02 s"),
        (
            (0.0, 99.0),
            (
                "--keep 0:99: keeps all of every prompt, so nothing is left to draw; they last 1 "
                "to 2 s"
            ),
        ),
    ],
)
def test_a_span_that_leaves_nothing_to_do_is_refused(keep_s, told):
    with pytest.raises(GenlabError, match=told):
        check_span(STORE, CLIPS, keep_s)


def test_fewer_prompts_than_asked_for_are_told():
    assert note_fewer(CLIPS, 3, "test", 100) == note_fewer(CLIPS, 2, "test", 100) == []
    told = ["3 prompts instead of 8: split 'test' has no more that fit data.num_frames=100"]
    assert note_fewer(CLIPS, 8, "test", 100) == told
