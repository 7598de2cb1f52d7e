"""What decoders that predict step after step share: the pass over known codes, the compiled loop,
and streaming.

In: a model that embeds the codes of a step, runs a causal backbone, and predicts the next step from
its output. Step s sees the vectors of the codes of step s - 1 plus the conditions of its own frame.
A plan is one more code of each frame here, in front of the others, and another speaker's codes are
K more behind them (`streams.py`; j: the codes of a step). With known codes all steps run at once
(`run_known`); sampling is one compiled scan over a preallocated key-value cache (`sample_codes`),
and streaming is the same scan cut into chunks, one compiled call each, with the cache carried
between them (`stream_codes`).

Under a delay the codes of a frame are read over several steps, so the first code after a prompt is
drawn before the fine codes of its last frames are. A model that is trained with prefixes reads each
of their frames whole, in the step after it (`Told`):

    2 codebooks, delay 1           step s sees the codes of step s - 1; frames a, b are told
    not told    . a b c d          told    . a b c d
                . . e f g                  . e f f g
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from genlab.config import ConfigError
from genlab.decoders.conditioning import Conditioner, Conditions
from genlab.decoders.guidance import Guided, guide, num_copies, with_unconditional
from genlab.decoders.prefix import Mark, leading
from genlab.decoders.steps.logits import draw
from genlab.decoders.steps.patterns import StepPattern
from genlab.decoders.steps.streams import Streams
from genlab.decoders.steps.visiting import visit, visiting_order
from genlab.nets.backbone import Backbone, Cache
from genlab.tokens import Cond, Prompt, Tokens, read_codes


class Told(NamedTuple):
    """The codes of the frame before each step, all of them, where they are told whole."""

    codes: Int[Array, "*s b j"]
    is_told: Bool[Array, "*s b"]


class Step(NamedTuple):
    """The input of one step of the loop; in the loop's input every field has the steps as its first
    axis.
    """

    features: Float[Array, "*s b h"]
    position: Int[Array, "*s b"]
    given: Int[Array, "*s b j"]
    is_given: Bool[Array, "*s b j"]
    levels: Int[Array, "*s j"]
    previous_levels: Int[Array, "*s j"]
    key: Key[Array, "*s"]
    told: Told | None = None


@runtime_checkable
class StepSampler(Guided, Protocol):
    """How the codes of a step are drawn; hashable, since the compiled loop is one per sampler."""

    @property
    def temperature(self) -> float:
        """Divides the logits; 0 takes the likeliest code."""
        ...

    @property
    def top_k(self) -> int:
        """How many entries are kept; 0 keeps all."""
        ...

    @property
    def top_p(self) -> float:
        """The probability that the kept entries hold together."""
        ...


@runtime_checkable
class StepDecoder(Protocol):
    """What the loop asks of a model."""

    conditioner: Conditioner
    backbone: Backbone
    mark: Mark | None
    """Marks the steps after frames that are told whole; None if none ever are."""

    @property
    def streams(self) -> Streams:
        """What a frame holds."""
        ...

    @property
    def pattern(self) -> StepPattern:
        """Which codes a step predicts."""
        ...

    def embed_codes(
        self, codes: Int[Array, "b s j"], levels: Int[Array, "s j"]
    ) -> Float[Array, "b s h"]:
        """Return the sum of the vectors of each step's codes."""
        ...

    def start(
        self, num_examples: int, num_steps: int, conditions: Conditions
    ) -> tuple[PyTree, Cache]:
        """Return what does not change in the loop, and the empty cache."""
        ...

    def draw_step(
        self,
        plan: PyTree,
        cache: Cache,
        x: Float[Array, "b 1 h"],
        step: Step,
        sampler: StepSampler,
    ) -> tuple[Int[Array, "b j"], Cache]:
        """Return the codes of a step, those given among them, and the cache after it."""
        ...


class KnownSteps(NamedTuple):
    """The backbone's output, the codes of each step (absent where none is predicted), and where
    there is one.
    """

    hidden: Float[Array, "b s h"]
    codes: Int[Array, "b s j"]
    is_target: Bool[Array, "b s j"]


Carry = tuple[Cache, Int[Array, "b j"]]  # from step to step: what was read, the codes drawn last


class _Loop(NamedTuple):
    """A loop before its first step."""

    plan: PyTree
    carry: Carry
    steps: Step
    order: Int[Array, "b t"]
    is_valid: Bool[Array, "b t"]


def run_known(
    model: StepDecoder,
    tokens: Tokens,
    cond: Cond,
    is_known: Bool[Array, "b t"],
    condition_key: Key[Array, ""] | None,
    dropout_key: Key[Array, ""] | None,
    input_masking: float = 0.0,
    is_told: Bool[Array, "b t"] | None = None,
) -> KnownSteps:
    """Run all steps at once over known codes, visiting the frames of `is_known` first.

    Of the codes that the steps see, each example hides a share drawn uniformly from 0 to
    `input_masking`. Frames of `is_told`, a prefix, are read whole and predicted nowhere.
    """
    pattern, streams = model.pattern, model.streams
    is_valid = tokens.is_valid
    order = visiting_order(is_known, is_valid)
    codes = pattern.build(
        visit(streams.join(cond.content, read_codes(tokens), cond.other), order), fill=0
    )
    is_target = pattern.build(
        jnp.repeat(visit(is_valid, order)[:, :, None], streams.count, axis=2), fill=False
    )
    levels = pattern.levels(codes.shape[1], streams.count)
    codes = jnp.where(is_target, codes, streams.sizes_at(levels)[None])
    told = None
    if is_told is not None:
        told = _tell(pattern, streams, read_codes(tokens), is_told)
        is_open = jnp.repeat(~is_told[:, :, None], streams.count, axis=2)
        is_target &= pattern.build(is_open, fill=False)
    conditions = model.conditioner(cond, is_valid, key=condition_key)
    features, positions = pattern.per_step(visit(conditions.frames, order), order, streams.count)
    # Step i sees the codes of steps before it: shifted by one, with an absent code in front.
    previous = jnp.concatenate(
        [_before_first(streams, levels, codes.shape[0])[:, None], codes[:, :-1]], axis=1
    )
    if told is not None and model.mark is not None:
        previous = jnp.where(told.is_told[:, :, None], told.codes, previous)
        features = model.mark(features, told.is_told)
    if input_masking:
        assert dropout_key is not None, "inputs are hidden in training, which has a key"
        is_seen = draw_seen(jax.random.fold_in(dropout_key, 1), previous, input_masking)
        # Hidden inputs are replaced by "absent", whose index depends on the stream.
        previous = jnp.where(
            is_seen, previous, jnp.asarray(streams.sizes_at(np.roll(levels, 1, axis=0)))[None]
        )
    hidden = model.backbone(
        model.embed_codes(previous, _levels_before(levels)).astype(features.dtype) + features,
        positions=positions,
        is_valid=jnp.ones(positions.shape, bool),
        text=conditions.text,
        clip=conditions.clip,
        key=dropout_key,
    )
    return KnownSteps(hidden, codes, is_target)


def draw_seen(
    key: Key[Array, ""], codes: Int[Array, "b s j"], input_masking: float
) -> Bool[Array, "b s j"]:
    """Return which codes are seen: each example hides a share of its own, uniform from 0 to
    `input_masking`.
    """
    share_key, code_key = jax.random.split(key)
    share = input_masking * jax.random.uniform(share_key, (codes.shape[0], 1, 1))
    return jax.random.uniform(code_key, codes.shape) >= share


def choose(
    key: Key[Array, ""], logits: Float[Array, "b *n v"], sampler: StepSampler
) -> Int[Array, "b2 *n"]:
    """Draw codes as the sampler says; with guidance each row is followed by its unconditional copy,
    and the two give one code.
    """
    logits = guide(logits.astype(jnp.float32), sampler)
    return draw(
        key, logits, temperature=sampler.temperature, top_k=sampler.top_k, top_p=sampler.top_p
    )


@functools.partial(jax.jit, static_argnames="sampler")
def sample_codes(
    model: StepDecoder,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: StepSampler,
) -> Int[Array, "b t k"]:
    """Draw the codes of whole clips; frames that the prompt knows are kept, frames past the end are
    0.
    """
    loop = _begin(model, cond, num_frames, key, prompt, sampler)
    _, codes = _advance(model, loop.plan, loop.carry, loop.steps, sampler)
    codes = visit(model.pattern.revert(codes, model.streams.count), jnp.argsort(loop.order, axis=1))
    return jnp.where(loop.is_valid[:, :, None], model.streams.codes_of(codes), 0)


def stream_codes(
    model: StepDecoder,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    sampler: StepSampler,
    chunk_frames: int,
) -> Iterator[Int[Array, "b t k"]]:
    """Yield the codes that `sample_codes` draws from the same key, `chunk_frames` steps of the
    frame axis at a time.

    A frame comes out once all its levels are known, so under a delay the first chunks are shorter
    or empty (and then not yielded).

    Raises:
        ConfigError: if `chunk_frames` is below 1.
    """
    if chunk_frames < 1:
        raise ConfigError(
            f"chunk_frames={chunk_frames}: expected at least 1 frame a chunk; use 25 for half a "
            "second"
        )
    count = model.streams.count
    pattern = model.pattern
    # The difference of two counts, because a delay adds its steps once.
    steps_per_frame = pattern.num_steps(2, count) - pattern.num_steps(1, count)
    chunk_steps = chunk_frames * steps_per_frame
    num_steps = pattern.num_steps(cond.content.shape[1], count)
    plan, carry, steps = _begin_stream(model, cond, num_frames, key, sampler, chunk_steps)
    pending = jnp.zeros((carry[1].shape[0], 0, carry[1].shape[1]), jnp.int32)
    done = 0
    for first in range(0, num_steps, chunk_steps):
        carry, codes = _stream_chunk(model, plan, carry, steps, first, sampler, chunk_steps)
        pending = jnp.concatenate([pending, codes[:, : num_steps - first]], axis=1)
        # Under a delay the last steps are not yet whole frames; they wait in `pending`.
        frames = model.streams.codes_of(pattern.revert(pending, count))
        if not frames.shape[1]:
            continue
        is_valid = jnp.arange(done, done + frames.shape[1])[None, :] < num_frames[:, None]
        yield jnp.where(is_valid[:, :, None], frames, 0)
        pending = pending[:, frames.shape[1] * steps_per_frame :]
        done = done + frames.shape[1]


@functools.partial(jax.jit, static_argnames=("sampler", "chunk_steps"))
def _begin_stream(
    model: StepDecoder,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    sampler: StepSampler,
    chunk_steps: int,
) -> tuple[PyTree, Carry, Step]:
    loop = _begin(model, cond, num_frames, key, None, sampler)
    # Whole chunks, so that one program serves all of them; what the steps past the end draw is
    # thrown away.
    num_steps = loop.steps.levels.shape[0]
    padded = np.minimum(np.arange(num_steps + -num_steps % chunk_steps), num_steps - 1)
    return loop.plan, loop.carry, jax.tree.map(lambda leaf: leaf[padded], loop.steps)


@functools.partial(jax.jit, static_argnames=("sampler", "chunk_steps"))
def _stream_chunk(
    model: StepDecoder,
    plan: PyTree,
    carry: Carry,
    steps: Step,
    first: int | Int[Array, ""],
    sampler: StepSampler,
    chunk_steps: int,
) -> tuple[Carry, Int[Array, "b s j"]]:
    chunk = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, first, chunk_steps), steps)
    return _advance(model, plan, carry, chunk, sampler)


def _begin(
    model: StepDecoder,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: StepSampler,
) -> _Loop:
    pattern, streams = model.pattern, model.streams
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    is_known = jnp.zeros_like(is_valid) if prompt is None else prompt.is_known & is_valid
    known = (
        jnp.zeros((b, t, streams.spec.codebooks), jnp.int32)
        if prompt is None
        else read_codes(prompt.tokens)
    )
    order = visiting_order(is_known, is_valid)
    # What the loop must not draw: known codes, what is heard, what lies outside the clip. A prompt
    # has no plan.
    is_kept, is_heard = (
        jnp.broadcast_to(frames[:, :, None], known.shape) for frames in (is_known, is_valid)
    )
    is_kept = streams.join(jnp.zeros_like(is_known), is_kept, is_heard)
    is_given = pattern.build(visit(is_kept | ~is_valid[:, :, None], order), fill=True)
    given = pattern.build(
        visit(streams.join(jnp.zeros((b, t), jnp.int32), known, cond.other), order), fill=0
    )
    num_steps = given.shape[1]
    levels = pattern.levels(num_steps, streams.count)
    absent = streams.sizes_at(levels)[None]
    given = jnp.where(pattern.build(visit(is_kept, order), fill=False), given, absent)

    copies = num_copies(sampler)
    conditions = model.conditioner(
        with_unconditional(cond, sampler), jnp.repeat(is_valid, copies, axis=0)
    )
    all_orders = jnp.repeat(order, copies, axis=0)
    features, positions = pattern.per_step(
        visit(conditions.frames, all_orders), all_orders, streams.count
    )
    told = None
    if model.mark is not None and prompt is not None:
        # Frames after a hole are visited before it, which training with prefixes does not show.
        has_hole = (is_known & ~leading(is_known)).any(axis=1, keepdims=True)
        told = _tell(pattern, streams, known, is_known & ~has_hole)
        features = model.mark(features, jnp.repeat(told.is_told, copies, axis=0))
        told = Told(told.codes.swapaxes(0, 1), told.is_told.T)
    plan, cache = model.start(copies * b, num_steps, conditions)
    # b s ... -> s b ..., since the loop scans the first axis
    steps = Step(
        features=features.swapaxes(0, 1),
        position=positions.swapaxes(0, 1),
        given=given.swapaxes(0, 1),
        is_given=is_given.swapaxes(0, 1),
        levels=jnp.asarray(levels),
        previous_levels=_levels_before(levels),
        key=jax.random.split(key, num_steps),
        told=told,
    )
    return _Loop(plan, (cache, _before_first(streams, levels, b)), steps, order, is_valid)


def _tell(
    pattern: StepPattern,
    streams: Streams,
    codes: Int[Array, "b t k"],
    is_told: Bool[Array, "b t"],
) -> Told:
    """Return what each step reads of the frames that are told, which come first; b before s."""
    num_steps = pattern.num_steps(codes.shape[1], streams.count)
    # The step after a frame reads it; those at the end, which have no frame, read none.
    after = ((0, 0), (1, num_steps - codes.shape[1]))
    whole = jnp.pad(codes, (*after, (0, 0)))
    return Told(whole[:, :num_steps], jnp.pad(is_told, after)[:, :num_steps])


def _levels_before(levels: Int[np.ndarray, "s j"]) -> Int[Array, "s j"]:
    return jnp.asarray(np.roll(levels, 1, axis=0))


def _before_first(
    streams: Streams, levels: Int[np.ndarray, "s j"], num_examples: int
) -> Int[Array, "b j"]:
    # Of the level that comes before the first one: nothing.
    return jnp.broadcast_to(
        jnp.asarray(streams.sizes_at(levels[-1:])), (num_examples, levels.shape[1])
    )


def _advance(
    model: StepDecoder, plan: PyTree, carry: Carry, steps: Step, sampler: StepSampler
) -> tuple[Carry, Int[Array, "b s j"]]:
    """Run some steps and return the carry after them and their codes "b s j"."""

    def run(carry, step: Step):
        cache, previous = carry
        if step.told is not None:
            previous = jnp.where(step.told.is_told[:, None], step.told.codes, previous)
        x = model.embed_codes(previous[:, None], step.previous_levels[None])
        x = (
            jnp.repeat(x, num_copies(sampler), axis=0).astype(step.features.dtype)
            + step.features[:, None]
        )
        codes, cache = model.draw_step(plan, cache, x, step, sampler)
        return (cache, codes), codes

    carry, codes = lax.scan(run, carry, steps)
    # s b j -> b s j
    return carry, jnp.moveaxis(codes, 0, 1)
