"""Arrays on disk are numbers and nothing else: no pickled object is loaded, no archive opened."""

import io
import json
import os
import pickle

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.data.digests import digest_files, write_digests
from genlab.data.manifest import load_array, read_array
from genlab.data.parts import FIRSTS_NAME, VALUES_NAME, PartValues


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def npy(values, **more):
    file = io.BytesIO()
    np.save(file, values, **more)
    return file.getvalue()


def archive(bomb):
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3), bomb=np.array([bomb], object))
    return file.getvalue()


HUGE = b"(1" + b"0" * 15 + b",)"


def npy_of(header):
    """Return a .npy file with this text for its header, and a few numbers."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


HOSTILE = {
    "objects": lambda bomb: npy(np.array([bomb], object), allow_pickle=True),
    "pickle": lambda bomb: pickle.dumps(bomb),
    "archive": archive,
    "half an archive": lambda bomb: archive(bomb)[:200],
    "texts": lambda bomb: npy(np.array(["a", "b"])),
    "dates": lambda bomb: npy(np.zeros(3, "datetime64[s]")),
    "records": lambda bomb: npy(np.zeros(3, [("a", "f4"), ("b", "i4")])),
    "a shape beyond all memory": lambda bomb: npy(np.zeros(3)).replace(
        b"(3,)", b"(1" + b"0" * 15 + b",)"
    ),
    "a shape of no numbers": lambda bomb: npy_of(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3)}"
    ),
    "a shape of 300 digits": lambda bomb: npy_of(
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 300},)}}"
    ),
    "a list as a key": lambda bomb: npy_of("{[]: 1}"),
    "a string without an end": lambda bomb: npy_of("\t{'a"),
    "half a header": lambda bomb: npy(np.zeros(3))[:20],
    "nothing": lambda bomb: b"",
}


@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_array_of_numbers_is_refused_and_runs_nothing(tmp_path, kind, is_mapped):
    path, bomb = tmp_path / "values.npy", Bomb(tmp_path / "exploded")
    path.write_bytes(HOSTILE[kind](bomb))
    for read in (
        lambda: load_array(path, fix="restore it", is_mapped=is_mapped),
        lambda: read_array(path, ndim=1, fix="restore it"),
    ):
        with pytest.raises(GenlabError) as refused:
            read()
        assert str(path) in str(refused.value) and str(refused.value).endswith("; restore it")
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 400 + len(str(path))
    assert not bomb.path.exists()


def write_values(folder, firsts, values):
    folder.mkdir(exist_ok=True)
    (folder / FIRSTS_NAME).write_bytes(firsts)
    (folder / VALUES_NAME).write_bytes(values)
    (folder / "info.json").write_text(json.dumps({}))
    write_digests(folder, digest_files(folder, [VALUES_NAME, FIRSTS_NAME, "info.json"]))
    return folder


def test_values_of_conditions_are_read_and_a_checksum_does_not_vouch_for_them(tmp_path):
    firsts, values = np.array([0, 2, 5]), np.arange(10.0).reshape(5, 2)
    good = PartValues("pitch", True, write_values(tmp_path, npy(firsts), npy(values)))
    assert good.of(1).value.tolist() == values[2:].tolist()
    bomb = Bomb(tmp_path / "exploded")
    wrong = [
        (npy(firsts), HOSTILE["objects"](bomb)),
        (HOSTILE["archive"](bomb), npy(values)),
        (npy(np.array([0, 2, 6])), npy(values)),
        (npy(np.array([1, 2, 5])), npy(values)),
        (npy(np.array([0, 6, 5])), npy(values)),
        (npy(np.array([0.0, 2.0, 5.0])), npy(values)),
        (npy(np.zeros((0,), np.int64)), npy(values)),
        (npy(firsts[None]), npy(values)),
        (npy(firsts), npy(np.float64(3))),
    ]
    for number, (first, value) in enumerate(wrong):
        folder = write_values(tmp_path / str(number), first, value)
        with pytest.raises(GenlabError, match=r"damaged: (expected|Array)"):
            PartValues("pitch", True, folder)
    assert not bomb.path.exists()
