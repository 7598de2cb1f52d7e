import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.evaluate.speaker import SpeakerEncoder, embed_groups, group_clips, score_speakers
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ


@pytest.fixture(scope="module")
def encoder() -> SpeakerEncoder:
    return SpeakerEncoder()


@pytest.fixture(scope="module")
def split(speech):
    return speech[: len(speech) // 2], speech[len(speech) // 2 :]


def score(encoder, centroids, prompts, waves):
    groups = group_clips(
        [len(prompt.wave) for prompt in prompts], [prompt.speaker for prompt in prompts]
    )
    embeddings = embed_groups(encoder, waves, groups)
    return score_speakers(embeddings, groups, [prompt.speaker for prompt in prompts], centroids)


def test_clips_are_joined_to_three_seconds_per_speaker():
    second = SAMPLE_RATE_HZ
    groups = group_clips(
        [2 * second, second, 2 * second, second, 4 * second, second], ["a", "b", "a", "a", "c", "b"]
    )
    assert groups == [[0, 2, 3], [1, 5], [4]]
    assert sorted(i for members in groups for i in members) == list(range(6))


def test_embedding_has_unit_length_and_ignores_level(encoder, speech):
    vector = encoder(speech[0].wave)
    assert vector.shape == (256,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
    assert encoder(np.zeros(100, np.float32)).shape == (256,)


def test_own_speaker_is_nearer_than_others_and_noise_hides_the_voice(encoder, split, degrade):
    known, fresh = split
    centroids = encoder.centroids([p.wave for p in known], [p.speaker for p in known], max_groups=3)
    clean = score(encoder, centroids, fresh, [p.wave for p in fresh])
    assert (clean.similarity > clean.others + 0.1).all()
    assert clean.is_nearest.mean() == 1.0
    assert clean.similarity.mean() > 0.85
    noisy = score(encoder, centroids, fresh, [degrade["noise_0db"](p.wave) for p in fresh])
    assert noisy.similarity.mean() < clean.similarity.mean() - 0.2
    assert noisy.is_nearest.mean() < 0.9


def test_swapped_voices_are_found_out(encoder, split):
    known, fresh = split
    centroids = encoder.centroids([p.wave for p in known], [p.speaker for p in known], max_groups=3)
    by_speaker = {p.speaker: p.wave for p in fresh}
    names = sorted(by_speaker)
    waves = [by_speaker[names[(names.index(p.speaker) + 1) % len(names)]] for p in fresh]
    assert score(encoder, centroids, fresh, waves).is_nearest.mean() < 0.1


def test_a_speaker_without_other_speech_has_no_score():
    centroids = {"a": np.eye(256)[0], "b": np.eye(256)[1]}
    vectors = np.stack([0.8 * centroids["a"] + 0.6 * centroids["b"]] * 2)
    found = score_speakers(vectors, [[0, 2], [1]], ["a", "nobody", "a"], centroids)
    np.testing.assert_allclose(found.similarity, [0.8, np.nan])
    np.testing.assert_allclose(found.is_nearest, [1.0, np.nan])
    np.testing.assert_allclose(found.others[0], 0.6)
    assert found.group.tolist() == [0, 1, 0]
    with pytest.raises(GenlabError, match="no real speech"):
        score_speakers(vectors, [[0, 2], [1]], ["a", "nobody", "a"], {})


def test_of_one_speaker_the_nearest_says_nothing():
    found = score_speakers(np.eye(256)[:1], [[0]], ["a"], {"a": np.eye(256)[0]})
    assert (
        found.similarity.tolist() == [1.0]
        and np.isnan(found.is_nearest).all()
        and np.isnan(found.others).all()
    )
