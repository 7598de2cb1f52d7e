"""Domains: each corpus has one, and it says what decides, from what runs and what the arms are
told.
"""

import ast
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest

import genlab
from genlab.cli import main
from genlab.config import GenlabError
from genlab.data.audio import AudioFormat
from genlab.data.chorales import Chorales
from genlab.data.classes import ESC50, SpeechCommands
from genlab.data.dialogue import Dialogue
from genlab.data.embedded import Embedded
from genlab.data.folder import Folder
from genlab.data.hf_dataset import HFDataset
from genlab.data.known_entropy import KnownEntropy
from genlab.data.layouts import FSDD, VCTK, LibriSpeech, LJSpeech
from genlab.data.manifest import Clip, text_key
from genlab.data.mixtures import Mixtures
from genlab.data.sounds import Sounds
from genlab.data.webdataset import Shards
from genlab.decoders.conditioning import ConditionConfig
from genlab.evaluate.domains import MUSIC, SOUND, SPEECH, Deciding, domain_of
from genlab.evaluate.table import METRICS, find_metric
from genlab.experiment import TokenData
from genlab.studies.tune import Tuning


def test_every_corpus_of_speech_is_speech_and_no_digest_holds_that():
    corpora = [Embedded(minutes=1), Dialogue(corpus=Embedded(minutes=1))]
    layouts = (Folder, LibriSpeech, LJSpeech, VCTK, FSDD, SpeechCommands, Shards, HFDataset)
    corpora += [kind(path="here") for kind in layouts]
    corpora += [Mixtures(corpus=Embedded(minutes=1))]
    for corpus in corpora:
        assert (
            domain_of(corpus) is SPEECH and TokenData(corpus=corpus, num_frames=4).domain is SPEECH
        )
        assert "domain" not in corpus.lean_dict()
    with pytest.raises(GenlabError, match="tokens that never were audio"):
        _ = TokenData(corpus=KnownEntropy(), num_frames=4).domain


def test_corpora_of_sounds_are_sound():
    for corpus in (Sounds(), ESC50(path="here"), Mixtures(corpus=Sounds())):
        assert domain_of(corpus) is SOUND and "domain" not in corpus.lean_dict()


def test_chorales_are_music():
    assert domain_of(Chorales()) is MUSIC and "domain" not in Chorales().to_dict()


def test_a_corpus_may_hold_a_domain_of_its_own():
    birds = dataclasses.replace(SPEECH, name="birds", deciding=(Deciding("kad"),), leading=("kad",))

    class Birds(Folder):
        domain = birds

    assert domain_of(Birds(path="here")) is birds
    assert Birds(path="here").audio_format == (16_000, 1)
    loud = dataclasses.replace(birds, audio=AudioFormat(48_000, 2))

    class LoudBirds(Folder):
        domain: ClassVar[Any] = loud

    assert LoudBirds(path="here").audio_format == (48_000, 2)
    assert LoudBirds(path="here", channels=1).audio_format == (48_000, 1)
    with pytest.raises(ValueError, match="domain birds: wer_ctc is none of its metrics"):
        dataclasses.replace(
            birds, metrics=tuple(metric for metric in METRICS if metric.name != "wer")
        )


def test_speakers_are_the_units_where_many_people_say_a_few_texts():
    def clip(id_, text, speaker):
        return Clip(id_, f"{id_}.flac", text, speaker, "test", 16_000, "CC0")

    clips = [clip("a", "bed", "ann"), clip("b", "bed", "bob"), clip("c", "cat", "ann")]
    clips += [clip("d", "cat", "")]
    texts, people = Folder(path="here"), Folder(path="here", unit="speaker")
    assert [domain_of(texts).unit_of(each) for each in clips] == ["bed", "bed", "cat", "cat"]
    assert [domain_of(people).unit_of(each) for each in clips] == ["ann", "bob", "ann", "clip d"]
    assert domain_of(people).unit == "speaker" and domain_of(people).metrics == SPEECH.metrics
    assert texts.digest() == Folder.from_dict({"path": "here"}).digest() != people.digest()


def test_speech_is_measured_by_every_row_and_conditions_are_fields():
    assert SPEECH.metrics == METRICS and SPEECH.unit_of is text_key
    assert SPEECH.audio == (16_000, 1)
    assert {*SPEECH.conditions} <= {*ConditionConfig.model_fields}
    assert {swap.follows for swap in SPEECH.controls} == {*SPEECH.conditions}
    with pytest.raises(ValueError, match="domain speech: speaker is none of its conditions"):
        dataclasses.replace(SPEECH, conditions=("content",))


def test_only_a_domain_says_what_one_unit_is():
    """A stage that names `text_key` would count texts in a corpus whose unit is another."""
    root = Path(genlab.__file__).parent
    naming = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.alias | ast.Attribute)
        and "text_key" in (getattr(node, "name", ""), getattr(node, "attr", ""))
    }
    assert {name for name in naming if not name.startswith("data/")} == {"evaluate/domains.py"}


def test_tuning_goes_by_what_the_domain_searches(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    first, *others = SPEECH.searched
    told = " ".join(capsys.readouterr().out.split())
    assert f"{first} (default) or {' or '.join(others)}, on validation prompts" in told
    assert Tuning().by == first


@pytest.mark.parametrize(
    ("content", "speaker", "absent", "decides"),
    [
        (True, True, "", "block_energy"),
        (True, False, "wer_ctc", "block_energy"),
        (False, True, "", "block_energy"),
        (True, True, "block_energy", "wer_ctc"),
        (False, True, "block_energy", "speaker_similarity"),
        (False, False, "block_energy", "mcd"),
    ],
)
def test_the_proper_score_decides_and_descriptions_where_it_is_absent(
    content, speaker, absent, decides
):
    runs = {"wer_ctc", "block_energy", "speaker_similarity", "mcd", "kad"} - {absent}
    assert SPEECH.decide(runs, {"content": content, "speaker": speaker}) == decides
    assert SPEECH.decide(set(), {"content": content, "speaker": speaker}) == "mcd"


def test_what_decides_first_is_measured_at_the_bare_law():
    assert find_metric(SPEECH.deciding[0].score).is_bare
    # A search over samplers needs a score that samplers move, and tuning may use either.
    moved = [name for name in SPEECH.searched if not find_metric(name).is_bare]
    assert moved and set(moved) < set(SPEECH.searched)
