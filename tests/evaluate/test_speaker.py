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
    groups = group_clips([len(prompt.wave) for prompt in prompts], [prompt.speaker for prompt in prompts])
    embeddings = embed_groups(encoder, waves, groups)
    return score_speakers(embeddings, groups, [prompt.speaker for prompt in prompts], centroids)


def test_clips_are_joined_to_three_seconds_per_speaker():
    second = SAMPLE_RATE_HZ
    groups = group_clips([2 * second, second, 2 * second, second, 4 * second, second], ["a", "b", "a", "a", "c", "b"])
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


def test_an_unknown_speaker_is_named(encoder, speech):
    with pytest.raises(GenlabError, match="speaker 'nobody' has no reference centroid"):
        score_speakers(np.zeros((1, 256)), [[0]], ["nobody"], {"s0": np.zeros(256)})
