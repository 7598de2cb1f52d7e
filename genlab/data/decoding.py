"""Samples out of an audio file, judged by its header before anything is decoded.

Out: every channel at the rate of the file, or `AudioError` with a reason a person can act on.
"""

import hashlib
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from genlab.config import GenlabError
from genlab.data.container import find_fault, find_mp3_fault, find_ogg_fault, flac_checksum

SampleType = Literal["int16", "int32", "float32", "float64"]
MIN_DURATION_S = 0.05
MAX_DURATION_S = 3_600.0
MIN_SAMPLE_RATE_HZ = 4_000
MAX_SAMPLE_RATE_HZ = 768_000
MAX_CHANNELS = 2
MAX_NAME_CHARS = 300
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


def decode(path: Path, part: Part, limit: Limit) -> tuple[Float[np.ndarray, "s c"], int]:
    """Return every channel of a part of a file, and the rate of the file in Hz.

    Raises:
        AudioError: with the reason, if the file is not audio that can be used.
    """
    allowed = FORMATS.get(path.suffix.lower())
    if allowed is None:
        suffix = path.suffix[:20]
        found = "" if os.path.lexists(path) else _beside(path)
        raise AudioError(path, f"extension {suffix!r} is not one of {', '.join(FORMATS)}{found}")
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
        missing = "broken link: its target is gone"
        if not path.is_symlink():
            missing = f"file not found{_beside(path)}"
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


def _beside(path: Path) -> str:
    """Return which file is there under another extension; tables often keep the one of before a
    conversion.
    """
    stem = path.name.removesuffix(path.suffix)
    names = [stem + ending for suffix in FORMATS for ending in (suffix, suffix.upper())]
    found = next((name for name in names if os.path.isfile(path.with_name(name))), None)
    # A name on Linux may be any bytes, and a report is text.
    shown = (found or "").encode("utf-8", "backslashreplace").decode()
    return f"; {shown} is there" if found else ""


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
        needed = f"at least {1000 * MIN_DURATION_S:g} ms needed"
        raise AudioError(path, f"only {1000 * count / source_hz:.3g} ms ({count} {noun}), {needed}")
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
