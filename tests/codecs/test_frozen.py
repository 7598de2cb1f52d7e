import json
import shutil

import jax
import numpy as np
import pytest
from codec_toys import HOP, TINY, make_codec, make_frozen, make_wave
from flax import nnx

from genlab.codecs.discriminator import AdversarialConfig
from genlab.codecs.frozen import SHIPPED, FrozenCodec, export_codec, load_codec
from genlab.config import GenlabError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A codec whose numbers float16 holds exactly, and the file it was exported to."""
    codec = make_codec(3)
    graph, state = nnx.split(codec)
    rounded = jax.tree.map(
        lambda leaf: (
            leaf.astype(np.float16).astype(leaf.dtype) if leaf.dtype == np.float32 else leaf
        ),
        state,
    )
    codec = nnx.merge(graph, rounded)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    facts = export_codec(codec, path, {"data": "nothing", "licence": "CC0-1.0"})
    return codec, path, facts


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the exported files, to be damaged."""
    for suffix in (".safetensors", ".json"):
        shutil.copy(exported[1].with_suffix(suffix), tmp_path / f"copy{suffix}")
    return tmp_path / "copy.safetensors"


def refusal(path):
    with pytest.raises(GenlabError) as error:
        load_codec(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_export_and_load_give_the_same_tokens_and_audio(exported):
    codec, path, facts = exported
    before, after = FrozenCodec(codec, "before", {}), load_codec(str(path))
    waves = [make_wave(1, 30 * HOP), make_wave(2, 7000)]
    for (codes, latents), (codes_again, latents_again) in zip(
        before.encode(waves), after.encode(waves)
    ):
        np.testing.assert_array_equal(codes, codes_again)
        np.testing.assert_allclose(latents, latents_again, atol=1e-6)
        np.testing.assert_allclose(
            before.decode_codes([codes])[0], after.decode_codes([codes])[0], atol=1e-6
        )
    assert after.spec == codec.spec
    assert after.fingerprint == facts["sha256"][:10]
    assert after.metadata["licence"] == "CC0-1.0"
    np.testing.assert_array_equal(after.code_vectors, codec.quantiser.entries[...])


def test_the_discriminator_and_the_training_state_stay_at_home(tmp_path):
    codec = make_codec(
        1, TINY.model_copy(update={"adversarial": AdversarialConfig(start_step=0, width=8)})
    )
    facts = export_codec(codec, tmp_path / "plain.safetensors", {})
    assert facts["config"]["adversarial"] is None
    loaded = load_codec(str(tmp_path / "plain.safetensors"))
    wave = make_wave(1, 9 * HOP)
    np.testing.assert_allclose(
        loaded.encode([wave])[0][1], FrozenCodec(codec, "", {}).encode([wave])[0][1], atol=0.02
    )


def test_the_fingerprint_follows_the_weights(tmp_path):
    names = ["a", "b", "a_again"]
    prints = [
        export_codec(make_codec(seed), tmp_path / f"{name}.safetensors", {})["sha256"]
        for name, seed in zip(names, (1, 2, 1))
    ]
    assert prints[0] == prints[2] != prints[1]
    assert load_codec(str(tmp_path / "b.safetensors")).fingerprint == prints[1][:10]


def test_a_missing_codec_is_never_a_random_one(tmp_path):
    assert "no weights at" in refusal(tmp_path / "nothing.safetensors")
    with pytest.raises(
        GenlabError,
        match=f"codec 'other': no weights at .*use '{SHIPPED}', a published one .*or train one",
    ):
        load_codec("other")


def test_damaged_weights_are_refused_in_one_line(copied):
    whole = copied.read_bytes()
    copied.write_bytes(whole[:-100])
    assert "truncated in tensor" in refusal(copied)
    copied.write_bytes(whole[:20])
    assert "not a readable safetensors file" in refusal(copied)
    flipped = bytearray(whole)
    flipped[-7] ^= 1
    copied.write_bytes(flipped)
    assert "SHA-256 differs" in refusal(copied)


def test_weights_of_another_shape_are_refused_in_one_line(copied):
    facts = json.loads(copied.with_suffix(".json").read_text())
    facts["config"]["encoder"]["width"] = 32
    copied.with_suffix(".json").write_text(json.dumps(facts))
    assert "has shape" in refusal(copied)
    facts["config"]["encoder"]["width"] = "wide"
    copied.with_suffix(".json").write_text(json.dumps(facts))
    assert "encoder.width" in refusal(copied)
    del facts["config"]
    copied.with_suffix(".json").write_text(json.dumps(facts))
    assert "field 'config' is missing" in refusal(copied)
    copied.with_suffix(".json").unlink()
    assert "no such file" in refusal(copied)


@pytest.fixture(scope="module")
def frozen():
    return make_frozen()


@pytest.mark.parametrize("frames", [1, 20, 63, 64])
def test_bucket_and_batch_mates_do_not_change_results(frozen, frames):
    wave = make_wave(frames, frames * HOP - 10)
    [(codes, latents)] = frozen.encode([wave])
    assert codes.shape == (frames, 3) and latents.shape == (frames, 8)
    [(codes_in_batch, latents_in_batch), _] = frozen.encode([wave, make_wave(9, 100 * HOP)])
    np.testing.assert_array_equal(codes, codes_in_batch)
    np.testing.assert_allclose(latents, latents_in_batch, atol=1e-5)
    longer = np.zeros((100, 8), np.float32)
    np.testing.assert_allclose(
        frozen.decode_latents([latents])[0], frozen.decode_latents([latents, longer])[0], atol=1e-5
    )
    assert len(frozen.decode_codes([codes])[0]) == frames * HOP


def test_fewer_levels_decode(frozen):
    [(codes, _)] = frozen.encode([make_wave(1, 20 * HOP)])
    waves = [frozen.decode_codes([codes[:, :levels]])[0] for levels in (1, 2, 3)]
    assert all(len(wave) == 20 * HOP and np.abs(wave).max() <= 1 for wave in waves)
    assert np.abs(waves[0] - waves[2]).max() > 1e-4


def test_nothing_in_nothing_out(frozen):
    assert (
        frozen.encode([]) == []
        and frozen.decode_codes([]) == []
        and frozen.decode_latents([]) == []
    )
    [(codes, latents)] = frozen.encode([np.zeros(0, np.float32)])
    assert codes.shape == (0, 3) and latents.shape == (0, 8)


def test_the_shipped_codec_speaks_the_fixed_token_space():
    codec = load_codec()
    assert (codec.spec.sample_rate_hz, codec.spec.hop_samples) == (16_000, 320)
    assert (codec.spec.codebooks, codec.spec.entries, codec.spec.latent_channels) == (8, 1024, 32)
    assert codec.spec.bitrate_bps == 4000
    assert codec.metadata["config"]["kind"] == "spectral"


def test_codes_of_another_codec_are_refused(frozen):
    codes = np.zeros((4, 3), np.int32)
    for wrong, message in (
        (np.zeros((4, 4), np.int32), "4 levels, expected 1..3"),
        (np.zeros((4, 0), np.int32), "0 levels, expected 1..3"),
        (codes + 16, "16..16, expected 0..15"),
        (codes - 1, "-1..-1, expected 0..15"),
    ):
        with pytest.raises(GenlabError) as error:
            frozen.decode_codes([wrong])
        assert message in str(error.value)
    assert frozen.keep_levels(codes, None).shape == (4, 3) and frozen.keep_levels(
        codes, 2
    ).shape == (4, 2)
    for levels in (0, -1, 4):
        with pytest.raises(GenlabError, match=f"levels: expected 1..3, got {levels}"):
            frozen.keep_levels(codes, levels)
