"""Audio files in and out: any WAV, FLAC, OGG or MP3 to float32 at one rate, or one reason why not.

`read_wave` trusts nothing: a truncated file, a wrong extension, a wrong checksum, NaN, silence, a
single sample or a microphone array raises `AudioError` with a reason a person can act on. The
header is judged before anything is decoded, so refusing a file that is hours long costs nothing.
A mono wave has the shape (samples,), a stereo one (samples, 2). Where mono is asked for, stereo is
averaged, unless the channels cancel; where stereo is asked for, mono is copied to both. More than
two channels are refused, because a blind mix of an array cancels what arrives at different times.
Resampling is soxr at high quality.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int, Shaped

from genlab.config import GenlabError
from genlab.data.decoding import (
    DEFAULT_LIMIT,
    END_TOLERANCE_S,
    WHOLE,
    AudioError,
    Limit,
    Part,
    decode,
)
from genlab.machine.stopping import apart
from genlab.run.stored import whole_file

SAMPLE_RATE_HZ = 16_000  # of speech, and of every network that hears speech
Channels = Literal[1, 2]
# float files may overshoot 1 a little; far more means that they are not scaled to [-1, 1]
MAX_PEAK = 1.5
MIN_PEAK = 0.5 / 32_767  # what is quieter is silence at 16 bits
MIN_MIX_POWER = 0.05  # of the channels' own: unrelated channels keep half, inverted copies nothing

# What is written: libsndfile knows more, but an extension means one format and one coding.
WRITTEN = {
    ".wav": ("WAV", "PCM_16"),
    ".wave": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


class AudioFormat(NamedTuple):
    """What the waves of a corpus, a codec or a row of the table are."""

    sample_rate_hz: int = SAMPLE_RATE_HZ
    channels: Channels = 1

    def __str__(self) -> str:
        return f"{self.sample_rate_hz} Hz {'stereo' if self.channels == 2 else 'mono'}"


SPEECH_AUDIO = AudioFormat()  # what every network that hears speech is given


def read_wave(
    path: Path | str,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    channels: Channels = 1,
    part: Part = WHOLE,
    limit: Limit = DEFAULT_LIMIT,
) -> Float[np.ndarray, "s *c"]:
    """Return the file, or a part of it, as float32 at `sample_rate_hz`: shape (samples,) if it is
    to be mono, (samples, 2) if it is to be stereo.

    Raises:
        AudioError: if the file is missing, damaged, mislabelled, silent, too short or too long, or
            has more than two channels, or two that cancel although mono is asked for.
    """
    samples, source_hz = _read_channels(Path(path), part, limit)
    fitting = _mix(path, samples) if channels == 1 else np.repeat(samples, 3 - samples.shape[1], 1)
    return _audible(path, resample(_check_level(path, fitting), source_hz, sample_rate_hz))


def fit_channels(wave: Float[np.ndarray, "s *c"], channels: Channels) -> Float[np.ndarray, "s *c"]:
    """Return `wave` with so many channels: stereo is averaged, mono is copied to both."""
    if channels == 1:
        return wave if wave.ndim == 1 else wave.mean(axis=1, dtype=np.float32)
    return wave if wave.ndim == 2 else np.repeat(wave[:, None], 2, axis=1)


def hear(
    wave: Float[np.ndarray, "s *c"], source: AudioFormat, target: AudioFormat
) -> Float[np.ndarray, "s2 *c2"]:
    """Return a wave of one format in another; it is the same array if they agree.

    Every network and every metric that needs another rate or one channel gets its waves from here.
    """
    if source == target:
        return wave
    return resample(
        fit_channels(wave, target.channels), source.sample_rate_hz, target.sample_rate_hz
    )


def as_wave(
    wave: Shaped[np.ndarray, "..."], name: str = "wave", *, is_finite: bool = True
) -> Float[np.ndarray, "s"]:
    """Return `wave` as mono float32; 16-bit samples are scaled by 1 / 32767. Every door for waves
    calls this or `as_audio`.

    Args:
        wave: samples of one clip, floats in [-1, 1] or int16.
        name: what the error calls it, for example `waves[3]`.
        is_finite: refuse NaN and infinities; the log and the figures show them as silence instead.

    Raises:
        GenlabError: naming `name`, its shape, dtype or count, and what was expected.
    """
    array = np.asarray(wave)
    if array.ndim != 1:
        advice = {
            0: "a list of waves was expected: give [wave]",
            2: "average the channels, or take one row",
        }.get(array.ndim, "take one clip")
        raise GenlabError(
            f"{name}: shape {array.shape}, expected one mono wave of shape (samples,); {advice}"
        )
    return _as_floats(array, name, is_finite)


def as_audio(
    wave: Shaped[np.ndarray, "..."], name: str = "wave", *, is_finite: bool = True
) -> Float[np.ndarray, "s *c"]:
    """Return a mono or stereo wave as float32, as `as_wave` does for mono.

    Args:
        wave: shape (samples,) or (samples, 2), floats in [-1, 1] or int16.
        name: what the error calls it.
        is_finite: as in `as_wave`.

    Raises:
        GenlabError: naming `name`, its shape, dtype or count, and what was expected.
    """
    array = np.asarray(wave)
    if array.ndim != 2:
        return as_wave(array, name, is_finite=is_finite)
    if array.shape[1] != 2:
        turned = "; transpose it" if array.shape[0] == 2 else ""
        raise GenlabError(
            f"{name}: shape {array.shape}, expected a mono wave of shape (samples,) or a stereo "
            f"one of shape (samples, 2){turned}"
        )
    return _as_floats(array, name, is_finite)


def _as_floats(
    array: Shaped[np.ndarray, "..."], name: str, is_finite: bool
) -> Float[np.ndarray, "s *c"]:
    # Integers of another width have no scale of their own: guessing one would be silently wrong.
    if array.dtype == np.int16:
        return to_float(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise GenlabError(
            f"{name}: dtype {array.dtype}, expected floats in [-1, 1] or int16; divide by the "
            "full scale"
        )
    array = array.astype(np.float32, copy=False)
    if is_finite and (num_bad := int((~np.isfinite(array)).sum())):
        raise GenlabError(
            f"{name}: {num_bad} of {array.size} samples are not finite; expected finite samples"
        )
    return array


def as_waves(
    waves: Iterable[Shaped[np.ndarray, "..."]], name: str = "waves"
) -> list[Float[np.ndarray, "_"]]:
    """Return `as_wave` of each; an error names the number of the wave."""
    return [as_wave(wave, f"{name}[{number}]") for number, wave in enumerate(waves)]


def read_sides(
    path: Path | str,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    part: Part = WHOLE,
    limit: Limit = DEFAULT_LIMIT,
) -> tuple[Float[np.ndarray, "s"], Float[np.ndarray, "s"]]:
    """Return the two channels of a recorded conversation, each one side of it, at `sample_rate_hz`.

    The second side may be silent throughout.

    Raises:
        AudioError: as `read_wave`, and if there is one channel only.
    """
    samples, source_hz = _read_channels(Path(path), part, limit)
    if samples.shape[1] != 2:
        raise AudioError(
            path, "1 channel, two_sided=true expects 2: one side of the conversation in each"
        )
    own = _check_level(path, samples[:, 0])
    other = samples[:, 1]
    if np.any(other):
        _check_level(path, other)
    own = _audible(path, resample(own, source_hz, sample_rate_hz))
    return own, resample(other, source_hz, sample_rate_hz)


def is_longer(path: Path | str, seconds: float) -> bool:
    """Return whether a file that can be read is longer than that, by its header."""
    return soundfile.info(str(path)).duration > seconds + END_TOLERANCE_S


def count_channels(path: Path | str) -> Channels:
    """Return 2 for a stereo file by its header, else 1; `read_wave` says what is wrong with a file
    that is neither.
    """
    try:
        return 2 if soundfile.info(str(path)).channels == 2 else 1
    except (soundfile.LibsndfileError, OSError):
        return 1


def resample(
    wave: Float[np.ndarray, "s *c"], source_hz: int, target_hz: int
) -> Float[np.ndarray, "s2 *c"]:
    """Return `wave` at `target_hz` (soxr, high quality), every channel by itself."""
    if source_hz == target_hz:
        return np.ascontiguousarray(wave, np.float32)
    return soxr.resample(wave.astype(np.float32, copy=False), source_hz, target_hz, quality="HQ")


def to_int16(wave: Float[np.ndarray, "s *c"]) -> Int[np.ndarray, "s *c"]:
    """Return `wave` as 16-bit samples, clipped at full scale."""
    return np.round(np.clip(wave, -1.0, 1.0) * 32767.0).astype(np.int16)


def to_float(wave: Int[np.ndarray, "s *c"]) -> Float[np.ndarray, "s *c"]:
    """Return 16-bit samples as float32 in [-1, 1]; the inverse of `to_int16`."""
    return wave.astype(np.float32) / np.float32(32767.0)


def write_flac(
    path: Path | str, wave: Int[np.ndarray, "s *c"], *, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> None:
    """Write 16-bit samples as FLAC at a fast compression level.

    Raises:
        AudioError: if the name does not end in .flac.
        OSError: as `write_audio`.
    """
    if Path(path).suffix.lower() != ".flac":
        raise AudioError(path, "expected a name that ends in .flac")
    write_audio(path, wave, sample_rate_hz=sample_rate_hz)


def written_format(path: Path | str) -> tuple[str, str]:
    """Return the format and subtype that the extension of `path` means.

    Raises:
        AudioError: if it means none.
    """
    found = WRITTEN.get(Path(path).suffix.lower())
    if found is None:
        raise AudioError(
            path, f"extension {Path(path).suffix!r:.20} is not one of {', '.join(WRITTEN)}"
        )
    return found


def write_audio(path: Path | str, wave: Int[np.ndarray, "s *c"], *, sample_rate_hz: int) -> None:
    """Write 16-bit samples in the format that the extension says; the file is whole or absent.
    Samples of shape (samples, 2) are stereo.

    Raises:
        AudioError: if the extension is none of `WRITTEN`, or its format has no such rate.
        OSError: with the name `path`, if it cannot be written; a full disk is one.
    """
    path = Path(path)
    kind, subtype = written_format(path)
    level = 0.25 if kind == "FLAC" else None
    # Encoded in memory: for disk errors libsndfile says little, while Python gives the error
    # number.
    try:
        content = _encode(wave, sample_rate_hz, kind, subtype, level)
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError(
            path, f"{subtype} at {sample_rate_hz} Hz cannot be written ({error!s:.80})"
        ) from None
    with whole_file(path) as partial:
        partial.write_bytes(content)


def wav_bytes(wave: Shaped[np.ndarray, "..."], sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """Return a 16-bit WAV file; full scale clips, nothing is normalised, samples that are not
    finite become silence.

    Raises:
        GenlabError: if it is not one mono or stereo wave, see `as_audio`.
    """
    samples = np.nan_to_num(as_audio(wave, is_finite=False), posinf=0.0, neginf=0.0)
    return _encode(to_int16(samples), sample_rate_hz, *WRITTEN[".wav"])


def _encode(
    wave: Int[np.ndarray, "s *c"], rate_hz: int, kind: str, subtype: str, level: float | None = None
) -> bytes:
    buffer = io.BytesIO()

    def write() -> None:
        soundfile.write(
            buffer, wave, rate_hz, format=kind, subtype=subtype, compression_level=level
        )

    apart(write)  # libsndfile calls back to write into memory
    return buffer.getvalue()


def read_flac(path: Path | str) -> Int[np.ndarray, "s *c"]:
    """Return the 16-bit samples of a file that `write_flac` wrote, without checks; those of a
    stereo file have the shape (samples, 2).

    Raises:
        AudioError: if the cached file is damaged.
    """
    try:
        return soundfile.read(str(path), dtype="int16")[0]
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(
            path, f"damaged cache file, delete its corpus directory to rebuild it ({error})"
        ) from None


def _read_channels(path: Path, part: Part, limit: Limit) -> tuple[Float[np.ndarray, "s c"], int]:
    samples, source_hz = decode(path, part, limit)
    if len(samples) == 0:
        raise AudioError(path, "no samples (zero length)")
    if not np.isfinite(samples).all():
        raise AudioError(path, "contains NaN or infinite samples")
    if not samples.any():
        raise AudioError(path, "digital silence: every sample is zero")
    return samples, source_hz


def _mix(path: Path | str, samples: Float[np.ndarray, "s c"]) -> Float[np.ndarray, "s"]:
    mixed = samples.mean(axis=1, dtype=np.float32)
    if samples.shape[1] == 1:
        return mixed
    mixed_power = np.mean(np.square(mixed, dtype=np.float64))
    power = np.mean(np.square(samples, dtype=np.float64))
    if mixed_power < MIN_MIX_POWER * power:
        raise AudioError(
            path,
            f"the two channels cancel when mixed to one ({mixed_power / power:.1%} of their power "
            "is left, one is inverted): keep one of them",
        )
    return mixed


def _check_level(path: Path | str, wave: Float[np.ndarray, "s *c"]) -> Float[np.ndarray, "s *c"]:
    peak = float(np.abs(wave).max())
    if peak == 0.0:
        raise AudioError(path, "digital silence: every sample is zero")
    if peak > MAX_PEAK:
        raise AudioError(path, f"samples reach {peak:.4g}, expected the range [-1, 1]: rescale it")
    return wave


def _audible(path: Path | str, wave: Float[np.ndarray, "s *c"]) -> Float[np.ndarray, "s *c"]:
    """Return `wave`, unless its 16-bit copy would be silence."""
    peak = float(np.abs(wave).max(initial=0.0))
    if peak <= MIN_PEAK:
        reached = f"samples reach only {peak:.2g} of full scale"
        raise AudioError(path, f"silence at 16 bits: {reached}: rescale it")
    return wave
