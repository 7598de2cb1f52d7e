"""Audio files in and out: any WAV, FLAC, OGG or MP3 to 16 kHz mono float32, or one reason why not.

`read_wave` trusts nothing: a truncated file, a wrong extension, NaN, silence, a single sample or a microphone array
raises `AudioError` with a reason a person can act on. Stereo is averaged; more than two channels are refused, because
a blind mix of an array cancels what arrives at different times. Resampling is soxr at high quality.
"""

import io
import struct
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int

from genlab.config import GenlabError

SAMPLE_RATE_HZ = 16_000
MIN_DURATION_S = 0.05
MIN_SAMPLE_RATE_HZ = 4_000
MAX_CHANNELS = 2
MAX_PEAK = 1.5  # float files may overshoot 1 a little; far more means that they are not scaled to [-1, 1]

FORMATS = {
    ".wav": {"WAV", "WAVEX", "RF64"},
    ".flac": {"FLAC"},
    ".ogg": {"OGG"},
    ".oga": {"OGG"},
    ".opus": {"OGG"},
    ".mp3": {"MP3", "MPEG"},
}


class AudioError(GenlabError):
    """An audio file cannot be used; `reason` says why in a few words."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(f"audio file {str(path)!r}: {reason}")
        self.reason = reason


def read_wave(path: Path | str, *, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Float[np.ndarray, "s"]:
    """Return the file as mono float32 at `sample_rate_hz`.

    Raises:
        AudioError: if the file is missing, damaged, mislabelled, silent, too short, or has more than two channels.
    """
    samples, source_hz = _read_channels(Path(path))
    return resample(_check_level(path, samples.mean(axis=1, dtype=np.float32)), source_hz, sample_rate_hz)


def read_sides(
    path: Path | str, *, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> tuple[Float[np.ndarray, "s"], Float[np.ndarray, "s"]]:
    """Return the two channels of a recorded conversation, each one side of it, at `sample_rate_hz`.

    The second side may be silent throughout.

    Raises:
        AudioError: as `read_wave`, and if there is one channel only.
    """
    samples, source_hz = _read_channels(Path(path))
    if samples.shape[1] != 2:
        raise AudioError(path, "1 channel, two_sided=true expects 2: one side of the conversation in each")
    own, other = _check_level(path, samples[:, 0]), samples[:, 1]
    if np.any(other):
        _check_level(path, other)
    return resample(own, source_hz, sample_rate_hz), resample(other, source_hz, sample_rate_hz)


def _read_channels(path: Path) -> tuple[Float[np.ndarray, "s c"], int]:
    samples, source_hz = _decode(path)
    if samples.shape[1] > MAX_CHANNELS:
        raise AudioError(path, f"{samples.shape[1]} channels, at most {MAX_CHANNELS} accepted: mix it down or pick one")
    if len(samples) == 0:
        raise AudioError(path, "no samples (zero length)")
    if not np.isfinite(samples).all():
        raise AudioError(path, "contains NaN or infinite samples")
    if source_hz < MIN_SAMPLE_RATE_HZ:
        raise AudioError(path, f"sample rate {source_hz} Hz, at least {MIN_SAMPLE_RATE_HZ} Hz needed")
    if len(samples) < MIN_DURATION_S * source_hz:
        noun = "sample" if len(samples) == 1 else "samples"
        raise AudioError(path, f"only {len(samples)} {noun} at {source_hz} Hz, at least {MIN_DURATION_S} s needed")
    return samples, source_hz


def _check_level(path: Path | str, wave: Float[np.ndarray, "s"]) -> Float[np.ndarray, "s"]:
    peak = float(np.abs(wave).max())
    if peak == 0.0:
        raise AudioError(path, "digital silence: every sample is zero")
    if peak > MAX_PEAK:
        raise AudioError(path, f"samples reach {peak:.4g}, expected the range [-1, 1]: rescale it")
    return wave


def resample(wave: Float[np.ndarray, "s"], source_hz: int, target_hz: int) -> Float[np.ndarray, "s2"]:
    """Return `wave` at `target_hz` (soxr, high quality)."""
    if source_hz == target_hz:
        return np.ascontiguousarray(wave, np.float32)
    return soxr.resample(wave.astype(np.float32, copy=False), source_hz, target_hz, quality="HQ")


def to_int16(wave: Float[np.ndarray, "s"]) -> Int[np.ndarray, "s"]:
    """Return `wave` as 16-bit samples, clipped at full scale."""
    return np.round(np.clip(wave, -1.0, 1.0) * 32767.0).astype(np.int16)


def to_float(wave: Int[np.ndarray, "s"]) -> Float[np.ndarray, "s"]:
    """Return 16-bit samples as float32 in [-1, 1]; the inverse of `to_int16`."""
    return wave.astype(np.float32) / np.float32(32767.0)


def write_flac(path: Path | str, wave: Int[np.ndarray, "s"], *, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write 16-bit samples as FLAC at a fast compression level."""
    soundfile.write(str(path), wave, sample_rate_hz, format="FLAC", subtype="PCM_16", compression_level=0.25)


def wav_bytes(wave: Float[np.ndarray, "s"], sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """Return a 16-bit WAV file; full scale clips, nothing is normalised, samples that are not finite become silence."""
    buffer = io.BytesIO()
    soundfile.write(buffer, to_int16(np.nan_to_num(wave, posinf=0.0, neginf=0.0)), sample_rate_hz, format="WAV")
    return buffer.getvalue()


def read_flac(path: Path | str) -> Int[np.ndarray, "s"]:
    """Return the 16-bit samples of a file that `write_flac` wrote, without checks.

    Raises:
        AudioError: if the cached file is damaged.
    """
    try:
        return soundfile.read(str(path), dtype="int16")[0]
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(path, f"damaged cache file, delete its corpus directory to rebuild it ({error})") from None


def _decode(path: Path) -> tuple[Float[np.ndarray, "s c"], int]:
    allowed = FORMATS.get(path.suffix.lower())
    if allowed is None:
        raise AudioError(path, f"extension {path.suffix!r} is not one of {', '.join(FORMATS)}")
    if path.exists() and not path.is_file():
        raise AudioError(path, "not a regular file")
    try:
        with open(path, "rb") as source:
            magic = source.read(4)
            if not magic:
                raise AudioError(path, "empty file (0 bytes)")
            source.seek(0)
            _check_complete(path, magic)
            # libsndfile wants names that are text; Linux allows others.
            name = str(path) if str(path).isprintable() else source
            with soundfile.SoundFile(name) as file:
                if file.format not in allowed:
                    raise AudioError(path, f"wrong extension: the content is {file.format}, not {path.suffix}")
                samples, source_hz, expected = _read_all(path, file), file.samplerate, file.frames
    except FileNotFoundError:
        raise AudioError(path, "file not found") from None
    except soundfile.LibsndfileError as error:
        # For MP3 libsndfile reports any failure to find audio as a missing file.
        reason = "no audio in it" if "does not exist" in error.error_string else error.error_string.strip(" .")
        raise AudioError(path, f"not readable as audio: {reason}") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise AudioError(path, f"not readable: {error}") from None
    if len(samples) < expected:
        raise AudioError(path, f"truncated: {len(samples)} of {expected} samples can be decoded")
    return samples, source_hz


def _read_all(path: Path, file: soundfile.SoundFile) -> Float[np.ndarray, "s c"]:
    try:
        return file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(path, f"truncated or damaged: {error.error_string.strip(' .')}") from None


def _check_complete(path: Path, magic: bytes) -> None:
    # libsndfile silently returns what is left of a cut WAV or Ogg file, so the container is asked.
    if magic == b"RIFF":
        missing_bytes = _missing_riff_bytes(path)
        if missing_bytes > 0:
            raise AudioError(path, f"truncated: the header promises {missing_bytes} more bytes")
    if magic == b"OggS" and not _ends_ogg_stream(path):
        raise AudioError(path, "truncated: the last Ogg page does not end the stream")


def _missing_riff_bytes(path: Path) -> int:
    size = path.stat().st_size
    with open(path, "rb") as file:
        position = 12
        while position + 8 <= size:
            file.seek(position)
            name, length = struct.unpack("<4sI", file.read(8))
            if name == b"data":
                # An encoder that could not seek back leaves 0xFFFFFFFF here: the data run to the end of the file.
                return 0 if length >= 0xFFFFFF00 else position + 8 + length - size
            position += 8 + length + (length & 1)
    return 0


def _ends_ogg_stream(path: Path) -> bool:
    tail_bytes = 70_000  # one Ogg page is at most 65,307 bytes
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - tail_bytes))
        tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or page + 27 > len(tail):
        return False
    num_segments = tail[page + 26]
    lacing = tail[page + 27 : page + 27 + num_segments]
    is_last_page = bool(tail[page + 5] & 0x04)
    return is_last_page and page + 27 + num_segments + sum(lacing) <= len(tail)
