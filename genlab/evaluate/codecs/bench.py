"""Rate and distortion of codecs on real speech, beside Opus and Codec 2 at matched rates.

In: frozen codecs and a folder of audio that none of them was trained on. Out: one row per codec and
rate: bits per second as spent, seven scores with 95 % intervals over files, how evenly the
codebooks are used, and speed; and for each row of ours the paired difference to every Opus row at 6
kbit/s. The recogniser's error is against its own reading of the original, so its own mistakes
cancel. Speed is audio seconds per second of work, one file at a time; for the command line tools it
includes starting them. In stereo, distances are those of each channel (channels.py), and networks
that hear speech hear the mix.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from genlab.codecs.frozen import FrozenCodec
from genlab.codecs.quantiser import SIDE_LEVELS
from genlab.config import GenlabError
from genlab.data.audio import AudioFormat, Channels
from genlab.evaluate.codecs import whisper
from genlab.evaluate.codecs.channels import distances, mixed
from genlab.evaluate.codecs.score import entropy_bits, read_folder
from genlab.evaluate.codecs.speech_coders import (
    OPUS_SETTINGS,
    Coded,
    code_with_codec2,
    code_with_opus,
)
from genlab.evaluate.content import word_errors
from genlab.evaluate.quality import Dnsmos
from genlab.evaluate.speaker import SpeakerEncoder
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ
from genlab.statistics.bootstrap import Estimate, bootstrap_mean, paired_difference

OPUS_RATES = (6, 9, 12)
CODEC2_RATES = (3200, 1300)
GOAL_RATE = 6
# name -> (heading, True if higher is better)
SCORES = {
    "pesq": ("PESQ", True),
    "stoi": ("STOI", True),
    "estoi": ("ESTOI", True),
    "dnsmos": ("DNSMOS", True),
    "word_error": ("WER to original", False),
    "speaker_cosine": ("speaker cosine", True),
    "mel_distance_db": ("mel distance dB", False),
    "side_mel_distance_db": ("mel distance of the channels' difference, dB", False),
}
Coder = Callable[[Float[np.ndarray, "s *c"]], Coded]


class Row(NamedTuple):
    """One codec at one rate. `values` holds one number per file; `usage` the entropy of each
    codebook in bits.
    """

    name: str
    rate_bps: float
    values: dict[str, Float[np.ndarray, "n"] | None]
    usage: list[float]
    encode_speed: float
    decode_speed: float


def bench_folder(
    codecs: Mapping[str, tuple[FrozenCodec, Sequence[int]]],
    directory: Path,
    speakers: Collection[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Return the rows of every codec at every number of levels (0: from latents), of the peers, and
    of the original.

    Args:
        codecs: name -> codec with waves at 16 kHz, all mono or all stereo, and the numbers of
            codebooks to decode from.
        directory: real speech; the first 10 s of every file are used.
        speakers: keep only files of these speakers.
        progress: called with (stage, done, total).

    Raises:
        GenlabError: if there is no audio, a codec works at another rate, or a command line tool is
            missing.
    """
    # The files are read as what the codecs take.
    channels: Channels = 2 if any(codec.channels == 2 for codec, _ in codecs.values()) else 1
    waves, _ = read_folder(directory, speakers, SAMPLE_RATE_HZ, channels)
    coders: list[tuple[str, Coder, list[Int[np.ndarray, "t k"]]]] = []
    for name, (codec, levels) in codecs.items():
        if codec.audio != (SAMPLE_RATE_HZ, channels):
            raise GenlabError(
                f"codec {name}: gives {codec.audio}, scores need "
                f"{AudioFormat(SAMPLE_RATE_HZ, channels)}"
            )
        for count in levels:
            codes: list[Int[np.ndarray, "t k"]] = []
            title = f"{name}, {count} levels" if count else f"{name}, latents"
            coders.append((title, partial(_code_with_ours, codec, count, codes), codes))
    ours = {name for name, _, _ in coders}
    coders += [
        (
            f"Opus {rate} kbit/s, {setting}",
            partial(code_with_opus, kbit_per_s=rate, options=options),
            [],
        )
        for rate in OPUS_RATES
        for setting, options in (OPUS_SETTINGS if rate == GOAL_RATE else {"default": ()}).items()
    ]
    coders += [
        (f"Codec 2, {rate} bit/s", partial(code_with_codec2, bit_per_s=rate), [])
        for rate in CODEC2_RATES
    ]
    judge = _Judge(waves)
    rows = []
    for done, (name, coder, codes) in enumerate(coders):
        if progress:
            progress("codec bench", done, len(coders))
        for wave in waves if name in ours else waves[:1]:
            coder(wave)  # compiles what each length needs, outside the time that counts
        codes.clear()
        rows.append(_measure(name, waves, coder, codes, judge))
    if progress:
        progress("codec bench", len(coders), len(coders))
    return [*rows, Row("original", math.nan, judge(waves), [], math.nan, math.nan)]


def compare_with_opus(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return, for each row of ours and each Opus row at 6 kbit/s, the paired difference of every
    score.

    A difference is signed so that above zero is ours ahead; `is_ahead` asks for the whole interval.
    """
    peers = [row for row in rows if row.name.startswith(f"Opus {GOAL_RATE} ")]
    ours = [row for row in rows if row.usage]
    return [
        {
            "ours": row.name,
            "opus": peer.name,
            "score": name,
            **estimate._asdict(),
            "is_ahead": estimate.low > 0,
        }
        for row in ours
        for peer in peers
        for name, estimate in _differences(row, peer).items()
    ]


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as plain JSON values with intervals."""
    return [
        {
            "name": row.name,
            "rate_bps": _finite(row.rate_bps),
            "code_entropy_bits": row.usage,
            "encode_speed": _finite(row.encode_speed),
            "decode_speed": _finite(row.decode_speed),
            "scores": {
                name: None
                if values is None
                else {key: _finite(x) for key, x in bootstrap_mean(values)._asdict().items()}
                for name, values in row.values.items()
            },
        }
        for row in rows
    ]


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the table, and below it how ours compares with Opus."""
    # A score that no row has (a tool is missing) gets no column.
    shown = [name for name in SCORES if any(row.values.get(name) is not None for row in rows)]
    arrows = [f"{SCORES[name][0]} {'↑' if SCORES[name][1] else '↓'}" for name in shown]
    lines = [
        "| "
        + " | ".join(["codec", "bit/s", *arrows, "bits of each codebook's 10", "speed, in / out"])
        + " |",
        "| --- |" + " ---: |" * (len(arrows) + 3),
    ]
    for row in rows:
        cells = [
            _show(bootstrap_mean(values)) if (values := row.values[name]) is not None else ""
            for name in shown
        ]
        usage = f"{min(row.usage):.1f} to {max(row.usage):.1f}" if row.usage else ""
        speed = (
            f"{row.encode_speed:.0f} / {row.decode_speed:.0f}"
            if math.isfinite(row.encode_speed)
            else ""
        )
        rate = f"{row.rate_bps:,.0f}" if math.isfinite(row.rate_bps) else ""
        lines.append("| " + " | ".join([row.name, rate, *cells, usage, speed]) + " |")
    lines += [
        "",
        "Ours minus Opus at 6 kbit/s, paired over files, signed so that above zero is ours ahead:",
        "",
    ]
    lines += ["| ours | Opus | " + " | ".join(SCORES[name][0] for name in shown) + " |"]
    lines += ["| --- | --- |" + " ---: |" * len(shown)]
    pairs = compare_with_opus(rows)
    for ours, opus in dict.fromkeys((pair["ours"], pair["opus"]) for pair in pairs):
        of_pair = {
            pair["score"]: pair for pair in pairs if (pair["ours"], pair["opus"]) == (ours, opus)
        }
        cells = [
            _show(Estimate(*(of_pair[name][key] for key in Estimate._fields))) for name in shown
        ]
        lines.append("| " + " | ".join([ours, opus, *cells]) + " |")
    return "\n".join(lines)


class _Judge:
    """All scores of waves against the originals; None where the package is not installed."""

    def __init__(self, originals: Sequence[Float[np.ndarray, "_ *c"]]):
        self.originals = originals
        originals = mixed(originals)
        self._dnsmos = Dnsmos(max_windows=1)
        self._speaker = SpeakerEncoder()
        self._voices = [self._speaker(wave) for wave in originals]
        self._recogniser = whisper.Whisper() if whisper.is_installed() else None
        self._readings = (
            [self._recogniser.transcribe(wave) for wave in originals] if self._recogniser else []
        )

    def __call__(
        self, waves: Sequence[Float[np.ndarray, "_ *c"]]
    ) -> dict[str, Float[np.ndarray, "n"] | None]:
        scores: dict[str, np.ndarray | None] = {name: None for name in SCORES}
        scores = {**scores, **distances(self.originals, waves)}
        waves = mixed(waves)
        scores["dnsmos"] = self._dnsmos(waves).ovrl
        voices = [self._speaker(wave) for wave in waves]
        scores["speaker_cosine"] = np.array([float(a @ b) for a, b in zip(self._voices, voices)])
        if self._recogniser:
            found = word_errors(
                [self._recogniser.transcribe(wave) for wave in waves], self._readings
            )
            scores["word_error"] = found.errors / np.maximum(found.reference_units, 1)
        return scores


def _measure(
    name: str,
    waves: Sequence[Float[np.ndarray, "_ *c"]],
    coder: Coder,
    codes: list[Int[np.ndarray, "t k"]],
    judge: _Judge,
) -> Row:
    coded = [coder(wave) for wave in waves]
    seconds = sum(map(len, waves)) / SAMPLE_RATE_HZ
    return Row(
        name,
        sum(item.bits for item in coded) / seconds,
        judge([item.wave for item in coded]),
        entropy_bits(np.concatenate(codes)) if codes else [],
        seconds / sum(item.encode_s for item in coded),
        seconds / sum(item.decode_s for item in coded),
    )


def _code_with_ours(
    codec: FrozenCodec,
    levels: int,
    seen: list[Int[np.ndarray, "t k"]],
    wave: Float[np.ndarray, "s *c"],
) -> Coded:
    began = time.perf_counter()
    [(codes, latents)], side = codec.encode([wave]), codec.encode_side([wave])
    encoded = time.perf_counter()
    codes = codec.keep_levels(codes, levels or None)
    [decoded] = (
        codec.decode_codes([codes], side) if levels else codec.decode_latents([latents], side)
    )
    done = time.perf_counter()
    seen.append(codes)
    side_bits = codec.spec.side_channels * math.log2(SIDE_LEVELS)
    bits = codes.size * math.log2(codec.spec.entries) + side_bits if levels else math.nan
    return Coded(decoded[: len(wave)], bits, encoded - began, done - encoded)


def _differences(ours: Row, peer: Row) -> dict[str, Estimate]:
    found = {}
    for name, (_, is_higher_better) in SCORES.items():
        a, b = ours.values[name], peer.values[name]
        if a is not None and b is not None:
            found[name] = paired_difference(a, b) if is_higher_better else paired_difference(b, a)
    return found


def _show(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]".replace(
        "-", "\N{MINUS SIGN}"
    )


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
