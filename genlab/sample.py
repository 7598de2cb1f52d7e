"""From a trained decoder to audio: conditions in, tokens and waves out, with what it cost.

Every family is sampled by one compiled program, a block of prompts at a time over all chips; the
same frozen codec then decodes its codes or latents, so only the decoder differs between arms.
Compilation is timed separately.
`latency_s` is one prompt alone, from conditions to audio. `first_audio_s` is the wait before sound
can start: a decoder with `stream` plays its first frames while it generates the rest; the others
have nothing to play before their last network call.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, cast

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Float
from typing_extensions import TypedDict

from genlab.codecs.frozen import FrozenCodec, bucket_frames
from genlab.codecs.loops import decode_loops
from genlab.config import GenlabError
from genlab.data.audio import to_int16, write_flac
from genlab.data.drawn import BLOCK_PROMPTS, DrawnWaves
from genlab.data.listing import SAMPLED_NAME
from genlab.data.store import TokenClip, TokenStore
from genlab.decoders.cost import sample_cost
from genlab.decoders.loop import is_loop
from genlab.decoders.task import guidance_of
from genlab.decoders.told.by_hand import AS_PROMPTED, ByHand
from genlab.experiment import DecoderRun
from genlab.fairness.reach import Reach, measure_reach
from genlab.inputs import open_store
from genlab.machine.rows import ALONE, RowSplit, all_chips, fill_rows
from genlab.packages.package import load_decoder
from genlab.prompts import check_span, choose_prompts, keep_frames
from genlab.run.bounds import CODES_FLOOR
from genlab.run.files import write_json
from genlab.run.names import file_stem
from genlab.run.ownership import refuse_to_replace
from genlab.run.stored import Count, Number, read_again, read_stored, remove_leftovers_of
from genlab.tokens import Cond, Prompt, SampleOut, Tokens, make_tokens
from genlab.watch.tensorboard import ClipNote, RunWriter, prompt_tag

FIRST_AUDIO_FRAMES = 25  # half a second at 50 Hz: what a player buffers before it starts


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Waves of one arm and one seed, and their cost. Times exclude compilation; `compile_s` is
    that. `reach` is empty where it was not measured.
    """

    waves: Sequence[Float[np.ndarray, "s *c"]]
    network_calls: int
    wall_s: float
    audio_s: float
    latency_s: float
    latency_audio_s: float
    first_audio_s: float
    compile_s: float
    by_length: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reach: Mapping[str, Reach] = dataclasses.field(default_factory=dict)


@pydantic.with_config(pydantic.ConfigDict(strict=True, extra="forbid"))
class SampleFacts(TypedDict):
    """samples.json: `Sampled` without its waves."""

    network_calls: Count
    wall_s: Number
    audio_s: Number
    latency_s: Number
    latency_audio_s: Annotated[Number, pydantic.Field(gt=0)]
    first_audio_s: Number
    compile_s: Number
    by_length: NotRequired[dict[str, dict[Literal["latency_s", "network_calls", "flops"], Number]]]
    reach: NotRequired[dict[str, Reach]]


def read_facts(run_dir: Path) -> SampleFacts | None:
    """Return samples.json of an arm's run directory, None if there is none.

    Raises:
        DamagedError: if it is damaged.
    """
    fix = "delete it, and the same `genlab compare` samples again"
    return read_stored(run_dir / "samples.json", SampleFacts, fix=fix)


def has_samples(run_dir: Path) -> bool:
    """Return whether the arm was sampled; damaged facts are said and count as none, so that it is
    sampled again.
    """
    return read_again(run_dir / "samples.json", SampleFacts, doing="sampling again") is not None


def sample_clips(
    model: nnx.Module,
    run: DecoderRun,
    store: TokenStore,
    codec: FrozenCodec,
    waves: DrawnWaves,
    lengths_s: Sequence[float] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SampleFacts:
    """Sample every prompt's condition (speaker, content, number of frames), write the waves, and
    return what it takes.

    Prompts are drawn in blocks over all chips (`DrawnWaves`), of which a call that was killed
    leaves the whole ones. `lengths_s`: seconds of longer clips whose cost is measured too
    (`measure_length`). `progress` counts steps: compiled, each block drawn and decoded, timed
    alone, and each length.
    """

    def tell(block: Sequence[TokenClip]) -> tuple[Cond, np.ndarray]:
        # The frames of a training example: prompts are no longer, and the budget counted calls and
        # FLOPs for these.
        return conditions(store, block, run.data.num_frames)

    progress(0, steps := 2 + 2 * len(waves.blocks) + len(lengths_s))
    compiled, compile_s = compile_sampler(
        model, run, *tell(waves.clips[:BLOCK_PROMPTS]), spread=all_chips(run.settings.sharding)
    )
    progress(1, steps)

    def reach(cond: Cond, num_frames: np.ndarray, drawn: SampleOut) -> Mapping[str, Reach]:
        def draw(other: Cond) -> Tokens:
            return compiled(other, num_frames, waves.key).tokens

        return measure_reach(run.task(store), draw, drawn.tokens, cond)

    drawn = waves.draw(
        compiled,
        tell,
        functools.partial(decode, store=store, codec=codec),
        codec.wave_rate_hz,
        warm=_warm_codec(model, codec),
        measure=reach,
        progress=lambda done: progress(1 + done, steps),
    )
    frames = np.array([len(clip.units) for clip in waves.clips])
    middle = waves.clips[int(np.argsort(frames, kind="stable")[len(frames) // 2])]
    latency_s, first_audio_s, more_compile_s = measure_latency(
        model, run, store, codec, middle, waves.key
    )
    progress(done := steps - len(lengths_s), steps)
    by_length = {}
    for number, length_s in enumerate(lengths_s, start=done + 1):
        by_length[f"{length_s:g}"] = measure_length(
            model, run, store, codec, middle, length_s, waves.key
        )
        progress(number, steps)
    return SampleFacts(
        network_calls=compiled.network_calls,
        wall_s=drawn["wall_s"],
        audio_s=float(frames.sum()) / codec.spec.frame_hz,
        latency_s=latency_s,
        latency_audio_s=len(middle.units) / codec.spec.frame_hz,
        first_audio_s=first_audio_s,
        compile_s=compile_s + more_compile_s,
        by_length=by_length,
        reach=cast("dict[str, Reach]", drawn.get("measured", {})),
    )


def note_fewer(clips: Sequence[TokenClip], wanted: int, split: str, num_frames: int) -> list[str]:
    """Return a line if there are fewer prompts than were wanted, else none."""
    if len(clips) >= wanted:
        return []
    return [
        (
            f"{len(clips)} prompts instead of {wanted}: split {split!r} has no more that fit "
            f"data.num_frames={num_frames}"
        )
    ]


def sample_run(
    run: DecoderRun,
    run_dir: Path,
    out: Path,
    num_prompts: int,
    seed: int,
    keep_s: tuple[float, float] | None,
    by_hand: ByHand = AS_PROMPTED,
) -> list[str]:
    """Sample held-out conditions with the decoder in `run_dir` and write FLAC files and TensorBoard
    pages to `out`.

    Args:
        run: the config found in `run_dir`.
        run_dir: where it was trained, or a package of it.
        out: directory for `NAME.flac` and `NAME.codec.flac`, where NAME is the clip's id.
        num_prompts: how many clips.
        seed: of the draws.
        keep_s: seconds of each real clip that the decoder must keep and continue or fill around;
            None: nothing.
        by_hand: conditions and a length that are set to something else than those of the clips.

    Returns:
        One line per clip, after what else there is to say.
    """
    codec = run.data.load_codec()
    store = open_store(run.data, run_dir, parts=run.condition.parts)
    clips = choose_prompts(store, run.data, "test", num_prompts)
    notes = [] if keep_s is None else check_span(store, clips, keep_s)
    notes += note_fewer(clips, num_prompts, "test", run.data.num_frames)
    names = [f"{file_stem(clip.id)}{kind}.flac" for clip in clips for kind in ("", ".codec")]
    # Claimed before any work: files of another run must not be overwritten, and a refusal should
    # cost nothing.
    claim_samples(out, names, run)
    model = load_decoder(run, store, run_dir)
    frames = run.data.num_frames
    cond, num_frames = conditions(store, clips, frames)
    cond, num_frames = by_hand.tell(
        run.condition, store.info.speakers, codec.spec.frame_hz, cond, num_frames
    )
    length = cond.content.shape[1]
    prompt = None if keep_s is None else keep_frames(store, clips, length, keep_s)
    compiled, _ = compile_sampler(model, run, cond, num_frames, prompt)
    waves = decode(compiled(cond, num_frames, jax.random.key(seed), prompt), store, codec)
    waves = by_hand.cut(waves, codec.wave_rate_hz)
    # The real clip through the codec: what the codec alone costs.
    real = codec.decode_codes([clip.codes for clip in clips])
    with RunWriter(out) as writer:
        for number, (clip, wave, floor) in enumerate(zip(clips, waves, real)):
            for name, heard in zip(names[2 * number :], (wave, floor)):
                write_flac(out / name, to_int16(heard), sample_rate_hz=codec.wave_rate_hz)
            note = ClipNote(
                clip.text, clip.speaker, seed, compiled.network_calls, guidance_of(run.arm.sampler)
            )
            told = [note.markdown()]
            writer.audio(prompt_tag("samples", number), [wave], codec.wave_rate_hz, told, run.steps)
            floor_tag = prompt_tag(CODES_FLOOR, number)
            writer.audio(floor_tag, [floor], codec.wave_rate_hz, told, run.steps)
    notes += [f"{words}: set for every prompt" for words in by_hand.words]
    return notes + [
        f"{out / name}  {clip.speaker}  {clip.text}" for name, clip in zip(names[::2], clips)
    ]


def claim_samples(out: Path, names: Sequence[str], run: DecoderRun) -> None:
    """Note in `out` which files are about to be written there; a file of anybody else is not
    replaced.

    Raises:
        GenlabError: if one is there that no earlier call noted, or `out` is in the corpus, whose
            next import would take samples for recordings.
    """
    source: Any = run.data.corpus
    source = getattr(source, "corpus", source)  # dialogues are made of another
    corpus = getattr(source, "path", getattr(source, "directory", None))
    if corpus is not None and out.resolve().is_relative_to(Path(corpus).expanduser().resolve()):
        raise GenlabError(
            f"--out {out}: lies in the corpus {corpus}, which would import the samples; use another"
        )
    refuse_to_replace(out / SAMPLED_NAME, is_ours=True)  # a link is nobody's list
    ours = set(read_stored(out / SAMPLED_NAME, list[str], fix="use another --out") or ())
    if taken := [name for name in names if name not in ours and os.path.lexists(out / name)]:
        raise GenlabError(
            f"{out / taken[0]}: already exists, and `genlab sample` did not write it; use another "
            "--out"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in ours:  # of calls that were killed
        remove_leftovers_of(out / name)
    write_json(out / SAMPLED_NAME, sorted({*ours, *names}))


def conditions(
    store: TokenStore, clips: Sequence[TokenClip], num_frames: int
) -> tuple[Cond, np.ndarray]:
    """Return the conditions of `clips` padded to `num_frames`, and the frames each clip has."""
    examples = [store.example(clip, num_frames) for clip in clips]
    cond = jax.tree.map(lambda *leaves: np.stack(leaves), *[cond for _, cond in examples])
    return cond, np.array([len(clip.units) for clip in clips], np.int32)


@dataclasses.dataclass(frozen=True)
class CompiledSampler:
    """`sample` of one model for one shape, as one call on the devices of `spread`.

    With `rows`, fewer prompts than it was compiled for are filled up, and cut off again.
    """

    call: Callable[..., Tokens]
    network_calls: int
    spread: RowSplit = ALONE
    rows: int | None = None
    is_loop: bool = False

    def of(self, model: nnx.Module) -> "CompiledSampler":
        """Return the same program for other parameters."""
        program: Any = self.call  # a partial over the state of the model that it was compiled for
        state = self.spread.whole(nnx.split(model)[1])
        return dataclasses.replace(self, call=functools.partial(program.func, state))

    def __call__(
        self, cond: Cond, num_frames: np.ndarray, key: jax.Array, prompt: Prompt | None = None
    ) -> SampleOut:
        """Return the sampled tokens once the device is done."""
        count, rows = len(num_frames), self.rows or len(num_frames)
        arguments = _arguments(cond, num_frames, key, prompt, self.spread, rows)
        tokens = jax.block_until_ready(self.call(*arguments))
        if rows != count:
            tokens = jax.tree.map(lambda leaf: leaf[:count], tokens)
        return SampleOut(tokens, self.network_calls, self.is_loop)


def _arguments(
    cond: Cond,
    num_frames: np.ndarray,
    key: jax.Array,
    prompt: Prompt | None,
    spread: RowSplit,
    rows: int,
) -> tuple[object, ...]:
    """Return what a compiled sampler is called with, on its devices."""
    told = (cond, num_frames) if prompt is None else (cond, num_frames, prompt)
    cond, num_frames, *more = spread.split(fill_rows(told, rows))
    return (cond, num_frames, spread.whole(key), *more)


def compile_sampler(
    model: nnx.Module,
    run: DecoderRun,
    cond: Cond,
    num_frames: np.ndarray,
    prompt: Prompt | None = None,
    spread: RowSplit = ALONE,
) -> tuple[CompiledSampler, float]:
    """Compile sampling for the shapes of `cond`, its prompts split over the devices of `spread`;
    return it and the seconds that took.
    """
    graph, state = nnx.split(model)
    calls = []

    def draw(
        state: nnx.State, cond: Cond, num_frames: Array, key: Array, *prompt: Prompt
    ) -> Tokens:
        decoder: Any = nnx.merge(graph, state)
        out = decoder.sample(
            cond,
            num_frames=num_frames,
            key=key,
            sampler=run.arm.sampler,
            prompt=prompt[0] if prompt else None,
        )
        # Runs while the program is traced: the number of calls follows from shapes, not from
        # values.
        calls.append(out.num_network_calls)
        return out.tokens

    began = time.perf_counter()
    rows = spread.fit(len(num_frames))
    arguments = _arguments(cond, num_frames, jax.random.key(0), prompt, spread, rows)
    # The model's state is an argument, not a constant: one program serves all training seeds.
    state = spread.whole(state)
    compiled = jax.jit(draw).lower(state, *arguments).compile()
    program = functools.partial(compiled, state)
    sampler = CompiledSampler(program, calls[-1], spread, rows, is_loop(run.arm.sampler))
    return sampler, time.perf_counter() - began


def decode(out: SampleOut, store: TokenStore, codec: FrozenCodec) -> list[np.ndarray]:
    """Return the wave of each sample: the one place where a decoder's tokens become audio."""
    tokens = out.tokens
    num_frames = np.asarray(tokens.num_frames)
    if tokens.codes is not None:
        frames, play = np.asarray(tokens.codes), codec.decode_codes
    else:
        frames = store.denormalise(np.asarray(tokens.latents, np.float32))
        play = codec.decode_latents
    views = [row[:n] for row, n in zip(frames, num_frames)]
    return decode_loops(play, views, codec) if out.is_loop else play(views)


def measure_latency(
    model: nnx.Module,
    run: DecoderRun,
    store: TokenStore,
    codec: FrozenCodec,
    clip: TokenClip,
    key: jax.Array,
) -> tuple[float, float, float]:
    """Return seconds for one clip alone, until sound can start, and of compilation."""
    decoder: Any = model
    cond, num_frames = conditions(store, [clip], len(clip.units))
    compiled, compile_s = compile_sampler(model, run, cond, num_frames)
    whole_s, _ = _time_calls(lambda: decode(compiled(cond, num_frames, key), store, codec))
    # Without streaming no sound can start before the clip is whole.
    if not hasattr(decoder, "stream"):
        return whole_s, whole_s, compile_s

    lengths = jnp.asarray(num_frames)

    def play_first() -> None:
        chunks = decoder.stream(
            cond,
            num_frames=lengths,
            key=key,
            sampler=run.arm.sampler,
            chunk_frames=FIRST_AUDIO_FRAMES,
        )
        # The rest of the stream is no part of the wait, so only the first chunk is drawn.
        frames = next(chunks)
        played = np.minimum(num_frames, frames.shape[1])
        tokens = make_tokens(**{decoder.reads: frames}, num_frames=jnp.asarray(played))
        decode(SampleOut(tokens, 0), store, codec)

    first_s, more_s = _time_calls(play_first)
    return whole_s, first_s, compile_s + more_s


def measure_length(
    model: nnx.Module,
    run: DecoderRun,
    store: TokenStore,
    codec: FrozenCodec,
    clip: TokenClip,
    length_s: float,
    key: jax.Array,
) -> dict[str, float]:
    """Return what one clip of `length_s` seconds costs: seconds from conditions to audio, network
    calls, FLOPs.

    The content of `clip` is repeated until it is that long: what is said does not matter for what
    it costs. It is timed once, after the codec has compiled this length; training seeds are the
    repetitions.
    """
    num_frames = round(length_s * codec.spec.frame_hz)

    def repeat(values: np.ndarray) -> np.ndarray:
        return np.resize(values, (num_frames, *values.shape[1:]))

    arrays = {name: repeat(getattr(clip, name)) for name in ("codes", "latents", "units")}
    other = None if clip.other is None else repeat(clip.other)
    # Everything of a frame grows with the clip; what holds for the whole clip stays as it is.
    long = clip._replace(
        **arrays, other=other, parts=tuple(part.repeat(num_frames) for part in clip.parts)
    )
    _compile_codec(model, codec, [long])
    cond, frames = conditions(store, [long], num_frames)
    compiled, _ = compile_sampler(model, run, cond, frames)
    began = time.perf_counter()
    decode(compiled(cond, frames, key), store, codec)
    latency_s = time.perf_counter() - began
    cost = sample_cost(
        run.arm.decoder, run.arm.sampler, run.task(store)._replace(num_frames=num_frames)
    )
    return {"latency_s": latency_s, "network_calls": cost.network_calls, "flops": cost.flops}


def _compile_codec(model: nnx.Module, codec: FrozenCodec, clips: Sequence[TokenClip]) -> None:
    """Decode the clips' own tokens: the codec compiles their shape here, outside the timing."""
    decoder: Any = model
    if decoder.reads == "codes":
        codec.decode_codes([clip.codes for clip in clips])
    else:
        codec.decode_latents([clip.latents for clip in clips])


def _warm_codec(model: nnx.Module, codec: FrozenCodec) -> Callable[[Sequence[TokenClip]], None]:
    """Return a function that lets the codec compile the shapes of a block it has not seen yet."""
    seen: set[tuple[int, int]] = set()

    def warm(clips: Sequence[TokenClip]) -> None:
        shape = len(clips), bucket_frames(max(len(clip.units) for clip in clips) + 1)
        if shape not in seen:
            seen.add(shape)
            _compile_codec(model, codec, clips)

    return warm


def _time_calls(call: Callable[[], object]) -> tuple[float, float]:
    """Return the median of three calls, and what a call before them, which compiles, took longer,
    in seconds.
    """
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    median = float(np.median(seconds[1:]))
    return median, max(seconds[0] - median, 0.0)
