"""Variants of the in-lab codec: semantic level 1, side channel, variational bottleneck; and the
probe of level 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from codec_toys import HOP, TINY, make_codec, make_frozen, make_manifest, make_wave
from flax import nnx

from genlab.codecs.cache import encode_corpus
from genlab.codecs.distillation import Distillation, DistillationConfig
from genlab.codecs.frozen import FrozenCodec, export_codec, load_codec
from genlab.codecs.spectral import SpectralCodecConfig
from genlab.config import ConfigError, GenlabError
from genlab.evaluate.codecs import probe as codec_probe
from genlab.evaluate.codecs.phones import LABELS_PER_S, labels_at
from genlab.recognisers.shipped import load_units
from genlab.training.step import split_model

WAVES = np.stack([make_wave(seed, 40 * HOP) for seed in range(4)])
COUNTS = np.array([40, 40, 31, 40], np.int32) * HOP
VARIANTS = {
    "distilled": TINY.model_copy(update={"distillation": DistillationConfig()}),
    "split": TINY.model_copy(update={"semantic_channels": 3, "distillation": DistillationConfig()}),
    "side": TINY.model_copy(update={"side_channels": 5}),
    "vae": TINY.model_copy(update={"kl_weight": 0.1, "share_continuous": 0.5}),
}


def train(config, steps, rate=3e-3):
    """Return the codec after `steps` updates on one batch, its losses and metrics by step, and its
    last gradient.
    """
    graph, params, rest = split_model(config.build(key=jax.random.key(0)))
    adam = optax.adam(rate)

    def loss(params, rest, key):
        codec = nnx.merge(graph, params, rest)
        out = codec.loss(WAVES, COUNTS, key=key)
        return out.per_example.mean(), (split_model(codec)[2], out.metrics)

    @jax.jit
    def update(params, rest, opt, key):
        (value, (rest, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params, rest, key)
        changes, opt = adam.update(grads, opt)
        return optax.apply_updates(params, changes), rest, opt, value, grads, metrics

    opt, losses, history = adam.init(params), [], []
    for step in range(steps):
        params, rest, opt, value, grads, metrics = update(params, rest, opt, jax.random.key(step))
        losses.append(float(value))
        history.append({name: float(value.mean()) for name, value in metrics.items()})
    return nnx.merge(graph, params, rest), losses, history, grads


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_trains_and_its_export_codes_the_same(name, tmp_path):
    codec, losses, _, grads = train(VARIANTS[name], 12)
    assert losses[-1] < losses[0] and all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads)
    )
    export_codec(codec, tmp_path / "codec.safetensors", {})
    loaded, here = load_codec(str(tmp_path / "codec.safetensors")), FrozenCodec(codec, "here", {})
    assert "distillation" not in nnx.to_pure_dict(loaded._state)
    (codes, latents), (_, mine) = loaded.encode([WAVES[0]])[0], here.encode([WAVES[0]])[0]
    # weights are stored as float16
    np.testing.assert_allclose(latents, mine, atol=2e-2 * np.abs(mine).max())
    side = loaded.encode_side([WAVES[0]])
    assert (side is None) == (name != "side")
    assert np.isfinite(loaded.decode_codes([codes], side)[0]).all()


def test_split_levels_keep_to_their_channels():
    codec, _, _, _ = train(VARIANTS["split"], 6)
    entries = np.asarray(codec.quantiser.entries[...])
    assert np.abs(entries[0, :, :3]).max() > 0 and np.abs(entries[1:, :, 3:]).max() > 0
    assert not entries[0, :, 3:].any() and not entries[1:, :, :3].any()
    # Level 1 then does not depend on what the other channels hold.
    latents = np.random.default_rng(0).standard_normal((1, 9, 8)).astype(np.float32)
    other = latents.copy()
    other[..., 3:] = 7.0
    first, second = (
        np.asarray(codec.quantiser.encode(jnp.asarray(view)))[..., 0] for view in (latents, other)
    )
    np.testing.assert_array_equal(first, second)


def test_the_teacher_is_followed_and_stays_as_it_is():
    # Entries that move quickly and are rarely revived: in 80 steps the straight-through gradient
    # must count.
    changes = {"entries": 64, "codebook_decay": 0.9, "revival_usage": 5e-4}
    config = TINY.model_copy(update={**changes, "distillation": DistillationConfig(weight=8.0)})
    codec, _, history, grads = train(config, 80)
    distances = [metrics["distillation"] for metrics in history]
    assert distances[0] > 0.6 and distances[-1] < 0.63, distances[::8]
    assert (
        "teacher" not in grads["distillation"] and np.abs(grads["encoder_out"]["kernel"]).max() > 0
    )
    shipped = load_units().recogniser.state
    held = nnx.to_pure_dict(nnx.state(codec.distillation))["teacher"]
    for mine, theirs in zip(jax.tree.leaves(held), jax.tree.leaves(shipped)):
        np.testing.assert_array_equal(mine, theirs)


def test_distillation_is_least_when_level_one_says_what_the_teacher_says():
    units = load_units()
    width = len(units.codebook.mean)
    module = Distillation(DistillationConfig(), width, jax.random.key(0))
    module.projection.kernel[...] = jnp.eye(width)
    teacher = nnx.merge(units.recogniser.graph, units.recogniser.state)
    features = (
        teacher.features(WAVES, COUNTS) - units.codebook.mean[None, None]
    ) / units.codebook.std[None, None]
    np.testing.assert_allclose(module(features, WAVES, COUNTS), np.log1p(np.exp(-1.0)), atol=1e-3)
    np.testing.assert_allclose(module(-features, WAVES, COUNTS), np.log1p(np.exp(1.0)), atol=1e-3)
    assert np.all(np.asarray(module(features[::-1], WAVES, COUNTS)) > 0.4)


def test_the_side_code_is_quantised_and_belongs_to_the_utterance():
    frozen = make_frozen(0, VARIANTS["side"])
    side = frozen.encode_side(list(WAVES))
    assert side.shape == (4, 5) and len(np.unique(side, axis=0)) > 1
    steps = (side + 1) / 2 * 7
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
    np.testing.assert_allclose(frozen.encode_side([WAVES[2]]), side[2:3], atol=1e-6)
    [(codes, _)] = frozen.encode([WAVES[0]])
    own, other = frozen.decode_codes([codes, codes], np.stack([side[0], -side[0]]))
    assert np.abs(own - other).max() > 1e-4
    with pytest.raises(GenlabError, match=r"side: absent.*Tokens\.side"):
        frozen.decode_codes([codes])


def test_a_comparison_refuses_a_codec_with_side_channels(tmp_path):
    with pytest.raises(GenlabError, match=r"5 side channels.*side_channels=0"):
        encode_corpus(
            make_manifest(tmp_path / "corpus"),
            make_frozen(0, VARIANTS["side"]),
            load_units(),
            tmp_path,
        )


def test_the_kl_divergence_is_that_of_the_bottleneck_and_encoding_has_no_noise():
    codec = make_codec(0, VARIANTS["vae"])
    tokens, scale = codec._encode(WAVES, COUNTS)
    again, _ = codec._encode(WAVES, COUNTS)
    np.testing.assert_array_equal(tokens.latents, again.latents)
    assert tokens.latents.shape[-1] == 8 and np.all(np.asarray(scale) > 0)
    mean, scale = np.asarray(tokens.latents, np.float64), np.asarray(scale, np.float64)
    # Monte Carlo: the mean of log q(z) - log p(z) over draws from q.
    draws = np.random.default_rng(0).standard_normal((4000, *mean[:1].shape))
    z = mean[:1] + scale[:1] * draws
    nats = (-0.5 * draws**2 - np.log(scale[:1]) + 0.5 * z**2).mean()
    kl = np.asarray(codec.loss(WAVES, COUNTS, key=jax.random.key(0)).metrics["kl"])
    np.testing.assert_allclose(kl[0], nats, rtol=0.01)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"semantic_channels": 32}, "semantic_channels=32, latent_channels=32"),
        (
            {"side_channels": 2, "causal": True},
            "side_channels=2: a whole utterance's code needs causal=false",
        ),
    ],
)
def test_impossible_variants_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        SpectralCodecConfig.from_dict(values)


def test_labels_are_read_under_the_centre_of_each_frame():
    labels = np.arange(100)
    np.testing.assert_array_equal(labels_at(labels, 4, 50.0), [1, 3, 5, 7])
    np.testing.assert_array_equal(labels_at(labels, 3, 12.5), [4, 12, 20])
    assert labels_at(labels, 60, 50.0)[-1] == -1


def test_the_probe_tells_speaking_codes_from_naming_codes(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = ["path,speaker"]
    for number in range(16):
        import soundfile

        soundfile.write(tmp_path / f"{number}.wav", make_wave(number, 3 * 16_000), 16_000)
        rows.append(f"{number}.wav,{'test' if number < 6 else 'fit'}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    phones = {}

    class Aligner:
        phones = ("a", "b", "c")

        def __call__(self, wave):
            return phones.setdefault(
                wave.tobytes(), np.repeat(rng.integers(0, 3, 30), LABELS_PER_S // 10)
            )

    def fake(say):
        class Fake:
            spec = make_frozen().spec.model_copy(update={"entries": 64})

            def encode(self, waves):
                return [(say(wave)[:, None].repeat(3, 1), None) for wave in waves]

            def encode_side(self, waves):
                return None

            def decode_codes(self, codes, side):
                return [np.zeros(len(view) * HOP, np.float32) for view in codes]

        return Fake()

    monkeypatch.setattr(codec_probe, "PhoneAligner", Aligner)
    speaking = fake(lambda wave: labels_at(phones[wave.tobytes()], 150, 50.0))
    names = {}
    naming = fake(lambda wave: np.full(150, names.setdefault(wave.tobytes(), len(names))))
    said, named = codec_probe.probe_folder(
        {"speaking": [speaking], "naming": [naming, naming]}, tmp_path, ["test"]
    )
    assert said.mean("phones").mean() > 0.99 and said.mean("speaker").mean() < 0.7
    assert named.mean("phones").mean() < 0.6 and named.mean("speaker").mean() > 0.9
    table = codec_probe.to_markdown([said, named])
    assert "| naming less speaking |" in table and "| naming | 2 |" in table
