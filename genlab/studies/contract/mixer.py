"""The promises of a mixer and of a feed-forward part, tried out inside a small backbone.

In: the config of one. Out: one finding per promise: no frame sees padding, batch mates or the
future, the FLOP formula is that of the program, and decoding step by step is the same as all at
once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from genlab.config import GenlabError
from genlab.nets.backbone import Backbone, BackboneConfig, backbone_flops
from genlab.nets.flops import count_flops
from genlab.nets.layer import FeedForward, Mixer
from genlab.nets.param import rules_of
from genlab.studies.contract.toys import CLOSE, NUM_EXAMPLES, NUM_FRAMES, toy_batch
from genlab.studies.contract.trial import Finding, require, require_round_trip, try_out


def check_mixer(config: Mixer) -> list[Finding]:
    """Try out a mixer's config inside a backbone."""
    backbone = BackboneConfig(width=32, layers=2, heads=4, mixer=config)
    return try_out(
        _backbone_promises(backbone)
        | {"step by step is the same as at once": lambda: _decodes(backbone)}
    )


def check_feed_forward(config: FeedForward) -> list[Finding]:
    """Try out a feed-forward part inside a backbone."""
    return try_out(_backbone_promises(BackboneConfig(width=32, layers=2, heads=4, ffn=config)))


def _backbone_promises(config: BackboneConfig) -> dict[str, Callable[[], None]]:
    # A mixer that cannot decode is tried without a future to see.
    is_causal = all(_can_decode(mixer, config) for mixer in config.period)
    ways = (False, True) if is_causal else (False,)
    return {
        "config.json gives it back": lambda: require_round_trip(config),
        "frames keep their shape": lambda: _keeps_shape(config, ways),
        "every parameter says how it is split and whether it decays": lambda: _has_rules(config),
        "batch mates and padding move nothing": lambda: _ignores_others(config, ways),
        **({"the past does not see the future": lambda: _is_causal(config)} if is_causal else {}),
        "the FLOP formula is that of the program": lambda: _counts_layers(config, ways),
    }


def _can_decode(mixer: Mixer, config: BackboneConfig) -> bool:
    try:
        jax.eval_shape(lambda: mixer.empty(config.layer_shape(is_causal=True), 1, 1))
    except GenlabError:
        return False
    return True


def _run(config: BackboneConfig, is_causal: bool, x: Array, is_valid: Array) -> np.ndarray:
    net = Backbone(config, key=jax.random.key(0), is_causal=is_causal)
    frames = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    return np.asarray(jax.jit(lambda x: net(x, positions=frames, is_valid=is_valid))(x))


def _frames() -> tuple[Array, Array]:
    tokens, _ = toy_batch(1)
    return jax.random.normal(jax.random.key(2), (NUM_EXAMPLES, NUM_FRAMES, 32)), tokens.is_valid


def _keeps_shape(config: BackboneConfig, ways: tuple[bool, ...]) -> None:
    x, is_valid = _frames()
    for is_causal in ways:
        out = _run(config, is_causal, x, is_valid)
        require(out.shape == x.shape, f"frames of shape {x.shape} become {out.shape}")
        require(np.isfinite(out).all(), "the frames that come out are not finite")


def _has_rules(config: BackboneConfig) -> None:
    rules_of(nnx.eval_shape(lambda: Backbone(config, key=jax.random.key(0))))


def _ignores_others(config: BackboneConfig, ways: tuple[bool, ...]) -> None:
    x, is_valid = _frames()
    other = jax.random.normal(jax.random.key(7), x.shape)
    for is_causal in ways:
        out = _run(config, is_causal, x, is_valid)
        mates = _run(config, is_causal, x.at[1:].set(other[1:]), is_valid)
        require(
            np.allclose(out[0], mates[0], atol=CLOSE), "another clip in the batch moves a frame"
        )
        padded = _run(config, is_causal, jnp.where(is_valid[:, :, None], x, 100 * other), is_valid)
        require(
            np.allclose(out[is_valid], padded[is_valid], atol=CLOSE),
            "what lies behind the end moves a frame",
        )


def _is_causal(config: BackboneConfig) -> None:
    x, _ = _frames()
    everywhere = jnp.ones(x.shape[:2], bool)
    before, after = (_run(config, True, x.at[:, 8:].mul(factor), everywhere) for factor in (1, -3))
    moved = np.flatnonzero(~np.isclose(before, after, atol=CLOSE).all(axis=(0, 2)))
    require(moved.size == 0 or moved[0] >= 8, f"frame {moved[:1]} moves when frame 8 changes")


def _counts_layers(config: BackboneConfig, ways: tuple[bool, ...]) -> None:
    for is_causal in ways:
        graph, state = nnx.split(
            nnx.eval_shape(
                lambda way=is_causal: Backbone(config, key=jax.random.key(0), is_causal=way)
            )
        )
        frames = jnp.arange(NUM_FRAMES)[None]

        def run(state: nnx.State, x: Array, graph: Any = graph, frames: Array = frames) -> Array:
            return nnx.merge(graph, state)(x, positions=frames, is_valid=frames >= 0)

        walked = count_flops(
            run, state, jax.ShapeDtypeStruct((1, NUM_FRAMES, config.width), jnp.float32)
        )
        stated = backbone_flops(config, NUM_FRAMES, is_causal=is_causal)
        require(
            abs(stated / walked - 1) < 0.01,
            f"flops says {stated:.4g}, the program has {walked:.4g}",
        )


def _decodes(config: BackboneConfig) -> None:
    x, _ = _frames()
    net = Backbone(config, key=jax.random.key(0), is_causal=True)
    whole = _run(config, True, x, jnp.ones(x.shape[:2], bool))

    @jax.jit
    def steps(x: Array) -> Array:
        plan, cache = net.start(NUM_EXAMPLES, NUM_FRAMES, None)
        outs = []
        for frame in range(NUM_FRAMES):
            positions = jnp.full((NUM_EXAMPLES, 1), frame)
            out, cache = net.extend(x[:, frame : frame + 1], plan, cache, positions=positions)
            outs.append(out)
        return jnp.concatenate(outs, axis=1)

    found = np.asarray(steps(x))
    wrong = np.flatnonzero(~np.isclose(whole, found, atol=1e-3).all(axis=(0, 2)))
    require(wrong.size == 0, f"frame {wrong[:1]} is another when decoded with the cache")
