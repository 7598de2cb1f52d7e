"""What every stage of a comparison shares: tokens, codec, corpus, prompts."""

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genlab import inputs
from genlab.codecs.frozen import FrozenCodec
from genlab.config import digest
from genlab.data.drawn import decode_blocks
from genlab.data.manifest import Clip, Manifest
from genlab.data.store import TokenClip, TokenStore
from genlab.data.streamed import Streamed, each_of, sequence_of
from genlab.data.wave_files import read_waves
from genlab.evaluate.metrics import Wanted
from genlab.experiment import Comparison
from genlab.fairness.lookup import fit_lookup
from genlab.preflight import Preflight, inspect
from genlab.prompts import as_wanted, choose_prompts
from genlab.run.bounds import CODES_FLOOR, LATENTS_FLOOR, LOOKUP
from genlab.run.clock import BASELINE, stage
from genlab.watch.progress import Progress


class Material(NamedTuple):
    """What every stage shares: the tokens, the codec, the corpus, and the prompts.

    `clips` are the tokens of the prompts; `prompts`, what their audio is scored by, are none where
    nothing can be heard.
    """

    store: TokenStore
    codec: FrozenCodec
    manifest: Manifest
    clips: Sequence[TokenClip]
    prompts: Sequence[Wanted]
    preflight: Preflight
    run_dir: Path | None = None
    """Of the comparison, where it has one."""

    def wave(self, clip: Clip) -> np.ndarray:
        """Return the real audio of a clip in [-1, 1], in the format of the corpus."""
        return self.manifest.audio(clip) / np.float32(32768)


def floor_waves(material: Material) -> dict[str, Sequence[np.ndarray]]:
    """Return the prompts resynthesised from their own codes and from their own latents; none where
    nothing can be heard.
    """
    if not material.prompts:
        return {}
    codes = each_of(operator.attrgetter("codes"), material.clips)
    latents = each_of(operator.attrgetter("latents"), material.clips)
    return {
        CODES_FLOOR: decode_row(CODES_FLOOR, material.codec.decode_codes, codes, material),
        LATENTS_FLOOR: decode_row(LATENTS_FLOOR, material.codec.decode_latents, latents, material),
    }


def decode_row(
    name: str,
    decode: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]],
    views: Sequence[np.ndarray],
    material: Material,
) -> Sequence[np.ndarray]:
    """Return the waves of a row that is no arm. Those of many prompts are kept as files, like those
    of an arm, so that they are decoded once and memory holds a block of them.
    """
    if not isinstance(views, Streamed):
        return decode(views)
    if material.run_dir is None:
        return Streamed(lambda number: decode([views[number]])[0], len(views))
    directory = material.run_dir / "floors" / name / "samples"
    codec, of = material.codec, [clip.id for clip in material.clips]
    decode_blocks(
        directory, decode, views, codec.wave_rate_hz, digest([name, codec.fingerprint, of])
    )
    return read_waves(directory, len(views), codec.audio)


def lookup_latents(
    config: Comparison, material: Material, clips: Sequence[TokenClip] | None = None
) -> Sequence[np.ndarray]:
    """Return the mean latents of the conditions of `clips`, by default the prompts, in the codec's
    units; none if the config does not want them.
    """
    if LOOKUP not in config.measured_baselines:
        return []
    with stage(BASELINE, LOOKUP):
        lookup = fit_lookup(material.store, config.condition, config.data.train_clips)
        return each_of(lookup.predict, material.clips if clips is None else clips)


def gather(config: Comparison, progress: Progress, run_dir: Path | None = None) -> Material:
    """Build corpus and token store, and choose the prompts.

    Raises:
        GenlabError: if the comparison in `run_dir` was made from others (inputs.py).
    """
    # first: tokens that never were audio are refused before anything is built
    codec, manifest = config.data.load_clips(progress)
    preflight = inspect(config, manifest, codec)  # before the corpus is encoded
    if run_dir is None:
        store = config.data.open(progress, manifest, parts=config.condition.parts)
    else:
        store = inputs.open_store(config.data, run_dir, progress, parts=config.condition.parts)
    clips = choose_prompts(store, config.data, config.prompts_split, config.num_prompts)
    by_id = manifest.find(clip.id for clip in clips)
    # Rows of the manifest: the audio of many is read whenever it is asked for.
    originals = [by_id[clip.id] for clip in clips] if config.data.is_heard else []
    prompts = sequence_of(
        lambda number: as_wanted(originals[number], config, manifest, codec), len(originals)
    )
    return Material(store, codec, manifest, clips, prompts, preflight, run_dir)
