"""A recogniser that hears nothing of the real clips decides nothing, and the answer says so."""

from types import SimpleNamespace

import numpy as np
import pytest
from comparison_toys import make_comparison

from genlab import preflight
from genlab.config import GenlabError
from genlab.data.audio import SPEECH_AUDIO
from genlab.data.corpus import Embedded
from genlab.evaluate import hearing
from genlab.evaluate.controls import Control
from genlab.evaluate.domains import SPEECH
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.scores import clip_means
from genlab.evaluate.table import make_score
from genlab.preflight import Check
from genlab.report.answer import find_answer, primary_score
from genlab.report.results import _deciding_score, _judged
from genlab.studies import pareto


@pytest.mark.parametrize(
    ("errors", "is_struck"), [(0.02, False), (0.29, False), (0.3, True), (1.0, True), (1.7, True)]
)
def test_only_a_recogniser_that_hears_the_real_clips_judges(errors, is_struck):
    struck = SPEECH.struck({"wer_ctc": errors, "block_energy": 5.0, "speaker_similarity": 0.99})
    assert set(struck) == ({"wer_ctc"} if is_struck else set())
    if is_struck:
        assert struck["wer_ctc"] == (
            f"its recogniser mishears the real clips (error rate {errors:.2f})"
        )
    assert SPEECH.struck({"wer_ctc": float("nan")}) == SPEECH.struck({}) == {}


def rows(*names):
    values = clip_means(np.array([0.1, 0.2, 0.3]), (0, 1, 2))
    scores = {name: make_score(name, values.estimate(0), seeds=1) for name in names}
    return {arm: RowResult(scores, {}, {}, ()) for arm in ("ar", "masked", "diffusion")}


@pytest.mark.parametrize(
    ("measured", "decides"),
    [
        (("wer_ctc", "block_energy", "speaker_similarity"), "block_energy"),
        (("wer_ctc", "speaker_similarity"), "speaker_similarity"),
        (("wer_ctc",), None),
    ],
)
def test_the_next_score_that_the_corpus_has_decides_or_none_does(measured, decides):
    clips = [SimpleNamespace(text="lift the red cup")] * 2
    preflight = SimpleNamespace(scores=[Check(measured, True)], prompts=clips, deciding="wer_ctc")
    material = SimpleNamespace(preflight=preflight)
    config = make_comparison()
    reason = SPEECH.struck({"wer_ctc": 1.0})
    assert _deciding_score(config, material, rows(*measured), reason) == decides
    assert _deciding_score(config, material, rows(*measured), {}) == "wer_ctc"


def test_a_control_by_a_struck_score_is_not_judged():
    failed = Control("prompt_swap", "wer_ctc", 0.0, -0.1, 0.1, passed=False)
    lucky = failed._replace(passed=True)
    other = Control("speaker_swap", "speaker_similarity", -0.1, -0.2, -0.05, passed=True)
    reason = SPEECH.struck({"wer_ctc": 1.0})
    assert failed.status == "failed"
    assert {_judged(control, reason).status for control in (failed, lucky)} == {"not judged"}
    assert _judged(other, reason) == other and _judged(failed, {}) == failed


def results(primary, *names):
    scores = {
        name: {"value": 0.5, "low": 0.4, "high": 0.6, "seeds": 3, "direction": "lower", "n": 3}
        for name in names
    }
    arms = [{"name": name, "family": name, "scores": scores} for name in ("ar", "masked")]
    struck = SPEECH.struck({"wer_ctc": 0.98})
    return {"arms": arms, "primary_score": primary, "struck": struck, "controls": []}


def test_the_answer_names_what_was_struck():
    told = (
        "Word error (CTC) does not decide: its recogniser mishears the real clips (error rate "
        "0.98)."
    )
    found = results("block_energy", "wer_ctc", "block_energy")
    assert primary_score(found) == "block_energy"
    assert told in find_answer(found, {"stamp": "controlled"}).shows
    found = results(None, "wer_ctc")
    assert primary_score(found) is None
    answer = find_answer(found, {"stamp": "controlled"})
    assert answer.status == "not settled" and answer.winner == ""
    assert answer.headline == f"Not settled: no score can decide here. {told}"


class Told:
    """A progress that keeps its notes."""

    def __init__(self):
        self.notes = []

    def __call__(self, *args):
        pass

    def note(self, text):
        self.notes.append(text)


CLIPS = [SimpleNamespace(id=str(n), text=f"word number {n}", units=range(21 + n)) for n in range(4)]


@pytest.fixture
def heard(monkeypatch):
    """Return a comparison, and what its recogniser hears of each clip from now on."""
    hypotheses = [clip.text for clip in CLIPS]
    silence = np.zeros(160, np.int16)
    manifest = SimpleNamespace(
        clips=CLIPS,
        find=lambda ids: {clip.id: clip for clip in CLIPS if clip.id in set(ids)},
        audio=lambda clip: silence,
        audio_format=SPEECH_AUDIO,
    )
    data = SimpleNamespace(
        domain=SPEECH,
        corpus=Embedded(),
        is_heard=True,
        build_audio=lambda progress: manifest,
        load_codec=Told,
    )
    recogniser = SimpleNamespace(transcribe=lambda waves: hypotheses[: len(waves)])
    monkeypatch.setattr(hearing, "load_recogniser", lambda: recogniser)
    condition = SimpleNamespace(content="text", speaker=True)
    return SimpleNamespace(data=data, condition=condition, num_prompts=4), hypotheses


def test_settings_are_not_chosen_by_a_recogniser_that_hears_nothing(heard):
    config, hypotheses = heard
    preflight.check_chooses(config, "wer_ctc", CLIPS, 50.0, Told())
    hypotheses[:] = ["", "", "", "number"]  # one of twelve words: an error rate of 0.92
    with pytest.raises(GenlabError, match=r"error rate 0\.92"):
        preflight.check_chooses(config, "wer_ctc", CLIPS, 50.0, Told())
    said = (
        "--by wer_ctc: its recogniser mishears the real clips (error rate 1.00); "
        "use --by block_energy"
    )
    hypotheses[3] = ""
    with pytest.raises(GenlabError) as refused:
        preflight.check_chooses(config, "wer_ctc", CLIPS, 50.0, Told())
    assert str(refused.value) == said
    preflight.check_chooses(config, "block_energy", CLIPS, 50.0, Told())
    with pytest.raises(GenlabError, match=r"--by block_energy: every validation .* than 0\.48 s"):
        preflight.check_chooses(config, "block_energy", CLIPS, 60.0, Told())  # blocks of 14 frames
    silent = [SimpleNamespace(id="0", text="")]
    with pytest.raises(GenlabError, match="no validation prompt has a text; use --by block_energy"):
        preflight.check_chooses(config, "wer_ctc", silent, 50.0, Told())


@pytest.mark.parametrize(
    ("measured", "hypotheses", "decides", "note"),
    [
        (
            ("wer_ctc", "speaker_similarity"),
            None,
            "wer_ctc",
            "wer_ctc of the prompts' real clips: 0.00",
        ),
        (
            ("wer_ctc", "speaker_similarity"),
            ["", "", "", "number"],
            "speaker_similarity",
            "wer_ctc cannot decide: its recogniser mishears the real clips (error rate 0.92); "
            "speaker_similarity decides",
        ),
        (
            ("wer_ctc",),
            [""] * 4,
            "mcd",
            "wer_ctc cannot decide: its recogniser mishears the real clips (error rate 1.00); "
            "no score can decide here",
        ),
        (("speaker_similarity",), [""] * 4, "speaker_similarity", ""),
    ],
)
def test_what_decides_is_known_before_training(heard, measured, hypotheses, decides, note):
    config, says = heard
    says[:] = hypotheses or says
    manifest = config.data.build_audio(None)
    found = preflight.Preflight(CLIPS, [Check(measured, True)], [], measured[0], ["before"])
    after = preflight.hear_prompts(config, manifest, found)
    assert after.deciding == decides and after.notes == ["before", *filter(None, [note])]


def test_many_passes_over_few_clips_are_noted():
    budgets = {"ar": SimpleNamespace(epochs=437.2), "masked": SimpleNamespace(epochs=50.0)}
    [note] = preflight._note_epochs(budgets, holds_texts=True)
    assert note.startswith("epochs: ar 437: more than 50 passes over the clips of training")
    assert note.endswith("are dropped unless data.corpus.shared_texts=true)")
    assert preflight._note_epochs({"masked": budgets["masked"]}, holds_texts=True) == []
    [note] = preflight._note_epochs(budgets, holds_texts=False)
    assert note.endswith("or train on more clips"), "tokens of one's own drop none for their text"


@pytest.mark.parametrize(
    ("measured", "refused"),
    [
        (("wer_ctc", "block_energy"), ""),
        (("wer_ctc", "speaker_similarity"), "is speaker_similarity (wer_ctc: its recogniser"),
        (("wer_ctc",), "is none (wer_ctc: its recogniser mishears"),
    ],
)
def test_fronts_go_by_the_score_that_will_decide(heard, monkeypatch, measured, refused):
    config, hypotheses = heard
    found = SimpleNamespace(prompts=CLIPS, scores=[Check(measured, True)], deciding="wer_ctc")
    monkeypatch.setattr(pareto, "inspect", lambda *args: found)
    monkeypatch.setattr(pareto, "pick_from_manifest", lambda *args: CLIPS)
    progress = Told()
    pareto.check_fronts(config, progress)
    assert not progress.notes
    hypotheses[:] = [""] * 4
    if refused:
        with pytest.raises(GenlabError) as error:
            pareto.check_fronts(config, progress)
        assert refused in str(error.value) and not progress.notes
        return
    pareto.check_fronts(config, progress)
    assert not progress.notes  # the energy decides, whatever a recogniser hears


def test_fronts_are_measured_by_what_decided(heard, monkeypatch, tmp_path):
    config, _ = heard
    config.evaluation = SimpleNamespace(seed=0)
    made = results("block_energy", "wer_ctc", "block_energy")
    material = SimpleNamespace(preflight=SimpleNamespace(deciding="wer_ctc"))
    asked = []
    monkeypatch.setattr(pareto.outputs, "read_results", lambda out: made)
    monkeypatch.setattr(pareto, "gather", lambda *args: material)
    settings = {"ar": [SimpleNamespace(name="own setting")]}
    monkeypatch.setattr(pareto, "list_settings", lambda config: settings)
    monkeypatch.setattr(pareto, "_measure", lambda *args: (asked.append(args[-1]), {}))
    monkeypatch.setattr(pareto, "_judge", lambda *args: asked.append(args[-1]) or [])
    pareto.trace_fronts(config, tmp_path, Told())
    assert asked == ["block_energy_tuned"] * 2  # a sampler does not move the bare law
    made["primary_score"] = None
    with pytest.raises(GenlabError, match="the deciding score here is none"):
        pareto.trace_fronts(config, tmp_path, Told())


def test_a_corpus_is_described_by_what_the_recogniser_hears_of_it(heard):
    _, hypotheses = heard
    splits = {"train": CLIPS[:1], "test": CLIPS}
    manifest = SimpleNamespace(
        splits=["train", "test"],
        split=splits.get,
        audio=lambda clip: np.zeros(160, np.int16),
        audio_format=SPEECH_AUDIO,
    )
    (line,) = hearing.describe_hearing(Embedded(), manifest)
    assert line.endswith("on 4 real clips of test: 0.00, below 0.3")
    # Two of four clips are not heard at all.
    hypotheses[:2] = ["", ""]
    (line,) = hearing.describe_hearing(Embedded(), manifest)
    assert line.endswith("test: 0.50, so it is no judge here: a judge stays below 0.3")
    splits["test"] = [SimpleNamespace(id="0", text="")]
    assert hearing.describe_hearing(Embedded(), manifest) == []
