"""Every mixer against what it must be equal to: itself step by step, plain attention, its formulas.

The promises that all mixers share (padding, batch mates, causality, FLOPs, decoding) are those of
`genlab check`, run here on each of them.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genlab.config import ConfigError
from genlab.nets.attention import KeysValues, attend_nearby, causal_chunks
from genlab.nets.backbone import Backbone, BackboneConfig, backbone_flops, decode_flops
from genlab.nets.context import Context, Text
from genlab.nets.flops import count_flops
from genlab.nets.mixers.attention import Attention
from genlab.nets.mixers.chunks import chunk_frames
from genlab.nets.mixers.dilated import Dilated
from genlab.nets.mixers.grouped import GroupedAttention
from genlab.nets.mixers.latent import LatentAttention
from genlab.nets.mixers.mamba2 import Mamba2, Signals, read_states
from genlab.nets.mixers.s4d import S4D
from genlab.nets.mixers.window import Window
from genlab.nets.rotary import ROPE_BASE, Rotation, rotation
from genlab.studies.contract.mixer import check_mixer

ROOT = Path(__file__).parents[2]
DEFAULTS = tuple(
    kind() for kind in (Attention, GroupedAttention, LatentAttention, Window, S4D, Mamba2, Dilated)
)
WIDTH, HEADS = 32, 4
SHAPE = {"width": WIDTH, "layers": 2, "heads": HEADS}
CHANNELS = WIDTH // HEADS
# What one layer keeps of t frames, in numbers.
KEPT = {
    "one head of keys": (GroupedAttention(kv_heads=1), lambda t: 2 * t * 1 * CHANNELS),
    "two heads of keys": (GroupedAttention(kv_heads=2), lambda t: 2 * t * 2 * CHANNELS),
    "window": (Window(frames=5), lambda t: 2 * min(t, 5) * WIDTH),
    "sinks": (Window(frames=4, sinks=True, kv_heads=2), lambda t: 2 * min(t, 4) * 2 * CHANNELS),
}
KEPT |= {
    "mla": (LatentAttention(latent=6, rope_channels=4), lambda t: t * (6 + 4)),
    "s4d": (S4D(states=4), lambda t: 2 * WIDTH * 4),
    "mamba2": (
        Mamba2(states=6, head_channels=8),
        lambda t: 2 * WIDTH * 6 + 3 * (2 * WIDTH + 2 * 6),
    ),
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


# More than two chunks of a state space or of queries, and more than three windows.
NUM_FRAMES = 150


@pytest.mark.parametrize("name", KEPT)
def test_decoding_is_the_whole_clip_from_a_cache_of_the_stated_size(name):
    mixer, kept = KEPT[name]
    backbone, x = build(mixer), frames(NUM_FRAMES)
    out, cache = decode(backbone, x)
    np.testing.assert_allclose(out, run(backbone, x), atol=1e-4)
    for layer in cache.layers:
        assert sum(leaf.size for leaf in jax.tree.leaves(layer)) == 2 * kept(NUM_FRAMES)


def run_state(merge, state, x):
    return run(merge(state), x)


def decode_state(merge, state, x):
    return decode(merge(state), x)[0]


@pytest.mark.parametrize("name", MIXERS)
def test_the_costs_are_those_of_the_traces(name):
    x = frames(NUM_FRAMES, num_examples=1)
    for is_causal in (True, False):
        backbone = build(MIXERS[name], is_causal=is_causal)
        graph, state = nnx.split(backbone)
        both = partial(nnx.merge, graph)
        whole = count_flops(partial(run_state, both), state, x)
        stated = backbone_flops(backbone.config, NUM_FRAMES, is_causal=is_causal)
        assert stated == pytest.approx(whole, rel=1e-9)
        if is_causal:
            walked = count_flops(partial(decode_state, both), state, x)
            assert decode_flops(backbone.config, NUM_FRAMES) == pytest.approx(walked, rel=1e-9)


@pytest.mark.parametrize("name", ["s4d", "mamba2"])
def test_a_clip_backwards_comes_out_backwards_if_directions_are_exchanged(name):
    """Half of the channels, or heads, run from the end to the beginning."""
    mixer = MIXERS[name]
    shape = BackboneConfig(**SHAPE).layer_shape(is_causal=False)
    one = mixer.build(shape, key=jax.random.key(5))
    other = mixer.build(shape, key=jax.random.key(5))
    swapped = nnx.state(other, nnx.Param)
    # Parameters of a state space: the channels of one direction go to the other.
    for path, leaf in nnx.to_flat_state(swapped):
        value = leaf[...]
        if path[0] in ("decay", "frequency", "log_step", "real", "imaginary", "skip"):
            leaf[...] = jnp.roll(value, value.shape[0] // 2, axis=0)
        if path[0] in ("step_bias", "log_rate"):
            leaf[...] = jnp.roll(value, value.shape[0] // 2, axis=0)
        if name == "s4d" and path[0] == "project_out":
            leaf[...] = jnp.roll(value, WIDTH // 2, axis=0)
        if name == "mamba2" and path[0] in ("kernel", "project_in", "norm", "project_out"):
            leaf[...] = exchange(path[0], value)
    nnx.update(other, swapped)
    x = frames(NUM_FRAMES)
    if name == "s4d":
        other_x = jnp.roll(x, WIDTH // 2, axis=2)
    else:
        other_x = x
    places = jnp.broadcast_to(jnp.arange(NUM_FRAMES), x.shape[:2])
    context = Context(rotation(places, CHANNELS), places >= 0, is_causal=False)
    expected = jax.jit(lambda x: one(x, context)[0])(x)
    found = jax.jit(lambda x: other(x, context)[0])(other_x[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def exchange(part, value):
    """Return a parameter of Mamba-2 with the channels of both directions exchanged: z and x, 64
    channels each, then B and C, 6 each, then 8 steps.
    """
    if part in ("norm", "project_out"):
        return jnp.roll(value, WIDTH, axis=0)
    if part == "kernel":
        return jnp.concatenate([jnp.roll(value[:, :64], 32, axis=1), value[:, 64:]], axis=1)
    z, x, shared, steps = jnp.split(value, (64, 128, 140), axis=1)
    turned = (jnp.roll(z, 32, axis=1), jnp.roll(x, 32, axis=1), shared, jnp.roll(steps, 4, axis=1))
    return jnp.concatenate(turned, axis=1)


def test_s4d_is_a_convolution_by_fft():
    """The kernel is written down again from the paper; transforms of twice the length."""
    shape = BackboneConfig(**SHAPE).layer_shape(is_causal=True)
    mixer = S4D(states=4).build(shape, key=jax.random.key(5))
    x = frames(NUM_FRAMES)
    rate = -np.exp(mixer.decay[...]) + 1j * np.asarray(mixer.frequency[...])
    turn = np.exp(rate * np.exp(mixer.log_step[...])[:, None])
    assert (np.abs(turn) < 1).all()
    gain = (mixer.real[...] + 1j * np.asarray(mixer.imaginary[...])) * (turn - 1) / rate
    kernel = 2 * (gain[None] * turn[None] ** np.arange(NUM_FRAMES)[:, None, None]).real.sum(2)
    size = 2 * NUM_FRAMES
    product = np.fft.rfft(x, size, axis=1) * np.fft.rfft(kernel, size, axis=0)[None]
    expected = np.fft.irfft(product, size, axis=1)[:, :NUM_FRAMES] + np.asarray(x)
    np.testing.assert_allclose(mixer.convolve(x), expected, atol=1e-5)
    # GELU, in jax's form by tanh, and half of a projection as the gate of the other half.
    active = expected * (1 + np.tanh((2 / np.pi) ** 0.5 * (expected + 0.044715 * expected**3))) / 2
    value, gate = np.split(active @ np.asarray(mixer.project_out.kernel[...]), 2, axis=-1)
    out = jax.jit(lambda x: mixer(x, context_of(x))[0])(x)
    np.testing.assert_allclose(out, value / (1 + np.exp(-gate)), atol=1e-5)


def context_of(x):
    places = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    return Context(rotation(places, CHANNELS), places >= 0, is_causal=True)


def test_mamba2_is_the_layer_of_its_docstring():
    """Frame by frame in numpy, from the projection in to the projection out."""
    config = MIXERS["mamba2"]
    shape = BackboneConfig(**SHAPE).layer_shape(is_causal=True)
    mixer = config.build(shape, key=jax.random.key(5))
    mixer.skip[...] = 1 + 0.3 * jax.random.normal(jax.random.key(6), mixer.skip.shape)
    mixer.bias[...] = 0.3 * jax.random.normal(jax.random.key(7), mixer.bias.shape)
    mixer.norm.scale[...] = jnp.linspace(0.5, 2, mixer.norm.scale.size)
    x, silu = frames(9), lambda values: values / (1 + np.exp(-values))
    inner, states, heads = 2 * WIDTH, config.states, 2 * WIDTH // config.head_channels
    z, signal, step = np.split(
        np.asarray(x @ mixer.project_in.kernel[...]), (inner, 2 * inner + 2 * states), axis=-1
    )
    steps = np.log1p(np.exp(step + np.asarray(mixer.step_bias[...])))
    decays = np.exp(-np.exp(np.asarray(mixer.log_rate[...])) * steps)
    taps, bias = np.asarray(mixer.kernel[...]), np.asarray(mixer.bias[...])
    padded = np.pad(signal, ((0, 0), (len(taps) - 1, 0), (0, 0)))
    state, expected = np.zeros((2, heads, config.head_channels, states)), []
    for t in range(9):
        mixed = silu((padded[:, t : t + len(taps)] * taps).sum(axis=1) + bias)
        value, entering, leaving = np.split(mixed, (inner, inner + states), axis=-1)
        value = value.reshape(2, heads, -1)
        written = np.einsum("ba,bap,bn->bapn", steps[:, t], value, entering)
        state = decays[:, t, :, None, None] * state + written
        y = np.einsum("bapn,bn->bap", state, leaving)
        y = (y + np.asarray(mixer.skip[...])[:, None] * value).reshape(2, inner) * silu(z[:, t])
        y *= np.asarray(mixer.norm.scale[...]) / np.sqrt((y**2).mean(axis=-1, keepdims=True) + 1e-6)
        expected.append(y @ np.asarray(mixer.project_out.kernel[...]))
    found = jax.jit(lambda x: mixer(x, context_of(x))[0])(x)
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-4)


def test_state_spaces_begin_as_their_papers_say():
    """S4D-Lin: A = -1/2 + i pi n; steps of 0.001 to 0.1 frames; decays of Mamba-2 from 1 to
    16 a step.
    """
    shape = BackboneConfig(width=256, layers=1, heads=4).layer_shape(is_causal=True)
    s4d = S4D(states=4).build(shape, key=jax.random.key(0))
    np.testing.assert_allclose(-np.exp(s4d.decay[...]), -0.5, rtol=1e-6)
    np.testing.assert_allclose(s4d.frequency[...][7], np.pi * np.arange(4), rtol=1e-6)
    mamba = Mamba2(head_channels=4).build(shape, key=jax.random.key(0))
    for steps in (np.exp(s4d.log_step[...]), np.log1p(np.exp(mamba.step_bias[...]))):
        assert 0.999e-3 < steps.min() < 2e-3 and 5e-2 < steps.max() < 1.001e-1
        assert 0.007 < np.median(steps) < 0.015  # uniform in their logarithm: 0.01
    rates = np.exp(mamba.log_rate[...])
    assert 1 <= rates.min() < 2.5 and 14.5 < rates.max() <= 16


def test_chunks_grow_once_there_would_be_more_than_sixteen():
    frames_of = {1: 1, 63: 63, 64: 64, 65: 64, 1024: 64, 1025: 128, 2048: 128, 2049: 256}
    assert {count: chunk_frames(count) for count in frames_of} == frames_of


def test_a_window_that_is_longer_than_the_clip_keeps_and_costs_what_there_is():
    shape = BackboneConfig(**SHAPE).layer_shape(is_causal=True)
    longer, exact = Window(frames=50), Window(frames=9)
    assert longer.empty(shape, 2, 9).keys.shape == exact.empty(shape, 2, 9).keys.shape
    assert longer.step_flops(shape, 3, 9) == exact.step_flops(shape, 3, 9)
    assert longer.unread_flops(shape, 9) == exact.unread_flops(shape, 9)
    # Projections in and out, and scores and sums over 9 slots.
    assert exact.step_flops(shape, 3, 9) == 3 * (8 * WIDTH**2 + 4 * WIDTH * 9)


def test_several_frames_at_once_are_decoded_as_one_after_the_other():
    shape = BackboneConfig(**SHAPE).layer_shape(is_causal=True)
    mixer, x = MIXERS["window"].build(shape, key=jax.random.key(5)), frames(9)
    context = context_of(x)

    @jax.jit
    def decode_parts(x):
        ring, parts = MIXERS["window"].empty(shape, 2, 9), []
        for first, last in ((0, 2), (2, 9)):
            angles = Rotation(*(part[:, first:last] for part in context.rotation))
            now = context._replace(rotation=angles, position=first)
            out, ring = mixer(x[:, first:last], now, ring)
            parts.append(out)
        return jnp.concatenate(parts, axis=1)

    whole = jax.jit(lambda x: mixer(x, context)[0])(x)
    np.testing.assert_allclose(decode_parts(x), whole, atol=1e-5)


def test_latents_are_normalised_and_their_key_turns_at_the_rates_of_fewer_channels():
    shape = BackboneConfig(**SHAPE).layer_shape(is_causal=True)
    mixer = MIXERS["mla"].build(shape, key=jax.random.key(5))
    x = jnp.broadcast_to(frames(1), (2, 12, WIDTH))
    _, _, memory = mixer._read(x, context_of(x).rotation)
    np.testing.assert_allclose(np.square(memory.latents).mean(axis=-1), 1, rtol=1e-4)
    # Channel i of 4 turns at base ** (-2 i / 4), the second half of the channels with the first.
    angles = np.arange(12)[:, None] * ROPE_BASE ** (-2 * np.arange(2) / 4)
    first, second = np.split(np.asarray(memory.rotated[:, :1]), 2, axis=-1)
    turned = (
        first * np.cos(angles) - second * np.sin(angles),
        first * np.sin(angles) + second * np.cos(angles),
    )
    np.testing.assert_allclose(memory.rotated, np.concatenate(turned, axis=-1), atol=1e-5)


def test_mamba2_is_its_recurrence():
    key = iter(jax.random.split(jax.random.key(0), 4))
    written = jax.random.normal(next(key), (2, NUM_FRAMES, 3, 5))
    log_decay = -jax.random.uniform(next(key), (2, NUM_FRAMES, 3))
    entering, leaving = (jax.random.normal(next(key), (2, NUM_FRAMES, 4)) for _ in range(2))
    state, expected = np.zeros((2, 3, 5, 4)), []
    for t in range(NUM_FRAMES):
        state = np.exp(log_decay[:, t])[..., None, None] * state
        state = state + np.einsum("bap,bn->bapn", written[:, t], entering[:, t])
        expected.append(np.einsum("bapn,bn->bap", state, leaving[:, t]))
    found = jax.jit(read_states)(Signals(written, log_decay, entering, leaving))
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-4)


def test_a_clip_behind_a_prefix_reads_latents_as_it_reads_keys():
    """Naive and absorbed with a prefix that is read at once, and several frames after it."""
    config = BackboneConfig(**SHAPE, mixer=MIXERS["mla"])
    backbone = Backbone(config, key=jax.random.key(0), is_causal=True, text_route="prefix")
    x, text = frames(7), Text(frames(3, seed=4), jnp.array([[True] * 3, [True, True, False]]))
    places = jnp.broadcast_to(jnp.arange(7), (2, 7))
    whole = backbone(x, positions=places, is_valid=places >= 0, text=text)
    plan, cache = backbone.start(2, 7, text)
    first, cache = backbone.extend(x[:, :4], plan, cache, positions=places[:, :4])
    last, _ = backbone.extend(x[:, 4:], plan, cache, positions=places[:, 4:])
    np.testing.assert_allclose(jnp.concatenate([first, last], axis=1), whole, atol=1e-5)


def test_rotated_channels_must_divide_those_of_a_head():
    told = r"^backbone\.mixer\.rope_channels=6: expected an even divisor of width / heads=8"
    with pytest.raises(ConfigError, match=told):
        build(LatentAttention(latent=6, rope_channels=6))


def test_heads_of_mamba2_must_divide_its_channels():
    told = r"^backbone\.mixer\.head_channels=48 does not divide the expand \* width=64 inner"
    with pytest.raises(ConfigError, match=told):
        build(Mamba2(head_channels=48))
    # One head cannot be half backwards.
    build(Mamba2(head_channels=64))
    with pytest.raises(ConfigError, match=r"an even number of heads; set it to a divisor of 32"):
        build(Mamba2(head_channels=64), is_causal=False)


@pytest.mark.parametrize("name", ["s4d", "mamba2"])
def test_states_are_float32_in_bfloat16_runs(name):
    config = BackboneConfig(**SHAPE, mixer=MIXERS[name], dtype="bfloat16")
    backbone = Backbone(config, key=jax.random.key(0), is_causal=True)
    x = frames(NUM_FRAMES).astype(jnp.bfloat16)
    out, cache = decode(backbone, x)
    assert out.dtype == jnp.bfloat16 and cache.layers[0][-1].dtype == jnp.float32
    np.testing.assert_allclose(
        out.astype(jnp.float32), run(backbone, x).astype(jnp.float32), atol=0.2
    )


def test_the_table_of_costs_is_what_the_formulas_say():
    """docs/backbones.md: width 256, 4 heads, defaults, causal."""
    shape = BackboneConfig(width=256, heads=4).layer_shape(is_causal=True)
    pairs = sum((stop - start) * keys for start, stop, keys in causal_chunks(832, 0))
    text = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")

    def size(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    for mixer in DEFAULTS:
        built = nnx.eval_shape(lambda mixer=mixer: mixer.build(shape, key=jax.random.key(0)))
        steps = (mixer.step_flops(shape, 1, t) for t in (500, 3000))
        costs = (mixer.flops(shape, 832, pairs) / 832, *steps)
        kept = [
            size(jax.eval_shape(lambda mixer=mixer, t=t: mixer.empty(shape, 1, t)))
            for t in (500, 3000)
        ]
        cells = [f"{size(nnx.state(built, nnx.Param)):,}", *(f"{cost / 1e6:.3f}" for cost in costs)]
        row = " | ".join([f"| `{mixer.kind}`", *cells, *(f"{count:,}" for count in kept)]) + " |"
        assert row in text, row


def test_shared_heads_are_heads_with_the_same_weights():
    """Of two heads of keys and values, heads 0 and 1 read the first, 2 and 3 the second."""
    shared, plain = build(GroupedAttention(kv_heads=2)), build(Attention())
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
    for mixer in (GroupedAttention(kv_heads=3), Window(kv_heads=3)):
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
    # Where no key may be read, behind the end, the sum is 0.
    total = np.log(np.maximum(np.exp(logits).sum(-1), 1e-30))
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
