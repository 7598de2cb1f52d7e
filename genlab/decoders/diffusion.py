"""Diffusion decoder over normalised latents: a transformer that sees noisy clips.

In: latents "b t d" of zero mean and unit variance. The network sees a noisy clip and its noise
level (DiT, 2212.09748) and predicts, by default, the velocity of the straight path from clean to
noise (2210.02747). The loss is the mean squared error over frames and channels. Sampling runs a
solver from noise to level 0 in one compiled loop. Known frames come back exactly. By default they
follow their own path from the noise to the prompt, which is replacement at every level: a law that
is not the conditional of what was learned (RePaint, 2201.09865, repeats steps for that reason).
With `prefix_share` the network learns that conditional: it sees the beginning of some clips clean,
marked by a learned vector, and its loss is on the rest (Voicebox, 2306.15687, masks spans).

Guidance can be limited to an interval of noise levels (2404.07724), outside of which the
unconditional half is not computed, and its result rescaled to the spread of the conditional
prediction (2305.08891 section 3.4).

With another `objective` than "instant" it is a flow map (`noise/flow_map.py`), which is told where
it goes and draws in one or a few calls. Told no interval it is still a velocity: other solvers draw
from it, and `score` is a bound of what they draw. The few-step law has no likelihood.
"""

import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, ConfigError, added
from genlab.decoders.conditioning import (
    Conditioner,
    Conditions,
)
from genlab.decoders.guidance import GuidedSampler, num_copies
from genlab.decoders.hole_rule import HoleRule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.loop import in_a_circle
from genlab.decoders.noise.code_given_latent import (
    WIDTHS,
    Width,
    keep_entries,
    posterior_std,
    read_entries,
)
from genlab.decoders.noise.denoisers import ModulatedBackbone, Network
from genlab.decoders.noise.diffusion_score import codes_bound, log_density
from genlab.decoders.noise.flow_map import (
    SLOW,
    Average,
    Inputs,
    Instant,
    Objective,
    jump_data_flops,
    jump_flops,
    make_jump,
    objective_errors,
    tell,
)
from genlab.decoders.noise.guided import guided_prediction
from genlab.decoders.noise.paths import Level, LikeLevel, Path, Prediction, StraightPath
from genlab.decoders.noise.schedules import LevelDraw, LogitNormalLevels
from genlab.decoders.noise.solvers import BARE_STEPS, Euler, FlowMap, MapSolver, fill_in
from genlab.decoders.prefix import Known, PrefixShare, leading, make_mark, shown_prefix
from genlab.decoders.prompt_rule import PromptRule
from genlab.decoders.task import Task
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


class DiffusionSampler(GuidedSampler):
    """How latents are drawn: by a solver on a grid of noise levels."""

    kind: Literal["diffusion"] = "diffusion"
    solver: MapSolver = Euler()
    """How a step is computed."""
    steps: int = pydantic.Field(default=32, gt=0, le=10_000)
    """Steps of the solver, each of one or more network calls."""
    shift: float = pydantic.Field(default=1.0, gt=0, le=1000)
    """Multiplies sigma / alpha on the grid: above 1 it spends more steps at high noise."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest noise level that is guided."""
    guidance_rescale: float = pydantic.Field(default=0.0, ge=0, le=1)
    """1 gives the guided prediction the standard deviation of the conditional one, 0 leaves it."""
    is_loop: bool = added(False)
    """Draw clips that loop: every network call sees the clip begin at another frame (`loop.py`),
    and the codec decodes it in a circle.
    """
    told_guidance: float = added(1.0)
    """Strength of guidance that a flow map trained with `objective.guidance` is told, in one call
    where `guidance` takes two; 1 is off.
    """

    @pydantic.model_validator(mode="after")
    def _check_interval(self) -> "DiffusionSampler":
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"guidance_interval={self.guidance_interval}: expected 0 <= low < high <= 1"
            )
        return self

    def is_guided(self, level: Level) -> LikeLevel:
        """Return whether a network call at `level` is a guided one; for jax and numpy alike."""
        low, high = self.guidance_interval
        return (num_copies(self) > 1) & (np.float32(low) <= level) & (level <= np.float32(high))

    def guided_calls(self, config: "DiffusionConfig") -> Bool[np.ndarray, "calls"]:
        """Return for every step of the loop that calls the network whether the call is guided,
        which is two calls.
        """
        levels = config.path.grid(self.steps, self.shift)
        is_defined = config.path.is_defined_at_clean(config.predicts)
        return self.is_guided(
            self.solver.call_levels(config.path, levels, is_defined).astype(np.float32)
        )


class DiffusionConfig(Config):
    """The latent diffusion family."""

    kind: Literal["diffusion"] = "diffusion"
    sampler: ClassVar[type[Config]] = DiffusionSampler
    hole_rule: ClassVar[HoleRule] = "replacement"
    network: Network = ModulatedBackbone()
    """What predicts: the shared backbone, its norms modulated by the noise level, or
    `stable_audio`, the network of Stable Audio with the same width, layers and heads.
    """
    path: Path = StraightPath()
    """How latents and noise are mixed at a level."""
    predicts: Prediction = "velocity"
    """Target of the network: the velocity of the path, v, the noise, or the clean latents. One
    formula converts between them; a combination with `path` that divides by zero is an error.
    """
    levels: LevelDraw = LogitNormalLevels()
    """Draws the noise level of each training example."""
    min_snr_gamma: float | None = pydantic.Field(default=None, gt=0)
    """Weigh the loss of each example by min-SNR-gamma (2303.09556; 5 is usual) in the form that
    belongs to what the network predicts; None counts every level alike.
    """
    prefix_share: PrefixShare = added(0.0)
    """Share of training examples that show a beginning of the clip clean and learn the rest
    (`prefix.py`); 0 is none. Above 0 the beginning of a prompt is shown so too, not replaced.
    """
    objective: Objective = added(Instant())
    """What is learned: the velocity at a level, or, by `mean_flow`, its average over an interval of
    levels, which `sampler.solver.kind=flow_map` draws from in few calls.
    """

    @pydantic.model_validator(mode="after")
    def _check_prediction(self) -> "DiffusionConfig":
        self.path.check(self.predicts)
        if self.prefix_share > 0 and not isinstance(self.network, ModulatedBackbone):
            raise ValueError(
                f"prefix_share={self.prefix_share:g}: network.kind={self.network.kind!r} has no "
                "input that marks known frames; set prefix_share=0, or network.kind='backbone'"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_objective(self) -> "DiffusionConfig":
        needed: dict[str, tuple[object, object]] = {
            "path.kind": (self.path.kind, "straight"),
            "predicts": (self.predicts, "velocity"),
            "network.kind": (self.network.kind, "backbone"),
            "min_snr_gamma": (self.min_snr_gamma, None),
        }
        for field, (found, only) in needed.items():
            if self.num_told and found != only:
                raise ValueError(
                    f"objective.kind={self.objective.kind!r}: {field}={found!r}, but average "
                    f"velocities are learned with {only!r} only; set {field}={only!r}, or "
                    "objective.kind='instant'"
                )
        return self

    def check_sampler(self, sampler: DiffusionSampler) -> None:
        """Refuse a sampler that asks for what was not learned.

        Raises:
            ConfigError: naming both settings and the fix.
        """
        if isinstance(sampler.solver, FlowMap) and not self.num_told:
            raise ConfigError(
                "sampler.solver.kind='flow_map': decoder.objective.kind='instant' has learned no "
                "jumps; set decoder.objective.kind='mean_flow', or another solver"
            )
        most = self.objective.guidance
        if sampler.told_guidance > most:
            raise ConfigError(
                f"sampler.told_guidance={sampler.told_guidance:g}: the decoder is trained up to "
                f"decoder.objective.guidance={most:g}; use a lower one, or train with a higher"
            )

    @property
    def num_told(self) -> int:
        """How many numbers the network is told beside its level: 0 if it is no flow map."""
        return self.objective.num_told

    @property
    def loss_unit(self) -> str:
        """What one unit of the loss is."""
        return "mse_of_average_velocity" if self.num_told else f"mse_of_{self.predicts}"

    def build(self, task: Task, *, key: Key[Array, ""]) -> "Diffusion":
        """Return the decoder with fresh weights, made in one compiled call.

        `code_vectors` are the codec's normalised entries: only `score` needs them.

        Raises:
            ConfigError: if a flow map asks for what the backbone or the conditions cannot give.
        """
        self.objective.check(task)
        return jax.jit(lambda key: Diffusion(self, task, key=key))(key)

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes, less
        unused gradients, and of a flow map the calls that its target takes.
        """
        width = task.backbone.width
        call = self.network.flops(task) + jump_flops(width, self.num_told)
        # Latents, sinusoids and numbers are data: nothing is propagated into them.
        data = self.network.data_flops(task) + jump_data_flops(width, self.num_told)
        still = self.objective.still_calls * call
        still += task.condition_flops * (self.objective.guidance > 1)
        return 3 * (task.condition_flops + call) - data + still

    @property
    def prompt_rule(self) -> PromptRule:
        """How a prompt is known (`prompt_rule.py`)."""
        return "clean prefixes" if self.prefix_share > 0 else "replacement"

    def bare_sampler(self, task: Task) -> DiffusionSampler:
        """Return the sampler of the bare law: the probability flow without guidance, in
        `BARE_STEPS` Euler steps.
        """
        return DiffusionSampler(steps=BARE_STEPS)

    def sample_cost(self, sampler: DiffusionSampler, task: Task) -> SampleCost:
        """Return the cost of drawing one clip."""
        self.check_sampler(sampler)
        is_guided = sampler.guided_calls(self)
        calls = int(is_guided.size + (num_copies(sampler) - 1) * is_guided.sum())
        encodings = num_copies(sampler) if is_guided.any() else 1
        call = self.network.flops(task) + jump_flops(task.backbone.width, self.num_told)
        return SampleCost(calls, encodings * task.condition_flops + calls * call)


class Diffusion(nnx.Module):
    """The conditions' encoder and the network that predicts."""

    reads: ClassVar[Literal["codes", "latents"]] = "latents"
    bound_widths: ClassVar[tuple[float, ...]] = WIDTHS

    def __init__(self, config: DiffusionConfig, task: Task, *, key: Key[Array, ""]):
        condition_key, network_key = jax.random.split(key)
        self.config = config
        self.spec = task.spec
        self.deterministic = False
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=condition_key)
        self.network = config.network.build(task, key=network_key)
        self.code_vectors = keep_entries(task.code_vectors)
        self.mark = make_mark(config.prefix_share, task.backbone.width, network_key)
        self.jump = make_jump(task.backbone.width, config.num_told, network_key)

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the mean squared error of each example's prediction, weighted by its number of
        latent values, those shown as a prefix apart.
        """
        check_call(self, tokens, cond)
        level_key, noise_key, condition_key, dropout_key = jax.random.split(key, 4)
        path, predicts = self.config.path, self.config.predicts
        is_valid = tokens.is_valid
        clean = read_latents(tokens)
        is_known = shown_prefix(self, key, is_valid)
        # Frames that are shown clean have nothing to predict.
        is_target = is_valid & ~is_known
        noise = jax.random.normal(noise_key, clean.shape)
        level = jnp.minimum(self.config.levels.draw(level_key, clean.shape[0]), path.noisiest_level)
        objective = self.config.objective
        level, target = objective.interval(key, level, self.config.levels, path.noisiest_level)
        conditions = self.conditioner(cond, is_valid, key=condition_key)
        noisy = path.noisy(clean, noise, level)
        asked = path.target(predicts, clean, noise, level)
        inputs = Inputs(cond, conditions, is_valid, Known(clean, is_known), dropout_key)
        errors = jnp.square(
            objective_errors(objective, self, inputs, noisy, asked, level, target, key)
        )
        errors = jnp.where(is_target[:, :, None], errors, 0).sum(axis=(1, 2))
        if self.config.min_snr_gamma is not None:
            errors = errors * path.min_snr_weight(predicts, level, self.config.min_snr_gamma)
        weight = (is_target.sum(axis=1) * clean.shape[2]).astype(jnp.float32)
        means = errors / jnp.maximum(weight, 1)
        means = means if self.deterministic else objective.weigh(means)
        return LossOut(means, weight, {"noise_level": level})

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: DiffusionSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw latents; the frames that the prompt knows are kept, in any pattern: a beginning is
        what the network is given if it was trained so, the others replace noisy ones.
        """
        check_sample(self, cond, num_frames, sampler, DiffusionSampler, prompt)
        self.config.check_sampler(sampler)
        latents = _sample_latents(self, cond, num_frames, key, prompt, sampler)
        is_guided = sampler.guided_calls(self.config)
        return SampleOut(
            make_tokens(latents=latents, num_frames=num_frames),
            int(is_guided.size + (num_copies(sampler) - 1) * is_guided.sum()),
        )

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

        How: noise/diffusion_score.py. Only the codes are read; the latents in them are the sums of
        their code vectors.

        Raises:
            GenlabError: if the decoder was built without the codec's entries.
        """
        check_call(self, tokens, cond, reads="codes")
        bits, std_error = _score_codes(self, tokens, cond, key, num_draws, width)
        return ScoreOut(bits, std_error, "upper bound")

    def latent_log_density(
        self,
        tokens: Tokens,
        cond: Cond,
        *,
        key: Key[Array, ""],
        num_steps: int = 64,
        num_probes: int = 1,
    ) -> Float[Array, "b"]:
        """Return log p of each example's latents in nats, by the probability flow
        (noise/diffusion_score.py).

        It compares models of the same latents with each other and nothing else. Each of `num_steps`
        Heun steps calls the network twice, and each call is followed by one gradient per probe;
        `num_probes` 0 takes the exact trace.
        """
        check_call(self, tokens, cond)
        return _density_of_latents(self, tokens, cond, key, num_steps, num_probes)

    def _predict(
        self,
        noisy: Float[Array, "b t d"],
        level: Float[Array, "b"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        given: Known | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        noisy = noisy * self.config.path.input_scale(level)[:, None, None]
        if self.mark is not None and given is not None:
            noisy = jnp.where(given.is_known[:, :, None], given.latents, noisy)
            conditions = conditions._replace(frames=self.mark(conditions.frames, given.is_known))
        embedded = self.config.path.embedded(level)
        # A derivative by the level is taken of a flow map: it must be smooth in it.
        embedded = embedded if self.jump is None else SLOW * embedded
        return self.network(noisy, embedded, conditions, is_valid, key)

    def average(self, inputs: Inputs, log_strength: Float[Array, "b"]) -> Average:
        """Return the average velocity of this guidance as a function of an interval, for a loss;
        without a flow map it is the prediction.
        """

        def call(noisy, level, target):
            told = tell(self.jump, inputs.conditions, level - target, log_strength)
            return self._predict(noisy, level, told, inputs.is_valid, inputs.given, inputs.key)

        return call


@functools.partial(jax.jit, static_argnames="num_draws")
def _score_codes(
    model: Diffusion, tokens: Tokens, cond: Cond, key: Key[Array, ""], num_draws: int, width: Width
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    is_valid = tokens.is_valid
    path = model.config.path
    predicts = model.config.predicts
    conditions = model.conditioner(cond, is_valid)

    def clean(noisy, level):
        return path.recover(
            predicts, model._predict(noisy, level, conditions, is_valid), noisy, level
        )[0]

    vectors = read_entries(model.code_vectors)
    std = posterior_std(vectors, width)
    return codes_bound(
        path, clean, read_codes(tokens), is_valid, vectors, std, key=key, num_draws=num_draws
    )[:2]


@functools.partial(jax.jit, static_argnames=("num_steps", "num_probes"))
def _density_of_latents(
    model: Diffusion,
    tokens: Tokens,
    cond: Cond,
    key: Key[Array, ""],
    num_steps: int,
    num_probes: int,
) -> Float[Array, "b"]:
    is_valid = tokens.is_valid
    path = model.config.path
    predicts = model.config.predicts
    conditions = model.conditioner(cond, is_valid)

    def velocity(noisy, level):
        levels = jnp.broadcast_to(level, (noisy.shape[0],))
        predicted = model._predict(noisy, levels, conditions, is_valid)
        return path.convert(predicted, noisy, levels, predicts=predicts, wanted="velocity")

    return log_density(
        path,
        velocity,
        read_latents(tokens),
        is_valid,
        key=key,
        num_steps=num_steps,
        num_probes=num_probes,
    )


@functools.partial(jax.jit, static_argnames="sampler")
def _sample_latents(
    model: Diffusion,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: DiffusionSampler,
) -> Float[Array, "b t d"]:
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    noise = jax.random.normal(key, (b, t, model.spec.latent_channels))
    is_known = jnp.zeros_like(is_valid) if prompt is None else prompt.is_known & is_valid
    known = jnp.zeros_like(noise) if prompt is None else read_latents(prompt.tokens)
    path, predicts = model.config.path, model.config.predicts
    # What follows a hole is replaced alone: training shows beginnings.
    given = Known(known, leading(is_known))
    is_guided = sampler.guided_calls(model.config)
    call = model._predict
    call = in_a_circle(call, jax.random.fold_in(key, 2)) if sampler.is_loop else call
    predict = guided_prediction(model, call, cond, is_valid, sampler, is_guided, given)
    latents = fill_in(
        sampler.solver,
        path,
        predicts,
        predict,
        noise,
        path.grid(sampler.steps, sampler.shift),
        known=known,
        is_known=is_known,
        key=jax.random.fold_in(key, 1),
        jump=predict if model.jump is not None else None,
    )
    return jnp.where(is_valid[:, :, None], latents, 0)
