"""How good a codec is on real files: resynthesise a folder and measure what was lost.

In: a frozen codec and a folder of audio. Out: a JSON-able dict of means with 95 % intervals over
files: aligned distances to the original (log-mel; PESQ and ESTOI where those packages are
installed, else null; in stereo those of each channel, and that of their difference), the speaker
cosine between original and resynthesis beside the cosine between different files, DNSMOS of both,
and how evenly each codebook is used. A folder with one file per speaker makes the second cosine
that of different speakers.
"""

import csv
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError
from genlab.data.audio import Channels, read_wave
from genlab.data.decoding import AudioError
from genlab.evaluate.codecs.channels import distances, mixed
from genlab.evaluate.quality import Dnsmos
from genlab.evaluate.speaker import SpeakerEncoder
from genlab.statistics.bootstrap import bootstrap_mean

SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")
LONGEST_S = 10.0


def score_folder(
    codec: FrozenCodec,
    directory: Path,
    levels: int | None = None,
    speakers: Collection[str] | None = None,
    dnsmos_files: int = 24,
) -> dict[str, Any]:
    """Return the scores of resynthesis from the first `levels` codebooks (all if absent).

    Args:
        codec: the codec, with waves at 16 kHz; mono or stereo is what the files are read as.
        directory: searched recursively; the first 10 s of every file are used.
        levels: codebooks to decode from.
        speakers: keep only files whose row in `metadata.csv` (path, speaker) names one of these.
        dnsmos_files: how many files DNSMOS scores; it is the slow one.

    Raises:
        GenlabError: if no file can be read.
    """
    rate = codec.wave_rate_hz
    waves, skipped = read_folder(directory, speakers, rate, codec.channels)
    encoded = [codec.keep_levels(codec.encode([wave])[0][0], levels) for wave in waves]
    decoded = [
        codec.decode_codes([codes], codec.encode_side([wave]))[0][: len(wave)]
        for codes, wave in zip(encoded, waves)
    ]
    values: dict[str, np.ndarray | None] = {"pesq": None, "stoi": None, "estoi": None}
    values = {**values, **distances(waves, decoded)}
    waves, decoded = mixed(waves), mixed(decoded)
    values |= _speaker_cosines(waves, decoded)
    # The originals too: DNSMOS is no distance, and a noisy recording scores low by itself.
    dnsmos = Dnsmos(max_windows=1)
    values["dnsmos_ovrl_original"] = dnsmos(waves[:dnsmos_files]).ovrl
    values["dnsmos_ovrl"] = dnsmos(decoded[:dnsmos_files]).ovrl
    frames = np.concatenate(encoded)
    return {
        "files": len(waves),
        "seconds": round(sum(map(len, waves)) / rate, 1),
        "skipped": skipped,
        "bitrate_bps": codec.spec.frame_hz * frames.shape[1] * float(np.log2(codec.spec.entries)),
        "code_entropy_bits": entropy_bits(frames),
        "scores": {name: _estimate(array) for name, array in values.items()},
    }


def read_folder(
    directory: Path,
    speakers: Collection[str] | None,
    sample_rate_hz: int,
    channels: Channels = 1,
) -> tuple[list[Float[np.ndarray, "_ *c"]], list[str]]:
    """Return the first 10 s of every file in mono or stereo, and why others were skipped.

    Raises:
        GenlabError: if no file can be read.
    """
    waves, skipped = [], []
    for path in _list_files(directory, speakers):
        try:
            wave = read_wave(path, sample_rate_hz=sample_rate_hz, channels=channels)
            waves.append(wave[: int(LONGEST_S * sample_rate_hz)])
        except AudioError as error:
            skipped.append(f"{path.name}: {error.reason}")
    if not waves:
        raise GenlabError(
            f"{directory}: no readable audio{' of these speakers' if speakers else ''}; "
            f"{skipped[:3]}"
        )
    return waves, skipped


def entropy_bits(codes: Int[np.ndarray, "t k"]) -> list[float]:
    """Return the entropy of each codebook's usage in bits."""
    shares = [np.bincount(level) / len(level) for level in codes.T]
    return [
        round(float(-(share[share > 0] * np.log2(share[share > 0])).sum()), 2) for share in shares
    ]


def _list_files(directory: Path, speakers: Collection[str] | None) -> list[Path]:
    if speakers is None:
        return sorted(
            path for path in Path(directory).rglob("*") if path.suffix.lower() in SUFFIXES
        )
    table = Path(directory) / "metadata.csv"
    if not table.is_file():
        raise GenlabError(
            f"{table}: no such file; choosing speakers needs a table with the columns path and "
            "speaker"
        )
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and not {"path", "speaker"} <= rows[0].keys():
        raise GenlabError(
            f"{table}: columns {', '.join(map(str, rows[0]))}, expected path and speaker among them"
        )
    return sorted(Path(directory) / row["path"] for row in rows if row["speaker"] in speakers)


def _speaker_cosines(waves: list[np.ndarray], decoded: list[np.ndarray]) -> dict[str, np.ndarray]:
    encoder = SpeakerEncoder()
    original, copy = (np.stack([encoder(wave) for wave in group]) for group in (waves, decoded))
    between = original @ original.T
    others = (
        [np.delete(between[i], i).mean() for i in range(len(waves))] if len(waves) > 1 else [np.nan]
    )
    return {
        "speaker_cosine": (original * copy).sum(axis=1),
        "speaker_cosine_between_files": np.array(others),
    }


def _estimate(values: np.ndarray | None) -> dict[str, float | int | None] | None:
    """Return mean, interval and n; null means not defined or not installed."""
    if values is None:
        return None
    fields = bootstrap_mean(values)._asdict()
    return {
        name: round(value, 4) if math.isfinite(value) else None for name, value in fields.items()
    }
