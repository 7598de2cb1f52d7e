"""Lyra's SoundStream with the published weights, where they are there; what it should give is from
the LiteRT interpreter (ai-edge-litert 2.3.0).
"""

import numpy as np
import pytest
from real_audio import FOLDER

from genlab.codecs.frozen import load_codec
from genlab.codecs.lyra import ENCODER

WEIGHTS = FOLDER / "lyra_v2_weights"
STEP = 0.2634915  # of the latents


@pytest.mark.skipif(not (WEIGHTS / ENCODER).is_file(), reason=f"no weights in {WEIGHTS}")
def test_a_chirp_is_coded_as_by_the_interpreter():
    time_s = np.arange(16_000) / 16_000
    wave = (0.3 * np.sin(2 * np.pi * (100 * time_s + 1000 * time_s**2))).astype(np.float32)
    codec = load_codec(f"lyra2:{WEIGHTS}")
    [(codes, latents)] = codec.encode([wave])
    assert codes.shape == (50, 46) and codes.sum() == 17_110
    assert codes[10, :12].tolist() == [10, 14, 8, 3, 4, 11, 4, 15, 7, 1, 4, 11]
    assert codes[49, :12].tolist() == [10, 8, 2, 2, 7, 13, 14, 0, 8, 7, 12, 5]
    whole = np.round(latents / STEP).astype(int)
    assert whole[30, :8].tolist() == [-1, 27, -9, 24, 9, -40, 26, 35]
    np.testing.assert_allclose(latents, whole * STEP, atol=1e-4)
    [heard] = codec.decode_latents([latents])
    expected = [0.0088747488, -0.0309484545, 0.0282199234, -0.1077969819]
    np.testing.assert_allclose(heard[[4_000, 8_000, 12_000, 15_999]], expected, atol=2e-6)
    assert abs(np.sqrt(np.mean(heard**2)) - 0.0747023) < 1e-6
    # 16 of the levels are Lyra's lowest rate.
    fewer = load_codec(f"lyra2@16:{WEIGHTS}")
    assert fewer.spec.bitrate_bps == 3200
    np.testing.assert_array_equal(fewer.encode([wave])[0][0], codes[:, :16])
