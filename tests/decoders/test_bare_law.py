"""The bare law: each family's config says how what was trained is drawn, with no setting of a
sampler in it.
"""

import dataclasses
from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import BACKBONE, FAMILIES, NUM_FRAMES, SEMANTIC, SPEC, VOCAB, toy_batch

from genlab.config import Config
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.task import Task, bare_law
from genlab.evaluate.comparisons import compare_rows
from genlab.evaluate.energy import BARE_ENERGY, TUNED_ENERGY
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.scores import clip_means
from genlab.evaluate.table import make_score
from genlab.forecasts import rows as forecast_rows

TASK = Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES)


class SilentConfig(Config):
    """Declares no bare law."""

    kind: ClassVar[str] = "silent"
    sampler: ClassVar[type] = ARSampler
    loss_unit: ClassVar[str] = "nats_per_code"

    def build(self, task, *, key):
        """Return nothing: what is drawn does not matter here."""


NEUTRAL = {
    "temperature": 1.0,
    "guidance": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "is_annealed": False,
    "is_last_greedy": False,
    "noise_bits": None,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bare_sampler_is_of_its_family_and_tunes_nothing(name):
    config = FAMILIES[name].config
    own = dataclasses.replace(FAMILIES[name]).sampler
    law = bare_law(config, own, TASK)
    assert law.is_declared and isinstance(law.sampler, config.sampler)
    held = {field: value for field, value in law.sampler if field in NEUTRAL}
    assert held == {field: NEUTRAL[field] for field in held}
    # Another sampler of the arm is no part of its law.
    fields = {"temperature": 0.5} if "temperature" in type(own).model_fields else {"steps": 2}
    assert bare_law(config, own.model_copy(update=fields), TASK) == law
    assert getattr(law.sampler, "order", "random") in ("random", "ancestral")


@pytest.mark.parametrize("name", ["masked", "blockwise", "mar"])
def test_what_hides_reveals_one_at_a_time_where_few_are_hidden(name):
    config = FAMILIES[name].config
    small = TASK._replace(spec=SPEC.model_copy(update={"codebooks": 2}), num_frames=3)
    sampler = config.bare_sampler(small)
    assert sampler.hiding.kind == "linear"
    counts = {
        "masked": lambda: sampler.steps_per_level(2) == (3, 3),
        "blockwise": lambda: sampler.steps == config.block_frames * 2,
        "mar": lambda: sampler.rounds == 3,
    }
    assert counts[name]()


@pytest.mark.parametrize("name", ["blockwise", "mar"])
def test_a_bare_sampler_draws_what_a_prompt_leaves_open(name):
    tokens, cond = toy_batch()
    decoder = FAMILIES[name].build()
    sampler = FAMILIES[name].config.bare_sampler(TASK)
    out = decoder.sample(cond, num_frames=tokens.num_frames, key=jax.random.key(0), sampler=sampler)
    drawn = getattr(out.tokens, decoder.reads)
    assert np.isfinite(np.asarray(drawn)).all() and drawn.shape[:2] == (len(drawn), NUM_FRAMES)
    if decoder.reads == "codes":
        assert jnp.max(drawn) < SPEC.entries


def test_a_decoder_that_declares_none_is_drawn_with_its_own_sampler():
    own = ARSampler(temperature=0.4)
    law = bare_law(SilentConfig(), own, TASK)
    assert law.sampler == own and not law.is_declared


def test_its_energy_is_of_another_law_and_decides_nothing(monkeypatch):
    values = clip_means(np.array([0.1, 0.2, 0.3]), (0, 1, 2))
    made = make_score(BARE_ENERGY, values.estimate(0), seeds=1), values
    swap = SimpleNamespace(control="prefix_swap")
    for name, found in {
        "choose_scored": [],
        "BlockEnergy": None,
        "_draw_values": ([], ""),
        "_heard": [],
        "_summarise": {BARE_ENERGY: made},
        "_swap_prefixes": swap,
    }.items():
        monkeypatch.setattr(forecast_rows, name, lambda *args, found=found: found)
    config = SimpleNamespace(evaluation=SimpleNamespace(energy_draws=2))
    material = SimpleNamespace(prompts=[0], store=None)
    kinds = {ARConfig(): "biased", ARConfig(prefix_share=0.5): "metric"}
    for decoder, kind in ((SilentConfig(), "biased"), *kinds.items()):
        setup = SimpleNamespace(decoder=decoder, sampler=ARSampler(temperature=0.4))
        run = SimpleNamespace(arm=setup, task=lambda store: TASK)
        arms = [SimpleNamespace(run=run, name="ar")]
        row = forecast_rows.add_energies(RowResult({}, {}, {}, (swap,)), config, material, arms)
        assert row.controls == (swap,)  # a row scored again has one of each kind
        assert row.scores[BARE_ENERGY].validity == row.per_clip[BARE_ENERGY].validity == kind
        assert row.scores[TUNED_ENERGY].validity == "metric"  # it only describes
        other = row._replace(per_clip={BARE_ENERGY: values._replace(totals=values.totals + 1)})
        rows = {"a": {BARE_ENERGY: row.per_clip[BARE_ENERGY]}, "b": other.per_clip}
        assert len(compare_rows(rows)) == (kind == "metric")
