import os
import struct
import sys

import numpy as np
import pytest
import soundfile
from bad_audio import tone, write_bad_files, write_good_files

from genlab.config import GenlabError
from genlab.data.audio import (
    read_flac,
    read_sides,
    read_wave,
    resample,
    to_float,
    to_int16,
    write_flac,
)
from genlab.data.decoding import AudioError, Limit, Part


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
        assert (
            reason in caught.value.reason
            and name in str(caught.value)
            and "\n" not in str(caught.value)
        )
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
    soundfile.write(
        path, np.random.default_rng(0).uniform(-0.5, 0.5, 32_000).astype(np.float32), 16_000
    )
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


def noise(count=32_000, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, count).astype(np.float32)


def refusal(path, **options):
    with pytest.raises(AudioError) as caught:
        read_wave(path, **options)
    assert "\n" not in caught.value.reason and len(caught.value.reason) < 300
    return caught.value.reason


@pytest.mark.parametrize(
    "subtype",
    ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"],
)
def test_every_kind_of_wav(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", tone(2.0), 16_000, subtype=subtype)
    wave = read_wave(tmp_path / "a.wav")
    assert np.abs(wave[:32_000] - tone(2.0)).max() < 0.15
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[: len(data) // 2])
    assert "truncated: the header promises" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("options", [{"format": "RF64"}, {"format": "WAVEX"}, {"endian": "BIG"}])
def test_wav_containers_cut_in_half(tmp_path, options):
    soundfile.write(tmp_path / "a.wav", noise(), 16_000, **options)
    assert len(read_wave(tmp_path / "a.wav")) == 32_000
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[: len(data) // 2])
    assert "truncated: the header promises 32" in refusal(tmp_path / "a.wav")


def test_a_wav_whose_header_claims_too_little(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(), 16_000)
    data = bytearray(path.read_bytes())
    path.write_bytes(data + b"LIST" + struct.pack("<I", 9_000) + b"INFO" * 2_250)
    assert len(read_wave(path)) == 32_000
    path.write_bytes(data + bytes(100))  # padding
    assert len(read_wave(path)) == 32_000
    for claimed in (0, 1_000, 20_001):
        data[40:44] = struct.pack("<I", claimed)
        path.write_bytes(data)
        assert f"damaged: {64_000 - claimed} bytes follow the samples" in refusal(path)


def test_a_wav_of_endless_parts_is_not_searched_for_ever(tmp_path):
    with open(tmp_path / "a.wav", "wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWAVE")
        file.truncate(4 << 30)
    assert "no samples within the first 10000 parts" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_md5_of_a_flac_is_compared(tmp_path, subtype, channels):
    samples = np.stack([noise(), noise(seed=1)], axis=1)[:, :channels]
    path = tmp_path / "a.flac"
    soundfile.write(path, samples, 16_000, subtype=subtype)
    exact = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1, dtype=np.float32)
    assert np.array_equal(read_wave(path), exact)
    data = bytearray(path.read_bytes())
    data[26:42] = b"\x55" * 16
    path.write_bytes(data)
    assert "MD5" in refusal(path)
    data[26:42] = bytes(16)  # encoders that stream state none
    path.write_bytes(data)
    assert np.array_equal(read_wave(path), exact)
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    assert "4294967.3 s long, the limit is 3600 s" in refusal(path)
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert "does not say how long it is" in refusal(path)


def find_xing(data):
    return max(data.find(b"Xing"), data.find(b"Info")) + 8


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (2**31 - 1, "the limit is"),
        (1_000, "truncated"),
        (10, "its frames hold more"),
        (30, "hold more"),
    ],
)
def test_an_mp3_header_that_claims_another_length(tmp_path, frames, reason):
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(80_000), 16_000)
    data = bytearray(path.read_bytes())
    place = find_xing(data)
    data[place : place + 4] = struct.pack(">I", frames)
    path.write_bytes(data)
    assert reason in refusal(path)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_files_with_tags_and_damage(tmp_path, rate_hz, mode):
    path = tmp_path / "a.mp3"
    samples = noise(3 * rate_hz)
    soundfile.write(path, samples, rate_hz, bitrate_mode=mode)
    wave = read_wave(path)
    data = path.read_bytes()
    path.write_bytes(b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + data + b"TAG" + bytes(125))
    assert np.array_equal(read_wave(path), wave)
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(700) + data[middle + 700 :])
    assert "damaged: no MP3 frame at byte" in refusal(path) or "truncated" in refusal(path)


@pytest.mark.parametrize(
    ("name", "rate_hz", "subtype"), [("a.ogg", 16_000, "VORBIS"), ("a.opus", 48_000, "OPUS")]
)
def test_no_bit_of_an_ogg_flips_in_silence(tmp_path, name, rate_hz, subtype):
    path = tmp_path / name
    soundfile.write(path, noise(40_000), rate_hz, format="OGG", subtype=subtype)
    assert abs(len(read_wave(path)) - 40_000 * 16_000 / rate_hz) < 1
    data = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(data)
        damaged[generator.integers(len(data))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        refusal(path)


def test_what_16_bits_cannot_hold(tmp_path):
    path = tmp_path / "a.wav"
    for peak, is_accepted in ((1e-6, False), (1.4e-5, False), (1e-4, True)):
        soundfile.write(path, peak / 0.3 * tone(), 16_000, subtype="FLOAT")
        if is_accepted:
            assert to_int16(read_wave(path)).any()
        else:
            assert "silence at 16 bits" in refusal(path)
    ultrasound = 0.3 * np.sin(np.pi * 0.75 * np.arange(96_000)) * np.hanning(96_000)
    soundfile.write(path, ultrasound, 96_000, subtype="FLOAT")
    assert "silence at 16 bits" in refusal(path)


@pytest.mark.parametrize(
    ("right", "is_accepted"), [(-1.0, False), (-0.9, False), (0.0, True), (0.5, True)]
)
def test_channels_that_cancel(tmp_path, right, is_accepted):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([tone(), right * tone()], axis=1), 16_000)
    if is_accepted:
        assert np.allclose(read_wave(path), tone() * (1 + right) / 2, atol=1e-3)
    else:
        assert "the two channels cancel when mixed" in refusal(path)
    own, other = read_sides(path)  # the two sides of a conversation are not mixed
    assert np.allclose(own, tone(), atol=1e-3) and np.allclose(other, right * tone(), atol=1e-3)


def test_stereo_is_the_mean_of_its_channels(tmp_path):
    """Samples of 16 bits come back to within half a step, 1.5e-5, and 1 / 32768 of their value:
    they are written as multiples of 1 / 32767.
    """
    left, right = noise(), noise(seed=1)
    for name, pair in (("both", (left, right)), ("right only", (0 * left, right))):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, np.stack(pair, axis=1), 16_000)
        found = read_wave(path)
        np.testing.assert_allclose(found, (pair[0] + pair[1]) / 2, atol=3.1e-5)


def test_unrelated_channels_do_not_cancel(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([noise(), noise(seed=1)], axis=1), 16_000)
    assert len(read_wave(tmp_path / "a.wav")) == 32_000


@pytest.mark.parametrize("rate_hz", [1, 3_999, 768_001, 2**31 - 1])
def test_sample_rates_beyond_use(tmp_path, rate_hz):
    soundfile.write(tmp_path / "a.wav", noise(), rate_hz)
    assert f"sample rate {rate_hz} Hz, at" in refusal(tmp_path / "a.wav")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and links")
def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    os.symlink("/dev/zero", tmp_path / "device.wav")
    os.symlink(tmp_path / "gone", tmp_path / "link.wav")
    os.symlink(tmp_path / "loop.wav", tmp_path / "loop.wav")
    assert refusal(tmp_path / "pipe.wav") == "not a regular file"
    assert refusal(tmp_path / "device.wav") == "not a regular file"
    assert refusal(tmp_path / "link.wav") == "broken link: its target is gone"
    assert "not readable" in refusal(tmp_path / "loop.wav")
    assert "not readable" in refusal(tmp_path / "a\0.wav")
    assert "not readable" in refusal(tmp_path / "\ud800.wav")
    assert "File name too long" in refusal(tmp_path / ("x" * 300 + ".wav"))


def test_six_hours_are_refused_by_the_header(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(), 44_100)
    data = bytearray(path.read_bytes())
    num_bytes = 6 * 3_600 * 44_100 * 2
    data[40:44] = struct.pack("<I", num_bytes)
    path.write_bytes(data)
    os.truncate(path, 44 + num_bytes)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)  # nothing is decoded
    reason = refusal(path, limit=Limit(40.0, "max_clip_s"))
    assert reason == "21600.0 s long, the limit is max_clip_s=40: cut it or raise that"


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_parts_of_a_file(tmp_path, name):
    soundfile.write(tmp_path / name, noise(48_000), 16_000)
    whole = read_wave(tmp_path / name)
    part = read_wave(tmp_path / name, part=Part(1.25, 0.5), limit=Limit(0.6))
    assert np.allclose(part, whole[20_000:28_000], atol=1e-6)
    assert np.allclose(read_wave(tmp_path / name, part=Part(2.5)), whole[40_000:], atol=1e-6)
    # Rounded durations of whole files, as tables state them, cut nothing off.
    for duration_s in (2.95, 3.0, 3.05):
        assert np.array_equal(read_wave(tmp_path / name, part=Part(0.0, duration_s)), whole)
    assert len(read_wave(tmp_path / name, part=Part(0.0, 2.0))) == 32_000
    assert len(read_wave(tmp_path / name, part=Part(2.0, 1.05))) == 16_000
    assert refusal(tmp_path / name, part=Part(3.0)) == "offset 3 s is beyond its end, 3.000 s"
    assert "is beyond its end" in refusal(tmp_path / name, part=Part(1e308, 1e308))
    assert "duration 3.2 s is beyond its end" in refusal(tmp_path / name, part=Part(0.0, 3.2))
    assert "offset + duration, 3.2 s," in refusal(tmp_path / name, part=Part(1.0, 2.2))
    assert "only 10 ms (160 samples), at" in refusal(tmp_path / name, part=Part(1.0, 0.01))
    assert "the limit is 1 s" in refusal(tmp_path / name, part=Part(0.5, 1.5), limit=Limit(1.0))
