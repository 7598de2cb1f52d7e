"""The promises of a corpus, tried out by building it three times in a folder that is thrown away.

In: a corpus config. Out: one finding per promise. A promise that is broken here costs hours later:
waves that differ from build to build give every host another corpus, and a split that is empty ends
a comparison.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from genlab.data.corpus import Progress, build_corpus
from genlab.data.manifest import Clip, Manifest
from genlab.data.recipe import Corpus, parts_of, recipe_of
from genlab.prompts import FEWEST
from genlab.studies.contract.trial import Finding, require, require_round_trip, try_out


def check_corpus(config: Corpus) -> list[Finding]:
    """Try out the config of a corpus; it is built whole, so give it fields that make it small."""
    with tempfile.TemporaryDirectory() as place:
        trial = _CorpusTrial(config, Path(place))
        return try_out(
            {
                "config.json gives it back": partial(require_round_trip, config),
                "the same fields are the same corpus": trial.has_one_name,
                "it is built, and found again": trial.is_found,
                "clips are audio, and as long as they say": trial.has_audio,
                "a digest tells when the audio has changed": trial.has_digests,
                "train, valid and test have clips": trial.has_splits,
                "an interrupted build ends with the same audio": trial.resumes,
            }
        )


class _Stop(BaseException):
    """Stands for an interruption: not an `Exception`, so nothing may swallow it."""


class _CorpusTrial:
    """One corpus, and a place to build it in."""

    def __init__(self, config: Corpus, place: Path):
        self.config, self.place = config, place

    def build(self, name: str, progress: Progress | None = None) -> Manifest:
        return build_corpus(self.config, self.place / name, progress, is_quiet=True)

    def has_one_name(self) -> None:
        sources = [build_corpus(part, self.place / "made_of") for part in parts_of(self.config)]
        first, second = (
            json.dumps(recipe_of(self.config, sources).inputs, sort_keys=True) for _ in range(2)
        )
        require(
            first == second,
            "what it is made from differs from call to call, so it would be built every time",
        )

    def is_found(self) -> None:
        built = self.build("first")
        require(built.clips, "it has no clips")
        stages: list[str] = []
        found = self.build("first", lambda stage, done, total: stages.append(stage))
        require(not stages and found.clips == built.clips, "a finished corpus is built again")

    def has_audio(self) -> None:
        manifest = self.build("first")
        for clip in manifest.clips:
            samples = manifest.audio(clip)
            place = f"clip {clip.id!r}"
            require(
                len(samples) == clip.num_samples,
                f"{place}: {len(samples)} samples, it says {clip.num_samples}",
            )
            require(np.any(samples), f"{place}: silence throughout")

    def has_digests(self) -> None:
        bare = [clip.id for clip in self.build("first").clips if not clip.audio_digest]
        require(
            not bare,
            (
                f"clip {bare[:1]} has no audio_digest: token stores would keep the audio of an "
                "older version"
            ),
        )

    def has_splits(self) -> None:
        manifest = self.build("first")
        for name in ("train", "valid", "test"):
            found = sum(clip.split == name for clip in manifest.clips)
            require(
                found >= FEWEST,
                f"{found} clips in split {name!r}, expected at least {FEWEST}; more clips help",
            )

    def resumes(self) -> None:
        def interrupt(stage: str, done: int, total: int) -> None:
            if 0 < done < total:
                raise _Stop

        try:
            self.build("second", interrupt)
        except _Stop:
            pass
        first, second = self.build("first"), self.build("second")
        require(_meant(first) == _meant(second), "its rows differ from build to build")
        moved = [
            clip.id
            for clip in first.clips
            if not np.array_equal(first.audio(clip), second.audio(clip))
        ]
        require(not moved, f"clip {moved[:1]} sounds different in another build")


def _meant(manifest: Manifest) -> list[Clip]:
    return sorted(manifest.clips, key=lambda clip: clip.id)
