"""The types that every decoder takes and returns: the mean of a loss, and a score that is a static
fact and numbers.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import FAMILIES, toy_batch

from genlab.config import GenlabError
from genlab.evaluate.likelihood import can_score
from genlab.tokens import LossOut, ScoreOut

PROTOCOL = """
from genlab.decoders.{module} import {name}
from genlab.tokens import Decoder


def as_decoder(model: {name}) -> Decoder:
    return model
"""
FAMILY_CLASSES = {
    "ar": "AR",
    "blockwise": "Blockwise",
    "depth": "Depth",
    "diffusion": "Diffusion",
    "discrete": "Discrete",
    "latent_ar": "LatentAR",
    "latent_blocks": "LatentBlocks",
    "mar": "MAR",
    "masked": "Masked",
}


def test_the_mean_of_a_loss_is_over_supervised_targets():
    out = LossOut(jnp.array([1.0, 4.0, 9.0]), jnp.array([3.0, 1.0, 0.0]), {})
    assert float(out.mean()) == (1 * 3 + 4 * 1) / 4
    assert float(out._replace(weight=jnp.zeros(3)).mean()) == 0
    gradient = jax.grad(lambda losses: out._replace(per_example=losses).mean())(out.per_example)
    np.testing.assert_allclose(gradient, [0.75, 0.25, 0])


def test_a_score_leaves_jit_with_its_validity():
    out = jax.jit(lambda bits: ScoreOut(bits, 0 * bits, "upper bound"))(jnp.arange(3.0))
    assert out.validity == "upper bound" and out.bits.tolist() == [0, 1, 2]
    assert jax.tree.map(lambda leaf: leaf + 1, out).std_error.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="exact"):
        jax.tree.map(jnp.add, out, out._replace(validity="exact"))
    [path, _] = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(out)]
    assert path == ".bits"


def test_the_score_of_a_family_is_the_same_under_jit():
    tokens, cond = toy_batch()
    model = FAMILIES["ar"].build()
    plain = model.score(tokens, cond, key=jax.random.key(0))
    compiled = jax.jit(lambda tokens, cond: model.score(tokens, cond, key=jax.random.key(0)))(
        tokens, cond
    )
    assert compiled.validity == plain.validity == "exact"
    np.testing.assert_allclose(compiled.bits, plain.bits, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "why"), [("latent_flow", "head.kind='flow'"), ("mar", "decoder.kind='mar'")]
)
def test_a_family_without_bits_says_why(name, why):
    model = FAMILIES[name].build()
    assert not can_score(model)
    with pytest.raises(
        GenlabError, match=f"score: decoder.{why.removeprefix('decoder.')}.*no density"
    ):
        model.score(*toy_batch(), key=jax.random.key(0))


@pytest.mark.skipif(
    importlib.util.find_spec("pyright") is None, reason="needs pyright, of the dev extra"
)
def test_every_family_meets_the_protocol(tmp_path: Path):
    """As pyright sees it: a decoder that lacks a method, or takes other arguments, is found where
    it is handed over. CI runs this one after its other checks of types.
    """
    for module, name in FAMILY_CLASSES.items():
        (tmp_path / f"check_{module}.py").write_text(PROTOCOL.format(module=module, name=name))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(tmp_path)]
    (tmp_path / "pyrightconfig.json").write_text(
        f'{{"extraPaths": ["{Path(__file__).parents[2]}"]}}'
    )
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
