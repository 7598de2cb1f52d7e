"""Block-wise absorbing diffusion over codes: block after block from the left, in parallel inside a
block (BD3-LM).

In: codes "b t k". A block is `block_frames` frames; given the clean blocks before it, all its codes
are modelled by absorbing diffusion (`noise/corruption.py`). The bound of a clip is the sum over
blocks (eq. 5 of 2503.09573). Training runs a noisy and a clean copy of the clip through the
backbone at once (their section 3.2):

    5 frames in blocks of 2; rows attend to columns     noisy 0 0 1 1 2   clean 0 0 1 1 2
    noisy block 0                                             x x . . .         . . . . .
    noisy block 1                                             . . x x .         x x . . .
    noisy block 2                                             . . . . x         x x x x .
    clean block 1                                             . . . . .         x x x x .

Sampling keeps the clean blocks in a key-value cache: one compiled loop over blocks, and in it one
over steps. A prompt is kept whatever its pattern, but a block sees known frames of its own and of
earlier blocks only.

One block as long as the clip is `discrete.py`; blocks of one frame with everything hidden are
autoregressive with parallel heads. Differences from the paper: codes of K levels instead of text
tokens, and levels drawn from a schedule, spread evenly over all blocks of a batch, instead of from
an interval that is tuned while training.
"""

import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import Config
from genlab.decoders.conditioning import (
    Conditioner,
    Conditions,
)
from genlab.decoders.guidance import guide, num_copies, with_unconditional
from genlab.decoders.hole_rule import HoleRule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.noise.corruption import AbsorbingNoise
from genlab.decoders.noise.schedules import Hiding, LinearHiding
from genlab.decoders.noise.unmasking import RevealSampler, bound_from_draws, draw_places
from genlab.decoders.prompt_rule import PromptRule
from genlab.decoders.task import Task
from genlab.machine.sharding import COLUMNS
from genlab.nets.backbone import Backbone, backbone_flops, decode_flops
from genlab.nets.linear import CodeEmbedding, Linear, code_heads
from genlab.tokens import (
    Cond,
    LossOut,
    Prompt,
    SampleCost,
    SampleOut,
    ScoreOut,
    Tokens,
    make_tokens,
    read_codes,
)

NOISE = AbsorbingNoise()
# Calls per block of the bare law: one code after another in blocks of 8 frames with 8 levels. The
# energy of a small trained model moved by -0.018 +- 0.009 from 8 to 16 calls, 0.004 +- 0.010 to 32,
# -0.010 +- 0.010 to 64, its own standard error being 0.008 (sweeps/bare_steps.py).
BARE_STEPS = 64


class BlockwiseSampler(RevealSampler):
    """How codes are drawn, block by block."""

    kind: Literal["blockwise"] = "blockwise"
    steps: int = pydantic.Field(default=8, gt=0, le=10_000)
    """Network calls per block; one more reads the finished block."""


class BlockwiseConfig(Config):
    """The block-wise family."""

    kind: Literal["blockwise"] = "blockwise"
    sampler: ClassVar[type[Config]] = BlockwiseSampler
    prompt_rule: ClassVar[PromptRule] = "exact"
    hole_rule: ClassVar[HoleRule] = "earlier alone"
    loss_unit: ClassVar[str] = "nats_per_code"
    block_frames: int = pydantic.Field(default=8, gt=0)
    """Frames of a block; a block is drawn as a whole and sees the finished ones before it."""
    hiding: Hiding = LinearHiding()
    """Spaces the training levels."""
    starts_from_codec: bool = True
    """Start embeddings and heads from the codec's entries, as in the AR family."""

    def num_blocks(self, num_frames: int) -> int:
        """Return the number of blocks that hold `num_frames` frames; the last one may be partly
        empty.
        """
        return -(-num_frames // self.block_frames)

    def build(self, task: Task, *, key: Key[Array, ""]) -> "Blockwise":
        """Return the decoder with fresh weights, made in one compiled call.

        `code_vectors` are the codec's normalised entries; `starts_from_codec` says whether they are
        used.
        """
        start = task if self.starts_from_codec else task._replace(code_vectors=None)
        return jax.jit(lambda key: Blockwise(self, start, key=key))(key)

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes over
        two copies of it.
        """
        frames = self.num_blocks(task.num_frames) * self.block_frames
        inputs = task.backbone_inputs
        forward = (
            task.condition_flops
            + backbone_flops(task.backbone, 2 * frames, **inputs)
            + 2 * frames * task.backbone.width * task.spec.codebooks * task.spec.entries
        )
        return 3 * forward

    def bare_sampler(self, task: Task) -> BlockwiseSampler:
        """Return the sampler of the bare law: the codes of a block one after another in random
        order, up to `BARE_STEPS` calls.
        """
        steps = min(self.block_frames * task.spec.codebooks, BARE_STEPS)
        return BlockwiseSampler(steps=steps, hiding=LinearHiding(), order="random")

    def sample_cost(self, sampler: BlockwiseSampler, task: Task) -> SampleCost:
        """Return the cost of drawing one clip."""
        blocks = self.num_blocks(task.num_frames)
        copies = num_copies(sampler)
        frames = blocks * self.block_frames
        inputs = task.backbone_inputs
        flops = (
            task.condition_flops
            + decode_flops(task.backbone, frames, passes=sampler.steps, is_read_last=True, **inputs)
            + sampler.steps
            * 2
            * frames
            * task.backbone.width
            * task.spec.codebooks
            * task.spec.entries
        )
        return SampleCost(copies * blocks * (sampler.steps + 1), copies * flops)


class Blockwise(nnx.Module):
    """Code embeddings, a backbone with a visibility pattern, one head per codebook."""

    reads: ClassVar[Literal["codes", "latents"]] = "codes"

    def __init__(self, config: BlockwiseConfig, task: Task, *, key: Key[Array, ""]):
        embed_key, condition_key, backbone_key, head_key = jax.random.split(key, 4)
        self.config = config
        self.spec = task.spec
        self.embed = CodeEmbedding(
            task.spec.codebooks,
            task.spec.entries,
            task.backbone.width,
            key=embed_key,
            code_vectors=task.code_vectors,
        )
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=condition_key)
        task.backbone.require_attention(
            "decoder.kind=blockwise", "it cannot separate blocks", "decoder.kind=discrete"
        )
        self.backbone = Backbone(
            task.backbone,
            key=backbone_key,
            is_modulated=task.condition.is_modulating,
            text_route=task.condition.text_route,
        )
        width = task.backbone.width
        outputs = task.spec.codebooks * task.spec.entries
        self.heads = Linear(width, outputs, key=head_key, scale=0.0, split=COLUMNS)
        heads = code_heads(
            task.spec.codebooks,
            task.spec.entries,
            task.backbone.width,
            key=head_key,
            code_vectors=task.code_vectors,
        )
        # k h v -> h (k v), so that one product makes the logits of all levels.
        self.heads.kernel[...] = heads.swapaxes(0, 1).reshape(task.backbone.width, -1)

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return one draw of the bound for each example in nats per code, weighted by its number of
        codes.
        """
        check_call(self, tokens, cond)
        level_key, noise_key, condition_key, dropout_key = jax.random.split(key, 4)
        b, t, _ = read_codes(tokens).shape
        blocks = self.config.num_blocks(t)
        # Neighbouring levels go to the same block of different examples, so those of one example
        # differ.
        even = jnp.arange(blocks * b).reshape(blocks, b).T / (blocks * b)
        level = 1 - (jax.random.uniform(level_key) + even) % 1
        conditions = self.conditioner(cond, tokens.is_valid, key=condition_key)
        nats, share = self._bound(
            tokens, level, conditions, self.config.hiding, noise_key, dropout_key
        )
        weight = (tokens.num_frames * self.spec.codebooks).astype(jnp.float32)
        return LossOut(
            nats.sum(axis=1) / jnp.maximum(weight, 1), weight, {"noise_share": share.mean(axis=1)}
        )

    def score(
        self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""], num_draws: int = 1
    ) -> ScoreOut:
        """Return an upper bound on the bits of each example's codes; each block is estimated
        `num_draws` times.
        """
        check_call(self, tokens, cond, reads="codes")
        return bound_from_draws(_bound_draws(self, tokens, cond, key, num_draws))

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: BlockwiseSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw codes; the frames that the prompt knows are kept, but no block sees those of later
        blocks.
        """
        check_sample(self, cond, num_frames, sampler, BlockwiseSampler, prompt)
        codes = _sample_codes(self, cond, num_frames, key, prompt, sampler)
        calls = self.config.num_blocks(codes.shape[1]) * (sampler.steps + 1) * num_copies(sampler)
        return SampleOut(make_tokens(codes=codes, num_frames=num_frames), calls)

    def _bound(
        self,
        tokens: Tokens,
        level: Float[Array, "b n"],
        conditions: Conditions,
        hiding: Hiding,
        noise_key: Key[Array, ""],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b n"], Float[Array, "b n"]]:
        """Return one draw of the bound of each block in nats, and the share of its codes that were
        hidden.
        """
        b, n = level.shape
        is_valid = fill_up(tokens.is_valid, self.config.block_frames)
        clean = fill_up(read_codes(tokens), self.config.block_frames)

        def by_block(frames):
            # b (n f) ... -> (b n) f ...: every block has a noise level of its own.
            return frames.reshape(b * n, self.config.block_frames, *frames.shape[2:])

        corrupted = NOISE.corrupt(
            noise_key,
            by_block(clean),
            by_block(is_valid),
            level.reshape(b * n),
            hiding,
            self.spec.entries,
        )
        logits = self._logits(
            corrupted.codes.reshape(clean.shape), clean, conditions, is_valid, key=dropout_key
        )
        nats = NOISE.nats(by_block(logits), by_block(clean), corrupted)
        # (b n) (f k) -> b n, summed over the codes of a block
        return nats.reshape(b, n, -1).sum(axis=2), corrupted.share.reshape(b, n)

    def _logits(
        self,
        noisy: Int[Array, "b t k"],
        clean: Int[Array, "b t k"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t k v"]:
        """Return the belief about each noisy code given its own block and the clean ones before."""
        t = noisy.shape[1]
        features = fill_up(conditions.frames, self.config.block_frames)
        codes = jnp.concatenate([noisy, clean], axis=1)
        positions = jnp.broadcast_to(jnp.tile(jnp.arange(t), 2)[None, :], (len(codes), 2 * t))
        hidden = self.backbone(
            self.embed(codes).astype(features.dtype) + jnp.tile(features, (1, 2, 1)),
            positions=positions,
            is_valid=jnp.tile(is_valid, (1, 2)),
            text=conditions.text,
            clip=conditions.clip,
            is_allowed=jnp.asarray(allowed_between_copies(t, self.config.block_frames))[None],
            key=key,
        )
        return self.heads(hidden[:, :t]).reshape(*noisy.shape, self.spec.entries)


def fill_up(frames: Shaped[Array, "b t *rest"], block_frames: int) -> Shaped[Array, "b s *rest"]:
    """Pad the frames with zeros to whole blocks."""
    missing = -frames.shape[1] % block_frames
    return jnp.pad(frames, ((0, 0), (0, missing), *[(0, 0)] * (frames.ndim - 2)))


def allowed_between_copies(num_frames: int, block_frames: int) -> Bool[np.ndarray, "q s"]:
    """Return which frames of the noisy and the clean copy each of them attends to."""
    block = np.arange(num_frames) // block_frames
    is_same = block[:, None] == block[None, :]
    is_before = block[:, None] > block[None, :]
    return np.block([[is_same, is_before], [np.zeros_like(is_same), is_same | is_before]])


@functools.partial(jax.jit, static_argnames="num_draws")
def _bound_draws(
    model: Blockwise, tokens: Tokens, cond: Cond, key: Key[Array, ""], num_draws: int
) -> Float[Array, "r n b"]:
    """Return unbiased draws of the bound of each block in nats."""
    b, t, _ = read_codes(tokens).shape
    blocks = model.config.num_blocks(t)
    conditions = model.conditioner(cond, tokens.is_valid)
    place_key, noise_key = jax.random.split(key)

    def draw_bound(_, inputs):
        level, step_key = inputs
        return None, model._bound(tokens, level, conditions, NOISE.scoring, step_key)[0].T

    levels = 1 - draw_places(place_key, num_draws, b * blocks).reshape(num_draws, b, blocks)
    return lax.scan(draw_bound, None, (levels, jax.random.split(noise_key, num_draws)))[1]


@functools.partial(jax.jit, static_argnames="sampler")
def _sample_codes(
    model: Blockwise,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: BlockwiseSampler,
) -> Int[Array, "b t k"]:
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    is_known = jnp.zeros_like(is_valid) if prompt is None else prompt.is_known & is_valid
    codes = jnp.full((b, t, model.spec.codebooks), model.spec.entries)
    if prompt is not None:
        codes = jnp.where(is_known[:, :, None], read_codes(prompt.tokens), codes)

    copies = num_copies(sampler)
    is_attended = jnp.repeat(is_valid, copies, axis=0)
    conditions = model.conditioner(with_unconditional(cond, sampler), is_attended)
    features = fill_up(conditions.frames, model.config.block_frames)
    is_attended = fill_up(is_attended, model.config.block_frames)
    slots = features.shape[1]
    block_frames = model.config.block_frames
    plan, cache = model.backbone.start(copies * b, slots, conditions.text, conditions.clip)
    plan = plan._replace(is_valid=plan.is_valid.at[:, -slots:].set(is_attended))

    def run(codes, cache, block_features, positions):
        embedded = jnp.repeat(model.embed(codes), copies, axis=0).astype(block_features.dtype)
        # A block sees itself whole and everything before it.
        prefix = cache.position + block_frames
        x = embedded + block_features
        return model.backbone.extend(x, plan, cache, positions=positions, prefix=prefix)

    def draw_block(cache, inputs):
        codes, is_free, block_features, positions, block_key = inputs

        def step(carry, inputs):
            (codes, cache), (progress, previous, step_key) = carry, inputs
            hidden, written = run(codes, cache, block_features, positions)
            logits = model.heads(hidden).astype(jnp.float32)  # c f (k v)
            # c f (k v) -> c f k v
            logits = logits.reshape(copies * b, block_frames, -1, model.spec.entries)
            logits = guide(logits, sampler)
            codes = sampler.reveal(step_key, codes, is_free, logits, progress, previous)
            # What the noisy block wrote is overwritten by the next step, and at last by the
            # finished block.
            return (codes, written._replace(position=cache.position)), None

        steps = (progress[1:], progress[:-1], jax.random.split(block_key, sampler.steps))
        (codes, cache), _ = lax.scan(step, (codes, cache), steps)
        _, cache = run(codes, cache, block_features, positions)
        return cache, codes

    progress = np.arange(sampler.steps + 1, dtype=np.float32) / np.float32(sampler.steps)
    is_free = fill_up(is_valid & ~is_known, model.config.block_frames)[:, :, None]
    is_free = jnp.broadcast_to(is_free, (b, slots, codes.shape[2]))
    positions = jnp.broadcast_to(jnp.arange(slots)[None, :], (copies * b, slots))
    by_block = [  # each "b (n f) ..." -> "n b f ...": the scan goes over blocks
        jnp.moveaxis(frames.reshape(len(frames), -1, block_frames, *frames.shape[2:]), 1, 0)
        for frames in (fill_up(codes, model.config.block_frames), is_free, features, positions)
    ]
    keys = jax.random.split(key, slots // block_frames)
    _, blocks = lax.scan(draw_block, cache, (*by_block, keys))
    # n b f k -> b (n f) k
    codes = jnp.moveaxis(blocks, 0, 1).reshape(b, slots, -1)[:, :t]
    return jnp.where(is_valid[:, :, None], codes, 0)
