"""Semantic distillation: the first code level is trained to say what a recogniser hears.

In: what level 1 passes on, "b t d", and the waves it came from. Out: one distance per example. A
linear map of level 1 should point where the features of the frozen in-lab recogniser point, per
feature and over time: -log sigmoid(cosine) (SpeechTokenizer, Zhang et al. 2023, section 3.3, with
HuBERT in place of our recogniser). We differ in standardising the features first: a constant offset
would dominate the cosine. Only training needs this module; exports drop it.
"""

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from genlab.config import Config
from genlab.machine.sharding import path_name
from genlab.nets.param import linear_rules, rules_of
from genlab.recognisers.shipped import SHIPPED, load_units


class DistillationConfig(Config):
    """What level 1 is taught, and how much it weighs."""

    teacher: str = SHIPPED
    """A shipped recogniser, or the path of an exported `.safetensors`."""
    weight: float = pydantic.Field(default=4.0, ge=0)
    """Weight of the distance to the teacher's features in the loss."""


class Teacher(nnx.Variable):
    """A parameter of the frozen recogniser: saved with the run, never trained."""


class Distillation(nnx.Module):
    """The frozen recogniser and the map from level 1 to its features."""

    def __init__(self, config: DistillationConfig, channels: int, key: Key[Array, ""]):
        units = load_units(config.teacher)
        self._graph = units.recogniser.graph
        state = units.recogniser.state
        # Frozen weights lie on a mesh as they did where they were trained.
        rules = rules_of(nnx.merge(self._graph, state))

        def freeze(path: tuple[object, ...], leaf: Array) -> Teacher:
            return Teacher(leaf, rule=rules[path_name(path)])

        self.teacher = nnx.data(jax.tree_util.tree_map_with_path(freeze, state))
        self.mean, self.std = (
            Teacher(jnp.asarray(units.codebook.mean)),
            Teacher(jnp.asarray(units.codebook.std)),
        )
        features = units.codebook.mean.shape[0]
        rngs = nnx.Rngs(key)
        self.projection = nnx.Linear(channels, features, rngs=rngs, **linear_rules())

    def __call__(
        self,
        level_one: Float[Array, "b t d"],
        waves: Float[Array, "b s"],
        num_samples: Int[Array, "b"],
    ) -> Float[Array, "b"]:
        """Return -log sigmoid(cosine over time), averaged over features: 0.69 if unrelated, 0.31 at
        best.
        """
        teacher = nnx.merge(
            self._graph, jax.tree.map(lambda leaf: leaf[...], self.teacher, is_leaf=_is_variable)
        )
        features = teacher.features(waves, num_samples)
        features = (features - self.mean[...][None, None]) / self.std[...][None, None]
        is_valid = jnp.arange(features.shape[1])[None] < teacher.num_frames(num_samples)[:, None]
        target = jax.lax.stop_gradient(features) * is_valid[..., None]
        said = self.projection(level_one) * is_valid[..., None]
        # Inside the root, because the norm of an untouched level 1, which is 0, has no gradient.
        norms = jnp.sqrt(jnp.sum(said**2, axis=1) * jnp.sum(target**2, axis=1) + 1e-6)
        cosine = jnp.sum(said * target, axis=1) / norms
        return -jax.nn.log_sigmoid(cosine).mean(axis=-1)


def _is_variable(leaf: object) -> bool:
    return isinstance(leaf, nnx.Variable)
