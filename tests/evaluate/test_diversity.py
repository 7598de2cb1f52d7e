"""Diversity scores where the answer is known: sets of one distribution, collapsed sets, sets that
lie elsewhere.
"""

import numpy as np
import pytest

from genlab.evaluate.diversity import (
    clip_entropies,
    code_entropy,
    coverage_density,
    relative_spread,
)


@pytest.fixture(scope="module")
def real():
    return np.random.default_rng(0).normal(size=(200, 4))


def test_clips_of_the_same_distribution_cover_it(real):
    rng = np.random.default_rng(1)
    coverage, density = coverage_density(rng.normal(size=(200, 4)), real)
    # as many clips: P(no fake among the 5 nearest)
    assert coverage.value == pytest.approx(1 - 0.5**5, abs=0.05)
    assert density.low < 1 < density.high
    assert coverage.low < coverage.value < coverage.high


def test_collapse_and_strangers_are_seen(real):
    rng = np.random.default_rng(2)
    collapsed = real[:1] + 0.01 * rng.normal(size=(200, 4))
    coverage, _ = coverage_density(collapsed, real)
    assert coverage.value < 0.1 and relative_spread(collapsed, real).high < 0.05
    coverage, density = coverage_density(real + 10, real)
    assert coverage.value == density.value == 0
    assert relative_spread(real + 10, real).value == pytest.approx(1)
    same = relative_spread(rng.normal(size=(100, 4)), real)
    assert same.low < 1 < same.high


def test_the_entropy_of_uniform_codes_is_known_with_few_of_them():
    rng = np.random.default_rng(3)
    found = [
        code_entropy([rng.integers(0, 64, (10, 2)) for _ in range(30)], 64, seed=seed).value
        for seed in range(20)
    ]
    # 300 codes; without the correction 0.15 bits too low
    assert np.mean(found) == pytest.approx(6, abs=0.02)
    assert code_entropy([np.zeros((10, 2), int)] * 4, 64).value == 0


def test_the_entropy_within_a_clip_is_of_its_own_frequencies():
    constant, different = np.full((16, 2), 7), np.stack([np.arange(16), np.arange(16) % 4], axis=1)
    halves = np.repeat([[3, 3], [900, 900]], 5, axis=0)
    none = np.zeros((0, 2), int)
    np.testing.assert_allclose(
        clip_entropies([constant, different, halves, none]), [0, (4 + 2) / 2, 1, np.nan]
    )
    # A set of constant clips that differ has no entropy within clips and a lot over the set.
    clips = [np.full((16, 2), code) for code in range(64)]
    assert clip_entropies(clips).max() == 0 and code_entropy(clips, 64).value == pytest.approx(
        6, abs=0.1
    )
