"""What only the masked family over latents promises: hidden frames say nothing, and the order is
random and whole.
"""

import jax
import jax.numpy as jnp
import numpy as np
from decoder_toys import FAMILIES, NUM_FRAMES, prompt_where, toy_batch

from genlab.decoders.mar import MARSampler

FAMILY = FAMILIES["mar"]


def test_hidden_frames_say_nothing_and_visible_ones_do():
    (tokens, cond), decoder = toy_batch(), FAMILY.build()
    is_visible = tokens.is_valid & (jnp.arange(NUM_FRAMES) % 3 == 1)[None]

    @jax.jit
    def hidden(latents):
        conditions = decoder.conditioner(cond, tokens.is_valid)
        return decoder._hidden(latents, is_visible, conditions, tokens.is_valid)[0]

    before = hidden(tokens.latents)
    np.testing.assert_array_equal(hidden(tokens.latents.at[0, 3].add(1.0)), before)
    moved = np.abs(hidden(tokens.latents.at[0, 4].add(1.0)) - before).max(axis=1) > 1e-6
    assert moved[tokens.is_valid[0]].all()  # on both sides


def test_every_frame_is_revealed_once_whatever_is_known(key):
    """A fresh head has velocity 0, so a frame that was drawn shows the noise it started from, and
    none shows 0.
    """
    (tokens, cond), decoder = toy_batch(), FAMILY.build()
    for known in (None, np.arange(NUM_FRAMES) % 4 == 2):
        prompt = None if known is None else prompt_where(tokens, known)
        for rounds in (1, 3, 40):
            sampler = MARSampler(rounds=rounds, steps=1)
            out = decoder.sample(
                cond, num_frames=tokens.num_frames, key=key, sampler=sampler, prompt=prompt
            ).tokens
            assert (jnp.abs(out.latents).max(axis=2) > 0)[tokens.is_valid].all()
            assert (out.latents[~tokens.is_valid] == 0).all()
