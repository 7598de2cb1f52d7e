"""Regression: the conditional mean of the latents, by the network of the diffusion family.

In: conditions, and the latents of the frames that are known; where none are known the network gets
zeros in place of its noisy latents. Half of the training examples know the beginning of their clip,
as continuations do, the others nothing. The loss is the squared error of the frames that are not
known, so what is learned is their mean given all that an arm is given. Out: that mean, the same for
every key. It has no bits and models nothing that must be sampled: a baseline that every arm of a
comparison must beat (genlab/run/bounds.py), never an arm.
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, GenlabError
from genlab.decoders.conditioning import Conditioner
from genlab.decoders.hole_rule import HoleRule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.noise.denoisers import ModulatedBackbone, Network
from genlab.decoders.prefix import draw_prefix
from genlab.decoders.prompt_rule import PromptRule
from genlab.decoders.task import Task
from genlab.tokens import (
    AnyArray,
    Cond,
    LossOut,
    Prompt,
    SampleCost,
    SampleOut,
    ScoreOut,
    Tokens,
    make_tokens,
    read_latents,
)

PREFIX_SHARE = 0.5  # of the training examples, those that know the beginning of their clip


class RegressionSampler(Config):
    """There is nothing to choose: what the network predicts is the sample."""

    kind: Literal["regression"] = "regression"


class RegressionConfig(Config):
    """The conditional mean of the latents."""

    kind: Literal["regression"] = "regression"
    sampler: ClassVar[type[Config]] = RegressionSampler
    prompt_rule: ClassVar[PromptRule] = "clean prefixes"
    hole_rule: ClassVar[HoleRule] = "beginnings alone"
    network: Network = ModulatedBackbone()
    """What predicts, as in the diffusion family."""

    @property
    def loss_unit(self) -> str:
        """What one unit of the loss is."""
        return "mse_of_clean"

    def build(self, task: Task, *, key: Key[Array, ""]) -> "Regression":
        """Return the decoder with fresh weights, made in one compiled call."""
        return jax.jit(lambda key: Regression(self, task, key=key))(key)

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: those of diffusion."""
        forward = task.condition_flops + self.network.flops(task)
        return 3 * forward - self.network.data_flops(task)

    def bare_sampler(self, task: Task) -> RegressionSampler:
        """Return the only sampler: nothing is drawn."""
        return RegressionSampler()

    def sample_cost(self, sampler: RegressionSampler, task: Task) -> SampleCost:
        """Return the cost of one clip: one network call."""
        return SampleCost(1, task.condition_flops + self.network.flops(task))


class Regression(nnx.Module):
    """The conditions' encoder and the network that predicts."""

    reads: ClassVar[Literal["codes", "latents"]] = "latents"
    has_bits: ClassVar[bool] = False

    def __init__(self, config: RegressionConfig, task: Task, *, key: Key[Array, ""]):
        condition_key, network_key = jax.random.split(key)
        self.config = config
        self.spec = task.spec
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=condition_key)
        self.network = config.network.build(task, key=network_key)

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the mean squared error of each example, weighted by its number of values."""
        check_call(self, tokens, cond)
        clean = read_latents(tokens)
        known_key, key = jax.random.split(key)
        is_known = draw_prefix(known_key, tokens.is_valid, PREFIX_SHARE)
        predicted = self._predict(cond, tokens.num_frames, clean, is_known, key)
        is_target = tokens.is_valid & ~is_known
        errors = jnp.where(is_target[:, :, None], jnp.square(predicted - clean), 0).sum(axis=(1, 2))
        weight = (is_target.sum(axis=1) * clean.shape[2]).astype(jnp.float32)
        return LossOut(errors / jnp.maximum(weight, 1), weight, {})

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: RegressionSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Return the mean given the conditions and the frames that the prompt knows, which are
        kept.
        """
        check_sample(self, cond, num_frames, sampler, RegressionSampler, prompt)
        latents = _mean_latents(self, cond, num_frames, prompt)
        return SampleOut(make_tokens(latents=latents, num_frames=num_frames), 1)

    def score(
        self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""], num_draws: int = 1
    ) -> ScoreOut:
        """Refuse: a mean is no distribution.

        Raises:
            GenlabError: always.
        """
        raise GenlabError(
            f"score: decoder.kind={self.config.kind!r} predicts a mean, so codes have no bits "
            "under it; compare by the energy of the next block"
        )

    def _predict(
        self,
        cond: Cond,
        num_frames: Int[AnyArray, "b"],
        known: Float[Array, "b t d"],
        is_known: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        b, t = cond.content.shape
        is_valid = jnp.arange(t)[None, :] < jnp.asarray(num_frames)[:, None]
        condition_key, dropout_key = (None, None) if key is None else jax.random.split(key)
        conditions = self.conditioner(cond, is_valid, key=condition_key)
        # A constant level: the network keeps its shape, so its FLOPs are diffusion's.
        given = jnp.where((is_known & is_valid)[:, :, None], known, 0)
        return self.network(given, jnp.ones(b), conditions, is_valid, dropout_key)


@jax.jit
def _mean_latents(
    model: Regression, cond: Cond, num_frames: Int[Array, "b"], prompt: Prompt | None
) -> Float[Array, "b t d"]:
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    known = jnp.zeros((b, t, model.spec.latent_channels))
    is_known = jnp.zeros((b, t), bool)
    if prompt is not None:
        known, is_known = read_latents(prompt.tokens), prompt.is_known & is_valid
    latents = model._predict(cond, num_frames, known, is_known)
    latents = jnp.where(is_known[:, :, None], known, latents)
    return jnp.where(is_valid[:, :, None], latents, 0)
