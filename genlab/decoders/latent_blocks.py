"""Block-wise diffusion over normalised latents: block after block from the left, by a solver inside
a block.

In: latents "b t d" of zero mean and unit variance. A block is `block_frames` frames; given the
clean blocks before it, all its frames are modelled by diffusion (diffusion.py) at one noise level
per block and example (ACDiT, 2412.07720). Training runs a noisy and a clean copy of the clip at
once, who sees whom being drawn in blockwise.py, and sampling runs one compiled loop over blocks, in
it the solver, and keeps the clean blocks in a key-value cache.

The backbone's modulation is one vector per clip, but levels differ between blocks. So, unlike in
the diffusion decoder, the embedded level is added to every noisy frame's input; the clean copy goes
without, which tells the two apart.

A prompt of any pattern is kept, but a block sees known frames of its own and of earlier blocks
only.
"""

import functools
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from genlab.config import Config
from genlab.decoders.blockwise import allowed_between_copies, fill_up
from genlab.decoders.conditioning import (
    Conditioner,
    Conditions,
)
from genlab.decoders.guidance import GuidedSampler, guide, num_copies, with_unconditional
from genlab.decoders.hole_rule import HoleRule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.noise.code_given_latent import (
    WIDTHS,
    Width,
    chosen_vectors,
    keep_entries,
    posterior_std,
    read_entries,
)
from genlab.decoders.noise.denoisers import LEVEL_CHANNELS, LevelEmbedding
from genlab.decoders.noise.diffusion_score import codes_bound
from genlab.decoders.noise.paths import Path, Prediction, StraightPath
from genlab.decoders.noise.schedules import LevelDraw, LogitNormalLevels
from genlab.decoders.noise.solvers import BARE_STEPS, Euler, Solver, fill_in
from genlab.decoders.prompt_rule import PromptRule
from genlab.decoders.task import Task
from genlab.machine.sharding import COLUMNS
from genlab.nets.backbone import Backbone, Cache, DecodePlan, backbone_flops, decode_flops
from genlab.nets.linear import Linear
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
    read_latents,
)


class LatentBlocksSampler(GuidedSampler):
    """How latents are drawn: block by block, with one more call to read each finished block."""

    kind: Literal["latent_blocks"] = "latent_blocks"
    solver: Solver = Euler()
    """How a step is computed."""
    steps: int = pydantic.Field(default=16, gt=0, le=10_000)
    """Steps of the solver per block."""
    shift: float = pydantic.Field(default=1.0, gt=0, le=1000)
    """Moves the grid of noise levels, as in diffusion."""


class LatentBlocksConfig(Config):
    """The block-wise family over latents."""

    kind: Literal["latent_blocks"] = "latent_blocks"
    sampler: ClassVar[type[Config]] = LatentBlocksSampler
    prompt_rule: ClassVar[PromptRule] = "replacement"
    hole_rule: ClassVar[HoleRule] = "earlier alone"
    block_frames: int = pydantic.Field(default=8, gt=0)
    """Frames of a block; a block is drawn as a whole and sees the finished ones before it."""
    path: Path = StraightPath()
    """How latents and noise are mixed at a level."""
    predicts: Prediction = "velocity"
    """What the network predicts."""
    levels: LevelDraw = LogitNormalLevels()
    """Draws the noise level of each block of each training example."""

    @pydantic.model_validator(mode="after")
    def _check_prediction(self) -> "LatentBlocksConfig":
        self.path.check(self.predicts)
        return self

    @property
    def loss_unit(self) -> str:
        """What one unit of the loss is."""
        return f"mse_of_{self.predicts}"

    def num_blocks(self, num_frames: int) -> int:
        """Return the number of blocks that hold `num_frames` frames; the last one may be partly
        empty.
        """
        return -(-num_frames // self.block_frames)

    def solver_calls(self, sampler: LatentBlocksSampler) -> int:
        """Return the network calls that draw one block without guidance."""
        levels = self.path.grid(sampler.steps, sampler.shift)
        return sampler.solver.call_levels(
            self.path, levels, self.path.is_defined_at_clean(self.predicts)
        ).size

    def num_calls(self, sampler: LatentBlocksSampler, num_frames: int) -> int:
        """Return the sequential network calls of drawing one clip (guidance counts as two)."""
        return num_copies(sampler) * self.num_blocks(num_frames) * (self.solver_calls(sampler) + 1)

    def build(self, task: Task, *, key: Key[Array, ""]) -> "LatentBlocks":
        """Return the decoder with fresh weights, made in one compiled call.

        `code_vectors` are the codec's normalised entries: only `score` needs them.
        """
        return jax.jit(lambda key: LatentBlocks(self, task, key=key))(key)

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes over
        two copies of it.
        """
        blocks = self.num_blocks(task.num_frames)
        per_frame = 2 * task.backbone.width * task.spec.latent_channels
        frames = blocks * self.block_frames
        inputs = task.backbone_inputs
        forward = (
            task.condition_flops
            + backbone_flops(task.backbone, 2 * frames, **inputs)
            + blocks * _level_flops(task.backbone.width)
            + 3 * frames * per_frame
        )
        # Latents and sinusoids are data: nothing is propagated into them.
        return (
            3 * forward - 2 * frames * per_frame - blocks * 2 * task.backbone.width * LEVEL_CHANNELS
        )

    def bare_sampler(self, task: Task) -> LatentBlocksSampler:
        """Return the sampler of the bare law, as diffusion's."""
        return LatentBlocksSampler(steps=BARE_STEPS)

    def sample_cost(self, sampler: LatentBlocksSampler, task: Task) -> SampleCost:
        """Return the cost of drawing one clip."""
        blocks = self.num_blocks(task.num_frames)
        calls = self.solver_calls(sampler)
        frames = blocks * self.block_frames
        inputs = task.backbone_inputs
        flops = (
            task.condition_flops
            + decode_flops(task.backbone, frames, passes=calls, is_read_last=True, **inputs)
            + calls * blocks * _level_flops(task.backbone.width)
            + (2 * calls + 1) * frames * 2 * task.backbone.width * task.spec.latent_channels
        )
        return SampleCost(self.num_calls(sampler, task.num_frames), num_copies(sampler) * flops)


class _Blocks(NamedTuple):
    """What the loop over blocks reads, blocks first; features and positions are doubled under
    guidance.
    """

    noise: Float[Array, "n b f d"]
    known: Float[Array, "n b f d"]
    is_known: Bool[Array, "n b f"]
    is_valid: Bool[Array, "n b f"]
    features: Float[Array, "n b2 f h"]
    positions: Int[Array, "n b2 f"]
    keys: Key[Array, "n"]


class LatentBlocks(nnx.Module):
    """Latent projection, level embedding, a backbone with a visibility pattern, one head that
    starts at zero.
    """

    reads: ClassVar[Literal["codes", "latents"]] = "latents"
    bound_widths: ClassVar[tuple[float, ...]] = WIDTHS

    def __init__(self, config: LatentBlocksConfig, task: Task, *, key: Key[Array, ""]):
        embed_key, level_key, condition_key, backbone_key, head_key = jax.random.split(key, 5)
        self.config = config
        self.spec = task.spec
        self.embed = Linear(task.spec.latent_channels, task.backbone.width, key=embed_key)
        self.level_embedding = LevelEmbedding(task.backbone.width, key=level_key)
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=condition_key)
        task.backbone.require_attention(
            "decoder.kind=latent_blocks", "it cannot separate blocks", "decoder.kind=diffusion"
        )
        self.backbone = Backbone(
            task.backbone,
            key=backbone_key,
            is_modulated=task.condition.is_modulating,
            text_route=task.condition.text_route,
        )
        width, channels = task.backbone.width, task.spec.latent_channels
        self.head = Linear(width, channels, key=head_key, scale=0.0, split=COLUMNS)
        self.code_vectors = keep_entries(task.code_vectors)

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the mean squared error of each example's prediction, weighted by its number of
        latent values.
        """
        check_call(self, tokens, cond)
        level_key, noise_key, condition_key, dropout_key = jax.random.split(key, 4)
        path = self.config.path
        latents = read_latents(tokens)
        b, t, d = latents.shape
        n = self.config.num_blocks(t)
        # b (n f) d -> (b n) f d: every block has a noise level of its own.
        clean = self._by_block(latents)
        noise = self._by_block(jax.random.normal(noise_key, latents.shape))
        level = jnp.minimum(self.config.levels.draw(level_key, b * n), path.noisiest_level)
        conditions = self.conditioner(cond, tokens.is_valid, key=condition_key)
        noisy = path.noisy(clean, noise, level)
        predicted = self._predict(
            noisy, level, latents, conditions, tokens.is_valid, key=dropout_key
        )
        errors = jnp.square(predicted - path.target(self.config.predicts, clean, noise, level))
        errors = (
            jnp.where(self._by_block(tokens.is_valid)[:, :, None], errors, 0)
            .reshape(b, -1)
            .sum(axis=1)
        )
        # Padding is in no sum, so it is not in the number of values either.
        weight = (tokens.num_frames * d).astype(jnp.float32)
        return LossOut(
            errors / jnp.maximum(weight, 1),
            weight,
            {"noise_level": level.reshape(b, n).mean(axis=1)},
        )

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: LatentBlocksSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw latents; the frames that the prompt knows are kept, but no block sees those of later
        blocks.
        """
        check_sample(self, cond, num_frames, sampler, LatentBlocksSampler, prompt)
        latents = _sample_latents(self, cond, num_frames, key, prompt, sampler)
        calls = self.config.num_calls(sampler, latents.shape[1])
        return SampleOut(make_tokens(latents=latents, num_frames=num_frames), calls)

    def stream(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: LatentBlocksSampler,
        chunk_frames: int = 1,
        prompt: Prompt | None = None,
    ) -> Iterator[Float[Array, "b f d"]]:
        """Yield the latents of `sample` when asked for, in the fewest whole blocks that hold
        `chunk_frames`.
        """
        check_sample(self, cond, num_frames, sampler, LatentBlocksSampler, prompt)
        plan, cache, blocks = _begin(self, cond, num_frames, key, prompt, sampler)
        t = cond.content.shape[1]
        chunk = self.config.num_blocks(chunk_frames)
        for first in range(0, self.config.num_blocks(t), chunk):
            some = jax.tree.map(lambda leaf, first=first: leaf[first : first + chunk], blocks)
            cache, latents = _draw_blocks(self, plan, cache, some, sampler)
            yield latents[:, : t - first * self.config.block_frames]

    def score(
        self,
        tokens: Tokens,
        cond: Cond,
        *,
        key: Key[Array, ""],
        num_draws: int = 1,
        width: Width = 1.0,
    ) -> ScoreOut:
        """Return an upper bound of the bits of each example's codes, from `num_draws` network calls
        each.

        The sum over blocks, by the chain rule, of the bound of noise/diffusion_score.py on a
        block's codes given those before it. Only the codes are read; the latents in them are the
        sums of their code vectors.

        Raises:
            GenlabError: if the decoder was built without the codec's entries.
        """
        check_call(self, tokens, cond, reads="codes")
        bits, std_error = _score_codes(self, tokens, cond, key, num_draws, width)
        return ScoreOut(bits, std_error, "upper bound")

    def _predict(
        self,
        noisy: Float[Array, "m f d"],
        level: Float[Array, "m"],
        clean: Float[Array, "b t d"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "m f d"]:
        """Return the prediction for every noisy block of every example, which sees itself and the
        clean blocks before.

        `m` are the blocks of the examples, those of the first example first.
        """
        clean, is_valid = (
            fill_up(clean, self.config.block_frames),
            fill_up(is_valid, self.config.block_frames),
        )
        features = fill_up(conditions.frames, self.config.block_frames)
        b, t, h = features.shape
        # (b n) f h -> b (n f) h
        embedded = self._embed_noisy(noisy, level, features.dtype).reshape(b, t, h)
        embedded = jnp.concatenate([embedded, self.embed(clean.astype(features.dtype))], axis=1)
        hidden = self.backbone(
            embedded + jnp.tile(features, (1, 2, 1)),
            positions=jnp.broadcast_to(jnp.tile(jnp.arange(t), 2)[None, :], (b, 2 * t)),
            is_valid=jnp.tile(is_valid, (1, 2)),
            text=conditions.text,
            clip=conditions.clip,
            is_allowed=jnp.asarray(allowed_between_copies(t, self.config.block_frames))[None],
            key=key,
        )
        return self.head(hidden[:, :t]).astype(jnp.float32).reshape(noisy.shape)

    def _embed_noisy(
        self, noisy: Float[Array, "m f d"], level: Float[Array, "m"], dtype: DTypeLike
    ) -> Float[Array, "m f h"]:
        path = self.config.path
        scaled = noisy * path.input_scale(level)[:, None, None]
        told = self.level_embedding(path.embedded(level)).astype(dtype)
        return self.embed(scaled.astype(dtype)) + told[:, None]

    def _by_block(self, frames: Shaped[Array, "b t *rest"]) -> Shaped[Array, "m f *rest"]:
        """Return each block as an example of its own."""
        return fill_up(frames, self.config.block_frames).reshape(
            -1, self.config.block_frames, *frames.shape[2:]
        )


def _level_flops(width: int) -> float:
    return 2.0 * width * (LEVEL_CHANNELS + width)


@functools.partial(jax.jit, static_argnames="num_draws")
def _score_codes(
    model: LatentBlocks,
    tokens: Tokens,
    cond: Cond,
    key: Key[Array, ""],
    num_draws: int,
    width: Width,
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    path = model.config.path
    vectors = read_entries(model.code_vectors)
    codes = read_codes(tokens)
    conditions = model.conditioner(cond, tokens.is_valid)
    latents = chosen_vectors(codes, vectors).sum(axis=2)

    def clean(noisy, level):
        predicted = model._predict(noisy, level, latents, conditions, tokens.is_valid)
        return path.recover(model.config.predicts, predicted, noisy, level)[0]

    blocks = model._by_block(codes)
    is_valid = model._by_block(tokens.is_valid)
    std = posterior_std(vectors, width)
    bits, error, _ = codes_bound(
        path, clean, blocks, is_valid, vectors, std, key=key, num_draws=num_draws
    )
    # (b n) -> b n
    by_example = (codes.shape[0], -1)
    return bits.reshape(by_example).sum(axis=1), jnp.sqrt(
        jnp.square(error).reshape(by_example).sum(axis=1)
    )


@functools.partial(jax.jit, static_argnames="sampler")
def _sample_latents(
    model: LatentBlocks,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: LatentBlocksSampler,
) -> Float[Array, "b t d"]:
    plan, cache, blocks = _begin(model, cond, num_frames, key, prompt, sampler)
    return _draw_blocks(model, plan, cache, blocks, sampler)[1][:, : cond.content.shape[1]]


@functools.partial(jax.jit, static_argnames="sampler")
def _begin(
    model: LatentBlocks,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: LatentBlocksSampler,
) -> tuple[DecodePlan, Cache, _Blocks]:
    """Return what does not change in the loop over blocks, the empty cache, and what the loop
    reads.
    """
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    noise = jax.random.normal(key, (b, t, model.spec.latent_channels))
    is_known = jnp.zeros_like(is_valid) if prompt is None else prompt.is_known & is_valid
    known = jnp.zeros_like(noise) if prompt is None else read_latents(prompt.tokens)
    copies = num_copies(sampler)
    conditions = model.conditioner(
        with_unconditional(cond, sampler), jnp.repeat(is_valid, copies, axis=0)
    )
    is_attended = fill_up(jnp.repeat(is_valid, copies, axis=0), model.config.block_frames)
    slots = is_attended.shape[1]
    plan, cache = model.backbone.start(copies * b, slots, conditions.text, conditions.clip)
    # `start` takes all slots as valid; padding after a short clip must not be attended to.
    plan = plan._replace(is_valid=plan.is_valid.at[:, -slots:].set(is_attended))
    positions = jnp.broadcast_to(jnp.arange(slots)[None, :], is_attended.shape)
    num_blocks = model.config.num_blocks(t)

    def blocks_first(frames):
        blocks = model._by_block(frames)
        # (b n) f ... -> n b f ..., since the loop scans the first axis
        return jnp.moveaxis(blocks.reshape(-1, num_blocks, *blocks.shape[1:]), 1, 0)

    by_block = [
        blocks_first(frames)
        for frames in (noise, known, is_known, is_valid, conditions.frames, positions)
    ]
    return (
        plan,
        cache,
        _Blocks(*by_block, keys=jax.random.split(jax.random.fold_in(key, 1), num_blocks)),
    )


@functools.partial(jax.jit, static_argnames="sampler")
def _draw_blocks(
    model: LatentBlocks,
    plan: DecodePlan,
    cache: Cache,
    blocks: _Blocks,
    sampler: LatentBlocksSampler,
) -> tuple[Cache, Float[Array, "b s d"]]:
    """Draw the next blocks, and return them as frames with the cache that has read them."""
    config = model.config
    copies = num_copies(sampler)

    def draw_block(cache: Cache, block: PyTree):
        def run(embedded):
            x = embedded + block.features
            prefix = cache.position + config.block_frames
            return model.backbone.extend(x, plan, cache, positions=block.positions, prefix=prefix)

        def predict(noisy, level):
            noisy = jnp.repeat(noisy, copies, axis=0)
            embedded = model._embed_noisy(
                noisy, jnp.broadcast_to(level, noisy.shape[:1]), block.features.dtype
            )
            # What the noisy block wrote into the cache is dropped: later blocks see clean ones
            # alone.
            outputs = model.head(run(embedded)[0]).astype(jnp.float32)
            return guide(outputs, sampler)

        latents = fill_in(
            sampler.solver,
            config.path,
            config.predicts,
            predict,
            block.noise,
            config.path.grid(sampler.steps, sampler.shift),
            known=block.known,
            is_known=block.is_known,
            key=block.keys,
        )
        clean = model.embed(jnp.repeat(latents, copies, axis=0).astype(block.features.dtype))
        return run(clean)[1], jnp.where(block.is_valid[:, :, None], latents, 0)

    cache, latents = lax.scan(draw_block, cache, blocks)
    # n b f d -> b (n f) d
    return cache, jnp.moveaxis(latents, 0, 1).reshape(latents.shape[1], -1, latents.shape[3])
