"""What a decoder is told beside speaker, text and units: one named value per clip, from a column or
from the audio.

In: an object that computes the value of a clip (`Valued`, valued.py; the conditions of
decoders/parts.py are such objects), and a corpus behind a codec. Out: `PartValues`. They are
computed once: their directory is named by a digest of the object, the corpus and the codec, so that
a changed class or a changed clip makes other values and never mixes with old ones.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Shaped

from genlab.config import GenlabError, digest
from genlab.config.errors import describe_raised, is_ours_to_stop, shorten
from genlab.config.open import file_of
from genlab.data.digests import digest_files, write_digests
from genlab.data.manifest import Manifest
from genlab.data.parts import FIRSTS_NAME, VALUES_NAME, PartValues
from genlab.data.shards import Progress
from genlab.data.store import TokenStore
from genlab.data.valued import ClipFacts, Valued
from genlab.run.cache import only_builder
from genlab.tokens import TokenSpec

INFO_NAME = "part.json"  # a directory that has it is whole
VERSION = 1  # part of the name on disk: raise it when values of the same clip become others
REPORT_EVERY = 64
TRIED = 8  # clips whose values are computed before the corpus is encoded


class Coder(Protocol):
    """What trying needs of a codec."""

    @property
    def spec(self) -> TokenSpec:
        """Its token space."""
        ...

    def count_frames(self, num_samples: int) -> int:
        """Return the frames of a clip of the corpus."""
        ...


def compute_value(part: Valued, clip: ClipFacts) -> Shaped[np.ndarray, "..."]:
    """Return the value of a clip once it is known to be one.

    Raises:
        GenlabError: that names the condition, the clip, and what is wrong.
    """
    place = f"condition {part.name!r} of clip {shorten(clip.row.id)}"
    try:
        value = np.asarray(part.value(clip))
    except BaseException as error:  # the code may be the user's own, and raise anything
        if is_ours_to_stop(error):
            raise
        is_told = isinstance(error, GenlabError)
        told = str(error) if is_told else describe_raised(file_of(type(part)), error)
        raise GenlabError(f"{place}: {told}") from error
    wanted = (clip.num_frames, *part.shape) if part.is_per_frame else tuple(part.shape)
    if value.shape != wanted:
        frames = f" ({clip.num_frames} frames)" if part.is_per_frame else ""
        raise GenlabError(f"{place}: a value of shape {value.shape}, expected {wanted}{frames}")
    if value.dtype.kind not in ("iub" if np.dtype(part.dtype).kind == "i" else "fiub"):
        raise GenlabError(f"{place}: a value of {value.dtype}, expected {part.dtype}")
    value = value.astype(part.dtype)
    if not np.isfinite(value).all():
        raise GenlabError(f"{place}: a value that is not finite, expected finite numbers")
    try:
        part.check(value)
    except ValueError as error:
        raise GenlabError(f"{place}: {error}") from None
    return value


def try_values(parts: Sequence[Valued], manifest: Manifest, codec: Coder) -> None:
    """Compute the values of a few clips, spread over the corpus, and keep nothing.

    Called before a corpus is encoded, which takes minutes; the other clips are computed after that,
    and before anything trains.

    Raises:
        GenlabError: as `compute_value`.
    """
    chosen = np.linspace(0, len(manifest.clips) - 1, min(TRIED, len(manifest.clips)))
    for row in (manifest.clips[int(number)] for number in chosen):
        num_frames = codec.count_frames(row.num_samples)
        for part in parts:
            if getattr(part, "reads_store", False):
                continue  # of what is encoded: checked once it is
            compute_value(part, ClipFacts(row, num_frames, codec.spec.frame_hz, manifest))


def gather_values(
    part: Valued,
    store: TokenStore,
    manifest: Manifest,
    cache_dir: Path,
    progress: Progress | None = None,
) -> PartValues:
    """Return the values of the clips of a token store, computing them if that was never done.

    Raises:
        GenlabError: as `compute_value`.
    """
    made_of = [VERSION, part.digest(), manifest.hash(), store.info.codec_fingerprint]
    if stamp := getattr(part, "stamp", None):  # of files that the manifest does not know
        made_of.append(stamp(manifest))
    key = digest(made_of)
    directory = cache_dir / f"told-{re.sub(r'[^A-Za-z0-9_]', '_', part.name)[:40]}-{key}"
    if not (directory / INFO_NAME).exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with only_builder(cache_dir / f".{directory.name}.lock"):
            # Another process may have computed them while this one waited.
            if not (directory / INFO_NAME).exists():
                _write(part, store, manifest, directory, progress)
    return PartValues(part.name, part.is_per_frame, directory)


def _write(
    part: Valued, store: TokenStore, manifest: Manifest, directory: Path, progress: Progress | None
) -> None:
    row_of_id = {clip.id: clip for clip in manifest.clips}
    values, firsts = [], [0]
    for number in range(store.num_clips):
        clip = store.clip(number)
        row, frame_hz = row_of_id[clip.id], store.info.spec.frame_hz
        facts = ClipFacts(row, len(clip.units), frame_hz, manifest, clip.other)
        values.append(compute_value(part, facts))
        firsts.append(firsts[-1] + (len(clip.units) if part.is_per_frame else 1))
        if progress is not None and (number % REPORT_EVERY == 0 or number + 1 == store.num_clips):
            progress(f"condition {part.name}", number + 1, store.num_clips)
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    np.save(
        partial / VALUES_NAME, np.concatenate(values) if part.is_per_frame else np.stack(values)
    )
    np.save(partial / FIRSTS_NAME, np.array(firsts, np.int64))
    (partial / INFO_NAME).write_text(json.dumps({"name": part.name, "clips": store.num_clips}))
    write_digests(partial, digest_files(partial, [VALUES_NAME, FIRSTS_NAME, INFO_NAME]))
    shutil.rmtree(
        directory, ignore_errors=True
    )  # without its last file it is nothing that was ever finished
    os.replace(partial, directory)
