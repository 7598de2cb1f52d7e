"""Every mixer against what it must be equal to: itself step by step, plain attention, its formulas.

The promises that all mixers share (padding, batch mates, causality, FLOPs, decoding) are those of
`genlab check`, run here on each of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genlab.config import ConfigError
from genlab.decoders.depth import DepthConfig
from genlab.nets.attention import KeysValues, attend_nearby
from genlab.nets.backbone import Backbone, BackboneConfig, decode_flops
from genlab.nets.context import Context
from genlab.nets.flops import count_flops
from genlab.nets.mixers.attention import Attention
from genlab.nets.mixers.dilated import Dilated
from genlab.nets.mixers.window import Window
from genlab.nets.rotary import rotation
from genlab.studies.contract.mixer import check_mixer

WIDTH, HEADS = 32, 4
SHAPE = {"width": WIDTH, "layers": 2, "heads": HEADS}
CHANNELS = WIDTH // HEADS
# What one layer keeps of t frames, in numbers.
KEPT = {
    "one head of keys": (Attention(kv_heads=1), lambda t: 2 * t * 1 * CHANNELS),
    "two heads of keys": (Attention(kv_heads=2), lambda t: 2 * t * 2 * CHANNELS),
    "window": (Window(frames=5), lambda t: 2 * min(t, 5) * WIDTH),
    "sinks": (Window(frames=4, sinks=True, kv_heads=2), lambda t: 2 * min(t, 4) * 2 * CHANNELS),
}
MIXERS = {name: mixer for name, (mixer, _) in KEPT.items()}


def build(mixer, *, is_causal=True, seed=0, **options):
    """Return a backbone whose parameters are all away from their first values."""
    config = BackboneConfig(**{**SHAPE, **options}, mixer=mixer)
    backbone = Backbone(config, key=jax.random.key(seed), is_causal=is_causal)
    keys = iter(jax.random.split(jax.random.key(seed + 1), 100))
    state = nnx.state(backbone, nnx.Param)
    move = lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape)  # noqa: E731
    nnx.update(backbone, jax.tree.map(move, state))
    return backbone


def frames(num_frames, seed=3, num_examples=2):
    return jax.random.normal(jax.random.key(seed), (num_examples, num_frames, WIDTH))


def run(backbone, x):
    positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    return jax.jit(lambda x: backbone(x, positions=positions, is_valid=positions >= 0))(x)


def decode(backbone, x):
    """Return the frames run one by one, and the cache after the last."""

    def step(carry, frame):
        plan, cache = carry
        positions = jnp.broadcast_to(cache.position, (x.shape[0], 1))
        out, cache = backbone.extend(frame[:, None], plan, cache, positions=positions)
        return (plan, cache), out[:, 0]

    def whole(x):
        carry = backbone.start(x.shape[0], x.shape[1], None)
        (_, cache), out = jax.lax.scan(step, carry, x.swapaxes(0, 1))
        return out.swapaxes(0, 1), cache

    return jax.jit(whole)(x)


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_keeps_the_promises_of_all(name):
    findings = check_mixer(MIXERS[name])
    assert len(findings) == 7
    assert [finding for finding in findings if finding.problem] == []


@pytest.mark.parametrize("name", KEPT)
def test_decoding_is_the_whole_clip_from_a_cache_of_the_stated_size(name):
    mixer, kept = KEPT[name]
    backbone, x = build(mixer), frames(19)
    out, cache = decode(backbone, x)
    np.testing.assert_allclose(out, run(backbone, x), atol=2e-5)
    for layer in cache.layers:
        assert sum(leaf.size for leaf in jax.tree.leaves(layer)) == 2 * kept(19)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(layer))


@pytest.mark.parametrize("name", MIXERS)
def test_the_cost_of_decoding_is_that_of_its_trace(name):
    backbone, num_frames = build(MIXERS[name]), 11
    graph, state = nnx.split(backbone)
    run = lambda state, x: decode(nnx.merge(graph, state), x)[0]  # noqa: E731
    walked = count_flops(run, state, frames(num_frames, num_examples=1))
    assert decode_flops(backbone.config, num_frames) == pytest.approx(walked, rel=1e-9)


def test_shared_heads_are_heads_with_the_same_weights():
    """Two heads of keys and values serve four heads: heads 0 and 1 the first, 2 and 3 the second."""
    shared, plain = build(Attention(kv_heads=2)), build(Attention())
    source, target = shared.layers.attention, plain.layers.attention
    memory = source.project_memory.kernel[...].reshape(2, WIDTH, 2, 2, CHANNELS)
    repeated = jnp.repeat(memory, 2, axis=3).reshape(2, WIDTH, 2 * WIDTH)
    target.project_in.kernel[...] = jnp.concatenate(
        [source.project_query.kernel[...], repeated], axis=2
    )
    for part in ("query_norm", "key_norm"):
        getattr(target, part).scale[...] = getattr(source, part).scale[...]
    target.project_out.kernel[...] = source.project_out.kernel[...]
    for part in ("attention_norm", "ffn", "ffn_norm"):
        nnx.update(getattr(plain.layers, part), nnx.state(getattr(shared.layers, part)))
    plain.norm.scale[...] = shared.norm.scale[...]
    x = frames(12)
    np.testing.assert_allclose(run(shared, x), run(plain, x), atol=1e-5)


def test_heads_of_keys_must_divide_the_heads():
    told = r"^backbone\.mixer\.kv_heads=3 does not divide heads=4,.*set it to a divisor"
    for mixer in (Attention(kv_heads=3), Window(kv_heads=3)):
        with pytest.raises(ConfigError, match=told):
            build(mixer)


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_window_as_long_as_the_clip_is_attention(is_causal):
    x = frames(12)
    plain = run(build(Attention(), is_causal=is_causal), x)
    whole = run(build(Window(frames=12), is_causal=is_causal), x)
    np.testing.assert_allclose(whole, plain, atol=5e-6)
    shorter = run(build(Window(frames=11), is_causal=is_causal), x)
    moved = np.abs(shorter - plain).max(axis=(0, 2)) > 1e-4
    # One frame in each direction is out of reach of the ends; later layers spread that.
    assert moved[-1] and (moved[0] != is_causal)


@pytest.mark.parametrize("is_causal", [True, False])
def test_chunks_of_a_window_are_all_pairs_at_once(is_causal):
    """300 frames are three chunks of queries; frames behind the end are not read."""
    key = jax.random.key(0)
    queries, keys, values = jax.random.normal(key, (3, 2, 300, 2, 8))
    is_valid = jnp.arange(300)[None] < jnp.array([[300], [250]])
    out, summed = attend_nearby(
        queries, KeysValues(keys, values), is_valid, 40, is_causal=is_causal
    )
    ahead = np.arange(300)[:, None] - np.arange(300)[None, :]
    near = (ahead < 40) & ((ahead >= 0) if is_causal else (ahead > -40))
    logits = np.einsum("bqac,bsac->baqs", queries, keys) / np.sqrt(8)
    logits = np.where((near & np.asarray(is_valid)[:, None, :])[:, None], logits, -np.inf)
    total = np.log(np.exp(logits).sum(-1))
    expected = np.einsum("baqs,bsac->bqac", np.exp(logits - total[..., None]), values)
    for example, length in enumerate((300, 250)):
        np.testing.assert_allclose(out[example, :length], expected[example, :length], atol=1e-5)
        np.testing.assert_allclose(summed[example, :length], total[example].T[:length], atol=1e-5)


def test_a_sink_is_one_more_logit_whose_weight_goes_nowhere():
    backbone, x = build(Window(frames=4, sinks=True)), frames(9)
    attention = jax.tree.map(lambda leaf: leaf[0], backbone.layers.attention)
    places = jnp.broadcast_to(jnp.arange(9), (2, 9))
    context = Context(rotation(places, CHANNELS), places >= 0, is_causal=True)
    queries, memory = attention.read(x, context.rotation)
    logits = np.einsum("bqac,bsac->baqs", queries, memory.keys) / np.sqrt(CHANNELS)
    ahead = np.arange(9)[:, None] - np.arange(9)[None, :]
    logits = np.where((ahead >= 0) & (ahead < 4), logits, -np.inf)
    sinks = np.broadcast_to(attention.sinks[...][None, :, None, None], (2, HEADS, 9, 1))
    weights = np.exp(np.concatenate([logits, sinks], axis=-1))
    weights = (weights / weights.sum(-1, keepdims=True))[..., :-1]
    mixed = np.einsum("baqs,bsac->bqac", weights, memory.values).reshape(2, 9, WIDTH)
    np.testing.assert_allclose(
        attention(x, context)[0], attention.project_out(jnp.asarray(mixed)), atol=1e-5
    )


def test_sinks_that_weigh_nothing_are_none():
    with_sinks, without = build(Window(frames=4, sinks=True)), build(Window(frames=4))
    state = nnx.state(with_sinks, nnx.Param)
    state["layers"]["attention"]["sinks"][...] = jnp.full((2, HEADS), -1e9)
    nnx.update(with_sinks, state)
    plain = nnx.state(without, nnx.Param)
    for path, leaf in nnx.to_flat_state(plain):
        leaf[...] = dict(nnx.to_flat_state(state))[path][...]
    nnx.update(without, plain)
    x = frames(9)
    np.testing.assert_allclose(run(with_sinks, x), run(without, x), atol=1e-6)


def test_a_depth_transformer_refuses_what_it_cannot_run():
    turns = BackboneConfig(**SHAPE, mixer=(Dilated(), Attention()))
    with pytest.raises(ConfigError, match=r"decoder\.layers=1 must be a multiple of the 2 mixers"):
        DepthConfig(layers=1).depth_backbone(turns)
