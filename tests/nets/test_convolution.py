import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from genlab.nets.convolution import (
    Conv1d,
    ConvTranspose1d,
    pad_time,
    stream_conv,
    stream_transposed,
    valid_frames,
)


def frames(key, *shape):
    return jax.random.normal(key, shape)


@pytest.mark.parametrize(
    ("inputs", "taps", "stride", "dilation"),
    [(1, 7, 1, 1), (1, 3, 1, 2), (5, 1, 1, 1), (5, 6, 3, 1)],
)
def test_every_way_to_convolve_is_the_sum_over_the_kernel(key, inputs, taps, stride, dilation):
    conv = Conv1d(inputs, 4, taps, key=key, stride=stride, dilation=dilation)
    conv.bias[...] = jnp.arange(4.0)
    x = frames(key, 2, 20, inputs)
    out = np.asarray(conv(x))
    kernel = np.asarray(conv.kernel[...])
    for place in range(out.shape[1]):
        window = np.asarray(x)[:, place * stride :: dilation][:, :taps]
        expected = np.einsum("bki,kio->bo", window, kernel) + np.arange(4.0)
        np.testing.assert_allclose(out[:, place], expected, atol=1e-5)
    assert out.shape[1] == (20 - conv.span) // stride + 1


@pytest.mark.parametrize(("taps", "stride"), [(4, 2), (5, 2), (3, 3), (7, 3)])
@pytest.mark.parametrize("is_depthwise", [False, True])
def test_a_transposed_convolution_is_the_adjoint(key, taps, stride, is_depthwise):
    conv = ConvTranspose1d(
        3, 3, taps, key=key, stride=stride, has_bias=False, is_depthwise=is_depthwise
    )
    kernel = conv.transposed_kernel[...]
    dense = kernel[:, :, None] * jnp.eye(3)[None] if is_depthwise else kernel
    x = frames(key, 2, 6, 3)
    y = frames(jax.random.key(1), 2, 5 * stride + taps, 3)
    back = lax.conv_general_dilated(
        y, dense.transpose(0, 2, 1), (stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(jnp.sum(conv(x) * y), jnp.sum(x * back), rtol=1e-4)


@pytest.mark.parametrize("padding", ["zeros", "reflect", "edge"])
@pytest.mark.parametrize("length", [2, 9])
def test_padding_knows_where_each_example_ends(key, padding, length):
    x = frames(key, 3, 9, 2)
    lengths = jnp.array([9, length, 5])
    batched = pad_time(x, 4, 3, padding, lengths)
    for row, count in enumerate([9, length, 5]):
        alone = pad_time(x[row : row + 1, :count], 4, 3, padding)
        np.testing.assert_array_equal(batched[row, : 4 + count + 3], alone[0])


def test_valid_frames_multiply(key):
    np.testing.assert_array_equal(
        valid_frames(3, jnp.array([1, 3]))[..., 0], [[1, 0, 0], [1, 1, 1]]
    )
    assert valid_frames(3, None).shape == ()


def test_chunks_give_what_the_whole_gives(key):
    conv = Conv1d(3, 4, 6, key=key, stride=2)
    up = ConvTranspose1d(4, 2, 5, key=key, stride=3)
    up.bias[...] = jnp.array([1.0, -1.0])
    x = frames(key, 2, 24, 3)
    whole = conv(pad_time(x, conv.past, 0))
    past, tail, parts, waves = jnp.zeros((2, conv.past, 3)), jnp.zeros((2, up.tail, 2)), [], []
    for start, stop in [(0, 2), (2, 8), (8, 24)]:
        part, past = stream_conv(conv, x[:, start:stop], past)
        wave, tail = stream_transposed(up, part, tail)
        parts.append(part)
        waves.append(wave)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=1e-6)
    np.testing.assert_allclose(jnp.concatenate(waves, 1), up(whole)[:, : 12 * 3], atol=1e-6)


def test_the_modules_are_pytrees_of_plain_parameters(key):
    paths = nnx.to_pure_dict(nnx.state(ConvTranspose1d(3, 2, 4, key=key, stride=2)))
    assert set(paths) == {"transposed_kernel", "bias"}
