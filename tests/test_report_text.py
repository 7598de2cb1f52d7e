"""How the report words numbers: as many digits as an interval supports, and quantities that read
well.
"""

import pytest

from genlab.report.text import (
    format_bounds,
    format_interval,
    format_quantity,
    format_seconds,
    format_value,
    score_title,
)


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.1234, 0.1134, 0.1334, "0.123 [0.113, 0.133]"),
        (-2.5, -4.0, -1.0, "\N{MINUS SIGN}2.5 [\N{MINUS SIGN}4.0, \N{MINUS SIGN}1.0]"),
        (12345.6, 12000.0, 12700.0, "12,346 [12,000, 12,700]"),
        (-0.0001, -0.1, 0.1, "0.00 [\N{MINUS SIGN}0.10, 0.10]"),
        (None, None, None, "\N{EN DASH}"),
        (3.0, 3.0, 3.0, "3.00 [3.00, 3.00]"),
    ],
)
def test_numbers_show_the_digits_their_interval_supports(value, low, high, expected):
    assert format_interval({"value": value, "low": low, "high": high}) == expected


def test_quantities_and_durations_read_well():
    assert [format_quantity(x, "FLOP") for x in (1.234e15, 999.0, None)] == [
        "1.23 PFLOP",
        "999 FLOP",
        "\N{EN DASH}",
    ]
    assert [format_seconds(x) for x in (0.0312, 0.5, 61.0, 600.0, 7200.0)] == [
        "31.2 ms",
        "0.500 s",
        "61.0 s",
        "10.0 min",
        "2.00 h",
    ]
    assert (format_value(1234), format_bounds(1.0, None, 2.0)) == ("1,234", "")
    assert score_title("cer_ctc") == "Character error (CTC)" and score_title("made_up") == "Made up"
