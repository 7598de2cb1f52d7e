"""Audio files in and out: any WAV, FLAC, OGG or MP3 to 16 kHz mono float32, or one reason why not.

`read_wave` trusts nothing: a truncated file, a wrong extension, a wrong checksum, NaN, silence, a
single sample or a microphone array raises `AudioError` with a reason a person can act on. The
header is judged before anything is decoded, so refusing a file that is hours long costs nothing.
Stereo is averaged, unless the channels cancel; more than two channels are refused, because a blind
mix of an array cancels what arrives at different times. Resampling is soxr at high quality.
"""

import hashlib
import io
import os
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int, Shaped

from genlab.config import GenlabError
from genlab.data.container import find_fault, find_mp3_fault, find_ogg_fault, flac_checksum
from genlab.machine.stopping import apart
from genlab.run.stored import whole_file

SampleType = Literal["int16", "int32", "float32", "float64"]
SAMPLE_RATE_HZ = 16_000
MIN_DURATION_S = 0.05
MAX_DURATION_S = 3_600.0
MIN_SAMPLE_RATE_HZ = 4_000
MAX_SAMPLE_RATE_HZ = 768_000
MAX_CHANNELS = 2
MAX_NAME_CHARS = 300
# float files may overshoot 1 a little; far more means that they are not scaled to [-1, 1]
MAX_PEAK = 1.5
MIN_PEAK = 0.5 / 32_767  # what is quieter is silence at 16 bits
MIN_MIX_POWER = 0.05  # of the channels' own: unrelated channels keep half, inverted copies nothing
END_TOLERANCE_S = 0.1  # tables round durations, and MP3 pads
BLOCK_FRAMES = 65_536

FORMATS = {
    ".wav": {"WAV", "WAVEX", "RF64"},
    ".wave": {"WAV", "WAVEX", "RF64"},
    ".flac": {"FLAC"},
    ".ogg": {"OGG"},
    ".oga": {"OGG"},
    ".opus": {"OGG"},
    ".mp3": {"MP3", "MPEG"},
}
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


class AudioError(GenlabError):
    """An audio file cannot be used; `reason` says why in a few words."""

    def __init__(self, path: Path | str, reason: str):
        name = str(path)
        if len(name) > MAX_NAME_CHARS:
            name = f"{name[:MAX_NAME_CHARS]}..."
        super().__init__(f"audio file {name!r}: {reason}")
        self.reason = reason


class Part(NamedTuple):
    """Which seconds of a file to read; without `duration_s`, all from `offset_s` on."""

    offset_s: float = 0.0
    duration_s: float | None = None


WHOLE = Part()


class Limit(NamedTuple):
    """The longest audio that is read, and the setting that says so, for the error text."""

    seconds: float = MAX_DURATION_S
    setting: str = ""


DEFAULT_LIMIT = Limit()


def read_wave(
    path: Path | str,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    part: Part = WHOLE,
    limit: Limit = DEFAULT_LIMIT,
) -> Float[np.ndarray, "s"]:
    """Return the file, or a part of it, as mono float32 at `sample_rate_hz`.

    Raises:
        AudioError: if the file is missing, damaged, mislabelled, silent, too short or too long, or
            has more than two channels, or two that cancel.
    """
    samples, source_hz = _read_channels(Path(path), part, limit)
    mixed = _check_level(path, _mix(path, samples))
    return _audible(path, resample(mixed, source_hz, sample_rate_hz))


def as_wave(
    wave: Shaped[np.ndarray, "..."], name: str = "wave", *, is_finite: bool = True
) -> Float[np.ndarray, "s"]:
    """Return `wave` as mono float32; 16-bit samples are scaled by 1 / 32767. Every door for waves
    calls this.

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
            f"{name}: {num_bad} of {len(array)} samples are not finite; expected finite samples"
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


def resample(
    wave: Float[np.ndarray, "s"], source_hz: int, target_hz: int
) -> Float[np.ndarray, "s2"]:
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


def write_flac(
    path: Path | str, wave: Int[np.ndarray, "s"], *, sample_rate_hz: int = SAMPLE_RATE_HZ
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


def write_audio(path: Path | str, wave: Int[np.ndarray, "s"], *, sample_rate_hz: int) -> None:
    """Write 16-bit samples in the format that the extension says; the file is whole or absent.

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
        GenlabError: if it is not one mono wave, see `as_wave`.
    """
    samples = np.nan_to_num(as_wave(wave, is_finite=False), posinf=0.0, neginf=0.0)
    return _encode(to_int16(samples), sample_rate_hz, *WRITTEN[".wav"])


def _encode(
    wave: Int[np.ndarray, "s"], rate_hz: int, kind: str, subtype: str, level: float | None = None
) -> bytes:
    buffer = io.BytesIO()

    def write() -> None:
        soundfile.write(
            buffer, wave, rate_hz, format=kind, subtype=subtype, compression_level=level
        )

    apart(write)  # libsndfile calls back to write into memory
    return buffer.getvalue()


def read_flac(path: Path | str) -> Int[np.ndarray, "s"]:
    """Return the 16-bit samples of a file that `write_flac` wrote, without checks.

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
    samples, source_hz = _decode(path, part, limit)
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


def _check_level(path: Path | str, wave: Float[np.ndarray, "s"]) -> Float[np.ndarray, "s"]:
    peak = float(np.abs(wave).max())
    if peak == 0.0:
        raise AudioError(path, "digital silence: every sample is zero")
    if peak > MAX_PEAK:
        raise AudioError(path, f"samples reach {peak:.4g}, expected the range [-1, 1]: rescale it")
    return wave


def _audible(path: Path | str, wave: Float[np.ndarray, "s"]) -> Float[np.ndarray, "s"]:
    """Return `wave`, unless its 16-bit copy would be silence."""
    peak = float(np.abs(wave).max(initial=0.0))
    if peak <= MIN_PEAK:
        reached = f"samples reach only {peak:.2g} of full scale"
        raise AudioError(path, f"silence at 16 bits: {reached}: rescale it")
    return wave


def _decode(path: Path, part: Part, limit: Limit) -> tuple[Float[np.ndarray, "s c"], int]:
    allowed = FORMATS.get(path.suffix.lower())
    if allowed is None:
        suffix = path.suffix[:20]
        raise AudioError(path, f"extension {suffix!r} is not one of {', '.join(FORMATS)}")
    try:
        # Before it is opened: opening a named pipe waits for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise AudioError(path, "not a regular file")
        with open(path, "rb", buffering=0) as source:
            magic = source.read(4)
            if not magic:
                raise AudioError(path, "empty file (0 bytes)")
            source.seek(0)
            fault = find_fault(path, magic)
            if fault is not None:
                raise AudioError(path, fault)
            # libsndfile wants names that are text; Linux allows others.
            name = str(path) if str(path).isprintable() else source.fileno()
            quiet = _unheard() if path.suffix.lower() == ".mp3" else nullcontext()
            with quiet, soundfile.SoundFile(name, closefd=False) as file:
                if file.format not in allowed:
                    content = f"the content is {file.format}, not {path.suffix}"
                    raise AudioError(path, f"wrong extension: {content}")
                first, count = _judge_header(path, file, part, limit)
                return _read_frames(path, file, first, count), file.samplerate
    except FileNotFoundError:
        missing = "file not found" if not path.is_symlink() else "broken link: its target is gone"
        raise AudioError(path, missing) from None
    except AudioError:
        raise
    except soundfile.LibsndfileError as error:
        # For MP3 libsndfile reports any failure to find audio as a missing file.
        found = error.error_string.strip(" .")
        reason = "no audio in it" if "does not exist" in found else found
        raise AudioError(path, f"not readable as audio: {reason:.200}") from None
    except OSError as error:
        raise AudioError(path, f"not readable: {error.strerror or error!s:.200}") from None
    except Exception as error:
        # A stranger's file must not stop an import, no matter what it makes a decoder raise.
        raise AudioError(path, f"not readable: {type(error).__name__} {error!s:.200}") from None


_silence = threading.Lock()


@contextmanager
def _unheard() -> Iterator[None]:
    """Drop what is written to standard error here: libmpg123 describes every damaged frame there,
    and libsndfile offers no way to stop it. The refusal says what is wrong in a line.
    """
    with _silence:  # the stream is that of the whole process
        sys.stderr.flush()
        try:
            before = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
        except OSError:  # a process without the stream
            yield
            return
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            os.close(nowhere)


def _judge_header(
    path: Path,
    file: soundfile.SoundFile,
    part: Part,
    limit: Limit,
) -> tuple[int, int]:
    """Return the first frame to read and their number, or refuse by what the header says."""
    # Only the header has been read so far: a refusal costs no decoding, and a hostile file no
    # memory.
    source_hz, frames = file.samplerate, file.frames
    if file.channels > MAX_CHANNELS:
        advice = f"at most {MAX_CHANNELS} accepted: mix it down or pick one"
        raise AudioError(path, f"{file.channels} channels, {advice}")
    if source_hz < MIN_SAMPLE_RATE_HZ:
        needed = f"at least {MIN_SAMPLE_RATE_HZ} Hz needed"
        raise AudioError(path, f"sample rate {source_hz} Hz, {needed}")
    if source_hz > MAX_SAMPLE_RATE_HZ:
        accepted = f"at most {MAX_SAMPLE_RATE_HZ} Hz accepted"
        raise AudioError(path, f"sample rate {source_hz} Hz, {accepted}")
    if frames <= 0:
        raise AudioError(path, "no samples (zero length)")
    # libsndfile's way of saying that a stream has no length.
    if frames >= 2**62:
        raise AudioError(path, "its header does not say how long it is: convert it to WAV")
    first, count = _place_part(path, part, frames, source_hz)
    if count < MIN_DURATION_S * source_hz:
        noun = "sample" if count == 1 else "samples"
        needed = f"at least {MIN_DURATION_S} s needed"
        raise AudioError(path, f"only {count} {noun} at {source_hz} Hz, {needed}")
    if count > limit.seconds * source_hz:
        length = f"{count / source_hz:.1f} s long"
        most = f"{limit.seconds:g} s"
        advice = "cut it"
        if limit.setting:
            most = f"{limit.setting}={limit.seconds:g}"
            advice = "cut it or raise that"
        raise AudioError(path, f"{length}, the limit is {most}: {advice}")
    return first, count


def _place_part(path: Path, part: Part, frames: int, source_hz: int) -> tuple[int, int]:
    total_s = frames / source_hz
    if part.offset_s >= total_s:
        raise AudioError(path, f"offset {part.offset_s:g} s is beyond its end, {total_s:.3f} s")
    first = round(part.offset_s * source_hz)
    if part.duration_s is None:
        return first, frames - first
    end_s = part.offset_s + part.duration_s
    if end_s > total_s + END_TOLERANCE_S:
        asked = f"offset + duration, {end_s:g} s," if part.offset_s else f"duration {end_s:g} s"
        raise AudioError(path, f"{asked} is beyond its end, {total_s:.3f} s")
    # A table states the length of a whole file, rounded: nothing is cut off for that.
    if first == 0 and abs(total_s - end_s) <= END_TOLERANCE_S:
        return 0, frames
    return first, min(round(part.duration_s * source_hz), frames - first)


def _read_frames(
    path: Path,
    file: soundfile.SoundFile,
    first: int,
    count: int,
) -> Float[np.ndarray, "s c"]:
    """Decode block by block: memory follows what is there, not what the header claims."""
    is_whole = count == file.frames
    checksum = flac_checksum(path) if is_whole and file.format == "FLAC" else None
    found = hashlib.md5(usedforsecurity=False)
    blocks = [np.zeros((0, file.channels), np.float32)]
    try:
        if first:
            file.seek(first)
        for block in _blocks(file, count, "float32" if checksum is None else "int32"):
            if checksum is not None:
                found.update(checksum.packed(block))
                # Both steps are exact: libsndfile's own float32 is the same number.
                block = block.astype(np.float32) / np.float32(2**31)
            blocks.append(block)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip(" .")
        raise AudioError(path, f"truncated or damaged: {reason:.200}") from None
    samples = np.concatenate(blocks)
    if len(samples) < count:
        raise AudioError(path, f"truncated: {len(samples)} of {count} samples can be decoded")
    if checksum is not None and checksum.differs(found):
        raise AudioError(path, "damaged: the samples do not have the MD5 that the header states")
    fault = None
    if is_whole and file.format == "OGG":
        fault = find_ogg_fault(path)
    elif is_whole and file.format in FORMATS[".mp3"]:
        fault = find_mp3_fault(path, count)
    if fault is not None:
        raise AudioError(path, fault)
    return samples


def _blocks(file: soundfile.SoundFile, count: int, dtype: SampleType) -> Iterator[np.ndarray]:
    while count > 0:
        block = file.read(min(count, BLOCK_FRAMES), dtype=dtype, always_2d=True)
        if len(block) == 0:
            return
        count -= len(block)
        yield block
