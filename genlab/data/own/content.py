"""All clips of somebody's tokens, checked against each other.

In: the rows of a directory, one after another. Out: each clip with its split, and what a store says
of all of them. The codes of one clip in two splits are refused: a model would be tested on what it
learnt. Clips without a split are divided by their text, as those of a corpus of audio.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.data.manifest import Clip, assign_splits
from genlab.data.own.row import Facts, Row, check_codes
from genlab.data.own.spec import OwnSpec
from genlab.data.record import SplitInfo, StoreInfo, TokenClip
from genlab.data.text import encode_text

VALID_FRACTION = TEST_FRACTION = 0.05  # of the texts, where no split is given
NO_UNITS = "none"


def assign_own_splits(facts: Sequence[Facts]) -> list[str]:
    """Return the split of every clip: by its text where none is given."""
    clips = [Clip(one.id, "codes", one.text, one.speaker, one.split, 0, "unknown") for one in facts]
    drawn = assign_splits(clips, seed=0, valid_fraction=VALID_FRACTION, test_fraction=TEST_FRACTION)
    return [clip.split for clip in drawn]


class Content:
    """Clips as they are checked, and what the store says of all of them."""

    def __init__(self, spec: OwnSpec, facts: Sequence[Facts]):
        self.spec = spec
        self._facts = facts
        self._splits = assign_own_splits(facts)
        self._seen: dict[bytes, int] = {}
        self._speakers: set[str] = set()
        self._longest_text = 1
        self._digest = hashlib.sha256()
        self.labels: dict[str, Mapping[str, JsonValue]] = {}
        """Of the clips that have any, by id, as they are taken."""

    @property
    def num_clips(self) -> int:
        """Clips in all splits."""
        return len(self._facts)

    def take(self, number: int, row: Row) -> tuple[str, TokenClip]:
        """Return a clip whose codes are good, after its split.

        Raises:
            GenlabError: if they are not, or a split that must not have them has the same ones.
        """
        if number >= len(self._facts) or row.facts != self._facts[number]:
            raise GenlabError(f"{row.where}: it changed while it was read; run it again")
        codes = check_codes(row.read(), self.spec, row.where)
        found = digest_codes(codes)
        first = self._seen.setdefault(found, number)
        if not row.facts.split:  # drawn, so it may follow its copy
            self._splits[number] = self._splits[first]
        split, other = self._splits[number], self._splits[first]
        if _rank(split) != _rank(other):
            raise GenlabError(
                f"{row.where}: split {split} has the very codes of clip "
                f"{shorten(self._facts[first].id)} in split {other}: a model would be tested on "
                "what it learnt; leave one of them out, or give both the same split"
            )
        facts = row.facts._replace(split=split)
        self._speakers.add(facts.speaker)
        if row.labels:
            self.labels[facts.id] = row.labels
        self._longest_text = max(self._longest_text, len(encode_text(facts.text)))
        # In the order of the files, which is fixed; with its length no value can pass for two.
        self._digest.update("".join(f"{len(value)} {value}" for value in facts).encode() + found)
        nothing = np.zeros((len(codes), 0), np.float32)
        units = np.ones(len(codes), np.int32)
        return split, TokenClip(facts.id, facts.text, facts.speaker, "", codes, nothing, units)

    def describe(self, clips: Counter[str], frames: Counter[str]) -> StoreInfo:
        """Return what the store says, by how many clips and frames each split has."""
        rate = self.spec.sample_rate_hz / self.spec.hop_samples
        splits, first = {}, 0
        for name in sorted(clips):
            splits[name] = SplitInfo(first=first, clips=clips[name], seconds=frames[name] / rate)
            first += clips[name]
        return StoreInfo(
            spec=self.spec.token_spec(),
            codec_fingerprint=self.spec.digest(),
            units_fingerprint=NO_UNITS,
            manifest_hash=self._digest.hexdigest()[:10],
            num_units=1,
            speakers=tuple(sorted(self._speakers)),
            licences=(self.spec.licence,),
            longest_text=self._longest_text,
            latent_mean=(),
            latent_std=(),
            splits=splits,
        )


def digest_codes(codes: Int[np.ndarray, "t k"]) -> bytes:
    """Return 16 bytes that tell the codes of clips apart."""
    return hashlib.sha256(str(codes.shape).encode() + codes.astype("<i4").tobytes()).digest()[:16]


def _rank(split: str) -> int:
    """Return how far a split is held out: training, validation, everything else."""
    return {"train": 0, "valid": 1}.get(split, 2)
