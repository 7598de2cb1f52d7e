"""Audio that a user already has: a folder of WAV, FLAC, OGG or MP3, with or without a table of
texts and speakers.

In: `Folder` (path, optional CSV or JSONL manifest). Out: FLAC copies of one rate, manifest rows,
and an `ImportReport`. Every file that cannot be used is listed in the report with its reason; it is
skipped, or with `strict=True` the corpus is refused. The same import serves the directory layouts
in `layouts.py`.
"""

import abc
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from genlab.config import Config, GenlabError, Seed, added
from genlab.data.audio import (
    SPEECH_AUDIO,
    AudioFormat,
    Channels,
    is_longer,
    read_sides,
    read_wave,
    to_int16,
    write_flac,
)
from genlab.data.decoding import END_TOLERANCE_S, FORMATS, AudioError, Limit, Part
from genlab.data.import_report import REPORT_NAME as REPORT_NAME
from genlab.data.import_report import ImportReport as ImportReport
from genlab.data.listing import (
    Listing,
    Skipped,
    SourceRow,
    count_of,
    file_identity,
    find_broken_text,
    printable,
    shorten,
    walk_files,
)
from genlab.data.manifest import (
    Clip,
    Manifest,
    Unit,
    assign_splits,
    copies,
    join_copies,
    overlap_of_splits,
    split_rank,
    text_key,
)
from genlab.data.nearest import near_folder
from genlab.data.recipe import USUAL_FORMAT, DomainName, Recipe
from genlab.data.shards import Progress, run_shards
from genlab.data.states import file_states
from genlab.data.table import is_table, list_table
from genlab.data.text import has_symbols

IMPORT_VERSION = 2  # part of the cache key: raise it when the conversion changes
UNSUPPORTED_AUDIO = set(
    ".3gp .aac .ac3 .aif .aifc .aiff .amr .ape .au .bwf .caf .m4a .m4b .mka "
    ".mp2 .mp4 .mpga .ra .raw .rf64 .snd .sph .spx .voc .w64 .webm .wma .wv".split()
)
TABLE_NAMES = {"manifest", "metadata"}
PATH_FIELD, MAX_CLIP_FIELD = "data.corpus.path", "data.corpus.max_clip_s"  # as overrides name them


class ImportConfig(Config):
    """The options of every corpus made of existing files."""

    may_be_file: ClassVar[bool] = False  # then `path` may name one file of its folder

    path: str
    """The directory that holds the audio. Where it lies does not enter the hash, its files do."""
    strict: bool = False
    """Refuse the corpus if any file is skipped."""
    licence: str = "unknown"
    """Licence of the clips whose rows name none."""
    seed: Seed = 0
    """Seed of the splits that are drawn."""
    valid_fraction: float = Field(default=0.05, ge=0.0, lt=0.5)
    """Share of texts held out for validation, where no split is given."""
    test_fraction: float = Field(default=0.05, ge=0.0, lt=0.5)
    """Share of texts held out for the test, where no split is given."""
    pair_fraction: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Share of pairs of a speaker and a training text held out as split test_pair."""
    held_out_speakers: tuple[str, ...] = ()
    """Speakers whose clips are all in split test_speaker."""
    shared_texts: bool = False
    """Keep training clips whose text also occurs in valid or test; by default they are dropped."""
    max_clip_s: float = Field(default=40.0, gt=0.0, le=86_400)
    """Longest recording that is accepted, in seconds."""
    unit: Unit = added("text")
    """What one unit of the statistics is: a text, or a speaker where many people say a few texts.
    Prompts of one unit count once, however many there are; the corpus that is built is the same.
    """
    domain: DomainName = added("speech")
    """What the clips are: it decides which metrics score them (evaluate/domains.py)."""
    sample_rate_hz: Annotated[int, Field(ge=16_000, le=48_000)] | None = added(None)
    """Sample rate that audio is kept at, in Hz; None is that of the domain: 16 kHz for speech, else
    44.1 kHz.
    """
    channels: Channels | None = added(None)
    """Channels that audio is kept with; None is that of the domain: 2 for music, else 1."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        # A class of the user may hold a `Domain` of its own, which is no field.
        if "domain" in vars(cls) and "domain" not in cls.__annotations__:
            cls.__annotations__ = {**cls.__annotations__, "domain": ClassVar[Any]}

    @property
    def made_of(self) -> None:
        """No other corpus."""

    @property
    def audio_format(self) -> AudioFormat:
        """Rate and channels of the audio on disk."""
        domain: Any = self.domain
        usual = USUAL_FORMAT[self.domain] if isinstance(domain, str) else domain.audio
        return AudioFormat(
            self.sample_rate_hz or usual.sample_rate_hz, self.channels or usual.channels
        )

    @abc.abstractmethod
    def listing(self) -> Listing:
        """Return the files to import, what of them cannot be used, and notes.

        Raises:
            GenlabError: if the path does not hold such a corpus.
        """

    def opened(self, path: Path, row: SourceRow, scratch: Path) -> AbstractContextManager[Path]:
        """Return the file of a row while it is read; at `scratch` and a suffix one may be made."""
        return nullcontext(path)

    def recipe(self, source: Manifest | None) -> Recipe:
        """Return how the corpus is made. Neither where it lies nor `strict` nor `unit` changes what
        is built; the files do.
        """
        listing = self.listing()
        # What audio is measured by, and in which units, changes none of it.
        settings = {
            key: value
            for key, value in self.lean_dict().items()
            if key not in {"path", "strict", "unit", "domain"}
        }
        if self.audio_format != SPEECH_AUDIO:  # a domain of the user's own may decide it
            settings["audio"] = list(self.audio_format)
        root = Path(self.path).expanduser()
        # The state of every file is part of the hash: the same path may hold another recording
        # tomorrow.
        states = file_states([root / row.path for row in listing.rows])
        rows = [[*row, state] for row, state in zip(listing.rows, states)]
        inputs = {
            "config": settings,
            "version": IMPORT_VERSION,
            "rows": rows,
            "skipped": listing.skipped,
        }

        def build(directory: Path, progress: Progress | None) -> list[Clip]:
            clips, report = import_files(self, listing, directory, progress)
            report.save(directory)
            return clips

        return Recipe(inputs, build)


class Folder(ImportConfig):
    """A tree of audio files.

    Without a manifest texts are empty and the speaker is the name of the file's folder.
    """

    kind: Literal["folder"] = "folder"
    manifest: str | None = None
    """A CSV, TSV, JSONL or JSON file, which may be gzipped, with the columns path[, text, speaker,
    split, licence, offset, duration] (`table.ALIASES` lists other names for them); other columns
    become labels.
    """
    two_sided: bool = False
    """Every file is a conversation in stereo: text and speaker are those of the first channel, the
    second one is what that speaker hears.
    """

    @model_validator(mode="after")
    def _check_sides(self) -> "Folder":
        if self.two_sided and self.audio_format.channels == 2:
            raise ValueError(
                "two_sided=true: the channels are two sides of a conversation, each kept as mono; "
                "set channels=1, or two_sided=false to keep stereo"
            )
        return self

    def listing(self) -> Listing:
        """Return the files of the folder, from its manifest if one is named, else by walking the
        tree.
        """
        return list_folder(self)


def list_folder(config: Folder) -> Listing:
    """Return the files of a folder, from its manifest if one is named, else by walking the tree.

    Raises:
        GenlabError: if the folder or the manifest is missing, or the manifest has no column `path`.
    """
    root = existing_directory(config)
    if config.manifest is not None:
        return list_table(root, config.manifest)
    rows: list[SourceRow] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    others = Counter[str]()
    for path in walk_files(root, skipped, notes):
        relative = path.relative_to(root).as_posix()
        suffix = path.suffix.lower()
        if suffix in FORMATS:
            rows.append(SourceRow(relative, relative, speaker=path.parent.name))
        elif suffix in UNSUPPORTED_AUDIO:
            reason = f"format {suffix} not supported: convert it to WAV or FLAC"
            skipped.append(Skipped(printable(relative), reason))
        else:
            # Most likely the table was meant to be read, so its neighbours' count is not enough.
            others[suffix or "no extension"] += 1
            if path.name.split(".")[0] in TABLE_NAMES or is_table(path):
                use = (
                    f"set data.corpus.manifest={printable(relative)} to use its texts and speakers"
                )
                notes.append(f"table not read: {use}")
    for suffix, count in sorted(others.items()):
        notes.append(f"{count_of(count, 'other file')} ignored ({printable(suffix)})")
    return Listing(rows, skipped, notes)


def import_files(
    config: ImportConfig, listing: Listing, directory: Path, progress: Progress | None = None
) -> tuple[list[Clip], ImportReport]:
    """Convert the listed files to FLAC in `directory`, and return the clips with splits and the
    report.

    Raises:
        GenlabError: if no file can be used, or the given splits share texts so that nothing is left
            to train on.
    """
    root = existing_directory(config)
    rows, skipped = _usable_rows(root, listing)
    (directory / "audio").mkdir(parents=True, exist_ok=True)
    # Shards make the import resumable: an interrupted one converts only what is missing.
    results = run_shards(
        list(enumerate(rows)),
        lambda item: _convert(config, root, item[1], directory / f"audio/{item[0]:06d}.flac"),
        directory / "shards",
        items_per_shard=64,
        stage="import audio",
        progress=progress,
    )
    clips = []
    for number, (row, result) in enumerate(zip(rows, results)):
        if "reason" in result:
            skipped.append(Skipped(printable(row.path), result["reason"]))
            continue
        # The number is that of the row, not of the clip, so a skipped file renames no other.
        clips.append(
            Clip(
                id=printable(row.id),
                path=f"audio/{number:06d}.flac",
                text=row.text,
                speaker=printable(row.speaker),
                split=row.split,
                num_samples=result["num_samples"],
                licence=row.licence or config.licence,
                labels=dict(row.labels),
                audio_digest=result["digest"],
                other_path=f"audio/{number:06d}.other.flac" if is_two_sided(config) else None,
                sample_rate_hz=config.audio_format.sample_rate_hz,
                channels=config.audio_format.channels,
            )
        )
    if not clips:
        report = ImportReport(0, 0.0, tuple(skipped), tuple(listing.notes))
        told = report.in_one_line(5)
        if not listing.rows and isinstance(config, Folder) and config.manifest is None:
            told = f"none below it ends in {', '.join(FORMATS)}; {told}"
        raise GenlabError(f"corpus {config.path!r}: no usable audio file; {told}")
    clips, shared = _place(config, clips, {printable(row.id): row for row in rows})
    notes = [*listing.notes, *_note_texts(clips)]
    cut = sum(result.get("is_cut", False) for result in results)
    if cut:
        notes.append(f"files that the manifest's duration cuts short: {cut}")
    report = ImportReport(
        used=len(clips),
        used_s=sum(clip.duration_s for clip in clips),
        skipped=(*skipped, *shared),
        notes=tuple(notes),
        copies=sum(len(group) - 1 for group in copies(clips)),
    )
    return clips, report


def existing_directory(config: ImportConfig) -> Path:
    """Return the directory of the corpus as an absolute path, whose last name is the folder's own.

    Raises:
        GenlabError: if it is not there.
    """
    expected = "expected the folder that holds the corpus"
    if not config.path.strip():
        raise GenlabError(
            f"{PATH_FIELD}: {config.path!r} is empty, {expected}; '.' is the current folder"
        )
    try:
        root = Path(os.path.abspath(Path(config.path).expanduser()))
        if root.is_dir():
            return root
        if config.may_be_file and root.is_file():
            return root.parent
        near = near_folder(config.path)
    except (OSError, ValueError, RuntimeError):
        near = ""
    raise GenlabError(
        f"{PATH_FIELD}: {shorten(config.path)!r} is not a directory, {expected}{near}"
    )


def _usable_rows(root: Path, listing: Listing) -> tuple[list[SourceRow], list[Skipped]]:
    """Return the rows that name one recording each, and what was skipped so far.

    A file is known by what the disk calls it: links and other spellings of its path are that file.
    """
    rows: list[SourceRow] = []
    skipped = list(listing.skipped)
    ids: set[str] = set()
    first: dict[tuple[object, float], SourceRow] = {}
    for row in listing.rows:
        faults = [find_broken_text(value) for value in (row.text, row.licence)]
        fault = next((fault for fault in faults if fault is not None), None)
        if fault is not None:
            skipped.append(Skipped(printable(row.path), f"its text {fault}"))
            continue
        path = root / row.path
        # Offsets cut several clips from one recording, so a file may occur at several of them.
        place = (file_identity(path) or os.path.normpath(path), row.offset_s)
        earlier = first.setdefault(place, row)
        name = printable(row.id)
        if earlier is not row or name in ids:
            reason = "listed twice, the first is used"
            if earlier.path != row.path:
                reason += f": it is the same file as {shorten(printable(earlier.path))!r}"
            if earlier.split != row.split:
                reason += f" in split {earlier.split or 'drawn'!r}"
            skipped.append(Skipped(printable(row.path), reason))
            continue
        ids.add(name)
        rows.append(row)
    return rows, skipped


def is_two_sided(config: ImportConfig) -> bool:
    """Return whether the files are conversations with one side in each channel."""
    return isinstance(config, Folder) and config.two_sided


def _convert(
    config: ImportConfig, root: Path, row: SourceRow, target: Path
) -> dict[str, JsonValue]:
    path = root / row.path
    part, limit = Part(row.offset_s, row.duration_s), Limit(config.max_clip_s, MAX_CLIP_FIELD)
    rate_hz, channels = config.audio_format
    try:
        with config.opened(path, row, target.parents[1] / "shards" / target.stem) as file:
            if is_two_sided(config):
                sides = read_sides(file, sample_rate_hz=rate_hz, part=part, limit=limit)
            else:
                wave = read_wave(
                    file, sample_rate_hz=rate_hz, channels=channels, part=part, limit=limit
                )
                sides = (wave,)
            # A table may state durations in minutes: a cut nobody asked for is worth a line.
            is_cut = bool(row.duration_s and not row.offset_s and is_longer(file, row.duration_s))
    except AudioError as error:
        is_from_here = not os.path.lexists(path) and os.path.isfile(root.parent / row.path)
        hint = f": paths in a table start at {PATH_FIELD}" if is_from_here else ""
        return {"reason": error.reason + hint}
    waves = [to_int16(side) for side in sides]
    for wave, name in zip(waves, (target, target.with_suffix(".other.flac"))):
        write_flac(name, wave, sample_rate_hz=rate_hz)
    digest = hashlib.sha256(b"".join(map(bytes, waves))).hexdigest()[:10]
    return {"num_samples": len(waves[0]), "digest": digest, "is_cut": is_cut}


def _note_texts(clips: Sequence[Clip]) -> list[str]:
    """Return what to say about texts that recogniser and decoders cannot read: other scripts have
    no symbols.
    """
    written = [clip.text for clip in clips if clip.text]
    silent = [text for text in written if not has_symbols(text)]
    if not silent:
        return []
    return [
        f"{len(silent)} of {len(written)} texts have no letter a-z, digit or apostrophe (for "
        f"example {shorten(silent[0])}): they count as no text"
    ]


def _place(
    config: ImportConfig,
    clips: Sequence[Clip],
    row_of_id: Mapping[str, SourceRow],
) -> tuple[list[Clip], list[Skipped]]:
    placed = assign_splits(
        clips,
        seed=config.seed,
        valid_fraction=config.valid_fraction,
        test_fraction=config.test_fraction,
        pair_fraction=config.pair_fraction,
        held_out_speakers=config.held_out_speakers,
    )
    free = [clip for clip in clips if clip.speaker not in config.held_out_speakers]
    is_drawn = {clip.id for clip in free if not clip.split}
    placed = join_copies(placed, is_drawn)
    dropped: list[Skipped] = []
    if not config.shared_texts:
        placed, dropped = _drop_shared_texts(config, placed)
    root = existing_directory(config)
    pairs = overlap_of_splits(placed) + _overlapping_parts(root, placed, row_of_id)
    twin_of = {clip.id: twin for clip, twin in pairs}
    placed, repeated = drop_repeated_recordings(placed, twin_of)
    return placed, dropped + repeated


def _drop_shared_texts(
    config: ImportConfig,
    placed: list[Clip],
) -> tuple[list[Clip], list[Skipped]]:
    held_out = {text_key(clip): clip.split for clip in placed if clip.split in {"valid", "test"}}
    shared = [clip for clip in placed if clip.split == "train" and text_key(clip) in held_out]
    kept = [clip for clip in placed if not (clip.split == "train" and text_key(clip) in held_out)]
    if shared and not any(clip.split == "train" for clip in kept):
        raise GenlabError(
            f"corpus {config.path!r}: every text of split 'train' also occurs in valid or test; "
            "expected disjoint texts, set data.corpus.shared_texts=true if the corpus is meant so"
        )
    return kept, [
        Skipped(clip.id, f"its text also occurs in split {held_out[text_key(clip)]!r}")
        for clip in shared
    ]


def _overlapping_parts(
    root: Path,
    placed: list[Clip],
    row_of_id: Mapping[str, SourceRow],
) -> list[tuple[Clip, Clip]]:
    """Return each clip that shares seconds of its file with a split held out from it, and whose."""

    def start_s(clip: Clip) -> float:
        return row_of_id[clip.id].offset_s

    of_file: dict[object, list[Clip]] = {}
    for clip in placed:
        path = root / row_of_id[clip.id].path
        of_file.setdefault(file_identity(path) or path, []).append(clip)
    pairs = []
    for group in of_file.values():
        group.sort(key=start_s)
        for number, clip in enumerate(group):
            end_s = start_s(clip) + clip.duration_s - END_TOLERANCE_S
            for other in group[number + 1 :]:
                if start_s(other) >= end_s:
                    break
                pair = sorted((clip, other), key=split_rank)
                if split_rank(pair[0]) < split_rank(pair[1]):
                    pairs.append((pair[0], pair[1]))
    return pairs


def drop_repeated_recordings(
    placed: list[Clip],
    twin_of: Mapping[str, Clip],
) -> tuple[list[Clip], list[Skipped]]:
    """Leave out of train what valid or test hear too, and out of valid what test hears."""
    kept = [clip for clip in placed if clip.id not in twin_of]
    repeated = []
    for clip in placed:
        if clip.id in twin_of:
            twin = twin_of[clip.id]
            reason = f"same recording as {shorten(twin.id)!r} in split {twin.split!r}"
            repeated.append(Skipped(clip.id, f"{reason}: not used in {clip.split!r}"))
    return kept, repeated
