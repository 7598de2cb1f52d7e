"""Networks of the diffusion decoder: noisy latents, a noise level and the conditions in, a
prediction out.

`ModulatedBackbone` is the backbone of all families, modulated by the noise level (DiT, 2212.09748):
the one to compare arms with. `StableAudioNetwork` is Stable Audio's own (2404.10301): with the same
width, layers and heads it is a different network, and its weights can be written for diffusers.
"""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from genlab.config import Config, ConfigError
from genlab.decoders.conditioning import Conditions, modulate
from genlab.decoders.noise.stable_audio import StableAudio, StableAudioConfig, stable_audio_flops
from genlab.decoders.task import Task
from genlab.machine.sharding import COLUMNS, ROWS
from genlab.nets.backbone import Backbone, BackboneConfig, backbone_flops
from genlab.nets.linear import Linear

# Sinusoids that describe the noise level to the network.
LEVEL_CHANNELS = 256


class LevelEmbedding(nnx.Module):
    """Sinusoids of the noise level through a two-layer network, in float32."""

    def __init__(self, width: int, *, key: Key[Array, ""]):
        in_key, out_key = jax.random.split(key)
        self.project_in = Linear(LEVEL_CHANNELS, width, key=in_key, split=COLUMNS)
        self.project_out = Linear(width, width, key=out_key, split=ROWS)

    def __call__(self, level: Float[Array, "b"]) -> Float[Array, "b h"]:
        """Return the embedding of each level."""
        # Angles of 1000 * level, from a period of 2 pi / 1000 up to 20 pi levels (DDPM,
        # 2006.11239).
        rates = 1000.0 * 10_000.0 ** -jnp.linspace(0, 1, LEVEL_CHANNELS // 2)
        angles = level[:, None] * rates[None, :]
        sinusoids = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return self.project_out(jax.nn.silu(self.project_in(sinusoids)))


class ModulatedBackbone(Config):
    """The backbone of all families, modulated by the noise level."""

    kind: Literal["backbone"] = "backbone"

    def build(self, task: Task, *, key: Key[Array, ""]) -> "BackboneDenoiser":
        """Return the network with fresh weights for latents of `channels` channels."""
        return BackboneDenoiser(task, key=key)

    def flops(self, task: Task) -> float:
        """Return the FLOPs of one call on one clip."""
        edges = 4 * task.num_frames * task.backbone.width * task.spec.latent_channels
        level = 2 * task.backbone.width * (LEVEL_CHANNELS + task.backbone.width)
        inputs: dict[str, Any] = {**task.backbone_inputs, "is_modulated": True}
        return backbone_flops(task.backbone, task.num_frames, **inputs) + edges + level

    def data_flops(self, task: Task) -> float:
        """Return the FLOPs of layers that read only data, to which no gradient goes back."""
        return (
            2.0
            * task.backbone.width
            * (task.num_frames * task.spec.latent_channels + LEVEL_CHANNELS)
        )


class StableAudioNetwork(Config):
    """Stable Audio's transformer in the width, layers and heads of the backbone, with its own norms
    and routes.

    It takes text by cross-attention and one vector per clip, and computes in float32.
    """

    kind: Literal["stable_audio"] = "stable_audio"
    key_heads: int = pydantic.Field(default=2, ge=1)
    """Heads of the keys and values of cross-attention; queries share them in groups."""

    def build(self, task: Task, *, key: Key[Array, ""]) -> "StableAudioDenoiser":
        """Return the network with fresh weights for latents of `channels` channels.

        Raises:
            ConfigError: if the network has no place for what the conditions or the backbone ask
                for.
        """
        if task.condition.text_route != "cross" or not task.condition.is_modulating:
            raise ConfigError(
                f"decoder.network=stable_audio: condition.content={task.condition.content!r}, "
                f"route={task.condition.route!r}, units_route={task.condition.units_route!r}, "
                f"clip_route={task.condition.clip_route!r}, but the network takes its content by "
                "cross-attention and one vector per clip; set content='text', route='cross' or "
                "content='semantic', units_route='cross', and clip_route='adaln' with speaker or "
                "duration"
            )
        # A field that the network ignores would still enter the hash: two runs would look different
        # and be the same.
        asked = {"dropout": 0.0, "dtype": "float32", "remat": False, "is_unrolled": False}
        found = {field: getattr(task.backbone, field) for field in asked}
        for mixer in task.backbone.period:
            if mixer.kind != "attention":
                asked["mixer.kind"], found["mixer.kind"] = "attention", mixer.kind
        if task.backbone.ffn.kind != "swiglu":
            asked["ffn.kind"], found["ffn.kind"] = "swiglu", task.backbone.ffn.kind
        for field, only in asked.items():
            if found[field] != only:
                raise ConfigError(
                    f"backbone.{field}={found[field]!r}: decoder.network=stable_audio has "
                    f"{only!r} only"
                )
        shape = self._shape(task.backbone)
        return StableAudioDenoiser(
            StableAudio(
                shape, task.spec.latent_channels, task.backbone.width, task.backbone.width, key=key
            )
        )

    def flops(self, task: Task) -> float:
        """Return the FLOPs of one call on one clip."""
        return stable_audio_flops(
            self._shape(task.backbone),
            task.spec.latent_channels,
            text_width=task.backbone.width,
            global_width=task.backbone.width,
            num_frames=task.num_frames,
            num_symbols=task.num_read,
        )

    def data_flops(self, task: Task) -> float:
        """Return the FLOPs of layers that read only data, to which no gradient goes back."""
        return 2.0 * (
            task.num_frames * task.spec.latent_channels**2 + LEVEL_CHANNELS * task.backbone.width
        )

    def _shape(self, backbone: BackboneConfig) -> StableAudioConfig:
        channels = backbone.width // backbone.heads
        return StableAudioConfig(
            layers=backbone.layers,
            heads=backbone.heads,
            key_heads=self.key_heads,
            head_channels=channels,
            cross_width=self.key_heads * channels,
        )


Network = Annotated[ModulatedBackbone | StableAudioNetwork, pydantic.Field(discriminator="kind")]


class BackboneDenoiser(nnx.Module):
    """Latent projection, bidirectional backbone modulated by the noise level, one head that starts
    at zero.
    """

    def __init__(self, task: Task, *, key: Key[Array, ""]):
        embed_key, backbone_key, level_key, head_key = jax.random.split(key, 4)
        self.embed = Linear(task.spec.latent_channels, task.backbone.width, key=embed_key)
        self.backbone = Backbone(
            task.backbone, key=backbone_key, is_modulated=True, text_route=task.condition.text_route
        )
        self.level_embedding = LevelEmbedding(task.backbone.width, key=level_key)
        width, channels = task.backbone.width, task.spec.latent_channels
        self.head = Linear(width, channels, key=head_key, scale=0.0, split=COLUMNS)

    def __call__(
        self,
        noisy: Float[Array, "b t d"],
        level: Float[Array, "b"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the prediction, in float32; with a key, dropout acts."""
        hidden = self.backbone(
            self.embed(noisy.astype(conditions.frames.dtype)) + conditions.frames,
            positions=jnp.broadcast_to(jnp.arange(is_valid.shape[1])[None, :], is_valid.shape),
            is_valid=is_valid,
            text=conditions.text,
            clip=modulate(self.level_embedding(level), conditions),
            key=key,
        )
        return self.head(hidden).astype(jnp.float32)


class StableAudioDenoiser(nnx.Module):
    """Stable Audio's network on our conditions: encoded text and what holds for the whole clip."""

    def __init__(self, model: StableAudio):
        self.model = model

    def __call__(
        self,
        noisy: Float[Array, "b t d"],
        level: Float[Array, "b"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the prediction; nothing is dropped."""
        assert conditions.text is not None and conditions.clip is not None, (
            "the config asks for both"
        )
        return self.model(
            noisy, level, is_valid=is_valid, text=conditions.text, vector=conditions.clip
        )
