"""Every door for waves takes the same ones: mono, finite, float or 16 bit; anything else is refused
by name.
"""

import io

import numpy as np
import pytest
import soundfile

from genlab.codecs.frozen import load_codec
from genlab.config import GenlabError
from genlab.data.audio import as_wave, as_waves, to_int16, wav_bytes
from genlab.evaluate.cepstrum import cepstral_distortions
from genlab.evaluate.distribution import SpeechEmbedder
from genlab.evaluate.pitch import PitchTracker
from genlab.evaluate.quality import Dnsmos
from genlab.evaluate.reconstruction import mel_distance_db, pesq_stoi
from genlab.evaluate.speaker import SpeakerEncoder
from genlab.recognisers.shipped import load_recogniser
from genlab.watch.mel import mel_png
from genlab.watch.tensorboard import RunWriter

RATE_HZ = 16_000
TIME_S = np.arange(RATE_HZ) / RATE_HZ
# On the 16-bit grid, so that the 16-bit form is the same wave.
SAMPLES = to_int16(0.3 * np.sin(2 * np.pi * (200 + 40 * TIME_S) * TIME_S))
WAVE = (SAMPLES / 32767).astype(np.float32)
BROKEN = np.where(np.arange(RATE_HZ) == 7, np.nan, WAVE).astype(np.float32)


def test_sixteen_bits_are_scaled_and_floats_are_kept():
    assert as_wave(WAVE) is WAVE
    assert as_wave(np.array([-32767, 0, 32767], np.int16)).tolist() == [-1, 0, 1]
    assert as_wave(WAVE.astype(np.float64)).dtype == np.float32
    np.testing.assert_array_equal(as_wave(SAMPLES), WAVE)


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (
            np.zeros((100, 2), np.float32),
            r"mine: shape \(100, 2\), expected one mono wave .*average the channels",
        ),
        (
            np.float32(0.5),
            (
                r"mine: shape \(\), expected one mono wave .*a list of waves was expected: give "
                r"\[wave\]"
            ),
        ),
        (np.zeros((1, 2, 3)), r"mine: shape \(1, 2, 3\)"),
        (BROKEN, "mine: 1 of 16000 samples are not finite"),
        (np.zeros(9, np.int32), "mine: dtype int32, expected floats in .* or int16"),
        (np.zeros(9, bool), "mine: dtype bool"),
    ],
)
def test_anything_else_is_refused_by_name(wave, message):
    with pytest.raises(GenlabError, match=message):
        as_wave(wave, "mine")


def test_a_list_names_the_wave_and_one_wave_is_no_list():
    with pytest.raises(GenlabError, match=r"waves\[1\]: 1 of 16000 samples"):
        as_waves([WAVE, BROKEN])
    with pytest.raises(GenlabError, match=r"waves\[0\]: .*give \[wave\]"):
        as_waves(WAVE)


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    """What each door makes of one wave, as something that can be compared."""
    codec, recogniser, events = load_codec(), load_recogniser(), tmp_path_factory.mktemp("events")
    quality, embedder, encoder, tracker = (
        Dnsmos(1),
        SpeechEmbedder(),
        SpeakerEncoder(),
        PitchTracker(),
    )

    def log(wave):
        with RunWriter(events) as writer:
            writer.audio("samples/prompt00", [wave], RATE_HZ, ["note"])
        return wav_bytes(wave)

    return {
        "codec": lambda wave: codec.encode([wave])[0][0],
        "quality": lambda wave: np.array(quality([wave])),
        "embedder": embedder,
        "speaker": encoder,
        "pitch": lambda wave: tracker(wave).f0_hz,
        "recogniser": lambda wave: recogniser.transcribe([wave]),
        "cepstrum": lambda wave: cepstral_distortions([wave], [WAVE]),
        "mel distance": lambda wave: mel_distance_db(wave, WAVE),
        "pesq and stoi": lambda wave: pesq_stoi([wave], [WAVE]),
        "log": log,
        "figure": mel_png,
    }


NAMES = (
    "codec",
    "quality",
    "embedder",
    "speaker",
    "pitch",
    "recogniser",
    "cepstrum",
    "mel distance",
    "pesq and stoi",
    "log",
    "figure",
)


@pytest.mark.parametrize("name", NAMES)
def test_sixteen_bits_mean_the_same_at_every_door(doors, name):
    ours, theirs = doors[name](SAMPLES), doors[name](WAVE)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_lone_sample_is_refused_at_every_door_and_stereo_by_what_hears_one_channel(doors, name):
    stereo = np.stack([WAVE, WAVE], axis=1)
    with pytest.raises(GenlabError, match="expected one mono wave"):
        doors[name](np.asarray(WAVE[0]))
    if name in NAMES[:-2]:
        with pytest.raises(GenlabError, match="expected one mono wave"):
            doors[name](stereo)
        return
    assert doors[name](stereo)
    with pytest.raises(GenlabError, match=r"shape \(2, 16000\), expected .* transpose it"):
        doors[name](stereo.T)


@pytest.mark.parametrize("name", NAMES[:-2])
def test_what_measures_refuses_samples_that_are_not_finite(doors, name):
    with pytest.raises(GenlabError, match="1 of 16000 samples are not finite"):
        doors[name](BROKEN)


def test_what_shows_a_wave_shows_them_as_silence():
    """A preview of a sampler that fails must not end the training that would mend it."""
    wave, _ = soundfile.read(io.BytesIO(wav_bytes(BROKEN)), dtype="float32")
    assert wave[7] == 0 and np.abs(wave - WAVE)[8:].max() < 1e-4
    assert mel_png(BROKEN) == mel_png(np.where(np.isfinite(BROKEN), BROKEN, 0))
