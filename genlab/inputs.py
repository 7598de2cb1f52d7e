"""What a run was made from: codec, units, corpus and the numbers of its speakers, by digest.

In: a run directory and the token data that its config names now. Out: `inputs.json` in the run
directory, written when the run begins, and an error that names what changed if the config later
names something else. A model knows speakers and units only by number, and latents only in
normalised units. With one more speaker in the corpus every voice is shifted, and with another codec
the same tokens are different audio; neither could be distinguished from a fault of the model.

Runs made before this file existed are still opened, with a note.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from pydantic import JsonValue
from typing_extensions import TypedDict

from genlab.config import GenlabError
from genlab.data.corpus import Progress
from genlab.data.manifest import Manifest
from genlab.data.store import TokenStore
from genlab.data.text import SYMBOLS
from genlab.data.valued import Valued
from genlab.experiment import TokenData
from genlab.run import checkpoint
from genlab.run.files import write_json
from genlab.run.stored import OPEN, Count, Number, read_stored

INPUTS_NAME = "inputs.json"
# In standard deviations: sums over a corpus differ a little between kinds of CPU.
LATENTS_AGREE = 1e-2
LONGEST_VALUE = 60


@pydantic.with_config(OPEN)
class Inputs(TypedDict):
    """The contents of `inputs.json`."""

    schema: Count
    codec: str
    units: str
    num_units: Count
    corpus: str
    speakers: list[str]
    text_symbols: str
    latent_mean: list[Number]
    latent_std: list[Number]


def open_store(
    data: TokenData,
    run_dir: Path,
    progress: Progress | None = None,
    *,
    parts: Sequence[Valued] = (),
) -> TokenStore:
    """Return the token store that the run in `run_dir` was made with, or is to be made with.

    `parts` are the named conditions whose values its clips are to have.

    Raises:
        GenlabError: if `data` names another codec or corpus than the run was made with.
    """
    made = read_inputs(run_dir)
    if made is not None and data.has_recordings:
        # Before a store is made of what will be refused.
        manifest = data.build_audio(progress)
        codec = data.load_codec()
        _refuse(run_dir, made, {"codec": codec.fingerprint, **_labels(manifest)}, data)
    store = data.open(progress, parts=parts)
    bind(run_dir, data, store)
    return store


def bind(run_dir: Path, data: TokenData, store: TokenStore) -> None:
    """Record what a new run is made from, or refuse a run that was made from something else.

    Raises:
        GenlabError: naming what differs.
    """
    made, found = read_inputs(run_dir), describe(store)
    if made is not None:
        _refuse(run_dir, made, found, data)
    elif _is_begun(run_dir):
        is_part = run_dir.parts[-3:-2] in (("arms",), ("floors",))  # of a comparison
        _note_unrecorded(run_dir.parts[:-3] if is_part else run_dir.parts)
    else:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(run_dir / INPUTS_NAME, found)


def read_inputs(run_dir: Path) -> Inputs | None:
    """Return what a run was made from, or None if it did not record it.

    Raises:
        DamagedError: if the file is damaged.
    """
    fix = "restore it, or delete it to open the run without this check"
    return read_stored(run_dir / INPUTS_NAME, Inputs, fix=fix)


def describe(store: TokenStore) -> Inputs:
    """Return what a run on this store is made from."""
    info = store.info
    return Inputs(
        schema=1,
        codec=info.codec_fingerprint,
        units=info.units_fingerprint,
        num_units=info.num_units,
        corpus=info.manifest_hash,
        speakers=list(info.speakers),
        text_symbols=SYMBOLS,
        latent_mean=list(info.latent_mean),
        latent_std=list(info.latent_std),
    )


def _labels(manifest: Manifest) -> dict[str, JsonValue]:
    return {"speakers": list(manifest.speakers), "corpus": manifest.hash()}


def _is_begun(run_dir: Path) -> bool:
    begun = ("samples.json", "results.json", "arms")
    return bool(checkpoint.saved_steps(run_dir)) or any((run_dir / name).exists() for name in begun)


@functools.cache  # once for all arms of a comparison
def _note_unrecorded(parts: Sequence[str]) -> None:
    print(
        f"{Path(*parts)}: made by a version that did not record its inputs; whether codec, corpus "
        "and speakers are still the same is not checked",
        file=sys.stderr,
    )


def _refuse(run_dir: Path, made: Inputs, found: Mapping[str, object], data: TokenData) -> None:
    """Raise if one of the inputs `found` now is not the one the run was made from."""
    then: Mapping[str, object] = made
    corpus = f"data.corpus (kind {data.corpus.kind!r})"
    # The most telling first: another list of speakers is another corpus as well.
    sources = {
        "codec": f"data.codec={data.codec!r}",
        "units": "the unit recogniser",
        "num_units": "the unit recogniser",
        "speakers": corpus,
        "text_symbols": "this version of genlab",
        "corpus": corpus,
    }
    for name, source in sources.items():
        if name in found and found[name] != then[name]:
            was, now = _differing(then[name], found[name])
            raise GenlabError(
                f"{run_dir}: {name}: the run was made with {was}, and {source} now has {now}; "
                "restore what it was made with, or train again in another directory"
            )
    if "latent_mean" in found and not _agree(made, found):
        raise GenlabError(
            f"{run_dir}: latents: the run was made with latents of another mean or scale than the "
            "token store now has; delete the token store to encode it again"
        )


def _differing(was: Any, now: Any) -> tuple[str, str]:
    """Return both values in words; of lists, which may be long, the first place that differs."""
    if not isinstance(was, list):
        return str(was)[:LONGEST_VALUE], str(now)[:LONGEST_VALUE]
    same = (pair[0] == pair[1] for pair in zip(was, now))
    at = next((i for i, is_same in enumerate(same) if not is_same), min(len(was), len(now)))
    return _name_at(was, at), _name_at(now, at)


def _name_at(names: Sequence[str], at: int) -> str:
    which = (
        f"number {at} is {names[at][:LONGEST_VALUE]!r}" if at < len(names) else f"no number {at}"
    )
    return f"{len(names)} of which {which}" if at < len(names) else f"{len(names)}, {which}"


def _agree(made: Inputs, found: Mapping[str, Any]) -> bool:
    scale = np.asarray(made["latent_std"])
    if np.shape(found["latent_std"]) != scale.shape:
        return False
    offset = np.abs(np.subtract(found["latent_mean"], made["latent_mean"])) / scale
    ratio = np.abs(np.divide(found["latent_std"], scale) - 1.0)
    return bool(max(offset.max(initial=0.0), ratio.max(initial=0.0)) < LATENTS_AGREE)
