import json

import numpy as np
import pytest
from kill_points import forked

from genlab.config import GenlabError
from genlab.nets.weights import load_metadata, load_weights, save_weights

TREE = {
    "layers": {
        0: {
            "kernel": np.arange(12, dtype=np.float32).reshape(3, 4).T / 7,
            "steps": np.arange(3, dtype=np.int32),
        }
    },
    "bias": np.array([0.5, -2.0], np.float32),
}


@pytest.fixture
def path(tmp_path):
    save_weights(tmp_path / "m.safetensors", TREE, {"licence": "CC0"})
    return tmp_path / "m.safetensors"


def test_round_trip_keeps_structure_and_transposed_views(path):
    loaded = load_weights(path, TREE)
    assert list(loaded["layers"]) == [0]
    np.testing.assert_allclose(
        loaded["layers"][0]["kernel"], TREE["layers"][0]["kernel"], rtol=1e-3
    )
    np.testing.assert_array_equal(loaded["layers"][0]["steps"], [0, 1, 2])
    assert loaded["bias"].dtype == np.float32 and loaded["layers"][0]["steps"].dtype == np.int32
    facts = load_metadata(path)
    assert (
        facts["licence"] == "CC0" and facts["num_parameters"] == 17 and len(facts["sha256"]) == 64
    )


def test_saving_is_deterministic(path, tmp_path):
    again = tmp_path / "again" / "m.safetensors"
    save_weights(again, TREE, {"licence": "CC0"})
    assert again.read_bytes() == path.read_bytes()


def test_values_beyond_float16_are_refused_at_save(tmp_path):
    with pytest.raises(GenlabError, match="'big' is not finite as float16"):
        save_weights(tmp_path / "m.safetensors", {"big": np.array([1e6])}, {})


def _refuses(path, pattern, tree=TREE):
    with pytest.raises(GenlabError, match=pattern) as caught:
        load_weights(path, tree)
    assert "\n" not in str(caught.value)


def test_missing_file_and_missing_json(path):
    _refuses(path.with_name("none.safetensors"), "no such weights file")
    path.with_suffix(".json").unlink()
    _refuses(path, r"m\.json: no such file")


def test_wrong_shape_missing_and_surplus_tensors_are_named(path):
    _refuses(path, "'bias' has shape", {**TREE, "bias": np.zeros(3)})
    _refuses(path, "'extra' is missing", {**TREE, "extra": np.zeros(3)})
    _refuses(
        path, "'layers.0.kernel' is not part|'layers.0.steps' is not part", {"bias": TREE["bias"]}
    )


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1, -20])
def test_truncated_files(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    _refuses(path, "truncated in tensor|not a (readable )?safetensors")


def test_oversized_files(path):
    data = path.read_bytes()
    path.write_bytes(data + b"\0" * 100)
    _refuses(path, "100 bytes follow the last tensor")
    path.write_bytes((1 << 60).to_bytes(8, "little") + data[8:])
    _refuses(path, "not a safetensors file")
    header = json.dumps(
        {"bias": {"dtype": "F16", "shape": [1 << 50], "data_offsets": [0, 1 << 51]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    _refuses(path, "'bias' has shape", {"bias": TREE["bias"]})


def test_altered_and_not_finite_values(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    _refuses(path, "SHA-256 differs")


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_broken_json(path, text):
    path.with_suffix(".json").write_text(text)
    _refuses(path, r"m\.json")


@pytest.mark.parametrize("name", ["m.json", "m", "m.wav"])
def test_the_extension_says_what_is_written(tmp_path, name):
    """Of m.json the JSON beside the weights would take the place."""
    with pytest.raises(GenlabError, match=r"ends in \.safetensors"):
        save_weights(tmp_path / name, TREE, {})
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_killed_anywhere_ends_the_same_when_it_is_made_again(tmp_path):
    path, other = tmp_path / "m.safetensors", {**TREE, "bias": np.array([9.0, 9.0], np.float32)}
    save_weights(path, other, {})
    wanted = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for begins in ({}, TREE):  # a new name, and one that had other weights
        for at in range(1, 20):
            for file in tmp_path.iterdir():
                file.unlink()
            if begins:
                save_weights(path, begins, {})
            code = forked(tmp_path, at, lambda: save_weights(path, other, {}))
            save_weights(path, other, {})
            assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == wanted, at
            if code == 0:
                break
        assert 4 <= at < 19
