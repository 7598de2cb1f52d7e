"""Which clips are read and in which order: bijections that list nothing, the same for any number of
hosts.
"""

import itertools
import tracemalloc

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlab.config import GenlabError
from genlab.data import order
from genlab.data.batches import BatchSource, _Rows
from genlab.data.order import Drawn, check_shuffled, draw_part


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**40))
def test_every_number_is_drawn_once(total, first):
    drawn = Drawn(first, total, total)
    assert sorted(drawn) == list(range(first, first + total))


def test_less_is_within_more_and_it_is_a_sequence():
    few, more = Drawn(10, 1000, 30), Drawn(10, 1000, 200)
    assert list(more)[:30] == list(few) and len(few) == 30
    assert few[-1] == few[29] and few[3:6] == [few[3], few[4], few[5]]
    with pytest.raises(IndexError):
        few[30]
    assert sum(a > b for a, b in itertools.pairwise(few)) > 5  # it is shuffled


def test_a_part_is_the_one_that_it_always_was():
    """Numbers of the version that listed all of them, so that its runs go on."""
    listed = np.random.default_rng(0).permutation(1000)[:20]
    assert list(draw_part(5, 1000, 20)) == [5 + number for number in sorted(listed)]
    assert list(draw_part(0, 8, 3)) == [2, 3, 4]


def test_a_part_of_very_many_is_not_listed(monkeypatch):
    monkeypatch.setattr(order, "MOST_LISTED", 99)
    assert isinstance(draw_part(5, 99, 20), type(draw_part(5, 10, 2)))
    part = draw_part(5, 100, 20)
    assert isinstance(part, Drawn) and set(part) < set(range(5, 105)) and len(set(part)) == 20


def test_a_thousand_million_clips_cost_no_memory():
    draw_part(0, 2**25, 1)[0]  # what it imports is not memory of the order
    tracemalloc.start()
    numbers = grain.MapDataset.source(range(7, 7 + 10**9)).seed(3).shuffle().repeat(None)
    first = [int(numbers[place]) for place in range(2000)]
    part = draw_part(7, 10**9, 10**8)
    drawn = [part[place] for place in range(0, 10**8, 10**5)]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**20
    for found in (first, drawn):
        assert len(set(found)) == len(found) and 7 <= min(found) and max(found) < 7 + 10**9
        assert abs(np.mean(found) / 10**9 - 0.5) < 0.05


def test_more_clips_than_can_be_shuffled_are_refused():
    check_shuffled("train", 2**32 - 1)
    with pytest.raises(GenlabError, match="split 'train': 4294967296 clips, expected at most"):
        check_shuffled("train", 2**32)


def test_the_order_is_the_one_that_runs_were_made_with():
    """If grain's shuffle ever changes, runs no longer resume bitwise, and this says so."""
    numbers = grain.MapDataset.source(range(100)).seed(3).shuffle().repeat(None)
    assert [int(numbers[place]) for place in range(8)] == [29, 30, 31, 86, 26, 66, 61, 19]
    assert [int(numbers[100 + place]) for place in range(8)] == [82, 74, 41, 70, 99, 10, 40, 81]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_a_batch_is_the_same_for_any_number_of_hosts(hosts):
    """Steps 3 to 5 as one host reads them, by hosts of which there were 1 until then."""
    numbers = grain.MapDataset.source(range(50)).seed(1).shuffle().repeat(None)
    dataset = numbers.map(lambda number: ((np.int32(number),), np.int32(number)))
    source = BatchSource(dataset, 8)
    rows = [_Rows(source, 3, host, hosts) for host in range(hosts)]
    for step in range(3):
        each = [[part[step * part.count + row][1] for row in range(part.count)] for part in rows]
        assert [int(number) for part in each for number in part] == [
            int(numbers[(3 + step) * 8 + row]) for row in range(8)
        ]
