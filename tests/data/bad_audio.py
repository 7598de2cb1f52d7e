"""One file of every kind that a user's folder may hold and genlab must name."""

import numpy as np
import soundfile


def tone(seconds=0.5, sample_rate_hz=16_000, frequency_hz=220.0):
    return (
        0.3
        * np.sin(
            2 * np.pi * frequency_hz * np.arange(int(seconds * sample_rate_hz)) / sample_rate_hz
        )
    ).astype(np.float32)


def write_truncated(path, keep=0.6, **options):
    soundfile.write(path, tone(2.0), 16_000, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def write_bad_files(folder):
    """Write the files and return {name: a part of the reason}."""
    folder.mkdir(parents=True, exist_ok=True)
    write_truncated(folder / "truncated.wav")
    write_truncated(folder / "truncated.flac")
    write_truncated(folder / "truncated.ogg")
    (folder / "zero bytes.wav").touch()
    soundfile.write(folder / "zero samples.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(
        folder / "nan.wav", np.where(tone() > 0.29, np.nan, tone()), 16_000, subtype="FLOAT"
    )
    soundfile.write(
        folder / "infinite.wav", np.where(tone() > 0.29, np.inf, tone()), 16_000, subtype="FLOAT"
    )
    soundfile.write(folder / "one sample.wav", tone()[:1] + 0.1, 16_000)
    soundfile.write(folder / "eight channels.wav", np.stack([tone()] * 8, axis=1), 16_000)
    soundfile.write(folder / "silence.wav", np.zeros(8_000, np.float32), 16_000)
    soundfile.write(folder / "unscaled.wav", tone() * 20_000, 16_000, subtype="FLOAT")
    soundfile.write(folder / "slow clock.wav", tone(2.0, 1_000), 1_000)
    (folder / "really text.wav").write_text("this is not audio")
    (folder / "really text.mp3").write_text("this is not audio")
    soundfile.write(folder / "really flac.flac", tone(), 16_000)
    (folder / "really flac.flac").rename(folder / "really flac.wav")
    (folder / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    soundfile.write(folder / "endless.flac", tone(50.0, 8_000), 8_000)
    (folder / "header only.wav").write_bytes((folder / "silence.wav").read_bytes()[:30])
    return {
        "truncated.wav": "truncated",
        "truncated.flac": "truncated",
        "truncated.ogg": "truncated",
        "zero bytes.wav": "empty file",
        "zero samples.wav": "zero length",
        "nan.wav": "NaN",
        "infinite.wav": "infinite",
        "one sample.wav": "only 0.0625 ms (1 sample), at least 50 ms needed",
        "eight channels.wav": "8 channels",
        "silence.wav": "silence",
        "unscaled.wav": "rescale",
        "slow clock.wav": "sample rate 1000 Hz",
        "really text.wav": "not readable as audio",
        "really text.mp3": "no audio in it",
        "really flac.wav": "wrong extension: the content is FLAC",
        "phone.m4a": "not supported",
        "endless.flac": "max_clip_s=40",
        "header only.wav": "",
    }


def write_good_files(folder):
    """Write readable files of every kind and return {name: its duration in seconds}."""
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "plain.wav", tone(), 16_000)
    soundfile.write(folder / "stereo.FLAC", np.stack([tone(), 0.5 * tone()], axis=1), 16_000)
    soundfile.write(folder / "cd.ogg", tone(0.5, 44_100), 44_100)
    soundfile.write(folder / "song.mp3", tone(0.5, 44_100), 44_100)
    soundfile.write(folder / "studio 192 kHz.wav", tone(0.5, 192_000), 192_000, subtype="PCM_24")
    soundfile.write(folder / "phone.wav", tone(0.5, 8_000), 8_000, subtype="ULAW")
    (folder / "päth with späce").mkdir(exist_ok=True)
    soundfile.write(folder / "päth with späce" / "日本語 ñ 'quote'.wav", tone(), 16_000)
    return {
        "plain.wav": 0.5,
        "stereo.FLAC": 0.5,
        "cd.ogg": 0.5,
        "song.mp3": 0.5,
        "studio 192 kHz.wav": 0.5,
        "phone.wav": 0.5,
        "päth with späce/日本語 ñ 'quote'.wav": 0.5,
    }
