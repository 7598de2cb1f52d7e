"""A small recogniser: waves in, characters out, trained with CTC (Graves et al. 2006).

In: waves "b s" at 16 kHz. Out: logits "b t c" over 28 characters and the blank (0), one row per
codec frame of 20 ms, and hidden features "b t h" whose clusters are the semantic units
(`units.py`). Loudness and recording channel are removed before the first layer: the wave is scaled
to one level and the mean of each mel channel over the clip is subtracted.

The trunk is ConvNeXt blocks (Liu et al. 2022) with short kernels, stacked and scanned. It reaches
0.3 s to each side and no further on purpose: a recogniser that sees a whole sentence of a closed
grammar would guess words from their neighbours, and so forgive a decoder that garbles them.
"""

import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key
from pydantic import Field

from genlab.config import Config
from genlab.data.text import NUM_SYMBOLS
from genlab.machine import sharding
from genlab.nets.linear import matmul
from genlab.nets.param import matrix, vector
from genlab.nets.spectrogram import mel_filters, stft
from genlab.recognisers.augment import (
    SpectrumAugment,
    add_noise,
    distort_log_mels,
    mask_patches,
    warp_formants,
)
from genlab.tokens import LossOut

COLUMNS = 2  # spectrogram columns per frame
LEVEL = 0.1  # root mean square of the scaled wave
MEL_FLOOR = 3e-4  # about 45 dB below the mean mel magnitude of a wave at LEVEL
FEATURE_SCALE = 0.8  # brings the features to about unit variance


class RecogniserConfig(Config):
    """Shape of the recogniser."""

    kind: Literal["ctc"] = "ctc"
    sample_rate_hz: int = 16_000
    """Sample rate of waves, in Hz."""
    hop_samples: int = 320
    """Samples per frame."""
    window_samples: int = 640
    """Samples of an STFT window."""
    num_mels: int = Field(default=80, ge=8)
    """Mel bands of the input."""
    width: int = Field(default=176, ge=8)
    """Channels of the hidden frames."""
    blocks: int = Field(default=8, ge=1)
    """ConvNeXt blocks between the mel input and the symbols."""
    expansion: int = Field(default=3, ge=1)
    """Inner width of a block's MLP over `width`."""
    kernel_frames: int = Field(default=5, ge=1)
    """Taps of the depthwise convolutions."""
    feature_block: int = Field(default=5, ge=0)
    """Blocks below the features that units are made of."""
    augment: SpectrumAugment = SpectrumAugment()
    """Distortions of training spectrograms."""

    def build(self, *, key: Key[Array, ""]) -> "Recogniser":
        """Return a recogniser with fresh parameters."""
        return Recogniser(self, key)


class ConvStack(nnx.Module):
    """ConvNeXt blocks whose parameters share a leading layer axis: depthwise convolution, norm,
    two-layer MLP, add.
    """

    def __init__(self, config: RecogniserConfig, key: Key[Array, ""]):
        layers = config.blocks
        width = config.width
        hidden = config.width * config.expansion
        depthwise_key, up_key, down_key = jax.random.split(key, 3)
        kernel = config.kernel_frames
        depthwise = jax.random.normal(depthwise_key, (layers, kernel, width)) * kernel**-0.5
        self.depthwise = matrix(depthwise, sharding.WHOLE)
        self.norm_scale = vector(jnp.ones((layers, width)))
        self.norm_bias = vector(jnp.zeros((layers, width)))
        up = jax.random.normal(up_key, (layers, width, hidden)) * width**-0.5
        self.up = matrix(up, sharding.COLUMNS)
        self.up_bias = vector(jnp.zeros((layers, hidden)))
        down = jax.random.normal(down_key, (layers, hidden, width)) * hidden**-0.5
        self.down = matrix(down, sharding.ROWS)
        self.down_bias = vector(jnp.zeros((layers, width)))
        self.scale = vector(jnp.full((layers, width), layers**-0.5))

    def __call__(
        self, hidden: Float[Array, "b t h"], is_valid: Bool[Array, "b t"], first: int, stop: int
    ) -> Float[Array, "b t h"]:
        """Run blocks `first` to `stop - 1`."""
        names = (
            "depthwise",
            "norm_scale",
            "norm_bias",
            "up",
            "up_bias",
            "down",
            "down_bias",
            "scale",
        )
        weights = {name: getattr(self, name)[...][first:stop] for name in names}
        # Vectors get the axes b and t here, so that no product below broadcasts by accident.
        weights = {name: w[:, None, None] if w.ndim == 2 else w for name, w in weights.items()}

        def block(hidden: Array, w: dict[str, Array]) -> tuple[Array, None]:
            reach = w["depthwise"].shape[0] - 1
            # Padded frames enter as zeros, so an example reads the same alone and in a batch of
            # longer ones.
            padded = jnp.pad(
                hidden * is_valid[..., None], ((0, 0), (reach // 2, reach - reach // 2), (0, 0))
            )
            # A sum of shifted slices: XLA:CPU runs grouped convolutions in a naive loop.
            shifted = [
                padded[:, i : i + hidden.shape[1]] * w["depthwise"][i][None, None]
                for i in range(reach + 1)
            ]
            mixed = functools.reduce(jnp.add, shifted)
            mixed = _normalise(mixed) * w["norm_scale"] + w["norm_bias"]
            inner = jax.nn.gelu(matmul(mixed, w["up"]) + w["up_bias"])
            update = matmul(inner, w["down"]) + w["down_bias"]
            return hidden + update * w["scale"], None

        return jax.lax.scan(block, hidden, weights)[0] if stop > first else hidden


class Recogniser(nnx.Module):
    """Front end, trunk and output layer."""

    reads: ClassVar[Literal["waves"]] = "waves"

    def __init__(self, config: RecogniserConfig, key: Key[Array, ""]):
        in_key, stack_key, out_key = jax.random.split(key, 3)
        columns = COLUMNS * config.num_mels
        self.config = config
        self.input = matrix(jax.random.normal(in_key, (columns, config.width)) * columns**-0.5)
        self.input_bias = vector(jnp.zeros((config.width,)))
        self.layers = ConvStack(config, stack_key)
        output = jax.random.normal(out_key, (config.width, NUM_SYMBOLS))
        self.output = matrix(output * 0.1 * config.width**-0.5)
        self.output_bias = vector(jnp.zeros((NUM_SYMBOLS,)))

    def num_frames(self, num_samples: Int[Array, "b"]) -> Int[Array, "b"]:
        """Return the frames of clips of `num_samples`, the same as the codec's."""
        return -(-num_samples // self.config.hop_samples)

    def logits(
        self, waves: Float[Array, "b s"], num_samples: Int[Array, "b"]
    ) -> Float[Array, "b t c"]:
        """Return unnormalised log probabilities of blank (0) and symbols (1..28) per frame."""
        return self.logits_from_features(self.features(waves, num_samples), num_samples)

    def features(
        self, waves: Float[Array, "b s"], num_samples: Int[Array, "b"], block: int | None = None
    ) -> Float[Array, "b t h"]:
        """Return the hidden state above `block` blocks (`config.feature_block` if absent); zero
        past a clip's end.
        """
        return self._trunk(self._front_end(waves, num_samples, None), num_samples, block)

    def logits_from_features(
        self,
        features: Float[Array, "b t h"],
        num_samples: Int[Array, "b"],
        block: int | None = None,
    ) -> Float[Array, "b t c"]:
        """Run the blocks above the one that gave `features`, and the output layer."""
        first = self.config.feature_block if block is None else block
        is_valid = self._is_valid(features.shape[1], num_samples)
        hidden = self.layers(features, is_valid, first, self.config.blocks)
        return _normalise(hidden) @ self.output[...] + self.output_bias[...][None, None]

    def loss(
        self,
        waves: Float[Array, "b s"],
        num_samples: Int[Array, "b"],
        text: Int[Array, "b n"],
        num_symbols: Int[Array, "b"],
        *,
        key: Key[Array, ""],
    ) -> LossOut:
        """Return the CTC loss in nats per symbol on distorted audio."""
        features = self._front_end(waves, num_samples, key)
        logits = self.logits_from_features(self._trunk(features, num_samples, None), num_samples)
        is_frame_padding = ~self._is_valid(logits.shape[1], num_samples)
        is_symbol_padding = jnp.arange(text.shape[1])[None] >= num_symbols[:, None]
        nats = optax.ctc_loss(
            logits,
            is_frame_padding.astype(jnp.float32),
            text,
            is_symbol_padding.astype(jnp.float32),
            blank_id=0,
        )
        weight = num_symbols.astype(jnp.float32)
        is_blank = (jnp.argmax(logits, axis=-1) == 0) & ~is_frame_padding
        blank_share = is_blank.sum(axis=1) / jnp.maximum(self.num_frames(num_samples), 1)
        return LossOut(nats / jnp.maximum(weight, 1.0), weight, {"blank_share": blank_share})

    def _trunk(
        self, features: Float[Array, "b t c"], num_samples: Int[Array, "b"], block: int | None
    ) -> Float[Array, "b t h"]:
        stop = self.config.feature_block if block is None else block
        is_valid = self._is_valid(features.shape[1], num_samples)
        hidden = features @ self.input[...] + self.input_bias[...][None, None]
        return self.layers(hidden, is_valid, 0, stop) * is_valid[..., None]

    def _is_valid(self, frames: int, num_samples: Int[Array, "b"]) -> Bool[Array, "b t"]:
        return jnp.arange(frames)[None] < self.num_frames(num_samples)[:, None]

    def _front_end(
        self, waves: Float[Array, "b s"], num_samples: Int[Array, "b"], key: Key[Array, ""] | None
    ) -> Float[Array, "b t c"]:
        """Return two normalised log-mel columns per frame; distorted if there is a key."""
        config = self.config
        waves = jnp.pad(waves, ((0, 0), (0, -waves.shape[1] % config.hop_samples)))
        is_sample = jnp.arange(waves.shape[1])[None] < num_samples[:, None]
        waves = jnp.where(is_sample, waves, 0.0)
        keys = None if key is None else jax.random.split(key, (waves.shape[0], 4))
        if keys is not None:
            waves = jax.vmap(add_noise, (0, 0, None, 0))(
                waves, num_samples, config.augment, keys[:, 0]
            )
            waves = jnp.where(is_sample, waves, 0.0)
        power = jnp.sum(waves**2, axis=1) / jnp.maximum(num_samples, 1)
        waves = waves * (LEVEL * jax.lax.rsqrt(power + 1e-8))[:, None]
        spectrum = stft(waves, config.window_samples, config.hop_samples // COLUMNS)
        mels = jnp.abs(spectrum) @ mel_filters(
            config.sample_rate_hz, config.window_samples, config.num_mels
        )
        if keys is not None:
            centres_hz = mel_centres_hz(config)
            mels = jax.vmap(warp_formants, (0, None, None, 0))(
                mels, centres_hz, config.augment, keys[:, 1]
            )
        log_mels = jnp.log(mels + MEL_FLOOR)
        if keys is not None:
            log_mels = jax.vmap(distort_log_mels, (0, None, 0))(
                log_mels, config.augment, keys[:, 2]
            )
        num_columns = COLUMNS * self.num_frames(num_samples)
        is_column = (jnp.arange(mels.shape[1])[None] < num_columns[:, None])[..., None]
        mean = (
            jnp.sum(log_mels * is_column, axis=1, keepdims=True)
            / jnp.maximum(num_columns, 1)[:, None, None]
        )
        features = (log_mels - mean) * FEATURE_SCALE * is_column
        if keys is not None:
            features = jax.vmap(mask_patches, (0, 0, None, 0))(
                features, num_columns, config.augment, keys[:, 3]
            )
        # b (t 2) m -> b t (2 m)
        return features.reshape(waves.shape[0], mels.shape[1] // COLUMNS, COLUMNS * config.num_mels)


def mel_centres_hz(config: RecogniserConfig) -> Float[np.ndarray, "m"]:
    """Return the frequency at the peak of each mel filter's energy, strictly rising."""
    filters = mel_filters(config.sample_rate_hz, config.window_samples, config.num_mels)
    bins_hz = np.linspace(0, config.sample_rate_hz / 2, filters.shape[0], dtype=np.float32)
    return (bins_hz @ filters / filters.sum(axis=0)).astype(np.float32)


def _normalise(hidden: Float[Array, "b t h"]) -> Float[Array, "b t h"]:
    centred = hidden - hidden.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
