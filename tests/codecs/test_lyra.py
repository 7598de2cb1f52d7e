"""Lyra's SoundStream: sums of whole numbers, streams, the three files, and files that are damaged.

The files are written by the test; parity with the published ones is in tests/parity.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from litert_toys import flatbuffer, write_lyra
from published_toys import Compiled, call

from genlab.codecs.frozen import load_codec, token_spec
from genlab.codecs.litert import MAX_OBJECTS, read_litert
from genlab.codecs.lyra import DECODER, ENCODER, QUANTISER, LyraConfig
from genlab.codecs.lyra_whole import (
    WholeConvolution,
    WholeLeaky,
    WholeResidual,
    WholeUpsampling,
)
from genlab.codecs.published import load_published
from genlab.config import ConfigError, GenlabError

TINY = LyraConfig(
    channels=4,
    first_stride=4,
    strides=(3, 2, 2),
    dilations=(1, 3),
    group_channels=4,
    bottleneck_groups=2,
    latent_channels=8,
    published_codebooks=5,
    codebooks=5,
)
HOP, FRAMES = 48, 10
FILES = (ENCODER, QUANTISER, DECODER)


@pytest.fixture(scope="module")
def compiled():
    return Compiled(TINY.build(key=jax.random.key(0)))


@pytest.fixture
def shape(monkeypatch):
    """Files say nothing about the shape, so the tiny one is put where the published one is."""
    monkeypatch.setattr(LyraConfig, "describe", classmethod(lambda cls, directory: TINY))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lyra")
    return folder, write_lyra(folder, TINY.build(key=jax.random.key(3)))


def make_waves(batch=3, frames=FRAMES):
    return np.random.default_rng(3).normal(size=(batch, frames * HOP)).astype(np.float32)


def draw_whole(*shape, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, shape)


def test_the_defaults_are_lyra_as_published():
    spec = LyraConfig().spec
    assert (spec.sample_rate_hz, spec.hop_samples, spec.frame_hz) == (16_000, 320, 50)
    assert (spec.codebooks, spec.entries, spec.latent_channels, spec.causal) == (46, 16, 64, True)
    rates = [LyraConfig(codebooks=levels).spec.bitrate_bps for levels in (16, 30, 46)]
    assert rates == [3200, 6000, 9200]
    assert token_spec("lyra2") == spec


def test_both_views_have_the_shapes_of_the_spec(compiled):
    tokens = compiled.encode(make_waves())
    assert tokens.codes.shape == (3, FRAMES, 5) and tokens.codes.dtype == jnp.int32
    assert tokens.latents.shape == (3, FRAMES, 8)
    assert compiled.codec.code_vectors.shape == (5, 16, 8)
    assert len(np.unique(tokens.codes)) > 8
    # What leaves the encoder was rounded to its grid.
    whole = np.asarray(tokens.latents) * 40
    assert np.abs(whole - np.round(whole)).max() < 1e-4 and len(np.unique(np.round(whole))) > 20
    for waves in (compiled.decode_codes(tokens.codes), compiled.decode_latents(tokens.latents)):
        assert waves.shape == (3, FRAMES * HOP) and np.asarray(waves).std() > 0.01


def test_codes_are_the_nearest_entries_and_their_sum_is_decoded(compiled):
    tokens = compiled.encode(make_waves())
    vectors = np.asarray(compiled.codec.code_vectors)
    residual = np.asarray(tokens.latents, np.float64)
    for level in range(5):
        distances = np.square(residual[..., None, :] - vectors[level]).sum(-1)
        np.testing.assert_array_equal(distances.argmin(-1), tokens.codes[..., level])
        residual = residual - vectors[level][np.asarray(tokens.codes[..., level])]
    for levels in (1, 5):
        codes = np.asarray(tokens.codes[..., :levels])
        latents = sum(vectors[level][codes[..., level]] for level in range(levels))
        decoded = compiled.decode_codes(codes)
        np.testing.assert_allclose(decoded, compiled.decode_latents(latents), atol=1e-4)


def test_a_clip_is_coded_in_a_batch_as_alone(compiled):
    waves, lengths = make_waves(), [FRAMES * HOP, 1 * HOP, 7 * HOP - 5]
    tokens = compiled.encode(waves, jnp.array(lengths))
    assert tokens.num_frames.tolist() == [FRAMES, 1, 7]
    decoded = np.asarray(compiled.decode_latents(tokens.latents, tokens.num_frames))
    for row, length in list(enumerate(lengths))[1:]:
        frames = -(-length // HOP)
        alone = compiled.encode(
            np.pad(waves[row : row + 1, :length], ((0, 0), (0, frames * HOP - length)))
        )
        np.testing.assert_array_equal(tokens.codes[row, :frames], alone.codes[0])
        assert (np.asarray(tokens.latents[row, frames:]) == 0).all()
        expected = compiled.decode_latents(alone.latents)[0]
        np.testing.assert_allclose(decoded[row, : frames * HOP], expected, atol=1e-5)
        assert (decoded[row, frames * HOP :] == 0).all()


def test_a_stream_is_coded_as_the_whole_clip(compiled):
    graph, state = nnx.split(compiled.codec)
    encode = jax.jit(functools.partial(call, graph, "encode_chunk"))
    decode = jax.jit(functools.partial(call, graph, "decode_chunk"))
    waves = make_waves(2)
    tokens = compiled.encode(waves)
    whole = np.asarray(compiled.decode_codes(tokens.codes))
    encoding, decoding = compiled.codec.start_encoding(2), compiled.codec.start_decoding(2)
    first = 0
    for frames in (1, 4, 4, 1):
        chunk = waves[:, first * HOP : (first + frames) * HOP]
        found, encoding = encode(state, chunk, encoding)
        own = slice(first, first + frames)
        np.testing.assert_array_equal(found.codes, tokens.codes[:, own])
        np.testing.assert_array_equal(found.latents, tokens.latents[:, own])
        heard, decoding = decode(state, tokens.codes[:, own], decoding)
        np.testing.assert_allclose(heard, whole[:, first * HOP : (first + frames) * HOP], atol=1e-5)
        first += frames


@pytest.mark.parametrize("num_samples", [0, 7])
def test_waves_are_whole_frames(compiled, num_samples):
    with pytest.raises(ValueError, match=f"{num_samples} samples are not one or more hops of 48"):
        compiled.codec.encode(jnp.zeros((1, num_samples)))


def test_sums_of_the_widest_layer_are_exact():
    """The largest sum there is: 512 channels in 4 groups, all at the end of their range."""
    layer = WholeConvolution(512, 8, 3, key=jax.random.key(0), groups=4)
    kernel = np.full((3, 128, 8), -128.0)
    kernel[0, 0] = 127.0
    layer.kernel[...] = jnp.asarray(kernel, jnp.float32)
    layer.bias[...] = jnp.full(8, 7.0)
    sums, _ = super(WholeConvolution, layer).__call__(jnp.full((1, 3, 512), 255.0), None)
    expected = 255 * (383 * -128 + 127) + 7
    assert abs(expected) < 2**24
    np.testing.assert_array_equal(sums[0, 2], np.full(8, expected))


def test_whole_convolutions_round_as_whole_numbers_do():
    layer = WholeConvolution(8, 4, 4, key=jax.random.key(0), stride=2, groups=2)
    frames = draw_whole(1, 12, 8)
    found, past = layer(jnp.asarray(frames, jnp.float32), None)
    kernel = np.asarray(layer.kernel[...]).astype(np.int64)
    padded = np.pad(frames[0], ((2, 0), (0, 0)))
    factor = np.asarray(layer.rescale.factor[...])
    for step in range(6):
        for output in range(4):
            group = slice(0, 4) if output < 2 else slice(4, 8)
            total = (padded[2 * step : 2 * step + 4, group] * kernel[:, :, output]).sum()
            expected = np.clip(np.rint(np.float32(total) * factor[output]), -128, 127)
            assert found[0, step, output] == expected
    np.testing.assert_array_equal(past[0], frames[0, -2:])


def test_whole_slopes_and_sums_shift_as_whole_numbers_do():
    frames = draw_whole(1, 50, 6)
    leaky = WholeLeaky()
    leaky.slopes[...] = jnp.array([301.0, 90.0])
    leaky.bounds[...] = jnp.array([-100.0, 155.0])
    found = np.asarray(leaky(jnp.asarray(frames, jnp.float32), None)[0])
    expected = (frames * np.where(frames < 0, 90, 301) + 128) >> 8
    np.testing.assert_array_equal(found, expected.clip(-100, 155))
    residual = WholeResidual([leaky])
    residual.weights[...] = jnp.array([1_900_001, 777_777], jnp.int32)
    residual.shift[...] = jnp.array(21, jnp.int32)
    total = (expected.clip(-100, 155) * 1_900_001 + frames * 777_777 + (1 << 20)) >> 21
    heard = np.asarray(residual(jnp.asarray(frames, jnp.float32), None)[0])
    np.testing.assert_array_equal(heard, total.clip(-128, 127))


def test_every_run_of_the_graph_is_rounded_by_itself():
    """Two frames a run; where runs meet, both are rounded, and the bias counts once."""
    layer = WholeUpsampling(4, 2, 4, key=jax.random.key(1), stride=2, groups=1, call=2)
    layer.whole_bias[...], layer.bias[...] = jnp.array([30.0, -90.0]), jnp.array([0.5, 0.25])
    frames, kernel = draw_whole(1, 6, 4), np.asarray(layer.kernel[...])
    expected = np.zeros((14, 2))
    for run in range(3):
        sums = np.tile([30.0, -90.0], (6, 1))
        for number in range(2):
            for tap in range(4):
                sums[2 * number + tap] += frames[0, 2 * run + number] @ kernel[tap]
        rounded = np.rint(
            (sums.astype(np.float32) * np.asarray(layer.rescale.factor)).clip(-128, 127)
        )
        expected[4 * run : 4 * run + 6] += rounded * np.asarray(layer.step)
        expected[4 * run + 4 : 4 * run + 6] -= [0.5, 0.25]
    found, past = layer(jnp.asarray(frames, jnp.float32), None)
    np.testing.assert_allclose(found[0], expected[:12], atol=1e-5)
    np.testing.assert_allclose(past[0], expected[12:], atol=1e-5)


def test_every_number_of_the_files_is_read(written, shape):
    folder, expected = written
    loaded = load_published(LyraConfig, str(folder))
    leaves = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(loaded.codec)))[0]
    found = {".".join(str(part.key) for part in path): np.asarray(leaf) for path, leaf in leaves}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_folder_is_a_codec_like_any_other(written, shape):
    folder, _ = written
    frozen = load_codec(f"lyra2:{folder}")
    wave = make_waves(1)[0, : 5 * HOP - 7]
    [(codes, latents)] = frozen.encode([wave])
    assert codes.shape == (5, 5) and latents.shape == (5, 8)
    assert len(frozen.decode_codes([codes])[0]) == 5 * HOP
    fewer = load_published(LyraConfig, str(folder), codebooks=2)
    assert fewer.codec.spec.codebooks == 2 and fewer.fingerprint != frozen.fingerprint
    np.testing.assert_array_equal(fewer.codec.code_vectors, frozen.code_vectors[:2])


@pytest.mark.parametrize("name", ["lyra2", "lyra2:owner/name", "lyra2@16:" + "x" * 5000])
def test_without_a_folder_nothing_is_downloaded(name):
    with pytest.raises(GenlabError, match=r"expected lyra2:DIRECTORY with soundstream_encoder"):
        load_codec(name)


def test_more_levels_than_the_file_has_are_refused():
    with pytest.raises(ConfigError, match="codebooks=47: expected at most published_codebooks=46"):
        LyraConfig.from_dict({"codebooks": 47})


@pytest.mark.parametrize("file", FILES)
def test_damaged_files_are_refused_in_one_line(compiled, written, tmp_path, file):
    """Cut short, emptied, or with any of its first offsets led astray: never more than one line."""
    folder, _ = written
    for name in FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    content = (folder / file).read_bytes()
    damaged = [content[:length] for length in (0, 6, 40, len(content) // 2)]
    rng = np.random.default_rng(0)
    for place in [0, 8, 16, 24, 32, *rng.integers(40, len(content) // 4, 60)]:
        for value in (0x7FFFFFF0, 0xFFFFFFF0, 1):
            damaged.append(content[:place] + value.to_bytes(4, "little") + content[place + 4 :])
    refused = 0
    for number, wrong in enumerate(damaged):
        (tmp_path / file).write_bytes(wrong)
        try:
            compiled.codec.read(tmp_path)
        except GenlabError as error:
            refused += 1
            assert str(tmp_path) in str(error) and "\n" not in str(error), error
            assert len(str(error)) < 600, error
        else:
            assert number >= 4  # a name or a number was changed, which nothing can notice
    assert refused > 40
    (tmp_path / file).unlink()
    with pytest.raises(GenlabError, match=rf"{file}: No such file"):
        compiled.codec.read(tmp_path)


def test_a_network_of_another_shape_is_refused(written, monkeypatch):
    folder, _ = written
    for change, told in (
        ({"strides": (3, 2, 1)}, r"CONV_2D of whole numbers, stride 2.*expected CONV_2D.*stride 1"),
        ({"dilations": (1, 2)}, r"dilation 3 activation 0, expected .*dilation 2"),
        (
            {"dilations": (1,)},
            r"a layer is DEPTHWISE_CONV_2D .* dilation 3 .*expected CONV_2D .*stride 3",
        ),
        ({"latent_channels": 4}, r"codebooks of the shapes .*expected 5 of \(1, 16, 4\)"),
        ({"entries": 4}, r"expected 5 of \(1, 4, 8\)"),
        ({"group_channels": 2}, r"layers\.\d+\..*has shape|has shape|expected TRANSPOSE_CONV"),
    ):
        other = LyraConfig.from_dict(TINY.to_dict() | change)
        monkeypatch.setattr(LyraConfig, "describe", classmethod(lambda cls, _, to=other: to))
        with pytest.raises(GenlabError, match=told):
            load_published(LyraConfig, str(folder))


def test_a_file_that_describes_itself_over_and_over_costs_little(tmp_path):
    """A list of graphs that are all one graph, whose operators are all one operator."""
    operator = {0: ("I", 0), 1: np.zeros(0, "<i4")}
    path = tmp_path / "bomb.tflite"

    def write(count):
        graph = {3: [operator] * count, 4: "g"}
        model = {0: ("I", 3), 1: [{3: ("i", 3)}], 2: [graph] * count, 4: [{}]}
        path.write_bytes(flatbuffer(model))

    write(2)
    graphs = read_litert(path)
    assert [operator.kind for graph in graphs for operator in graph.operators] == ["CONV_2D"] * 4
    write(700)
    assert path.stat().st_size < 20_000
    with pytest.raises(GenlabError, match=f"more than {MAX_OBJECTS} objects"):
        read_litert(path)
