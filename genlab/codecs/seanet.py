"""SEANet, the convolutional encoder and decoder that EnCodec, and codecs after it, put around a
residual quantiser.

In: waves "b s" of a multiple of the hop. Out: `Tokens` with latents "b t d" and codes "b t k"; and
waves from either view. The encoder narrows time by strided convolutions with residual blocks
between, then an LSTM; the decoder mirrors it (EnCodec, Defossez et al. 2022, arXiv 2210.13438,
section 3.1). Every convolution pads by reflection, at both ends or, if causal, on the left. Layers
carry the published numbers, activations included, so that names map by a prefix. Where we differ:
every layer also takes the number of frames that each example really has, pads there and nowhere
else. A causal network still has no streaming here: reflection needs frames that come later.
"""

import math
import re

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from genlab.codecs.quantiser import Codebook, nearest_entry
from genlab.config import Config
from genlab.nets.convolution import Conv1d, ConvTranspose1d, pad_time, valid_frames
from genlab.nets.recurrent import LSTM
from genlab.tokens import Tokens, TokenSpec

# Frames, and how many of them belong to each example; absent if all do.
Frames = tuple[Float[Array, "b t c"], Int[Array, "b"] | None]


class SEANetConfig(Config):
    """The shape of encoder and decoder."""

    latent_channels: int = pydantic.Field(ge=1)
    """Channels of the latents."""
    channels: int = pydantic.Field(ge=2)
    """Channels at the sample rate; every stride doubles them."""
    strides: tuple[pydantic.PositiveInt, ...] = pydantic.Field(min_length=1)
    """Strides from frames to samples, as the decoder applies them; the encoder has them in reverse.
    Their product is the hop.
    """
    kernel_frames: int = pydantic.Field(default=7, ge=1)
    """Taps of the first convolution of a stack."""
    last_kernel_frames: int = pydantic.Field(default=7, ge=1)
    """Taps of the last convolution of a stack."""
    residual_kernel_frames: int = pydantic.Field(default=3, ge=1)
    """Taps of the dilated convolution in a residual block."""
    residual_layers: int = pydantic.Field(default=1, ge=0)
    """Residual blocks at each resolution."""
    dilation_growth: int = pydantic.Field(default=2, ge=1)
    """Factor between the dilations of successive residual blocks; the first has 1."""
    compression: int = pydantic.Field(default=2, ge=1)
    """Channels of a residual block over those inside it."""
    lstm_layers: int = pydantic.Field(default=2, ge=1)
    """Layers of the LSTM at the frame rate."""
    is_causal: bool = False
    """Pad on the left alone, so that no output sees later samples."""
    is_bidirectional: bool = False
    """Whether the encoder's LSTM also runs backwards."""
    has_conv_shortcut: bool = True
    """Whether residual blocks have a convolution as a shortcut."""

    @pydantic.model_validator(mode="after")
    def _check_channels(self) -> "SEANetConfig":
        if self.compression > self.channels:
            raise ValueError(
                f"compression={self.compression} leaves none of channels={self.channels}"
            )
        return self

    @property
    def hop_samples(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)


def elu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Return x above 0 and exp(x) - 1 below."""
    return jnp.maximum(x, 0) + (jnp.exp(jnp.minimum(x, 0)) - 1)


class Activation(nnx.Module):
    """ELU as a layer, which keeps the numbers of the published layers."""

    def __call__(self, frames: Float[Array, "b t c"], num_frames: Int[Array, "b"] | None) -> Frames:
        """Return the activated frames."""
        return elu(frames), num_frames


class Convolution(nnx.Module):
    """A convolution that gives one frame for every `stride`, padded by reflection."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_frames: int,
        *,
        key: Key[Array, ""],
        is_causal: bool,
        stride: int = 1,
        dilation: int = 1,
    ):
        self.conv = Conv1d(
            inputs, outputs, kernel_frames, key=key, stride=stride, dilation=dilation
        )
        self.is_causal = is_causal

    def __call__(self, frames: Float[Array, "b t c"], num_frames: Int[Array, "b"] | None) -> Frames:
        """Return t / stride frames."""
        if self.conv.past:
            after = 0 if self.is_causal else self.conv.past // 2
            frames = pad_time(frames, self.conv.past - after, after, "reflect", num_frames)
        return self.conv(frames), None if num_frames is None else num_frames // self.conv.stride


class Upsampling(nnx.Module):
    """A transposed convolution that gives `stride` frames for one, trimmed at the end if causal,
    else at both.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, *, key: Key[Array, ""], is_causal: bool
    ):
        self.transposed = ConvTranspose1d(inputs, outputs, 2 * stride, key=key, stride=stride)
        self.is_causal = is_causal

    def __call__(self, frames: Float[Array, "b t c"], num_frames: Int[Array, "b"] | None) -> Frames:
        """Return t * stride frames."""
        stride, tail = self.transposed.stride, self.transposed.tail
        before = 0 if self.is_causal else tail - tail // 2
        spread = self.transposed(frames * valid_frames(frames.shape[1], num_frames, frames.dtype))
        trimmed = spread[:, before : before + frames.shape[1] * stride]
        return trimmed, None if num_frames is None else num_frames * stride


class ResidualBlock(nnx.Module):
    """A dilated convolution to fewer channels, one over single frames back, and a shortcut around
    both.
    """

    def __init__(self, channels: int, dilation: int, config: SEANetConfig, *, key: Key[Array, ""]):
        keys = jax.random.split(key, 3)
        hidden = channels // config.compression
        is_causal = config.is_causal
        wide = Convolution(
            channels,
            hidden,
            config.residual_kernel_frames,
            key=keys[0],
            is_causal=is_causal,
            dilation=dilation,
        )
        narrow = Convolution(hidden, channels, 1, key=keys[1], is_causal=is_causal)
        self.block = nnx.List([Activation(), wide, Activation(), narrow])
        self.shortcut = (
            Convolution(channels, channels, 1, key=keys[2], is_causal=is_causal)
            if config.has_conv_shortcut
            else None
        )

    def __call__(self, frames: Float[Array, "b t c"], num_frames: Int[Array, "b"] | None) -> Frames:
        """Return as many frames."""
        beside = frames if self.shortcut is None else self.shortcut(frames, num_frames)[0]
        return beside + run(self.block, frames, num_frames)[0], num_frames


class ResidualLSTM(nnx.Module):
    """An LSTM of the width of its input, which is added to the output of each direction."""

    def __init__(
        self, channels: int, num_layers: int, *, key: Key[Array, ""], is_bidirectional: bool
    ):
        self.lstm = LSTM(channels, channels, num_layers, key=key, is_bidirectional=is_bidirectional)
        self.directions = 2 if is_bidirectional else 1

    def __call__(self, frames: Float[Array, "b t c"], num_frames: Int[Array, "b"] | None) -> Frames:
        """Return as many frames, with twice the channels if the LSTM is bidirectional."""
        return self.lstm(frames, num_frames) + jnp.tile(frames, (1, 1, self.directions)), num_frames


def run(
    layers: nnx.List, frames: Float[Array, "b t c"], num_frames: Int[Array, "b"] | None
) -> Frames:
    """Return what the layers make of the frames, one after another."""
    for layer in layers:
        frames, num_frames = layer(frames, num_frames)
    return frames, num_frames


def encoder_layers(config: SEANetConfig, *, key: Key[Array, ""]) -> nnx.List:
    """Return the layers from one channel at the sample rate to latents."""
    keys = iter(jax.random.split(key, 3 + len(config.strides) * (config.residual_layers + 1)))
    channels, is_causal = config.channels, config.is_causal
    # The order is that of the published `nn.Sequential`: tensors are named by their place in it.
    layers: list[nnx.Module] = [
        Convolution(1, channels, config.kernel_frames, key=next(keys), is_causal=is_causal)
    ]
    for stride in reversed(config.strides):
        for level in range(config.residual_layers):
            layers.append(
                ResidualBlock(channels, config.dilation_growth**level, config, key=next(keys))
            )
        down = Convolution(
            channels, 2 * channels, 2 * stride, key=next(keys), is_causal=is_causal, stride=stride
        )
        layers += [Activation(), down]
        channels *= 2
    layers.append(
        ResidualLSTM(
            channels, config.lstm_layers, key=next(keys), is_bidirectional=config.is_bidirectional
        )
    )
    # Both directions are concatenated.
    channels *= 2 if config.is_bidirectional else 1
    last = Convolution(
        channels,
        config.latent_channels,
        config.last_kernel_frames,
        key=next(keys),
        is_causal=is_causal,
    )
    return nnx.List([*layers, Activation(), last])


def decoder_layers(config: SEANetConfig, *, key: Key[Array, ""]) -> nnx.List:
    """Return the layers from latents to one channel at the sample rate."""
    keys = iter(jax.random.split(key, 3 + len(config.strides) * (config.residual_layers + 1)))
    channels = config.channels * 2 ** len(config.strides)
    is_causal = config.is_causal
    # The order is that of the published `nn.Sequential`: tensors are named by their place in it.
    layers: list[nnx.Module] = [
        Convolution(
            config.latent_channels,
            channels,
            config.kernel_frames,
            key=next(keys),
            is_causal=is_causal,
        ),
        # One direction even where the encoder has two: so it was published.
        ResidualLSTM(channels, config.lstm_layers, key=next(keys), is_bidirectional=False),
    ]
    for stride in config.strides:
        layers += [
            Activation(),
            Upsampling(channels, channels // 2, stride, key=next(keys), is_causal=is_causal),
        ]
        channels //= 2
        for level in range(config.residual_layers):
            layers.append(
                ResidualBlock(channels, config.dilation_growth**level, config, key=next(keys))
            )
    last = Convolution(channels, 1, config.last_kernel_frames, key=next(keys), is_causal=is_causal)
    return nnx.List([*layers, Activation(), last])


class SEANetCodec(nnx.Module):
    """Encoder, codebooks over the residual of those before, decoder.

    Attributes:
        spec: the facts about the token space.
        entries: the code vectors [k v d].
    """

    def __init__(self, config: SEANetConfig, spec: TokenSpec, *, key: Key[Array, ""]):
        encoder_key, decoder_key, entries_key = jax.random.split(key, 3)
        self.spec = spec
        self.encoder = encoder_layers(config, key=encoder_key)
        self.decoder = decoder_layers(config, key=decoder_key)
        shape = (spec.codebooks, spec.entries, spec.latent_channels)
        self.entries = Codebook(jax.random.normal(entries_key, shape))

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents."""
        return self.entries[...]

    def encode(
        self, waves: Float[Array, "b s"], num_samples: Int[Array, "b"] | None = None
    ) -> Tokens:
        """Return codes and latents.

        Raises:
            ValueError: if the waves are not a multiple of the hop.
        """
        hop = self.spec.hop_samples
        if waves.shape[1] % hop or not waves.shape[1]:
            raise ValueError(
                f"waves of {waves.shape[1]} samples: pad them with zeros to a multiple of the "
                f"hop, {hop}"
            )
        num_frames = None if num_samples is None else -(-num_samples // hop)
        own_samples = None if num_frames is None else num_frames * hop
        frames = waves[..., None] * valid_frames(waves.shape[1], num_samples, waves.dtype)
        latents, _ = run(self.encoder, frames, own_samples)
        latents = latents * valid_frames(latents.shape[1], num_frames, latents.dtype)
        if num_frames is None:
            num_frames = jnp.full((waves.shape[0],), latents.shape[1], jnp.int32)
        return Tokens(self._quantise(latents), latents, num_frames)

    def decode_codes(
        self, codes: Int[Array, "b t k"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return waves of t * hop samples; fewer than K levels decode at a lower rate."""
        chosen = [self.entries[level][codes[..., level]] for level in range(codes.shape[-1])]
        return self.decode_latents(jnp.sum(jnp.stack(chosen), axis=0), num_frames)

    def decode_latents(
        self, latents: Float[Array, "b t d"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return waves of t * hop samples; samples past the end of an example are zero."""
        frames, num_samples = run(self.decoder, latents, num_frames)
        return (frames * valid_frames(frames.shape[1], num_samples, frames.dtype))[..., 0]

    def _quantise(self, latents: Float[Array, "b t d"]) -> Int[Array, "b t k"]:
        residual = latents
        codes = []
        for level in range(self.spec.codebooks):
            entries = self.entries[level]
            codes.append(nearest_entry(residual, entries))
            residual = residual - entries[codes[-1]]
        return jnp.stack(codes, axis=-1)


def torch_name(path: str) -> str | list[str]:
    """Return the name that PyTorch gives to a parameter of convolutions and LSTMs, at our place in
    the network.
    """
    lstm = re.fullmatch(
        r"(.+\.lstm)\.layers\.(\d+)\.([01])\.(project_in\.kernel|state_weights|biases)", path
    )
    if lstm is None:
        return re.sub(r"\.(transposed_)?kernel$", ".weight", path)
    stem, layer, direction, leaf = lstm.groups()
    suffix = f"_l{layer}" + ("_reverse" if direction == "1" else "")
    if leaf == "biases":
        return [f"{stem}.bias_{part}{suffix}" for part in ("ih", "hh")]
    return f"{stem}.weight_{'ih' if leaf.startswith('project_in') else 'hh'}{suffix}"
