"""A Mimi of toy size, and its files as they are published: sums and counts instead of entries."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from published_toys import published_tensors
from safetensors.numpy import save_file

from genlab.codecs.mimi import MimiConfig
from genlab.codecs.mimi_convolutions import ConvolutionsConfig
from genlab.codecs.mimi_transformer import WindowTransformerConfig

# 3 frames of the tokens are a window of the transformer, and 4 of 6 codebooks are in use.
MICRO = MimiConfig(
    width=16,
    convolutions=ConvolutionsConfig(filters=4, ratios=(3, 2)),
    transformer=WindowTransformerConfig(layers=2, heads=2, inner_width=24, window_frames=6),
    published_codebooks=6,
    codebooks=4,
    entries=16,
    entry_channels=8,
)
PUBLISHED = {
    "model_type": "mimi",
    "sampling_rate": 24_000,
    "frame_rate": 2000.0,
    "audio_channels": 1,
    "hidden_size": 16,
    "num_filters": 4,
    "num_residual_layers": 1,
    "upsampling_ratios": [3, 2],
    "upsample_groups": 16,
    "normalize": False,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "rope_theta": 10_000.0,
    "sliding_window": 6,
    "codebook_size": 16,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 6,
    "num_semantic_quantizers": 1,
}


def make_mimi(config=MICRO, seed=0):
    """Return a codec of random parameters in which the transformers matter."""
    graph, state = nnx.split(nnx.eval_shape(lambda: config.build(key=jax.random.key(0))))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        place, noise = ".".join(str(part.key) for part in path), rng.normal(size=leaf.shape)
        if "kernel" in place:
            noise *= 1.5 * np.prod(leaf.shape[:-1]) ** -0.5
        elif place.endswith("layernorm.scale"):
            noise = 1 + 0.2 * noise
        elif "entries" not in place:
            noise = 0.3 * noise + (0.3 if "layer_scale" in place else 0)
        return jnp.asarray(noise, leaf.dtype)

    nnx.replace_by_pure_dict(state, jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state)))
    return nnx.merge(graph, state)


def write_mimi(directory, config=MICRO, values=None, seed=0):
    """Write a random codec with all codebooks as config.json and safetensors; return the codec and
    the tensors' path.

    Entry i of a codebook was used i times as far as the file knows, so entry 0 is what the smallest
    count makes of it.
    """
    config = config.model_copy(update={"codebooks": config.published_codebooks})
    codec = make_mimi(config, seed)
    tensors = {}
    for name, tensor in published_tensors(codec, config).items():
        stem = name.removesuffix(".embed")
        if stem == name:
            tensors[name] = tensor
            continue
        usage = np.arange(len(tensor), dtype=np.float32)
        tensors[f"{stem}.cluster_usage"] = usage
        tensors[f"{stem}.embed_sum"] = tensor * usage.clip(1e-5)[:, None]
        tensors[f"{stem}.initialized"] = np.ones(1, np.float32)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(PUBLISHED if values is None else values))
    save_file(tensors, directory / "model.safetensors")
    return codec, directory / "model.safetensors"
