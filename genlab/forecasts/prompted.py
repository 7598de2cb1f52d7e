"""Draws of clips of which some frames are given, by models that share one compiled program.

In: a decoder, how it draws, clips, and which of their frames are given. Out: the latents of every
draw; sampled codes count as the latents they stand for. Which frames are given is data of the
program, so beginnings and gaps of any length are drawn by the same one.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from genlab.data.store import TokenClip, TokenStore
from genlab.decoders.task import SamplerConfig
from genlab.experiment import DecoderRun
from genlab.sample import CompiledSampler, compile_sampler, conditions
from genlab.tokens import Prompt, Tokens

BATCH_CLIPS = 32


class PromptedDraws:
    """Draws of batches of one size."""

    def __init__(self, run: DecoderRun, store: TokenStore, sampler: SamplerConfig | None = None):
        """Prepare the draws.

        Args:
            run: names the frames of a training example, and the sampler if none is given.
            store: the token store of the clips.
            sampler: how clips are drawn.
        """
        self.run = run
        if sampler is not None:
            arm = run.arm.model_copy(update={"sampler": sampler})
            self.run = run.model_copy(update={"arm": arm})
        self.store = store
        self.compiled: CompiledSampler | None = None

    @property
    def network_calls(self) -> int:
        """Sequential network calls of a draw; known once something was drawn."""
        return 0 if self.compiled is None else self.compiled.network_calls

    def read(self, clips: Sequence[TokenClip]) -> Tokens:
        """Return the tokens of clips, padded to a training example, as arrays of numpy."""
        examples = [self.store.example(clip, self.run.data.num_frames)[0] for clip in clips]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)

    def draw(
        self,
        model: nnx.Module,
        clips: Sequence[TokenClip],
        given: Tokens,
        is_given: Bool[np.ndarray, "b t"],
        keys: Key[Array, "r"],
    ) -> Iterator[Float[np.ndarray, "b t d"]]:
        """Yield one draw per key, of all clips at once.

        Args:
            model: the trained decoder.
            clips: whose conditions and lengths the draws have; always as many.
            given: the tokens that are given, of these clips or of others.
            is_given: which frames of them are.
            keys: of the draws.
        """
        cond, num_frames = conditions(self.store, clips, self.run.data.num_frames)
        prompt = Prompt(given, jnp.asarray(is_given))
        if self.compiled is None:
            self.compiled, _ = compile_sampler(model, self.run, cond, num_frames, prompt)
        compiled = self.compiled.of(model)
        for key in keys:
            yield _latents_of(compiled(cond, num_frames, key, prompt).tokens, self.store)


def split_clips(count: int, num_clips: int) -> Iterator[list[int]]:
    """Yield the numbers of the first `count` of the clips, a batch at a time. The last batch is
    filled up, so that all have one shape and one program.
    """
    size = min(num_clips, BATCH_CLIPS)
    for start in range(0, count, size):
        yield [number % num_clips for number in range(start, start + size)]


def _latents_of(tokens: Tokens, store: TokenStore) -> Float[np.ndarray, "b t d"]:
    if tokens.latents is not None:
        return np.asarray(tokens.latents, np.float32)
    vectors = store.code_vectors
    return vectors[np.arange(len(vectors))[None, None, :], np.asarray(tokens.codes)].sum(axis=2)
