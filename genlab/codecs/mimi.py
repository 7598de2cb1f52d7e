"""Mimi: 12.5 frames per second with one semantic and up to 31 acoustic codes each, and it streams.

In: waves "b s" at 24 kHz. Out: `Tokens` with latents "b t d" (what the quantiser reads) and codes
"b t k"; and back to waves from either view. Convolutions go down to 25 Hz, a transformer with a
window of 10 s follows, and one more convolution halves the rate; the decoder mirrors this (Moshi,
Défossez et al. 2024, 2410.00037, section 3.3). The quantiser is split: one level that training ties
to WavLM's features, and beside it, not after it, a residual quantiser of the same latents. The
decoder reads the sum of both.

Everything is causal, so each layer is written once: it takes a chunk and what the chunk before
left, and a whole clip is one chunk that nothing precedes. Samples past the end of a clip therefore
cannot move what comes before them.
"""

import functools
import json
import math
import re
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from genlab.codecs.hub import HubConfig
from genlab.codecs.mimi_convolutions import (
    CausalConv,
    CausalUpsampling,
    Convolutions,
    ConvolutionsConfig,
    decoder_layers,
    encoder_layers,
)
from genlab.codecs.mimi_transformer import Seen, WindowTransformer, WindowTransformerConfig
from genlab.codecs.quantiser import Codebook, nearest_entry
from genlab.config import ConfigError
from genlab.machine.sharding import WHOLE
from genlab.nets.convolution import valid_frames
from genlab.nets.linear import Linear
from genlab.nets.weights import WeightsError
from genlab.tokens import Tokens, TokenSpec, make_tokens

HALVING = 2  # frames of the transformer in a frame of the tokens
MIN_USAGE = 1e-5

# What config.json may say where this port has no choice.
FIXED = {
    "model_type": "mimi",
    "audio_channels": 1,
    "use_causal_conv": True,
    "pad_mode": "constant",
    "trim_right_ratio": 1.0,
    "use_conv_shortcut": False,
    "normalize": False,
    "hidden_act": "gelu",
    "attention_bias": False,
    "rope_theta": 10_000.0,
    "rope_parameters.rope_theta": 10_000.0,
    "rope_parameters.rope_type": "default",
}
# Ours and theirs. What a config.json leaves out is in transformers, and so here, what kyutai/mimi
# has.
NAMES = {
    "sample_rate_hz": "sampling_rate",
    "width": "hidden_size",
    "convolutions.filters": "num_filters",
    "convolutions.ratios": "upsampling_ratios",
    "convolutions.kernel_frames": "kernel_size",
    "convolutions.last_kernel_frames": "last_kernel_size",
    "convolutions.residual_kernel_frames": "residual_kernel_size",
    "convolutions.residual_layers": "num_residual_layers",
    "convolutions.dilation_growth": "dilation_growth_rate",
    "convolutions.compression": "compress",
    "transformer.layers": "num_hidden_layers",
    "transformer.heads": "num_attention_heads",
    "transformer.inner_width": "intermediate_size",
    "transformer.window_frames": "sliding_window",
    "transformer.norm_epsilon": "norm_eps",
    "published_codebooks": "num_quantizers",
    "semantic_codebooks": "num_semantic_quantizers",
    "entries": "codebook_size",
    "entry_channels": "codebook_dim",
}


class MimiConfig(HubConfig):
    """Shape of a Mimi; the defaults are those of kyutai/mimi."""

    hub_id: ClassVar[str] = "kyutai/mimi"
    published_extras: ClassVar[str] = (
        r"quantizer\..*\.codebook\.(embed|embed_sum|cluster_usage|initialized)"
        r"|quantizer\.acoustic_residual_vector_quantizer\.(in|out)put_proj\.weight"
    )

    kind: Literal["mimi"] = "mimi"
    sample_rate_hz: int = pydantic.Field(default=24_000, ge=1)
    """Sample rate of waves, in Hz."""
    width: int = pydantic.Field(default=512, ge=2)
    """Channels of the latents and of both transformers."""
    convolutions: ConvolutionsConfig = ConvolutionsConfig()
    """The convolutional encoder and decoder."""
    transformer: WindowTransformerConfig = WindowTransformerConfig()
    """The transformers after the encoder and before the decoder."""
    published_codebooks: int = pydantic.Field(default=32, ge=1, le=1024)
    """Levels that the published files hold."""
    semantic_codebooks: int = pydantic.Field(default=1, ge=1)
    """How many of the levels, the first ones, are semantic; they have a projection of their own."""
    codebooks: int = pydantic.Field(default=8, ge=1)
    """Levels in use, from the first on; kyutai's models use 8 of 32."""
    entries: int = pydantic.Field(default=2048, ge=2, le=2**15)
    """Entries of each codebook; at most 2**15, because stores keep codes as int16."""
    entry_channels: int = pydantic.Field(default=256, ge=1)
    """Channels of the projections in which code vectors are compared."""

    @pydantic.model_validator(mode="after")
    def _check_shapes(self) -> "MimiConfig":
        if not self.semantic_codebooks <= self.codebooks <= self.published_codebooks:
            raise ValueError(
                f"codebooks={self.codebooks} must be at least "
                f"semantic_codebooks={self.semantic_codebooks} "
                f"and at most published_codebooks={self.published_codebooks}"
            )
        if self.width % (2 * self.transformer.heads):
            raise ValueError(
                f"width={self.width} must be a multiple of twice the heads "
                f"({self.transformer.heads})"
            )
        if self.entry_channels == self.width:
            raise ValueError(
                f"entry_channels={self.entry_channels} must differ from the width: entries are "
                "projected"
            )
        return self

    @property
    def spec(self) -> TokenSpec:
        """The token space this codec makes."""
        return TokenSpec(
            sample_rate_hz=self.sample_rate_hz,
            hop_samples=HALVING * math.prod(self.convolutions.ratios),
            codebooks=self.codebooks,
            entries=self.entries,
            latent_channels=self.width,
            causal=True,
        )

    @classmethod
    def from_published(cls, values: dict[str, Any]) -> Self:
        """Return the config that a published config.json describes, with at most the usual 8
        codebooks in use.
        """
        config = cls()
        wanted = {
            ours: values[theirs] for ours, theirs in NAMES.items() if values.get(theirs) is not None
        }
        published = wanted.get("published_codebooks")
        # Any other type is left to `override` below, whose error names the field.
        if isinstance(published, int):
            wanted["codebooks"] = min(config.codebooks, published)
        config = config.override(f"{name}={json.dumps(value)}" for name, value in wanted.items())
        rope = values.get("rope_parameters") or {}
        found = values | (
            {f"rope_parameters.{name}": rope[name] for name in rope}
            if isinstance(rope, dict)
            else {}
        )
        # The rest must be what the port hard-codes. A field that the file leaves out has that value
        # in transformers.
        heads = config.transformer.heads
        expected = FIXED | {
            "head_dim": config.width // heads,
            "num_key_value_heads": heads,
            "upsample_groups": config.width,
            "vector_quantization_hidden_dimension": config.entry_channels,
            "frame_rate": config.spec.frame_hz,
        }
        for name, value in expected.items():
            if found.get(name) not in (value, None):
                raise ConfigError(
                    f"{name}={found[name]!r:.80}: this port of Mimi expects {value!r}"
                )
        return config

    def published_name(self, path: str) -> str:
        """Return the published name of our parameter; attributes are named as published, their
        leaves are not.
        """
        path = re.sub(r"^quantiser\.(\w+)", r"quantizer.\1_residual_vector_quantizer", path)
        path = re.sub(r"entries\.(\d+)$", r"layers.\1.codebook.embed", path)
        path = re.sub(r"layer_scale$", "layer_scale.scale", path)
        return re.sub(r"(?<=\.)(kernel|transposed_kernel)$|(?<=layernorm\.)scale$", "weight", path)

    def derive(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Return the tensors with the entries added: the file has the sum and the number of what
        each entry stands for.

        Raises:
            WeightsError: if the two do not fit each other.
        """
        derived = dict(tensors)
        for name, total in tensors.items():
            stem, _, leaf = name.rpartition(".")
            usage = tensors.get(f"{stem}.cluster_usage")
            if leaf == "embed_sum" and usage is not None:
                if usage.shape != total.shape[:1]:
                    raise WeightsError(
                        f"{stem}: cluster_usage {usage.shape} does not fit embed_sum {total.shape}"
                    )
                derived[f"{stem}.embed"] = total / usage.clip(MIN_USAGE)[:, None]
        return derived

    def build(self, *, key: Key[Array, ""]) -> "MimiCodec":
        """Return a codec with random parameters."""
        return MimiCodec(self, nnx.Rngs(key))


class Carry(NamedTuple):
    """What one direction carries from chunk to chunk: of the convolutions, the transformer, and the
    change of rate.
    """

    layers: tuple[PyTree, ...] | None
    seen: Seen | None
    resampling: Float[Array, "b p c"] | None


WHOLE_CLIP = Carry(None, None, None)


class ProjectedQuantiser(nnx.Module):
    """A residual quantiser of a projection of the latents, with a projection back.

    Attributes:
        entries: one [v c] for each level; not one array, whose levels would be copied out of it for
            every frame.
    """

    def __init__(self, codebooks: int, config: MimiConfig, rngs: nnx.Rngs):
        shape = (config.entries, config.entry_channels)
        width, channels = config.width, config.entry_channels
        self.input_proj = Linear(width, channels, key=rngs.params(), split=WHOLE)
        self.output_proj = Linear(channels, width, key=rngs.params(), split=WHOLE)
        self.entries = nnx.List(
            [Codebook(jax.random.normal(rngs.params(), shape)) for _ in range(codebooks)]
        )

    def encode(self, latents: Float[Array, "b t d"]) -> Int[Array, "b t k"]:
        """Return the codes, nearest entry level by level."""
        residual = self.input_proj(latents)
        codes = []
        for entries in self.entries:
            codes.append(nearest_entry(residual, entries[...]))
            residual = residual - entries[...][codes[-1]]
        return jnp.stack(codes, axis=-1)

    def decode(self, codes: Int[Array, "b t k"]) -> Float[Array, "b t d"]:
        """Return the latents that the codes stand for; there may be fewer levels than usual."""
        chosen = [self.entries[level][codes[..., level]] for level in range(codes.shape[-1])]
        return self.output_proj(functools.reduce(jnp.add, chosen))

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents."""
        return self.output_proj(jnp.stack([entries[...] for entries in self.entries]))


class SplitQuantiser(nnx.Module):
    """The semantic and the acoustic quantiser, side by side; codes are joined in that order."""

    def __init__(self, config: MimiConfig, rngs: nnx.Rngs):
        num_acoustic = config.codebooks - config.semantic_codebooks
        self.semantic = ProjectedQuantiser(config.semantic_codebooks, config, rngs)
        self.acoustic = ProjectedQuantiser(num_acoustic, config, rngs) if num_acoustic else None

    @property
    def parts(self) -> list[ProjectedQuantiser]:
        """The quantisers in use."""
        return [self.semantic] if self.acoustic is None else [self.semantic, self.acoustic]

    def encode(self, latents: Float[Array, "b t d"]) -> Int[Array, "b t k"]:
        """Return the codes of both."""
        return jnp.concatenate([part.encode(latents) for part in self.parts], axis=-1)

    def decode(self, codes: Int[Array, "b t k"]) -> Float[Array, "b t d"]:
        """Return the sum of what the codes stand for."""
        num_semantic = len(self.semantic.entries)
        latents = self.semantic.decode(codes[..., :num_semantic])
        if self.acoustic is None or codes.shape[-1] <= num_semantic:
            return latents
        return latents + self.acoustic.decode(codes[..., num_semantic:])


class MimiCodec(nnx.Module):
    """Encoder, split quantiser and decoder; attributes are named as published."""

    def __init__(self, config: MimiConfig, rngs: nnx.Rngs):
        width = config.width
        taps = 2 * HALVING
        self.spec = config.spec
        self.encoder = Convolutions(encoder_layers(config.convolutions, width, rngs))
        self.encoder_transformer = WindowTransformer(config.transformer, width, rngs)
        self.downsample = CausalConv(width, width, taps, stride=HALVING, has_bias=False, rngs=rngs)
        self.quantiser = SplitQuantiser(config, rngs)
        self.upsample = CausalUpsampling(
            width, width, taps, stride=HALVING, has_bias=False, is_depthwise=True, rngs=rngs
        )
        self.decoder_transformer = WindowTransformer(config.transformer, width, rngs)
        self.decoder = Convolutions(decoder_layers(config.convolutions, width, rngs))

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents: the entry through the output projection of its
        quantiser.
        """
        return jnp.concatenate([part.code_vectors for part in self.quantiser.parts])

    def encode(
        self, waves: Float[Array, "b s"], num_samples: Int[Array, "b"] | None = None
    ) -> Tokens:
        """Return codes and latents; frames past the end of an example have latents of zero.

        Raises:
            ValueError: if the number of samples is not a multiple of the hop.
        """
        if num_samples is None:
            return make_tokens(*self._embed(waves, WHOLE_CLIP)[:2])
        num_frames = (-(-num_samples // self.spec.hop_samples)).astype(jnp.int32)
        waves = waves * valid_frames(waves.shape[1], num_samples, waves.dtype)[..., 0]
        codes, latents, _ = self._embed(waves, WHOLE_CLIP)
        return make_tokens(codes, latents * valid_frames(latents.shape[1], num_frames), num_frames)

    def decode_codes(
        self, codes: Int[Array, "b t k"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return t * hop samples; fewer than K levels decode at a lower rate."""
        return self.decode_latents(self.quantiser.decode(codes), num_frames)

    def decode_latents(
        self, latents: Float[Array, "b t d"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return t * hop samples; those past the end of an example are silent."""
        waves, _ = self._sound(latents, WHOLE_CLIP)
        if num_frames is None:
            return waves
        return waves * valid_frames(waves.shape[1], num_frames * self.spec.hop_samples)[..., 0]

    def start_encoding(self, batch: int) -> Carry:
        """Return what to carry into the first chunk of waves."""
        return Carry(
            self.encoder.start(batch),
            self.encoder_transformer.start(batch),
            self.downsample.start(batch),
        )

    def encode_chunk(self, waves: Float[Array, "b s"], carry: Carry) -> tuple[Tokens, Carry]:
        """Return the tokens of the next chunk, and what to carry on.

        Raises:
            ValueError: if the chunk is not one or more whole hops.
        """
        codes, latents, carry = self._embed(waves, carry)
        return make_tokens(codes, latents), carry

    def start_decoding(self, batch: int) -> Carry:
        """Return what to carry into the first chunk of codes."""
        return Carry(
            self.decoder.start(batch),
            self.decoder_transformer.start(batch),
            self.upsample.start(batch),
        )

    def decode_chunk(
        self, codes: Int[Array, "b t k"], carry: Carry
    ) -> tuple[Float[Array, "b s"], Carry]:
        """Return the t * hop samples of the next chunk, and what to carry on."""
        return self._sound(self.quantiser.decode(codes), carry)

    def _embed(
        self, waves: Float[Array, "b s"], carry: Carry
    ) -> tuple[Int[Array, "b t k"], Float[Array, "b t d"], Carry]:
        """Return the codes and latents of a chunk, and what to carry on."""
        hop = self.spec.hop_samples
        if waves.shape[1] % hop or not waves.shape[1]:
            raise ValueError(
                f"waves: {waves.shape[1]} samples are not one or more hops of {hop}; pad with zeros"
            )
        frames, layers = self.encoder(waves[..., None], carry.layers)
        frames, seen = self.encoder_transformer(frames, carry.seen)
        past = carry.resampling
        if past is not None and carry.seen is not None:
            # A clip is preceded by its first frame, as when a whole clip is padded.
            past = jnp.where(carry.seen.num_frames == 0, frames[:, :1], past)
        latents, past = self.downsample(frames, past, padding="edge")
        return self.quantiser.encode(latents), latents, Carry(layers, seen, past)

    def _sound(
        self, latents: Float[Array, "b t d"], carry: Carry
    ) -> tuple[Float[Array, "b s"], Carry]:
        """Return the waves of a chunk of latents, and what to carry on."""
        frames, tail = self.upsample(latents, carry.resampling)
        frames, seen = self.decoder_transformer(frames, carry.seen)
        waves, layers = self.decoder(frames, carry.layers)
        return waves[..., 0], Carry(layers, seen, tail)
