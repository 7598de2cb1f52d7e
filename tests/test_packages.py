"""A trained arm travels as a folder: the same model comes back, and what was changed is refused."""

import json
import os
import re
import shutil
from types import SimpleNamespace

import huggingface_hub.constants
import jax
import numpy as np
import pytest
from comparison_toys import make_comparison
from hub_server import HubServer

from genlab.arms import train_arm
from genlab.cli import main
from genlab.config import GenlabError
from genlab.data.known_entropy import KnownEntropy
from genlab.experiment import TokenData
from genlab.inputs import open_store
from genlab.packages.hub import pull_package, push_package
from genlab.packages.package import FILES, export_package, load_package
from genlab.run.files import write_config
from genlab.sample import compile_sampler, conditions
from genlab.tokens import Tokens
from genlab.train import load_trained
from genlab.watch.progress import Progress

SOURCE = KnownEntropy(
    states=4, codebooks=2, entries=8, latent_channels=3, noise=0.02, clips=16, clip_frames=16
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two tiny arms after two updates, with the folders that they were exported to."""
    root = tmp_path_factory.mktemp("packages")
    before = os.environ.get("GENLAB_CACHE")
    os.environ["GENLAB_CACHE"] = str(root / "cache")
    data = TokenData(corpus=SOURCE, num_frames=16)
    config = make_comparison("condition.content=none", "condition.speaker=false").model_copy(
        update={"data": data}
    )
    found = {}
    with Progress() as progress:
        for name in ("ar", "diffusion"):
            run, run_dir = config.run(name, 0, 2), root / name
            store = open_store(run.data, run_dir, progress)
            write_config(run_dir, run.to_dict())
            train_arm(run, store, run_dir, progress)
            export_package(run, run_dir, root / f"{name}-exported")
            found[name] = SimpleNamespace(
                run=run, run_dir=run_dir, store=store, folder=root / f"{name}-exported"
            )
    yield found
    os.environ.pop("GENLAB_CACHE") if before is None else os.environ.update(GENLAB_CACHE=before)


def drawn_by(arm) -> Tokens:
    """Return what the run directory's own model draws of two clips."""
    model = load_trained(lambda key: arm.run.build_for(arm.store, key), arm.run_dir)
    cond, frames = conditions(arm.store, [arm.store.clip(0), arm.store.clip(1)], 16)
    compiled, _ = compile_sampler(model, arm.run, cond, frames)
    return compiled(cond, frames, jax.random.key(3)).tokens


@pytest.mark.parametrize("name", ["ar", "diffusion"])
def test_a_package_draws_what_its_run_draws_without_the_corpus(trained, name, tmp_path):
    arm = trained[name]
    folder = tmp_path / "elsewhere"
    shutil.copytree(arm.folder, folder)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    package = load_package(folder)
    cond, frames = conditions(arm.store, [arm.store.clip(0), arm.store.clip(1)], 16)
    ours, theirs = package.sample(cond, frames.tolist(), seed=3), drawn_by(arm)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert package.task.num_frames == 16 and package.run == arm.run


def test_latents_are_decoded_in_the_units_of_the_codec(trained, monkeypatch):
    package = load_package(trained["diffusion"].folder)
    heard = []
    codec = SimpleNamespace(
        fingerprint=package.inputs["codec"], decode_latents=lambda rows: heard.extend(rows) or rows
    )
    monkeypatch.setattr(TokenData, "load_codec", lambda self: codec)
    latents = np.ones((1, 16, 3), np.float32)
    package.decode(Tokens(None, latents, np.array([5])))
    mean, std = (np.array(package.inputs[name]) for name in ("latent_mean", "latent_std"))
    np.testing.assert_allclose(heard[0], np.broadcast_to(std + mean, (5, 3)), rtol=1e-6)
    codec.fingerprint = "0123456789"
    with pytest.raises(GenlabError, match="0123456789, but the package was trained on"):
        package.decode(Tokens(None, latents, np.array([5])))


@pytest.mark.parametrize("name", [name for name in FILES if name != "README.md"])
def test_a_file_that_was_changed_is_refused(trained, name, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(trained["ar"].folder, folder)
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(GenlabError, match=name.replace(".", r"\.")):
        load_package(folder)
    path.unlink()
    with pytest.raises(GenlabError, match=name.replace(".", r"\.")):
        load_package(folder)


def test_a_config_of_another_model_is_refused_with_its_digest_mended(trained, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(trained["ar"].folder, folder)
    shutil.copy(trained["diffusion"].folder / "config.json", folder)
    facts = json.loads((folder / "model.json").read_text())
    other = json.loads((trained["diffusion"].folder / "model.json").read_text())
    facts["files"] = other["files"] | {"inputs.json": facts["files"]["inputs.json"]}
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(GenlabError, match=r"tensor .*(missing|shape)"):
        load_package(folder)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("spec.codebooks", -1, "codebooks: "),
        ("spec.codebooks", 2**40, "codebooks: "),
        ("spec.entries", -1, "entries: "),
        ("spec.latent_channels", 2**31, "latent_channels: "),
        ("spec.latent_channels", 65_536, "latent_channels=65536, but inputs.json says 3"),
        ("spec.hop_samples", 0, "hop_samples: "),
        ("spec.sample_rate_hz", -16_000, "sample_rate_hz: "),
        ("spec.side_channels", -1, "side_channels: "),
        ("num_frames", 2**62, "num_frames=4611686018427387904, but config.json says 16"),
        ("num_frames", 8, "num_frames=8, but config.json says 16"),
        ("num_symbols", 2**40, "num_symbols"),
        ("step", 1, "step=1, but config.json says 2"),
        ("format", 10**400, "format"),
        ("vocab.num_speakers", True, "num_speakers"),
        ("num_parameters", -1, "num_parameters"),
        ("stored_dtype", "float99", "stored_dtype"),
    ],
)
def test_numbers_that_no_export_writes_are_refused(trained, place, value, message, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(trained["ar"].folder, folder)
    facts = json.loads((folder / "model.json").read_text())
    *outer, last = place.split(".")
    inner = facts
    for name in outer:
        inner = inner[name]
    inner[last] = value
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(GenlabError, match=rf"model\.json: .*{re.escape(message)}") as refused:
        load_package(folder)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["ar", "diffusion"])
@pytest.mark.parametrize(("codebooks", "entries"), [(2, 2**30), (2, 2**31 - 1), (256, 2**31 - 1)])
def test_no_size_is_believed_before_the_weights_agree(trained, name, codebooks, entries, tmp_path):
    """The entries of such a codec would take 24 GiB and more."""
    folder = tmp_path / "large"
    shutil.copytree(trained[name].folder, folder)
    facts = json.loads((folder / "model.json").read_text())
    facts["spec"] |= {"codebooks": codebooks, "entries": entries}
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(GenlabError, match=r"model\.safetensors: tensor .* has shape .*expected"):
        load_package(folder)


def test_export_writes_all_or_nothing_and_replaces_nothing(trained, tmp_path, monkeypatch):
    arm, out = trained["ar"], tmp_path / "out"
    out.mkdir()
    with pytest.raises(GenlabError, match="already exists"):
        export_package(arm.run, arm.run_dir, out)
    out.rmdir()
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        export_package(arm.run, arm.run_dir, out)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_training_is_not_exported(trained, tmp_path):
    arm = trained["ar"]
    longer = arm.run.model_copy(update={"steps": 9})
    with pytest.raises(GenlabError, match="of step 2 of 9"):
        export_package(longer, arm.run_dir, tmp_path / "out")


def test_a_package_is_pushed_to_a_hub_and_pulled_from_it(trained, tmp_path, monkeypatch, capsys):
    folder = trained["ar"].folder
    with HubServer() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        assert hub.sha not in push_package(folder, "me/arm")  # the sha of the commit before
        assert set(hub.files) == set(FILES)
        assert main(["pull", "me/arm", "--out", str(tmp_path / "here")]) == 0
        assert "a ar decoder" not in capsys.readouterr().err
        for name in FILES:
            assert (tmp_path / "here" / name).read_bytes() == (folder / name).read_bytes()
        # What was changed on the way is refused, and nothing is left.
        hub.files["config.json"] = hub.files["config.json"].replace(b'"ar"', b'"aR"')
        hub.commits += 1
        with pytest.raises(GenlabError, match=r"me/arm/config\.json: SHA-256 differs"):
            pull_package("me/arm", tmp_path / "there")
        hub.is_closed = True
        assert main(["pull", "me/arm", "--out", str(tmp_path / "there")]) == 2
        assert "me/arm: " in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"here"}


@pytest.mark.parametrize("name", ["arm", "../x/y", "me/arm/x", "me/"])
def test_what_is_no_repository_is_refused(name, tmp_path, capsys):
    assert main(["pull", name, "--out", str(tmp_path / "out")]) == 2
    assert "expected a repository as OWNER/NAME" in capsys.readouterr().err
