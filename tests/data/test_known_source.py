"""The known-entropy source: its closed forms against enumeration and sampling, its latents, and its
token store.
"""

import itertools

import numpy as np
import pydantic
import pytest

from genlab.data.batches import BatchSource, batch_digest
from genlab.data.known_entropy import KnownEntropy, draw_store

SOURCE = KnownEntropy(clips=256, clip_frames=24)
TINY = KnownEntropy(seed=3, states=2, branches=2, codebooks=2, entries=3)


def all_clips(source, num_frames):
    """Return every sequence of codes that fits the token space."""
    shape = (num_frames, source.codebooks)
    codes = itertools.product(range(source.entries), repeat=num_frames * source.codebooks)
    return np.array(list(codes)).reshape(-1, *shape)


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_entropy_and_probabilities_agree_with_enumeration(num_frames):
    bits = TINY.exact_bits(all_clips(TINY, num_frames))
    probabilities = 2.0**-bits
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    is_possible = probabilities > 0
    entropy = (probabilities[is_possible] * bits[is_possible]).sum()
    assert TINY.entropy_bits(num_frames) == pytest.approx(entropy, rel=1e-12)


def test_the_models_that_ignore_context_cost_what_the_enumeration_says():
    codes = all_clips(TINY, 1)
    probabilities = 2.0 ** -TINY.exact_bits(codes)
    alone = 0.0
    for level in range(TINY.codebooks):
        marginal = np.bincount(codes[:, 0, level], probabilities)
        alone -= (marginal * np.log2(marginal)).sum()
    assert TINY.code_bits == pytest.approx(alone, rel=1e-12)
    assert TINY.frame_bits == pytest.approx(TINY.entropy_bits(1), rel=1e-12)


@pytest.mark.parametrize(
    "source", [SOURCE, KnownEntropy(seed=5, states=5, branches=3, codebooks=4, entries=16)]
)
def test_entropy_is_the_mean_of_exact_bits(source):
    codes, _ = source.draw(np.random.default_rng(0), 4000, 20)
    bits = source.exact_bits(codes)
    error = bits.std() / np.sqrt(len(bits))
    assert abs(bits.mean() - source.entropy_bits(20)) < 3 * error
    assert error < 0.01 * bits.mean()  # or the line above would show nothing


def test_the_chain_is_stationary():
    codes, _ = SOURCE.draw(np.random.default_rng(1), 20_000, 8)
    first, last = (
        np.bincount(codes[:, frame, 0], minlength=SOURCE.entries) / 20_000 for frame in (0, -1)
    )
    assert np.abs(first - last).max() < 0.015


def test_context_carries_a_good_share_of_the_bits():
    assert SOURCE.rate_bits < 0.7 * SOURCE.frame_bits < 0.7 * SOURCE.code_bits
    assert SOURCE.entropy_bits(50) == pytest.approx(SOURCE.frame_bits + 49 * SOURCE.rate_bits)


def test_codes_that_the_source_never_makes_cost_infinitely_many_bits():
    codes, _ = SOURCE.draw(np.random.default_rng(0), 500, 12)
    assert np.isfinite(SOURCE.exact_bits(codes)).all()
    codes[:, :, 0] = codes[:, ::-1, 0]  # two successors a state: hardly any clip can run backwards
    assert np.isinf(SOURCE.exact_bits(codes)).mean() > 0.9


@pytest.mark.parametrize(
    "source", [SOURCE, KnownEntropy(states=16, codebooks=6, entries=64, noise=0.04)]
)
def test_nearest_entries_recover_the_codes_from_the_latents(source):
    codes, latents = source.draw(np.random.default_rng(0), 50, 20)
    residual = latents.astype(np.float64)
    for level, entries in enumerate(source.code_vectors):
        distances = ((residual[..., None, :] - entries) ** 2).sum(axis=-1)
        np.testing.assert_array_equal(distances.argmin(axis=-1), codes[..., level])
        residual = residual - entries[codes[..., level]]
    radii = np.linalg.norm(source.code_vectors, axis=-1)
    assert (np.diff(radii.max(axis=1)) < 0).all()
    assert residual.std() == pytest.approx(source.noise * radii[-1, 0], rel=0.05)


def test_a_source_is_a_function_of_its_config():
    again, other = KnownEntropy(**SOURCE.to_dict()), KnownEntropy(**{**SOURCE.to_dict(), "seed": 1})
    for ours, theirs in zip(SOURCE.fresh_clips(4, 9), again.fresh_clips(4, 9)):
        np.testing.assert_array_equal(ours.codes, theirs.codes)
        np.testing.assert_array_equal(ours.latents, theirs.latents)
    assert SOURCE.rate_bits != other.rate_bits
    assert (
        SOURCE.fresh_clips(4, 9, seed=1)[0].codes != SOURCE.fresh_clips(4, 9, seed=2)[0].codes
    ).any()


def test_the_store_holds_the_source_and_gives_the_same_batches_again(tmp_path):
    store = draw_store(SOURCE, tmp_path)
    assert store.info.spec == SOURCE.spec and store.split("train").clips == SOURCE.clips
    clips = [store.clip(index) for index in range(SOURCE.clips)]
    codes = np.stack([clip.codes for clip in clips])
    assert SOURCE.exact_bits(codes).mean() == pytest.approx(SOURCE.entropy_bits(24), rel=0.03)
    latents = np.concatenate([store.normalise(clip.latents) for clip in clips])
    np.testing.assert_allclose(latents.std(axis=0), 1, atol=1e-3)
    # In normalised units too, code vectors add up to the latents.
    summed = sum(
        entries[codes[..., level]] for level, entries in enumerate(store.code_vectors)
    ).reshape(latents.shape)
    assert np.abs(summed - latents).max() < 0.1
    digests = [
        batch_digest(
            BatchSource(
                draw_store(SOURCE, path).dataset("train", num_frames=16, seed=2), 8
            ).batch_at(5)
        )
        for path in (tmp_path, tmp_path / "elsewhere")
    ]
    assert digests[0] == digests[1]
    fresh = {clip.codes.tobytes() for clip in SOURCE.fresh_clips(256, 24)}
    assert fresh.isdisjoint(clip.codes.tobytes() for clip in clips)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"states": 9}, "states=9: expected at most entries=8"),
        ({"states": 4, "branches": 5}, "at least branches=5"),
        ({"noise": 0.2}, "lower noise or entries, or raise latent_channels"),
        ({"latent_channels": 2, "entries": 32}, "lower noise or entries, or raise latent_channels"),
    ],
)
def test_a_source_that_cannot_be_is_refused(fields, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        KnownEntropy(**fields)
