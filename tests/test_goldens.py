"""What the models compute, written down: any change of the mathematics shows here, wanted or not.

`pytest tests/test_goldens.py --update-goldens` rewrites the files, after a change that is meant
to change numbers.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from micro_models import BATCH, NAMES, batch_of, build, loss_curve

from genlab.decoders.ar import ARSampler
from genlab.decoders.diffusion import DiffusionSampler
from genlab.decoders.masked import MaskedSampler
from genlab.nets.weights import load_weights, save_weights

GOLDENS = Path(__file__).with_name("goldens") / "micro"
STEPS = 20
SAMPLERS = {
    "ar": ARSampler(temperature=0.0),
    "masked": MaskedSampler(steps=(4, 1, 1), temperature=0.0),
    "diffusion": DiffusionSampler(steps=4),
}


def stored(name, is_updating):
    """Return the model with the weights of the golden file."""
    model = build(name, jax.random.key(11))
    state = nnx.to_pure_dict(nnx.state(model))
    if name == "codec":  # fresh codebooks hold nothing
        entries = state["quantiser"]["entries"]
        state["quantiser"]["entries"] = jax.random.normal(jax.random.key(12), entries.shape) * 0.5
    if is_updating:
        save_weights(GOLDENS / f"{name}.safetensors", state, {"model": name})
    loaded = jax.tree.map(jnp.asarray, load_weights(GOLDENS / f"{name}.safetensors", state))
    return nnx.merge(nnx.graphdef(model), nnx.to_pure_dict(nnx.state(model)) | loaded)


def outputs_of(name, model):
    """Return what the model computes from the batch: losses and samples, or tokens and waves."""
    args = jax.tree.map(jnp.asarray, batch_of(name))
    if name == "codec":
        tokens = model.encode(*args)
        return {
            "codes": tokens.codes,
            "latents": tokens.latents,
            "wave": model.decode_codes(tokens.codes)[:2, ::37],
        }
    loss = jax.jit(lambda *args: model.loss(*args, key=jax.random.key(5)))(*args).per_example
    draw = partial(model.sample, sampler=SAMPLERS[name], key=jax.random.key(6))
    sample = jax.jit(lambda num_frames, cond: draw(cond, num_frames=num_frames))(
        args[0].num_frames, args[1]
    ).tokens
    return {"loss": loss, "sample": getattr(sample, model.reads)}


@pytest.mark.parametrize("name", NAMES)
def test_stored_weights_give_the_stored_outputs(name, request):
    is_updating = request.config.getoption("--update-goldens")
    found = {
        key: np.asarray(value) for key, value in outputs_of(name, stored(name, is_updating)).items()
    }
    path = GOLDENS / f"{name}.npz"
    if is_updating:
        np.savez_compressed(path, **found)
    golden = dict(np.load(path))
    assert found.keys() == golden.keys()
    for key, value in golden.items():
        if np.issubdtype(value.dtype, np.integer):
            np.testing.assert_array_equal(found[key], value, err_msg=key)
        else:
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
    assert any(len(value) == BATCH for value in golden.values())


@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_lose_as_they_did(name, request):
    path = GOLDENS / "loss_curves.json"
    curve = loss_curve(name, STEPS)
    if request.config.getoption("--update-goldens"):
        curves = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(
            json.dumps(curves | {name: [round(loss, 6) for loss in curve]}, indent=1) + "\n"
        )
    # Twenty steps of Adam spread the last bits of other processors; a changed formula moves far
    # more than this.
    np.testing.assert_allclose(curve, json.loads(path.read_text())[name], rtol=1e-3)


def test_the_stored_files_stay_small():
    assert sum(path.stat().st_size for path in GOLDENS.iterdir()) < 100_000
