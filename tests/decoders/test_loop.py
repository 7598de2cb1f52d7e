"""Samples that loop: rolled exactly, no place is special whatever the network is, the seam of a
known law is like its interior, and the codec adds none.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import FAMILIES, randomised, toy_batch

from genlab.codecs.loops import CONTEXT_S, decode_loops
from genlab.decoders.conditioning import Conditions
from genlab.decoders.diffusion import DiffusionSampler
from genlab.decoders.loop import in_a_circle, is_loop, roll_frames
from genlab.decoders.noise.paths import StraightPath
from genlab.decoders.noise.solvers import Euler, fill_in
from genlab.decoders.prefix import Known
from genlab.evaluate.seams import LoopSeam, rank_seams

KEEPS, FRAMES, CLIPS = 0.9, 24, 512
COVARIANCE = KEEPS ** np.abs(np.arange(FRAMES)[:, None] - np.arange(FRAMES)[None, :])
RATE_HZ = 16_000


def test_clips_are_rolled_within_their_own_length():
    frames = jnp.arange(10)[None, :, None] * jnp.ones((2, 1, 1))
    num_frames = jnp.array([10, 6])
    rolled = roll_frames(frames, jnp.array([3, 2]), num_frames)[:, :, 0]
    assert rolled[0].tolist() == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert rolled[1].tolist() == [2, 3, 4, 5, 0, 1, 6, 7, 8, 9]
    back = roll_frames(rolled[:, :, None], num_frames - jnp.array([3, 2]), num_frames)
    np.testing.assert_array_equal(back, frames)


def denoise(noisy, level, conditions, is_valid, given):
    """The best guess of a walk of unit variance at a level of the straight path, with ends."""
    clean, noise = 1 - level[0], level[0]
    covariance = jnp.asarray(COVARIANCE)
    observed = clean**2 * covariance + noise**2 * jnp.eye(FRAMES)
    return (
        clean * jnp.einsum("ts,bsd->btd", covariance @ jnp.linalg.inv(observed), noisy)
        + conditions.frames[:, :, : noisy.shape[2]]
    )


def call_with(call, noisy, said, level=0.5):
    b = len(noisy)
    nothing = Known(jnp.zeros_like(noisy), jnp.zeros(noisy.shape[:2], bool))
    is_valid = jnp.ones(noisy.shape[:2], bool)
    return call(noisy, jnp.full((b,), level), Conditions(said, None), is_valid, nothing)


def test_over_all_offsets_no_place_is_special():
    """Rolled by any number of frames, with what is said of each, the mean prediction is that of the
    clip, rolled; that of the network alone is not.
    """
    noisy, said = (jax.random.normal(jax.random.key(seed), (1, FRAMES, 2)) for seed in (0, 1))
    keys = jax.random.split(jax.random.key(2), 400)

    def mean(noisy, said):
        # Every offset often enough: their mean over the keys is weighted alike.
        by_key = jax.vmap(lambda key: call_with(in_a_circle(denoise, key), noisy, said))(keys)
        return by_key.mean(axis=0)

    shift = 7
    moved = [jnp.roll(values, shift, axis=1) for values in (noisy, said)]
    found, rolled = mean(*moved), jnp.roll(mean(noisy, said), shift, axis=1)
    alone = jnp.roll(call_with(denoise, noisy, said), shift, axis=1)
    of_network = jnp.abs(call_with(denoise, *moved) - alone).max()
    assert jnp.abs(found - rolled).max() < 0.2 * of_network
    # What is said of a frame comes back to it exactly.
    silent = call_with(in_a_circle(denoise, keys[0]), jnp.zeros_like(noisy), said)
    np.testing.assert_allclose(silent, said, atol=1e-6)


def draw(is_circle):
    noise = jax.random.normal(jax.random.key(0), (CLIPS, FRAMES, 1))
    call = in_a_circle(denoise, jax.random.key(1)) if is_circle else denoise
    said = jnp.zeros((CLIPS, FRAMES, 1))
    return fill_in(
        Euler(),
        StraightPath(),
        "clean",
        lambda noisy, level: call_with(call, noisy, said, level),
        noise,
        StraightPath().grid(100, 1.0),
        known=jnp.zeros_like(noise),
        is_known=jnp.zeros((CLIPS, FRAMES), bool),
        key=jax.random.key(2),
    )[:, :, 0]


def test_the_seam_of_a_known_law_is_like_its_interior():
    for is_circle in (False, True):
        clips = draw(is_circle)
        inner = jnp.square(jnp.diff(clips, axis=1)).mean(axis=0)
        seam = float(jnp.square(clips[:, 0] - clips[:, -1]).mean())
        if is_circle:
            assert seam < 1.25 * inner.max() and float(clips.std()) > 0.7
        else:  # the ends of a walk know nothing of each other
            assert seam > 5 * inner.max()
            assert float(inner.mean()) == pytest.approx(2 * (1 - KEEPS), rel=0.15)


def test_the_sampler_draws_loops_and_says_so():
    tokens, cond = toy_batch()
    family = FAMILIES["diffusion"]
    decoder = randomised(family.build())
    draws = {
        setting: decoder.sample(
            cond,
            num_frames=tokens.num_frames,
            key=jax.random.key(0),
            sampler=DiffusionSampler(steps=2, guidance=2.0, is_loop=setting),
        )
        for setting in (False, True)
    }
    calls = {out.num_network_calls for out in draws.values()}
    assert len(calls) == 1  # a roll costs none
    plain, looped = (np.asarray(out.tokens.latents) for out in draws.values())
    is_valid = np.asarray(tokens.is_valid)
    assert np.isfinite(looped).all() and not looped[~is_valid].any()
    assert np.abs(looped - plain)[is_valid].max() > 1e-3
    assert is_loop(DiffusionSampler(is_loop=True)) and not is_loop(DiffusionSampler())
    assert not is_loop(object())
    assert DiffusionSampler().digest() == DiffusionSampler(is_loop=False).digest()


def test_a_codec_with_edges_adds_no_seam():
    """A codec that fades in and out at the ends of what it is given, and blurs over frames."""
    codec = SimpleNamespace(spec=SimpleNamespace(frame_hz=50.0), wave_rate_hz=8000)

    def decode(views):
        waves = []
        for view in views:
            wave = np.convolve(np.repeat(view[:, 0], 160), np.ones(800) / 800, mode="same")
            fade = np.minimum(1, np.arange(len(wave)) / 800)
            waves.append(wave * fade * fade[::-1])
        return waves

    time = np.arange(20)
    loop = np.sin(2 * np.pi * time / 20)[:, None]
    short = loop[::4]  # shorter than what is heard around it
    whole, brief = decode_loops(decode, [loop, short], codec)
    assert len(whole) == 20 * 160 and len(brief) == 5 * 160
    # Repeated, it is what the codec makes of an endless clip.
    endless = decode([np.tile(loop, (9, 1))])[0]
    np.testing.assert_allclose(whole, endless[4 * len(whole) : 5 * len(whole)], atol=1e-9)
    jump = abs(whole[0] - whole[-1])
    assert jump <= np.abs(np.diff(whole)).max() + 1e-9
    assert abs(decode([loop])[0][0]) < 1e-9 < abs(whole[1])  # by itself it fades in
    assert CONTEXT_S > 0.1


def test_the_rank_of_a_seam_says_whether_a_loop_can_be_heard():
    rng = np.random.default_rng(0)
    seamless, cut = [], []
    for _ in range(40):
        # Noise of 40 periods that fit, its level swells: a circle has no beginning.
        spectrum = np.zeros(RATE_HZ // 2 + 1, complex)
        spectrum[200:3000] = rng.normal(size=2800) + 1j * rng.normal(size=2800)
        wave = np.fft.irfft(spectrum, RATE_HZ)
        swell = 1.2 + np.sin(2 * np.pi * (np.arange(RATE_HZ) / RATE_HZ + rng.uniform()))
        wave = 0.1 * wave / wave.std() * swell
        seamless.append(LoopSeam().rank(wave, None))  # type: ignore[arg-type]
        fading = wave * np.linspace(0.05, 1, RATE_HZ)
        cut.append(LoopSeam().rank(fading, None))  # type: ignore[arg-type]
    assert abs(np.mean(seamless) - 0.5) < 4 * 0.29 / len(seamless) ** 0.5
    assert np.mean(cut) > 0.85
    places = rank_seams(np.tile(wave, 2), RATE_HZ, [RATE_HZ])
    assert places.shape == (1,) and 0 <= places[0] <= 1
    assert np.isnan(rank_seams(wave[:100], RATE_HZ, [0])).all()
    [metric] = LoopSeam().metrics()
    assert metric.name == "loop_seam" and metric.direction == "lower"
