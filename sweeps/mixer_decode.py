"""Measure what a decoded frame costs after 5, 15, 30 and 60 s, with every mixer.

    python sweeps/mixer_decode.py            # prints a table in Markdown
    python sweeps/mixer_decode.py 10 s4d     # ten rounds, one mixer

Question   Is a frame of a state space or of a window as cheap after a minute as at the beginning?
Fixed      One clip, four layers of 256 channels, four heads, float32, caches for the whole clip; a
           measurement is 100 frames in one compiled loop. Lengths take turns, so a drift of the
           machine moves all of them. Weights are random and no code is drawn: head and sampling
           cost the same with every mixer.
Varied     The mixer, and the seconds that the cache is for.
Predicted  Flat for window, s4d and mamba2: the 95 % interval of the slope holds 0. Rising for
           attention, gqa and mla.

Result     Not run yet on a quiet machine.

The slope is fitted to the times of a round, with an interval over rounds.
"""

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from genlab.nets.backbone import Backbone, BackboneConfig, Cache
from genlab.nets.mixers.attention import Attention
from genlab.nets.mixers.dilated import Dilated
from genlab.nets.mixers.grouped import GroupedAttention
from genlab.nets.mixers.latent import LatentAttention
from genlab.nets.mixers.mamba2 import Mamba2
from genlab.nets.mixers.s4d import S4D
from genlab.nets.mixers.window import Window
from genlab.speed.turns import take_turns

WIDTH, LAYERS, HEADS, FRAME_HZ = 256, 4, 4, 50
LENGTHS_S = (5, 15, 30, 60)
TIMED_FRAMES = 100
MIXERS = {
    mixer.kind: mixer
    for mixer in (
        Attention(),
        GroupedAttention(),
        LatentAttention(),
        Window(),
        S4D(),
        Mamba2(),
        Dilated(),
    )
}


def main(rounds: int, names: tuple[str, ...]) -> None:
    """Print the table, row by row."""
    lengths = " | ".join(f"ms at {length} s" for length in LENGTHS_S)
    print(f"| mixer | {lengths} | us per minute [95 %] |\n|{' --- |' * (len(LENGTHS_S) + 2)}")
    for name in names or MIXERS:
        sides = {f"{length}": decode(name, length * FRAME_HZ) for length in LENGTHS_S}
        times = np.array(list(take_turns(name, sides, rounds).values())) / TIMED_FRAMES
        cells = " | ".join(f"{1e3 * median:.3f}" for median in np.median(times, axis=1))
        print(f"| {name} | {cells} | {describe_slope(times)} |", flush=True)


def describe_slope(times: np.ndarray) -> str:
    """Return the slope of seconds per frame over the length of the clip, in microseconds per
    minute, with an interval over rounds.
    """
    minutes = np.array(LENGTHS_S) / 60
    slopes = 1e6 * np.polyfit(minutes, times, 1)[0]
    half = 1.96 * slopes.std(ddof=1) / np.sqrt(len(slopes))
    return f"{slopes.mean():.0f} [{slopes.mean() - half:.0f}, {slopes.mean() + half:.0f}]"


def decode(name: str, num_frames: int) -> Callable[[], object]:
    """Return a function that decodes the last frames of a clip of that length."""
    config = BackboneConfig(width=WIDTH, layers=LAYERS, heads=HEADS, mixer=MIXERS[name])
    backbone = Backbone(config, key=jax.random.key(0), is_causal=True)
    graph, state = nnx.split(backbone)
    first = num_frames - TIMED_FRAMES

    @jax.jit
    def run(state: nnx.State, frame: jax.Array) -> jax.Array:
        net = nnx.merge(graph, state)
        plan, cache = net.start(1, num_frames, None)

        def step(carry: tuple[jax.Array, Cache], _: None) -> tuple[tuple[jax.Array, Cache], None]:
            frame, cache = carry
            places = jnp.broadcast_to(cache.position, (1, 1))
            return net.extend(frame, plan, cache, positions=places), None

        start = cache._replace(position=jnp.asarray(first, jnp.int32))
        return jax.lax.scan(step, (frame, start), length=TIMED_FRAMES)[0][0]

    frame = jnp.ones((1, 1, WIDTH))
    return lambda: run(state, frame).block_until_ready()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, tuple(sys.argv[2:]))
