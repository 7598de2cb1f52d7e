"""Other splits for a table of people who say the same few words: everybody is heard in training, and
of two in five a word is withheld for the test, of one in five another for validation.

So a decoder can be told who speaks (configs/real_speech.py): the voice is known, the word is known,
and the two were never heard together. All takes of a pair go to one split.

    python sweeps/withheld_words.py path/to/metadata.csv > told.csv
"""

import csv
import sys

TESTED, VALIDATED, OF_PEOPLE = (0, 1), (2,), 5  # people of whom a word is withheld


def hold_out_words(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows with their new splits, in the same order."""
    people = {speaker: number for number, speaker in enumerate(sorted({_who(row) for row in rows}))}
    words = sorted({row["text"] for row in rows})
    split_rows = []
    for row in rows:
        number = people[_who(row)]
        is_withheld = row["text"] == words[number // OF_PEOPLE % len(words)]
        place = number % OF_PEOPLE
        held = "test" if place in TESTED else "valid" if place in VALIDATED else "train"
        split_rows.append({**row, "split": held if is_withheld else "train"})
    return split_rows


def _who(row: dict[str, str]) -> str:
    return row["speaker"]


def main(table: str) -> None:
    """Print the table."""
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(hold_out_words(rows))


if __name__ == "__main__":
    main(sys.argv[1])
