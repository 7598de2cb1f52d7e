"""Choose the prompts: held-out clips that every arm is sampled on, the same before and after a
corpus is encoded.

In: clips of a manifest or of a token store, and how many frames each has. Out: clips no longer than
a training example, new units of the domain first (new texts of speech), speakers in turn. If a
split has too few, the error says what helps: more frames if its clips are too long, more clips if
it is too small.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.data.held_out import larger_share
from genlab.data.manifest import F0_HOP_SAMPLES, Clip, Manifest, Spoken
from genlab.data.store import TokenClip, TokenStore
from genlab.data.streamed import sequence_of
from genlab.evaluate.checks import FEWEST
from genlab.evaluate.context import Wanted
from genlab.evaluate.energy import BLOCK_S
from genlab.evaluate.pitch import PitchTrack
from genlab.experiment import Comparison, TokenData
from genlab.tokens import Prompt, Tokens

C = TypeVar("C", bound=Spoken)


def choose_prompts(
    store: TokenStore, data: TokenData, split: str, num_prompts: int
) -> Sequence[TokenClip]:
    """Return prompts from a held-out split of a token store.

    Raises:
        GenlabError: if fewer than two clips fit, or the tokens never were audio.
    """
    sizes = {name: info.clips for name, info in store.info.splits.items()}
    frames = store.frames(store.numbers(split)).tolist()
    picked = pick_prompts(_entries(store, split), frames, data, split, num_prompts, sizes)
    return _read_clips(store, picked)


def pick_prompts(
    clips: Sequence[C],
    frames: Sequence[int],
    data: TokenData,
    split: str,
    num_prompts: int,
    sizes: dict[str, int],
) -> list[C]:
    """Return up to `num_prompts` of `clips`: new units of the domain first, speakers in turn.

    Args:
        clips: all clips of the split.
        frames: of each clip.
        data: what the arms train on; clips longer than its examples are no prompts.
        split: its name.
        num_prompts: how many are wanted.
        sizes: clips of every split, for the error.

    Raises:
        GenlabError: if fewer than two clips fit.
    """
    fitting = sorted(
        (clip for clip, length in zip(clips, frames) if length <= data.num_frames),
        key=lambda clip: clip.id,
    )
    if len(fitting) < FEWEST:
        raise GenlabError(_explain_few(len(fitting), sorted(frames), split, data, sizes))
    unit_of = data.domain.unit_of
    said: dict[str, int] = {}
    spoken: dict[str, int] = {}
    ranked = []
    for clip in (fitting[i] for i in np.random.default_rng(0).permutation(len(fitting))):
        unit = unit_of(clip)
        ranked.append(((said.get(unit, 0), spoken.get(clip.speaker, 0)), clip))
        said[unit] = said.get(unit, 0) + 1
        spoken[clip.speaker] = spoken.get(clip.speaker, 0) + 1
    return [clip for _, clip in sorted(ranked, key=lambda item: item[0])[:num_prompts]]


def as_wanted(clip: Clip, config: Comparison, manifest: Manifest, codec: FrozenCodec) -> Wanted:
    """Return what scoring asks an arm for: a clip's unit, text, speaker, audio and pitch."""
    hop_s = F0_HOP_SAMPLES / codec.wave_rate_hz
    f0 = PitchTrack(manifest.f0_hz(clip), hop_s) if clip.f0_path else None
    wave = manifest.audio(clip) / np.float32(32768)
    return Wanted(config.data.domain.unit_of(clip), clip.text, clip.speaker, wave, f0)


def num_scored(config: Comparison) -> int:
    """Return how many clips are wanted behind bits and energies, which need no audio."""
    return max(config.num_prompts, config.evaluation.token_prompts or 0)


def choose_scored(store: TokenStore, config: Comparison) -> Sequence[TokenClip]:
    """Return the clips behind bits and energies; the prompts come first, in their order."""
    return choose_prompts(store, config.data, config.prompts_split, num_scored(config))


def real_blocks(store: TokenStore, config: Comparison) -> Float[np.ndarray, "n f d"]:
    """Return the latents of the block after the middle of every clip that has one."""
    block_frames = round(BLOCK_S * store.info.spec.frame_hz)
    blocks = []
    for clip in choose_scored(store, config):
        latents = np.asarray(store.example(clip, len(clip.units))[0].latents, np.float32)
        first = len(latents) // 2
        if first + block_frames <= len(latents):
            blocks.append(latents[first : first + block_frames])
    channels = store.info.spec.latent_channels
    return np.stack(blocks) if blocks else np.zeros((0, block_frames, channels), np.float32)


def choose_validation(
    store: TokenStore, data: TokenData, prompts_split: str, num_clips: int
) -> Sequence[TokenClip]:
    """Return validation clips that an example holds whole; none if prompts are of that split, or
    fewer than two of it fit.
    """
    split = "valid"
    if split not in store.info.splits or split == prompts_split:
        return []
    return _pick_fitting(store, data, split, num_clips)


def choose_unscored(
    store: TokenStore, data: TokenData, prompts_split: str, num_clips: int
) -> Sequence[TokenClip]:
    """Return clips that are no prompts: of validation if two fit, else of training, cut to the
    frames of an example.
    """
    if found := choose_validation(store, data, prompts_split, num_clips):
        return found
    if found := _pick_fitting(store, data, "train", num_clips):
        return found
    numbers = store.numbers("train")
    order = np.random.default_rng(0).permutation(len(numbers))[:num_clips]
    return sequence_of(
        lambda place: cut_clip(store.clip(numbers[order[place]]), data.num_frames), len(order)
    )


def cut_clip(clip: TokenClip, num_frames: int) -> TokenClip:
    """Return the first `num_frames` frames of a clip."""
    other = None if clip.other is None else clip.other[:num_frames]
    codes, latents, units = (
        clip.codes[:num_frames],
        clip.latents[:num_frames],
        clip.units[:num_frames],
    )
    parts = tuple(part.cut(slice(num_frames)) for part in clip.parts)
    return clip._replace(codes=codes, latents=latents, units=units, other=other, parts=parts)


def _pick_fitting(
    store: TokenStore, data: TokenData, split: str, num_clips: int
) -> Sequence[TokenClip]:
    """Return clips of a split that an example holds whole, none if fewer than two do."""
    frames = store.frames(store.numbers(split)).tolist()
    if sum(length <= data.num_frames for length in frames) < FEWEST:
        return []
    picked = pick_prompts(_entries(store, split), frames, data, split, num_clips, {})
    return _read_clips(store, picked)


class _Entry(NamedTuple):
    """A clip of a store, to be chosen before its tokens are read."""

    number: int
    id: str
    text: str
    speaker: str


def _read_clips(store: TokenStore, picked: Sequence[_Entry]) -> Sequence[TokenClip]:
    """Return the tokens of clips; of many, these are read whenever they are asked for."""
    numbers = [entry.number for entry in picked]
    return sequence_of(lambda place: store.clip(numbers[place]), len(numbers))


def _entries(store: TokenStore, split: str) -> list[_Entry]:
    entries = []
    for number in store.numbers(split):
        heading = store.heading(number)
        entries.append(_Entry(number, heading.id, heading.text, heading.speaker))
    return entries


def _explain_few(
    found: int, frames: Sequence[int], split: str, data: TokenData, sizes: dict[str, int]
) -> str:
    """Return by how much the prompts fall short, and the remedy that helps: clips too long, or
    clips too few.
    """
    if len(frames) < FEWEST:
        others = ", ".join(
            f"{name} {count}"
            for name, count in sorted(sizes.items())
            if name not in (split, "train")
        )
        elsewhere = f"; or take prompts from another split ({others})" if others else ""
        larger = larger_share(data.corpus, split)
        fraction = larger and f"{larger} if its splits are drawn, "
        return (
            f"prompts: split {split!r} has {len(frames)} clip{'s' * (len(frames) != 1)}, expected "
            f"at least {FEWEST}; hold out more: {fraction}or more rows of that split "
            f"in the table of the corpus{elsewhere}"
        )
    # Where clips are equally long, what fits the fewest that are needed fits all.
    fitting = f"data.num_frames={frames[FEWEST - 1]} fits {FEWEST} of them"
    if frames[-1] > frames[FEWEST - 1]:
        fitting += f", {frames[-1]} fits all"
    return (
        f"prompts: {found} of {len(frames)} clips of split {split!r} have at most "
        f"data.num_frames={data.num_frames} frames, expected at least {FEWEST}; {fitting}"
    )


def parse_span(text: str | None) -> tuple[float, float] | None:
    """Return the seconds that `--keep FROM:TO` names.

    Raises:
        GenlabError: if these are not two times, the second one after the first.
    """
    if text is None:
        return None
    try:
        first, last = (float(part) for part in text.split(":"))
    except ValueError:
        raise GenlabError(
            f"--keep {shorten(text)}: expected FROM:TO in seconds, for example 0:0.5"
        ) from None
    if not 0 <= first < last < math.inf:  # false for NaN too
        raise GenlabError(
            f"--keep {shorten(text)}: expected seconds with 0 <= FROM < TO, for example 0:0.5"
        )
    return first, last


def check_span(
    store: TokenStore, clips: Sequence[TokenClip], keep_s: tuple[float, float]
) -> list[str]:
    """Return what to say about clips of which `keep_s` keeps nothing or everything, in a line each
    or less.

    Raises:
        GenlabError: if it keeps no frame of any clip, or all frames of every clip.
    """
    hz = store.info.spec.frame_hz
    text = f"--keep {keep_s[0]:g}:{keep_s[1]:g}"
    first, last = (round(second * hz) for second in keep_s)
    frames = np.array([len(clip.units) for clip in clips])
    # Rounded to frames here, as the sampler does it, so that the text says what happens.
    kept = np.clip(np.minimum(last, frames) - first, 0, None)
    shortest, longest = frames.min() / hz, frames.max() / hz
    if not kept.any():
        raise GenlabError(
            f"{text}: keeps no frame of any prompt; they last {shortest:g} to {longest:g} s, a "
            f"frame {1 / hz:g} s"
        )
    if (kept == frames).all():
        raise GenlabError(
            f"{text}: keeps all of every prompt, so nothing is left to draw; they last "
            f"{shortest:g} to {longest:g} s"
        )
    told = {"nothing": int((kept == 0).sum()), "everything": int((kept == frames).sum())}
    return [
        f"{text}: keeps {what} of {count} of {len(clips)} prompts"
        for what, count in told.items()
        if count
    ]


def keep_frames(
    store: TokenStore, clips: Sequence[TokenClip], num_frames: int, keep_s: tuple[float, float]
) -> Prompt:
    """Return a prompt that keeps the frames of `keep_s` seconds: a prefix to continue, or a part to
    fill around.
    """
    examples = [store.example(clip, num_frames)[0] for clip in clips]
    tokens: Tokens = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
    first, last = (round(second * store.info.spec.frame_hz) for second in keep_s)
    frame = np.arange(num_frames)
    is_known = np.broadcast_to((frame >= first) & (frame < last), (len(clips), num_frames))
    return Prompt(tokens, tokens.is_valid & is_known)
