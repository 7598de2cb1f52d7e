"""Tables for the terminal: at most 80 columns, nothing cut, arms of a score in rows."""

from report_toys import make_ledger, make_results

from genlab.report.console import WIDTH, fold, format_results, wrap


def make_printable(arms: int = 12):
    """Return results with long titles and many arms, as `compare` writes them."""
    results = make_results(3) | {"question": "Which of them is best? " * 12}
    for arm in results["arms"][3:]:
        arm["train_wall_s"] = 12.3
        arm["sampling"]["real_time_factor"] = 0.125
    last = results["arms"][-1]
    longer = (
        "codes with delayed levels, trained on repeated data, sampled at temperature 0.9 and "
        "guidance 2.5"
    )
    results["arms"] += [
        last | {"name": f"more{number}", "title": f"{longer} {number}"} for number in range(arms)
    ]
    return results


def test_no_line_of_the_result_is_wider_than_a_terminal():
    text = format_results(make_printable(), make_ledger())
    assert max(map(len, text.split("\n"))) <= WIDTH == 80


def test_every_score_of_every_arm_is_printed_with_its_interval():
    lines = format_results(make_printable(arms=0), make_ledger()).split("\n")
    ar = [line for line in lines if line.startswith("Autoregressive  ")]
    assert [line.split()[1:] for line in ar] == [
        ["0.102", "[0.092,", "0.112]", "0.898", "[0.878,", "0.918]"],
        ["10.20", "[9.70,", "10.70]", "1,321", "[1,309,", "1,333]"],
        ["1,200,000", "3.00", "T", "400", "12", "128", "0.125", "0.050"],
    ]
    # One number of decimals per column, that of the trained arms.
    assert any(line.startswith("Real audio") and " 0.011 [0.010, 0.012]" in line for line in lines)


def test_columns_are_folded_into_tables_that_repeat_the_first_one():
    rows = [["", "one", "two", "three"], ["a", "1" * 30, "2" * 30, "3" * 30], ["b", "x", "y", "z"]]
    blocks = [block.split("\n") for block in fold(rows, width=70).split("\n\n")]
    assert [[line.split() for line in block] for block in blocks] == [
        [["one", "two"], ["a", "1" * 30, "2" * 30], ["b", "x", "y"]],
        [["three"], ["a", "3" * 30], ["b", "z"]],
    ]


def test_a_narrow_table_stays_one_and_a_long_cell_wraps():
    assert fold([["", "x"], ["row", "1"]]) == "     x\nrow  1"
    text = fold([["arm", "setting"], ["ar", "word " * 40]])
    assert text.count("word") == 40 and max(map(len, text.split("\n"))) <= WIDTH
    assert (
        wrap("a/path/that/is/longer/than/the/line b", 12)
        == "a/path/that/is/longer/than/the/line\nb"
    )
