import numpy as np
import pytest
import soundfile
from bad_audio import tone, write_bad_files, write_good_files

from genlab.config import GenlabError
from genlab.data.audio import AudioError, read_flac, read_wave, resample, to_float, to_int16, write_flac


def test_every_good_file_reads_as_the_same_tone(tmp_path):
    for name, duration_s in write_good_files(tmp_path).items():
        wave = read_wave(tmp_path / name)
        assert wave.dtype == np.float32 and wave.ndim == 1
        assert abs(len(wave) / 16_000 - duration_s) < 0.08, name  # MP3 adds its own padding
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        assert abs(np.argmax(spectrum) * 16_000 / len(wave) - 220) < 3, name


def test_every_bad_file_gives_a_reason(tmp_path):
    for name, reason in write_bad_files(tmp_path).items():
        if name in {"phone.m4a", "endless.flac"}:  # refused by the import, not by the reader
            continue
        with pytest.raises(AudioError) as caught:
            read_wave(tmp_path / name)
        assert reason in caught.value.reason and name in str(caught.value) and "\n" not in str(caught.value)
        assert isinstance(caught.value, GenlabError)
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(AudioError, match="not a regular file"):
        read_wave(tmp_path / "folder.wav")
    with pytest.raises(AudioError, match="file not found"):
        read_wave(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match=r"extension '.txt'"):
        read_wave(tmp_path / "notes.txt")


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.8, 0.99])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_truncation_is_never_silent(tmp_path, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 32_000).astype(np.float32), 16_000)
    assert len(read_wave(path)) == 32_000
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(AudioError):
        read_wave(path)


def test_streamed_wav_without_a_length_is_whole(tmp_path):
    path = tmp_path / "stream.wav"
    soundfile.write(path, tone(), 16_000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read_wave(path)) == 8_000


def test_int16_round_trip_is_exact(tmp_path):
    samples = np.arange(-32_767, 32_768, dtype=np.int16)
    assert np.array_equal(to_int16(to_float(samples)), samples)
    assert to_int16(np.array([-2.0, 2.0], np.float32)).tolist() == [-32_767, 32_767]
    write_flac(tmp_path / "a.flac", samples)
    assert np.array_equal(read_flac(tmp_path / "a.flac"), samples)
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(AudioError, match="damaged cache file"):
        read_flac(tmp_path / "a.flac")


def test_resampling_keeps_what_fits_and_drops_what_does_not():
    low, high = tone(1.0, 48_000, 1_000.0), tone(1.0, 48_000, 15_000.0)
    assert abs(np.sqrt(np.mean(resample(low, 48_000, 16_000) ** 2)) - 0.3 / np.sqrt(2)) < 1e-3
    assert np.abs(resample(high, 48_000, 16_000)[1_000:-1_000]).max() < 1e-3
