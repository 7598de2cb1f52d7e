"""Save and load a recogniser with its units: one safetensors file and its JSON, as they ship in
`weights/`.

In: a trained model and a codebook, or a name. Out: `UnitEncoder` (and in it `FrozenRecogniser`),
identified by the SHA-256 of the file. The JSON holds the config, so nothing about the shape of the
model is guessed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import JsonValue

from genlab import __version__
from genlab.config import ConfigError, GenlabError
from genlab.nets.weights import load_metadata, load_weights, save_weights
from genlab.recognisers.ctc import Recogniser, RecogniserConfig
from genlab.recognisers.transcribe import FrozenRecogniser
from genlab.recognisers.units import Codebook, UnitEncoder

SHIPPED = "recogniser_16khz"
_MAX_UNITS = 32_000  # units are stored as int16


def load_units(name: str = SHIPPED) -> UnitEncoder:
    """Return the unit encoder of shipped weights, or of an exported `.safetensors` file.

    Raises:
        GenlabError: if the files are missing, damaged, or do not fit each other; one line that
            names the tensor.
    """
    path = weights_path(name)
    metadata = load_metadata(path)
    config, num_units = _read_shape(path, metadata)
    model = nnx.eval_shape(lambda: config.build(key=jax.random.key(0)))
    graph, state = nnx.split(model)
    tree = load_weights(
        path, {"model": nnx.to_pure_dict(state), "units": _abstract_codebook(config, num_units)}
    )
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, tree["model"]))
    recogniser = FrozenRecogniser(nnx.merge(graph, state), metadata["sha256"][:10], metadata)
    return UnitEncoder(recogniser, Codebook(**tree["units"]))


def load_recogniser(name: str = SHIPPED) -> FrozenRecogniser:
    """Return the recogniser of shipped weights, or of an exported `.safetensors` file.

    Raises:
        GenlabError: as `load_units`.
    """
    return load_units(name).recogniser


def save_units(
    path: str | Path, model: Recogniser, codebook: Codebook, metadata: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """Write model and codebook as float16, and return the metadata as written.

    Args:
        path: ends in `.safetensors`.
        model: the trained recogniser.
        codebook: clusters of the features of this very model.
        metadata: training command, data, licences and measured scores.
    """
    tree = {"model": nnx.to_pure_dict(nnx.state(model)), "units": codebook._asdict()}
    facts = {
        "config": model.config.to_dict(),
        "num_units": len(codebook.centroids),
        "genlab": __version__,
        **metadata,
    }
    return save_weights(path, tree, facts)


def weights_path(name: str) -> Path:
    """Return the file of a shipped name, or of a path that ends in `.safetensors`."""
    if name.endswith(".safetensors"):
        return Path(name)
    return Path(__file__).with_name("weights") / f"{name}.safetensors"


def _read_shape(path: Path, metadata: Mapping[str, Any]) -> tuple[RecogniserConfig, int]:
    if not isinstance(metadata.get("config"), dict):
        raise GenlabError(
            f"{path.with_suffix('.json')}: field 'config' is missing; restore the file"
        )
    num_units = metadata.get("num_units")
    if not isinstance(num_units, int) or not 1 <= num_units <= _MAX_UNITS:
        raise GenlabError(
            f"{path.with_suffix('.json')}: num_units: expected 1..{_MAX_UNITS}, got "
            f"{num_units!r:.40}; restore the file"
        )
    try:
        return RecogniserConfig.from_dict(metadata["config"]), num_units
    except ConfigError as error:
        raise ConfigError(
            f"{path.with_suffix('.json')}: config: {error}; restore the file"
        ) from None


def _abstract_codebook(config: RecogniserConfig, num_units: int) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = {
        "centroids": (num_units, config.width),
        "mean": (config.width,),
        "std": (config.width,),
    }
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
