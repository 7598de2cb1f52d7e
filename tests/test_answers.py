"""Corpora as people have them: every comparison reaches its report, or is refused before anything
is trained.
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from corpus_toys import make_small_comparison, write_corpus

from genlab.cli import main
from genlab.compare import compare
from genlab.config import GenlabError
from genlab.evaluate.rows import load_row
from genlab.fairness.budget import solve_budget
from genlab.preflight import rehearse
from genlab.prompts import choose_prompts, choose_unscored
from genlab.run.bounds import CODES_FLOOR, LOOKUP
from genlab.watch.progress import Progress

ONE_SPEAKER = [("s", f"word {number}", "train" if number < 8 else "test") for number in range(12)]
NO_TEXTS = [("ab"[number % 2], "", "train" if number < 8 else "test") for number in range(12)]
OTHER_SCRIPT = [
    ("s", text, split)
    for text, split in (
        ("你好世界", "train"),
        ("明天见", "train"),
        ("我们去公园", "test"),
        ("今天天气很好", "test"),
    )
]
UNSEEN = [("ab"[n % 2], f"word {n}", "valid" if n > 5 else "train") for n in range(8)] + [
    (f"new{n}", f"new word {n}", "test") for n in range(3)
]


GRID = ["optim.peak_lrs=[1e-3,1e-2]", "checkpoint.rule=best", "checkpoint.looks=3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """results.json and report of each corpus; their token stores share the codec's compiled
    programs.
    """
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, rows, overrides in (
            ("one_speaker", ONE_SPEAKER, ["num_prompts=3", "evaluation.token_prompts=4"]),
            ("no_texts", NO_TEXTS, ["evaluation.audio_draws=2"]),
            ("unseen", UNSEEN, GRID),
        ):
            place = tmp_path_factory.mktemp(name)
            patch.setenv("GENLAB_CACHE", str(place / "cache"))
            said = io.StringIO()
            config = make_small_comparison(write_corpus(place / "corpus", rows), *overrides)
            with Progress(said) as progress:
                results = compare(config, place / "run", progress, "genlab compare")
            report = (place / "run/report.html").read_text(encoding="utf-8")
            found[name] = {
                "results": json.loads(json.dumps(results)),
                "report": report,
                "said": said.getvalue(),
                "run": place / "run",
            }
    return found


def statuses(results: dict) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for item in results["controls"]:
        found.setdefault(item["control"], set()).add((item["status"], item["reason"]))
    return found


def scores_of(results: dict, arm: str) -> dict[str, dict]:
    return next(row for row in results["arms"] if row["name"] == arm)["scores"]


def test_one_speaker_is_compared_without_the_speaker_swap(finished):
    results, report = finished["one_speaker"]["results"], finished["one_speaker"]["report"]
    # The recogniser hears no words in these tones, so word error could decide nothing.
    assert results["primary_score"] == "block_energy" and list(results["struck"]) == ["wer_ctc"]
    found = statuses(results)
    assert found["speaker_swap"] == {
        ("not applicable", "there is no other speaker to compare with")
    }
    assert found["prompt_swap"] == {("not judged", results["struck"]["wer_ctc"])}
    scores = scores_of(results, "masked")
    assert scores["speaker_similarity"]["value"] is not None and "speaker_accuracy" not in scores
    assert "failed speaker swap" not in report and "there is no other speaker" in report


def test_scores_of_tokens_take_more_clips_than_there_are_prompts(finished):
    scores = scores_of(finished["one_speaker"]["results"], "masked")
    of_tokens = ("bits_per_s", "block_energy", "block_energy_tuned", "block_variogram")
    # At its own sampler an arm draws what is heard: after the prompts alone.
    expected = dict.fromkeys(of_tokens, 4) | {"block_energy_tuned": 3}
    assert {name: scores[name]["n"] for name in of_tokens} == expected
    assert scores["mcd"]["n"] == 3
    assert "at the bare law" in scores["block_energy"]["note"]
    assert "at its own sampler" in scores["block_energy_tuned"]["note"]
    bigram = scores_of(finished["one_speaker"]["results"], "bigram")["bits_per_s"]
    assert bigram["n"] == 4 and "chosen on 4 unscored clips" in bigram["note"]
    assert scores["block_energy"]["value"] != scores["block_energy_tuned"]["value"]


def test_energies_have_their_own_audit_which_the_gate_reads(finished):
    results, report = finished["one_speaker"]["results"], finished["one_speaker"]["report"]
    of_blocks = {"block_energy", "block_energy_tuned", "block_variogram"}
    assert set(results["audit"]) == of_blocks
    gate = next(gate for gate in results["gates"] if gate["name"] == "score trusted")
    trusted = results["audit"]["block_energy"]["is_trusted"]
    assert gate["state"] == ("passed" if trusted else "failed")
    assert "The metrics of audio were not audited on this corpus" in report


def test_mean_latents_have_one_energy_under_both_names(finished):
    scores = scores_of(finished["one_speaker"]["results"], LOOKUP)
    same = ("seeds", "unit", "direction", "note", "validity")
    assert [scores["block_energy"][key] for key in same] == [
        scores["block_energy_tuned"][key] for key in same
    ]
    # One of all clips, the other of the prompts.
    assert [scores[name]["n"] for name in ("block_energy", "block_energy_tuned")] == [4, 3]
    assert scores["block_energy"]["value"] > 0


def test_arms_have_the_rates_that_validation_chose(finished):
    results, run = finished["unseen"]["results"], finished["unseen"]["run"]
    tried = json.loads((run / "rates.json").read_text())
    assert set(tried) == {"masked", "diffusion"}
    rates = {row["name"]: row["peak_lr"] for row in results["arms"] if "peak_lr" in row}
    assert rates == {name: one["chosen"] for name, one in tried.items()}
    for name, one in tried.items():
        values = {float(rate): value for rate, value in one["values"].items()}
        assert set(values) == {1e-3, 1e-2} and values[one["chosen"]] == min(values.values())
        made = json.loads((run / f"arms/{name}/seed0/config.json").read_text())
        assert made["optim"]["peak_lr"] == one["chosen"] and made["seed"] == 0
        trial = json.loads((run / f"rates/{name}/0.01/config.json").read_text())
        assert trial["optim"]["peak_lr"] == 1e-2 and trial["seed"] == 1
    ledger = {row["item"]: row for row in json.loads((run / "ledger.json").read_text())["rows"]}
    assert ledger["Peak learning rate"]["values"] == rates
    assert set(ledger["Training trials"]["values"].values()) == {2}
    assert all(value > 0 for value in ledger["Tuning FLOPs"]["values"].values())
    assert any(
        "Every arm tried the learning rates 0.001, 0.01" in line for line in results["method"]
    )


def test_every_prompt_is_drawn_as_often_as_the_config_says(finished):
    run = finished["no_texts"]["run"]
    row = load_row(run / "rows/masked.json")
    assert row is not None
    values = row.per_clip["mcd"]
    assert values.draws == (0,) * 4 + (1,) * 4 and values.runs == (0,) * 8
    assert values.clusters[:4] == values.clusters[4:] and row.scores["mcd"].n == 4
    first, second = np.split(values.values, 2)
    assert (first != second).all()  # other draws, not the same ones again
    assert row.scores["mcd"].value == pytest.approx((first.mean() + second.mean()) / 2)
    samples = run / "arms/masked/seed0/samples"
    assert len(list(samples.glob("*.flac"))) == len(list(samples.glob("draw1/*.flac"))) == 4
    assert not row.per_clip["block_energy"].draws and len(row.per_clip["block_energy"].runs) == 4
    floor = load_row(run / f"rows/{CODES_FLOOR}.json")
    assert floor is not None and not floor.per_clip["mcd"].draws


def test_a_corpus_without_texts_has_intervals_and_a_score_that_decides(finished):
    results, report = finished["no_texts"]["results"], finished["no_texts"]["report"]
    assert results["primary_score"] == "block_energy"
    for arm in ("masked", "diffusion"):
        scores = scores_of(results, arm)
        assert not {name for name in scores if name.startswith("wer")}
        # A clip without text is a unit by itself: four prompts are four units.
        for name in ("block_energy", "mcd", "f0_correlation"):
            assert scores[name]["n"] == 4 and scores[name]["low"] < scores[name]["high"]
    pair = next(pair for pair in results["differences"] if pair["score"] == "block_energy")
    assert pair["low"] is not None and pair["p_holm"] <= 1
    assert statuses(results)["prompt_swap"] == {("not applicable", "the prompts have no text")}
    assert "Energy of the next block" in report and "no deciding score" not in report


def test_test_speakers_with_one_clip_each_have_no_speaker_scores_and_all_the_others(finished):
    results, said = finished["unseen"]["results"], finished["unseen"]["said"]
    assert results["primary_score"] == "block_energy" and list(results["struck"]) == ["wer_ctc"]
    reason = "no prompted speaker has real speech apart from the prompts"
    assert statuses(results)["speaker_swap"] == {("not applicable", reason)}
    scores = scores_of(results, "diffusion")
    assert (
        not {name for name in scores if name.startswith("speaker")} and scores["wer_ctc"]["n"] == 3
    )
    assert "3 of the num_prompts=4 asked for" in said


@pytest.mark.parametrize(
    ("rows", "overrides", "text"),
    [
        (
            NO_TEXTS,
            ["condition.content=text"],
            r"none of the 8 training clips has a text, .* data\.corpus\.manifest",
        ),
        (OTHER_SCRIPT, ["condition.content=text"], "你好世界"),
        (
            ONE_SPEAKER,
            ["data.num_frames=16"],
            r"0 of 4 clips .* data\.num_frames=3\d fits 2 of them, 3\d fits all",
        ),
        (
            ONE_SPEAKER[:9],
            [],
            r"split 'test' has 1 clip, expected at least 2; hold out more: "
            r"data\.corpus\.test_fraction=0\.2 if its splits are drawn, or more rows of that split",
        ),
        (
            ONE_SPEAKER[:8],
            [],
            r"no clips in split 'test', only in train: name some in the column split",
        ),
        (ONE_SPEAKER[8:], [], r"no clips in split 'train', only in test: name some"),
        (
            ONE_SPEAKER,
            ["settings.previews=2"],
            r"no clips in split 'valid', only in test, train: name",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_encoded(
    rows, overrides, text, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    config = make_small_comparison(write_corpus(tmp_path / "corpus", rows), *overrides)
    with pytest.raises(GenlabError, match=text), Progress(io.StringIO()) as progress:
        compare(config, tmp_path / "run", progress, "genlab compare")
    assert not list((tmp_path / "cache").glob("tokens-*")) and not (tmp_path / "run/arms").exists()


def test_a_dry_run_checks_everything_and_prints_the_plan(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    config = make_small_comparison(
        write_corpus(tmp_path / "corpus", UNSEEN), "equivalence.wer_grammar=0.1"
    )
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert main(["compare", "config.json", "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "arms: masked, diffusion, each with 1 training seed" in said
    assert "prompts: 3 of split 'test', 3 speakers" in said
    assert "deciding score: block_energy" in said
    # Tones are no words: what strikes a score in the end is known before anything is trained.
    assert "note: wer_ctc cannot decide: its recogniser mishears the real clips" in said
    assert "; block_energy decides" in said
    assert (
        "score speaker_similarity, speaker_accuracy: no, no prompted speaker has real speech"
        in said
    )
    assert "score bits_per_s: yes, of masked, diffusion" in said
    assert (
        "control prompt_swap: yes control speaker_swap: no, no prompted speaker has real speech"
        in said
    )
    assert "note: prompts: 3 of the num_prompts=4 asked for" in said
    assert "note: equivalence.wer_grammar: this comparison has no such score" in said
    assert "checkpoints" in said and "FLOP" in said
    assert not (tmp_path / "runs").exists() and not list((tmp_path / "cache").glob("tokens-*"))
    # What stops the comparison stops its dry run, with one line and the exit code of a user's
    # error.
    assert main(["compare", "config.json", "--dry-run", "data.num_frames=8"]) == 2
    assert "0 of 3 clips of split 'test'" in capsys.readouterr().err


def test_every_score_that_will_not_be_there_has_a_reason(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    off = ["evaluation.dnsmos_clips=0", "evaluation.energy_draws=0", "evaluation.reference_clips=2"]
    config = make_small_comparison(write_corpus(tmp_path / "corpus", ONE_SPEAKER), *off)
    with Progress(io.StringIO()) as progress:
        found = rehearse(config, progress).preflight
    why = {check.names[0]: check.note for check in found.scores + found.controls if not check.runs}
    assert why["dnsmos_ovrl"] == "evaluation.dnsmos_clips=0"
    assert why["block_energy"] == "evaluation.energy_draws=0"
    assert found.deciding == "speaker_similarity"  # hums are no words to the recogniser
    assert why["coverage"].startswith("only 2 real clips to compare with")
    assert all(why.values())


def test_the_plan_of_a_budget_is_that_of_the_encoded_corpus(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    config = make_small_comparison(write_corpus(tmp_path / "corpus", ONE_SPEAKER))
    with Progress(io.StringIO()) as progress:
        planned = rehearse(config, progress)
        store = config.data.open(progress)
    assert planned.budgets == solve_budget(config, store)
    chosen = choose_prompts(store, config.data, "test", config.num_prompts)
    assert [clip.id for clip in planned.preflight.prompts] == [clip.id for clip in chosen]
    # no validation split, and every training clip is longer
    unscored = choose_unscored(store, config.data.model_copy(update={"num_frames": 16}), "test", 3)
    assert len(unscored) == 3 and {len(clip.units) for clip in unscored} == {16}
    assert not {clip.id for clip in unscored} & {clip.id for clip in chosen}
