"""The baselines that have bits alone: counts of codes, which know nothing of the conditions.

In: the training clips of a comparison. Out: exact bits of the prompts' own codes, as those of the
arms, so that a model that has learned less than counting is seen to. Per level of the codec:

    uniform    p(c) = 1 / V
    unigram    p(c) = (n(c) + 1) / (n + V)
    bigram     p(c | b) = (n(b, c) + w p(c)) / (n(b) + w), b the code of the frame before

where n counts the training clips and p(c) is the unigram. The bigram is interpolated: a history
that was seen often counts for itself, a rare one falls back on the unigram (MacKay and Peto 1995).
The weight w of each level is the one of `WEIGHTS` with the fewest bits on clips that are not
scored; the last one makes it a unigram. The first frame of a clip has no history.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from genlab.data.store import TokenClip, TokenStore
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.scores import ClipValues
from genlab.evaluate.table import make_score
from genlab.run.bounds import BIGRAM, UNIFORM, UNIGRAM, CountedBaseline

WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, math.inf)


class CodeCounts:
    """Counts of the codes of training clips.

    Args:
        codes: of every training clip.
        codebooks: levels of the codec.
        entries: codes of each level.
    """

    def __init__(self, codes: Iterable[Int[np.ndarray, "t k"]], codebooks: int, entries: int):
        clips = list(codes)
        self.entries = entries
        seen = np.concatenate([np.zeros((0, codebooks), np.int64), *clips])
        counts = [np.bincount(column, minlength=entries) for column in seen.T]
        self.unigram = (np.stack(counts) + 1) / (len(seen) + entries)
        # Pairs are kept as they occur: a table of all of them would not fit for large codebooks.
        before = np.concatenate([seen[:0], *(clip[:-1] for clip in clips)]).astype(np.int64)
        after = np.concatenate([seen[:0], *(clip[1:] for clip in clips)])
        self._histories = [np.bincount(column, minlength=entries) for column in before.T]
        pairs = (before * entries + after).T
        self._pairs = [np.unique(column, return_counts=True) for column in pairs]
        self.weights = np.full(codebooks, math.inf)

    def choose_weights(self, codes: Sequence[Int[np.ndarray, "t k"]]) -> None:
        """Take for each level the weight with the fewest bits on clips that are not scored."""
        bits = np.zeros((len(WEIGHTS), len(self.weights)))
        for number, weight in enumerate(WEIGHTS):
            weights = np.full_like(self.weights, weight)
            bits[number] = sum(self._bigram_bits(clip, weights) for clip in codes)
        self.weights = np.array(WEIGHTS)[bits.argmin(axis=0)]

    def bits(self, codes: Int[np.ndarray, "t k"]) -> dict[CountedBaseline, float]:
        """Return the bits of a clip's codes under each of the three."""
        found: dict[CountedBaseline, float] = {
            UNIFORM: codes.size * math.log2(self.entries),
            UNIGRAM: float(self._unigram_bits(codes).sum()),
            BIGRAM: float(self._bigram_bits(codes, self.weights).sum()),
        }
        return found

    def _unigram_bits(self, codes: Int[np.ndarray, "t k"]) -> Float[np.ndarray, "k"]:
        levels = np.arange(codes.shape[1])
        return -np.log2(self.unigram[levels, codes]).sum(axis=0)

    def _bigram_bits(
        self, codes: Int[np.ndarray, "t k"], weights: Float[np.ndarray, "k"]
    ) -> Float[np.ndarray, "k"]:
        bits = self._unigram_bits(codes[:1])
        for level, weight in enumerate(weights):
            alone = self.unigram[level, codes[1:, level]]
            before, after = codes[:-1, level].astype(np.int64), codes[1:, level]
            pairs, counts = self._pairs[level]
            wanted = before * self.entries + after
            place = np.minimum(np.searchsorted(pairs, wanted), max(len(pairs) - 1, 0))
            seen = np.where(pairs[place] == wanted, counts[place], 0) if len(pairs) else 0.0
            # Divided by the weight, so that an infinite one leaves the unigram.
            share = (seen / weight + alone) / (self._histories[level][before] / weight + 1)
            bits[level] += -np.log2(share).sum()
        return bits


def count_codes(
    store: TokenStore, train_clips: int | None, unscored: Sequence[TokenClip]
) -> CodeCounts:
    """Return the counts of the training clips of a comparison, `train_clips` of them or all, with
    the weights that are best on unscored clips.
    """
    spec = store.info.spec
    codes = {}
    for number in store.numbers("train", train_clips):
        clip = store.clip(number)
        codes[clip.id] = clip.codes
    counts = CodeCounts(codes.values(), spec.codebooks, spec.entries)
    # Without a validation split the unscored clips are of training. Pairs that were counted would
    # seem certain there, so half of the clips or less choose by the counts of the others.
    counted = [clip for clip in unscored if clip.id in codes]
    held = {clip.id for clip in counted[: len(codes) // 2]}
    rest = [found for name, found in codes.items() if name not in held]
    chooser = CodeCounts(rest, spec.codebooks, spec.entries) if held else counts
    if held or not counted:
        chooser.choose_weights(
            [clip.codes for clip in unscored if clip.id in held or clip.id not in codes]
        )
        counts.weights = chooser.weights
    return counts


def score_counts(
    store: TokenStore,
    clips: Sequence[TokenClip],
    clusters: tuple[object, ...],
    *,
    unscored: Sequence[TokenClip],
    train_clips: int | None,
    seed: int,
) -> Mapping[CountedBaseline, RowResult]:
    """Return the three rows.

    Args:
        store: the token store of the clips.
        clips: what is scored.
        clusters: which clips are one unit of the statistics.
        unscored: other clips, on which the weights of the bigram are chosen.
        train_clips: how many training clips are counted; None: all of them.
        seed: of the intervals.
    """
    counts = count_codes(store, train_clips, unscored)
    seconds = np.array([len(clip.units) for clip in clips]) / store.info.spec.frame_hz
    bits = [counts.bits(clip.codes) for clip in clips]
    weights = ", ".join(f"{weight:g}" for weight in counts.weights)
    notes: dict[CountedBaseline, str] = {
        UNIFORM: "every code alike",
        UNIGRAM: "counts of the training clips, one added to each",
        BIGRAM: "counts of pairs of the training clips, with the unigram for weights of "
        f"{weights} by level, chosen on {len(unscored)} unscored clips",
    }
    rows: dict[CountedBaseline, RowResult] = {}
    for name, note in notes.items():
        # Nothing is drawn and no bound is taken, so these are exact as those of AR.
        values = ClipValues(
            np.array([found[name] for found in bits]),
            seconds,
            clusters,
            "exact",
            (0,) * len(clips),
        )
        score = make_score(
            "bits_per_s", values.estimate(seed), seeds=1, validity="exact", note=note
        )
        rows[name] = RowResult({"bits_per_s": score}, {"bits_per_s": values}, {}, ())
    return rows
