"""Opus and Codec 2: the coders a user would otherwise send speech with, run through their own
command line tools.

In: a waveform at 16 kHz, mono or stereo. Out: what comes back at 16 kHz, and the bits that were
spent. The tools are the system's (`opusenc`, `opusdec`, `opusinfo` of opus-tools; `c2enc`, `c2dec`
of codec2). Opus is counted without the Ogg container, as opusinfo counts it. Codec 2 works at 8
kHz; its input and output are resampled here, and the channels of stereo are coded one by one.
"""

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from genlab.config import GenlabError
from genlab.data.audio import resample, to_float, to_int16
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ

CODEC2_HZ = 8_000
# Settings for speech at a few kbit/s: the encoder's default, and what raises its quality there:
# telling it that this is speech, long frames, and spending the whole of the rate.
OPUS_SETTINGS = {
    "default": (),
    "speech, 60 ms": ("--speech", "--framesize", "60"),
    "speech, 60 ms, constant rate": ("--speech", "--framesize", "60", "--hard-cbr"),
}


class Coded(NamedTuple):
    """A waveform after a coder, what it cost, and how long both ways took."""

    wave: Float[np.ndarray, "s *c"]
    bits: float
    encode_s: float
    decode_s: float


def missing_tools() -> list[str]:
    """Return how to install the command line tools that are not here; empty if all are."""
    needed = {
        "opusenc": "opus-tools",
        "opusdec": "opus-tools",
        "opusinfo": "opus-tools",
        "c2enc": "codec2",
    }
    return sorted({package for tool, package in needed.items() if shutil.which(tool) is None})


def code_with_opus(
    wave: Float[np.ndarray, "s *c"], kbit_per_s: float, options: tuple[str, ...] = ()
) -> Coded:
    """Return `wave` after opusenc and opusdec.

    Raises:
        GenlabError: if a tool is missing or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        original, packed, back = (Path(folder) / name for name in ("in.wav", "a.opus", "out.wav"))
        soundfile.write(original, to_int16(wave), SAMPLE_RATE_HZ, subtype="PCM_16")
        encode_s = _run(
            "opusenc",
            "--quiet",
            "--bitrate",
            f"{kbit_per_s:g}",
            *options,
            str(original),
            str(packed),
        )[0]
        decode_s = _run(
            "opusdec", "--quiet", "--rate", str(SAMPLE_RATE_HZ), str(packed), str(back)
        )[0]
        # The rate without the container, whose share is large in a short clip.
        facts = _run("opusinfo", str(packed))[1]
        decoded, _ = soundfile.read(back, dtype="float32")
    found = re.search(r"w/o overhead: ([\d.]+) kbit/s", facts)
    if not found:
        raise GenlabError(f"opusinfo: no bit rate in its output {facts[:80]!r}")
    return Coded(
        _fit(decoded, len(wave)),
        float(found[1]) * 1000 * len(wave) / SAMPLE_RATE_HZ,
        encode_s,
        decode_s,
    )


def code_with_codec2(wave: Float[np.ndarray, "s *c"], bit_per_s: int) -> Coded:
    """Return `wave` after c2enc and c2dec, at this rate for every channel.

    Raises:
        GenlabError: if a tool is missing or fails.
    """
    if wave.ndim == 2:
        sides = [code_with_codec2(wave[:, side], bit_per_s) for side in range(wave.shape[1])]
        both = np.stack([side.wave for side in sides], axis=1)
        return Coded(both, *np.sum([side[1:] for side in sides], axis=0).tolist())
    with tempfile.TemporaryDirectory() as folder:
        original, packed, back = (Path(folder) / name for name in ("in.raw", "a.c2", "out.raw"))
        # A last block that is not whole would be dropped.
        narrow = np.pad(resample(wave, SAMPLE_RATE_HZ, CODEC2_HZ), (0, CODEC2_HZ // 25))
        original.write_bytes(to_int16(narrow).astype("<i2").tobytes())
        encode_s = _run("c2enc", str(bit_per_s), str(original), str(packed))[0]
        decode_s = _run("c2dec", str(bit_per_s), str(packed), str(back))[0]
        decoded = to_float(np.frombuffer(back.read_bytes(), "<i2"))
        bits = 8.0 * packed.stat().st_size
    return Coded(
        _fit(resample(decoded, CODEC2_HZ, SAMPLE_RATE_HZ), len(wave)), bits, encode_s, decode_s
    )


def _run(*command: str) -> tuple[float, str]:
    """Run a tool and return its seconds and its output."""
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise GenlabError(
            f"{command[0]}: not installed; install {', '.join(missing_tools())} with the system's "
            "package manager"
        ) from None
    except subprocess.CalledProcessError as error:
        raise GenlabError(
            f"{command[0]}: failed with code {error.returncode}: {error.stderr.strip()[:120]}"
        ) from None
    return time.perf_counter() - began, done.stdout


def _fit(wave: Float[np.ndarray, "_ *c"], length: int) -> Float[np.ndarray, "s *c"]:
    missing = [(0, max(0, length - len(wave)))] + [(0, 0)] * (wave.ndim - 1)
    return np.pad(wave, missing)[:length].astype(np.float32)
