"""What there is to hear: per prompt the real clip, the codec floors, a low anchor and every arm,
all of one duration.

In: the run directory of a finished comparison. Out: `PromptClips`. The real clip is the open and
the hidden reference: the floors differ between codes and latents, so either would favour the arms
that read its view; they are rated among the others instead and say where the ceiling of an arm is.
The anchor is the reference low-passed at 3.5 kHz, with the filter of ITU-R BS.1534-3 section 5.1.
Nothing is normalised: a wrong loudness is a fault of the arm. With several training seeds, prompt
after prompt takes the next one, the same in every arm.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float

from genlab.arms import find_run_dir, read_samples
from genlab.config import GenlabError
from genlab.experiment import Comparison
from genlab.listen.key import ANCHOR, REFERENCE
from genlab.material import floor_waves, gather
from genlab.report.inputs import Results
from genlab.watch.progress import Progress

Sound = Float[np.ndarray, "s *c"]

NUM_PROMPTS = 10
PASS_HZ, STOP_HZ, STOP_DB = 3500.0, 4000.0, 60.0
FADE_S = 0.01
# a codec rounds up to whole frames; far more is another utterance, and a cut would take its words
MAX_CUT_S = 0.25


class PromptClips(NamedTuple):
    """One prompt and what every row made of it: equally long waves by the name of the row."""

    prompt: int
    text: str
    seed: int
    waves: dict[str, Sound]


def read_clips(
    config: Comparison,
    run_dir: Path,
    results: Results,
    num_prompts: int | None,
    seed: int,
    progress: Progress,
) -> tuple[list[PromptClips], int]:
    """Return the clips of `num_prompts` prompts and their sample rate.

    Args:
        config: the comparison.
        run_dir: where its samples are.
        results: its results.json.
        num_prompts: None is `NUM_PROMPTS`, or as many as there are.
        seed: of the choice of prompts.
        progress: told while the corpus is read.
    """
    if ANCHOR in config.arms:
        raise GenlabError(
            f"arms: the name {ANCHOR!r} belongs to the low anchor of the test; rename the arm"
        )
    config.data.require_codec()
    material = gather(config, progress, run_dir)
    floors = floor_waves(material)
    views = {entry["name"]: entry.get("reads", "") for entry in results["arms"]}
    # A floor is heard only if some arm reads its view: each is one more clip per screen.
    heard = {views[name] for name in config.arms}
    sampled = {
        (name, training_seed): read_samples(
            find_run_dir(run_dir, name, training_seed), material
        ).waves
        for name in config.arms
        for training_seed in config.seeds
    }
    rate_hz = material.codec.wave_rate_hz
    clips = []
    for order, number in enumerate(
        choose_texts([prompt.clip_id for prompt in material.prompts], num_prompts, seed)
    ):
        # Seeds take turns over prompts, so that no arm is judged by one lucky seed.
        prompt, training_seed = material.prompts[number], config.seeds[order % len(config.seeds)]
        waves = {REFERENCE: prompt.wave, ANCHOR: low_anchor(prompt.wave, rate_hz)}
        waves |= {name: rows[number] for name, rows in floors.items() if views[name] in heard}
        waves |= {name: sampled[name, training_seed][number] for name in config.arms}
        clips.append(
            PromptClips(number, prompt.text, training_seed, cut_alike(waves, rate_hz, number))
        )
    return clips, rate_hz


def choose_texts(units: Sequence[str], num_prompts: int | None, seed: int) -> list[int]:
    """Return prompts of different texts, drawn at random: prompts of one text are one unit of the
    statistics.

    `units` holds the unit of each prompt (`Wanted.clip_id`), which is the clip itself where there
    is no text.

    Raises:
        GenlabError: if there are not as many.
    """
    first = {unit: number for number, unit in reversed(list(enumerate(units)))}
    wanted = min(NUM_PROMPTS, len(first)) if num_prompts is None else num_prompts
    if seed < 0:
        raise GenlabError(f"--seed {seed}: expected 0 or more")
    if not 1 <= wanted <= len(first):
        raise GenlabError(
            f"--prompts {wanted}: expected 1 to {len(first)}, the prompts of this run that differ "
            "in their text"
        )
    drawn = np.random.default_rng(seed).permutation(sorted(first.values()))[:wanted]
    return sorted(int(number) for number in drawn)


def low_anchor(wave: Sound, rate_hz: int) -> Sound:
    """Return `wave` low-passed at 3.5 kHz without delay (BS.1534-3: 25 dB down at 4 kHz, 50 dB at
    4.5 kHz).
    """
    if rate_hz <= 2 * STOP_HZ:
        raise GenlabError(
            f"codec: {rate_hz} Hz leaves nothing above {STOP_HZ:g} Hz for the low anchor to lose; "
            "use --test ab, or a codec of at least 16 kHz"
        )
    num_taps, _ = scipy.signal.kaiserord(STOP_DB, (STOP_HZ - PASS_HZ) / (rate_hz / 2))
    kernel = scipy.signal.firwin(
        num_taps | 1, (PASS_HZ + STOP_HZ) / 2, width=STOP_HZ - PASS_HZ, fs=rate_hz
    )
    if wave.ndim == 2:
        kernel = kernel[:, None]
    filtered = scipy.signal.fftconvolve(wave, kernel, axes=0)
    return filtered[len(kernel) // 2 :][: len(wave)].astype(np.float32)


def cut_alike(waves: Mapping[str, Sound], rate_hz: int, prompt: int) -> dict[str, Sound]:
    """Return all waves at the length of the shortest with the same fade at the end, so that no
    length gives one away.

    Raises:
        GenlabError: if that would take more than the rounding of a codec.
    """
    lengths = {name: len(wave) for name, wave in waves.items()}
    shortest, longest = min(lengths.values()), max(lengths.values())
    if longest - shortest > MAX_CUT_S * rate_hz:
        name = min(lengths, key=lengths.__getitem__)
        raise GenlabError(
            f"prompt{prompt:02}: {name} lasts {shortest / rate_hz:.2f} s, the longest clip "
            f"{longest / rate_hz:.2f} s: expected at most {MAX_CUT_S} s between them, otherwise "
            "the length gives the clip away; sample it again"
        )
    num_faded = min(shortest, round(FADE_S * rate_hz))
    fade = np.ones(shortest, np.float32)
    fade[shortest - num_faded :] = np.linspace(1.0, 0.0, num_faded, dtype=np.float32)
    return {
        name: wave[:shortest] * (fade if wave.ndim == 1 else fade[:, None])
        for name, wave in waves.items()
    }
