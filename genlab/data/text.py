"""Text as the recogniser and the text-conditioned decoders see it.

In: any string. Out: the normalised string (lower case, the digits 0-9 as words, letters, apostrophe
and single spaces), and its symbols: 1..28 index `" abcdefghijklmnopqrstuvwxyz'"`, 0 is padding.
Splits hash the normalised string, so two spellings of one sentence are always in the same split.
"""

import re
import unicodedata

import numpy as np
from jaxtyping import Int

SYMBOLS = " abcdefghijklmnopqrstuvwxyz'"
NUM_SYMBOLS = len(SYMBOLS) + 1  # with the padding symbol 0
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_INDEX = {character: index for index, character in enumerate(SYMBOLS, start=1)}


def normalise_text(text: str) -> str:
    """Return `text` in the symbol alphabet: "Room 21, Café!" becomes "room two one cafe"."""
    text = unicodedata.normalize("NFKD", text).replace("\u2019", "'").lower()
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = re.sub(r"[0-9]", lambda digit: f" {DIGITS[int(digit.group())]} ", text)
    text = re.sub(r"[-/_\u2010-\u2015\s]", " ", text)
    return " ".join("".join(character for character in text if character in _INDEX).split())


def has_symbols(text: str) -> bool:
    """Return whether anything of `text` is in the symbol alphabet: nothing of other scripts is."""
    return bool(normalise_text(text))


def encode_text(text: str) -> Int[np.ndarray, "n"]:
    """Return the symbols of the normalised `text` as int32."""
    return np.array([_INDEX[character] for character in normalise_text(text)], np.int32)


def decode_text(symbols: Int[np.ndarray, "n"]) -> str:
    """Return the string of `symbols`, leaving out padding.

    Raises:
        ValueError: if a symbol lies outside 0..28.
    """
    values = [int(symbol) for symbol in symbols]
    if any(not 0 <= value < NUM_SYMBOLS for value in values):
        raise ValueError(f"decode_text: symbols must lie in 0..{NUM_SYMBOLS - 1}, got {values}")
    return "".join(SYMBOLS[value - 1] for value in values if value)
