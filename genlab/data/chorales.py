"""Four-part chorales by Bach, rendered from scores: music whose notes, beats and instruments are
known exactly.

In: `Chorales`, the scores that come with music21, and a General MIDI soundfont of the user. Out:
excerpts of a few beats, each played by one of eight ensembles, with notes, beats and chords in
seconds as labels. Key and roman numerals are what music21 estimates. Splits are by piece, so that
no piece is both learnt and tested. The ensemble is the speaker, the label that every decoder can be
told.
"""

import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import Field

from genlab.config import GenlabError
from genlab.config.shipped import install_command
from genlab.data.audio import SAMPLE_RATE_HZ
from genlab.data.listing import SourceRow
from genlab.data.manifest import Clip, Manifest, fraction_of
from genlab.data.recipe import Recipe
from genlab.data.rendered import Rendered, render_rows
from genlab.data.shards import Progress
from genlab.data.states import file_states

VERSION = 1  # part of the cache key: raise it when excerpts or rendering change
TINYSOUNDFONT = "python -m pip install --no-deps tinysoundfont==0.3.7"  # its pyaudio is not used
SOUNDFONT_PACKAGE = "musescore-general-soundfont-small"
# Where Debian's packages put General MIDI soundfonts.
SOUNDFONTS = (
    "/usr/share/sounds/sf3/MuseScore_General_Lite.sf3",
    "/usr/share/sounds/sf3/default-GM.sf3",
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/sounds/sf2/default-GM.sf2",
    "/usr/share/sounds/sf2/TimGM6mb.sf2",
)
# General MIDI programs of the four voices, from 0.
ENSEMBLES = {
    "organ": (19, 19, 19, 19),
    "strings": (40, 41, 42, 43),
    "choir": (52, 52, 52, 52),
    "piano": (0, 0, 0, 0),
    "brass": (56, 60, 57, 58),
    "woodwind": (73, 68, 71, 70),
    "guitar": (24, 24, 24, 24),
    "vibes": (11, 11, 11, 11),
}
TEMPI_BPM = (72, 84, 96, 108)
VOICES = 4
VELOCITY = 90
RELEASE_S = 0.3  # what is heard after the last beat
GAP_S = 0.01  # before a note of the same pitch is struck again
PEAK = 0.5
Foreign = Any  # what music21 and tinysoundfont return: they are extras, so no types are there


class Note(NamedTuple):
    """A note: onset and length in quarter notes, MIDI pitch, voice from the top."""

    onset: float
    length: float
    pitch: int
    voice: int


class Score(NamedTuple):
    """What is read of a piece; chords are onset, name and roman numeral."""

    work: str
    key: str
    meter: str
    quarters: float
    notes: list[Note]
    chords: list[tuple[float, str, str]]


class Chorales(Rendered):
    """Excerpts of Bach's chorales; needs music21, tinysoundfont and a soundfont (genlab doctor)."""

    domain: ClassVar[str] = "music"  # evaluate/domains.py: what it is measured by

    kind: Literal["chorales"] = "chorales"
    licence: str = "scores: as the corpus of music21 states; sound: that of your soundfont"
    """Of what is rendered."""
    soundfont: str = ""
    """A General MIDI soundfont, .sf2 or .sf3; empty looks where Debian's packages put theirs."""
    pieces: int = Field(default=60, ge=3, le=400)
    """How many chorales."""
    beats: int = Field(default=4, ge=1, le=64)
    """Quarter notes of each excerpt."""

    def rows(self) -> list[SourceRow]:
        """Return a row per excerpt; every score is read, which takes half a second each."""
        return self._rows(None)

    def _rows(self, progress: Progress | None) -> list[SourceRow]:
        scores = read_scores(self.pieces, progress)
        # Whole pieces are held out, at least one for each split, however few there are.
        order = sorted(scores, key=lambda score: fraction_of("piece", self.seed, score.work))
        held = [
            max(1, round(share * len(order))) for share in (self.test_fraction, self.valid_fraction)
        ]
        split_of = {
            score.work: "test" if place < held[0] else "valid" if place < sum(held) else "train"
            for place, score in enumerate(order)
        }
        return [
            row
            for number, score in enumerate(scores)
            for row in cut_excerpts(score, self.beats, number, split_of[score.work])
        ]

    def wave(self, row: SourceRow) -> Float[np.ndarray, "s"]:
        """Return what a row's notes sound like."""
        notes: Foreign = row.labels["notes"]
        length: Foreign = row.labels["seconds"]
        programs = ENSEMBLES[row.speaker]
        return render(find_soundfont(self.soundfont), notes, programs, length)

    def recipe(self, source: Manifest | None) -> Recipe:
        """Return how the corpus is made; the scores are read when it is built, not before.

        Raises:
            GenlabError: if music21, tinysoundfont or a soundfont is missing.
        """
        require_packages()
        path = find_soundfont(self.soundfont)
        from importlib import metadata

        # Where the soundfont lies is not what it is: its state stands for it.
        settings = {key: value for key, value in self.to_dict().items() if key != "soundfont"}
        inputs = {
            "config": settings,
            "version": VERSION,
            "packages": [metadata.version(name) for name in ("music21", "tinysoundfont")],
            "soundfont": file_states([path]),
        }

        def build(directory: Path, progress: Progress | None) -> list[Clip]:
            return render_rows(self, self._rows(progress), directory, progress)

        return Recipe(inputs, build)


def require_packages() -> None:
    """Refuse to go on without the packages.

    Raises:
        GenlabError: that names the one that is missing, and the command that installs it.
    """
    for name, command in (
        ("music21", install_command("music")),
        ("tinysoundfont", TINYSOUNDFONT),
    ):
        if importlib.util.find_spec(name) is None:
            raise GenlabError(
                f"data.corpus.kind='chorales': package {name!r} is not installed; run `{command}`"
            )


def find_soundfont(named: str = "") -> Path:
    """Return the soundfont of this name, or the first that is installed.

    Raises:
        GenlabError: if it is not there; it says where to get one.
    """
    # A machine's own place is named once, in the environment, and no config has to state it.
    wanted = named or os.environ.get("GENLAB_SOUNDFONT", "")
    if wanted:
        path = Path(wanted).expanduser()
        if not path.is_file():
            raise GenlabError(
                f"data.corpus.soundfont: {wanted!r} is no file, expected a General MIDI soundfont "
                "(.sf2 or .sf3)"
            )
        return path
    found = next((Path(name) for name in SOUNDFONTS if os.path.isfile(name)), None)
    if found is None:
        raise GenlabError(
            "data.corpus.soundfont: no General MIDI soundfont is installed; run `apt-get install "
            f"{SOUNDFONT_PACKAGE}` (MIT), or set it to an .sf2 or .sf3 file of yours"
        )
    return found


def read_scores(count: int, progress: Progress | None = None) -> list[Score]:
    """Return the first chorales of music21's corpus that have four voices."""
    require_packages()
    import music21

    scores: list[Score] = []
    paths = [Path(path) for path in music21.corpus.getComposer("bach")]
    for path in paths:
        if len(scores) == count:
            break
        if path.suffix not in (".mxl", ".xml"):
            continue
        # Not corpus.parse, which leaves pickles of what it read on the disk.
        score = music21.converter.Converter()
        score.parseFileNoPickle(path)
        found = _read(path.stem, score.stream)
        if found is not None:
            scores.append(found)
        if progress is not None:
            progress("read scores", len(scores), count)
    return scores


def _read(work: str, score: Foreign) -> Score | None:
    """Return what is read of a piece, None if it has not four voices."""
    from music21 import roman

    if len(score.parts) != VOICES:
        return None
    key = score.analyze("key")
    notes = [
        Note(float(note.offset), float(note.quarterLength), int(pitch.midi), voice)
        for voice, part in enumerate(score.parts)
        for note in part.stripTies().flatten().notes
        for pitch in note.pitches
    ]
    chords = []
    for chord in score.chordify().flatten().getElementsByClass("Chord"):
        try:
            figure = roman.romanNumeralFromChord(chord, key).figure
        except Exception:  # not every sonority has a name in the key
            figure = ""
        chords.append((float(chord.offset), str(chord.pitchedCommonName), str(figure)))
    meters = list(score.recurse().getElementsByClass("TimeSignature"))
    meter = meters[0].ratioString if meters else "4/4"
    return Score(work, str(key), meter, float(score.highestTime), notes, chords)


def cut_excerpts(score: Score, beats: int, number: int, split: str) -> list[SourceRow]:
    """Return a row per excerpt of `beats` quarter notes; ensemble and tempo follow from `number`.

    The text is the title, by which pieces are told apart. A note that began before the excerpt
    begins with it, and one that lasts longer ends with it.
    """
    ensemble = list(ENSEMBLES)[number % len(ENSEMBLES)]
    bpm = TEMPI_BPM[number // len(ENSEMBLES) % len(TEMPI_BPM)]
    beat_s = 60.0 / bpm
    rows = []
    for start in range(0, int(score.quarters) - beats + 1, beats):
        end = start + beats
        heard = [
            note for note in score.notes if note.onset < end and note.onset + note.length > start
        ]
        if not heard:
            continue
        notes = [
            [
                round((max(note.onset, start) - start) * beat_s, 4),
                round((min(note.onset + note.length, end) - max(note.onset, start)) * beat_s, 4),
                note.pitch,
                note.voice,
            ]
            for note in heard
        ]
        # The chord that sounds when the excerpt begins was struck at or before that.
        sounding = [chord for chord in score.chords if chord[0] <= start][-1:]
        chords = [
            [round(max(onset - start, 0.0) * beat_s, 4), name, figure]
            for onset, name, figure in (
                *sounding,
                *(chord for chord in score.chords if start < chord[0] < end),
            )
        ]
        labels = {
            "piece": score.work,
            "instrument": ensemble,
            "key": score.key,
            "meter": score.meter,
            "bpm": bpm,
            "seconds": round(beats * beat_s + RELEASE_S, 4),
            "beats_s": [round(beat * beat_s, 4) for beat in range(beats)],
            "notes": notes,
            "chords": chords,
        }
        rows.append(
            SourceRow("", f"{score.work}-{start:03d}", score.work, ensemble, split, labels=labels)
        )
    return rows


_synths = threading.local()


_loading = threading.Lock()


def _synth(path: Path) -> tuple[Foreign, int]:
    """Return the synthesiser of this thread, with its soundfont."""
    kept = getattr(_synths, "made", None)
    if kept is None or kept[0] != path:
        import tinysoundfont

        with _loading:  # it is not known to be thread-safe
            synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE_HZ, gain=-6)
            number = synth.sfload(str(path))
        if number < 0:
            raise GenlabError(f"{path}: no soundfont that can be read; expected .sf2 or .sf3")
        kept = _synths.made = (path, synth, number)
    return kept[1], kept[2]


def render(
    soundfont: Path,
    notes: Sequence[Sequence[float]],
    programs: Sequence[int],
    length_s: float,
) -> Float[np.ndarray, "s"]:
    """Return the wave of notes [onset_s, length_s, pitch, voice], with a peak of `PEAK`."""
    synth, font = _synth(soundfont)
    synth.sounds_off()
    synth.generate(SAMPLE_RATE_HZ // 100)
    for voice, program in enumerate(programs):
        synth.program_select(voice, font, 0, program)
    # A note ends a little early, and at equal times ends come first: the next may be the same key.
    events = sorted(
        (when, is_on, int(voice), int(pitch))
        for onset, length, pitch, voice in notes
        for when, is_on in ((onset, 1), (max(onset + GAP_S, onset + length - GAP_S), 0))
    )
    total = round(length_s * SAMPLE_RATE_HZ)
    parts = []
    done = 0
    for when, is_on, voice, pitch in events:
        wanted = min(total, round(when * SAMPLE_RATE_HZ)) - done
        if wanted > 0:
            parts.append(_generate(synth, wanted))
            done += wanted
        if is_on:
            synth.noteon(voice, pitch, VELOCITY)
        else:
            synth.noteoff(voice, pitch)
    if total > done:
        parts.append(_generate(synth, total - done))
    wave = np.concatenate(parts)
    return wave * np.float32(PEAK / max(float(np.abs(wave).max()), 1e-6))


def _generate(synth: Foreign, samples: int) -> Float[np.ndarray, "s"]:
    stereo = np.frombuffer(bytes(synth.generate(samples)), np.float32).reshape(-1, 2)
    return stereo.mean(axis=1)
