"""Streamed items are those of a list, made anew whenever they are asked for."""

import pytest

from genlab.data.streamed import IN_MEMORY, Streamed, each_of, join_all, sequence_of, split_up


def test_few_are_kept_and_many_are_made_when_asked_for():
    made = []

    def make(place):
        made.append(place)
        return place * place

    few = sequence_of(make, IN_MEMORY)
    assert isinstance(few, list) and made == list(range(IN_MEMORY))
    made.clear()
    many = sequence_of(make, IN_MEMORY + 1)
    assert made == [] and len(many) == IN_MEMORY + 1
    assert many[3] == 9 and many[-1] == IN_MEMORY**2 and made == [3, IN_MEMORY]
    assert list(many) == [place * place for place in range(IN_MEMORY + 1)]
    with pytest.raises(IndexError):
        many[IN_MEMORY + 1]


def test_parts_of_streamed_items_are_streamed():
    items = Streamed(lambda place: 10 * place, 7)
    part = items[1:6:2]
    assert isinstance(part, Streamed) and list(part) == [10, 30, 50] and list(part[1:]) == [30, 50]
    assert list(items[::-1]) == [60, 50, 40, 30, 20, 10, 0]
    doubled = each_of(lambda item: item + 1, items)
    assert isinstance(doubled, Streamed) and list(doubled[2:4]) == [21, 31]
    assert each_of(str, [1, 2]) == ["1", "2"]
    joined = join_all([items, list(range(7)), items])
    assert isinstance(joined, Streamed) and list(joined) == [*items, *range(7), *items]
    assert join_all([[1, 2], [3, 4]]) == [1, 2, 3, 4]
    assert [list(part) for part in split_up(items, 3)] == [[0, 10, 20], [30, 40, 50], [60]]
    assert split_up([1, 2, 3], 2) == [[1, 2, 3]]
