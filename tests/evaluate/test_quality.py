import numpy as np
import pytest

from genlab.evaluate.quality import WINDOW_SAMPLES, Dnsmos, _clip_windows


@pytest.fixture(scope="module")
def quality() -> Dnsmos:
    return Dnsmos(max_windows=1)


def test_noise_costs_quality(quality, speech, degrade):
    clips = [prompt.wave for prompt in speech[:3]]
    clean, noisy, noisier = (
        quality([spoil(wave) for wave in clips])
        for spoil in (lambda wave: wave, degrade["noise_10db"], degrade["noise_0db"])
    )
    for name in ("ovrl", "bak", "p808"):
        levels = [getattr(scores, name).mean() for scores in (clean, noisy, noisier)]
        assert levels[0] > levels[1] > levels[2], name
    assert clean.ovrl.mean() > 2.2
    assert ((clean.sig > 1) & (clean.sig < 5)).all()


def test_a_score_does_not_depend_on_the_other_clips(quality, speech):
    waves = [prompt.wave for prompt in speech[:3]]
    together, alone = quality(waves), quality(waves[2:3])
    assert np.allclose(
        [column[2] for column in together], [column[0] for column in alone], atol=1e-4
    )


def test_windows_tile_short_clips_and_slide_over_long_ones():
    short = np.arange(16000, dtype=np.float32) / 16000
    windows = _clip_windows(short, None)
    assert windows.shape[1] == WINDOW_SAMPLES
    assert (windows[0][16000:32000] == short).all()
    assert len(_clip_windows(short, 1)) == 1
    # 11 starts fit into 20 s; the reference implementation loses 4 of them to rounding, and so must
    # this one.
    assert len(_clip_windows(np.zeros(20 * 16000, np.float32), None)) == 7
    assert _clip_windows(np.zeros(0, np.float32), None).shape[1] == WINDOW_SAMPLES


def test_no_clips_no_scores(quality):
    assert len(quality([]).ovrl) == 0
