"""Conditions that somebody sets by hand: `genlab sample RUN --label speaker=anna:0.7,ben:0.3`.

In: the conditions of prompts, and what was written for some of them. Out: the conditions with these
replaced, the same for every prompt. What is not set stays that of the prompt.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from genlab.config import GenlabError
from genlab.config.errors import meant, shorten
from genlab.data.text import encode_text, normalise_text
from genlab.data.words import read_weights
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.parts import ConditionPart, PlainPart
from genlab.tokens import Cond

OPTIONS = ("label", "text", "curve", "vector", "codes")
MAX_SECONDS = 3600.0


class Words(NamedTuple):
    """One value that was written down; `name` is empty for what the option itself says."""

    option: str
    name: str
    words: str

    def __str__(self) -> str:
        return f"--{self.option} {self.name + '=' if self.name else ''}{shorten(self.words)}"


class ByHand(NamedTuple):
    """What is set by hand: conditions, and how long every sample is."""

    words: tuple[Words, ...] = ()
    seconds: float | None = None

    @classmethod
    def read(
        cls, given: Mapping[str, Sequence[str] | None], seconds: float | None = None
    ) -> "ByHand":
        """Return what the options of a command line set, by their names.

        Raises:
            GenlabError: as `read_words`.
        """
        return cls(tuple(read_words(given)), seconds)

    def tell(
        self,
        condition: ConditionConfig,
        speakers: Sequence[str],
        frame_hz: float,
        cond: Cond,
        num_frames: Int[np.ndarray, "b"],
    ) -> tuple[Cond, Int[np.ndarray, "b"]]:
        """Return the conditions and frames of prompts with what is set in place of their own.

        Raises:
            GenlabError: as `tell` and `fit_seconds`.
        """
        if self.seconds is not None:
            cond, num_frames = fit_seconds(self.seconds, frame_hz, self.words, condition, cond)
        return tell(self.words, condition, speakers, cond, num_frames), num_frames

    def cut(
        self, waves: Sequence[Float[np.ndarray, "..."]], rate_hz: int
    ) -> list[Float[np.ndarray, "..."]]:
        """Return waves of exactly so many seconds: frames are whole, seconds need not be."""
        if self.seconds is None:
            return list(waves)
        return [wave[: round(self.seconds * rate_hz)] for wave in waves]


AS_PROMPTED = ByHand()


def read_words(given: Mapping[str, Sequence[str] | None]) -> list[Words]:
    """Return what stands behind the options of a command line.

    Raises:
        GenlabError: if an option that needs one has no name, or a name is given twice.
    """
    found = []
    for option in OPTIONS:
        for text in given.get(option) or ():
            name, equals, words = text.partition("=")
            is_named = bool(equals) and name.isidentifier()
            if not is_named and option != "text":
                raise GenlabError(
                    f"--{option} {shorten(text)}: expected NAME=VALUE, the name of a condition and "
                    "its value"
                )
            found.append(Words(option, name, words) if is_named else Words(option, "", text))
    names = [words.name for words in found]
    if twice := [words for words in found if names.count(words.name) > 1]:
        raise GenlabError(f"{twice[0]}: given twice; a condition has one value")
    return found


def tell(
    given: Sequence[Words],
    condition: ConditionConfig,
    speakers: Sequence[str],
    cond: Cond,
    num_frames: Int[np.ndarray, "b"],
) -> Cond:
    """Return the conditions with what was given in place of that of the prompts.

    Args:
        given: what was written, one for each condition that is set.
        condition: which conditions the decoder was trained with.
        speakers: the speakers it knows, in the order of their numbers.
        cond: the conditions of the prompts, arrays of numpy.
        num_frames: the frames of each prompt.

    Raises:
        GenlabError: that names the option and the value, what was expected, and the nearest known
            name.
    """
    for words in given:
        try:
            cond = _set(_resolve(words, condition), condition, speakers, cond, num_frames)
        except GenlabError as error:
            raise GenlabError(f"{words}: {error}") from None
    return cond


def _resolve(words: Words, condition: ConditionConfig) -> Words:
    """Return the same with the name of the condition that is meant.

    Raises:
        GenlabError: if there is none, or it takes another option.
    """
    options = _options(condition)
    if words.option == "text" and words.name not in options:  # an equals sign of its own
        text = f"{words.name}={words.words}" if words.name else words.words
        words = Words("text", "", text)
    if not words.name:  # of a text, which mostly is the only one
        texts = [name for name, option in options.items() if option == "text"]
        if len(texts) != 1:
            told = f"--text NAME=..., one of {', '.join(texts)}" if texts else _list(options)
            raise GenlabError(f"{len(texts)} conditions are texts; expected {told}")
        return words._replace(name=texts[0])
    if words.name not in options:
        raise GenlabError(
            f"the decoder has no condition {words.name!r}{meant(words.name, options) or ';'} "
            f"expected {_list(options)}"
        )
    if options[words.name] != words.option:
        raise GenlabError(f"{words.name!r} is set by --{options[words.name]} {words.name}=...")
    return words


def _options(condition: ConditionConfig) -> dict[str, str]:
    """Return the option that sets each condition, by name."""
    options = {"speaker": "label"} if condition.speaker else {}
    if condition.content == "text":
        options["text"] = "text"
    return options | {part.name: _option_of(part) for part in condition.parts}


def _option_of(part: ConditionPart) -> str:
    return str(getattr(part, "option", PlainPart.option))


def _list(options: Mapping[str, str]) -> str:
    told = [f"--{option} {name}=..." for name, option in options.items()]
    return ", ".join(told) or "nothing: it was trained without conditions that can be set"


def _set(
    words: Words,
    condition: ConditionConfig,
    speakers: Sequence[str],
    cond: Cond,
    num_frames: Int[np.ndarray, "b"],
) -> Cond:
    num_prompts = len(num_frames)
    if words.name == "speaker":
        weights = read_weights(words.words, speakers)
        mixture = np.tile(weights, (num_prompts, 1))
        return cond._replace(speaker=_as_numbers(mixture))
    if words.name == "text":
        symbols = encode_text(words.words)
        _check_letters(words.words)
        text = np.zeros((num_prompts, max(len(symbols), cond.text.shape[1])), np.int32)
        text[:, : len(symbols)] = symbols
        return cond._replace(text=text)
    part = next(part for part in condition.parts if part.name == words.name)
    values = [_read(part, words.words, int(frames)) for frames in num_frames]
    if part.is_per_frame:
        # Padded to the frames of the batch.
        values = [
            np.pad(value, [(0, cond.content.shape[1] - len(value))] + [(0, 0)] * (value.ndim - 1))
            for value in values
        ]
    told = np.stack(values)
    if part.dtype == "int32" and told.dtype == np.float32:
        told = _as_numbers(told)
    return cond._replace(parts={**(cond.parts or {}), part.name: told})


def _as_numbers(weights: Float[np.ndarray, "b n"]) -> Shaped[np.ndarray, "b *n"]:
    """Return the numbers of names where each has all the weight, as training has them."""
    numbers = weights.argmax(axis=1).astype(np.int32)
    return numbers if (weights.max(axis=1) == 1).all() else weights


def _check_letters(text: str) -> None:
    kept = normalise_text(text)
    if not kept:
        raise GenlabError(
            "nothing in it is in the alphabet that the decoder was trained on: a-z, 0-9 and "
            "apostrophe"
        )
    lost = [letter for letter in text if letter.isalnum() and not normalise_text(letter)]
    if lost:
        raise GenlabError(
            f"{''.join(dict.fromkeys(lost))!r} is not in the alphabet that the decoder was trained "
            "on: a-z, 0-9 and apostrophe; transliterate it"
        )


def _read(part: ConditionPart, words: str, num_frames: int) -> Shaped[np.ndarray, "..."]:
    """Return the value that words give to a part, once it is known to be one."""
    if not isinstance(part, PlainPart):
        raise GenlabError(
            f"{type(part).__name__} cannot be set by hand; derive it from PlainPart, and give "
            "it a method from_words"
        )
    value = np.asarray(part.from_words(words, num_frames))
    mixture = (len(getattr(part, "names", ())),)
    if value.shape == mixture and value.dtype == np.float32:
        return value  # of labels, which was checked when it was read
    wanted = (num_frames, *part.shape) if part.is_per_frame else tuple(part.shape)
    if value.shape != wanted:
        frames = f" ({num_frames} frames)" if part.is_per_frame else ""
        raise GenlabError(f"a value of shape {value.shape}, expected {wanted}{frames}")
    try:
        part.check(value)
    except ValueError as error:
        raise GenlabError(str(error)) from None
    return value.astype(part.dtype)


def fit_seconds(
    seconds: float,
    frame_hz: float,
    given: Sequence[Words],
    condition: ConditionConfig,
    cond: Cond,
) -> tuple[Cond, Int[np.ndarray, "b"]]:
    """Return the conditions with room for `seconds` of audio, and as many frames for each prompt.

    Raises:
        GenlabError: if the seconds are none, or a condition says something of every frame and was
            not set by hand.
    """
    option = f"--seconds {seconds:g}"
    if not 0 < seconds <= MAX_SECONDS:
        raise GenlabError(f"{option}: expected more than 0 and at most {MAX_SECONDS:g}")
    if condition.content == "semantic":
        raise GenlabError(
            f"{option}: the decoder is told a unit for every frame, so a clip lasts as long as its "
            "units; train it with condition.content=text or none"
        )
    named = {words.name for words in given}
    for part in condition.parts:
        if part.is_per_frame and part.name not in named:
            raise GenlabError(
                f"{option}: {part.name!r} says something of every frame of a prompt; set it too, "
                f"by --{_option_of(part)} {part.name}=FILE"
            )
    num_frames = math.ceil(seconds * frame_hz - 1e-6)
    b, t = cond.content.shape
    content = np.zeros((b, max(num_frames, t)), np.int32)
    return cond._replace(content=content), np.full(b, num_frames, np.int32)
