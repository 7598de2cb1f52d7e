"""What a mode needs to know of this machine and this codec before anything trains.

In: a comparison, its token store and, where it runs, its directory. Out: `Measured`: the time of a
compiled update of every arm (iso_time), the steps with which each draws a clip in the same time
(iso_latency), the levels of codes that each draws and how far the codec's two floors lie from the
audio (iso_bitrate). It is measured once and kept in `measured.json`: a comparison that is resumed,
on whatever machine, does what it was planned to do.
"""

import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NotRequired

import jax
import numpy as np
import pydantic
from typing_extensions import TypedDict

from genlab.config import GenlabError
from genlab.data.held_out import larger_share
from genlab.data.store import TokenStore
from genlab.decoders.cost import abstract_decoder, drawn_tokens
from genlab.evaluate.reconstruction import mel_distances_db
from genlab.experiment import Comparison, DecoderRun
from genlab.fairness.latency import steps_of
from genlab.fairness.timing import time_arm
from genlab.machine import hosts
from genlab.machine.sharding import abstract_batch, put_batch, put_everywhere, use_mesh
from genlab.run.files import write_json
from genlab.run.stored import OPEN, Count, Number, read_stored
from genlab.training.looks import SPLIT
from genlab.training.step import compile_update, create_state

MEASURED = "measured.json"
WARM, TIMED = 3, 9  # updates before those that are timed, and these; of them the median
NUM_CLIPS = 32  # of validation, for the floors
FIX = "delete it to measure again, which may change how long each arm trains"


@pydantic.with_config(OPEN)
class SampledTime(TypedDict):
    """Steps of an arm's sampler, None if it has none to choose, and seconds of a clip alone."""

    steps: Count | None
    seconds: Number


@pydantic.with_config(OPEN)
class Measured(TypedDict):
    """The contents of `measured.json`: seconds of one update per arm; how each draws a clip; levels
    of codes per arm that reads them; mel distances of the floors in dB, by what arms read.
    """

    device: str
    step_s: NotRequired[dict[str, Number]]
    sampling: NotRequired[dict[str, SampledTime]]
    levels: NotRequired[dict[str, Count]]
    floor_db: NotRequired[dict[str, Number]]


def read_or_measure(config: Comparison, store: TokenStore, out: Path) -> Measured:
    """Return what the mode of the comparison in `out` needs, measured there before or measured now.

    Raises:
        GenlabError: if the file is damaged or of other arms, or as `measure`.
    """
    path = out / MEASURED
    found = read_stored(path, Measured, fix=FIX)
    if found is None:
        found = measure(config, store)
        if len(found) > 1 and hosts.is_leader():
            write_json(path, found)
    for by_arm in (found.get("step_s"), found.get("sampling")):
        if by_arm is not None and set(by_arm) != set(config.arms):
            raise GenlabError(
                f"{path}: measured {', '.join(by_arm)}, this config has "
                f"{', '.join(config.arms)}; {FIX}"
            )
    return found


def measure(config: Comparison, store: TokenStore) -> Measured:
    """Return what the mode of a comparison needs; most modes need nothing.

    Raises:
        GenlabError: if several processes would measure, or the codec has no audio to be heard by.
    """
    device = jax.devices()[0]
    found = Measured(device=f"{jax.device_count()} x {device.device_kind}")
    budget = config.budget
    runs = {name: config.run(name, config.seeds[0], steps=1) for name in config.arms}
    if budget.mode == "iso_time":
        _refuse_several("budget.mode='iso_time': the time of an update")
        found["step_s"] = {name: step_seconds(run, store) for name, run in runs.items()}
    if budget.sampling is not None and budget.sampling.seconds is not None:
        _refuse_several("budget.sampling.seconds: the time of a clip")
        timed = {name: time_arm(run, store, budget.sampling) for name, run in runs.items()}
        found["sampling"] = {
            name: {"steps": steps_of(one.sampler), "seconds": one.seconds}
            for name, one in timed.items()
        }
    if budget.mode == "iso_bitrate":
        found["levels"] = drawn_levels(runs, store)
        levels = set(found["levels"].values())
        # Several are refused where budgets are solved (budget.py), by the arms' names.
        found["floor_db"] = floor_distances(config, store, max(levels, default=None))
    return found


def _refuse_several(what: str) -> None:
    if hosts.is_one_of_several():
        raise GenlabError(f"{what} is measured on one machine, and there are several; use iso_flop")


def drawn_levels(runs: Mapping[str, DecoderRun], store: TokenStore) -> dict[str, int]:
    """Return how many levels of codes every arm draws that reads codes, by the shape of its own
    clips.
    """
    levels = {}
    for name, run in runs.items():
        arm, task = run.arm, run.task(store)
        drawn = drawn_tokens(arm.decoder, arm.sampler, task)
        if abstract_decoder(arm.decoder, task).reads == "codes" and drawn.codes is not None:
            levels[name] = drawn.codes.shape[-1]
    return levels


def step_seconds(run: DecoderRun, store: TokenStore) -> float:
    """Return the median time of one compiled update of an untrained arm, data apart."""
    source = run.source_of(store)
    batches = [source.batch_at(step).args for step in range(WARM + TIMED)]
    create = jax.jit(partial(create_state, lambda key: run.build_for(store, key), run.optim, 1))
    seconds = []
    with use_mesh(run.settings.sharding):
        init_key, step_key = put_everywhere(tuple(jax.random.split(jax.random.key(run.seed))))
        graphdef, state = create(init_key)
        update = compile_update(graphdef, run.optim, 1, state, abstract_batch(batches[0]), step_key)
        for args in batches:
            put = jax.block_until_ready(put_batch(args))
            began = time.perf_counter()
            state, metrics = update(state, put, step_key)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM:])


def floor_distances(
    config: Comparison, store: TokenStore, levels: int | None = None
) -> dict[str, float]:
    """Return the mean mel distance in dB of validation clips from their resynthesis, by what it is
    made from: the first `levels` levels of codes, or latents.

    Raises:
        GenlabError: if the tokens never were audio, or there is no validation clip.
    """
    codec, manifest = config.data.load_codec(), config.data.build_audio()
    numbers = store.numbers(SPLIT) if SPLIT in store.info.splits else []
    clips = [store.clip(number) for number in numbers[:NUM_CLIPS]]
    if not clips:
        larger = larger_share(config.data.corpus, SPLIT)
        drawn = larger and f"{larger} if its splits are drawn, or "
        raise GenlabError(
            "budget.mode='iso_bitrate': the corpus has no clip of validation to hear the codec by; "
            f"hold out more: {drawn}rows of split {SPLIT!r} in the table of the corpus"
        )
    sources = manifest.find(clip.id for clip in clips)
    waves = [manifest.audio(sources[clip.id]) / np.float32(32768) for clip in clips]
    # Encoded here: a store that is only planned has no tokens yet.
    encoded = codec.encode(waves)
    heard = {
        "codes": codec.decode_codes([codec.keep_levels(codes, levels) for codes, _ in encoded]),
        "latents": codec.decode_latents([latents for _, latents in encoded]),
    }
    return {
        name: float(np.nanmean(mel_distances_db(waves, decoded))) for name, decoded in heard.items()
    }
