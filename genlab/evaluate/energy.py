"""Energy score of the next block: what a decoder would do next, scored on its samples alone, for every family.

In: a trained decoder, and clips whose first half it is given, as codes or latents, together with their conditions. Out:
per clip the energy score of the block that follows the middle (Gneiting and Raftery 2007, section 4.3, with the sign
turned, so that lower is better),

    E |X - y| - 1/2 E |X - X'|,

with y the real block, X and X' independent draws, and |.| the root mean square over the block's frames and channels:
1 is one standard deviation of the latents. It is proper: in expectation no forecast beats the true distribution. The
latents are the shared ground: sampled codes count as the latents they stand for, and pay for their quantisation.

The sampler is the arm's own, frozen settings and all: what is scored is what would be heard, not the bare model.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from genlab.data.store import TokenClip, TokenStore
from genlab.decoders.noise.heads import energy_score
from genlab.experiment import DecoderRun
from genlab.sample import compile_sampler, conditions
from genlab.tokens import Prompt, Tokens, read_latents

BLOCK_S = 0.24


def block_energies(
    model: nnx.Module, run: DecoderRun, store: TokenStore, clips: Sequence[TokenClip], *, num_draws: int, seed: int
) -> Float[np.ndarray, "n"]:
    """Return the energy score of each clip's block, NaN where less than a block follows the middle.

    Args:
        model: the trained decoder.
        run: names the sampler and the frames of a training example.
        store: the token store of the clips.
        clips: what is continued.
        num_draws: continuations per clip, at least 2.
        seed: of the draws.
    """
    block_frames = round(BLOCK_S * store.info.spec.frame_hz)
    cond, num_frames = conditions(store, clips, run.data.num_frames)
    examples = [store.example(clip, run.data.num_frames)[0] for clip in clips]
    tokens: Tokens = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
    first = num_frames // 2
    prompt = Prompt(tokens, jnp.asarray(np.arange(run.data.num_frames)[None, :] < first[:, None]))
    compiled, _ = compile_sampler(model, run, cond, num_frames, prompt)
    has_block = first + block_frames <= num_frames
    window = np.where(has_block, first, 0)[:, None] + np.arange(block_frames)[None, :]
    clip = np.arange(len(clips))[:, None]
    draws = []
    for key in jax.random.split(jax.random.key(seed), num_draws):
        drawn = compiled(cond, num_frames, key, prompt).tokens
        draws.append(_latents_of(drawn, store)[clip, window].reshape(len(clips), -1))
    truth = np.asarray(read_latents(tokens))[clip, window].reshape(len(clips), -1)
    scores = energy_score(jnp.stack(draws, axis=1)[:, None], jnp.asarray(truth)[:, None])[:, 0]
    return np.where(has_block, np.asarray(scores, np.float64) / np.sqrt(truth.shape[1]), np.nan)


def _latents_of(tokens: Tokens, store: TokenStore) -> Float[np.ndarray, "b t d"]:
    if tokens.latents is not None:
        return np.asarray(tokens.latents, np.float32)
    vectors = store.code_vectors
    return vectors[np.arange(len(vectors))[None, None, :], np.asarray(tokens.codes)].sum(axis=2)
