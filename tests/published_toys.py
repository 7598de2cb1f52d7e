"""Published codec files as a test writes them: a config.json, and safetensors under the published
names.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file


def make_random(config, seed=0):
    """Return a codec of random parameters that differ between channels, biases too."""
    graph, state = nnx.split(nnx.eval_shape(lambda: config.build(key=jax.random.key(0))))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, noise = str(path[-1].key), rng.normal(size=leaf.shape)
        if "kernel" in name:
            noise *= 0.7 * np.prod(leaf.shape[:-1]) ** -0.5
        elif "entries" not in name:
            # Higher frequencies would blow rounding errors up from layer to layer.
            noise = 0.1 * noise + (0.3 if name == "alpha" else 0)
        return jnp.asarray(noise, leaf.dtype)

    nnx.replace_by_pure_dict(state, jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state)))
    return nnx.merge(graph, state)


class Compiled:
    """The methods of a codec, compiled with its parameters as arguments."""

    def __init__(self, codec):
        graph, self.state = nnx.split(codec)
        self.codec = codec
        for name in ("encode", "decode_codes", "decode_latents"):
            compiled = jax.jit(functools.partial(call, graph, name))
            setattr(self, name, functools.partial(compiled, self.state))


def call(graph, name, state, *args):
    """Call the method `name` of a codec that was split."""
    return getattr(nnx.merge(graph, state), name)(*args)


def published_tensors(codec, config):
    """Return the tensors of a codec under their published names and in PyTorch's layout."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(codec)))[0]:
        ours = ".".join(str(part.key) for part in path)
        names, leaf = config.published_name(ours), np.asarray(leaf)
        for name, part in [(names, leaf)] if isinstance(names, str) else zip(names, leaf):
            if ours.endswith(".kernel"):
                part = part.transpose()
            elif ours.endswith(".transposed_kernel"):
                part = np.moveaxis(part, 0, -1)
            tensors[name] = np.ascontiguousarray(part)
    return tensors


def same_tensors(found, expected, config):
    """Check that two codecs have the same parameters, up to rounding."""
    found = published_tensors(found, config)
    for name, tensor in published_tensors(expected, config).items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6, err_msg=name)


def write_published(directory, codec, config, values, file="model.safetensors"):
    """Write config.json with `values`, and the tensors of the codec; return the path of the
    tensors.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(values))
    save_file(published_tensors(codec, config), directory / file)
    return directory / file


def split_weight_norm(tensors):
    """Replace every kernel of a dict of tensors by the pair that weight normalisation keeps."""
    for name in [name for name in tensors if name.endswith(".weight") and tensors[name].ndim == 3]:
        weight = tensors.pop(name)
        tensors[name + "_g"] = np.sqrt((weight**2).sum(axis=(1, 2), keepdims=True))
        tensors[name + "_v"] = 3 * weight


def change_tensors(path, change):
    """Rewrite a safetensors file after `change` of its dict of tensors."""
    tensors = dict(load_file(path))
    change(tensors)
    save_file(tensors, path)
