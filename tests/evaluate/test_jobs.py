"""Where a job runs changes no bit of a score: threads, processes, clips in memory or streamed."""

import dataclasses
import functools
import os
import pickle
import signal

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.data.streamed import Streamed
from genlab.evaluate import measures, metric
from genlab.evaluate.jobs import run_jobs
from genlab.evaluate.metric import Found, Work
from genlab.evaluate.metrics import EvaluationConfig, build_context, score_clips
from genlab.evaluate.quality import Dnsmos
from genlab.evaluate.speaker import SpeakerEncoder


@pytest.fixture(scope="module")
def prompts(speech):
    return speech[-6:]


@pytest.fixture(scope="module")
def context(speech, grammar):
    known = speech[:12]
    config = EvaluationConfig(dnsmos_clips=2)
    return build_context(config, [grammar], [p.wave for p in known], [p.speaker for p in known])


@pytest.fixture(scope="module")
def scored(prompts, context):
    return score_clips([p.wave for p in prompts], prompts, context, is_reconstruction=True)


def assert_same(row, other):
    """Compare every score, value, transcript and control, bit for bit."""
    assert list(row.scores) == list(other.scores) and len(row.scores) > 10
    for name, score in row.scores.items():
        np.testing.assert_equal(score.to_dict(), other.scores[name].to_dict(), name)
    for name, values in row.per_clip.items():
        np.testing.assert_array_equal(values.totals, other.per_clip[name].totals, name)
    assert row.transcripts == other.transcripts
    assert repr(row.controls) == repr(other.controls)


def test_two_processes_give_the_scores_of_threads(scored, prompts, context):
    config = context.config.model_copy(update={"processes": 2})
    shared = dataclasses.replace(context, config=config)
    waves = [prompt.wave for prompt in prompts]
    assert_same(scored, score_clips(waves, prompts, shared, is_reconstruction=True))


def test_streamed_clips_give_the_scores_of_clips_in_memory(scored, prompts, context, monkeypatch):
    for module in (measures, metric):
        monkeypatch.setattr(module, "IN_MEMORY", 4)
    read = []

    def wave_of(number):
        read.append(number)
        return prompts[number].wave

    waves = Streamed(wave_of, len(prompts))
    asked = Streamed(prompts.__getitem__, len(prompts))
    assert_same(scored, score_clips(waves, asked, context, is_reconstruction=True))
    assert len(read) > 2 * len(prompts)  # each time that it is heard


def test_distances_between_sets_hear_some_of_many_clips(prompts, context, monkeypatch):
    monkeypatch.setattr(measures, "SET_CLIPS", 3)
    row = score_clips([p.wave for p in prompts], prompts, context)
    few = [prompts[i] for i in (0, 2, 5)]
    alone = score_clips([p.wave for p in few], few, context)
    for name in ("kad", "frechet", "spread_voice", "kad_voice"):
        if name in row.scores:
            assert row.scores[name].value == alone.scores[name].value, name
            assert row.scores[name].note.endswith("3 of 6 clips of each set, spread evenly")
    assert row.scores["f0_correlation"].n > alone.scores["f0_correlation"].n


def double(number):
    return 2 * number


def own_process():
    return os.getpid()


def blas_threads():
    from threadpoolctl import threadpool_info

    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def nothing(results):
    return Found()


def test_jobs_run_in_processes_unless_they_belong_to_this_one():
    here = [lambda number=number: (number, os.getpid()) for number in range(3)]
    works = [
        Work([functools.partial(double, number) for number in range(40)], nothing),
        Work(here, nothing, is_long=True),
        Work([own_process] * 4, nothing),
        Work([blas_threads], nothing),
    ]
    done = []
    doubled, locally, away, [threads] = run_jobs(works, 2, 2, lambda: done.append(1))
    assert doubled == [2 * number for number in range(40)] and len(done) == 48
    assert locally == [(number, os.getpid()) for number in range(3)]
    assert os.getpid() not in away and threads == 1
    alone = run_jobs(works, 2, 1, lambda: None)
    assert alone[:2] == [doubled, locally] and alone[2] == [os.getpid()] * 4
    with pytest.raises(GenlabError, match=r"evaluation\.processes=2: a process .* lower it"):
        run_jobs([Work([die], nothing)], 1, 2, lambda: None)
    # The next row starts new ones.
    assert run_jobs([works[0]], 1, 2, lambda: None) == [doubled]


def test_long_jobs_come_first_and_results_are_in_the_order_of_the_jobs():
    begun = []
    works = [
        Work([functools.partial(begun.append, number) for number in (1, 2)], nothing),
        Work([functools.partial(begun.append, number) for number in (8, 9)], nothing, is_long=True),
        Work([functools.partial(double, number) for number in (3, 4)], nothing),
    ]
    assert run_jobs(works, 1, 1, lambda: None)[2] == [6, 8] and begun == [8, 9, 1, 2]


def test_jobs_are_made_a_few_at_a_time_and_an_error_ends_them():
    alive, most = set(), [0]

    def job(number):
        alive.discard(number)
        if number == 70:
            raise GenlabError("clip 70: no")
        return number

    def make(number):
        alive.add(number)
        most[0] = max(most[0], len(alive))
        return functools.partial(job, number)

    assert run_jobs([Work(Streamed(make, 60), nothing)], 2, 1, lambda: None) == [list(range(60))]
    assert most[0] <= 12
    with pytest.raises(GenlabError, match="clip 70"):
        run_jobs([Work(Streamed(make, 1000), nothing)], 2, 1, lambda: None)
    assert len(alive) < 20


def test_networks_open_themselves_where_they_arrive(prompts):
    wave = prompts[0].wave
    encoder = SpeakerEncoder()
    there = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(there(wave), encoder(wave))
    assert pickle.loads(pickle.dumps(encoder)) is there
    quality = pickle.loads(pickle.dumps(Dnsmos(2, 3)))
    assert (quality.max_windows, quality.batch_windows) == (2, 3)
