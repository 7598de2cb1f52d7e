"""Stable Audio's diffusion transformer (2404.10301 section 3.3), in the topology that diffusers
loads.

In: noisy latents "b t d", a noise level and the conditions. Out: what the network predicts, "b t
d". It differs from our backbone where Stable Audio does: layer norms, rotation of half of each
head's channels, no modulation (noise level and global conditions are one position before the
frames), text always by cross-attention, with fewer heads for its keys than for the queries.
`save_stable_audio` writes what `StableAudioDiTModel.from_pretrained` reads; parity is tested.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Key
from safetensors.numpy import save_file

from genlab.config import Config
from genlab.machine.sharding import COLUMNS, INPUTS, ROWS
from genlab.nets.attention import KeysValues, attend
from genlab.nets.context import Text
from genlab.nets.param import NORM_RULES, linear_rules
from genlab.nets.rotary import Rotation, rotate, rotation

FFN_MULTIPLE = 4
LEVEL_CHANNELS = 256
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


class StableAudioConfig(Config):
    """Shape of the network; the width is heads * head_channels."""

    layers: int = pydantic.Field(default=24, ge=1)
    """Transformer layers: self-attention, cross-attention and an MLP each."""
    heads: int = pydantic.Field(default=24, ge=1)
    """Heads of self-attention, and of the queries of cross-attention."""
    key_heads: int = pydantic.Field(default=12, ge=1)
    """Heads of the keys and values of cross-attention."""
    head_channels: int = pydantic.Field(default=64, ge=4, multiple_of=4)
    """Channels of one head; half of them are rotated, in pairs."""
    cross_width: int = pydantic.Field(default=768, ge=1)
    """Channels of the encoded text."""

    @pydantic.model_validator(mode="after")
    def _check_heads(self) -> "StableAudioConfig":
        if self.heads % self.key_heads:
            raise ValueError(
                f"key_heads={self.key_heads} must divide heads={self.heads}: key heads are shared "
                "evenly"
            )
        if self.cross_width != self.key_heads * self.head_channels:
            raise ValueError(
                f"cross_width={self.cross_width} must be key_heads * head_channels="
                f"{self.key_heads * self.head_channels}: diffusers derives one from the other"
            )
        return self

    @property
    def width(self) -> int:
        """Channels of the stream."""
        return self.heads * self.head_channels


def _without_bias(split: PartitionSpec) -> dict[str, Any]:
    """Return the arguments of a product without a bias."""
    return {"use_bias": False, **linear_rules(split)}


class _Block(nnx.Module):
    """Self-attention, cross-attention and SwiGLU, each behind a layer norm and added."""

    def __init__(self, config: StableAudioConfig, key: Key[Array, ""]):
        rngs = nnx.Rngs(key)
        width = config.width
        columns, rows = _without_bias(COLUMNS), _without_bias(ROWS)
        self.config = config
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs, **NORM_RULES)
        self.attn1_q = nnx.Linear(width, width, rngs=rngs, **columns)
        self.attn1_k = nnx.Linear(width, width, rngs=rngs, **columns)
        self.attn1_v = nnx.Linear(width, width, rngs=rngs, **columns)
        self.attn1_out = nnx.Linear(width, width, rngs=rngs, **rows)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs, **NORM_RULES)
        self.attn2_q = nnx.Linear(width, width, rngs=rngs, **columns)
        self.attn2_k = nnx.Linear(config.cross_width, config.cross_width, rngs=rngs, **columns)
        self.attn2_v = nnx.Linear(config.cross_width, config.cross_width, rngs=rngs, **columns)
        self.attn2_out = nnx.Linear(width, width, rngs=rngs, **rows)
        self.norm3 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs, **NORM_RULES)
        inner = FFN_MULTIPLE * width
        self.ffn_in = nnx.Linear(width, 2 * inner, rngs=rngs, **linear_rules(COLUMNS))
        self.ffn_out = nnx.Linear(inner, width, rngs=rngs, **linear_rules(ROWS))

    def __call__(
        self, x: Float[Array, "b t h"], angles: Rotation, is_valid: Bool[Array, "b t"], text: Text
    ) -> Float[Array, "b t h"]:
        """Return the stream after one layer."""
        heads = self.config.heads
        normed = self.norm1(x)
        memory = KeysValues(
            _rotate_half(_split(self.attn1_k(normed), heads), angles),
            _split(self.attn1_v(normed), heads),
        )
        mixed = attend(
            _rotate_half(_split(self.attn1_q(normed), heads), angles), memory, is_valid[:, None, :]
        )
        x = x + self.attn1_out(_join(mixed))
        # b n (key heads) c -> b n heads c: each key head serves a group of queries (grouped-query
        # attention).
        shared = heads // self.config.key_heads
        keys, values = (
            jnp.repeat(_split(project(text.features), self.config.key_heads), shared, axis=2)
            for project in (self.attn2_k, self.attn2_v)
        )
        queries = _split(self.attn2_q(self.norm2(x)), heads)
        x = x + self.attn2_out(
            _join(attend(queries, KeysValues(keys, values), text.is_valid[:, None, :]))
        )
        # In diffusers' order: the value comes before the gate.
        value, gate = jnp.split(self.ffn_in(self.norm3(x)), 2, axis=-1)
        return x + self.ffn_out(value * jax.nn.silu(gate))


class StableAudio(nnx.Module):
    """The network: D latent channels, text features of `text_width` and one global vector of
    `global_width`.
    """

    def __init__(
        self,
        config: StableAudioConfig,
        channels: int,
        text_width: int,
        global_width: int,
        *,
        key: Key[Array, ""],
    ):
        layer_key, rest_key = jax.random.split(key)
        rngs = nnx.Rngs(rest_key)
        width = config.width
        columns, rows, inputs = (_without_bias(split) for split in (COLUMNS, ROWS, INPUTS))
        self.config = config
        # Frequencies of the noise level: drawn once, never trained, part of the file.
        self.level_rates = nnx.Variable(jax.random.normal(rngs.params(), (LEVEL_CHANNELS // 2,)))
        self.level_in = nnx.Linear(LEVEL_CHANNELS, width, rngs=rngs, **linear_rules(COLUMNS))
        self.level_out = nnx.Linear(width, width, rngs=rngs, **linear_rules(ROWS))
        self.global_in = nnx.Linear(global_width, width, rngs=rngs, **columns)
        self.global_out = nnx.Linear(width, width, rngs=rngs, **rows)
        self.text_in = nnx.Linear(text_width, config.cross_width, rngs=rngs, **columns)
        self.text_out = nnx.Linear(config.cross_width, config.cross_width, rngs=rngs, **rows)
        self.before = nnx.Linear(channels, channels, rngs=rngs, **inputs)
        self.project_in = nnx.Linear(channels, width, rngs=rngs, **inputs)
        self.layers = jax.vmap(lambda key: _Block(config, key))(
            jax.random.split(layer_key, config.layers)
        )
        zeros = nnx.initializers.zeros
        self.project_out = nnx.Linear(width, channels, kernel_init=zeros, rngs=rngs, **inputs)
        self.after = nnx.Linear(channels, channels, rngs=rngs, **inputs)

    def __call__(
        self,
        noisy: Float[Array, "b t d"],
        level: Float[Array, "b"],
        *,
        is_valid: Bool[Array, "b t"],
        text: Text,
        vector: Float[Array, "b g"],
    ) -> Float[Array, "b t d"]:
        """Return the prediction for the frames; padding is not attended to.

        Args:
            noisy: latents with noise.
            level: noise level of each example, as diffusers' `timestep`.
            is_valid: the frames that hold audio.
            text: encoded text.
            vector: what holds for the whole clip, for example its duration.
        """
        text = Text(self.text_out(jax.nn.silu(self.text_in(text.features))), text.is_valid)
        angles = 2 * jnp.pi * level[:, None] * self.level_rates[...][None, :]
        of_level = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        first = self.global_out(jax.nn.silu(self.global_in(vector)))
        first = first + self.level_out(jax.nn.silu(self.level_in(of_level)))
        x = jnp.concatenate([first[:, None], self.project_in(self.before(noisy) + noisy)], axis=1)
        is_valid = jnp.pad(is_valid, ((0, 0), (1, 0)), constant_values=True)
        positions = jnp.broadcast_to(jnp.arange(x.shape[1])[None], x.shape[:2])
        turned = rotation(positions, self.config.head_channels // 2)
        x = lax.scan(lambda x, layer: (layer(x, turned, is_valid, text), None), x, self.layers)[0]
        predicted = self.project_out(x)[:, 1:]
        return self.after(predicted) + predicted


def stable_audio_flops(
    config: StableAudioConfig,
    channels: int,
    *,
    text_width: int,
    global_width: int,
    num_frames: int,
    num_symbols: int,
) -> float:
    """Return the FLOPs of the matrix products in one forward pass over one example, as executed."""
    width = config.width
    cross = config.cross_width
    length = num_frames + 1
    own = 2 * length * width * (4 * width + 2 * length)
    crossed = 4 * length * width**2 + 4 * num_symbols * cross**2 + 4 * length * num_symbols * width
    ffn = 6 * FFN_MULTIPLE * length * width**2
    first = 2 * width * (LEVEL_CHANNELS + global_width + 2 * width)
    text = 2 * num_symbols * cross * (text_width + cross)
    edges = 4 * num_frames * channels**2 + 2 * width * channels * (num_frames + length)
    return float(config.layers * (own + crossed + ffn) + first + text + edges)


def save_stable_audio(model: StableAudio, directory: str | Path, *, num_frames: int) -> None:
    """Write config.json and the weights as safetensors, as `StableAudioDiTModel.from_pretrained`
    expects them.
    """
    from diffusers.configuration_utils import ConfigMixin

    config = model.config
    state = nnx.to_pure_dict(nnx.state(model))
    fields = {
        "sample_size": num_frames,
        "in_channels": int(state["before"]["kernel"].shape[0]),
        "out_channels": int(state["before"]["kernel"].shape[0]),
        "num_layers": config.layers,
        "attention_head_dim": config.head_channels,
        "num_attention_heads": config.heads,
        "num_key_value_attention_heads": config.key_heads,
        "cross_attention_dim": config.cross_width,
        "time_proj_dim": LEVEL_CHANNELS,
        "global_states_input_dim": int(state["global_in"]["kernel"].shape[0]),
        "cross_attention_input_dim": int(state["text_in"]["kernel"].shape[0]),
    }
    # The class name goes into the file: it is how diffusers finds the model. The real class would
    # need torch.
    described = type("StableAudioDiTModel", (ConfigMixin,), {"config_name": "config.json"})()
    described.register_to_config(**fields)
    described.save_config(str(directory))
    save_file(dict(_published_tensors(state)), str(Path(directory) / WEIGHTS_NAME))


def _published_tensors(state: dict[str, Any]):
    """Yield (name in diffusers, array) of every parameter."""
    yield "time_proj.weight", np.asarray(state["level_rates"])
    names = {
        "level_in": "timestep_proj.0",
        "level_out": "timestep_proj.2",
        "global_in": "global_proj.0",
        "global_out": "global_proj.2",
        "text_in": "cross_attention_proj.0",
        "text_out": "cross_attention_proj.2",
        "project_in": "proj_in",
        "project_out": "proj_out",
        "before": "preprocess_conv",
        "after": "postprocess_conv",
    }
    for ours, theirs in names.items():
        for leaf, array in _as_torch(state[ours]):
            # Convolutions over one frame have a third axis.
            yield f"{theirs}.{leaf}", array[:, :, None] if theirs.endswith("_conv") else array
    inside = {
        "norm1": "norm1",
        "norm2": "norm2",
        "norm3": "norm3",
        "ffn_in": "ff.net.0.proj",
        "ffn_out": "ff.net.2",
        **{f"attn{n}_{part}": f"attn{n}.to_{part}" for n in (1, 2) for part in "qkv"},
        "attn1_out": "attn1.to_out.0",
        "attn2_out": "attn2.to_out.0",
    }
    for ours, theirs in inside.items():
        for leaf, stacked in ((leaf, array) for leaf, array in state["layers"][ours].items()):
            for layer, array in enumerate(np.asarray(stacked)):
                [(name, tensor)] = _as_torch({leaf: array})
                yield f"transformer_blocks.{layer}.{theirs}.{name}", tensor


def _as_torch(parameters: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Return kernels transposed and scales renamed to what torch's layers call them."""
    renamed = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    return [
        (renamed[leaf], np.ascontiguousarray(np.asarray(array).T if leaf == "kernel" else array))
        for leaf, array in parameters.items()
    ]


def _split(x: Float[Array, "b t h"], heads: int) -> Float[Array, "b t a c"]:
    return x.reshape(*x.shape[:2], heads, -1)


def _join(x: Float[Array, "b t a c"]) -> Float[Array, "b t h"]:
    return x.reshape(*x.shape[:2], -1)


def _rotate_half(x: Float[Array, "b t a c"], angles: Rotation) -> Float[Array, "b t a c"]:
    """Rotate the first half of every head's channels."""
    turned, kept = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([rotate(turned, angles), kept], axis=-1)
