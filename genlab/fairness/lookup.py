"""The baseline `lookup`: the mean latent of the training frames with the same conditions, no
network.

In: the training clips of a comparison, and the conditions that its arms are told, no more. Out: one
latent per frame of a prompt. A frame is looked up by what is said there (its unit; its text or word
and how far that has come; or its number, where nothing is told) together with what holds for the
clip (speaker and labels). Where training has no such frame the key gets less telling: first the
speaker goes, then the labels, then what is said. Conditions that are numbers are no keys, and are
left out.

It predicts one block for sure, so its energy score is the distance to the real one (Gneiting and
Raftery 2007: of a point forecast, E|X - y| is |x - y|).
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

from genlab.data.store import TokenClip, TokenStore
from genlab.data.text import normalise_text
from genlab.decoders.conditioning import ConditionConfig

TEXT_PLACES = 64  # how finely the way through a text is told, in steps from its start to its end
WORD_PLACES = 16  # the same of a word
_FIRST_ROWS = 256  # of a table of sums, which doubles when it is full


class Lookup:
    """Mean latents by conditions.

    Args:
        condition: which conditions are keys: those that the arms are told.
    """

    def __init__(self, condition: ConditionConfig):
        self.condition = condition
        self._tables: list[_Means] = []

    def add(self, clip: TokenClip) -> None:
        """Count the frames of a training clip."""
        levels = frame_keys(clip, self.condition)
        if not self._tables:
            self._tables = [_Means(clip.latents.shape[1]) for _ in levels]
        for table, keys in zip(self._tables, levels, strict=True):
            table.add(keys, clip.latents)

    def predict(self, clip: TokenClip) -> Float[np.ndarray, "t d"]:
        """Return the mean latents of a clip's conditions, in the codec's units; its own latents are
        not read.
        """
        found = np.zeros((len(clip.units), clip.latents.shape[1]), np.float32)
        is_found = np.zeros(len(clip.units), bool)
        for table, keys in zip(self._tables, frame_keys(clip, self.condition), strict=True):
            means, is_seen = table.read(keys)
            is_new = is_seen & ~is_found
            found[is_new] = means[is_new]
            is_found |= is_seen
        return found


class _Means:
    """Sums of latents by key, in rows that are found by a dict."""

    def __init__(self, channels: int):
        self._rows: dict[Hashable, int] = {}
        self._sums = np.zeros((_FIRST_ROWS, channels))
        self._counts = np.zeros(_FIRST_ROWS)

    def add(self, keys: Sequence[Hashable], latents: Float[np.ndarray, "t d"]) -> None:
        rows = [self._rows.setdefault(key, len(self._rows)) for key in keys]
        while len(self._rows) > len(self._counts):
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        np.add.at(self._sums, rows, latents)  # a key may occur several times in a clip
        np.add.at(self._counts, rows, 1)

    def read(self, keys: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array([self._rows.get(key, -1) for key in keys])
        counts = np.maximum(self._counts[rows], 1)
        return self._sums[rows] / counts[:, None], rows >= 0


def fit_lookup(store: TokenStore, condition: ConditionConfig, train_clips: int | None) -> Lookup:
    """Return the means over the training clips of a comparison, `train_clips` of them or all."""
    lookup = Lookup(condition)
    for number in store.numbers("train", train_clips):
        lookup.add(store.clip(number))
    return lookup


def frame_keys(clip: TokenClip, condition: ConditionConfig) -> list[list[Hashable]]:
    """Return the keys of every frame, one list per level, from the most telling to none at all."""
    labels, per_frame = [], []
    for part in clip.parts:
        if np.issubdtype(part.value.dtype, np.integer):
            (per_frame if part.is_per_frame else labels).append(part.value.tolist())
    facts: list[Hashable] = [str(label) for label in labels]
    facts += [clip.speaker] if condition.speaker else []
    # The speaker last, so that it goes first: a test speaker may be new where a label is not.
    told = [tuple(facts[:count]) for count in range(len(facts), -1, -1)]
    contents = _contents(clip, condition)
    if per_frame:
        extra = [str(values) for values in zip(*per_frame)]
        contents = [list(zip(contents[0], extra)), *contents]
    return [
        [(content, fact) for content in contents_of_frames]
        for contents_of_frames in contents
        for fact in told
    ]


def _contents(clip: TokenClip, condition: ConditionConfig) -> list[list[Hashable]]:
    """Return what is said in every frame, from the most telling to nothing."""
    num_frames = len(clip.units)
    nothing: list[Hashable] = [None] * num_frames
    if condition.content == "semantic":
        return [clip.units.tolist(), nothing]
    if condition.content == "none":
        return [list(range(num_frames)), nothing]
    text = normalise_text(clip.text)
    way = (np.arange(num_frames) + 0.5) / num_frames
    places: list[Hashable] = (way * TEXT_PLACES).astype(int).tolist()
    of_text: list[Hashable] = [(text, place) for place in places]
    return [of_text, _words(text, way), places, nothing]


def _words(text: str, way: Float[np.ndarray, "t"]) -> list[Hashable]:
    """Return the word of every frame and how far it has come; letters are taken to last alike."""
    words = text.split() or [""]
    ends = np.cumsum([len(word) + 1 for word in words]) / sum(len(word) + 1 for word in words)
    number = np.minimum(np.searchsorted(ends, way, side="right"), len(words) - 1)
    starts = np.concatenate([[0.0], ends[:-1]])
    share = (way - starts[number]) / (ends - starts)[number]
    places = np.clip(share * WORD_PLACES, 0, WORD_PLACES - 1).astype(int)
    return [(words[word], place) for word, place in zip(number.tolist(), places.tolist())]
