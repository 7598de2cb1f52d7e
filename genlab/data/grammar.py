"""The closed language of the embedded corpus: 33 words in digit strings and commands, and 8 fixed
sentences.

A closed grammar keeps the task learnable in minutes and lets a small recogniser score it: the same
tables that texts are drawn from are written out as a JSGF grammar (`grammar_jsgf`) for
pocketsphinx.

    <digits>   = two to four of zero .. nine                          40 % of the utterances
    <command>  = VERB the COLOUR OBJECT ADVERB   (6 x 5 x 6 x 5)      45 %
    <sentence> = one of eight                                         15 %
"""

from collections.abc import Callable, Sequence

from genlab.data.text import DIGITS

VERBS = ("move", "take", "find", "show", "hold", "drop")
COLOURS = ("red", "blue", "green", "white", "black")
OBJECTS = ("box", "circle", "square", "lamp", "ball", "chair")
ADVERBS = ("now", "again", "slowly", "here", "today")
SENTENCES = (
    "the weather is nice this morning",
    "please close the window before you leave",
    "she sells fresh bread at the corner shop",
    "we usually have coffee after lunch",
    "thank you very much for your help",
    "good music makes a long journey short",
    "where did you leave my other jacket",
    "his brother just bought a huge old house",
)
MIN_DIGITS, MAX_DIGITS = 2, 4
KIND_SHARES = {"digits": 0.40, "command": 0.45, "sentence": 0.15}

VOCABULARY = tuple(
    sorted({*DIGITS, *VERBS, "the", *COLOURS, *OBJECTS, *ADVERBS, *" ".join(SENTENCES).split()})
)


def draw_text(kind: str, fraction: Callable[[str], float]) -> str:
    """Return a text of `kind` ("digits", "command" or "sentence").

    Args:
        kind: a key of `KIND_SHARES`.
        fraction: gives a number in [0, 1) for each named choice, so that a text follows from its
            seed alone.
    """

    def pick(options: Sequence[str], name: str) -> str:
        return options[int(fraction(name) * len(options))]

    if kind == "digits":
        count = MIN_DIGITS + int(fraction("count") * (MAX_DIGITS - MIN_DIGITS + 1))
        return " ".join(pick(DIGITS, f"digit {position}") for position in range(count))
    if kind == "command":
        verb, colour = pick(VERBS, "verb"), pick(COLOURS, "colour")
        return f"{verb} the {colour} {pick(OBJECTS, 'object')} {pick(ADVERBS, 'adverb')}"
    return pick(SENTENCES, "sentence")


def draw_kind(fraction: float) -> str:
    """Return the kind of utterance at `fraction` of the cumulated `KIND_SHARES`."""
    for kind, share in KIND_SHARES.items():
        if fraction < share:
            return kind
        fraction -= share
    return next(reversed(KIND_SHARES))


def grammar_jsgf() -> str:
    """Return the grammar as JSGF 1.0; it accepts exactly the texts that `draw_text` can draw."""
    optional = " ".join(["[<digit>"] * (MAX_DIGITS - MIN_DIGITS)) + "]" * (MAX_DIGITS - MIN_DIGITS)
    rules = {
        "digit": _alternatives(DIGITS),
        "verb": _alternatives(VERBS),
        "colour": _alternatives(COLOURS),
        "object": _alternatives(OBJECTS),
        "adverb": _alternatives(ADVERBS),
        "digits": " ".join(["<digit>"] * MIN_DIGITS) + f" {optional}",
        "command": "<verb> the <colour> <object> <adverb>",
        "sentence": _alternatives(SENTENCES),
    }
    lines = [
        "#JSGF V1.0;",
        "grammar genlab;",
        "public <utterance> = <digits> | <command> | <sentence>;",
    ]
    return "\n".join(lines + [f"<{name}> = {body};" for name, body in rules.items()]) + "\n"


def _alternatives(words: Sequence[str]) -> str:
    return " | ".join(words)
