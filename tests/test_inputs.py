"""A run names what it was made from, and refuses another codec, corpus or list of speakers."""

import json
from pathlib import Path

import numpy as np
import pytest

from genlab import inputs
from genlab.cli import main
from genlab.config import GenlabError
from genlab.data.audio import write_flac
from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.experiment import TokenData

CONFIG = """
from pathlib import Path

from comparison_toys import make_comparison
from genlab.data.folder import Folder
from genlab.experiment import Budget, TokenData


def config():
    corpus = Folder(path=str(Path(__file__).parent / "corpus"), manifest="metadata.csv")
    data = TokenData(corpus=corpus, num_frames=16)
    changes = {"data": data, "budget": Budget(mode="iso_step", steps=2), "batch_size": 2}
    return make_comparison().model_copy(update=changes)
"""


def write_corpus(folder: Path, speakers: dict[str, str]) -> None:
    """Write four clips of each voice; `speakers` says what the table calls it."""
    folder.mkdir(exist_ok=True)
    lines = ["path,text,speaker,split"]
    for number, (voice, name) in enumerate(speakers.items()):
        for clip in range(4):
            time_s = np.arange(4800) / 16000
            wave = 8000 * np.sin(2 * np.pi * (150 + 40 * number + 10 * clip) * time_s)
            write_flac(folder / f"{voice}{clip}.flac", wave.astype(np.int16))
            split = "test" if clip == 3 else "train"
            lines.append(f"{voice}{clip}.flac,one {number} {clip},{name},{split}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def test_a_renamed_speaker_and_another_codec_are_refused_before_anything_is_encoded(
    tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own.py").write_text(CONFIG)
    write_corpus(tmp_path / "corpus", {"a": "ana", "b": "ben", "c": "cleo"})
    run = tmp_path / "run"
    train = ["train", str(tmp_path / "own.py"), "--arm", "ar", "--out", str(run)]
    assert main(train) == 0
    made = json.loads((run / "inputs.json").read_text())
    assert made["speakers"] == ["ana", "ben", "cleo"] and len(made["codec"]) == 10
    stores = set((tmp_path / "cache").glob("tokens-*"))

    # Ben is now called Abe: Ana is number 1 instead of 0, and nothing else would say so.
    write_corpus(tmp_path / "corpus", {"a": "ana", "b": "abe", "c": "cleo"})
    sample = ["sample", str(run), "--out", str(tmp_path / "samples"), "--prompts", "2"]
    for command in (sample, train):
        capsys.readouterr()
        assert main(command) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "run: speakers: the run was made with 3 of which number 0 is 'ana', and" in line
        assert "now has 3 of which number 0 is 'abe'; restore" in line
        if command is sample:
            assert set((tmp_path / "cache").glob("tokens-*")) == stores, (
                "none is made to be refused"
            )
    assert not (tmp_path / "samples").exists()

    write_corpus(tmp_path / "corpus", {"a": "ana", "b": "ben", "c": "cleo"})
    assert main([*sample, "data.codec=mulaw"]) == 2
    assert f"run: codec: the run was made with {made['codec']}" in capsys.readouterr().err

    (run / "inputs.json").unlink()
    assert main(sample) == 0
    assert "did not record its inputs" in capsys.readouterr().err
    assert not (run / "inputs.json").exists(), "what it was made from is not known"
    (run / "inputs.json").write_text('{"schema": 1, "codec": 5}')
    assert main(sample) == 2
    assert "inputs.json: damaged: field codec: expected" in capsys.readouterr().err


CHANGES = {
    "units_fingerprint": ("other", "units: the run was made with"),
    "num_units": (3, "num_units: the run was made with"),
    "manifest_hash": ("other", "corpus: the run was made with"),
    "speakers": (
        ("x", "y"),
        "speakers: the run was made with .* and data.corpus .* has 2 of which",
    ),
}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory):
    """Token data that were drawn, and their store."""
    data = TokenData(corpus=KnownEntropy(clips=16), num_frames=12)
    return data, draw_store(data.corpus, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("field", CHANGES)
def test_each_input_is_refused_by_its_name(known, field: str, tmp_path: Path):
    data, store = known
    inputs.bind(tmp_path, data, store)
    inputs.bind(tmp_path, data, store)
    value, message = CHANGES[field]
    info = store.info
    store.info = info.model_copy(update={field: value})
    try:
        with pytest.raises(GenlabError, match=message):
            inputs.bind(tmp_path, data, store)
    finally:
        store.info = info


def test_latents_may_differ_by_what_machines_differ_and_no_more(known, tmp_path: Path):
    data, store = known
    inputs.bind(tmp_path, data, store)
    info = store.info
    try:
        for shift, is_refused in ((1e-4, False), (0.1, True)):
            mean = tuple(m + shift * s for m, s in zip(info.latent_mean, info.latent_std))
            store.info = info.model_copy(update={"latent_mean": mean})
            if is_refused:
                with pytest.raises(GenlabError, match="latents: the run was made with latents of"):
                    inputs.bind(tmp_path, data, store)
            else:
                inputs.bind(tmp_path, data, store)
    finally:
        store.info = info
