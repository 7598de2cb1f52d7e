import numpy as np

from genlab.evaluate.reconstruction import mel_distance_db, mel_distances_db, pesq_stoi


def test_distance_is_zero_on_itself_and_grows_with_damage(speech, degrade):
    wave = speech[0].wave
    assert mel_distance_db(wave, wave) == 0
    order = [mel_distance_db(wave, degrade[name](wave)) for name in ("noise_10db", "noise_0db")]
    assert 0 < order[0] < order[1]
    assert mel_distance_db(wave, degrade["low_pass"](wave)) > 3


def test_halving_the_level_is_six_decibels_less_the_floor(speech):
    wave = speech[0].wave
    assert 3.0 < mel_distance_db(wave, wave * np.float32(0.5)) <= 6.03


def test_common_length_and_crumbs(speech):
    wave = speech[0].wave
    assert mel_distance_db(wave, np.pad(wave, (0, 500))) == 0
    assert np.isnan(mel_distances_db([wave], [wave[:10]])[0])


def test_optional_scores_agree_that_noise_is_worse(speech, degrade):
    waves = [prompt.wave for prompt in speech[:3]]
    clean, noisy = (
        pesq_stoi(waves, waves),
        pesq_stoi(waves, [degrade["noise_0db"](wave) for wave in waves]),
    )
    assert set(clean) <= {"pesq", "stoi", "estoi"}
    for name in clean:
        assert (clean[name] > noisy[name]).all()


def test_scores_have_the_same_digits_every_time(speech, degrade):
    waves = [prompt.wave for prompt in speech[:2]]
    noisy = [degrade["noise_0db"](wave) for wave in waves]
    first = pesq_stoi(waves, noisy)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    again = pesq_stoi(waves[::-1], noisy[::-1])
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name][::-1])
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
