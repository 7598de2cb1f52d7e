"""Streams without an end: one program, flat memory, seams like the interior of a known law, and a
style that moves with the weights of two labels.
"""

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import FAMILIES, SPEC, VOCAB, randomised
from flax import nnx

from genlab.codecs.endless import decode_endless
from genlab.config import GenlabError
from genlab.decoders.ar import ARSampler
from genlab.decoders.endless import stream_forever
from genlab.evaluate.seams import rank_seams
from genlab.tokens import Cond, SampleOut, make_tokens

KEEPS, CONTEXT, CHUNK = 0.9, 8, 4


class Walk(nnx.Module):
    """Knows the law of walks around the weight of the second of two labels."""

    reads = "latents"
    spec = SPEC
    traced: ClassVar[list] = []

    def sample(self, cond, *, num_frames, key, sampler, prompt):
        """Return the draws: what is known is kept, and the walk goes on from there."""
        self.traced.append(cond.content.shape)
        style = cond.speaker[None, :, 1:]
        given = jnp.moveaxis(prompt.tokens.latents, 1, 0) - style
        is_known = jnp.moveaxis(prompt.is_known, 1, 0)[:, :, None]
        first_key, key = jax.random.split(key)
        noise = jax.random.normal(key, given.shape)

        def step(before, inputs):
            kept, is_kept, fresh = inputs
            drawn = KEEPS * before + (1 - KEEPS**2) ** 0.5 * fresh
            return (after := jnp.where(is_kept, kept, drawn)), after

        start = jax.random.normal(first_key, given.shape[1:])
        frames = jax.lax.scan(step, start, (given, is_known, noise))[1]
        latents = jnp.moveaxis(frames + style, 0, 1)
        return SampleOut(make_tokens(latents=latents, num_frames=num_frames), 1)


def mixed(b, weight, frames=CONTEXT + CHUNK):
    """Conditions that mix two labels."""
    weights = jnp.tile(jnp.array([[1 - weight, weight]], jnp.float32), (b, 1))
    return Cond.none(b, frames)._replace(speaker=weights, is_dropped=jnp.zeros(b, bool))


def stream(told, chunks):
    found = stream_forever(
        Walk(),
        told,
        sampler=ARSampler(),
        context_frames=CONTEXT,
        chunk_frames=CHUNK,
        key=jax.random.key(0),
    )
    return list(itertools.islice(found, chunks))


def test_seams_are_like_the_interior_of_the_law():
    chunks = stream(lambda number: mixed(256, 0.0), 30)
    assert [chunk.shape[1] for chunk in chunks] == [CONTEXT + CHUNK] + [CHUNK] * 29
    frames = np.concatenate(chunks, axis=1)
    jumps = np.square(np.diff(frames, axis=1)).mean(axis=(0, 2))
    seams = np.arange(CONTEXT + CHUNK, frames.shape[1], CHUNK) - 1
    inner = np.delete(jumps, seams)
    expected = 2 * (1 - KEEPS)
    assert jumps[seams].mean() == pytest.approx(expected, rel=0.03)
    assert inner.mean() == pytest.approx(expected, rel=0.03)
    # It forgets nothing and drifts nowhere: the last chunk is of the law of the first.
    assert np.square(frames[:, -CHUNK:]).mean() == pytest.approx(1, abs=0.1)


def test_memory_is_flat_and_one_program_draws_all():
    Walk.traced.clear()
    found = stream_forever(
        Walk(),
        lambda number: mixed(2, 0.0),
        sampler=ARSampler(),
        context_frames=CONTEXT,
        chunk_frames=CHUNK,
        key=jax.random.key(0),
    )
    held = []
    for number, _ in enumerate(itertools.islice(found, 60)):
        if number in (5, 59):
            held.append(sum(array.nbytes for array in jax.live_arrays()))
    assert held[0] == held[1]
    assert Walk.traced == [(2, CONTEXT + CHUNK)]


def test_a_style_moves_with_its_weight_and_chunks_do_not_depend_on_what_comes_later():
    weights = (0.0, 0.25, 0.5, 0.75, 1.0)
    means = []
    for weight in weights:
        chunks = stream(lambda number, weight=weight: mixed(64, 4 * weight), 12)
        means.append(float(np.concatenate(chunks[4:], axis=1).mean()))
    assert means == sorted(means)
    np.testing.assert_allclose(means, [4 * weight for weight in weights], atol=0.15)
    moving = stream(lambda number: mixed(64, 0.0 if number < 6 else 4.0), 12)
    still = stream(lambda number: mixed(64, 0.0), 12)
    for before, after in zip(moving[:6], still[:6]):
        np.testing.assert_array_equal(before, after)
    assert moving[-1].mean() > 2  # on its way from one style to the other, and there is no cut
    edges = np.square(moving[6][:, 0] - moving[5][:, -1]).mean()
    assert edges < 2.5 * 2 * (1 - KEEPS)


@pytest.mark.parametrize("name", ["flat", "diffusion"])
def test_families_stream_what_they_read(name):
    family = FAMILIES[name]
    decoder = randomised(family.build())
    cond = Cond.none(2, 12)
    assert VOCAB.num_speakers > 1
    chunks = stream_forever(
        decoder,
        lambda number: cond,
        sampler=family.sampler,
        context_frames=8,
        chunk_frames=4,
        key=jax.random.key(0),
    )
    first, second = itertools.islice(chunks, 2)
    channels = SPEC.codebooks if decoder.reads == "codes" else SPEC.latent_channels
    assert first.shape == (2, 12, channels) and second.shape == (2, 4, channels)
    assert np.isfinite(np.asarray(second)).all()


def test_what_cannot_be_streamed_is_told():
    with pytest.raises(GenlabError, match="context_frames=0, chunk_frames=4: expected 1 or more"):
        next(
            stream_forever(
                Walk(),
                lambda number: mixed(2, 0.0),
                sampler=ARSampler(),
                context_frames=0,
                chunk_frames=4,
                key=jax.random.key(0),
            )
        )
    with pytest.raises(GenlabError, match=r"told\(0\): conditions of 5 frames, expected 12"):
        stream(lambda number: mixed(2, 0.0, frames=5), 1)


def test_the_audio_of_chunks_is_that_of_the_whole():
    """A codec that fades at its ends and blurs over frames is heard in one piece."""

    def decode(views):
        waves = []
        for view in views:
            wave = np.convolve(np.repeat(view[:, 0], 160), np.ones(800) / 800, mode="same")
            fade = np.minimum(1, np.arange(len(wave)) / 400)
            waves.append(wave * fade * fade[::-1])
        return waves

    rng = np.random.default_rng(0)
    frames = np.cumsum(rng.normal(size=(60, 1)), axis=0)
    sizes = [12] + [4] * 12
    chunks = np.split(frames, np.cumsum(sizes)[:-1])
    parts = list(decode_endless(decode, iter(chunks), margin_frames=6, samples_per_frame=160))
    heard = np.concatenate(parts)
    whole = decode([frames])[0]
    # The stream ends by stopping: what lies ahead of the last margin is not heard.
    assert len(heard) == (60 - 6) * 160
    np.testing.assert_allclose(heard[960:], whole[960 : len(heard)], atol=1e-9)
    assert max(len(part) for part in parts[1:]) == 4 * 160
    cuts = np.cumsum([len(part) for part in parts])[:-1]
    noisy = np.concatenate(parts) + 1e-3 * rng.normal(size=len(heard))
    ranks = rank_seams(noisy, 8000, cuts.tolist())
    assert np.mean(ranks) < 0.8  # no cut is louder than what lies between them
