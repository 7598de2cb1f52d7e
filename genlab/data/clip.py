"""One clip of a corpus: a row of its manifest.

In: a line of JSON. Out: `Clip`, checked. What a builder makes is written by `to_dict`, so that rows
of earlier versions keep their bytes and their hash.
"""

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

import pydantic
from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.data.audio import SAMPLE_RATE_HZ, Channels
from genlab.run.stored import Count, describe_problem


def _check_inside(path: str) -> str:
    if (
        not path
        or "\0" in path
        or PurePosixPath(path).is_absolute()
        or ".." in PurePosixPath(path).parts
    ):
        raise ValueError("expected a path below the corpus directory")
    return path


InnerPath = Annotated[str, pydantic.AfterValidator(_check_inside)]


@dataclasses.dataclass(frozen=True)
class Clip:
    """One utterance, piece or sound. All paths are relative to the manifest's root; `num_samples`
    counts at `sample_rate_hz`, in one channel.

    `other_path` is what the other side of a conversation said meanwhile, as long as the utterance
    itself.

    `audio_digest` is the SHA-256 (10 digits) of the samples. It is empty for rendered audio, whose
    bytes may differ between CPU types although its meaning does not.
    """

    # Checks what is read back from a disk; a builder may make what it likes.
    __pydantic_config__: ClassVar = pydantic.ConfigDict(extra="forbid", strict=True)

    id: str
    path: InnerPath
    text: str
    speaker: str
    split: str
    num_samples: Count
    licence: str
    labels: dict[str, JsonValue] = dataclasses.field(default_factory=dict)
    f0_path: InnerPath | None = None
    audio_digest: str = ""
    other_path: InnerPath | None = None
    sample_rate_hz: Annotated[int, pydantic.Field(ge=1)] = SAMPLE_RATE_HZ
    channels: Channels = 1

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.num_samples / self.sample_rate_hz

    def to_dict(self) -> dict[str, JsonValue]:
        """Return all fields; a clip at 16 kHz mono, as all once were, states neither."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in _LATER or value != _LATER[name]
        }


# What rows of earlier versions lack, which keep their bytes and their hash.
_LATER = {"sample_rate_hz": SAMPLE_RATE_HZ, "channels": 1}


_CLIP = pydantic.TypeAdapter(Clip)


def read_clip(line: str | bytes, path: Path, fix: str) -> Clip:
    """Return the clip in a line of the manifest `path`.

    Raises:
        GenlabError: if the line is none; `fix` is what to do about it.
    """
    try:
        return _CLIP.validate_json(line, strict=True)
    except pydantic.ValidationError as error:
        raise GenlabError(f"{path}: damaged manifest: {describe_problem(error)}; {fix}") from None
