import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlab.data.text import NUM_SYMBOLS, SYMBOLS, decode_text, encode_text, normalise_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Room 21, Café-bar!", "room two one cafe bar"),
        ("  It\u2019s   OK\t\n", "it's ok"),
        ("7up", "seven up"),
        ("привет", ""),
        ("", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise_text(text) == expected


@given(st.text(max_size=60))
def test_round_trip_and_range(text):
    symbols = encode_text(text)
    assert symbols.dtype == np.int32
    assert ((symbols >= 1) & (symbols < NUM_SYMBOLS)).all()
    assert decode_text(symbols) == normalise_text(text)
    assert normalise_text(normalise_text(text)) == normalise_text(text)


def test_symbols_are_pinned():
    # Shipped recogniser weights depend on this order.
    assert SYMBOLS == " abcdefghijklmnopqrstuvwxyz'" and NUM_SYMBOLS == 29
    assert encode_text("ab z'").tolist() == [2, 3, 1, 27, 28]


def test_decode_drops_padding_and_refuses_strangers():
    assert decode_text(np.array([2, 3, 0, 0], np.int32)) == "ab"
    with pytest.raises(ValueError, match=r"0\.\.28"):
        decode_text(np.array([29], np.int32))
