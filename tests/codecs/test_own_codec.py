"""The tutorial's codec is loaded from its file, encodes a corpus, and
resamples like every other.
"""

from pathlib import Path

import numpy as np
import pytest
from codec_toys import make_frozen, make_wave

from genlab.codecs.cache import align_units
from genlab.codecs.frozen import FrozenCodec, load_codec
from genlab.config import GenlabError

TUTORIAL = Path(__file__).parents[2] / "docs" / "own_codec.py"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_codec(str(TUTORIAL))


def test_the_tutorial_stays_short():
    assert len(TUTORIAL.read_text().splitlines()) < 80


def test_it_is_a_codec(own):
    waves = [make_wave(1, 16_000), make_wave(2, 9_999)]
    encoded = own.encode(waves)
    assert [codes.shape for codes, _ in encoded] == [(50, 8), (32, 8)]
    alone = own.encode(waves[1:])[0]
    np.testing.assert_array_equal(alone[0], encoded[1][0])
    for (codes, latents), wave in zip(encoded, waves):
        quantised = sum(own.code_vectors[level][codes[:, level]] for level in range(8))
        assert np.mean((quantised - latents) ** 2) < 0.5 * np.mean(latents**2)
        [back] = own.decode_latents([latents])
        assert np.corrcoef(back[: len(wave)], wave)[0, 1] > 0.9


def test_its_fingerprint_follows_file_and_parameters(own, tmp_path):
    changed = tmp_path / "mine.py"
    changed.write_text(
        "import jax\nfrom genlab.codecs.convnext import StackConfig\n"
        "from genlab.codecs.spectral import SpectralCodecConfig\n"
        "def codec():\n"
        "    small = StackConfig(width=8, blocks=1)\n"
        "    config = SpectralCodecConfig(encoder=small, decoder=small, entries=8)\n"
        "    return config.build(key=jax.random.key(SEED))\n".replace("SEED", "0")
    )
    first = load_codec(str(changed)).fingerprint
    changed.write_text(changed.read_text().replace("key(0)", "key(1)"))
    assert len({first, load_codec(str(changed)).fingerprint, own.fingerprint}) == 3


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), ("x = 1", "no function codec")]
)
def test_a_file_without_a_codec_is_refused(tmp_path, content, reason):
    path = tmp_path / "none.py"
    if content:
        path.write_text(content)
    with pytest.raises(GenlabError, match=reason):
        load_codec(str(path))


def test_waves_keep_the_rate_of_the_caller():
    plain = make_frozen()
    resampling = FrozenCodec(plain._merge(plain._state), "x", {}, wave_rate_hz=24_000)
    wave = make_wave(5, 24_000)
    [(codes, _)] = resampling.encode([wave])
    assert len(codes) == 50, "a second of 24 kHz is a second"
    [decoded] = resampling.decode_codes([codes])
    assert len(decoded) == 24_000
    assert plain.wave_rate_hz == 16_000


def test_units_follow_the_frames():
    units = np.arange(8)
    np.testing.assert_array_equal(align_units(units, 8), units)
    np.testing.assert_array_equal(align_units(units, 2), [2, 6])
    np.testing.assert_array_equal(align_units(np.arange(4), 6), [0, 1, 1, 2, 3, 3])
