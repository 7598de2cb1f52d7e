"""Every built-in kind of condition at toy size, and values of it for a batch."""

import numpy as np
from decoder_toys import NUM_EXAMPLES, NUM_FRAMES, toy_batch

from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.parts import Label, Numbers
from genlab.decoders.told.codes import Codes
from genlab.decoders.told.curves import Curve
from genlab.decoders.told.labels import Labels
from genlab.decoders.told.symbols import Phonemes, Utf8
from genlab.decoders.told.vectors import Vector, VectorSequence

NAMES = ("flute", "oboe", "piano")
PARTS = (
    Label(name="style", column="style", names=NAMES, dropout=0.2),
    Labels(name="band", column="band", names=NAMES),
    Numbers(name="tempo", columns=("tempo",)),
    Utf8(name="words", max_symbols=6, layers=1, dropout=0.2),
    Phonemes(name="sounds", symbols=("ah", "b", "k"), max_symbols=4, layers=1),
    Curve(name="pitch", measured="f0"),
    Vector(name="clap", column="clap", channels=5),
    VectorSequence(name="states", column="states", channels=3, max_length=4),
    Codes(name="mixture", codebooks=2, entries=7),
)


def is_legal(part, route) -> bool:
    """Whether values of this extent can take the route."""
    if part.is_sequence:
        return route in ("prefix", "cross")
    return route != "adaln" or not part.is_per_frame


def parts_by(route):
    """Every kind that can take a route, on that route."""
    return tuple(
        part.model_copy(update={"route": route}) for part in PARTS if is_legal(part, route)
    )


def told_by(route) -> ConditionConfig:
    """Nothing told but the parts, all on one route."""
    return ConditionConfig(content="none", speaker=False, parts=parts_by(route))


def values(seed=0, num_examples=NUM_EXAMPLES, num_frames=NUM_FRAMES):
    """Values of every part, which differ in every example from those of another seed."""
    rng = np.random.default_rng(seed)
    named = {part.name: part for part in PARTS}
    texts = ["å", "hi", "ok"] if seed % 2 == 0 else ["né", "yo", "no"]
    sounds = ["b", "k ah", "ah ah b"] if seed % 2 == 0 else ["k", "b ah", "k k k"]
    weights = rng.dirichlet(np.ones(len(NAMES)), num_examples).astype(np.float32)
    states = [rng.normal(size=(1 + i % 3, 3)).astype(np.float32) for i in range(num_examples)]
    return {
        "style": ((np.arange(num_examples) + seed) % len(NAMES)).astype(np.int32),
        "band": weights,
        "tempo": rng.normal(size=(num_examples, 1)).astype(np.float32),
        "words": np.stack([named["words"].symbols_of(texts[i % 3]) for i in range(num_examples)]),
        "sounds": np.stack(
            [named["sounds"].symbols_of(sounds[i % 3]) for i in range(num_examples)]
        ),
        "pitch": rng.normal(size=(num_examples, num_frames, 2)).astype(np.float32),
        "clap": rng.normal(size=(num_examples, 5)).astype(np.float32),
        "states": np.stack([named["states"]._fit(each) for each in states]),
        "mixture": rng.integers(0, 7, (num_examples, num_frames, 2)).astype(np.int32),
    }


def told_batch(route, seed=0):
    """A batch of tokens with the values of the parts on a route."""
    tokens, cond = toy_batch()
    names = [part.name for part in parts_by(route)]
    return tokens, cond._replace(parts={name: values(seed)[name] for name in names})
