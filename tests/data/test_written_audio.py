"""What is written: the extension decides the format, and what goes wrong is one line with its exit
code.
"""

import errno
from pathlib import Path

import numpy as np
import pytest
import soundfile

from genlab import cli
from genlab.data.audio import WRITTEN, read_wave, write_audio, write_flac
from genlab.data.decoding import AudioError

TONE = np.round(9_000 * np.sin(np.arange(8_000) / 10)).astype(np.int16)


@pytest.mark.parametrize("suffix", [*WRITTEN, ".WAV"])
def test_the_extension_decides_the_format(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    write_audio(path, TONE, sample_rate_hz=16_000)
    kind, subtype = WRITTEN[suffix.lower()]
    found = soundfile.info(path)
    assert (found.format.replace("MPEG", "MP3"), found.subtype) == (kind, subtype)
    assert found.samplerate == 16_000
    wave = read_wave(path)  # which refuses an extension that lies
    if subtype == "PCM_16":
        np.testing.assert_array_equal(np.round(wave * 32768).astype(np.int16), TONE)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["out", "out.aiff", "out.txt", "out.safetensors"])
def test_another_extension_is_refused(name, tmp_path):
    with pytest.raises(AudioError, match=r"is not one of \.wav, "):
        write_audio(tmp_path / name, TONE, sample_rate_hz=16_000)
    with pytest.raises(AudioError, match=r"ends in \.flac"):
        write_flac(tmp_path / name, TONE)
    with pytest.raises(AudioError, match="OPUS at 22050 Hz cannot be written"):
        write_audio(tmp_path / "out.opus", TONE, sample_rate_hz=22_050)
    assert list(tmp_path.iterdir()) == []


def roundtrip(tmp_path: Path, target: str) -> int:
    soundfile.write(tmp_path / "in.wav", TONE, 16_000)
    return cli.main(
        ["codec", "roundtrip", str(tmp_path / "in.wav"), str(tmp_path / target), "--codec", "mulaw"]
    )


def test_roundtrip_writes_what_the_name_says(tmp_path, capsys):
    assert roundtrip(tmp_path, "out.wav") == 0
    assert soundfile.info(tmp_path / "out.wav").format == "WAV"
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out.wav'}: ")
    (tmp_path / "folder.wav").mkdir()
    for target, told in (
        ("new/out.wav", "new/out.wav: No such file or directory"),
        ("out.xyz", "extension '.xyz' is not one of"),
        ("in.wav", "in.wav: is the input file itself"),
        ("folder.wav", "folder.wav: is a directory"),
    ):
        assert roundtrip(tmp_path, target) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and told in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.wav", "in.wav", "out.wav"]


def test_a_full_disk_leaves_the_old_file_and_ends_with_74(tmp_path, capsys, monkeypatch):
    (tmp_path / "old.flac").write_bytes(b"old")

    def write_bytes(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert roundtrip(tmp_path, "out.wav") == 74
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "the disk is full" in err
    with pytest.raises(OSError, match=r"No space left on device: .*old\.flac"):
        write_flac(tmp_path / "old.flac", TONE)
    assert (tmp_path / "old.flac").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.wav", "old.flac"]
