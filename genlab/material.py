"""What every stage of a comparison shares: tokens, codec, corpus, prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genlab import inputs
from genlab.codecs.frozen import FrozenCodec
from genlab.data.manifest import Clip, Manifest
from genlab.data.store import TokenClip, TokenStore
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
    clips: list[TokenClip]
    prompts: list[Wanted]
    preflight: Preflight

    def wave(self, clip: Clip) -> np.ndarray:
        """Return the real audio of a clip in [-1, 1], in the format of the corpus."""
        return self.manifest.audio(clip) / np.float32(32768)


def floor_waves(material: Material) -> dict[str, list[np.ndarray]]:
    """Return the prompts resynthesised from their own codes and from their own latents; none where
    nothing can be heard.
    """
    if not material.prompts:
        return {}
    codes = material.codec.decode_codes([clip.codes for clip in material.clips])
    latents = material.codec.decode_latents([clip.latents for clip in material.clips])
    return {CODES_FLOOR: codes, LATENTS_FLOOR: latents}


def lookup_latents(
    config: Comparison, material: Material, clips: Sequence[TokenClip] | None = None
) -> list[np.ndarray]:
    """Return the mean latents of the conditions of `clips`, by default the prompts, in the codec's
    units; none if the config does not want them.
    """
    if LOOKUP not in config.measured_baselines:
        return []
    with stage(BASELINE, LOOKUP):
        lookup = fit_lookup(material.store, config.condition, config.data.train_clips)
        return [lookup.predict(clip) for clip in (material.clips if clips is None else clips)]


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
    heard = clips if config.data.is_heard else []
    prompts = [as_wanted(by_id[clip.id], config, manifest, codec) for clip in heard]
    return Material(store, codec, manifest, clips, prompts, preflight)
