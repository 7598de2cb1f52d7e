"""What is said or sung, in any script, or as phonemes: symbols in an order of their own.

Symbol 0 is padding and symbol 1 begins every text, so that an empty place can be told from an
absent text; further symbols are those of the alphabet. The symbols pass the same short-range
encoder as text does (ConvNeXt blocks), with sinusoids of the relative place in the text.
"""

import abc
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Int, Key, Shaped

from genlab.config import GenlabError
from genlab.config.errors import meant, shorten
from genlab.data.valued import ClipFacts
from genlab.decoders.parts import PlainPart, Route
from genlab.decoders.told.places import places_of
from genlab.nets.blocks import ConvBlock
from genlab.nets.context import Text
from genlab.nets.linear import Embedding

BEGIN = 1
FIRST = 2  # of the alphabet


class Symbols(PlainPart):
    """A text in a column, as symbols; a kind of its own says what a symbol is."""

    option: ClassVar[str] = "text"
    column: str = "text"
    """The column that holds the text."""
    route: Route = "cross"
    """By cross-attention, or as positions before the frames (prefix)."""
    max_symbols: int = pydantic.Field(default=256, gt=0, le=2**14)
    """The longest text, in symbols; attention to it costs as much for every clip."""
    layers: int = pydantic.Field(default=2, gt=0, le=64)
    """Convolution blocks that encode the symbols."""

    @property
    @abc.abstractmethod
    def num_symbols(self) -> int:
        """How many symbols the alphabet has."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the symbols of a text, counted from 0."""

    @property
    def is_sequence(self) -> bool:
        """True."""
        return True

    @property
    def shape(self) -> tuple[int, ...]:
        """The symbols, padded, behind the one that begins them."""
        return (1 + self.max_symbols,)

    @property
    def dtype(self) -> str:
        """Numbers of symbols."""
        return "int32"

    def value(self, clip: ClipFacts) -> Int[np.ndarray, "n"]:
        """Return the symbols of the clip's text.

        Raises:
            GenlabError: if the text is empty or too long, or has a symbol that is not listed.
        """
        found = clip.label(self.column)
        if not isinstance(found, str):
            raise GenlabError(f"{self.column}={shorten(found)}: expected a text")
        return self.symbols_of(found)

    def symbols_of(self, text: str) -> Int[np.ndarray, "n"]:
        """Return the symbols of a text, padded.

        Raises:
            GenlabError: if it is empty or too long, or has a symbol that is not listed.
        """
        if not text.strip():
            raise GenlabError(
                f"{self.column}={shorten(text)}: an empty text; give it one, or drop the clip"
            )
        symbols = self.encode(text)
        if len(symbols) > self.max_symbols:
            raise GenlabError(
                f"{self.column}={shorten(text)}: {len(symbols)} symbols, expected at most "
                f"max_symbols={self.max_symbols}; raise it, or cut the text"
            )
        padded = np.zeros(self.shape, np.int32)
        padded[0] = BEGIN
        padded[1 : 1 + len(symbols)] = np.asarray(symbols) + FIRST
        return padded

    def check(self, value: Shaped[np.ndarray, "..."]) -> None:
        """Refuse what no text gives."""
        if value[0] != BEGIN or not 0 <= value.min() <= value.max() < FIRST + self.num_symbols:
            raise ValueError(
                f"symbols {value.min()} to {value.max()}, expected {BEGIN} first and others below "
                f"{FIRST + self.num_symbols}"
            )

    def from_words(self, words: str, num_frames: int) -> Int[np.ndarray, "n"]:
        """Return the symbols of a text as it is spoken of."""
        return self.symbols_of(words)

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return the encoder of the symbols."""
        return _Encoder(FIRST + self.num_symbols, width, self.layers, key=key)


class Utf8(Symbols):
    """A text in any script, as the bytes of its UTF-8: nothing is normalised and nothing unknown.

    A letter outside of ASCII takes two to four symbols.
    """

    kind: Literal["utf8"] = "utf8"

    @property
    def num_symbols(self) -> int:
        """All bytes."""
        return 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes."""
        return list(text.encode())


class Phonemes(Symbols):
    """A column of phonemes, or of any symbols with blanks between them."""

    kind: Literal["phonemes"] = "phonemes"
    column: str = "phonemes"
    """The column that holds the symbols, with blanks between them."""
    symbols: tuple[str, ...] = pydantic.Field(min_length=1, max_length=2**16)
    """All that may occur, in the order of their numbers."""

    @property
    def num_symbols(self) -> int:
        """Those that are listed."""
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Return the place of each symbol in the list.

        Raises:
            GenlabError: if one is not listed.
        """
        numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        for symbol in text.split():
            if symbol not in numbers:
                few = ", ".join(self.symbols[:8])
                raise GenlabError(
                    f"{self.column}: symbol {shorten(symbol)} is not in symbols ({few}, ...)"
                    f"{meant(symbol, self.symbols) or '; list it'}"
                )
        return [numbers[symbol] for symbol in text.split()]


class _Encoder(nnx.Module):
    def __init__(self, entries: int, width: int, layers: int, *, key: Key[Array, ""]):
        table_key, *layer_keys = jax.random.split(key, 1 + layers)
        self.table = Embedding(entries, width, key=table_key)
        scale = (2 * layers) ** -0.5
        self.layers = nnx.List(
            [ConvBlock(width, width, key=key, output_scale=scale) for key in layer_keys]
        )

    def __call__(self, value: Int[Array, "b n"], is_valid: Bool[Array, "b t"]) -> Text:
        is_symbol = jnp.asarray(value) > 0
        x = self.table(value)
        x = x + places_of(is_symbol, x.shape[-1]).astype(x.dtype)
        for layer in self.layers:
            x = layer(x, is_symbol)
        return Text(x, is_symbol)
