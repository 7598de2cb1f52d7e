"""The audit on metrics whose faults are known: it must catch each of them, and leave the sound one
alone.
"""

import types

import numpy as np
import pytest
import scipy.signal

from genlab.data.audio import AudioFormat
from genlab.evaluate import audit
from genlab.evaluate.energy_audit import SPREAD, audit_blocks
from genlab.evaluate.metrics import RowResult, Wanted
from genlab.evaluate.scores import Score, clip_means
from genlab.evaluate.table import find_metric, make_score
from genlab.statistics.bootstrap import Estimate

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def prompts():
    """Clips of a tone that glides, each at its own pitch, over a second."""
    time = np.arange(RATE_HZ) / RATE_HZ
    waves = [
        np.sin(2 * np.pi * (200 + 40 * i) * (time + time**2)).astype(np.float32) * 0.3
        for i in range(24)
    ]
    return [Wanted(str(i), "", "s", wave) for i, wave in enumerate(waves)]


def distance(wave, real):
    spectra = [
        np.log(np.abs(scipy.signal.stft(one, nperseg=256)[2]) + 1e-3) for one in (wave, real)
    ]
    return float(np.abs(spectra[0] - spectra[1]).mean())


def score_with(**measures):
    """Return a `score_clips` of these metrics of (wave, real wave, position)."""

    def score_clips(waves, prompts, context, *, metrics, is_reconstruction):
        per_clip, scores = {}, {}
        for name, measure in measures.items():
            values = np.array(
                [
                    measure(wave, prompt.wave, i)
                    for i, (wave, prompt) in enumerate(zip(waves, prompts))
                ]
            )
            per_clip[name] = clip_means(values, tuple(range(len(values))))
            scores[name] = make_score(name, per_clip[name].estimate(), seeds=1)
        return RowResult(scores, per_clip, {}, ())

    return score_clips


def run(monkeypatch, prompts, **metrics):
    monkeypatch.setattr(audit, "score_clips", score_with(**metrics))
    context = types.SimpleNamespace(
        config=types.SimpleNamespace(seed=0), audio=AudioFormat(16_000, 1)
    )
    return audit.audit_metrics(prompts, context)  # type: ignore[arg-type]


def test_a_metric_that_hears_everything_is_trusted(monkeypatch, prompts):
    found = run(monkeypatch, prompts, mcd=lambda wave, real, i: distance(wave, real))["mcd"]
    assert (
        found.is_trusted and set(found.verdicts.values()) == {"ranks"} and found.false_alarms == 0
    )
    assert all(
        values == sorted(values) for values in (found.values["noise"], found.values["coarse"])
    )
    assert found.to_dict()["is_trusted"] is True


def test_a_blind_a_reversed_and_a_nervous_metric_are_caught(monkeypatch, prompts):
    rng = np.random.default_rng(0)
    noise = {i: rng.normal() for i in range(len(prompts))}
    found = run(
        monkeypatch,
        prompts,
        mcd=lambda wave, real, i: noise[i],  # hears nothing
        # higher is better, but it grows with the damage
        pesq=lambda wave, real, i: distance(wave, real),
        mel_distance=lambda wave, real, i: distance(wave, real) + 5 * (np.abs(wave).max() < 0.25),
    )
    assert found["mcd"].failed == ("noise", "low-pass", "coarse", "shuffle", "smoothing")
    assert (
        set(found["mcd"].verdicts.values()) == {"blind"}
        and found["mcd"].false_alarms < audit.MOST_FALSE_ALARMS
    )
    assert found["pesq"].verdicts["noise"] == "reversed" and not found["pesq"].is_trusted
    assert found["mel_distance"].verdicts["noise"] == "ranks"


def test_a_metric_that_need_see_nothing_is_judged_by_its_false_alarms(monkeypatch, prompts):
    found = run(monkeypatch, prompts, clip_code_entropy=lambda wave, real, i: distance(wave, real))
    assert (
        found["clip_code_entropy"].verdicts["noise"] == "reversed"
        and found["clip_code_entropy"].is_trusted
    )


def test_a_set_distance_is_judged_by_whether_intervals_meet(prompts):
    def row(low, high, name="kad"):
        score = Score(*Estimate((low + high) / 2, low, high, 24), 1, "", "lower")
        return RowResult({name: score}, {}, {}, ())

    clean, near, far = row(0, 1), row(0.5, 2), row(3, 4)
    rows = {"clean": [clean], "half": [near, clean]}
    rows |= {
        "noise": [near, far],
        "low-pass": [near],
        "coarse": [far, near],
        "shuffle": [far, row(-2, -1)],
    }
    found = audit.judge_rows(find_metric("kad"), "kad", rows, seed=0)
    assert found.verdicts == {
        "noise": "ranks",
        "low-pass": "blind",
        "coarse": "reversed",
        "shuffle": "reversed",
    }
    # What was not tried was not noticed.
    assert (
        found.failed == ("low-pass", "coarse", "shuffle", "smoothing") and found.false_alarms == 0
    )
    assert (
        audit.judge_rows(
            find_metric("kad"), "kad", {**rows, "half": [near, far]}, seed=0
        ).false_alarms
        == 1
    )


def test_what_is_spoiled_is_spoiled_by_the_stated_amount(prompts):
    waves = [prompt.wave for prompt in prompts]
    spoiled = audit.spoil(waves)
    for snr_db, step in zip((20, 10, 0), spoiled["noise"]):
        pairs = zip(waves, step)
        power = np.mean(
            [np.square(after - before).mean() / np.square(before).mean() for before, after in pairs]
        )
        assert -10 * np.log10(power) == pytest.approx(snr_db, abs=0.2)
    assert [
        len(np.unique(step[0])) <= 2**bits + 1 for bits, step in zip((6, 4, 3), spoiled["coarse"])
    ] == [True] * 3
    for cutoff_hz, step in zip((3400, 2000, 1000), spoiled["low-pass"]):
        spectrum = np.abs(np.fft.rfft(np.concatenate(step)))
        above = np.fft.rfftfreq(sum(map(len, step)), 1 / RATE_HZ) > 1.3 * cutoff_hz
        assert np.square(spectrum[above]).sum() < 5e-3 * np.square(spectrum).sum()
    for step in spoiled["shuffle"]:
        np.testing.assert_array_equal(np.sort(step[0]), np.sort(waves[0]))
    np.testing.assert_array_equal(spoiled["reversal"][0][3], waves[3][::-1])
    assert [len({id(wave) for wave in step}) for step in spoiled["collapse"]] == [12, 6, 3]


def test_smoothing_takes_detail_and_leaves_the_level(prompts):
    """A tone that is switched on and off keeps its spectrum on average and loses its beat."""
    time = np.arange(RATE_HZ) / RATE_HZ
    beat = (np.sin(2 * np.pi * 8 * time) > 0) * 0.9 + 0.1
    wave = (0.3 * beat * np.sin(2 * np.pi * 500 * time)).astype(np.float32)

    def depth(wave):
        level = np.log(np.square(wave).reshape(-1, 400).mean(axis=1))[4:-4]
        return level.std(), level.mean()

    steps = [step[0] for step in audit.spoil([wave])["smoothing"]]
    assert all(step.shape == wave.shape and step.dtype == np.float32 for step in steps)
    depths = [depth(one)[0] for one in (wave, *steps)]
    # Its beat lasts 125 ms: a mean over 60 ms rounds it, over 240 ms flattens it.
    assert depths[0] > depths[1] > depths[3] and depths[3] < 0.25 * depths[0]
    assert abs(depth(steps[2])[1] - depth(wave)[1]) < 0.5


FORECASTS = ("noise", "shuffle", "reversal", "collapse", "widening", "means", "smoothing")


def make_blocks():
    blocks = np.random.default_rng(0).normal(size=(60, 12, 8)).cumsum(axis=1).astype(np.float32)
    return blocks / blocks.std()


def test_a_block_is_ranked_above_its_mean_any_other_spread_and_any_other_order():
    blocks = make_blocks()
    audits = audit_blocks(blocks, 50.0)
    energy, variogram = audits["block_energy"], audits["block_variogram"]
    for found in audits.values():
        ranked = {name: found.verdicts[name] for name in FORECASTS}
        assert ranked == dict.fromkeys(FORECASTS, "ranks") and found.is_trusted
        assert [*found.verdicts] == [*FORECASTS, "independence"]
        # Values that do not hang together are what the variogram is for.
    assert variogram.verdicts["independence"] == "ranks"
    assert "independence" in variogram.must_notice and "independence" not in energy.must_notice
    # Of a Gaussian law with deviation s in many dimensions: s / sqrt(2) for the law itself, and s
    # for its mean, which is where a forecast ends that loses its spread.
    assert energy.values["collapse"][0] == pytest.approx(SPREAD / np.sqrt(2), rel=0.03)
    assert energy.values["collapse"][-1] == pytest.approx(SPREAD, rel=0.03)
    assert energy.values["means"][-1] == pytest.approx(SPREAD, rel=0.03)
    # A spread k times too wide: s (sqrt(1 + k^2) - k / sqrt(2)).
    wide = SPREAD * (np.sqrt(1 + 3.0**2) - 3 / np.sqrt(2))
    assert energy.values["widening"][-1] == pytest.approx(wide, rel=0.03)
    assert energy.values["smoothing"] == sorted(energy.values["smoothing"])


def test_a_score_says_what_it_is_blind_to():
    # Blocks in which nothing happens: their order changes nothing, and that is told.
    still = np.repeat(make_blocks()[:, :1], 12, axis=1)
    assert audit_blocks(still, 50.0)["block_energy"].failed == ("shuffle",)
    # Values without any dependence: loosening them changes nothing, so neither score could show
    # that it would notice, and neither is trusted.
    rng = np.random.default_rng(1)
    loose = audit_blocks(rng.normal(size=(60, 12, 8)).astype(np.float32), 50.0)
    assert all("independence" in found.failed for found in loose.values())
