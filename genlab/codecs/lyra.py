"""SoundStream as Lyra v2 ships it: 16 kHz speech at 3.2, 6 or 9.2 kbit/s, and it streams.

In: waves "b s" at 16 kHz, mono. Out: `Tokens` with latents "b t d" at 50 frames per second and
codes "b t k"; and waves from either view. The encoder narrows time by strided convolutions with
residual blocks between, the decoder mirrors it, and 46 codebooks of 16 entries quantise what those
before left over (SoundStream, Zeghidour et al. 2021; the network itself is described by the files
alone). 16, 30 and 46 levels are the three rates of Lyra.

The files are three LiteRT graphs (github.com/google/lyra, lyra/model_coeffs, Apache-2.0), read
without an interpreter. The last block of the encoder and the first of the decoder compute in whole
numbers of 8 bits (lyra_whole.py). Latents are therefore multiples of one step, about 0.26.
Everything is causal: a whole clip is one chunk that nothing precedes.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from genlab.codecs.base import PublishedConfig, PublishedTensors
from genlab.codecs.litert import Graph, read_litert
from genlab.codecs.lyra_layers import (
    Convolution,
    Depthwise,
    Layer,
    Layers,
    Leaky,
    Residual,
    Upsampling,
)
from genlab.codecs.lyra_operators import FIXES, Operators, Tensors, prefixed
from genlab.codecs.lyra_whole import (
    ToFloat,
    ToWhole,
    WholeConvolution,
    WholeDepthwise,
    WholeLeaky,
    WholeResidual,
    WholeUpsampling,
)
from genlab.codecs.quantiser import Codebook
from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.nets.convolution import valid_frames
from genlab.nets.weights import WeightsError
from genlab.tokens import Tokens, TokenSpec, make_tokens

ENCODER, QUANTISER, DECODER = (
    "soundstream_encoder.tflite",
    "quantizer.tflite",
    "lyragan.tflite",
)
TAPS = 3  # of a residual block
Keys = Callable[[], Key[Array, ""]]


class LyraConfig(PublishedConfig):
    """Shape of the codec; the defaults are those of Lyra v2, whose files say nothing else."""

    kind: Literal["lyra2"] = "lyra2"
    sample_rate_hz: int = pydantic.Field(default=16_000, ge=1)
    """Sample rate of waves, in Hz."""
    channels: int = pydantic.Field(default=64, ge=1)
    """Channels after the first layer of the encoder; every stride doubles them."""
    first_stride: int = pydantic.Field(default=16, ge=1)
    """Stride of the first layer of the encoder and the last of the decoder; they have four times as
    many taps.
    """
    strides: tuple[int, int, int] = (5, 2, 2)
    """Strides after the blocks of the encoder; the decoder has them in reverse. A layer has twice
    as many taps.
    """
    dilations: tuple[pydantic.PositiveInt, ...] = pydantic.Field(default=(1, 3, 9), min_length=1)
    """Dilations of the residual units of a block."""
    group_channels: int = pydantic.Field(default=64, ge=1)
    """Channels of a group: wide layers are as many narrow ones, side by side."""
    bottleneck_groups: int = pydantic.Field(default=4, ge=1)
    """Groups of the layers that write and read the latents."""
    latent_channels: int = pydantic.Field(default=64, ge=1)
    """Channels of the latents."""
    published_codebooks: int = pydantic.Field(default=46, ge=1, le=1024)
    """Levels that the published file holds."""
    codebooks: int = pydantic.Field(default=46, ge=1)
    """Levels in use, from the first on."""
    entries: int = pydantic.Field(default=16, ge=2, le=2**15)
    """Entries of each codebook."""

    @pydantic.model_validator(mode="after")
    def _check_shape(self) -> "LyraConfig":
        if self.codebooks > self.published_codebooks:
            raise ValueError(
                f"codebooks={self.codebooks}: expected at most "
                f"published_codebooks={self.published_codebooks}"
            )
        if min(self.strides) < 1 or self.channels % self.group_channels:
            raise ValueError(
                f"strides={self.strides}, channels={self.channels}: expected strides from 1 on, "
                f"and a multiple of group_channels={self.group_channels}"
            )
        if self.latent_channels % self.bottleneck_groups or self.widths[-1] % (
            self.bottleneck_groups
        ):
            raise ValueError(
                f"latent_channels={self.latent_channels}: expected a multiple of "
                f"bottleneck_groups={self.bottleneck_groups}, and {self.widths[-1]} channels too"
            )
        return self

    @property
    def widths(self) -> list[int]:
        """Channels of the encoder's blocks, and of what the last of them gives."""
        return [self.channels << number for number in range(len(self.strides) + 1)]

    @property
    def spec(self) -> TokenSpec:
        """The token space this codec makes."""
        return TokenSpec(
            sample_rate_hz=self.sample_rate_hz,
            hop_samples=self.first_stride * math.prod(self.strides),
            codebooks=self.codebooks,
            entries=self.entries,
            latent_channels=self.latent_channels,
            causal=True,
        )

    @classmethod
    def find(cls, source: str | None) -> Path:
        """Return the directory with the three files; nothing is downloaded."""
        if source and os.path.isdir(source):  # pathlib raises on names too long for the system
            return Path(source)
        found = f"{shorten(source)}: no such directory" if source else "no directory given"
        raise GenlabError(
            f"codec lyra2: {found}; expected lyra2:DIRECTORY with {ENCODER}, {QUANTISER} and "
            f"{DECODER}, which are in lyra/model_coeffs of github.com/google/lyra"
        )

    @classmethod
    def describe(cls, directory: Path) -> Self:
        """Return the shape of Lyra v2."""
        return cls()

    def read(self, directory: Path, num_parameters: int) -> PublishedTensors:
        """Return the tensors of the three files."""
        return nnx.eval_shape(lambda: self.build(key=jax.random.key(0))).read(directory)

    def published_name(self, path: str) -> str:
        """Return the name that `read` gives to our parameter: the same."""
        return path

    def build(self, *, key: Key[Array, ""]) -> "LyraCodec":
        """Return a codec with random parameters."""
        return LyraCodec(self, key=key)


def _graph(graphs: list[Graph], name: str, path: Path) -> Graph:
    for graph in graphs:
        if graph.name == name:
            return graph
    raise WeightsError(
        f"{path}: no graph {name!r}, found {shorten(', '.join(graph.name for graph in graphs))}; "
        f"{FIXES}"
    )


def _read_entries(graph: Graph, path: Path, config: LyraConfig) -> Float[np.ndarray, "k v d"]:
    """Return the code vectors of the levels in use: each is compared with the residual in turn."""
    levels = [
        tensor.data
        for operator in graph.operators
        if operator.kind == "SQUARED_DIFFERENCE"
        for tensor in operator.inputs
        if tensor is not None and tensor.data is not None
    ]
    shape = (1, config.entries, config.latent_channels)
    shapes = {level.shape for level in levels}
    if len(levels) != config.published_codebooks or shapes != {shape}:
        raise WeightsError(
            f"{path}: {len(levels)} codebooks of the shapes {shorten(str(sorted(shapes)))}, "
            f"expected {config.published_codebooks} of {shape}; {FIXES}"
        )
    return np.concatenate(levels)[: config.codebooks].astype(np.float32)


class LyraCodec(nnx.Module):
    """Encoder, codebooks over the residual of those before, decoder.

    Attributes:
        config: the shape.
        spec: the facts about the token space.
        entries: the code vectors [k v d].
    """

    def __init__(self, config: LyraConfig, *, key: Key[Array, ""]):
        rngs = nnx.Rngs(key)
        self.config = config
        self.spec = config.spec
        self.encoder = Layers(_encoder_layers(config, rngs.params))
        self.decoder = Layers(_decoder_layers(config, rngs.params))
        shape = (config.codebooks, config.entries, config.latent_channels)
        self.entries = Codebook(jax.random.normal(rngs.params(), shape))

    def read(self, directory: Path) -> PublishedTensors:
        """Return the tensors of the three files, by the names of our parameters; shapes are checked
        by whoever fills them in.
        """
        tensors: Tensors = {}
        for name, layers, path in (
            ("encoder", self.encoder, directory / ENCODER),
            ("decoder", self.decoder, directory / DECODER),
        ):
            operators = Operators(_graph(read_litert(path), "main", path), path)
            tensors |= prefixed(name, layers.read(operators))
            operators.finish()
        path = directory / QUANTISER
        graph = _graph(read_litert(path), "encode", path)
        tensors["entries"] = _read_entries(graph, path, self.config)
        files = [directory / name for name in (ENCODER, QUANTISER, DECODER)]
        return PublishedTensors(tensors, files)

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents."""
        return self.entries[...]

    def encode(
        self, waves: Float[Array, "b s"], num_samples: Int[Array, "b"] | None = None
    ) -> Tokens:
        """Return codes and latents; frames past the end of an example have latents of zero.

        Raises:
            ValueError: if the number of samples is not a multiple of the hop.
        """
        if num_samples is None:
            return make_tokens(*self._embed(waves, None)[:2])
        num_frames = (-(-num_samples // self.spec.hop_samples)).astype(jnp.int32)
        waves = waves * valid_frames(waves.shape[1], num_samples, waves.dtype)[..., 0]
        codes, latents, _ = self._embed(waves, None)
        return make_tokens(codes, latents * valid_frames(latents.shape[1], num_frames), num_frames)

    def decode_codes(
        self, codes: Int[Array, "b t k"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return t * hop samples; fewer than K levels decode at a lower rate."""
        return self.decode_latents(self._sum(codes), num_frames)

    def decode_latents(
        self, latents: Float[Array, "b t d"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return t * hop samples; those past the end of an example are silent."""
        waves = self.decoder(latents, None)[0][..., 0]
        if num_frames is None:
            return waves
        return waves * valid_frames(waves.shape[1], num_frames * self.spec.hop_samples)[..., 0]

    def start_encoding(self, batch: int) -> PyTree:
        """Return what to carry into the first chunk of waves."""
        return self.encoder.start(batch)

    def encode_chunk(self, waves: Float[Array, "b s"], carry: PyTree) -> tuple[Tokens, PyTree]:
        """Return the tokens of the next chunk, and what to carry on.

        Raises:
            ValueError: if the chunk is not one or more whole hops.
        """
        codes, latents, carry = self._embed(waves, carry)
        return make_tokens(codes, latents), carry

    def start_decoding(self, batch: int) -> PyTree:
        """Return what to carry into the first chunk of codes."""
        return self.decoder.start(batch)

    def decode_chunk(
        self, codes: Int[Array, "b t k"], carry: PyTree
    ) -> tuple[Float[Array, "b s"], PyTree]:
        """Return the t * hop samples of the next chunk, and what to carry on."""
        waves, carry = self.decoder(self._sum(codes), carry)
        return waves[..., 0], carry

    def _embed(
        self, waves: Float[Array, "b s"], carry: PyTree
    ) -> tuple[Int[Array, "b t k"], Float[Array, "b t d"], PyTree]:
        """Return the codes and latents of a chunk, and what to carry on."""
        hop = self.spec.hop_samples
        if waves.shape[1] % hop or not waves.shape[1]:
            raise ValueError(
                f"waves: {waves.shape[1]} samples are not one or more hops of {hop}; pad with zeros"
            )
        latents, carry = self.encoder(waves[..., None], carry)

        def quantise(
            residual: Float[Array, "b t d"], entries: Float[Array, "v d"]
        ) -> tuple[Float[Array, "b t d"], Int[Array, "b t"]]:
            # Distances as the published graph sums them: near a tie another formula may decide
            # otherwise.
            distances = jnp.sum((residual[:, :, None] - entries[None, None]) ** 2, axis=-1)
            chosen = jnp.argmin(distances, axis=-1).astype(jnp.int32)
            return residual - entries[chosen], chosen

        _, codes = lax.scan(quantise, latents, self.entries[...])
        # k b t -> b t k
        return jnp.moveaxis(codes, 0, -1), latents, carry

    def _sum(self, codes: Int[Array, "b t k"]) -> Float[Array, "b t d"]:
        """Return the latents that codes stand for, summed from the first level on."""
        levels = codes.shape[-1]
        zeros = jnp.zeros((*codes.shape[:2], self.spec.latent_channels))

        def add(
            latents: Float[Array, "b t d"], level: tuple[Float[Array, "v d"], Int[Array, "b t"]]
        ) -> tuple[Float[Array, "b t d"], None]:
            return latents + level[0][level[1]], None

        return lax.scan(add, zeros, (self.entries[:levels], jnp.moveaxis(codes, -1, 0)))[0]


def _unit(config: LyraConfig, width: int, dilation: int, key: Keys) -> Residual:
    groups = width // config.group_channels
    return Residual(
        [
            Leaky(),
            Depthwise(width, TAPS, key=key(), dilation=dilation),
            Convolution(width, width, 1, key=key()),
            Leaky(),
            Convolution(width, width, 1, key=key(), groups=groups),
        ]
    )


def _whole_unit(config: LyraConfig, width: int, dilation: int, key: Keys) -> WholeResidual:
    groups = width // config.group_channels
    return WholeResidual(
        [
            WholeLeaky(),
            WholeDepthwise(width, TAPS, key=key(), dilation=dilation),
            WholeConvolution(width, width, 1, key=key()),
            WholeLeaky(),
            WholeConvolution(width, width, 1, key=key(), groups=groups),
        ]
    )


def _encoder_layers(config: LyraConfig, key: Keys) -> list[Layer]:
    """Return the layers from samples to latents."""
    first, group = config.first_stride, config.group_channels
    layers: list[Layer] = [Convolution(1, config.channels, 4 * first, key=key(), stride=first)]
    for stride, width in zip(config.strides[:-1], config.widths):
        layers += [_unit(config, width, dilation, key) for dilation in config.dilations]
        down = Convolution(
            width, 2 * width, 2 * stride, key=key(), stride=stride, groups=width // group
        )
        layers += [Leaky(), down]
    # In the last block, floats become whole numbers in the middle of the first unit.
    width, stride, groups = config.widths[-2], config.strides[-1], config.widths[-2] // group
    entering: list[Layer] = [
        Leaky(),
        Depthwise(width, TAPS, key=key(), dilation=config.dilations[0]),
        Convolution(width, width, 1, key=key()),
        ToWhole(),
        WholeLeaky(),
        WholeConvolution(width, width, 1, key=key(), groups=groups),
        ToFloat(),
    ]
    down = WholeConvolution(
        width, 2 * width, 2 * stride, key=key(), stride=stride, groups=width // group
    )
    last = WholeConvolution(
        2 * width, config.latent_channels, TAPS, key=key(), groups=config.bottleneck_groups
    )
    units = [_whole_unit(config, width, dilation, key) for dilation in config.dilations[1:]]
    tail: list[Layer] = [WholeLeaky(), down, WholeLeaky(), last, ToFloat()]
    return [*layers, Residual(entering), ToWhole(), *units, *tail]


def _decoder_layers(config: LyraConfig, key: Keys) -> list[Layer]:
    """Return the layers from latents to samples."""
    group, widest, width = config.group_channels, config.widths[-1], config.widths[-2]
    groups = width // group
    # The first block computes in whole numbers; frames of a call are those of one frame of tokens.
    call = config.strides[-1]
    first = Convolution(
        config.latent_channels, widest, TAPS, key=key(), groups=config.bottleneck_groups
    )
    up = WholeUpsampling(
        widest, width, 2 * call, key=key(), stride=call, groups=width // group, call=1
    )
    entering: list[Layer] = [
        Leaky(),
        ToWhole(),
        WholeDepthwise(width, TAPS, key=key(), dilation=config.dilations[0]),
        WholeConvolution(width, width, 1, key=key()),
        WholeLeaky(),
        WholeConvolution(width, width, 1, key=key(), groups=groups),
        ToFloat(),
    ]
    units = [_whole_unit(config, width, dilation, key) for dilation in config.dilations[1:]]
    layers: list[Layer] = [first, Leaky(), ToWhole(), up, Residual(entering), ToWhole(), *units]
    for number, stride in enumerate(reversed(config.strides[:-1])):
        narrow = width // 2
        options = {"stride": stride, "groups": narrow // group}
        if number == 0:
            second = WholeUpsampling(width, narrow, 2 * stride, key=key(), call=call, **options)
            layers += [WholeLeaky(), second]
        else:
            layers += [Leaky(), Upsampling(width, narrow, 2 * stride, key=key(), **options)]
        layers += [_unit(config, narrow, dilation, key) for dilation in config.dilations]
        width = narrow
    taps = 4 * config.first_stride
    last = Upsampling(width, 1, taps, key=key(), stride=config.first_stride)
    return [*layers, Leaky(), last]
