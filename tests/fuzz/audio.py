"""Audio files: damaged, mislabelled, hostile. What is accepted sounds as an independent reader
says, all of it.

Every file is imported together with two good ones, which must arrive whatever the third one is.
"""

import io
import random
import struct
import wave as plain_wave
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from .contract import Trial
from .damage import TEXTS, damage_bytes
from .world import World, make_wave

KINDS = (
    ("WAV", "PCM_16", ".wav"),
    ("WAV", "PCM_24", ".wav"),
    ("WAV", "PCM_32", ".wav"),
    ("WAV", "FLOAT", ".wav"),
    ("WAV", "DOUBLE", ".wav"),
    ("WAV", "ULAW", ".wav"),
    ("WAV", "PCM_U8", ".wav"),
    ("WAVEX", "PCM_16", ".wav"),
    ("RF64", "PCM_16", ".wav"),
    ("FLAC", "PCM_16", ".flac"),
    ("FLAC", "PCM_24", ".flac"),
    ("OGG", "VORBIS", ".ogg"),
    ("OGG", "OPUS", ".opus"),
    ("MP3", "MPEG_LAYER_III", ".mp3"),
    ("WAV", "IMA_ADPCM", ".wav"),
    ("AIFF", "PCM_16", ".wav"),
)
LOSSLESS = {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "PCM_U8"}


def draw(rng: random.Random, world: World, place: Path) -> Trial:
    """Return the import of a folder of two good files and one that may be anything."""
    from genlab.data.corpus import build_corpus
    from genlab.data.folder import Folder

    folder = place / "audio"
    folder.mkdir()
    for number in (0, 1):
        (folder / f"good{number}.wav").symlink_to(world.audio / f"c{number:02}.wav")
    form, subtype, suffix = rng.choice(KINDS)
    rate = rng.choice((8_000, 16_000, 16_000, 16_000, 22_050, 44_100, 48_000))
    rate = rng.choice((8_000, 16_000, 48_000)) if subtype == "OPUS" else rate
    samples, what = _draw_samples(rng, rate)
    data, how = _encode(samples, rate, form, subtype), "whole"
    if rng.random() < 0.75:
        data, how = _damage(rng, data, form)
    if rng.random() < 0.1:
        suffix = rng.choice(
            (".wav", ".flac", ".ogg", ".mp3", ".WAV", ".m4a", ".txt", "", ".wav.gz")
        )
    name = rng.choice(("odd", "odd", "o d", "ödd", "-odd")) + suffix
    (folder / name).write_bytes(data)
    fields: dict[str, Any] = {"path": str(folder)}
    if rng.random() < 0.1:
        fields["max_clip_s"] = rng.choice((0.5, 1e-9, 1e12))
    is_long = len(samples) >= 0.05 * rate and fields.get("max_clip_s", 1) > 0.8
    is_whole = (
        how == "whole"
        and subtype != "IMA_ADPCM"  # it comes in whole blocks
        and what == "tone"
        and is_long
        and (form, suffix)
        in {
            (known, ending)
            for known, _, ending in KINDS
            if known in ("WAV", "WAVEX", "RF64", "FLAC")
        }
    )

    def judge(manifest: Any) -> str | None:
        return _check(manifest, folder, name, samples if is_whole else None, rate)

    text = f"{form} {subtype} {rate} Hz, {what}, {how}, {name!r}, {len(data)} bytes, {fields!r:.80}"
    act = lambda: build_corpus(Folder.from_dict({"kind": "folder", **fields}), place / "cache")  # noqa: E731
    is_open = "max_clip_s" not in fields
    return Trial(text, act, ("path", str(folder), "max_clip_s"), judge, must_accept=is_open)


def _draw_samples(rng: random.Random, rate: int) -> tuple[np.ndarray, str]:
    length = rng.choice(
        (int(0.4 * rate), int(0.7 * rate), 1, 2, int(0.05 * rate), int(0.05 * rate) - 1)
    )
    length = int(0.4 * rate) if rng.random() < 0.6 else length
    tone = make_wave(rng.randrange(100), length)
    odd = rng.choice(
        ("tone",) * 6
        + ("nan", "inf", "loud", "quiet", "silent", "cancels", "stereo", "many", "none")
    )
    if odd in ("nan", "inf"):
        tone[rng.randrange(length)] = float(odd)
    scale = {"loud": 20_000.0, "quiet": 1e-6, "silent": 0.0}.get(odd, 1.0)
    tone = tone * np.float32(scale)
    if odd == "cancels":
        return np.stack([tone, -tone], axis=1), odd
    if odd == "stereo":
        return np.stack([tone, 0.5 * tone], axis=1), odd
    if odd == "many":
        return np.stack([tone] * 6, axis=1), odd
    return (tone[:0] if odd == "none" else tone), odd


def _encode(samples: np.ndarray, rate: int, form: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    # libsndfile's own encoders crash on samples that are not finite or far too loud
    if subtype not in LOSSLESS:
        samples = np.clip(np.nan_to_num(samples), -1, 1)
        samples = samples[:, :2] if samples.ndim == 2 else samples
    try:
        soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    # cannot be written so: two letters are a file too
    except (soundfile.LibsndfileError, ValueError, AssertionError):
        return b"no"
    return buffer.getvalue()


def _damage(rng: random.Random, data: bytes, form: str) -> tuple[bytes, str]:
    kind = rng.randrange(8)
    if kind == 0:
        return data[: rng.randrange(len(data) + 1)], "cut"
    if kind == 1 and form in ("WAV", "WAVEX", "RF64") and len(data) > 44:
        return _claim(rng, data)
    if kind == 2 and form == "FLAC" and len(data) > 42:
        return _claim_flac(rng, data)
    if kind == 3:
        return data + rng.choice((b"\0" * 100, rng.randbytes(50), data[:200])), "more at the end"
    if kind == 4:
        return rng.choice(
            (
                b"",
                rng.randbytes(200),
                b"RIFF",
                b"fLaC",
                b"OggS",
                b"ID3",
                *(t.encode("utf-8", "replace") for t in TEXTS),
            )
        ), "something else"
    return damage_bytes(data, rng, head=80), "bytes changed"


def _claim(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Return a WAV file whose header claims something else: sizes, channels, rate, bits."""
    changed = bytearray(data)
    at = rng.choice((4, 16, 20, 22, 24, 28, 32, 34, max(0, data.find(b"data") + 4)))
    width = 2 if at in (20, 22, 32, 34) else 4
    value = rng.choice((0, 1, 3, 7, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 8, len(data)))
    changed[at : at + width] = struct.pack("<I", value & 0xFFFFFFFF)[:width]
    return bytes(changed), f"claims {value} at {at}"


def _claim_flac(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Return a FLAC file that claims another number of samples, or whose checksum is of other
    samples.
    """
    changed = bytearray(data)
    if rng.random() < 0.5:
        changed[21] |= 0x0F
        changed[22:26] = rng.choice((b"\xff" * 4, b"\0\0\0\1", b"\x7f\xff\xff\xff"))
        return bytes(changed), "claims other samples"
    changed[26:42] = b"\x55" * 16
    return bytes(changed), "wrong MD5"


def _check(
    manifest: Any, folder: Path, name: str, expected: np.ndarray | None, rate: int
) -> str | None:
    clips = {Path(clip.id).name: clip for clip in manifest.clips}
    if missing := [good for good in ("good0.wav", "good1.wav") if good not in clips]:
        return f"{missing[0]} did not arrive"
    for clip in manifest.clips:
        samples = manifest.audio(clip)
        if len(samples) != clip.num_samples or not samples.any():
            return (
                f"{clip.id!r}: {len(samples)} samples, {clip.num_samples} said, loudest "
                f"{abs(samples).max(initial=0)}"
            )
    clip = clips.get(name)
    if clip is None:
        return (
            f"{name!r} is whole, but was skipped"
            if expected is not None and expected.ndim == 1
            else None
        )
    found = manifest.audio(clip) / 32767.0
    heard = _read_plainly(folder / name) if expected is None else (expected, rate)
    if heard is None:
        return None
    wave, hz = heard
    if abs(len(found) / 16_000 - len(wave) / hz) > 0.002:
        return (
            f"{name!r}: {len(found) / 16_000:.3f} s, but an independent reader finds "
            f"{len(wave) / hz:.3f} s"
        )
    if hz == 16_000 and np.abs(found - np.clip(wave, -1, 1)).max() > 0.02:
        return f"{name!r}: other audio than an independent reader finds"
    return None


def _read_plainly(path: Path) -> tuple[np.ndarray, int] | None:
    """Return what the standard library makes of a 16-bit WAV file, None if it is none."""
    try:
        with plain_wave.open(str(path)) as file:
            if file.getsampwidth() != 2:
                return None
            data = file.readframes(file.getnframes())
            if len(data) != 2 * file.getnchannels() * file.getnframes():
                return None
            samples = np.frombuffer(data, "<i2").reshape(-1, file.getnchannels())
            return samples.mean(axis=1) / 32768.0, file.getframerate()
    except (
        plain_wave.Error,
        EOFError,
        OSError,
        ValueError,
        ZeroDivisionError,
        MemoryError,
        struct.error,
    ):
        return None
