"""Names of published codecs: KIND, KIND:SOURCE, or either with the number of levels in use.

In: `mimi`, `mimi:path/to/files`, `lyra2@16:path/to/files`. Out: the config class of the port, and
the codec. SOURCE is what the port says it is, most often a directory or the id of a repository on
the Hugging Face Hub. LEVELS are the first codebooks: fewer of them are a lower rate, and a shorter
sequence for a decoder that predicts them all.
"""

import re
from typing import NamedTuple

from genlab.codecs.base import PublishedConfig
from genlab.codecs.published import Published, load_published
from genlab.config import GenlabError
from genlab.config.errors import shorten

PUBLISHED = ("encodec", "mimi", "dac", "oobleck", "speechtokenizer", "lyra2")
_NAME = re.compile(rf"({'|'.join(PUBLISHED)})(?:@(\d{{1,4}}))?(?::(.*))?", re.DOTALL)


class PublishedName(NamedTuple):
    """What a name says. Without levels all, or as many as usual, are in use."""

    kind: str
    levels: int | None
    source: str | None

    @classmethod
    def parse(cls, name: str) -> "PublishedName | None":
        """Return what `name` says, or None if it names no published codec."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        kind, levels, source = found.groups()
        return cls(kind, int(levels) if levels else None, source or None)

    @property
    def config_class(self) -> type[PublishedConfig]:
        """The config class of the port."""
        return published_config(self.kind)

    @property
    def _changes(self) -> dict[str, int]:
        return {} if self.levels is None else {"codebooks": self.levels}

    def usual(self) -> PublishedConfig:
        """Return the usual shape, without looking at files."""
        config = self.config_class()
        return config.from_dict(config.to_dict() | self._changes)

    def load(self) -> Published:
        """Return the codec.

        Raises:
            GenlabError: if its files cannot be had, or are damaged.
        """
        return load_published(self.config_class, self.source, **self._changes)


def published_config(kind: str) -> type[PublishedConfig]:
    """Return the config class of one of `PUBLISHED`."""
    # A file is imported when it is asked for: all of them together cost a tenth of what importing
    # an experiment may.
    match kind:
        case "encodec":
            from genlab.codecs.encodec import EncodecConfig

            return EncodecConfig
        case "mimi":
            from genlab.codecs.mimi import MimiConfig

            return MimiConfig
        case "dac":
            from genlab.codecs.dac import DacConfig

            return DacConfig
        case "oobleck":
            from genlab.codecs.oobleck import OobleckConfig

            return OobleckConfig
        case "speechtokenizer":
            from genlab.codecs.speechtokenizer import SpeechTokenizerConfig

            return SpeechTokenizerConfig
        case "lyra2":
            from genlab.codecs.lyra import LyraConfig

            return LyraConfig
    raise GenlabError(f"codec {shorten(kind)}: expected one of {', '.join(PUBLISHED)}")
