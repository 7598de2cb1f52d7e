"""What a codec promises: the contract behind the token space.

A codec is an NNX module. `encode` turns waves into `Tokens` with both views, and either view
decodes: `latents` are what the quantiser reads (before quantisation), `codes` what it makes of
them. Everything else that the lab does with a codec goes through `FrozenCodec` (frozen.py), which
asks for nothing more than this.
"""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from genlab.config import Config
from genlab.tokens import Tokens, TokenSpec


class Codec(Protocol):
    """Waves to tokens and back.

    Lengths: waves are padded with zeros to a multiple of the hop. Given `num_samples` or
    `num_frames`, each example comes out as it would alone; without, every sample and frame is
    valid. A codec of stereo waves "b s 2" has an attribute `channels = 2`; without it waves are
    mono. A codec with `spec.side_channels` gives `Tokens.side` as well, and its decoders take it
    as a third argument.
    """

    @property
    def spec(self) -> TokenSpec:
        """The facts about the token space."""
        ...

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents."""
        ...

    def encode(
        self, waves: Float[Array, "b s"], num_samples: Int[Array, "b"] | None = None
    ) -> Tokens:
        """Return codes and latents."""
        ...

    def decode_codes(
        self, codes: Int[Array, "b t k"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return waves; fewer than K levels decode at a lower rate."""
        ...

    def decode_latents(
        self, latents: Float[Array, "b t d"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return waves."""
        ...


class StreamingCodec(Codec, Protocol):
    """A causal codec that also runs chunk by chunk; what it carries from one chunk to the next is a
    pytree.
    """

    def start_encoding(self, batch: int) -> PyTree:
        """Return what to carry into the first chunk."""
        ...

    def encode_chunk(self, waves: Float[Array, "b s"], carry: PyTree) -> tuple[Tokens, PyTree]:
        """Return the tokens of a chunk of whole frames, and what to carry on."""
        ...

    def start_decoding(self, batch: int) -> PyTree:
        """Return what to carry into the first chunk."""
        ...

    def decode_chunk(
        self, codes: Int[Array, "b t k"], carry: PyTree
    ) -> tuple[Float[Array, "b s"], PyTree]:
        """Return t * hop samples, and what to carry on."""
        ...


class PublishedConfig(Config):
    """The config of a codec that others published, and how it is read from their files."""

    hub_id: ClassVar[str] = ""
    """The repository on the Hugging Face Hub that is meant when nobody names a source; empty if
    there is none.
    """
    published_extras: ClassVar[str] = r"(?!)"
    """A pattern of tensor names that a published file may hold and the port does not need."""

    @classmethod
    @abc.abstractmethod
    def find(cls, source: str | None) -> Path:
        """Return the directory that `source` names; absent means the usual one.

        Raises:
            GenlabError: if there is none.
        """

    @classmethod
    def needs_download(cls, source: str | None) -> bool:
        """Return whether `find` would download what `source` names."""
        return False

    @classmethod
    @abc.abstractmethod
    def describe(cls, directory: Path) -> Self:
        """Return the config that the files in a directory describe.

        Raises:
            GenlabError: if they ask for something that the port does not have.
        """

    @abc.abstractmethod
    def read(self, directory: Path, num_parameters: int) -> "PublishedTensors":
        """Return the tensors in a directory, in PyTorch's layout.

        Args:
            directory: the one that was described.
            num_parameters: of the codec; files that hold far more are refused before they are read.

        Raises:
            GenlabError: if the files are not what they should be; the text names file and tensor.
        """

    @abc.abstractmethod
    def published_name(self, path: str) -> str | list[str]:
        """Return the name of our parameter at the dotted `path` among the tensors; a list is
        stacked along a first axis.
        """

    @abc.abstractmethod
    def build(self, *, key: Key[Array, ""]) -> Codec:
        """Return the codec with random parameters."""


class PublishedTensors(NamedTuple):
    """Tensors by their published names, and the files that they are in."""

    tensors: Mapping[str, np.ndarray]
    files: Sequence[Path]
