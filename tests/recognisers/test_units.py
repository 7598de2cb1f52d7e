import functools
import json
import shutil

import jax
import jiwer
import numpy as np
import pytest
from flax import nnx

from genlab.config import GenlabError
from genlab.data.corpus import Embedded, build_corpus
from genlab.data.text import normalise_text
from genlab.recognisers.ctc import RecogniserConfig
from genlab.recognisers.export import export_recogniser, measure, read_waves
from genlab.recognisers.shipped import load_recogniser, load_units, save_units, weights_path
from genlab.recognisers.transcribe import FrozenRecogniser
from genlab.recognisers.units import UnitEncoder, find_nearest, fit_codebook, speaker_leakage

SMALL = RecogniserConfig(width=16, blocks=2, feature_block=1, num_mels=20)


@functools.cache
def small_model():
    return jax.jit(lambda key: SMALL.build(key=key))(jax.random.key(0))


@functools.cache
def small_recogniser():
    return FrozenRecogniser(small_model(), "0123456789", {})


def noise_waves(count, seed=0):
    generator = np.random.default_rng(seed)
    return [
        (generator.standard_normal(int(generator.integers(4000, 9000))) * 0.1).astype(np.float32)
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return build_corpus(Embedded(minutes=0.7), tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def shipped():
    return load_units()


def test_units_are_deterministic_in_range_and_one_per_frame():
    waves = noise_waves(5)
    books = [
        fit_codebook(small_recogniser(), waves, num_units=12, seed=3, iterations=5)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(books[0].centroids, books[1].centroids)
    encoder = UnitEncoder(small_recogniser(), books[0])
    units = encoder.encode_units(waves)
    for row, wave, again in zip(units, waves, encoder.encode_units(waves)):
        np.testing.assert_array_equal(row, again)
        assert len(row) == -(-len(wave) // 320) and row.min() >= 1 and row.max() <= 12
    # Alone, or as rows of a padded array with counts: the same units.
    np.testing.assert_array_equal(encoder.encode_units(waves[2:3])[0], units[2])
    padded = np.zeros((2, 12_000), np.float32)
    padded[0, : len(waves[0])], padded[1, : len(waves[1])] = waves[0], waves[1]
    from_rows = encoder.encode_units(padded, np.array([len(waves[0]), len(waves[1])]))
    np.testing.assert_array_equal(from_rows[1], units[1])
    # Who waits for their turn says nothing meanwhile.
    [waiting] = encoder.encode_units([np.pad(waves[1], (320 * 100, 0))])
    assert (waiting[:80] == 0).all() and (waiting[100:] > 0).all()


def test_nearest_centroid_is_the_nearest():
    generator = np.random.default_rng(0)
    features, centroids = generator.standard_normal((2, 7, 5)), generator.standard_normal((9, 5))
    expected = np.argmin(((features[:, :, None] - centroids) ** 2).sum(axis=-1), axis=-1)
    np.testing.assert_array_equal(find_nearest(features, centroids), expected)


def test_as_many_units_as_frames_lose_no_content():
    wave = noise_waves(1, seed=5)
    recogniser = small_recogniser()
    frames = -(-len(wave[0]) // 320)
    encoder = UnitEncoder(
        recogniser, fit_codebook(recogniser, wave, num_units=frames, seed=0, iterations=20)
    )
    units = encoder.encode_units(wave)
    # k-means++ may leave a frame or two without its own centroid
    assert len(set(units[0])) > 0.9 * frames
    assert encoder.transcribe_units(units) == recogniser.transcribe(wave)


def test_wrong_units_and_too_little_audio_are_refused():
    encoder = UnitEncoder(
        small_recogniser(), fit_codebook(small_recogniser(), noise_waves(1), num_units=4, seed=0)
    )
    with pytest.raises(GenlabError, match=r"units: expected 1\.\.4, got 0\.\.4"):
        encoder.transcribe_units([np.array([4, 0, 4])])
    with pytest.raises(GenlabError, match="num_units: 999 units need as many frames"):
        fit_codebook(small_recogniser(), noise_waves(1), num_units=999, seed=0)


def test_speaker_leakage_is_one_for_speaker_units_and_chance_for_noise():
    generator = np.random.default_rng(0)
    speakers = [f"s{number % 4}" for number in range(400)]
    is_test = [number >= 200 for number in range(400)]
    telling = [np.full(30, number % 4 + 1) for number in range(400)]
    silent = [generator.integers(1, 5, 30) for _ in range(400)]
    assert speaker_leakage(telling, speakers, 4, is_test=is_test) == 1.0
    assert speaker_leakage(silent, speakers, 4, is_test=is_test) < 0.4


def test_export_writes_what_load_reads(tmp_path, manifest):
    path = tmp_path / "own.safetensors"
    facts = export_recogniser(
        small_model(), manifest, path, {"licences": ["CC0"]}, num_units=8, splits=("test",)
    )
    assert facts["scores"]["test"]["wer"] > 0.5  # it was never trained
    assert facts["scores"]["test"]["clips"] == len(manifest.split("test"))
    encoder = load_units(str(path))
    assert encoder.num_units == 8 and encoder.fingerprint == facts["sha256"][:10]
    assert encoder.recogniser.metadata["licences"] == ["CC0"]
    for mine, theirs in zip(
        jax.tree.leaves(nnx.state(small_model())), jax.tree.leaves(encoder.recogniser.state)
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def test_shipped_files_are_small_and_say_what_they_are():
    path = weights_path("recogniser_16khz")
    assert path.stat().st_size < 4_000_000
    facts = json.loads(path.with_suffix(".json").read_text())
    for field in ("training", "scores", "config", "num_units", "sha256"):
        assert facts.get(field), field
    assert all(source["licence"] for source in facts["training"]["data"])


def test_shipped_weights_read_a_fresh_clip(shipped, manifest):
    clips = [clip for split in manifest.splits for clip in manifest.split(split)]
    waves = read_waves(manifest, clips)
    texts = [normalise_text(clip.text) for clip in clips]
    read = shipped.recogniser.transcribe(waves)
    assert np.mean([text == other for text, other in zip(texts, read)]) > 0.8
    # What is said survives the units well enough to be read by layers that never saw centroids.
    assert jiwer.cer(texts, shipped.transcribe_units(shipped.encode_units(waves))) < 0.15


def test_shipped_weights_refuse_shuffled_audio(shipped, manifest):
    scores = measure(shipped, manifest, "test")
    # Of few words one more or less is read on another processor, with noise or without.
    assert scores["wer"] < 0.15 and scores["wer_noise_20_db"] < 0.15
    assert scores["wer_shuffled"] > 0.8
    assert scores["wer_noise_20_db"] < scores["wer_noise_0_db"]


def _copy(tmp_path):
    source = weights_path("recogniser_16khz")
    path = tmp_path / source.name
    shutil.copy(source, path)
    shutil.copy(source.with_suffix(".json"), path.with_suffix(".json"))
    return path


def _change_json(path, **changes):
    facts = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**facts, **changes}))


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [
        (lambda path: path.unlink(), "no such weights file"),
        (lambda path: path.with_suffix(".json").unlink(), "no such file"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:500_000]),
            "truncated in tensor '(model|units)",
        ),
        (lambda path: path.write_bytes(b"\0" * 64), "not a safetensors file"),
        (
            lambda path: path.write_bytes(path.read_bytes() + b"\0" * 5_000_000),
            "bytes follow the last tensor",
        ),
        (lambda path: _change_json(path, num_units=7), "tensor 'units.centroids' has shape"),
        (lambda path: _change_json(path, num_units=1 << 40), "num_units: expected 1"),
        (
            lambda path: _change_json(path, config=None),
            "field config: expected an object, got null",
        ),
        (
            lambda path: _change_json(path, config={"kind": "ctc", "widht": 3}),
            "did you mean 'width'",
        ),
        (lambda path: _change_json(path, sha256="0" * 64), "SHA-256 differs"),
    ],
)
def test_damaged_files_cost_one_line(tmp_path, damage, pattern):
    path = _copy(tmp_path)
    damage(path)
    with pytest.raises(GenlabError, match=pattern) as caught:
        load_recogniser(str(path))
    assert "\n" not in str(caught.value)


def test_unknown_name_is_refused():
    with pytest.raises(GenlabError, match="no such"):
        load_recogniser("other")


def test_saving_twice_gives_the_same_file(tmp_path):
    book = fit_codebook(small_recogniser(), noise_waves(1), num_units=4, seed=0)
    shas = {
        save_units(tmp_path / name, small_model(), book, {})["sha256"]
        for name in ("a.safetensors", "b.safetensors")
    }
    assert len(shas) == 1
