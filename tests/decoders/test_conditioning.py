"""Conditions: padding, text length, relative places, guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import BACKBONE, FAMILIES, NUM_FRAMES, VOCAB, jitted_loss, randomised, toy_batch

from genlab.decoders.ar import ARSampler
from genlab.decoders.conditioning import ConditionConfig, Conditioner
from genlab.decoders.guidance import guide, with_unconditional


@pytest.mark.parametrize(
    ("name", "route"),
    [("ar", "prefix"), ("ar", "cross"), ("masked", "cross"), ("diffusion", "prefix")],
)
def test_padding_symbols_do_not_move_the_loss(name, route, key):
    tokens, cond = toy_batch()
    condition = ConditionConfig(dropout=0.3, content="text", route=route)
    decoder = randomised(FAMILIES[name].build(condition=condition))
    loss = jitted_loss(decoder)
    padded = cond._replace(text=jnp.pad(cond.text, ((0, 0), (0, 4))))
    np.testing.assert_allclose(
        loss(tokens, cond, key).per_example, loss(tokens, padded, key).per_example, rtol=1e-5
    )
    other = cond._replace(text=cond.text[:, ::-1])
    assert (loss(tokens, cond, key).per_example != loss(tokens, other, key).per_example).any()


def test_semantic_features_look_a_few_frames_ahead(key):
    conditioner = Conditioner(ConditionConfig(layers=2), VOCAB, BACKBONE, key=key)
    tokens, cond = toy_batch()
    is_valid = jnp.ones_like(tokens.is_valid)
    other = cond._replace(
        content=cond.content.at[0, 7].set(1 + cond.content[0, 7] % VOCAB.num_units)
    )
    moved = (
        jnp.abs(conditioner(cond, is_valid).frames - conditioner(other, is_valid).frames).max(
            axis=-1
        )
        > 1e-7
    )
    # Two layers of +-3 frames.
    np.testing.assert_array_equal(jnp.flatnonzero(moved[0]), np.arange(1, NUM_FRAMES))
    assert not moved[1:].any()


def test_a_dropped_text_hides_its_length(key):
    conditioner = Conditioner(
        ConditionConfig(content="text", dropout=0.0), VOCAB, BACKBONE, key=key
    )
    tokens, cond = toy_batch()
    dropped = cond._replace(is_dropped=jnp.ones(3, bool))
    short = dropped._replace(text=dropped.text.at[:, 2:].set(0))
    long, brief = conditioner(dropped, tokens.is_valid), conditioner(short, tokens.is_valid)
    for first, second in zip(jax.tree.leaves(long), jax.tree.leaves(brief), strict=True):
        np.testing.assert_array_equal(first, second)
    assert long.text.is_valid.sum(axis=1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("route", ["sum", "adaln"])
def test_a_dropped_duration_is_not_told(route, key):
    """Else what guidance calls unconditional would know how long the clip is."""
    config = ConditionConfig(
        content="none", speaker=False, duration=True, clip_route=route, dropout=0.0
    )
    conditioner = Conditioner(config, VOCAB, BACKBONE, key=key)
    _, cond = toy_batch()
    dropped = cond._replace(is_dropped=jnp.ones(3, bool))
    short, long = (jnp.arange(NUM_FRAMES)[None, :] < jnp.full((3, 1), n) for n in (4, NUM_FRAMES))

    def tell(cond, is_valid):
        found = conditioner(cond, is_valid)
        return (found.frames[:, :4], found.clip) if route == "adaln" else (found.frames[:, :4],)

    for first, second in zip(tell(dropped, short), tell(dropped, long), strict=True):
        np.testing.assert_array_equal(first, second)
    told = tell(cond, short)[-1], tell(cond, long)[-1]
    assert (jnp.abs(told[0] - told[1]).max(axis=-1) > 1e-3).all()


def test_dropout_drops_its_share(key):
    conditioner = Conditioner(
        ConditionConfig(content="none", dropout=0.3), VOCAB, BACKBONE, key=key
    )
    _, cond = toy_batch(num_examples=2000, num_frames=6)
    is_valid = jnp.ones((2000, 6), bool)
    nobody = conditioner(cond._replace(is_dropped=jnp.ones(2000, bool)), is_valid).frames
    features = conditioner(cond, is_valid, key=key).frames
    np.testing.assert_allclose((features == nobody).all(axis=(1, 2)).mean(), 0.3, atol=0.03)
    conditioner.eval()
    assert not (conditioner(cond, is_valid, key=key).frames == nobody).all(axis=(1, 2)).any()


def test_guidance_extrapolates():
    both = jnp.array([[3.0], [1.0]])
    assert [guide(both, ARSampler(guidance=scale)).item() for scale in (0.0, 2.0)] == [1.0, 5.0]
    _, cond = toy_batch()
    doubled = with_unconditional(cond, ARSampler(guidance=2.0))
    assert doubled.is_dropped.tolist() == [False, True] * 3
    np.testing.assert_array_equal(doubled.content, jnp.repeat(cond.content, 2, axis=0))
    assert with_unconditional(cond, ARSampler()) is cond
