"""Audio that code makes: a corpus whose waves a class of the user computes, or reads from files of
its own format.

In: a class derived from `Rendered` with two methods, `rows` and `wave`. Out: 16 kHz FLAC copies,
manifest rows with splits, and an `ImportReport`. Rendering goes in shards; an interrupted build
keeps its finished shards. The digest of every wave is in the manifest, so that token stores and
runs notice when the audio has changed.
"""

import abc
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from pydantic import Field, JsonValue

from genlab.config import Config, GenlabError, Seed
from genlab.config.errors import describe_raised, is_ours_to_stop, shorten
from genlab.config.open import file_of
from genlab.data.audio import MIN_PEAK, SPEECH_AUDIO, AudioFormat, to_int16, write_flac
from genlab.data.decoding import MIN_DURATION_S
from genlab.data.folder import ImportReport, drop_repeated_recordings
from genlab.data.listing import Skipped, SourceRow, find_broken_text
from genlab.data.manifest import (
    Clip,
    Manifest,
    assign_splits,
    copies,
    join_copies,
    overlap_of_splits,
)
from genlab.data.recipe import Recipe
from genlab.data.shards import Progress, run_shards
from genlab.data.states import file_states

RENDER_VERSION = 1  # part of the cache key: raise it when clips of the same waves become others
CLIPS_PER_SHARD = 16
LONGEST_S = 86_400


class Rendered(Config):
    """A corpus of rows, each with a wave. Derive from it, give it a `kind`, and define `rows` and
    `wave`.

    Both depend on the fields alone, and on the files that the rows name: the same fields give the
    same waves on every call and in every process. `wave` is called from two threads.
    """

    domain: ClassVar[Any] = "speech"  # evaluate/domains.py: what it is measured by
    audio_format: ClassVar[AudioFormat] = SPEECH_AUDIO
    """Rate and channels of what `wave` returns."""

    licence: str = "unknown"
    """Of clips whose row has none."""
    seed: Seed = 0
    """Decides the splits; use it for whatever else you draw."""
    valid_fraction: float = Field(default=0.08, ge=0.0, lt=0.5)
    """The share of texts in the split valid, of rows without a split; a row without text is its own
    text.
    """
    test_fraction: float = Field(default=0.10, ge=0.0, lt=0.5)
    """The share of texts in the split test, from which prompts come."""
    held_out_speakers: tuple[str, ...] = ()
    """Speakers whose clips all go to the split test_speaker."""

    @property
    def made_of(self) -> None:
        """No other corpus."""

    @abc.abstractmethod
    def rows(self) -> list[SourceRow]:
        """Return a row per clip: `id`, and what is known of it: text, speaker, split, licence,
        labels.

        `path` names the file that the clip is read from, if there is one: the corpus is built again
        when that changes.
        """

    @abc.abstractmethod
    def wave(self, row: SourceRow) -> Float[np.ndarray, "s *c"]:
        """Return the wave of a row: floats in [-1, 1] in the format of `audio_format`, of shape
        (samples,) if that is mono and (samples, 2) if it is stereo.
        """

    def recipe(self, source: Manifest | None) -> Recipe:
        """Return how the corpus is made.

        Raises:
            GenlabError: if there are no rows, or what is in them cannot be stored.
        """
        rows = _checked_rows(self)
        read = [row for row in rows if row.path]
        states = file_states([Path(row.path).expanduser() for row in read])
        inputs = {
            "config": self.to_dict(),
            "version": RENDER_VERSION,
            "rows": [list(row) for row in rows],
            "files": states,
        }
        if self.audio_format != SPEECH_AUDIO:
            inputs["audio"] = list(self.audio_format)
        return Recipe(
            inputs, lambda directory, progress: render_rows(self, rows, directory, progress)
        )


def checked_wave(config: Rendered, row: SourceRow) -> Float[np.ndarray, "s *c"]:
    """Return the wave of a row once it is known to be one.

    Raises:
        GenlabError: naming the row and what is wrong with its wave.
    """
    place = f"{type(config).__name__}.wave of row {shorten(row.id)}"
    try:
        wave = np.asarray(config.wave(row))
    except BaseException as error:  # the code is the user's own, and may raise anything
        if is_ours_to_stop(error) or isinstance(error, GenlabError):
            raise
        raise GenlabError(f"{place}: {describe_raised(file_of(type(config)), error)}") from error
    rate_hz, channels = config.audio_format
    shape = "one channel" if channels == 1 else "shape (samples, 2)"
    expected = f"expected floats in [-1, 1] at {rate_hz / 1000:g} kHz, {shape}"
    is_shaped = wave.ndim == 1 if channels == 1 else wave.ndim == 2 and wave.shape[1] == 2
    if not is_shaped or wave.dtype.kind != "f":
        raise GenlabError(f"{place}: an array of {wave.dtype} with shape {wave.shape}, {expected}")
    if not MIN_DURATION_S <= len(wave) / rate_hz <= LONGEST_S:
        raise GenlabError(
            f"{place}: {len(wave)} samples at {rate_hz / 1000:g} kHz, expected {MIN_DURATION_S} to "
            f"{LONGEST_S} s"
        )
    peak = float(np.abs(wave).max())
    if not MIN_PEAK < peak <= 1.0:  # false for a peak that is not a number, too
        raise GenlabError(f"{place}: a peak of {peak:g}, {expected}, and not silence")
    return wave.astype(np.float32)


def _checked_rows(config: Rendered) -> list[SourceRow]:
    place = f"{type(config).__name__}.rows"
    try:
        rows = list(config.rows())
    except BaseException as error:  # the code is the user's own, and may raise anything
        if is_ours_to_stop(error) or isinstance(error, GenlabError):
            raise
        raise GenlabError(f"{place}: {describe_raised(file_of(type(config)), error)}") from error
    ids: set[str] = set()
    for row in rows:
        if not isinstance(row, SourceRow):
            raise GenlabError(
                f"{place}: {shorten(row)}, expected SourceRow(path, id, text, speaker, ...)"
            )
        if not row.id or row.id in ids:
            raise GenlabError(
                f"{place}: the id {shorten(row.id)} is empty or not the first, expected one per row"
            )
        ids.add(row.id)
        for name in ("id", "text", "speaker", "split", "licence"):
            if fault := find_broken_text(getattr(row, name)):
                raise GenlabError(f"{place}: {name} of row {shorten(row.id)} {fault}")
    if not rows:
        raise GenlabError(f"{place}: no rows, expected one per clip")
    return rows


def render_rows(
    config: Rendered, rows: Sequence[SourceRow], directory: Path, progress: Progress | None
) -> list[Clip]:
    """Write the wave of every row to `directory`, and return the clips with splits.

    Raises:
        GenlabError: if a wave is none.
    """
    (directory / "audio").mkdir(parents=True, exist_ok=True)

    def write(item: tuple[int, SourceRow]) -> dict[str, JsonValue]:
        samples = to_int16(checked_wave(config, item[1]))
        path = directory / f"audio/{item[0]:06d}.flac"
        write_flac(path, samples, sample_rate_hz=config.audio_format.sample_rate_hz)
        return {
            "num_samples": len(samples),
            "digest": hashlib.sha256(bytes(samples)).hexdigest()[:10],
        }

    results = run_shards(
        list(enumerate(rows)),
        write,
        directory / "shards",
        items_per_shard=CLIPS_PER_SHARD,
        stage="render corpus",
        progress=progress,
    )
    # Files are numbered by row, so leaving a repeated recording out renames no other.
    clips = [
        Clip(
            id=row.id,
            path=f"audio/{number:06d}.flac",
            text=row.text,
            speaker=row.speaker,
            split=row.split,
            num_samples=result["num_samples"],
            licence=row.licence or config.licence,
            labels=dict(row.labels),
            audio_digest=result["digest"],
            sample_rate_hz=config.audio_format.sample_rate_hz,
            channels=config.audio_format.channels,
        )
        for number, (row, result) in enumerate(zip(rows, results))
    ]
    clips, repeated = _place(config, clips)
    ImportReport(
        used=len(clips),
        used_s=sum(clip.duration_s for clip in clips),
        skipped=tuple(repeated),
        copies=sum(len(group) - 1 for group in copies(clips)),
    ).save(directory)
    return clips


def _place(config: Rendered, clips: Sequence[Clip]) -> tuple[list[Clip], list[Skipped]]:
    """Return the clips with splits; what a held-out split hears too is left out of the others."""
    placed = assign_splits(
        clips,
        seed=config.seed,
        valid_fraction=config.valid_fraction,
        test_fraction=config.test_fraction,
        held_out_speakers=config.held_out_speakers,
    )
    drawn = {
        clip.id for clip in clips if not clip.split and clip.speaker not in config.held_out_speakers
    }
    placed = join_copies(placed, drawn)
    return drop_repeated_recordings(
        placed, {clip.id: twin for clip, twin in overlap_of_splits(placed)}
    )
