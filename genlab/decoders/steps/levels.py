"""The depth transformer: the streams of one frame after its first, predicted one after another.

In: the temporal transformer's output for a frame "r h" and the frame's codes "r j" (r: frames of
any examples). Out: logits "r j-1 v", or codes drawn by one compiled scan over levels with a
key-value cache of their own. Position k sees the temporal output and the code of level k - 1, and
has the head of level k (Moshi, 2410.00037 section 3.4.1; there projections differ between levels,
which is an option here). As another option the temporal output has a first position of its own and
enters no other (CSM): one more call per frame. With a plan the first level is the unit, and all
codes are predicted here (`streams.py`).
"""

from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Key

from genlab.config import ConfigError
from genlab.decoders.steps.stepwise import Step, StepSampler, choose, num_copies
from genlab.decoders.steps.streams import Streams
from genlab.machine.sharding import COLUMNS, ROWS
from genlab.nets.backbone import Backbone, BackboneConfig, Cache, DecodePlan
from genlab.nets.linear import CodeEmbedding, Linear, code_heads, matmul, matmul_parts
from genlab.nets.param import matrix


class Levels(nnx.Module):
    """The depth transformer between its input and its heads: all streams of one frame but the
    first.
    """

    is_shared: ClassVar[bool] = False  # the backbone in it is a part of the head

    def __init__(
        self,
        config: BackboneConfig,
        streams: Streams,
        *,
        entering_width: int,
        has_own_position: bool,
        is_per_level: bool,
        key: Key[Array, ""],
        code_vectors: Float[Array, "k v d"] | None,
    ):
        in_key, embed_key, backbone_key, head_key = jax.random.split(key, 4)
        levels = streams.count - 1
        entries = streams.spec.entries
        first = None
        others = None
        if code_vectors is not None:
            # The last level is never an input, and the first one is not predicted here.
            first = code_vectors[:-1]
            others = code_vectors[-levels:]
        self.streams = streams
        self.num_before = int(has_own_position)
        self.is_per_level = is_per_level
        self.project_in = Linear(entering_width, config.width, key=in_key)
        self.embed = CodeEmbedding(
            streams.codebooks - 1, entries, config.width, key=embed_key, code_vectors=first
        )
        streams.add_units(self.embed, jax.random.fold_in(embed_key, 1))
        self.backbone = Backbone(config, key=backbone_key, is_causal=True)
        if is_per_level:
            _part_levels(
                self.backbone, levels + self.num_before, jax.random.fold_in(backbone_key, 1)
            )
        heads = code_heads(levels, entries, config.width, key=head_key, code_vectors=others)
        self.heads = matrix(heads, COLUMNS)

    def __call__(
        self, hidden: Float[Array, "r h"], codes: Int[Array, "r j"], *, key: Key[Array, ""] | None
    ) -> Float[Array, "r j-1 v"]:
        """Return the logits of all streams but the first, given the frame's codes."""
        entering = self.project_in(hidden)[:, None]
        x = self._embed(codes[:, :-1], jnp.arange(codes.shape[1] - 1))
        x = jnp.concatenate([entering, x], axis=1) if self.num_before else x + entering
        positions = jnp.broadcast_to(jnp.arange(x.shape[1])[None, :], x.shape[:2])
        out = self.backbone(x, positions=positions, is_valid=jnp.ones(x.shape[:2], bool), key=key)[
            :, self.num_before :
        ]
        return jax.vmap(matmul, in_axes=(1, 0), out_axes=1)(out, self.heads[...].astype(out.dtype))

    def draw(
        self,
        plan: DecodePlan,
        cache: Cache,
        hidden: Float[Array, "c 1 h"],
        first: Int[Array, "b"],
        step: Step,
        sampler: StepSampler,
    ) -> Int[Array, "b l"]:
        """Return the codes of one frame after its first, drawn one by one; what is heard is not
        among them.
        """
        entering = self.project_in(hidden)
        copies = num_copies(sampler)

        def extend(x, cache, position):
            positions = jnp.broadcast_to(position, (x.shape[0], 1))
            if not self.is_per_level:
                return self.backbone.extend(x, plan, cache, positions=positions)
            # Weights of one level each have one axis more than any other of a layer.
            layers = jax.tree.map(
                lambda leaf: (
                    lax.dynamic_slice_in_dim(leaf, position, 1) if leaf.ndim == 3 else leaf
                ),
                plan.layers,
            )
            return self.backbone.extend(x, plan._replace(layers=layers), cache, positions=positions)

        def draw_level(carry, inputs):
            cache, code = carry
            level, head, given, is_given, key = inputs
            x = jnp.repeat(self._embed(code[:, None], level[None]), copies, axis=0)
            out, cache = extend(
                x if self.num_before else x + entering, cache, level + self.num_before
            )
            drawn = choose(key, matmul(out, head.astype(out.dtype))[:, 0], sampler)
            code = jnp.where(is_given, given, drawn)
            return (cache, code), code

        if self.num_before:
            cache = extend(entering, cache, jnp.zeros((), jnp.int32))[1]
        drawn = self.streams.drawn
        keys = jax.random.split(jax.random.fold_in(step.key, 1), drawn - 1)
        given, is_given = step.given[:, 1:drawn].T, step.is_given[:, 1:drawn].T
        inputs = (jnp.arange(drawn - 1), self.heads[: drawn - 1], given, is_given, keys)
        return lax.scan(draw_level, (cache, first), inputs)[1].T

    def _embed(self, codes: Int[Array, "r l"], levels: Int[Array, "l"]) -> Float[Array, "r l e"]:
        vectors = self.streams.embed(
            self.embed.tables.table[...], codes[:, :, None], levels[:, None]
        )
        return vectors.astype(self.backbone.config.dtype)


class LevelLinear(nnx.Module):
    """A product with a kernel of its own for each level (Moshi's "depthwise parametrization")."""

    def __init__(self, kernel: Float[Array, "*layers l i o"], split: PartitionSpec):
        self.kernel = matrix(kernel, split)

    def __call__(self, x: Float[Array, "r l i"]) -> Float[Array, "r l o"]:
        """Return the product in the dtype of `x`."""
        return jax.vmap(matmul, in_axes=(1, 0), out_axes=1)(x, self.kernel[...].astype(x.dtype))

    def parts(self, x: Float[Array, "r l i"], count: int) -> list[Float[Array, "r l p"]]:
        """Return the product cut into `count` equal parts."""
        product = jax.vmap(partial(matmul_parts, count=count), in_axes=(1, 0), out_axes=1)
        return product(x, self.kernel[...].astype(x.dtype))


def _part_levels(backbone: Backbone, levels: int, key: Key[Array, ""]) -> None:
    """Give each level its own projections, scaled as in `Backbone`; norms stay shared.

    Raises:
        ConfigError: for a mixer that has no such projections.
    """
    keys = iter(jax.random.split(key, 4))
    config = backbone.config
    # The two kernels of each part that are replaced below, by their names.
    stack = backbone.stacks[0]
    if len(config.period) > 1 or not all(
        hasattr(x, "project_in") for x in (stack.mixer, stack.ffn)
    ):
        kinds = ", ".join(mixer.kind for mixer in config.period)
        raise ConfigError(
            f"decoder.is_per_level=True: backbone.mixer={kinds} and backbone.ffn={config.ffn.kind} "
            "have no single projection that each level could have for itself; use "
            "decoder.is_per_level=False, or backbone.mixer.kind=attention and "
            "backbone.ffn.kind=swiglu"
        )
    for module in (backbone.layers.mixer, backbone.layers.ffn):
        entering = ("project_in", 1.0, COLUMNS)
        leaving = ("project_out", backbone.config.residual_scale, ROWS)
        for name, scale, split in (entering, leaving):
            layers, inputs, outputs = getattr(module, name).kernel.shape
            draws = jax.random.normal(next(keys), (layers, levels, inputs, outputs))
            setattr(module, name, LevelLinear(scale * inputs**-0.5 * draws, split))
