"""What does the first code level say: the words, or the speaker?

In: codecs, and a folder of real speech of which some speakers are for testing. Out: one row per
codec: how often the phone spoken is the one that the level-1 code most often stood for in the other
speakers' clips (a table of counts, so the probe adds no knowledge of its own); how often a ridge
probe names the speaker of a second from a histogram of its level-1 codes; and what all levels
reconstruct. Several trainings of one variant, joined by +, are averaged clip by clip; their spread
is shown beside, because intervals here are over clips. Codecs with side channels are also decoded
with another speaker's side code: does the voice move to that speaker, and do the words stay?
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError
from genlab.evaluate.codecs.phones import PhoneAligner, labels_at
from genlab.evaluate.codecs.score import read_folder
from genlab.evaluate.codecs.whisper import Whisper
from genlab.evaluate.content import word_errors
from genlab.evaluate.reconstruction import mel_distances_db, pesq_stoi
from genlab.evaluate.speaker import SpeakerEncoder
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ
from genlab.recognisers.units import speaker_hits
from genlab.statistics.bootstrap import Estimate, bootstrap_mean, paired_difference

PROBE_S = 1.0  # of a piece whose speaker is asked for
MEASURES = {
    "phones": "phone accuracy, level 1",
    "speaker": "speaker accuracy, level 1",
    "mel_distance_db": "mel distance dB",
    "pesq": "PESQ",
    "estoi": "ESTOI",
}


class Row(NamedTuple):
    """One variant: per measure an array over test clips for each of its trainings."""

    name: str
    values: dict[str, list[Float[np.ndarray, "n"]]]

    def mean(self, measure: str) -> Float[np.ndarray, "n"]:
        """Return the values per clip, averaged over trainings."""
        return np.mean(self.values[measure], axis=0)


def probe_folder(
    codecs: Mapping[str, Sequence[FrozenCodec]], directory: Path, test_speakers: Collection[str]
) -> list[Row]:
    """Return the row of each variant; `codecs` names the trainings of each.

    Args:
        codecs: name -> trainings, all with waves at 16 kHz.
        directory: real speech with a `metadata.csv`; the first 10 s of every file are used.
        test_speakers: who is tested on; the clips of all others fit the table of phones.

    Raises:
        GenlabError: if too few clips are left on a side, or the optional packages are missing.
    """
    test, _ = read_folder(directory, test_speakers, SAMPLE_RATE_HZ)
    everything, _ = read_folder(directory, None, SAMPLE_RATE_HZ)
    heard = {wave.tobytes() for wave in test}
    fit = [wave for wave in everything if wave.tobytes() not in heard]
    aligner = PhoneAligner()
    fit_labels, test_labels = ([aligner(wave) for wave in waves] for waves in (fit, test))
    for side, labels in (("to fit", fit_labels), ("to test", test_labels)):
        if sum(label is not None for label in labels) < 5:
            raise GenlabError(
                f"{directory}: fewer than 5 clips {side} on whose words are known; give more speech"
            )
    rows = []
    for name, trainings in codecs.items():
        parts = [
            _probe(codec, fit, fit_labels, test, test_labels, len(aligner.phones))
            for codec in trainings
        ]
        rows.append(Row(name, {measure: [part[measure] for part in parts] for measure in parts[0]}))
    return rows


def swap_sides(codec: FrozenCodec, waves: Sequence[Float[np.ndarray, "_"]]) -> dict[str, Estimate]:
    """Decode each clip with the side code of the next one; return how voice and words changed.

    Returns:
        to_donor: the speaker cosine to the donor, less that of the clip decoded with its own side
            code.
        to_self: the same for the cosine to the clip's own speaker.
        word_error: word errors per word of the whisper's reading with the own side code.

    Raises:
        GenlabError: if the codec has no side channels.
    """
    side = codec.encode_side(waves)
    if side is None:
        raise GenlabError(
            "codec: it has no side channels to swap; train one with codec.side_channels=16"
        )
    codes = [view for view, _ in codec.encode(waves)]
    # Both are decoded, because the codec itself moves a voice: only the difference is due to the
    # side code.
    own = codec.decode_codes(codes, side)
    swapped = codec.decode_codes(codes, np.roll(side, -1, axis=0))
    encoder, whisper = SpeakerEncoder(), Whisper()
    voices, before, after = (
        np.stack([encoder(wave) for wave in group]) for group in (waves, own, swapped)
    )
    donors = np.roll(voices, -1, axis=0)
    found = word_errors(
        [whisper.transcribe(wave) for wave in swapped], [whisper.transcribe(wave) for wave in own]
    )
    return {
        "to_donor": bootstrap_mean(((after - before) * donors).sum(axis=1)),
        "to_self": bootstrap_mean(((after - before) * voices).sum(axis=1)),
        "word_error": bootstrap_mean(found.errors / np.maximum(found.reference_units, 1)),
    }


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the table: values with intervals over clips, and their difference to the first row."""
    shown = [name for name in MEASURES if name in rows[0].values]
    lines = ["| codec | trainings | " + " | ".join(MEASURES[name] for name in shown) + " |"]
    lines += ["| --- | ---: |" + " ---: |" * len(shown)]
    for row in rows:
        cells = [_show(bootstrap_mean(row.mean(name))) for name in shown]
        lines.append(f"| {row.name} | {len(row.values[shown[0]])} | " + " | ".join(cells) + " |")
    first = rows[0]
    for row in rows[1:]:
        cells = []
        for name in shown:
            pairs = [
                (value - first.mean(name))[np.isfinite(value)].mean() for value in row.values[name]
            ]
            spread = f"; {min(pairs):.3f} to {max(pairs):.3f}" if len(pairs) > 1 else ""
            cells.append(_show(paired_difference(row.mean(name), first.mean(name))) + spread)
        lines.append(f"| {row.name} less {first.name} | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _probe(
    codec: FrozenCodec,
    fit: Sequence[Float[np.ndarray, "_"]],
    fit_labels: Sequence[Int[np.ndarray, "_"] | None],
    test: Sequence[Float[np.ndarray, "_"]],
    test_labels: Sequence[Int[np.ndarray, "_"] | None],
    num_phones: int,
) -> dict[str, Float[np.ndarray, "n"]]:
    fit_codes, test_codes = (
        [codec.encode([wave])[0][0][:, 0] for wave in waves] for waves in (fit, test)
    )
    entries, frame_hz = codec.spec.entries, codec.spec.frame_hz
    counts = np.zeros((entries, num_phones))
    for codes, labels in zip(fit_codes, fit_labels):
        if labels is not None:
            of_frame = labels_at(labels, len(codes), frame_hz)
            np.add.at(counts, (codes[of_frame >= 0], of_frame[of_frame >= 0]), 1)
    # A code never seen says no more than that it is speech: the commonest phone.
    meaning = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), counts.sum(axis=0).argmax())
    phones = np.full(len(test), np.nan)
    for number, (codes, labels) in enumerate(zip(test_codes, test_labels)):
        if labels is not None:
            of_frame = labels_at(labels, len(codes), frame_hz)
            phones[number] = np.mean(meaning[codes][of_frame >= 0] == of_frame[of_frame >= 0])
    decoded = [
        codec.decode_codes([codec.encode([w])[0][0]], codec.encode_side([w]))[0][: len(w)]
        for w in test
    ]
    return {
        "phones": phones,
        "speaker": _name_speakers(test_codes, entries, int(PROBE_S * frame_hz)),
        "mel_distance_db": mel_distances_db(test, decoded),
        **{name: values for name, values in pesq_stoi(test, decoded).items() if name in MEASURES},
    }


def _name_speakers(
    codes: Sequence[Int[np.ndarray, "t"]], entries: int, piece: int
) -> Float[np.ndarray, "n"]:
    """Return per clip the share of its second half that a probe fitted on all first halves gives to
    its speaker.
    """
    pieces, owner, is_test = [], [], []
    for number, clip in enumerate(codes):
        starts = range(0, len(clip) - piece + 1, piece)
        for start in starts:
            pieces.append(clip[start : start + piece] + 1)
            owner.append(number)
            is_test.append(2 * start >= len(clip))
    hits = speaker_hits(pieces, [f"{number:04}" for number in owner], entries, is_test=is_test)
    asked = np.array(owner)[np.array(is_test)]
    shares = [
        hits[asked == number].mean() if (asked == number).any() else np.nan
        for number in range(len(codes))
    ]
    return np.array(shares)


def _show(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]".replace(
        "-", "\N{MINUS SIGN}"
    )
