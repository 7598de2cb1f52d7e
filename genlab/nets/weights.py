"""Weights that ship inside the package: one safetensors file and, beside it, one JSON that says
what it is.

In: a nested dict of arrays (`nnx.to_pure_dict` of a state) and a metadata dict. Out:
`NAME.safetensors`, whose tensors are named by the dotted path of each leaf, and `NAME.json`, which
holds the metadata and the SHA-256 of the tensors' file. A file is read only after its header agrees
with the tree that the code expects, so a wrong, damaged or oversized file costs one line and no
memory.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import pydantic
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from typing_extensions import TypedDict

from genlab.config import GenlabError
from genlab.run.ownership import refuse_to_replace, says
from genlab.run.stored import (
    OPEN,
    Count,
    DamagedError,
    parse_json,
    parse_stored,
    read_stored,
    whole_file,
    write_atomically,
    write_synced,
)

_MAX_HEADER_BYTES = 4 << 20


_RESTORE = "restore the file"


@pydantic.with_config(OPEN)
class WeightsFacts(TypedDict):
    """The JSON beside weights: what they are, how they were made, and the SHA-256 of the tensors'
    file.
    """

    sha256: NotRequired[Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]]
    config: NotRequired[dict[str, JsonValue]]
    num_units: NotRequired[int]


@pydantic.with_config(OPEN)
class TensorEntry(TypedDict):
    """One tensor in the header of a safetensors file."""

    dtype: str
    shape: Annotated[list[Count], pydantic.Field(max_length=16)]
    data_offsets: tuple[Count, Count]


class WeightsError(GenlabError):
    """A weights file is missing, damaged, or made for another model; the text names the file and
    the tensor.
    """


def save_weights(
    path: str | Path, tree: Mapping, metadata: Mapping[str, JsonValue], dtype: str = "float16"
) -> dict[str, Any]:
    """Write `tree` and `metadata` atomically; floating leaves are stored as `dtype`, others as they
    are.

    Returns:
        The metadata as written, with `sha256` (of the tensors' file), `num_parameters` and
        `stored_dtype` added.

    Raises:
        WeightsError: if the name does not end in .safetensors, or a leaf is not finite once stored,
            for example beyond the range of float16.
        GenlabError: if files of these names are there that this function did not write.
    """
    path = Path(path)
    check_can_save(path)
    tensors: dict[str, np.ndarray] = {}
    for name, leaf in _flatten(tree):
        array = np.asarray(leaf)
        if np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16":
            with np.errstate(over="ignore"):
                array = array.astype(dtype)
            if not np.isfinite(array).all():
                raise WeightsError(
                    f"{path.name}: tensor {name!r} is not finite as {dtype}; train longer or "
                    "store float32"
                )
        # safetensors writes the buffer as it lies in memory, without strides: a transposed view
        # would be stored wrong. It also turns a scalar into a vector, hence the reshape.
        tensors[name] = np.ascontiguousarray(array).reshape(array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = save(tensors)
    facts = {
        **metadata,
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_parameters": sum(array.size for array in tensors.values()),
        "stored_dtype": dtype,
    }
    text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    with whole_file(path) as partial:
        write_synced(partial, content)
        # The JSON first: it says that the file beside it is genlab's, should it be cut short here.
        write_atomically(path.with_suffix(".json"), text)
    return facts


def check_can_save(path: Path) -> None:
    """Refuse a name under which weights cannot be saved; call it before what they cost.

    Raises:
        WeightsError: if the name does not end in .safetensors.
        GenlabError: if something is there, under that name or with .json, that `save_weights` did
            not write.
    """
    # the JSON beside it would take its place, or its name would lie
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: expected a name that ends in .safetensors")
    facts_path = path.with_suffix(".json")
    is_ours = says(facts_path, {"sha256", "num_parameters", "stored_dtype"})
    for taken in (facts_path, path):
        refuse_to_replace(taken, is_ours)


def load_weights(path: str | Path, abstract_tree: Mapping) -> dict:
    """Read the file into the structure, shapes and dtypes of `abstract_tree` (leaves need only
    `shape` and `dtype`).

    Raises:
        WeightsError: if the file is missing, truncated, oversized, altered, or does not hold
            exactly these tensors.
    """
    path = Path(path)
    wanted = dict(_flatten(abstract_tree))
    # The cheap checks come first: names, shapes and sizes before the digest of the whole file, and
    # both before any tensor is read.
    _check_header(path, read_header(path), wanted)
    facts = load_metadata(path)
    if facts.get("sha256") != _sha256(path):
        raise WeightsError(
            f"{path}: SHA-256 differs from the one in {path.with_suffix('.json').name}; restore "
            "both files"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise WeightsError(
            f"{path}: safetensors refuses the file ({error!s:.80}); restore it"
        ) from None
    # A matching digest only says that the file is the one that was written, not that training was
    # sound.
    for name, array in tensors.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise WeightsError(
                f"{path}: tensor {name!r} holds values that are not finite; restore the file"
            )
    return _fill(abstract_tree, tensors)


def load_metadata(path: str | Path) -> dict[str, Any]:
    """Return the JSON beside the weights file `path`.

    Raises:
        WeightsError: if it is missing or is not a JSON object.
    """
    path = Path(path).with_suffix(".json")
    try:
        facts = read_stored(path, WeightsFacts, fix=_RESTORE)
    except DamagedError as error:
        raise WeightsError(str(error)) from None
    if facts is None:
        raise WeightsError(
            f"{path}: no such file; restore the JSON file that describes the weights"
        )
    return dict(facts)


def _flatten(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fill(tree: Mapping, tensors: Mapping[str, np.ndarray], prefix: str = "") -> dict:
    return {
        key: _fill(value, tensors, f"{prefix}{key}.")
        if isinstance(value, Mapping)
        else tensors[f"{prefix}{key}"].astype(value.dtype)
        for key, value in tree.items()
    }


def read_header(path: Path) -> dict[str, dict]:
    """Return name -> {dtype, shape, data_offsets} with offsets counted from the start of the file.

    Raises:
        WeightsError: if there is no such file, or it does not begin with such a header.
    """
    try:
        with path.open("rb") as file:
            # safetensors: 8 bytes of little-endian length, a JSON header, then the tensors' bytes.
            num_header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= num_header_bytes <= _MAX_HEADER_BYTES:
                raise WeightsError(
                    f"{path}: not a safetensors file (its header claims {num_header_bytes} bytes)"
                )
            content = file.read(num_header_bytes)
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: no such weights file; reinstall genlab or give the path of a trained one"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({error!s:.80}); {_RESTORE}"
        ) from None
    try:
        values = parse_json(content, path=path, fix=_RESTORE)
        if isinstance(values, dict):
            values.pop("__metadata__", None)
        header = parse_stored(
            json.dumps(values).encode(), dict[str, TensorEntry], path=path, fix=_RESTORE
        )
    except DamagedError as error:
        raise WeightsError(f"{error}; not a readable safetensors file") from None
    # The file counts offsets from the end of the header.
    start = 8 + num_header_bytes
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if begin > end:
            raise WeightsError(f"{path}: tensor {name[:80]!r} ends before it begins; {_RESTORE}")
        entry["data_offsets"] = (start + begin, start + end)
    return {name: dict(entry) for name, entry in header.items()}


def _check_header(path: Path, header: Mapping[str, dict], wanted: Mapping[str, Any]) -> None:
    # Shapes first: a hostile header is refused before any of its sizes is believed.
    for name, leaf in wanted.items():
        if name not in header:
            raise WeightsError(
                f"{path}: tensor {name!r} is missing; the file was made for another config"
            )
        found = header[name].get("shape")
        if found != list(leaf.shape):
            raise WeightsError(
                f"{path}: tensor {name!r} has shape {found}, expected {list(leaf.shape)}; check "
                "the config"
            )
    for name in header:
        if name not in wanted:
            raise WeightsError(
                f"{path}: tensor {name!r} is not part of this model; the file was made for "
                "another config"
            )
    # In the order of the file, so that the first tensor past the end is the one to name.
    num_bytes = path.stat().st_size
    end_bytes = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        end_bytes = entry["data_offsets"][1]
        if end_bytes > num_bytes:
            raise WeightsError(
                f"{path}: truncated in tensor {name!r} ({num_bytes} of {end_bytes} bytes); "
                "restore the file"
            )
        # No dtype is wider than 8 bytes; more would make the loader allocate what the shape does
        # not need.
        if entry["data_offsets"][1] - entry["data_offsets"][0] > 8 * int(
            np.prod(wanted[name].shape, dtype=np.int64)
        ):
            raise WeightsError(
                f"{path}: tensor {name!r} claims more bytes than its shape holds; restore the file"
            )
    if num_bytes != end_bytes:
        raise WeightsError(
            f"{path}: {num_bytes - end_bytes} bytes follow the last tensor; restore the file"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
