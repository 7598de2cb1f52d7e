"""The Descript Audio Codec: convolutions with Snake activations, and codebooks that compare
directions in 8 channels.

In: waves "b s" at 16, 24 or 44.1 kHz. Out: `Tokens` whose latents are the encoder's output before
the quantiser; and back to waves from either view (Kumar et al. 2023, sections 3.1 and 3.2; names as
in transformers' `DacModel`). Each level projects what is left to 8 channels, takes the entry of
nearest direction, and projects that back with a bias of its own; the biases are part of
`code_vectors`, so those add up to what the decoder reads. Where we differ: a wave has
exactly t hops of samples. After an odd upsampling stride the published decoder is one frame short
on the right: at 16 and 24 kHz (strides 8, 5, 4, 2) it gives 8 samples less than t * hop. The
samples that it gives are ours, unshifted, and the missing last ones are silent here. Dropping
levels at random is a matter of training and is not here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from genlab.codecs.hub import HubConfig
from genlab.config import ConfigError
from genlab.machine.sharding import WHOLE
from genlab.nets.convolution import Conv1d, ConvTranspose1d, pad_time, valid_frames
from genlab.nets.param import matrix, vector
from genlab.nets.snake import Snake
from genlab.tokens import Tokens, TokenSpec

DILATIONS = (1, 3, 9)
Activation = Callable[[int], nnx.Module]


class DacConfig(HubConfig):
    """Shape of the codec; the defaults are the 16 kHz model."""

    hub_id: ClassVar[str] = "descript/dac_16khz"
    published_extras: ClassVar[str] = (
        r"quantizer\.quantizers\.\d+\.(in_proj|out_proj|codebook)\.(weight|bias)"
    )

    kind: Literal["dac"] = "dac"
    sample_rate_hz: int = pydantic.Field(default=16_000, ge=1)
    """Sample rate of waves, in Hz."""
    codebooks: int = pydantic.Field(default=12, ge=1)
    """Levels in use, from the first on; the published files may hold more."""
    entries: int = pydantic.Field(default=1024, ge=2, le=2**15)
    """Entries of each codebook; at most 2**15, because stores keep codes as int16."""
    code_channels: int = pydantic.Field(default=8, ge=1)
    """Channels of the projection in which code vectors are compared."""
    latent_channels: int = pydantic.Field(default=1024, ge=1)
    """Channels of the latents."""
    encoder_width: int = pydantic.Field(default=64, ge=1)
    """Channels of the encoder at the sample rate; every block doubles them."""
    decoder_width: int = pydantic.Field(default=1536, ge=2)
    """Channels of the decoder at the frame rate; every block halves them."""
    strides: tuple[int, ...] = pydantic.Field(default=(2, 4, 5, 8), min_length=1)
    """Strides of the encoder's blocks; the decoder's are reversed. Their product is the hop."""

    @pydantic.model_validator(mode="after")
    def _check_shape(self) -> "DacConfig":
        if min(self.strides) < 2:
            raise ValueError(f"strides={self.strides}: each must be 2 or more")
        if self.decoder_width % 2 ** len(self.strides):
            raise ValueError(
                f"decoder_width={self.decoder_width} is halved {len(self.strides)} times: not "
                "divisible"
            )
        return self

    @property
    def spec(self) -> TokenSpec:
        """The token space this codec makes."""
        return TokenSpec(
            sample_rate_hz=self.sample_rate_hz,
            hop_samples=math.prod(self.strides),
            codebooks=self.codebooks,
            entries=self.entries,
            latent_channels=self.latent_channels,
        )

    @classmethod
    def from_published(cls, values: dict[str, Any]) -> Self:
        """Return the config that a config.json of transformers' `DacModel` describes.

        Raises:
            ConfigError: if it is of another model, or its decoder does not undo the encoder's
                strides.
        """
        if values.get("model_type", "dac") != "dac":
            raise ConfigError(f"model_type: expected 'dac', got {values['model_type']!r}")
        names = {
            "sampling_rate": "sample_rate_hz",
            "n_codebooks": "codebooks",
            "codebook_size": "entries",
            "codebook_dim": "code_channels",
            "encoder_hidden_size": "encoder_width",
            "decoder_hidden_size": "decoder_width",
            "downsampling_ratios": "strides",
            "hidden_size": "latent_channels",
        }
        # What transformers leaves out of a config.json has its default.
        found: dict[str, Any] = {"codebooks": 9, "strides": [2, 4, 8, 8]}
        found |= {ours: values[theirs] for theirs, ours in names.items() if theirs in values}
        if "latent_channels" not in found and isinstance(found["strides"], list):
            found["latent_channels"] = found.get("encoder_width", 64) * 2 ** len(found["strides"])
        config = cls.from_dict(found)
        mirrored = list(config.strides[::-1])
        if values.get("upsampling_ratios", mirrored) != mirrored:
            raise ConfigError(
                f"upsampling_ratios: expected {mirrored}, got {values['upsampling_ratios']!r}"
            )
        return config

    def published_name(self, path: str) -> str | list[str]:
        """Return the name in `DacModel`; the quantiser's levels are one parameter here and one each
        there.
        """
        name = path.replace("transposed_kernel", "weight").replace("kernel", "weight")
        if not path.startswith("quantiser."):
            return name
        name = name.removeprefix("quantiser.").replace("entries", "codebook.weight")
        return [f"quantizer.quantizers.{level}.{name}" for level in range(self.codebooks)]

    def build(self, *, key: Key[Array, ""]) -> "DacCodec":
        """Return the codec with random parameters."""
        return DacCodec(self, key=key)


class ResidualUnit(nnx.Module):
    """A dilated and a pointwise convolution, each after an activation, added to what came in."""

    def __init__(self, width: int, dilation: int, activation: Activation, *, key: Key[Array, ""]):
        first_key, second_key = jax.random.split(key)
        self.snake1 = activation(width)
        self.conv1 = Conv1d(width, width, 7, key=first_key, dilation=dilation)
        self.snake2 = activation(width)
        self.conv2 = Conv1d(width, width, 1, key=second_key)

    def __call__(
        self, frames: Float[Array, "b t c"], num_frames: Int[Array, "b"] | None
    ) -> Float[Array, "b t c"]:
        """Return the frames after one residual update."""
        hidden = convolve(self.conv1, self.snake1(frames), num_frames)
        return frames + self.conv2(self.snake2(hidden))


class EncoderBlock(nnx.Module):
    """Three residual units, then a strided convolution."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, activation: Activation, *, key: Key[Array, ""]
    ):
        *unit_keys, conv_key = jax.random.split(key, 4)
        units = [
            ResidualUnit(inputs, dilation, activation, key=k)
            for dilation, k in zip(DILATIONS, unit_keys)
        ]
        self.res_unit1, self.res_unit2, self.res_unit3 = units
        self.snake1 = activation(inputs)
        self.conv1 = Conv1d(inputs, outputs, 2 * stride, key=conv_key, stride=stride)

    def __call__(
        self, frames: Float[Array, "b t i"], num_frames: Int[Array, "b"] | None
    ) -> Float[Array, "b u o"]:
        """Return t / stride frames."""
        for unit in (self.res_unit1, self.res_unit2, self.res_unit3):
            frames = unit(frames, num_frames)
        stride = self.conv1.stride
        return self.conv1(
            pad_time(self.snake1(frames), -(-stride // 2), stride // 2, num_frames=num_frames)
        )


class DecoderBlock(nnx.Module):
    """A transposed convolution, then three residual units."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, activation: Activation, *, key: Key[Array, ""]
    ):
        *unit_keys, conv_key = jax.random.split(key, 4)
        self.snake1 = activation(inputs)
        self.conv_t1 = ConvTranspose1d(inputs, outputs, 2 * stride, key=conv_key, stride=stride)
        units = [
            ResidualUnit(outputs, dilation, activation, key=k)
            for dilation, k in zip(DILATIONS, unit_keys)
        ]
        self.res_unit1, self.res_unit2, self.res_unit3 = units

    @property
    def shortfall(self) -> int:
        """Frames by which the output is shorter than t * stride: both ends are cut by half a
        stride, rounded up.
        """
        return self.conv_t1.stride % 2

    def __call__(
        self, frames: Float[Array, "b t i"], num_frames: Int[Array, "b"] | None
    ) -> Float[Array, "b u o"]:
        """Return t * stride - shortfall frames; `num_frames` counts the valid ones that come in."""
        stride = self.conv_t1.stride
        spread = self.conv_t1(pad_time(self.snake1(frames), 0, 0, num_frames=num_frames))
        cut = -(-stride // 2)
        frames = spread[:, cut : cut + frames.shape[1] * stride - self.shortfall]
        num_frames = self.count(num_frames)
        for unit in (self.res_unit1, self.res_unit2, self.res_unit3):
            frames = unit(frames, num_frames)
        return frames

    def count(self, num_frames: Int[Array, "b"] | None) -> Int[Array, "b"] | None:
        """Return how many frames come out of `num_frames`."""
        return None if num_frames is None else num_frames * self.conv_t1.stride - self.shortfall


class Encoder(nnx.Module):
    """From channels at the sample rate to latents at the frame rate; `widths` has one more item
    than `strides`.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        strides: Sequence[int],
        outputs: int,
        activation: Activation,
        *,
        key: Key[Array, ""],
    ):
        first_key, last_key, *keys = jax.random.split(key, 2 + len(strides))
        self.conv1 = Conv1d(inputs, widths[0], 7, key=first_key)
        shapes = zip(widths, widths[1:], strides, keys)
        self.block = nnx.List(
            [EncoderBlock(i, o, stride, activation, key=k) for i, o, stride, k in shapes]
        )
        self.snake1 = activation(widths[-1])
        self.conv2 = Conv1d(widths[-1], outputs, 3, key=last_key)

    def __call__(
        self, waves: Float[Array, "b s c"], num_samples: Int[Array, "b"] | None
    ) -> Float[Array, "b t d"]:
        """Return latents; `num_samples` are multiples of the hop."""
        frames = convolve(self.conv1, waves, num_samples)
        num_frames = num_samples
        for block in self.block:
            frames = block(frames, num_frames)
            num_frames = None if num_frames is None else num_frames // block.conv1.stride
        return convolve(self.conv2, self.snake1(frames), num_frames)


class Decoder(nnx.Module):
    """From latents at the frame rate to channels at the sample rate; `widths` has one more item
    than `strides`.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        strides: Sequence[int],
        outputs: int,
        activation: Activation,
        *,
        key: Key[Array, ""],
        has_last_bias: bool = True,
    ):
        first_key, last_key, *keys = jax.random.split(key, 2 + len(strides))
        self.conv1 = Conv1d(inputs, widths[0], 7, key=first_key)
        shapes = zip(widths, widths[1:], strides, keys)
        self.block = nnx.List(
            [DecoderBlock(i, o, stride, activation, key=k) for i, o, stride, k in shapes]
        )
        self.snake1 = activation(widths[-1])
        self.conv2 = Conv1d(widths[-1], outputs, 7, key=last_key, has_bias=has_last_bias)

    def __call__(
        self, latents: Float[Array, "b t d"], num_frames: Int[Array, "b"] | None
    ) -> Float[Array, "b s c"]:
        """Return t * hop samples; where odd strides leave the last ones out, they are silent."""
        frames = convolve(self.conv1, latents, num_frames)
        for block in self.block:
            frames = block(frames, num_frames)
            num_frames = block.count(num_frames)
        waves = convolve(self.conv2, self.snake1(frames), num_frames)
        waves = waves * valid_frames(waves.shape[1], num_frames, waves.dtype)
        num_samples = latents.shape[1] * math.prod(block.conv_t1.stride for block in self.block)
        return pad_time(waves, 0, num_samples - waves.shape[1])


class DirectionQuantiser(nnx.Module):
    """Residual levels that compare directions: of the projected latents, and of the entries.

    Attributes:
        in_proj: to the channels of the codes [k d c], and its bias.
        entries: of every level [k v c].
        out_proj: back to the latents [k c d], and its bias.
    """

    def __init__(self, config: DacConfig, *, key: Key[Array, ""]):
        keys = jax.random.split(key, 3)
        levels, latent, inner = config.codebooks, config.latent_channels, config.code_channels
        self.in_proj = Projections(levels, latent, inner, key=keys[0])
        self.out_proj = Projections(levels, inner, latent, key=keys[1])
        self.entries = matrix(jax.random.normal(keys[2], (levels, config.entries, inner)), WHOLE)

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents."""
        vectors = jnp.einsum("kvc,kcd->kvd", self.entries[...], self.out_proj.kernel[...])
        return vectors + self.out_proj.bias[...][:, None]

    def encode(self, latents: Float[Array, "b t d"]) -> Int[Array, "b t k"]:
        """Return the codes, nearest direction level by level (ties go to the lower index)."""
        residual = latents
        codes = []
        for level in range(self.entries.shape[0]):
            entries = self.entries[level]
            directions = entries / jnp.maximum(
                jnp.linalg.norm(entries, axis=-1, keepdims=True), 1e-12
            )
            # The length of the projected vector scales all products alike, so it need not be
            # divided out.
            code = jnp.argmax(self.in_proj(residual, level) @ directions.T, axis=-1).astype(
                jnp.int32
            )
            residual = residual - self.out_proj(entries[code], level)
            codes.append(code)
        return jnp.stack(codes, axis=-1)

    def decode(self, codes: Int[Array, "b t k"]) -> Float[Array, "b t d"]:
        """Return the latents that the codes stand for; there may be fewer levels than usual."""
        levels = codes.shape[-1]
        chosen = [self.entries[level][codes[..., level]] for level in range(levels)]
        kernel = self.out_proj.kernel[...][:levels]
        # All levels in one product: [b t (k c)] @ [(k c) d]
        added = jnp.concatenate(chosen, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
        return added + self.out_proj.bias[...][:levels].sum(axis=0)[None, None]


class Projections(nnx.Module):
    """One product with a bias for every level."""

    def __init__(self, levels: int, inputs: int, outputs: int, *, key: Key[Array, ""]):
        kernel = inputs**-0.5 * jax.random.normal(key, (levels, inputs, outputs))
        self.kernel = matrix(kernel, WHOLE)
        self.bias = vector(jnp.zeros((levels, outputs)))

    def __call__(self, frames: Float[Array, "b t i"], level: int) -> Float[Array, "b t o"]:
        """Return the projection of one level."""
        return frames @ self.kernel[level] + self.bias[level][None, None]


class DacCodec(nnx.Module):
    """Encoder, quantiser, decoder."""

    def __init__(self, config: DacConfig, *, key: Key[Array, ""]):
        keys = jax.random.split(key, 3)
        blocks = len(config.strides)
        encoder_widths = [config.encoder_width * 2**depth for depth in range(blocks + 1)]
        decoder_widths = [config.decoder_width // 2**depth for depth in range(blocks + 1)]
        latent = config.latent_channels
        self.spec = config.spec
        self.encoder = Encoder(1, encoder_widths, config.strides, latent, Snake, key=keys[0])
        self.quantiser = DirectionQuantiser(config, key=keys[1])
        self.decoder = Decoder(latent, decoder_widths, config.strides[::-1], 1, Snake, key=keys[2])

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents, the bias of its level included."""
        return self.quantiser.code_vectors

    def encode(
        self, waves: Float[Array, "b s"], num_samples: Int[Array, "b"] | None = None
    ) -> Tokens:
        """Return codes, and the latents that the quantiser reads.

        Raises:
            ValueError: if the waves are not whole frames.
        """
        waves, num_frames, lengths = whole_frames(waves, num_samples, self.spec.hop_samples)
        latents = self.encoder(waves[..., None], lengths)
        latents = latents * valid_frames(
            latents.shape[1], None if lengths is None else num_frames, latents.dtype
        )
        return Tokens(self.quantiser.encode(latents), latents, num_frames)

    def decode_codes(
        self, codes: Int[Array, "b t k"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return t * hop samples from codes; fewer than K levels decode at a lower rate."""
        return self.decode_latents(self.quantiser.decode(codes), num_frames)

    def decode_latents(
        self, latents: Float[Array, "b t d"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return t * hop samples from latents; samples past `num_frames` are silent."""
        return jnp.tanh(self.decoder(latents, num_frames)[..., 0])


def convolve(
    conv: Conv1d, frames: Float[Array, "b t i"], num_frames: Int[Array, "b"] | None
) -> Float[Array, "b t o"]:
    """Return as many frames as come in: zeros on both sides, where each example ends."""
    reach = conv.span // 2
    return conv(pad_time(frames, reach, reach, num_frames=num_frames))


def whole_frames(
    waves: Float[Array, "b s *c"], num_samples: Int[Array, "b"] | None, hop_samples: int
) -> tuple[Float[Array, "b s *c"], Int[Array, "b"], Int[Array, "b"] | None]:
    """Return waves that are zero past `num_samples`, their numbers of frames, and of samples in
    whole frames.

    Raises:
        ValueError: if the waves are not whole frames.
    """
    batch, samples = waves.shape[:2]
    if samples % hop_samples:
        raise ValueError(
            f"waves: {samples} samples are not a multiple of the hop {hop_samples}; pad with zeros"
        )
    if num_samples is None:
        return waves, jnp.full((batch,), samples // hop_samples, jnp.int32), None
    num_frames = (-(-num_samples // hop_samples)).astype(jnp.int32)
    is_valid = valid_frames(samples, num_samples, waves.dtype)
    waves = waves * (is_valid if waves.ndim == 3 else is_valid[..., 0])
    return waves, num_frames, num_frames * hop_samples
