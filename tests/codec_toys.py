"""Tiny codecs, voices and corpora that the tests of codec, store, budget and library share."""

import functools
import hashlib

import jax
import numpy as np
from flax import nnx

from genlab.codecs.convnext import StackConfig
from genlab.codecs.frozen import FrozenCodec
from genlab.codecs.spectral import SpectralCodecConfig
from genlab.data.audio import to_int16, write_flac
from genlab.data.manifest import Clip, Manifest

HOP = 320
TINY = SpectralCodecConfig(
    codebooks=3,
    entries=16,
    latent_channels=8,
    encoder=StackConfig(width=24, blocks=2),
    decoder=StackConfig(width=32, blocks=2),
    share_continuous=0.0,
    share_fewer_levels=0.0,
)
TEXTS = (
    "lift the red cup",
    "we sat on a wall",
    "no rain today",
    "blue birds sing",
    "take it away",
    "five old men",
)


def make_wave(seed, num_samples, level=0.3):
    """Return harmonics of a wandering pitch under a slow envelope, plus a little noise."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(num_samples) / 16_000
    f0_hz = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 3) * time_s))
    phase = 2 * np.pi * np.cumsum(f0_hz) / 16_000
    tone = sum(np.sin(n * phase + rng.uniform(0, 6)) / n for n in range(1, 9))
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(2, 5) * time_s)
    return (level * (tone / 3 * envelope + 0.05 * rng.standard_normal(num_samples))).astype(
        np.float32
    )


def make_codec(seed=0, config=TINY, updates=3):
    """Return a random codec whose codebooks were moved onto the latents of a few waves."""
    codec = jax.jit(lambda key: config.build(key=key))(jax.random.key(seed))
    graph, state = nnx.split(codec)
    waves = np.stack([make_wave(100 + i, 40 * HOP) for i in range(4)])
    if config.channels == 2:
        waves = np.stack([waves, waves[::-1]], axis=2)

    @jax.jit
    def update(state, key):
        codec = nnx.merge(graph, state)
        tokens = codec.encode(waves)
        codec.quantiser.update(tokens.latents, tokens.codes, np.ones(tokens.codes.shape, bool), key)
        return nnx.to_pure_dict(nnx.state(codec))

    state = nnx.to_pure_dict(state)
    for number in range(updates):
        state = update(state, jax.random.key(number))
    return nnx.merge(graph, state)


@functools.cache
def make_frozen(seed=0, config=TINY):
    """Return a frozen tiny codec."""
    return FrozenCodec(make_codec(seed, config), f"codec{seed:05d}", {})


class LoudnessUnits:
    """Stands in for the unit encoder: the unit of a frame is its loudness in one of `num_units`
    steps.
    """

    num_units = 6
    fingerprint = "loudness00"

    def __init__(self):
        self.num_waves = 0

    def encode_units(self, waves):
        self.num_waves += len(waves)
        units = []
        for wave in waves:
            frames = np.pad(wave, (0, -len(wave) % HOP)).reshape(-1, HOP)
            level = np.sqrt((frames**2).mean(axis=1))
            units.append((1 + np.minimum(level * 20, self.num_units - 1)).astype(np.int16))
        return units


def make_manifest(root, num_clips=12, speakers=("ann", "bob"), seconds=(0.2, 0.9)):
    """Write a corpus of short clips: every sixth is a test clip, the next one valid."""
    clips = []
    rng = np.random.default_rng(num_clips)
    for number in range(num_clips):
        num_samples = int(16_000 * rng.uniform(*seconds))
        path = root / f"clip{number:03}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = to_int16(make_wave(number, num_samples))
        write_flac(path, samples)
        clips.append(
            Clip(
                id=f"clip{number:03}",
                path=path.name,
                text=TEXTS[number % len(TEXTS)],
                speaker=speakers[number % len(speakers)],
                split={0: "test", 1: "valid"}.get(number % 6, "train"),
                num_samples=num_samples,
                licence="CC0-1.0",
                audio_digest=hashlib.sha256(samples.tobytes()).hexdigest()[:10],
            )
        )
    return Manifest(clips, root)
