"""Bits per clip: batches, intervals that hold the Monte-Carlo error, and a check that catches a
score too low.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.evaluate.comparisons import compare_rows
from genlab.evaluate.likelihood import (
    can_score,
    choose_width,
    measure_excess,
    score_bits,
    score_clips,
)
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import load_row, save_row
from genlab.evaluate.scores import is_conclusive
from genlab.tokens import ScoreOut

SOURCE = KnownEntropy(states=4, entries=6, clips=8, clip_frames=16)
NUM_FRAMES = 16


class Oracle(nnx.Module):
    """Scores with the source's own probabilities, times `factor`, plus noise of `noise_bits` that
    it says it has.
    """

    def __init__(self, factor=1.0, noise_bits=0.0, validity="exact"):
        self.factor, self.noise_bits, self.validity = factor, noise_bits, validity

    def score(self, tokens, cond, *, key, num_draws=1):
        """Return the bits of each example."""
        shape = jax.ShapeDtypeStruct((tokens.codes.shape[0],), jnp.float32)
        bits = jax.pure_callback(
            lambda codes: SOURCE.exact_bits(codes).astype(np.float32), shape, tokens.codes
        )
        deviation = jnp.full(shape.shape, self.noise_bits / num_draws**0.5)
        bits = self.factor * bits + deviation * jax.random.normal(key, shape.shape)
        return ScoreOut(bits, deviation, self.validity)


class Mute(nnx.Module):
    """A family without `score`."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return draw_store(SOURCE, tmp_path_factory.mktemp("likelihood"))


def excess_of(decoder, store, **options):
    return measure_excess(
        decoder, SOURCE, store, num_frames=NUM_FRAMES, **{"num_clips": 200, **options}
    )


def test_each_clip_gets_its_own_bits_across_batches(store):
    clips = SOURCE.fresh_clips(40, NUM_FRAMES)
    out = score_clips(Oracle(), store, clips, num_draws=1)
    np.testing.assert_allclose(
        out.bits, SOURCE.exact_bits(np.stack([clip.codes for clip in clips])), rtol=1e-5
    )
    assert out.validity == "exact" and not out.std_error.any()
    assert can_score(Oracle()) and not can_score(Mute())


def test_draws_differ_between_batches_and_repeat_with_the_seed(store):
    clips = SOURCE.fresh_clips(1, NUM_FRAMES) * 64
    ours, again, other = (
        score_clips(Oracle(noise_bits=1.0), store, clips, num_draws=1, seed=seed).bits
        for seed in (0, 0, 1)
    )
    assert (ours == again).all() and (ours != other).all()
    assert len(set(ours.tolist())) == 64


def test_the_source_itself_has_no_excess_and_a_better_score_is_refuted(store):
    own = excess_of(Oracle(), store)
    assert abs(own.excess.value) < 1e-3 and not own.is_refuted
    for validity in ("exact", "upper bound"):
        cheat = excess_of(Oracle(factor=0.99, validity=validity), store)
        assert cheat.is_refuted and "REFUTED" in cheat.describe()
        assert cheat.excess.value == pytest.approx(-0.01 * cheat.source, rel=1e-3)
    # it claimed nothing
    assert not excess_of(Oracle(factor=0.99, validity="biased"), store).is_refuted
    worse = excess_of(Oracle(factor=1.05, validity="upper bound"), store)
    assert worse.excess.low > 0 and not worse.is_refuted


def test_the_interval_holds_the_monte_carlo_error(store):
    found = excess_of(Oracle(noise_bits=20.0, validity="upper bound"), store, num_draws=4)
    seconds = NUM_FRAMES / SOURCE.spec.frame_hz
    assert found.monte_carlo_error == pytest.approx(20 / 4**0.5 / 200**0.5 / seconds, rel=1e-5)
    assert found.excess.high - found.excess.low == pytest.approx(
        2 * 1.96 * found.monte_carlo_error, rel=0.2
    )
    assert found.excess.low < 0 < found.excess.high
    few = excess_of(Oracle(noise_bits=20.0, validity="upper bound"), store, num_draws=1)
    assert few.monte_carlo_error == pytest.approx(2 * found.monte_carlo_error, rel=1e-5)


def score_row(store, decoders, num_draws=4):
    clips, unscored = SOURCE.fresh_clips(40, NUM_FRAMES), SOURCE.fresh_clips(8, NUM_FRAMES, seed=1)
    names = [clip.id for clip in clips]
    return score_bits(decoders, store, clips, names, unscored=unscored, num_draws=num_draws, seed=0)


def test_every_training_seed_draws_on_its_own(store):
    """Two decoders that are alike: what both drew alike would count once and look like two."""
    noisy = Oracle(noise_bits=5.0, validity="upper bound")
    _, values = score_row(store, [noisy, noisy])
    first, second = values.totals[:40], values.totals[40:]
    assert (first != second).all()
    # Independent draws of deviation 2.5 (four of them): their differences have sqrt(2) of it.
    assert (first - second).std() == pytest.approx(2.5 * 2**0.5, rel=0.35)
    _, again = score_row(store, [noisy, noisy])
    assert (again.totals == values.totals).all()


class Wide(nnx.Module):
    """A bound that is lowest at `best`, on clips whose first code is even; on others, at the lowest
    width.
    """

    bound_widths = (0.5, 1.0, 2.0)

    def __init__(self, best):
        self.best = best

    def score(self, tokens, cond, *, key, num_draws=1, width=1.0):
        """Return the bits of each example."""
        is_even = tokens.codes[:, 0, 0] % 2 == 0
        return ScoreOut(
            jnp.where(is_even, 100 * jnp.abs(width - self.best), width), 0 * is_even, "upper bound"
        )


def test_the_width_of_q_is_chosen_per_decoder_on_clips_that_are_not_scored(store):
    clips = SOURCE.fresh_clips(40, NUM_FRAMES)
    even, odd = ([clip for clip in clips if clip.codes[0, 0] % 2 == rest] for rest in (0, 1))
    assert [choose_width(Wide(best), store, even, num_draws=1) for best in (0.6, 1.1, 9)] == [
        0.5,
        1.0,
        2.0,
    ]
    assert choose_width(Oracle(), store, even, num_draws=1) is None
    score, values = score_bits(
        [Wide(1.0), Wide(2.0)],
        store,
        odd,
        [clip.id for clip in odd],
        unscored=even,
        num_draws=1,
        seed=0,
    )
    # lower widths were there to be had
    assert values.totals.tolist() == [1.0] * len(odd) + [2.0] * len(odd)
    assert f"width of q 1, 2, chosen on {len(even)} unscored clips" in score.note


def test_a_score_says_what_it_is_and_counts_prompts_not_seeds(store):
    score, values = score_row(store, [Oracle(), Oracle(factor=1.1)])
    bits = SOURCE.exact_bits(np.stack([clip.codes for clip in SOURCE.fresh_clips(40, NUM_FRAMES)]))
    assert score.value == pytest.approx(
        1.05 * bits.sum() / (40 * NUM_FRAMES / SOURCE.spec.frame_hz), rel=1e-5
    )
    assert (score.validity, score.note, score.seeds, score.n) == ("exact", "", 2, 40)
    assert values.validity == "exact" and len(values.totals) == 80
    score, values = score_row(store, [Oracle(noise_bits=5.0, validity="upper bound")])
    assert score.validity == values.validity == "upper bound" and "4 draws per clip" in score.note


def test_validity_survives_the_disk(store, tmp_path):
    score, values = score_row(store, [Oracle(noise_bits=5.0, validity="upper bound")])
    save_row(
        tmp_path / "row.json", RowResult({"bits_per_s": score}, {"bits_per_s": values}, {}, ())
    )
    row = load_row(tmp_path / "row.json")
    assert (
        row.per_clip["bits_per_s"].validity == "upper bound" and row.scores["bits_per_s"] == score
    )
    assert row.per_clip["bits_per_s"].clusters == values.clusters


def test_only_a_bound_below_an_exact_value_is_conclusive(store):
    decoders = {
        "exact": Oracle(factor=1.2),
        "worse": Oracle(factor=1.3),
        "low bound": Oracle(factor=1.1, validity="upper bound"),
        "lower bound": Oracle(validity="upper bound"),
        "high bound": Oracle(factor=1.4, validity="upper bound"),
        "biased": Oracle(factor=0.5, validity="biased"),
    }
    rows = {
        name: {"bits_per_s": score_row(store, [decoder])[1]} for name, decoder in decoders.items()
    }
    found = {frozenset((pair.a, pair.b)): pair.better for pair in compare_rows(rows)}
    assert found == {
        frozenset(("exact", "worse")): "exact",
        frozenset(("exact", "low bound")): "low bound",
        frozenset(("exact", "lower bound")): "lower bound",
        frozenset(("exact", "high bound")): "",  # the truth behind the bound may lie below
        frozenset(("worse", "low bound")): "low bound",
        frozenset(("worse", "lower bound")): "lower bound",
        frozenset(("worse", "high bound")): "",
    }


def test_what_counts_as_conclusive():
    assert is_conclusive("metric", "metric") and is_conclusive("exact", "exact")
    assert is_conclusive("upper bound", "exact") and not is_conclusive("exact", "upper bound")
    assert not is_conclusive("upper bound", "upper bound") and not is_conclusive("biased", "exact")
    assert not is_conclusive("not a likelihood", "exact")
