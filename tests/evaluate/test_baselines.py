"""The baselines on data whose means and entropies are known: what each of them must come to."""

import math

import numpy as np
import pytest

from genlab.data.known_entropy import KnownEntropy
from genlab.data.parts import PartValue
from genlab.data.store import TokenClip
from genlab.decoders.conditioning import ConditionConfig
from genlab.evaluate.comparisons import compare_rows
from genlab.evaluate.scores import clip_means
from genlab.fairness.counts import WEIGHTS, CodeCounts, score_counts
from genlab.fairness.lookup import Lookup, fit_lookup, frame_keys
from genlab.run.bounds import BIGRAM, UNIFORM, UNIGRAM


def make_clip(units, latents, speaker="a", text="", parts=()):
    """A clip of one latent channel."""
    values = np.asarray(latents, np.float32)[:, None]
    codes = np.zeros((len(values), 1), np.int32)
    return TokenClip("id", text, speaker, "", codes, values, np.array(units), None, parts)


def fitted(condition, *clips):
    lookup = Lookup(condition)
    for clip in clips:
        lookup.add(clip)
    return lookup


def mean_of(lookup, clip):
    return lookup.predict(clip)[:, 0].tolist()


def test_units_are_looked_up_with_the_speaker_and_then_without():
    lookup = fitted(
        ConditionConfig(),
        make_clip([1, 1, 2], [1.0, 3.0, 10.0]),
        make_clip([1, 2, 3], [5.0, 20.0, 7.0], speaker="b"),
    )
    # a says 1 as the mean of two frames, 3 as b says it, and a unit that nobody said as a speaks.
    found = mean_of(lookup, make_clip([1, 2, 3, 9], [0.0] * 4))
    assert found == pytest.approx([2.0, 10.0, 7.0, 14.0 / 3])
    # A new speaker gets everybody's, and the mean of all frames where the unit is new as well.
    found = mean_of(lookup, make_clip([1, 2, 9], [0.0] * 3, speaker="new"))
    assert found == pytest.approx([3.0, 15.0, 46.0 / 6])


def test_no_more_is_looked_up_than_the_arms_are_told():
    clips = make_clip([1, 2], [1.0, 2.0]), make_clip([1, 2], [3.0, 4.0], speaker="b")
    untold = fitted(ConditionConfig(speaker=False), *clips)
    assert mean_of(untold, make_clip([1, 2], [0.0] * 2)) == [2.0, 3.0]
    nothing = fitted(ConditionConfig(content="none", speaker=False), *clips)
    # The number of the frame is all that is left; what comes later than any is the mean of all.
    assert mean_of(nothing, make_clip([2, 1, 5], [0.0] * 3)) == [2.0, 3.0, 2.5]


def test_its_own_latents_are_not_read():
    lookup = fitted(ConditionConfig(), make_clip([1, 2], [1.0, 2.0]))
    assert mean_of(lookup, make_clip([1, 2], [np.nan] * 2)) == [1.0, 2.0]


def test_texts_are_looked_up_whole_then_by_word_and_place():
    told = ConditionConfig(content="text", speaker=False)
    lookup = fitted(
        told,
        make_clip([0] * 4, [1.0, 2.0, 3.0, 4.0], text="go"),
        make_clip([0] * 4, [5.0, 6.0, 7.0, 8.0], text="go"),
        make_clip([0] * 4, [9.0, 10.0, 11.0, 12.0], text="No!"),
    )
    assert mean_of(lookup, make_clip([0] * 4, [0.0] * 4, text="Go")) == [3.0, 4.0, 5.0, 6.0]
    # "go no": neither text nor place is known, but its words are, twice as fast.
    longer = make_clip([0] * 8, [0.0] * 8, text="go no")
    assert mean_of(lookup, longer) == pytest.approx([3.0, 4.0, 5.0, 6.0, 9.0, 10.0, 11.0, 12.0])
    # A new word is looked up by its place in the clip.
    assert mean_of(lookup, make_clip([0] * 4, [0.0] * 4, text="up")) == [5.0, 6.0, 7.0, 8.0]


def test_labels_stay_longer_than_the_speaker_and_numbers_are_no_keys():
    def label(number):
        return PartValue("class", np.asarray(number, np.int32), False)

    tempo = PartValue("tempo", np.asarray([0.5], np.float32), False)
    told = ConditionConfig(content="none")
    keys = frame_keys(make_clip([1], [0.0], parts=(label(3), tempo)), told)
    assert [level[0] for level in keys[:3]] == [(0, ("3", "a")), (0, ("3",)), (0, ())]
    lookup = fitted(
        told,
        make_clip([1], [1.0], parts=(label(3),)),
        make_clip([1], [5.0], parts=(label(4),)),
    )
    assert mean_of(lookup, make_clip([1], [0.0], speaker="new", parts=(label(4),))) == [5.0]


def test_counts_equal_those_by_hand():
    train = [np.array([[0], [1], [1]]), np.array([[0], [0]])]
    counts = CodeCounts(train, codebooks=1, entries=4)
    scored = np.array([[0], [1]])
    bits = counts.bits(scored)
    assert bits[UNIFORM] == 2 * 2
    # 0 three times, 1 twice, of five codes; one is added to each of four entries.
    assert bits[UNIGRAM] == pytest.approx(-math.log2(4 / 9) - math.log2(3 / 9))
    assert bits[BIGRAM] == pytest.approx(bits[UNIGRAM])  # no weight is chosen yet
    counts.weights[:] = 3.0
    # After 0 came 1 once and 0 once.
    assert counts.bits(scored)[BIGRAM] == pytest.approx(
        -math.log2(4 / 9) - math.log2((1 + 3 * 3 / 9) / (2 + 3))
    )
    counts.choose_weights([np.array([[0], [1], [1]])])
    assert counts.weights[0] == min(WEIGHTS)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_counts_are_distributions(weight):
    rng = np.random.default_rng(0)
    counts = CodeCounts([rng.integers(5, size=(30, 2))], codebooks=2, entries=6)
    counts.weights[:] = weight
    for before in range(6):
        clips = [np.array([[before, 0], [code, 0]]) for code in range(6)]
        first, all_bits = (
            counts._bigram_bits(np.array([[before, 0]]), counts.weights)[0],
            [counts._bigram_bits(clip, counts.weights)[0] for clip in clips],
        )
        assert sum(2.0 ** -(bits - first) for bits in all_bits) == pytest.approx(1.0)


class Clips:
    """A store of clips that are all for training."""

    def __init__(self, spec, clips):
        self.info = type("Info", (), {"spec": spec})
        self._clips = clips

    def numbers(self, split, clips):
        assert split == "train"
        return range(len(self._clips) if clips is None else clips)

    def clip(self, number):
        return self._clips[number]


def test_bits_of_a_known_source_lie_above_its_entropy():
    source = KnownEntropy()
    drawn = source.fresh_clips(600, 64, seed=0)
    store, prompts = Clips(source.spec, drawn), source.fresh_clips(64, 64, seed=1)
    rows = score_counts(
        store,
        prompts,
        tuple(range(64)),
        unscored=[clip._replace(id=f"valid {clip.id}") for clip in source.fresh_clips(32, 64, 2)],
        train_clips=None,
        seed=0,
    )
    hz = source.spec.frame_hz
    scores = {name: row.scores["bits_per_s"] for name, row in rows.items()}
    assert {score.validity for score in scores.values()} == {"exact"}
    assert scores[UNIFORM].value == pytest.approx(3 * math.log2(8) * hz)
    # A unigram comes down to what a code costs by itself.
    assert scores[UNIGRAM].value == pytest.approx(source.code_bits * hz, rel=0.01)
    assert scores[UNIGRAM].value > scores[BIGRAM].value > source.rate_bits * hz
    codes = np.stack([clip.codes for clip in prompts])
    assert (rows[BIGRAM].per_clip["bits_per_s"].totals > source.exact_bits(codes)).all()
    # Clips of training choose the weights by the counts of the others, so a pair is no certainty.
    small = Clips(source.spec, drawn[:6])
    found = score_counts(
        small, prompts, tuple(range(64)), unscored=drawn[:6], train_clips=None, seed=0
    )
    bits = {name: row.scores["bits_per_s"].value for name, row in found.items()}
    assert bits[BIGRAM] < bits[UNIGRAM]
    fewer = score_counts(
        store, prompts, tuple(range(64)), unscored=drawn[:4], train_clips=3, seed=0
    )
    assert fewer[UNIGRAM].scores["bits_per_s"].value > scores[UNIGRAM].value


def test_means_of_a_store_are_of_its_training_clips():
    clips = [make_clip([1], [float(number)]) for number in range(4)]
    store = Clips(KnownEntropy().spec, clips)
    assert mean_of(fit_lookup(store, ConditionConfig(), None), clips[0]) == [1.5]
    assert mean_of(fit_lookup(store, ConditionConfig(), 2), clips[0]) == [0.5]


def test_arms_are_compared_with_baselines_and_pay_nothing_for_it():
    rng = np.random.default_rng(0)
    prompts = tuple(f"p{number}" for number in range(40))
    floor = clip_means(rng.normal(1.0, 0.1, 40), prompts)._replace(runs=(0,) * 40)
    runs = tuple(np.repeat(range(3), 40).tolist())

    def arm(mean):
        values = np.tile(floor.values, 3) + rng.normal(mean, 0.05, 120)
        return {"block_energy": clip_means(values, prompts * 3)._replace(runs=runs)}

    arms = {"ar": arm(-0.2), "masked": arm(0.3)}
    alone = compare_rows(arms)
    rows = {**arms, "lookup": {"block_energy": floor}, "bigram": {}}
    found = compare_rows(rows, baselines={"lookup", "bigram"})
    assert [(pair.a, pair.b) for pair in found] == [("ar", "lookup"), ("masked", "lookup")]
    assert [pair.better for pair in found] == ["ar", "lookup"]
    assert found[0].difference == pytest.approx(-0.2, abs=0.02) and found[0].p_holm < 0.01
    assert alone == compare_rows(arms) and len(alone) == 1
    # A row that grouped its clips otherwise is left out instead of stopping a finished run.
    strange = {"block_energy": floor._replace(clusters=tuple(range(40)))}
    assert compare_rows({**arms, "lookup": strange}, baselines={"lookup"}) == []
