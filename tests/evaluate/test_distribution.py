import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.evaluate.distribution import (
    SpeechEmbedder,
    build_reference,
    frechet_infinity,
    kernel_distance,
)


def draw_clips(rng, num_clips, shift=0.0, channels=8):
    """Clips of 5 vectors that hang together, as windows of one recording do."""
    return [
        rng.normal(shift, 1, (1, channels)) + rng.normal(0, 0.5, (5, channels))
        for _ in range(num_clips)
    ]


@pytest.fixture(scope="module")
def embedder() -> SpeechEmbedder:
    return SpeechEmbedder()


def test_kernel_distance_is_unbiased_and_its_interval_covers_zero():
    rng = np.random.default_rng(0)
    estimates = []
    for i in range(150):
        reference = build_reference(draw_clips(rng, 40))
        estimates.append(kernel_distance(draw_clips(rng, 20), reference, seed=i, num_resamples=300))
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values)) + 1e-9
    assert np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]) >= 0.92


def test_bandwidth_and_distance_are_those_of_the_formulas():
    """The bandwidth is the median distance of two different vectors; the distance is MMD^2 over
    pairs of different clips, 100 times.
    """
    rng = np.random.default_rng(6)
    real, made = draw_clips(rng, 7, channels=3), draw_clips(rng, 5, shift=0.4, channels=3)
    raw = np.concatenate(real)
    y, x = ((np.concatenate(clips) - raw.mean(0)) / raw.std(0) for clips in (real, made))
    distances = [np.linalg.norm(y[i] - y[j]) for i in range(len(y)) for j in range(i)]
    reference = build_reference(real)
    assert reference.bandwidth == pytest.approx(np.median(distances))

    def mean_kernel(a, b, is_same):
        clips = [np.repeat(np.arange(len(one) // 5), 5) for one in (a, b)]
        found = [
            np.exp(-np.sum((a[i] - b[j]) ** 2) / (2 * np.median(distances) ** 2))
            for i in range(len(a))
            for j in range(len(b))
            if not is_same or clips[0][i] != clips[1][j]
        ]
        return np.mean(found)

    expected = mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)
    found = kernel_distance(made, reference, num_resamples=2)
    assert found.value == pytest.approx(100 * expected) and found.n == 5


def test_leaving_same_clip_pairs_in_would_be_biased():
    rng = np.random.default_rng(0)
    together = [
        kernel_distance(
            draw_clips(rng, 12), build_reference(draw_clips(rng, 12)), num_resamples=2
        ).value
        for _ in range(60)
    ]
    apart = []
    for _ in range(60):
        a, b = np.concatenate(draw_clips(rng, 12)), np.concatenate(draw_clips(rng, 12))
        apart.append(
            kernel_distance(
                list(a[:, None]), build_reference(list(b[:, None])), num_resamples=2
            ).value
        )
    assert np.mean(apart) > np.mean(together) + 1.0


def test_distances_grow_with_the_shift():
    rng = np.random.default_rng(1)
    reference = build_reference(draw_clips(rng, 60))
    for distance in (kernel_distance, frechet_infinity):
        estimates = [
            distance(draw_clips(rng, 60, shift), reference, num_resamples=50)
            for shift in (0, 0.5, 1.0)
        ]
        assert estimates[0].value < estimates[1].value < estimates[2].value
        assert estimates[2].low > estimates[0].high
        assert all(estimate.low <= estimate.value <= estimate.high for estimate in estimates)


def test_frechet_of_a_known_shift():
    rng = np.random.default_rng(2)
    reference = build_reference([rng.normal(0, 2, (1, 4)) for _ in range(4000)])
    # one standard deviation in each of 4 channels
    shifted = [rng.normal(2, 2, (1, 4)) for _ in range(4000)]
    assert frechet_infinity(shifted, reference, num_resamples=3).value == pytest.approx(
        4.0, abs=0.3
    )


def test_the_extrapolation_removes_the_bias_of_few_vectors():
    """Two sets of one distribution: each subset is far from its partner, the line through them ends
    near zero.
    """
    rng = np.random.default_rng(3)
    found = []
    for seed in range(30):
        reference = build_reference([rng.normal(size=(1, 8)) for _ in range(120)])
        own = [rng.normal(size=(1, 8)) for _ in range(120)]
        found.append(frechet_infinity(own, reference, seed=seed, num_resamples=2).value)
    # what 120 vectors a side cost: the squared error of two means, and as much of covariances
    plain = 8 * 1.5 / 120
    assert abs(np.mean(found)) < 3 * np.std(found) / 30**0.5 + 0.2 * plain


def test_a_reference_keeps_its_leading_directions():
    rng = np.random.default_rng(4)
    hidden = rng.normal(size=(200, 3))
    clips = list((hidden @ rng.normal(size=(3, 20)) + 0.01 * rng.normal(size=(200, 20)))[:, None])
    reference = build_reference(clips, channels=3)
    assert reference.vectors.shape == (200, 3)
    whole = build_reference(clips)
    assert np.square(reference.vectors).sum() == pytest.approx(
        np.square(whole.vectors).sum(), rel=1e-3
    )
    np.testing.assert_allclose(reference.clip_means, reference.vectors)


def test_speech_embeddings_rank_degradations(embedder, speech, degrade):
    known, fresh = speech[: len(speech) // 2], speech[len(speech) // 2 :]
    reference = build_reference([embedder(prompt.wave) for prompt in known])

    def distance(spoil):
        return kernel_distance(
            [embedder(spoil(prompt.wave)) for prompt in fresh], reference, num_resamples=200
        )

    clean = distance(lambda wave: wave)
    noisy, noisier, shuffled = (
        distance(degrade[name]) for name in ("noise_10db", "noise_0db", "shuffle")
    )
    assert clean.value < noisy.value < noisier.value
    assert shuffled.low > clean.value


def test_short_clips_give_one_vector(embedder):
    assert embedder(np.zeros(10, np.float32)).shape == (1, 96)
    assert len(embedder(np.zeros(32000, np.float32))) > 10


def test_one_reference_clip_is_refused():
    with pytest.raises(GenlabError, match="expected at least 2 real clips"):
        build_reference([np.zeros((3, 96))])


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (
            [np.zeros(16_000), np.zeros(16_000)],
            r"embeddings\[0\]: shape \(16000,\), expected the vectors of one clip",
        ),
        (
            [np.zeros((2, 3)), np.zeros(3)],
            r"embeddings\[1\]: shape \(3,\).*give one vector per clip as vector\[None\]",
        ),
        ([np.zeros((2, 3)), np.zeros((2, 4))], r"embeddings\[1\]: 4 channels, expected 3"),
        ([np.zeros((2, 3)), np.zeros((0, 3))], r"embeddings\[1\]: shape \(0, 3\)"),
    ],
)
def test_what_is_no_embedding_is_refused_by_name(embeddings, message):
    with pytest.raises(GenlabError, match=message):
        build_reference(embeddings)


def test_another_embedding_than_that_of_the_reference_is_refused():
    rng = np.random.default_rng(0)
    reference = build_reference([rng.normal(size=(4, 3)) for _ in range(3)])
    with pytest.raises(GenlabError, match="embeddings: 5 channels, expected 3"):
        kernel_distance([rng.normal(size=(4, 5))] * 2, reference)
