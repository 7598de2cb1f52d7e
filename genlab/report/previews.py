"""What an arm sounds like while it trains: the same validation prompts after a quarter, half and
all of its updates.

In: a run with `settings.previews` prompts to sample (0, the default: none), and the model at those
moments. Out, under `previews/` of the comparison, for the first training seed:

    NAME/at025/promptNN.flac     the audio, and an event file beside it:
                                 TensorBoard's run previews/NAME
    real/  codec_floor_codes/    ceilings of the same prompts
    grid/                        one picture per prompt: arms down, moments across

Arms make different numbers of updates on one budget, so TensorBoard's step is the *percentage* of
the budget: its slider then shows every arm at the same place. Draws have a key of their own, and
training neither sees nor times them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from genlab.codecs.frozen import FrozenCodec
from genlab.data.audio import read_wave, to_int16, write_flac
from genlab.data.store import TokenClip, TokenStore
from genlab.experiment import DecoderRun
from genlab.prompts import choose_prompts
from genlab.sample import CompiledSampler, compile_sampler, conditions, decode
from genlab.training.step import Watch
from genlab.watch.mel import grid_png, mel_png
from genlab.watch.tensorboard import ClipNote, RunWriter, mel_tag, prompt_tag

PERCENTS = (25, 50, 100)
_STREAM = 4096  # apart from the keys of samples and of training
_KIND = "previews"


def choose_preview_clips(run: DecoderRun, store: TokenStore) -> Sequence[TokenClip]:
    """Return the validation clips whose conditions are previewed."""
    wanted = run.settings.previews
    return choose_prompts(store, run.data, "valid", wanted) if wanted else []


def plan_previews(
    run: DecoderRun, store: TokenStore, codec: FrozenCodec, out: Path
) -> dict[int, Watch]:
    """Return what `train` is to call after which steps. The sampler is compiled once, when it is
    first needed.
    """
    clips = choose_preview_clips(run, store)
    if not clips:
        return {}
    cond, num_frames = conditions(store, clips, run.data.num_frames)
    # A key of its own and the same for every preview: only the model changes between them.
    key = jax.random.fold_in(jax.random.key(run.seed), _STREAM)

    # A list, because `show` must keep the sampler between calls.
    compiled: list[CompiledSampler] = []

    def show(percent: int, model: nnx.Module) -> None:
        if not compiled:
            compiled.append(compile_sampler(model, run, cond, num_frames)[0])
        waves = decode(compiled[0].of(model)(cond, num_frames, key), store, codec)
        note = functools.partial(ClipNote, seed=run.seed, network_calls=compiled[0].network_calls)
        write_previews(
            out, run.name, percent, waves, [note(clip.text, clip.speaker) for clip in clips], codec
        )

    return {
        max(1, round(run.steps * percent / 100)): functools.partial(show, percent)
        for percent in PERCENTS
    }


def write_previews(
    out: Path,
    name: str,
    percent: int,
    waves: Sequence[np.ndarray],
    notes: Sequence[ClipNote],
    codec: FrozenCodec,
) -> None:
    """Write audio and event file of one row at one moment; what was there of it is replaced."""
    rate = codec.wave_rate_hz
    folder = out / name / f"at{percent:03}"
    folder.mkdir(parents=True, exist_ok=True)
    with RunWriter(out / name, attempt=f"at{percent:03}") as writer:
        for number, (wave, note) in enumerate(zip(waves, notes)):
            write_flac(folder / f"prompt{number:02}.flac", to_int16(wave), sample_rate_hz=rate)
            tag = prompt_tag(_KIND, number)
            writer.audio(tag, [wave], rate, [note.markdown()], step=percent)
            writer.picture(mel_tag(tag), mel_png(wave, rate), step=percent)


def finish_previews(
    out: Path,
    clips: Sequence[TokenClip],
    ceilings: Mapping[str, Callable[[], Sequence[np.ndarray]]],
    names: Sequence[str],
    codec: FrozenCodec,
) -> None:
    """Write the ceilings and the pictures of all rows.

    Args:
        out: directory of the previews.
        clips: the clips that were previewed.
        ceilings: per row, how to make its waves, for the same clips.
        names: the arms, in order.
        codec: gives the rate of all waves.
    """
    if not clips:
        return
    notes = [ClipNote(clip.text, clip.speaker) for clip in clips]
    for name, make in ceilings.items():
        write_previews(out, name, PERCENTS[-1], make(), notes, codec)
    with RunWriter(out / "grid", attempt="grid") as writer:
        for number, clip in enumerate(clips):
            cells = {
                name: {
                    f"{percent} %": read_wave(path, **codec.audio._asdict())
                    for percent in PERCENTS
                    if (path := out / name / f"at{percent:03}" / f"prompt{number:02}.flac").exists()
                }
                for name in (*names, *ceilings)
            }
            # an arm that did not train itself has none
            cells = {name: row for name, row in cells.items() if row}
            tag = mel_tag(prompt_tag(_KIND, number))
            note = ClipNote(clip.text, clip.speaker).markdown()
            writer.picture(
                tag, grid_png(cells, codec.wave_rate_hz), step=PERCENTS[-1], description=note
            )
