"""Our Stable Audio transformer, written for diffusers and loaded there, predicts the same."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genlab.decoders.noise.stable_audio import StableAudio, StableAudioConfig, save_stable_audio
from genlab.nets.context import Text

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    "shape", [{"layers": 2, "heads": 4, "key_heads": 2}, {"layers": 1, "heads": 2, "key_heads": 1}]
)
def test_diffusers_loads_the_export_and_predicts_the_same(tmp_path, shape):
    from diffusers import StableAudioDiTModel
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    config = StableAudioConfig(head_channels=8, cross_width=shape["key_heads"] * 8, **shape)
    model = jax.jit(lambda key: StableAudio(config, 6, 10, 5, key=key))(jax.random.key(0))
    model.project_out.kernel[...] = jax.random.normal(
        jax.random.key(1), model.project_out.kernel.shape
    )
    save_stable_audio(model, tmp_path, num_frames=9)
    reference, report = StableAudioDiTModel.from_pretrained(str(tmp_path), output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (
        json.loads((tmp_path / "config.json").read_text())["_class_name"] == "StableAudioDiTModel"
    )

    rng = np.random.default_rng(0)
    noisy, text, vector = (
        rng.standard_normal(s).astype(np.float32) for s in ((2, 9, 6), (2, 7, 10), (2, 5))
    )
    level = np.array([0.2, 0.9], np.float32)
    arrays = [jnp.asarray(array) for array in (noisy, level, vector)]
    everything = {
        "is_valid": jnp.ones((2, 9), bool),
        "text": Text(jnp.asarray(text), jnp.ones((2, 7), bool)),
    }
    ours = jax.jit(lambda m, noisy, level, vector: m(noisy, level, vector=vector, **everything))(
        model, *arrays
    )
    rotary = get_1d_rotary_pos_embed(4, 10, use_real=True, repeat_interleave_real=False)
    inputs = [
        torch.tensor(noisy).transpose(1, 2),
        *map(torch.tensor, (level, text, vector[:, None])),
    ]
    with torch.no_grad():
        theirs = reference(*inputs, rotary).sample
    theirs = theirs.transpose(1, 2).numpy()
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def test_padding_and_shapes_are_refused_or_ignored():
    config = StableAudioConfig(layers=1, heads=2, key_heads=2, head_channels=8, cross_width=16)
    model = StableAudio(config, 6, 10, 5, key=jax.random.key(0))
    model.project_out.kernel[...] = jax.random.normal(
        jax.random.key(1), model.project_out.kernel.shape
    )
    rng = np.random.default_rng(0)
    noisy, text, vector = (
        jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((1, 9, 6), (1, 7, 10), (1, 5))
    )
    is_valid, is_text = jnp.arange(9)[None] < 6, jnp.arange(7)[None] < 4

    def run(noisy, text):
        return model(
            noisy, jnp.array([0.5]), is_valid=is_valid, text=Text(text, is_text), vector=vector
        )[:, :6]

    np.testing.assert_allclose(
        run(noisy, text), run(noisy.at[:, 6:].add(3.0), text.at[:, 4:].add(3.0)), atol=1e-5
    )
    with pytest.raises(ValueError, match="key_heads=3 must divide heads=4"):
        StableAudioConfig(heads=4, key_heads=3)
