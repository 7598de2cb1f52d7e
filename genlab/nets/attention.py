"""Self-attention over whole sequences, by the kernel of the platform that the program is compiled
for.

In: queries, keys and values "b s a c" and which keys may be read. Out: softmax(q k / sqrt(c)) v. On
TPUs Pallas splash attention (FlashAttention, 2205.14135, that skips blocks nothing may read), on
GPUs cuDNN's for half precision; both never store the weights of the pairs. Elsewhere, and for what
a kernel cannot say, the plain products. `why_plain` says which it is and why. The platform is that
of the mesh that is set, also one that is only described (`genlab aot`), else the default one.

Extra axis letters here: a attention heads, c channels per head, q queries, s keys.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from genlab.machine.sharding import BATCH, compiled_platform, fit, mesh_sizes

# Causal attention is computed in chunks of queries that skip the keys after them: a tile of a TPU's
# matrix unit.
CAUSAL_CHUNK_FRAMES = 128
# Kernels work in tiles of this many positions; below two of them the pairs fit into fast memory
# anyway.
TILE_FRAMES = 128
# cuDNN's gradient refuses odd lengths when pairs are masked; eights also fill the tiles of tensor
# cores. Its kernel takes 256 channels on some GPUs and this many on all.
CUDNN_FRAMES, CUDNN_CHANNELS = 8, 128
# The largest block of queries or keys that a kernel holds at once. Keys are read again for every
# block of queries, so few large ones, as long as their pairs fit into vector memory.
BLOCK_FRAMES = 1024
# What `jax.checkpoint` calls the results that the kernel's gradient needs, for policies that keep
# them.
KEPT_NAME = "attention"


class KeysValues(NamedTuple):
    """What attention reads: the frames themselves, or the preallocated cache of one layer. Several
    heads of queries may share a head of keys and values (g of them, 2305.13245).
    """

    keys: Float[Array, "b s g c"]
    values: Float[Array, "b s g c"]


def attend(
    queries: Float[Array, "b q a c"], memory: KeysValues, is_allowed: Bool[Array, "b #q s"]
) -> Float[Array, "b q a c"]:
    """Return softmax(q k / sqrt(c)) v over the allowed keys."""
    return jax.nn.dot_product_attention(
        queries, memory.keys, memory.values, mask=is_allowed[:, None]
    )


def attend_causally(
    queries: Float[Array, "b s a c"], memory: KeysValues, is_valid: Bool[Array, "b s"], prefix: int
) -> Float[Array, "b s a c"]:
    """Attend to earlier positions, the own one, and the whole prefix; keys after a chunk of queries
    are never read.
    """
    length = queries.shape[1]
    outputs = []
    for start, stop, num_keys in causal_chunks(length, prefix):
        is_before = (
            jnp.arange(num_keys)[None, :]
            <= jnp.maximum(jnp.arange(start, stop), prefix - 1)[:, None]
        )
        visible = KeysValues(memory.keys[:, :num_keys], memory.values[:, :num_keys])
        is_allowed = is_valid[:, None, :num_keys] & is_before[None]
        outputs.append(attend(queries[:, start:stop], visible, is_allowed))
    return jnp.concatenate(outputs, axis=1)


def causal_chunks(length: int, prefix: int) -> list[tuple[int, int, int]]:
    """Return (first query, end of queries, number of keys) of each chunk."""
    starts = range(0, length, CAUSAL_CHUNK_FRAMES)
    stops = [min(start + CAUSAL_CHUNK_FRAMES, length) for start in starts]
    return [(start, stop, max(stop, prefix)) for start, stop in zip(starts, stops, strict=True)]


def attend_nearby(
    queries: Float[Array, "b s a c"],
    memory: KeysValues,
    is_valid: Bool[Array, "b s"],
    window: int,
    *,
    is_causal: bool,
) -> tuple[Float[Array, "b s a c"], Float[Array, "b s a"]]:
    """Return what valid keys less than `window` positions away say (if causal, earlier ones and the
    own), and the logarithm of the sum of their weights before they are normalised; keys far from a
    chunk of queries are never read.
    """
    outputs = []
    for start, stop, first, end in window_chunks(queries.shape[1], window, is_causal):
        # queries x keys: how far a key lies before its query
        ahead = jnp.arange(start, stop)[:, None] - jnp.arange(first, end)[None, :]
        is_near = (ahead < window) & (ahead > (-1 if is_causal else -window))
        visible = KeysValues(memory.keys[:, first:end], memory.values[:, first:end])
        is_allowed = is_valid[:, None, first:end] & is_near[None]
        outputs.append(attend_summed(queries[:, start:stop], visible, is_allowed))
    mixed, summed = (jnp.concatenate(parts, axis=1) for parts in zip(*outputs))
    return mixed, summed


def attend_summed(
    queries: Float[Array, "b q a c"], memory: KeysValues, is_allowed: Bool[Array, "b #q s"]
) -> tuple[Float[Array, "b q a c"], Float[Array, "b q a"]]:
    """Return `attend`, and the logarithm of the sum of exp(q k / sqrt(c)) over allowed keys."""
    return jax.nn.dot_product_attention(
        queries, memory.keys, memory.values, mask=is_allowed[:, None], return_residual=True
    )


def window_chunks(length: int, window: int, is_causal: bool) -> list[tuple[int, int, int, int]]:
    """Return (first query, end of queries, first key, end of keys) of each chunk."""
    ahead = 0 if is_causal else window - 1
    return [
        (start, stop, max(0, start - window + 1), min(length, stop + ahead))
        for start, stop, _ in causal_chunks(length, 0)
    ]


def attend_within(
    queries: Float[Array, "b s a c"],
    memory: KeysValues,
    is_valid: Bool[Array, "b s"],
    *,
    is_causal: bool = False,
    prefix: int = 0,
    is_allowed: Bool[Array, "#b s s"] | None = None,
    window: int | None = None,
) -> Float[Array, "b s a c"]:
    """Let a sequence attend to itself: to all valid keys, to those `is_allowed`, or to earlier ones
    and the prefix; where a `window` is given (without the other two), to keys less than that far
    away.

    Keys and values may have fewer heads than queries: neighbouring queries then share one.
    """
    platform = compiled_platform()
    if not why_plain(platform, queries.shape, queries.dtype, is_allowed is not None):
        run = _attend_by_splash if platform == "tpu" else _attend_by_cudnn
        rule = {"is_causal": is_causal, "prefix": prefix, "window": window}
        return run(queries, _repeated(memory, queries.shape[2]), is_valid, **rule)
    if window is not None:
        return attend_nearby(queries, memory, is_valid, window, is_causal=is_causal)[0]
    if is_causal:
        return attend_causally(queries, memory, is_valid, prefix)
    return attend(
        queries,
        memory,
        is_valid[:, None, :] if is_allowed is None else is_valid[:, None, :] & is_allowed,
    )


def why_plain(platform: str, shape: tuple[int, ...], dtype: jnp.dtype, has_pairs: bool) -> str:
    """Return why attention over queries of this shape "b s a c" runs without a kernel, or "" if it
    does with one.
    """
    if platform not in ("tpu", "gpu"):
        return f"no kernel for {platform}"
    if has_pairs:
        return (
            "the decoder says for each pair of frames which sees which, and the kernels take "
            "rules, not pairs"
        )
    if shape[1] < 2 * TILE_FRAMES:
        return f"{shape[1]} positions, less than two tiles of {TILE_FRAMES}"
    if platform == "gpu" and dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN's kernel takes bfloat16 and float16, not {dtype}"
    if platform == "gpu" and (shape[3] > CUDNN_CHANNELS or shape[3] % 8):
        return (
            f"cuDNN's kernel takes heads of at most {CUDNN_CHANNELS} channels, a multiple of 8, "
            f"not {shape[3]}"
        )
    return ""


def missing_positions(
    platform: str, shape: tuple[int, ...], dtype: jnp.dtype, has_pairs: bool
) -> int:
    """Return how many positions complete the tiles of the kernel for queries of this shape "b s a
    c", 0 without one.
    """
    if why_plain(platform, shape, dtype, has_pairs):
        return 0
    return -shape[1] % (TILE_FRAMES if platform == "tpu" else CUDNN_FRAMES)


def _attend_by_cudnn(
    queries: Float[Array, "b s a c"],
    memory: KeysValues,
    is_valid: Bool[Array, "b s"],
    *,
    is_causal: bool,
    prefix: int,
    window: int | None = None,
) -> Float[Array, "b s a c"]:
    """Run cuDNN's kernel, which takes the rule for earlier keys; a prefix, a window and the valid
    keys go in as all pairs.
    """
    length = queries.shape[1]
    padding = ((0, 0), (0, -length % CUDNN_FRAMES), (0, 0), (0, 0))
    queries, keys, values = (jnp.pad(x, padding) for x in (queries, *memory))
    pairs = _may_read(queries.shape[1], is_causal and prefix > 0, prefix, window)[None, None]
    # "b 1 s s": it refuses axes that are broadcast
    pairs = pairs & jnp.pad(is_valid, padding[:2])[:, None, None, :]
    return jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        mask=pairs,
        is_causal=is_causal and not prefix,
        implementation="cudnn",
    )[:, :length]


def _attend_by_splash(
    queries: Float[Array, "b s a c"],
    memory: KeysValues,
    is_valid: Bool[Array, "b s"],
    *,
    is_causal: bool,
    prefix: int,
    window: int | None = None,
    is_interpreted: bool = False,
) -> Float[Array, "b s a c"]:
    """Run splash attention on each chip's share of examples and heads; it takes [a s c] and whole
    tiles.
    """
    sizes = mesh_sizes()
    run = functools.partial(
        _splash_one_chip,
        is_causal=is_causal,
        prefix=prefix,
        window=window,
        is_interpreted=is_interpreted,
    )
    if sizes:
        spec = fit(PartitionSpec(BATCH, None, "tensor", None), queries.shape, sizes)
        # The kernel does not say over which axes its outputs vary, so that check is off.
        run = jax.shard_map(
            run,
            in_specs=(spec, spec, spec, PartitionSpec(*spec[:2])),
            out_specs=spec,
            check_vma=False,
        )
    return run(queries, memory.keys, memory.values, is_valid)


def _splash_one_chip(
    queries: Float[Array, "b s a c"],
    keys: Float[Array, "b s a c"],
    values: Float[Array, "b s a c"],
    is_valid: Bool[Array, "b s"],
    *,
    is_causal: bool,
    prefix: int,
    window: int | None,
    is_interpreted: bool,
) -> Float[Array, "b s a c"]:
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import SegmentIds

    length, heads, channels = queries.shape[1:]
    padded = -(-length // TILE_FRAMES) * TILE_FRAMES
    kernel = _splash_kernel(padded, heads, is_causal, prefix, window, is_interpreted)

    def turn(x):
        # b q a c -> b a q c, the order of the kernel's axes
        return jnp.pad(x, ((0, 0), (0, padded - length), (0, 0), (0, 0))).transpose(0, 2, 1, 3)

    is_valid = jnp.pad(is_valid, ((0, 0), (0, padded - length)))
    # Keys are read by queries of the same segment: all queries are in segment 1, and the valid
    # keys.
    segments = SegmentIds(jnp.ones_like(is_valid, jnp.int32), is_valid.astype(jnp.int32))
    mixed: Any = jax.vmap(kernel)(
        turn(queries * channels**-0.5), turn(keys), turn(values), segments
    )
    return jnp.swapaxes(mixed, 1, 2)[:, :length]


def _splash_kernel(
    length: int,
    heads: int,
    is_causal: bool,
    prefix: int,
    window: int | None,
    is_interpreted: bool,
):
    # Pallas takes half a second to import, and only programs for TPUs need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as splash_pairs,
    )

    shape = (length, length)
    rule = splash_pairs.CausalMask(shape) if is_causal else splash_pairs.FullMask(shape)
    if is_causal and prefix:
        rule = splash_pairs.NumpyMask(_may_read(length, is_causal, prefix))
    if window is not None:
        # Blocks outside the window are skipped: the kernel's work grows with the window.
        rule = splash_pairs.LocalMask(shape, (window - 1, 0 if is_causal else window - 1), 0)
    block = next(size for size in range(BLOCK_FRAMES, 0, -TILE_FRAMES) if length % size == 0)
    sizes: dict[str, Any] = {
        "block_q": block,
        "block_kv": block,
        "block_q_dkv": block,
        "block_kv_dkv": block,
    }
    # One kernel for all gradients, unless each block of keys would write queries' gradients of its
    # own.
    is_fused = block == length
    sizes |= {} if is_fused else {"block_q_dq": block, "block_kv_dq": block}
    blocks = splash.BlockSizes(**sizes, use_fused_bwd_kernel=is_fused)
    return splash.make_splash_mha_single_device(
        splash_pairs.MultiHeadMask([rule] * heads),
        block_sizes=blocks,
        residual_checkpoint_name=KEPT_NAME,
        interpret=is_interpreted,
    )


def _may_read(
    length: int, is_causal: bool, prefix: int, window: int | None = None
) -> Bool[np.ndarray, "s s"]:
    position = np.arange(length)
    may_read = (position[None, :] <= np.maximum(position, prefix - 1)[:, None]) | (not is_causal)
    distance = np.abs(position[None, :] - position[:, None])
    return may_read & (distance < (length if window is None else window))


def _repeated(memory: KeysValues, heads: int) -> KeysValues:
    """Return keys and values with as many heads as queries have: the kernels take no fewer."""
    groups = heads // memory.keys.shape[2]
    return memory if groups == 1 else KeysValues(*(jnp.repeat(x, groups, axis=2) for x in memory))
