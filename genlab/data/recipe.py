"""What a corpus promises: the contract of every value of `data.corpus` that is audio.

A corpus config has a `recipe`: what its audio is made from, and how to make it. `build_corpus`
(corpus.py) does everything else: it names the directory by a digest of the inputs, resumes, locks,
saves the manifest and its digests, and shares the result with other hosts. Two bases write the
recipe for you: `ImportConfig` (folder.py) for audio files in a layout of their own, and `Rendered`
(rendered.py) for waves that your own code computes or reads.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from genlab.config.open import Hashed
from genlab.data.audio import SPEECH_AUDIO, AudioFormat
from genlab.data.manifest import Clip, Manifest
from genlab.data.shards import Progress

DomainName = Literal["speech", "music", "sound"]
USUAL_FORMAT: Mapping[DomainName, AudioFormat] = {
    "speech": SPEECH_AUDIO,
    "music": AudioFormat(44_100, 2),
    "sound": AudioFormat(44_100, 1),
}
"""What audio of a domain is kept as, unless the corpus says otherwise."""


class Recipe(NamedTuple):
    """What a corpus is made from, and how it is made.

    `inputs` holds plain JSON types: fields, versions, and the state of every file that is read.
    Equal inputs are the same corpus and share one directory, so whatever changes the audio belongs
    in here; the source of a class of the user is added by `build_corpus`. `build` writes audio into
    a directory, which may hold finished shards of an interrupted build (shards.py), and returns the
    clips.
    """

    inputs: dict[str, Any]
    build: Callable[[Path, Progress | None], list[Clip]]


@runtime_checkable
class Corpus(Hashed, Protocol):
    """The config of a corpus.

    It may have `recognisers`, the names of those whose word errors are scored; "grammar" is for
    texts of grammar.py alone, and without the names it is ("ctc",). It may have `audio_format`,
    the rate and channels of its audio on disk; without it that is 16 kHz mono.
    """

    domain: ClassVar[Any]
    """What it is measured by: the name of a domain or a `Domain` (evaluate/domains.py)."""

    @property
    def made_of(self) -> "Corpus | None":
        """The corpus whose clips this one is made of, None if it is made of none; it is built
        first.
        """
        ...

    def recipe(self, source: Manifest | None) -> Recipe:
        """Return how the corpus is made; nothing is written yet.

        Args:
            source: the manifest of `made_of`, None if that is None.

        Raises:
            GenlabError: if what it is made from is missing.
        """
        ...


@runtime_checkable
class OfTwo(Corpus, Protocol):
    """The config of a corpus that is made of two others, or of one if `second` is None."""

    @property
    def second(self) -> Corpus | None:
        """The other corpus; it is built before this one too."""
        ...

    def recipe_of_two(self, source: Manifest, second: Manifest | None) -> Recipe:
        """Return how the corpus is made of the manifests of `made_of` and of `second`."""
        ...


def parts_of(config: Corpus) -> list[Corpus]:
    """Return the corpora that a corpus is made of, none to two."""
    second = config.second if isinstance(config, OfTwo) else None
    return [part for part in (config.made_of, second) if part is not None]


def recipe_of(config: Corpus, sources: Sequence[Manifest]) -> Recipe:
    """Return how a corpus is made of the manifests of its parts, in their order.

    Raises:
        GenlabError: as `Corpus.recipe`.
    """
    if isinstance(config, OfTwo) and len(sources) == 2:
        return config.recipe_of_two(sources[0], sources[1])
    return config.recipe(sources[0] if sources else None)


def format_of(corpus: Corpus) -> AudioFormat:
    """Return the rate and channels of a corpus's audio, before it is built."""
    return getattr(corpus, "audio_format", SPEECH_AUDIO)
