"""Streaming: the same codes as one call, chunk by chunk, each frame as soon as it is known."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import BACKBONE, DEPTH, SPEC, VOCAB, randomised, toy_batch

from genlab.config import ConfigError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.depth import DepthSampler
from genlab.decoders.steps.patterns import DelayPattern, FlatPattern
from genlab.decoders.task import Task

KEY = jax.random.key(0)
FRAMES = 10
CASES = {
    "delay": (ARConfig(), ARSampler(temperature=0.9, guidance=1.5)),
    "parallel": (ARConfig(pattern=DelayPattern(delay_frames=0)), ARSampler()),
    "flat": (ARConfig(pattern=FlatPattern()), ARSampler()),
    "depth": (DEPTH, DepthSampler(guidance=1.5)),
}


@pytest.fixture(scope="module")
def decoders():
    """Decoders whose heads say something."""
    made = {}
    for name, (config, _) in CASES.items():
        text = ConditionConfig(content="text", route="prefix" if name == "delay" else "cross")
        condition = text if name in ("delay", "depth") else ConditionConfig()
        made[name] = randomised(config.build(Task(SPEC, VOCAB, BACKBONE, condition), key=KEY))
    return made


@pytest.mark.parametrize("chunk_frames", [1, 4])
@pytest.mark.parametrize("name", CASES)
def test_streaming_draws_what_sampling_draws(decoders, name, chunk_frames):
    tokens, cond = toy_batch(num_frames=FRAMES)
    arguments = {
        "num_frames": tokens.num_frames,
        "key": jax.random.key(4),
        "sampler": CASES[name][1],
    }
    whole = decoders[name].sample(cond, **arguments).tokens.codes
    chunks = list(decoders[name].stream(cond, chunk_frames=chunk_frames, **arguments))
    np.testing.assert_array_equal(jnp.concatenate(chunks, axis=1), whole)
    # After n chunks the loop has run n * chunk_frames frames of steps: all frames come that are
    # complete by then.
    lag = {"delay": 3, "parallel": 0, "flat": 0, "depth": 1}[name]
    ready = [
        max(0, min(n * chunk_frames - lag, FRAMES))
        for n in range(1, -(-(FRAMES + lag) // chunk_frames) + 1)
    ]
    assert [chunk.shape[1] for chunk in chunks] == [
        int(count) for count in np.diff([0, *ready]) if count
    ]


def test_one_program_serves_all_chunks(decoders, caplog):
    tokens, cond = toy_batch(num_frames=FRAMES)
    arguments = {"num_frames": tokens.num_frames, "sampler": CASES["flat"][1], "chunk_frames": 4}
    list(decoders["flat"].stream(cond, key=KEY, **arguments))
    stream = decoders["flat"].stream(cond, key=jax.random.key(9), **arguments)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for _ in stream:
            pass
    assert [
        record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()
    ] == []


def test_a_chunk_needs_a_frame(decoders):
    tokens, cond = toy_batch(num_frames=FRAMES)
    with pytest.raises(ConfigError, match="chunk_frames=0: expected at least 1"):
        next(
            decoders["flat"].stream(
                cond, num_frames=tokens.num_frames, key=KEY, sampler=ARSampler(), chunk_frames=0
            )
        )
