"""Oobleck, the autoencoder of Stable Audio Open: a continuous codec of 64 channels at 21.5 frames
per second.

In: stereo waves "b s 2" at 44.1 kHz. Out: `Tokens` whose latents are the mean of the encoder's
Gaussian, and back to waves (Evans et al. 2024, Stable Audio Open, section 2; names as in diffusers'
`AutoencoderOobleck`). Encoder and decoder are those of DAC with another Snake, their own widths, no
tanh, and no bias in the last layer; at odd strides they end as DAC's do. A model of one channel has
waves "b s"; a mono corpus is adapted to a stereo model by `FrozenCodec`. Latents are never drawn,
so encoding is deterministic. The model has no codes: `fit_codes` gives it residual codebooks, by
k-means on the latents of given waves; before that its tokens have no codes.
"""

import functools
import math
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key

from genlab.codecs.dac import Decoder, Encoder, whole_frames
from genlab.codecs.hub import HubConfig
from genlab.codecs.quantiser import ResidualQuantiser, nearest_entry
from genlab.config import ConfigError, GenlabError
from genlab.data.audio import Channels
from genlab.nets.convolution import valid_frames
from genlab.nets.snake import SnakeBeta
from genlab.tokens import Tokens, TokenSpec

FITTING_ROUNDS = 20
MAX_FITTING_FRAMES = 32_768


class OobleckConfig(HubConfig):
    """Shape of the codec; the defaults are those of Stable Audio Open."""

    hub_id: ClassVar[str] = "stabilityai/stable-audio-open-1.0"
    hub_subfolder: ClassVar[str] = "vae"

    kind: Literal["oobleck"] = "oobleck"
    sample_rate_hz: int = pydantic.Field(default=44_100, ge=1)
    """Sample rate of waves, in Hz."""
    audio_channels: Literal[1, 2] = 2
    """Channels of the waves."""
    mono: Literal["copied_and_averaged"] = "copied_and_averaged"
    """How mono waves enter and leave a model of two channels (codecs/frozen.py): copied to both,
    then averaged.
    """
    codebooks: int = pydantic.Field(default=8, ge=1)
    """Residual levels that `fit_codes` makes; the published model has none."""
    entries: int = pydantic.Field(default=1024, ge=2, le=2**15)
    """Entries of each codebook; at most 2**15, because stores keep codes as int16."""
    latent_channels: int = pydantic.Field(default=64, ge=1)
    """Channels of the latents; half of `encoder_width` in the published models."""
    encoder_width: int = pydantic.Field(default=128, ge=1)
    """Channels of the encoder at the sample rate."""
    decoder_width: int = pydantic.Field(default=128, ge=1)
    """Channels of the decoder at the sample rate."""
    strides: tuple[int, ...] = pydantic.Field(default=(2, 4, 4, 8, 8), min_length=1)
    """Strides of the encoder's blocks; the decoder's are reversed. Their product is the hop."""
    multiples: tuple[int, ...] = pydantic.Field(default=(1, 2, 4, 8, 16), min_length=1)
    """Widths after each block of the encoder, in units of `encoder_width`; the decoder has them in
    reverse.
    """

    @pydantic.model_validator(mode="after")
    def _check_shape(self) -> "OobleckConfig":
        if min(self.strides) < 2 or min(self.multiples) < 1:
            raise ValueError(
                f"strides={self.strides}, multiples={self.multiples}: expected from 2 and from 1 on"
            )
        if len(self.multiples) != len(self.strides):
            raise ValueError(
                f"multiples={self.multiples}: expected one for each of strides={self.strides}"
            )
        if self.encoder_width != 2 * self.latent_channels:
            # The encoder ends with as many channels as it starts with: half are means, half are
            # scales.
            raise ValueError(
                f"latent_channels={self.latent_channels}: expected half of {self.encoder_width=}"
            )
        return self

    @property
    def channels(self) -> Channels:
        """Channels of the codec's waves."""
        return self.audio_channels

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
        """Return the config that a config.json of diffusers' `AutoencoderOobleck` describes.

        Raises:
            ConfigError: if it is of another model, or its shape is not one that the published code
                can run.
        """
        if values.get("_class_name", "AutoencoderOobleck") != "AutoencoderOobleck":
            raise ConfigError(
                f"_class_name: expected 'AutoencoderOobleck', got {values['_class_name']!r}"
            )
        names = {
            "sampling_rate": "sample_rate_hz",
            "audio_channels": "audio_channels",
            "decoder_input_channels": "latent_channels",
            "encoder_hidden_size": "encoder_width",
            "decoder_channels": "decoder_width",
            "downsampling_ratios": "strides",
            "channel_multiples": "multiples",
        }
        return cls.from_dict(
            {ours: values[theirs] for theirs, ours in names.items() if theirs in values}
        )

    def published_name(self, path: str) -> str | list[str]:
        """Return the name in `AutoencoderOobleck`."""
        return path.replace("transposed_kernel", "weight").replace("kernel", "weight")

    def build(self, *, key: Key[Array, ""]) -> "OobleckCodec":
        """Return the codec with random parameters and without codebooks."""
        return OobleckCodec(self, key=key)


class OobleckCodec(nnx.Module):
    """Encoder and decoder, and residual codebooks once they are fitted (`quantiser` is absent
    before).
    """

    def __init__(self, config: OobleckConfig, *, key: Key[Array, ""]):
        encoder_key, decoder_key = jax.random.split(key)
        multiples = (1, *config.multiples)
        strides = config.strides
        channels = config.audio_channels
        encoder_widths = [config.encoder_width * multiple for multiple in multiples]
        decoder_widths = [config.decoder_width * multiple for multiple in multiples[::-1]]
        latent = config.latent_channels
        self.spec = config.spec
        self.channels: Channels = channels
        # A variational autoencoder: half of the encoder's outputs are means, half are scales.
        self.encoder = Encoder(
            channels, encoder_widths, strides, 2 * latent, SnakeBeta, key=encoder_key
        )
        self.decoder = Decoder(
            latent,
            decoder_widths,
            strides[::-1],
            channels,
            SnakeBeta,
            key=decoder_key,
            has_last_bias=False,
        )
        self.quantiser: ResidualQuantiser | None = nnx.data(None)

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents.

        Raises:
            GenlabError: if no codebooks were fitted.
        """
        return self._fitted().entries[...]

    def encode(
        self, waves: Float[Array, "b s *c"], num_samples: Int[Array, "b"] | None = None
    ) -> Tokens:
        """Return the mean latents, and codes if codebooks were fitted.

        Raises:
            ValueError: if the waves are not whole frames.
        """
        waves, num_frames, lengths = whole_frames(waves, num_samples, self.spec.hop_samples)
        inputs = waves[..., None] if self.channels == 1 else waves
        latents = self.encoder(inputs, lengths)[..., : self.spec.latent_channels]
        latents = latents * valid_frames(
            latents.shape[1], None if lengths is None else num_frames, latents.dtype
        )
        return Tokens(
            None if self.quantiser is None else self.quantiser.encode(latents), latents, num_frames
        )

    def decode_codes(
        self, codes: Int[Array, "b t k"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s *c"]:
        """Return t * hop samples from codes; fewer than K levels decode at a lower rate.

        Raises:
            GenlabError: if no codebooks were fitted.
        """
        return self.decode_latents(self._fitted().decode(codes), num_frames)

    def decode_latents(
        self, latents: Float[Array, "b t d"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s *c"]:
        """Return t * hop samples from latents; samples past `num_frames` are silent."""
        waves = self.decoder(latents, num_frames)
        return waves[..., 0] if self.channels == 1 else waves

    def _fitted(self) -> ResidualQuantiser:
        if self.quantiser is None:
            raise GenlabError(
                "oobleck: this codec has no codebooks; fit them to waves with fit_codes(codec, "
                "waves)"
            )
        return self.quantiser


def fit_codes(
    codec: OobleckCodec,
    waves: Float[Array, "b s *c"],
    num_samples: Int[Array, "b"] | None = None,
    *,
    seed: int = 0,
    rounds: int = FITTING_ROUNDS,
) -> OobleckCodec:
    """Return the codec with codebooks fitted to the latents of the waves; the same seed gives the
    same codebooks.

    Args:
        codec: stays as it is.
        waves: whole frames; they are encoded one at a time, and of very many frames a random share
            is used.
        num_samples: of each wave.
        seed: of the entries that k-means starts from.
        rounds: of k-means for each level.

    Raises:
        GenlabError: if the waves have fewer frames than a codebook has entries.
    """
    graph, state = nnx.split(codec)
    encode = jax.jit(lambda state, *args: nnx.merge(graph, state).encode(*args))
    counts = np.full(len(waves), waves.shape[1]) if num_samples is None else np.asarray(num_samples)
    parts = []
    for row, count in enumerate(counts):
        tokens = encode(state, waves[row : row + 1], jnp.array([count], jnp.int32))
        parts.append(np.asarray(tokens.latents)[0, : int(tokens.num_frames[0])])
    latents = np.concatenate(parts)
    if len(latents) < codec.spec.entries:
        raise GenlabError(
            f"fit_codes: the waves have {len(latents)} frames, expected at least "
            f"{codec.spec.entries}, one an entry"
        )
    shuffled = np.random.default_rng(seed).permutation(len(latents))[:MAX_FITTING_FRAMES]
    return with_codebooks(
        codec, fit_levels(latents[shuffled], codec.spec.codebooks, codec.spec.entries, rounds)
    )


def with_codebooks(codec: OobleckCodec, entries: Float[Array, "k v d"]) -> OobleckCodec:
    """Return the codec with the codebooks that `code_vectors` of a fitted one gave; `codec` stays
    as it is.

    Raises:
        GenlabError: if they are not of the shape that the codec's spec says.
    """
    spec = codec.spec
    expected = (spec.codebooks, spec.entries, spec.latent_channels)
    if entries.shape != expected:
        raise GenlabError(
            f"codebooks: expected {list(expected)} (levels, entries, channels), got {entries.shape}"
        )
    fitted = nnx.merge(*nnx.split(codec))
    # The codebooks do not move any more: decay and revival are those of training.
    fitted.quantiser = ResidualQuantiser(*expected, decay=1.0, revival_usage=0.0)
    fitted.quantiser.entries[...] = jnp.asarray(entries)
    return fitted


def fit_levels(
    latents: Float[np.ndarray, "n d"], codebooks: int, entries: int, rounds: int
) -> Float[Array, "k v d"]:
    """Return codebooks, each fitted by k-means to what those before it left over; the rows must be
    in random order.
    """
    residual = jnp.asarray(latents)
    levels = []
    for _ in range(codebooks):
        level, residual = _fit_level(residual, entries, rounds)
        levels.append(level)
    return jnp.stack(levels)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _fit_level(
    vectors: Float[Array, "n d"], entries: int, rounds: int
) -> tuple[Float[Array, "v d"], Float[Array, "n d"]]:
    """Return the centres of k-means, started at the first vectors, and every residual."""

    def improve(_: object, centres: Float[Array, "v d"]) -> Float[Array, "v d"]:
        nearest = nearest_entry(vectors, centres)
        count = jnp.zeros(entries).at[nearest].add(1.0)[:, None]
        total = jnp.zeros_like(centres).at[nearest].add(vectors)
        # An unused centre moves onto one of the vectors that are worst off; repeated silence makes
        # many unused.
        _, worst = lax.top_k(jnp.sum((vectors - centres[nearest]) ** 2, axis=-1), entries)
        moved = vectors[worst[jnp.maximum(jnp.cumsum(count[:, 0] == 0) - 1, 0)]]
        return jnp.where(count == 0, moved, total / jnp.maximum(count, 1))

    centres = lax.fori_loop(0, rounds, improve, vectors[:entries])
    return centres, vectors - centres[nearest_entry(vectors, centres)]
