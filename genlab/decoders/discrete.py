"""Discrete diffusion over all codes of a clip at once: MDLM (2406.07524), D3PM (2107.03006), UDLM
(2412.10193).

In: codes "b t k". Training corrupts a share of the T x K codes, of all levels alike; the network
sees the sum of the K code vectors of a frame and K heads predict every clean code. The loss is a
draw of an upper bound on the likelihood, in nats per code; `noise/corruption.py` holds the two
kinds of noise and their bounds. The shares of a batch are spread evenly with one common random
offset (2107.00630, appendix I.1), so the mean over a batch varies little.

Sampling starts from noise and is one compiled loop. In ancestral order each step draws codes of the
next level from the model; absorbing noise can also reveal the most confident codes first, or a
random choice of a fixed size, or draw code and time of reveal at once. Known frames are clean at
every step: under absorbing noise that is what training shows, under uniform noise it is replacement
unless `prefix_share` trains with beginnings that are clean, which a learned vector marks.

Differences from the papers: frames of K codes instead of a row of tokens, so codes of a frame that
are drawn in one step are drawn independently; no exponential moving average in here.
"""

import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, GenlabError, added
from genlab.decoders.conditioning import (
    Conditioner,
    Conditions,
    modulate,
)
from genlab.decoders.guidance import guide, num_copies, with_unconditional
from genlab.decoders.hole_rule import HoleRule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.noise.corruption import AbsorbingNoise, Noise, UniformNoise
from genlab.decoders.noise.denoisers import LEVEL_CHANNELS, LevelEmbedding
from genlab.decoders.noise.schedules import Hiding, LinearHiding
from genlab.decoders.noise.unmasking import RevealSampler, bound_from_draws, draw_places
from genlab.decoders.prefix import PrefixShare, leading, make_mark, shown_prefix
from genlab.decoders.prompt_rule import PromptRule
from genlab.decoders.task import Task
from genlab.machine.sharding import COLUMNS
from genlab.nets.backbone import Backbone, backbone_flops
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

# Calls of the bare law. Each doubling from 8 to 128 moved the energy of a small trained model by
# less than its standard error of 0.007 over 96 clips (sweeps/bare_steps.py), of 192 hidden codes.
BARE_STEPS = 64
# Ancestral steps under uniform noise. Of 20,000 draws from a known law 64 steps leave a bias that a
# chi-square test sees, 256 do not (tests/decoders/test_bare_steps.py).
ANCESTRAL_STEPS = 256


class DiscreteSampler(RevealSampler):
    """How codes are drawn; uniform noise knows the ancestral order in full precision only."""

    kind: Literal["discrete"] = "discrete"


class DiscreteConfig(Config):
    """The discrete diffusion family."""

    kind: Literal["discrete"] = "discrete"
    sampler: ClassVar[type[Config]] = DiscreteSampler
    loss_unit: ClassVar[str] = "nats_per_code"
    noise: Noise = AbsorbingNoise()
    """What corrupted codes become."""
    hiding: Hiding = LinearHiding()
    """Spaces the training levels."""
    starts_from_codec: bool = True
    """Start embeddings and heads from the codec's entries, as in the AR family."""
    prefix_share: PrefixShare = added(0.0)
    """Share of training examples that show a beginning of the clip clean and learn the rest
    (`prefix.py`); 0 is none.
    """

    def build(self, task: Task, *, key: Key[Array, ""]) -> "Discrete":
        """Return the decoder with fresh weights, made in one compiled call.

        `code_vectors` are the codec's normalised entries; `starts_from_codec` says whether they are
        used.
        """
        start = task if self.starts_from_codec else task._replace(code_vectors=None)
        return jax.jit(lambda key: Discrete(self, start, key=key))(key)

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes, less
        unused gradients.
        """
        forward = task.condition_flops + self._call_flops(task)
        # The sinusoids of the level are data: nothing is propagated into them.
        return 3 * forward - (
            2 * task.backbone.width * LEVEL_CHANNELS if self.noise.is_level_shown else 0
        )

    @property
    def prompt_rule(self) -> PromptRule:
        """How a prompt is known (`prompt_rule.py`)."""
        if self.prefix_share > 0:
            return "clean prefixes"
        # Codes that are absent in training are random ones; those that are there are known.
        return "replacement" if self.noise.is_level_shown else "exact"

    @property
    def hole_rule(self) -> HoleRule:
        """How the frames around a gap are known (`hole_rule.py`)."""
        # Absorbing noise hides codes and leaves the others as they are, in any pattern.
        return "replacement" if self.noise.is_level_shown else "exact"

    def bare_sampler(self, task: Task) -> DiscreteSampler:
        """Return the sampler of the bare law: hidden codes one after another in random order, up to
        `BARE_STEPS` calls; noisy ones by the ancestral steps, in `ANCESTRAL_STEPS`.
        """
        if isinstance(self.noise, UniformNoise):
            return DiscreteSampler(steps=ANCESTRAL_STEPS, hiding=LinearHiding())
        # How many codes an ancestral step reveals is left to chance: with as many steps as codes
        # some are still drawn together, which in a fixed number none is.
        steps = min(task.num_frames * task.spec.codebooks, BARE_STEPS)
        return DiscreteSampler(steps=steps, hiding=LinearHiding(), order="random")

    def sample_cost(self, sampler: DiscreteSampler, task: Task) -> SampleCost:
        """Return the cost of drawing one clip."""
        self.check(sampler)
        copies = num_copies(sampler)
        flops = task.condition_flops + sampler.steps * self._call_flops(task)
        return SampleCost(copies * sampler.steps, copies * flops)

    def check(self, sampler: DiscreteSampler) -> None:
        """Refuse what only hidden codes have: an order in which they are revealed, and draws in low
        precision.

        Raises:
            GenlabError: if codes are never hidden.
        """
        if isinstance(self.noise, UniformNoise) and sampler.order != "ancestral":
            raise GenlabError(
                f"sampler.order={sampler.order!r}: with decoder.noise.kind='uniform' no code is "
                "hidden, so none can be revealed first; use sampler.order='ancestral', or "
                "decoder.noise.kind='absorbing'"
            )
        if isinstance(self.noise, UniformNoise) and sampler.noise_bits is not None:
            raise GenlabError(
                f"sampler.noise_bits={sampler.noise_bits}: not with decoder.noise.kind='uniform', "
                "whose steps draw twice; use sampler.noise_bits=null, or "
                "decoder.noise.kind='absorbing'"
            )

    def _call_flops(self, task: Task) -> float:
        level = (
            2 * task.backbone.width * (LEVEL_CHANNELS + task.backbone.width)
            if self.noise.is_level_shown
            else 0
        )
        heads = 2 * task.num_frames * task.backbone.width * task.spec.codebooks * task.spec.entries
        inputs: dict[str, Any] = task.backbone_inputs
        inputs["is_modulated"] |= self.noise.is_level_shown
        return backbone_flops(task.backbone, task.num_frames, **inputs) + heads + level


class Discrete(nnx.Module):
    """Code embeddings, bidirectional backbone with or without the noise level, one head per
    codebook.
    """

    reads: ClassVar[Literal["codes", "latents"]] = "codes"

    def __init__(self, config: DiscreteConfig, task: Task, *, key: Key[Array, ""]):
        embed_key, condition_key, backbone_key, level_key, head_key = jax.random.split(key, 5)
        is_modulated = config.noise.is_level_shown or task.condition.is_modulating
        self.config = config
        self.spec = task.spec
        self.deterministic = False
        self.embed = CodeEmbedding(
            task.spec.codebooks,
            task.spec.entries,
            task.backbone.width,
            key=embed_key,
            code_vectors=task.code_vectors,
        )
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=condition_key)
        self.backbone = Backbone(
            task.backbone,
            key=backbone_key,
            is_modulated=is_modulated,
            text_route=task.condition.text_route,
        )
        self.level_embedding = (
            LevelEmbedding(task.backbone.width, key=level_key)
            if config.noise.is_level_shown
            else None
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
        # A code that is hidden shows itself; one that may be noise does not.
        marked_share = config.prefix_share if config.noise.is_level_shown else 0.0
        self.mark = make_mark(marked_share, task.backbone.width, level_key)
        # k h v -> h (k v), so that one product makes the logits of all levels.
        self.heads.kernel[...] = heads.swapaxes(0, 1).reshape(task.backbone.width, -1)

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return one draw of the bound for each example in nats per code, weighted by its number of
        codes; after a prefix that of the rest given the prefix.
        """
        check_call(self, tokens, cond)
        level_key, noise_key, condition_key, dropout_key = jax.random.split(key, 4)
        b = tokens.num_frames.shape[0]
        is_valid = tokens.is_valid
        level = 1 - (jax.random.uniform(level_key) + jnp.arange(b) / b) % 1
        conditions = self.conditioner(cond, is_valid, key=condition_key)
        is_known = shown_prefix(self, key, is_valid)
        nats, share = self._bound(
            tokens, is_known, level, conditions, self.config.hiding, noise_key, dropout_key
        )
        num_open = (is_valid & ~is_known).sum(axis=1)
        weight = (num_open * self.spec.codebooks).astype(jnp.float32)
        return LossOut(nats / jnp.maximum(weight, 1), weight, {"noise_share": share})

    def score(
        self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""], num_draws: int = 1
    ) -> ScoreOut:
        """Return an upper bound on the bits of each example's codes, from `num_draws` noise levels
        each.
        """
        check_call(self, tokens, cond, reads="codes")
        return bound_from_draws(_bound_draws(self, tokens, cond, key, num_draws)[:, None])

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: DiscreteSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw codes; the frames that the prompt knows are kept, in any pattern."""
        check_sample(self, cond, num_frames, sampler, DiscreteSampler, prompt)
        self.config.check(sampler)
        codes = _sample_codes(self, cond, num_frames, key, prompt, sampler)
        calls = sampler.steps * num_copies(sampler)
        return SampleOut(make_tokens(codes=codes, num_frames=num_frames), calls)

    def _bound(
        self,
        tokens: Tokens,
        is_known: Bool[Array, "b t"],
        level: Float[Array, "b"],
        conditions: Conditions,
        hiding: Hiding,
        noise_key: Key[Array, ""],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
        """Return one draw of the bound of each example's frames that are not known, given those
        that are, in nats, and the share of its codes that were noise.
        """
        codes = read_codes(tokens)
        is_valid = tokens.is_valid
        is_open = is_valid & ~is_known
        corrupted = self.config.noise.corrupt(
            noise_key, codes, is_open, level, hiding, self.spec.entries
        )
        noisy = jnp.where(is_known[:, :, None], codes, corrupted.codes)
        logits = self._logits(
            noisy, corrupted.share, conditions, is_valid, is_known, key=dropout_key
        )
        nats = self.config.noise.nats(logits, codes, corrupted)
        return jnp.where(is_open[:, :, None], nats, 0).sum(axis=(1, 2)), corrupted.share

    def _logits(
        self,
        noisy: Int[Array, "b t k"],
        share: Float[Array, "b"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        is_known: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t k v"]:
        frames = conditions.frames
        frames = frames if self.mark is None else self.mark(frames, is_known)
        hidden = self.backbone(
            self.embed(noisy).astype(frames.dtype) + frames,
            positions=jnp.broadcast_to(jnp.arange(is_valid.shape[1])[None, :], is_valid.shape),
            is_valid=is_valid,
            text=conditions.text,
            clip=modulate(
                None if self.level_embedding is None else self.level_embedding(share), conditions
            ),
            key=key,
        )
        return self.heads(hidden).reshape(*noisy.shape, self.spec.entries)


@functools.partial(jax.jit, static_argnames="num_draws")
def _bound_draws(
    model: Discrete, tokens: Tokens, cond: Cond, key: Key[Array, ""], num_draws: int
) -> Float[Array, "r b"]:
    """Return unbiased draws of the bound in nats; no schedule moves their mean, so the noise picks
    a quiet one.
    """
    conditions = model.conditioner(cond, tokens.is_valid)
    is_known = jnp.zeros_like(tokens.is_valid)
    place_key, noise_key = jax.random.split(key)

    def draw_bound(_, inputs):
        place, step_key = inputs
        return None, model._bound(
            tokens, is_known, 1 - place, conditions, model.config.noise.scoring, step_key
        )[0]

    places = draw_places(place_key, num_draws, tokens.num_frames.shape[0])
    return lax.scan(draw_bound, None, (places, jax.random.split(noise_key, num_draws)))[1]


@functools.partial(jax.jit, static_argnames="sampler")
def _sample_codes(
    model: Discrete,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: DiscreteSampler,
) -> Int[Array, "b t k"]:
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    is_known = jnp.zeros_like(is_valid) if prompt is None else prompt.is_known & is_valid
    start_key, step_key = jax.random.split(key)
    codes = model.config.noise.start(start_key, (b, t, model.spec.codebooks), model.spec.entries)
    if prompt is not None:
        codes = jnp.where(is_known[:, :, None], read_codes(prompt.tokens), codes)
    is_free = jnp.broadcast_to((is_valid & ~is_known)[:, :, None], codes.shape)

    copies = num_copies(sampler)
    is_attended, is_marked = (
        jnp.repeat(frames, copies, axis=0) for frames in (is_valid, leading(is_known))
    )
    conditions = model.conditioner(with_unconditional(cond, sampler), is_attended)

    def step(codes, inputs):
        progress, previous, step_key = inputs
        # `previous` is where the step starts; the network gets the noise level that it has there.
        share = jnp.broadcast_to(sampler.hiding.hidden_share(previous), (copies * b,))
        logits = model._logits(
            jnp.repeat(codes, copies, axis=0), share, conditions, is_attended, is_marked
        ).astype(jnp.float32)
        logits = guide(logits, sampler)
        less_noisy = _step_codes(
            model.config.noise, codes, is_free, logits, progress, previous, step_key, sampler
        )
        # Known codes are never redrawn, also under uniform noise, where all codes move.
        return jnp.where(is_free, less_noisy, codes), None

    # In numpy: the grid is a constant of the compiled program.
    progress = np.arange(sampler.steps + 1, dtype=np.float32) / np.float32(sampler.steps)
    inputs = (progress[1:], progress[:-1], jax.random.split(step_key, sampler.steps))
    codes, _ = lax.scan(step, codes, inputs)
    return jnp.where(is_valid[:, :, None], codes, 0)


def _step_codes(
    noise: AbsorbingNoise | UniformNoise,
    codes: Int[Array, "b t k"],
    is_free: Bool[Array, "b t k"],
    logits: Float[Array, "b t k v"],
    progress: Float[Array, ""],
    previous: Float[Array, ""],
    key: Key[Array, ""],
    sampler: DiscreteSampler,
) -> Int[Array, "b t k"]:
    """Return codes of the noise level at `progress`, given those at `previous` and the network's
    belief.
    """
    if not isinstance(noise, UniformNoise):
        return sampler.reveal(key, codes, is_free, logits, progress, previous)
    clean_key, noisy_key = jax.random.split(key)
    share, next_share = sampler.hiding.hidden_share(previous), sampler.hiding.hidden_share(progress)
    belief = jax.nn.log_softmax(logits) + noise.own_evidence(codes, share, logits.shape[-1])
    clean = sampler.draw(clean_key, belief, previous)
    return noise.less_noisy(noisy_key, codes, clean, share, next_share, logits.shape[-1])
