"""The in-lab codec: spectrum in, spectrum out, every layer at the frame rate.

In: waves "b s", or "b s 2" of a stereo codec, which makes mid and side (planes.py). Out:
`Tokens` with latents "b t d" and their residual codes "b t k"; and back to waves from either view.
The decoder predicts magnitude and phase for an inverse STFT (Vocos, Siuzdak 2023, section 3), and
the encoder mirrors it, so no layer runs at the sample rate and all the work is matrix products.
Each 20 ms frame carries two 10 ms STFT frames side by side, which keeps 50 tokens per second and
still places onsets to within 10 ms. Where we differ from Vocos: two STFT frames per layer frame, an
encoder from log magnitudes instead of a fixed mel front end, and a residual quantiser between. A
causal codec's windows end with their own hop: its encoder sees nothing ahead, a sample is finished
window - hop / 2 samples (30 ms) after its frame, and it runs chunk by chunk (`StreamingCodec`).
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Complex, Float, Int, Key, PyTree

from genlab.codecs.convnext import ConvNeXtBlock, StackConfig, first_pasts, stream_blocks
from genlab.codecs.discriminator import AdversarialConfig, Discriminator, adversarial_losses
from genlab.codecs.distillation import Distillation, DistillationConfig
from genlab.codecs.losses import mel_distance, stft_distance
from genlab.codecs.planes import (
    SEEN_OF_STEREO,
    each_channel,
    features,
    from_planes,
    mean_over_channels,
    pairs_of,
    to_planes,
)
from genlab.codecs.quantiser import ResidualQuantiser, draw_levels, round_side
from genlab.config import Config, GenlabError, added
from genlab.data.audio import Channels
from genlab.nets.param import NORM_RULES, linear_rules
from genlab.nets.spectrogram import cut_frames, hann_window, istft, spread_frames, stft
from genlab.tokens import LossOut, Tokens, TokenSpec

SUBFRAMES = 2  # STFT frames per token frame
TRAINING_PARTS = ("discriminator", "distillation")  # what exported weights leave out


class SpectralCodecConfig(Config):
    """Shape and losses of the in-lab codec."""

    kind: Literal["spectral"] = "spectral"
    sample_rate_hz: int = pydantic.Field(default=16_000, ge=1)
    """Sample rate of waves, in Hz."""
    hop_samples: int = pydantic.Field(default=320, ge=1)
    """Samples per frame; a multiple of the STFT frames in it."""
    window_samples: int = pydantic.Field(default=640, ge=1)
    """Samples of an STFT window."""
    codebooks: int = pydantic.Field(default=8, ge=1)
    """Residual levels."""
    entries: int = pydantic.Field(default=1024, ge=2, le=2**15)
    """Entries of each codebook; at most 2**15, because stores keep codes as int16."""
    latent_channels: int = pydantic.Field(default=32, ge=1)
    """Channels of the latents."""
    causal: bool = False
    """Let no output see later samples."""
    encoder: StackConfig = StackConfig(width=176, blocks=4)
    """ConvNeXt blocks from the spectrum of each frame to its latent."""
    decoder: StackConfig = StackConfig(width=256, blocks=6)
    """ConvNeXt blocks from the latent of each frame back to its spectrum."""
    share_continuous: float = pydantic.Field(default=0.15, ge=0, le=1)
    """Share of training examples that decode raw latents."""
    share_fewer_levels: float = pydantic.Field(default=0.35, ge=0, le=1)
    """Share of training examples that drop a random number of upper code levels."""
    codebook_decay: float = pydantic.Field(default=0.99, ge=0, lt=1)
    """Decay per step of the moving averages that code vectors follow."""
    revival_usage: float = pydantic.Field(default=0.03, ge=0)
    """An entry whose moving average of uses per step falls below this moves to a latent of the
    batch.
    """
    mel_weight: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the log-mel distance."""
    stft_weight: float = pydantic.Field(default=0.5, ge=0)
    """Weight of the multi-resolution STFT distance."""
    commitment_weight: float = pydantic.Field(default=0.25, ge=0)
    """Weight of the distance from latents to their code vectors."""
    adversarial: AdversarialConfig | None = None
    """The discriminator; None trains without one."""
    semantic_channels: int = pydantic.Field(default=0, ge=0)
    """Latent channels that level 1 quantises alone; with 0 it quantises all, as the others do."""
    distillation: DistillationConfig | None = None
    """What level 1 is taught; None teaches it nothing."""
    side_channels: int = pydantic.Field(default=0, ge=0)
    """Numbers per utterance that the decoder gets beside the latents, so that these need not say
    who speaks in every frame. Finite scalar quantisation (Mentzer et al. 2023) makes each one of
    `SIDE_LEVELS`.
    """
    kl_weight: float | None = pydantic.Field(default=None, ge=0)
    """Weight of the KL term that makes latents the means of a variational bottleneck (Kingma &
    Welling 2013). Training that decodes latents then reads them with noise, whose scale the encoder
    gives. None leaves it out.
    """
    channels: Channels = added(1)
    """Channels of the waves."""

    @pydantic.model_validator(mode="after")
    def _check_framing(self) -> "SpectralCodecConfig":
        if self.hop_samples % SUBFRAMES:
            raise ValueError(
                f"hop_samples={self.hop_samples} must be a multiple of {SUBFRAMES}, the STFT "
                "frames in it"
            )
        if self.window_samples % (self.hop_samples // SUBFRAMES):
            stft_hop = self.hop_samples // SUBFRAMES
            raise ValueError(
                f"window_samples={self.window_samples} must be a multiple of the STFT hop "
                f"{stft_hop}"
            )
        # One uniform draw per example decides between the two and neither (`draw_levels`).
        if self.share_continuous + self.share_fewer_levels > 1:
            raise ValueError(
                "share_continuous and share_fewer_levels are shares of one batch: their sum "
                "exceeds 1"
            )
        if self.semantic_channels >= self.latent_channels:
            channels = (
                f"semantic_channels={self.semantic_channels}, "
                f"latent_channels={self.latent_channels}"
            )
            raise ValueError(f"{channels}: the levels above the first need channels too")
        if self.channels == 2 and (self.causal or self.distillation is not None):
            raise ValueError(
                "channels=2: a causal codec streams one channel, and the teacher of a distillation "
                "hears one; use causal=false without distillation, or channels=1"
            )
        if self.side_channels and self.causal:
            raise ValueError(
                f"side_channels={self.side_channels}: a whole utterance's code needs causal=false"
            )
        return self

    @property
    def spec(self) -> TokenSpec:
        """The token space this codec makes."""
        return TokenSpec(
            sample_rate_hz=self.sample_rate_hz,
            hop_samples=self.hop_samples,
            codebooks=self.codebooks,
            entries=self.entries,
            latent_channels=self.latent_channels,
            causal=self.causal,
            side_channels=self.side_channels,
        )

    def build(self, *, key: Key[Array, ""]) -> "SpectralCodec":
        """Return a codec with fresh parameters."""
        return SpectralCodec(self, nnx.Rngs(key))


class SpectralCodec(nnx.Module):
    """Encoder, residual quantiser, decoder, and a discriminator if training uses one."""

    reads: ClassVar[Literal["waves"]] = "waves"

    def __init__(self, config: SpectralCodecConfig, rngs: nnx.Rngs):
        bins = (config.window_samples // 2 + 1) * SUBFRAMES
        self._seen = 1 if config.channels == 1 else SEEN_OF_STEREO
        self.channels: Channels = config.channels
        encoder, decoder = config.encoder, config.decoder
        self.config = config
        self.spec = config.spec
        inputs = linear_rules()
        self.encoder_in = nnx.Linear(bins * self._seen, encoder.width, rngs=rngs, **inputs)
        self.encoder = nnx.List(
            [ConvNeXtBlock(encoder, config.causal, rngs) for _ in range(encoder.blocks)]
        )
        self.encoder_norm = nnx.LayerNorm(encoder.width, rngs=rngs, **NORM_RULES)
        views = 1 if config.kl_weight is None else 2  # a mean, and the scale of its noise
        leaving = config.latent_channels * views
        self.encoder_out = nnx.Linear(encoder.width, leaving, rngs=rngs, **inputs)
        self.quantiser = ResidualQuantiser(
            config.codebooks,
            config.entries,
            config.latent_channels,
            config.codebook_decay,
            config.revival_usage,
            config.semantic_channels,
        )
        self.decoder_in = nnx.Linear(config.latent_channels, decoder.width, rngs=rngs, **inputs)
        self.decoder = nnx.List(
            [ConvNeXtBlock(decoder, config.causal, rngs) for _ in range(decoder.blocks)]
        )
        self.decoder_norm = nnx.LayerNorm(decoder.width, rngs=rngs, **NORM_RULES)
        self.decoder_out = nnx.Linear(
            decoder.width, bins * 2 * config.channels, rngs=rngs, **inputs
        )
        self.step = nnx.Variable(jnp.zeros((), jnp.int32))
        if config.adversarial is not None:
            self.discriminator = Discriminator(config.adversarial.width, rngs)
        if config.distillation is not None:
            self.distillation = Distillation(
                config.distillation, config.latent_channels, rngs.params()
            )
        if config.side_channels:
            self.side_out = nnx.Linear(encoder.width, config.side_channels, rngs=rngs, **inputs)
            self.side_in = nnx.Linear(config.side_channels, decoder.width, rngs=rngs, **inputs)

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents."""
        return self.quantiser.entries[...]

    def encode(
        self, waves: Float[Array, "b s *c"], num_samples: Int[Array, "b"] | None = None
    ) -> Tokens:
        """Return latents and codes; `s` must be a multiple of the hop (pad with zeros on the
        right).
        """
        if num_samples is None:
            num_samples = jnp.full((waves.shape[0],), waves.shape[1])
        return self._encode(waves, num_samples)[0]

    def decode_codes(
        self,
        codes: Int[Array, "b t k"],
        num_frames: Int[Array, "b"] | None = None,
        side: Float[Array, "b c"] | None = None,
    ) -> Float[Array, "b s *c"]:
        """Return waves from codes; fewer than K levels decode at a lower rate."""
        return self.decode_latents(self.quantiser.decode(codes), num_frames, side)

    def decode_latents(
        self,
        latents: Float[Array, "b t d"],
        num_frames: Int[Array, "b"] | None = None,
        side: Float[Array, "b c"] | None = None,
    ) -> Float[Array, "b s *c"]:
        """Return waves of t * hop samples from latents; samples past `num_frames` are silent.

        Raises:
            GenlabError: if the codec has side channels and `side` is absent.
        """
        frames = latents.shape[1]
        is_valid = jnp.arange(frames)[None] < (
            frames if num_frames is None else num_frames[:, None]
        )
        is_valid = jnp.broadcast_to(is_valid, latents.shape[:2])
        hidden = self.decoder_in(latents)
        if self.config.side_channels:
            if side is None:
                raise GenlabError(
                    "side: absent, but this codec keeps part of the voice there; pass Tokens.side"
                )
            hidden = hidden + self.side_in(side)[:, None]
        for block in self.decoder:
            hidden = block(hidden, is_valid)
        spectrum = self._spectrum(hidden, is_valid)
        planes = istft(
            spectrum, self.config.window_samples, self._hop_samples, self._samples_before
        )
        waves = from_planes(planes, self.channels)  # mid and side are not what is heard
        is_sample = jnp.repeat(is_valid, self.spec.hop_samples, axis=1)
        return waves * (is_sample if waves.ndim == 2 else is_sample[..., None])

    def start_encoding(self, batch: int) -> PyTree:
        """Return what to carry into the first chunk of a causal codec: samples, and frames per
        block.

        Raises:
            GenlabError: if the codec is not causal.
        """
        self._check_causal()
        return jnp.zeros((batch, self._overlap)), first_pasts(
            self.encoder, batch, self.config.encoder.width
        )

    def encode_chunk(self, waves: Float[Array, "b s"], carry: PyTree) -> tuple[Tokens, PyTree]:
        """Return the tokens of whole frames, equal to those of `encode`, and what to carry on."""
        samples, pasts = carry
        seen = jnp.concatenate([samples, waves], axis=1)
        window = hann_window(self.config.window_samples)[None, None]
        spectrum = jnp.fft.rfft(
            cut_frames(seen, self.config.window_samples, self._hop_samples) * window, axis=-1
        )
        inputs = self.encoder_in(features(spectrum, 1, SUBFRAMES))
        hidden, pasts = stream_blocks(self.encoder, inputs, pasts)
        latents, _ = self._bottleneck(self.encoder_norm(hidden))
        num_frames = jnp.full(latents.shape[:1], latents.shape[1], jnp.int32)
        tokens = Tokens(self.quantiser.encode(latents), latents, num_frames)
        return tokens, (seen[:, seen.shape[1] - self._overlap :], pasts)

    def start_decoding(self, batch: int) -> PyTree:
        """Return what to carry into the first chunk of a causal codec: unfinished samples, and
        frames per block.
        """
        self._check_causal()
        return jnp.zeros((batch, self._overlap)), first_pasts(
            self.decoder, batch, self.config.decoder.width
        )

    def decode_chunk(
        self, codes: Int[Array, "b t k"], carry: PyTree
    ) -> tuple[Float[Array, "b s"], PyTree]:
        """Return t * hop samples and what to carry on; they are those of `decode_codes`, window -
        hop / 2 later.
        """
        unfinished, pasts = carry
        hidden, pasts = stream_blocks(
            self.decoder, self.decoder_in(self.quantiser.decode(codes)), pasts
        )
        spectrum = self._spectrum(hidden, jnp.ones(hidden.shape[:2], bool))
        window = hann_window(self.config.window_samples)
        frames = jnp.fft.irfft(spectrum, n=self.config.window_samples, axis=-1) * window[None, None]
        samples = spread_frames(frames, self._hop_samples)
        samples = samples.at[:, : self._overlap].add(unfinished)
        finished = codes.shape[1] * self.spec.hop_samples
        envelope = np.tile(
            (window**2).reshape(-1, self._hop_samples).sum(axis=0), codes.shape[1] * SUBFRAMES
        )
        return samples[:, :finished] / envelope[None], (samples[:, finished:], pasts)

    def start_from(self, trained: "SpectralCodec") -> None:
        """Take over the parameters of a trained codec; what only training uses stays fresh.

        Raises:
            GenlabError: if the two codecs differ in shape.
        """
        theirs, ours = (nnx.to_pure_dict(nnx.state(codec)) for codec in (trained, self))
        # Exported codecs have forgotten how often entries were used; without this all of them would
        # be revived.
        theirs["quantiser"]["usage"] = jnp.ones_like(theirs["quantiser"]["usage"])
        theirs["step"] = ours["step"]
        kept = {name: part for name, part in ours.items() if name not in TRAINING_PARTS}
        if jax.tree.map(jnp.shape, kept) != jax.tree.map(jnp.shape, theirs):
            raise GenlabError(
                "start_from: these weights are of a codec of another shape; use its codec config"
            )
        nnx.update(self, {**ours, **theirs})

    def loss(
        self, waves: Float[Array, "b s *c"], num_samples: Int[Array, "b"], *, key: Key[Array, ""]
    ) -> LossOut:
        """Return reconstruction, commitment and, past its start step, adversarial losses; moves the
        codebooks.
        """
        config = self.config
        level_key, update_key = jax.random.split(key)
        (codes, latents, num_frames, side), noise_scale = self._encode(waves, num_samples)
        assert codes is not None and latents is not None, "the encoder gives both views"
        is_valid = jnp.arange(latents.shape[1])[None] < num_frames[:, None]
        shares = config.share_continuous, config.share_fewer_levels
        levels = draw_levels(level_key, waves.shape[0], config.codebooks, *shares)
        sums = jax.lax.stop_gradient(self.quantiser.partial_sums(codes))
        quantised = jnp.take_along_axis(
            sums, jnp.maximum(levels - 1, 0)[None, :, None, None], axis=0
        )[0]
        # Straight-through: the decoder sees codes, the encoder gets the decoder's gradient.
        noise = 0.0 if noise_scale is None else noise_scale * jax.random.normal(key, latents.shape)
        continuous = latents + noise
        passed = jnp.where(
            levels[:, None, None] > 0,
            latents + jax.lax.stop_gradient(quantised - latents),
            continuous,
        )
        fake = self.decode_latents(passed, num_frames, side)
        frames = jnp.maximum(num_frames, 1).astype(jnp.float32)
        left = jnp.mean((latents[None] - sums) ** 2, axis=-1) * is_valid[None]
        commitment = jnp.sum(left, axis=-1).mean(axis=0) / frames
        real, made = each_channel(waves), each_channel(fake)
        mel = mean_over_channels(mel_distance(real, made, config.sample_rate_hz), self.channels)
        spectral = mean_over_channels(stft_distance(real, made), self.channels)
        per_example = (
            config.mel_weight * mel
            + config.stft_weight * spectral
            + config.commitment_weight * commitment
        )
        metrics = {"mel_distance": mel, "stft_distance": spectral, "commitment": commitment}
        if config.kl_weight is not None and noise_scale is not None:
            # KL divergence from a standard normal, in nats per frame and channel.
            nats = 0.5 * (latents**2 + noise_scale**2 - 1.0) - jnp.log(noise_scale)
            metrics["kl"] = jnp.sum(nats.mean(axis=-1) * is_valid, axis=-1) / frames
            per_example = per_example + config.kl_weight * metrics["kl"]
        if config.distillation is not None:
            # Straight-through again: level 1 as it is read, the gradient into the encoder.
            owned = self.quantiser.owned_channels(0)[None, None]
            level_one = (latents + sums[0] - jax.lax.stop_gradient(latents)) * owned
            metrics["distillation"] = self.distillation(level_one, waves, num_samples)
            per_example = per_example + config.distillation.weight * metrics["distillation"]
        if config.adversarial is not None:
            adversarial, extra = self._adversarial(config.adversarial, real, made)
            per_example, metrics = per_example + adversarial, metrics | extra
        is_used = is_valid[..., None] & (
            jnp.arange(config.codebooks)[None, None] < levels[:, None, None]
        )
        self.quantiser.update(latents, codes, is_used, update_key)
        self.step[...] = self.step[...] + 1
        usage = self.quantiser.usage[...] / jnp.maximum(
            self.quantiser.usage[...].sum(axis=-1, keepdims=True), 1e-6
        )
        entropy_bits = -jnp.sum(usage * jnp.log2(usage + 1e-9), axis=-1).mean()
        metrics["code_entropy_bits"] = jnp.broadcast_to(entropy_bits, mel.shape)
        return LossOut(per_example, jnp.ones_like(mel), metrics)

    def _encode(
        self, waves: Float[Array, "b s *c"], num_samples: Int[Array, "b"]
    ) -> tuple[Tokens, Float[Array, "b t d"] | None]:
        """Return the tokens, and the scale of the noise of a variational bottleneck."""
        hop_samples = self.spec.hop_samples
        if waves.shape[1] % hop_samples:
            raise ValueError(
                f"waves: {waves.shape[1]} samples are not a multiple of the hop {hop_samples}; "
                "pad with zeros"
            )
        num_frames = (-(-num_samples // hop_samples)).astype(jnp.int32)
        planes = to_planes(waves, self.channels)
        spectra = stft(planes, self.config.window_samples, self._hop_samples, self._samples_before)
        inputs = features(spectra, self._seen, SUBFRAMES)
        # A clip in a batch must encode as it does alone, so padded frames are silenced in every
        # block.
        is_valid = jnp.arange(inputs.shape[1])[None] < num_frames[:, None]
        hidden = self.encoder_in(inputs)
        for block in self.encoder:
            hidden = block(hidden, is_valid)
        hidden = self.encoder_norm(hidden)
        latents, noise_scale = self._bottleneck(hidden)
        latents = latents * is_valid[..., None]
        side = None
        if self.config.side_channels:
            # One vector per utterance: the mean over its valid frames. b t h -> b h
            mean = (
                jnp.sum(hidden * is_valid[..., None], axis=1) / jnp.maximum(num_frames, 1)[:, None]
            )
            side = round_side(self.side_out(mean))
        return Tokens(self.quantiser.encode(latents), latents, num_frames, side), noise_scale

    def _bottleneck(
        self, hidden: Float[Array, "b t h"]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t d"] | None]:
        """Return latents, and the scale of their noise if the bottleneck is variational."""
        latents = self.encoder_out(hidden)
        if self.config.kl_weight is None:
            return latents, None
        latents, scale = jnp.split(latents, 2, axis=-1)
        return latents, jax.nn.softplus(scale) + 1e-4

    def _spectrum(
        self, hidden: Float[Array, "b t h"], is_valid: Bool[Array, "b t"]
    ) -> Complex[Array, "p u f"]:
        """Return the complex spectrum of every plane that the decoder's last frames stand for, two
        STFT frames each.
        """
        outputs = self.decoder_out(self.decoder_norm(hidden)) * is_valid[..., None]
        pairs = pairs_of(outputs, self.channels, SUBFRAMES)
        magnitude = jnp.exp(jnp.minimum(pairs[..., 0] - 2.0, 5.0))
        return jax.lax.complex(
            magnitude * jnp.cos(pairs[..., 1]), magnitude * jnp.sin(pairs[..., 1])
        )

    @property
    def _hop_samples(self) -> int:
        return self.config.hop_samples // SUBFRAMES

    @property
    def _overlap(self) -> int:
        return self.config.window_samples - self._hop_samples

    @property
    def _samples_before(self) -> int:
        return self._overlap if self.config.causal else self._overlap // 2

    def _check_causal(self) -> None:
        if not self.config.causal:
            raise GenlabError(
                "codec: this one looks ahead, so it cannot run chunk by chunk; train one with "
                "causal=true"
            )

    def _adversarial(
        self, config: AdversarialConfig, real: Float[Array, "p s"], fake: Float[Array, "p s"]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Return what the discriminator adds to the loss of each example, and its parts; it judges
        channels one by one.
        """

        def on() -> tuple[Array, Array, Array]:
            return adversarial_losses(self.discriminator, real, fake)

        def off() -> tuple[Array, Array, Array]:
            nothing = jnp.zeros(real.shape[0])
            return nothing, nothing, nothing

        # lax.cond, not where: before the start step the discriminator costs nothing.
        judged = jax.lax.cond(self.step[...] >= config.start_step, on, off)
        generator, matching, critic = (mean_over_channels(term, self.channels) for term in judged)
        total = config.generator_weight * generator + config.matching_weight * matching + critic
        return total, {
            "generator_hinge": generator,
            "feature_matching": matching,
            "critic_hinge": critic,
        }
