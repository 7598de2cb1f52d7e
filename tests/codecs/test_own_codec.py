"""The tutorial's codec is loaded from its file, encodes a corpus, and resamples like others."""

import sys
from pathlib import Path

import numpy as np
import pytest
from codec_toys import make_frozen, make_wave
from comparison_toys import make_comparison

from genlab import cli
from genlab.codecs.cache import align_units
from genlab.codecs.frozen import FrozenCodec, load_codec
from genlab.config import GenlabError
from genlab.run import trust
from genlab.studies.contract import check_target

TUTORIAL = Path(__file__).parents[2] / "docs" / "own_codec.py"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_codec(str(TUTORIAL))


def test_the_tutorial_stays_short():
    assert len(TUTORIAL.read_text().splitlines()) < 80


def test_it_is_a_codec(own):
    waves = [make_wave(1, 16_000), make_wave(2, 9_999)]
    encoded = own.encode(waves)
    assert [codes.shape for codes, _ in encoded] == [(50, 8), (32, 8)]
    alone = own.encode(waves[1:])[0]
    np.testing.assert_array_equal(alone[0], encoded[1][0])
    for (codes, latents), wave in zip(encoded, waves):
        quantised = sum(own.code_vectors[level][codes[:, level]] for level in range(8))
        assert np.mean((quantised - latents) ** 2) < 0.5 * np.mean(latents**2)
        [back] = own.decode_latents([latents])
        assert np.corrcoef(back[: len(wave)], wave)[0, 1] > 0.9


def test_its_fingerprint_follows_file_and_parameters(own, tmp_path):
    changed = tmp_path / "mine.py"
    changed.write_text(
        "import jax\nfrom genlab.codecs.convnext import StackConfig\n"
        "from genlab.codecs.spectral import SpectralCodecConfig\n"
        "def codec():\n"
        "    small = StackConfig(width=8, blocks=1)\n"
        "    config = SpectralCodecConfig(encoder=small, decoder=small, entries=8)\n"
        "    return config.build(key=jax.random.key(SEED))\n".replace("SEED", "0")
    )
    first = load_codec(str(changed)).fingerprint
    changed.write_text(changed.read_text().replace("key(0)", "key(1)"))
    assert len({first, load_codec(str(changed)).fingerprint, own.fingerprint}) == 3


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), ("x = 1", "no function codec")]
)
def test_a_file_without_a_codec_is_refused(tmp_path, content, reason):
    path = tmp_path / "none.py"
    if content:
        path.write_text(content)
    with pytest.raises(GenlabError, match=reason):
        load_codec(str(path))


def test_a_function_of_another_name_and_one_in_a_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_package").mkdir()
    source = (
        TUTORIAL.read_text()
        .replace("def codec():", "def cosine():")
        .replace("minutes=1.0", "minutes=0.1")
    )
    (tmp_path / "my_package" / "codecs.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    names = "my_package/codecs.py:cosine", "my_package.codecs:cosine"
    assert len({load_codec(name).fingerprint for name in names}) == 1
    with pytest.raises(
        GenlabError, match=r"codec='my_package.codecs:codec': no function codec\(\) in it"
    ):
        load_codec("my_package.codecs:codec")
    for name in names:
        values = make_comparison(f"data.codec={name}").to_dict()
        assert list(trust.pins_of(values)) == [name]
        with pytest.raises(GenlabError, match=r"data.codec='my_package.*--trust-code"):
            trust.check_code(values, tmp_path / "config.json")
    monkeypatch.delitem(sys.modules, "my_package.codecs")


def test_what_is_no_codec_is_refused(tmp_path):
    (tmp_path / "none.py").write_text("def codec():\n    return object()\n")
    with pytest.raises(
        GenlabError, match=r"got a object, expected an nnx.Module with code_vectors, decode_codes"
    ):
        load_codec(str(tmp_path / "none.py"))


def test_it_is_made_once_in_a_process(tmp_path):
    path = tmp_path / "counted.py"
    path.write_text(
        f"{TUTORIAL.read_text()}\nCALLS = []\ndef counted():\n    CALLS.append(1)\n    return "
        "CosineCodec()\n"
    )
    codecs = [load_codec(f"{path}:counted") for _ in range(3)]
    assert len({codec.fingerprint for codec in codecs}) == 1
    assert trust.load_function(f"{path}:counted", "codec", "codec").__globals__["CALLS"] == [1]


def test_the_tutorial_keeps_every_promise(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    path = tmp_path / "short.py"
    path.write_text(TUTORIAL.read_text().replace("minutes=1.0", "minutes=0.1"))
    findings = check_target(str(path))
    assert [finding for finding in findings if finding.problem] == [] and len(findings) == 7


def test_the_check_names_what_is_broken(tmp_path, capsys):
    path = tmp_path / "broken.py"
    spoiled = "HOP) @ COSINES\n        latents = latents + latents.mean(axis=0, keepdims=True)"
    source = TUTORIAL.read_text().replace("HOP) @ COSINES", spoiled)
    path.write_text(source.replace("def codec():", "def fitted():") + BROKEN)
    assert cli.main(["check", str(path)]) == 1
    told = capsys.readouterr().out
    assert (
        "FAILED  batch mates and padding do not move a clip: latents of a clip differ beside "
        "other clips"
    ) in told
    assert "FAILED  the function returns the same codec every time" in told
    assert "ok      codes and latents have their shapes" in told
    assert cli.main(["check", str(path), "x=1"]) == 2
    assert "x=1: a codec's function takes no fields" in capsys.readouterr().err


BROKEN = """
import random
def codec():
    made = CosineCodec()
    key = jax.random.key(random.randrange(2**31))
    made.quantiser.entries[...] = 0.01 * jax.random.normal(key, made.quantiser.entries.shape)
    return made
"""


def test_waves_keep_the_rate_of_the_caller():
    plain = make_frozen()
    resampling = FrozenCodec(plain._merge(plain._state), "x", {}, wave_rate_hz=24_000)
    wave = make_wave(5, 24_000)
    [(codes, _)] = resampling.encode([wave])
    assert len(codes) == 50, "a second of 24 kHz is a second"
    [decoded] = resampling.decode_codes([codes])
    assert len(decoded) == 24_000
    assert plain.wave_rate_hz == 16_000


def test_units_follow_the_frames():
    units = np.arange(8)
    np.testing.assert_array_equal(align_units(units, 8), units)
    np.testing.assert_array_equal(align_units(units, 2), [2, 6])
    np.testing.assert_array_equal(align_units(np.arange(4), 6), [0, 1, 1, 2, 3, 3])
