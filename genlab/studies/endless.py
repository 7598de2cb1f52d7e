"""One clip without an end, played from a trained arm for as long as one wants.

In: the run directory of an arm that is told nothing of single frames, and what is set by hand, for
example a mixture of styles. Out: endless.flac, written chunk by chunk, so that memory does not grow
with its seconds, and how its seams rank among the jumps around them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import soundfile
from jaxtyping import Float, Shaped

from genlab.codecs.endless import decode_endless
from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError
from genlab.data.audio import to_int16
from genlab.data.store import TokenStore
from genlab.decoders.endless import stream_forever
from genlab.decoders.prompt_rule import describe_prompt_rule
from genlab.decoders.told.by_hand import ByHand
from genlab.evaluate.seams import rank_seams
from genlab.experiment import DecoderRun
from genlab.inputs import open_store
from genlab.packages.package import load_decoder
from genlab.prompts import choose_prompts
from genlab.sample import claim_samples, conditions

NAME = "endless.flac"
CONTEXT = 2 / 3  # of a training example; the rest is a chunk
MARGIN_S = 0.5  # that the codec hears around a chunk


def play_endless(
    run: DecoderRun, run_dir: Path, out: Path, seconds: float, seed: int, by_hand: ByHand
) -> list[str]:
    """Write one clip of `seconds` to `out`, with the conditions of the first test clip and what is
    set by hand, and return a line about it.

    Raises:
        GenlabError: if the arm is told something of every frame or a text, which ends.
    """
    _check_told(run, seconds)
    codec = run.data.load_codec()
    store = open_store(run.data, run_dir, parts=run.condition.parts)
    clips = choose_prompts(store, run.data, "test", 1)[:1]
    length = run.data.num_frames
    context = max(1, round(CONTEXT * length))
    hz, rate_hz = codec.spec.frame_hz, codec.wave_rate_hz
    claim_samples(out, [NAME], run)
    cond, num_frames = conditions(store, clips, length)
    cond, _ = by_hand.tell(run.condition, store.info.speakers, hz, cond, num_frames)
    chunks = stream_forever(
        load_decoder(run, store, run_dir),
        lambda number: cond,
        sampler=run.arm.sampler,
        context_frames=context,
        chunk_frames=length - context,
        key=jax.random.key(seed),
    )
    path, ranks = out / NAME, []
    unfinished = path.with_suffix(".part.flac")
    left, last = round(seconds * rate_hz), None
    # Under another name until it is whole, as everything that is written here.
    with soundfile.SoundFile(unfinished, "w", rate_hz, codec.channels) as file:
        for wave in _waves(chunks, store, codec, min(round(MARGIN_S * hz), length // 3)):
            if last is not None:
                both = np.concatenate([last, wave]).reshape(len(last) + len(wave), -1)
                ranks += rank_seams(both.mean(axis=1), rate_hz, [len(last)]).tolist()
            file.write(to_int16(wave[:left]))
            left, last = left - len(wave), wave
            if left <= 0:
                break
    os.replace(unfinished, path)
    heard = np.array(ranks)[np.isfinite(ranks)] if ranks else np.zeros(0)
    told = f"rank of the seams {heard.mean():.2f}, 0.50 is no seam" if heard.size else "no seam"
    return [
        f"{path}  {seconds:g} s, {(length - context) / hz:g} s at a time after {context / hz:g} s; "
        f"{told}; how it knows what it continues: {describe_prompt_rule(run.arm.decoder)}",
        *(f"{words}: set throughout" for words in by_hand.words),
    ]


def _check_told(run: DecoderRun, seconds: float) -> None:
    option = f"--endless {seconds:g}"
    if not 0 < seconds < float("inf"):
        raise GenlabError(f"{option}: expected seconds above 0")
    # Before anything is loaded: what has an end, or a value per frame, cannot go on for ever.
    if run.condition.content != "none":
        raise GenlabError(
            f"{option}: condition.content={run.condition.content!r}: what is said has an end; use "
            "an arm that was trained with condition.content=none"
        )
    if framed := [part.name for part in run.condition.parts if part.is_per_frame]:
        raise GenlabError(
            f"{option}: the condition {framed[0]!r} says something of every frame; use an arm that "
            "was trained without it"
        )
    if run.data.num_frames < 2:
        raise GenlabError(f"{option}: data.num_frames={run.data.num_frames}, expected 2 or more")


def _waves(
    chunks: Iterator[Shaped[jax.Array, "1 c _"]], store: TokenStore, codec: FrozenCodec, margin: int
) -> Iterator[Float[np.ndarray, "s *c"]]:
    """Yield the audio of chunks of codes, or of normalised latents."""
    samples = codec.wave_rate_hz / codec.spec.frame_hz
    if samples != round(samples):
        raise GenlabError(
            f"--endless: {codec.wave_rate_hz} Hz and {codec.spec.frame_hz:g} frames/s: a frame is "
            "no whole number of samples; use a codec at the rate of the corpus"
        )
    # The first chunk says which view of the tokens the decoder draws.
    first = next(chunks)
    is_codes = np.issubdtype(first.dtype, np.integer)

    def views() -> Iterator[np.ndarray]:
        yield _view(first)
        for chunk in chunks:
            yield _view(chunk)

    def _view(chunk: jax.Array) -> np.ndarray:
        return np.asarray(chunk[0]) if is_codes else store.denormalise(np.asarray(chunk[0]))

    decode = codec.decode_codes if is_codes else codec.decode_latents
    yield from decode_endless(
        decode, views(), margin_frames=margin, samples_per_frame=round(samples)
    )
