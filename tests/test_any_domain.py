"""Music and sound: a folder of stereo files at 48 kHz goes through a comparison, and nothing that
hears speech is loaded for it.
"""

import base64
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpus_toys import make_small_comparison

from genlab.config import ConfigError, GenlabError
from genlab.data.corpus import build_corpus
from genlab.data.folder import Folder
from genlab.evaluate.domains import MUSIC, SOUND, domain_of
from genlab.listen.stimuli import cut_alike, low_anchor

RATE_HZ = 48_000
CLASSES = ("beep", "hiss", "thud")
CLIPS = 8  # of each class
# Weights and packages that hear speech, as they appear in paths and in names of modules.
SPEECH = ("livekit", "speechmos", "swift_f0", "voicefilter", "pocketsphinx", "recogniser_16khz")


def make_sound(kind: str, number: int) -> np.ndarray:
    """Return a stereo sound of its class. Left and right differ; `hiss` is mostly above 8 kHz."""
    draw = np.random.default_rng([number, CLASSES.index(kind)])
    time_s = np.arange(round((0.7 + 0.03 * (number % 4)) * RATE_HZ)) / RATE_HZ
    if kind == "beep":
        wave = np.sin(2 * np.pi * draw.uniform(600, 900) * time_s)
    elif kind == "hiss":
        wave = np.diff(draw.standard_normal(len(time_s)), 2, prepend=[0, 0]) / 4
    else:
        wave = np.exp(-9 * time_s) * np.sin(2 * np.pi * draw.uniform(60, 110) * time_s)
    pan = draw.uniform(0.3, 0.7)
    return 0.3 * np.stack(
        [pan * wave, (1 - pan) * wave + 1e-3 * draw.standard_normal(len(wave))], 1
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sounds")
    for kind in CLASSES:
        (place / kind).mkdir()
        for number in range(CLIPS):
            soundfile.write(place / kind / f"{number}.wav", make_sound(kind, number), RATE_HZ)
    return place


def make_corpus(folder: Path, **fields: object) -> Folder:
    values = {"domain": "sound", "sample_rate_hz": RATE_HZ, "channels": 2, "test_fraction": 0.3}
    return Folder(path=str(folder), **{**values, **fields})  # type: ignore[arg-type]


def test_a_folder_keeps_its_rate_and_channels(folder, tmp_path):
    manifest = build_corpus(make_corpus(folder), tmp_path)
    assert manifest.audio_format == (RATE_HZ, 2) and len(manifest.clips) == 24
    [clip] = [clip for clip in manifest.clips if clip.id.startswith("hiss/3")]
    wave = manifest.audio(clip) / 32767
    np.testing.assert_allclose(wave, make_sound("hiss", 3), atol=1e-4)
    assert clip.duration_s == pytest.approx(0.79)
    assert clip.speaker == "hiss"


def test_a_domain_decides_the_format_only_where_the_corpus_does_not(folder, tmp_path):
    for name, expected in (("speech", (16_000, 1)), ("sound", (44_100, 1)), ("music", (44_100, 2))):
        corpus = Folder(path=str(folder), domain=name)  # type: ignore[arg-type]
        assert corpus.audio_format == expected == domain_of(corpus).audio
    mono = build_corpus(make_corpus(folder, channels=1), tmp_path)
    assert {mono.audio(clip).ndim for clip in mono.clips} == {1}
    # What audio is measured by changes none of it, and the plain folder is what it always was.
    plain = Folder(path=str(folder))
    inputs = [corpus.recipe(None).inputs for corpus in (plain, make_corpus(folder))]
    assert not {"domain", "audio", "channels"} & inputs[0]["config"].keys()
    assert inputs[1]["config"]["audio"] == [RATE_HZ, 2]
    speech = plain.model_copy(update={"domain": "sound", "sample_rate_hz": 16_000})
    assert plain.digest() != speech.digest()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"domain": "noise"}, "domain"),
        ({"sample_rate_hz": 8_000}, "sample_rate_hz"),
        ({"channels": 3}, "channels"),
        ({"two_sided": True}, "two_sided=true: the channels are two sides"),
    ],
)
def test_what_no_corpus_can_be_is_refused(folder, fields, expected):
    values = make_corpus(folder).to_dict() | fields
    with pytest.raises(ConfigError, match=expected):
        Folder.from_dict(values)


def test_semantic_units_are_refused_where_there_are_none(folder):
    assert not SOUND.has_units and not MUSIC.has_units
    with pytest.raises(ValueError, match=r"semantic.*sound, has no semantic units.*content=none"):
        make_small_comparison(make_corpus(folder))


def test_clips_of_two_formats_are_no_corpus(folder, tmp_path):
    manifest = build_corpus(make_corpus(folder), tmp_path)
    mixed = [dataclasses.replace(manifest.clips[0], channels=1), *manifest.clips[1:]]
    with pytest.raises(GenlabError, match="48000 Hz mono and at 48000 Hz stereo, expected one"):
        _ = type(manifest)(mixed, manifest.root).audio_format


TRACED = """
import json, sys
opened = set()
def watch(event, args):
    if event == "open" and isinstance(args[0], str):
        opened.add(args[0])
sys.addaudithook(watch)
from genlab.cli import main
code = main(["compare", "sounds.py", "--out", "runs"])
# What is installed is listed from its metadata, which loads none of it.
named = {name for name in opened if ".dist-info" not in name} | {*sys.modules}
found = sorted(name for name in named if any(word in name for word in %r))
print(json.dumps({"code": code, "found": found, "wavs": sum(".flac" in name for name in opened)}))
"""

CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from corpus_toys import make_small_comparison
from genlab.data.folder import Folder
from genlab.decoders.conditioning import ConditionConfig
def config():
    corpus = Folder(
        path={folder!r}, domain="sound", sample_rate_hz=48_000, channels=2, test_fraction=0.3
    )
    condition = ConditionConfig(layers=1, content="none")
    config = make_small_comparison(corpus, "num_prompts=3", condition=condition)
    arms = {{"diffusion": config.arms["diffusion"]}}  # one family, because each compiles its own
    return config.model_copy(update={{"arms": arms, "baselines": ()}})
"""


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory) -> tuple[dict, Path]:
    """What `genlab compare` printed last, and the run directory."""
    place = tmp_path_factory.mktemp("compared")
    tests = str(Path(__file__).parent)
    (place / "sounds.py").write_text(CONFIG.format(tests=tests, folder=str(folder)))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", TRACED % (SPEECH,)],
        cwd=place,
        env=os.environ | {"GENLAB_CACHE": str(place / "cache"), "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and '"code": 0' in done.stdout, done.stderr[-4000:]
    [results] = place.glob("runs/**/results.json")
    return json.loads(done.stdout.splitlines()[-1]), results.parent


def test_nothing_that_hears_speech_is_loaded_for_sounds(finished):
    trace, _ = finished
    assert trace["wavs"] > 20  # the trace sees what is opened
    assert trace["found"] == []


def test_samples_report_and_events_are_stereo_at_the_rate_of_the_corpus(finished):
    _, run = finished
    samples = sorted(run.glob("**/samples/*.flac"))
    assert samples
    for path in samples:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (RATE_HZ, 2)
    page = (run / "report.html").read_text(encoding="utf-8")
    players = re.findall(r"data:audio/wav;base64,([A-Za-z0-9+/=]+)", page)
    formats = {_format_of(base64.b64decode(player)) for player in players}
    assert players and formats == {(RATE_HZ, 2)}


def _format_of(content: bytes) -> tuple[int, int]:
    info = soundfile.info(io.BytesIO(content))
    return info.samplerate, info.channels


def test_the_table_has_the_scores_of_its_domain_and_none_of_speech(finished):
    _, run = finished
    results = json.loads((run / "results.json").read_text())
    scores = {row["name"]: row["scores"] for row in results["arms"]}
    found = {*scores["diffusion"]}
    assert found <= {row.name for row in SOUND.metrics}
    assert not {"wer_ctc", "dnsmos_ovrl", "kad"} & found
    assert {"ltas_distance", "kad_timbre", "coverage_timbre", "class_accuracy"} <= found
    assert {"block_energy", "bits_per_s"} <= found
    assert results["primary_score"] == "block_energy"
    # The classifier was fitted to training clips alone, and tells beeps from hisses and thuds.
    assert scores["real"]["class_accuracy"]["value"] == 1.0
    assert "stft_distance" in scores["codec_floor_codes"]
    # A codec at 16 kHz loses what is above 8 kHz, which only the rate of the corpus shows.
    assert scores["codec_floor_codes"]["ltas_distance"]["value"] > 3
    assert scores["real"]["ltas_distance"]["value"] == 0
    # Arms of three steps need not follow their class, but are asked whether they do.
    asked = {(row["control"], row["arm"], row["score"]) for row in results["controls"]}
    assert asked == {
        ("class_swap", "diffusion", "class_accuracy"),
        ("prefix_swap", "diffusion", "block_energy"),
    }


def test_the_listening_test_keeps_both_channels():
    wave = make_sound("hiss", 0).astype(np.float32)
    anchor = low_anchor(wave, RATE_HZ)
    assert anchor.shape == wave.shape
    for side in (0, 1):
        np.testing.assert_allclose(anchor[:, side], low_anchor(wave[:, side], RATE_HZ), atol=1e-6)
    cut = cut_alike({"a": wave, "b": wave[:-100]}, RATE_HZ, 0)
    assert cut["a"].shape == cut["b"].shape == (len(wave) - 100, 2)
