"""The claim pages about mixers: complete before anything runs, and of models of equal size."""

from pathlib import Path

import jax
import pytest
from flax import nnx

from genlab.fairness.budget import count_params
from genlab.nets.backbone import Backbone
from genlab.sweeps.page import Contrast, expand, load_sweep

CLAIMS = Path(__file__).parents[1] / "sweeps" / "claims"
# The arm of each page is causal or not; and whether its runs have as many parameters.
PAGES = {
    "ssm_or_attention": (True, True),
    "mla_or_gqa": (True, True),
    "sinks": (True, True),
    "bidirectional_s4d": (False, True),
    "experts": (True, False),
}


@pytest.fixture(scope="module", params=PAGES)
def page(request):
    return load_sweep(CLAIMS / f"{request.param}.py")


def test_a_page_has_rates_sizes_seeds_and_says_what_was_seen(page):
    runs = expand(page)
    assert {run.config.backbone.width for run in runs} == {128, 192}
    for run in runs:
        config = run.config
        assert len(config.optim.peak_lrs) == 3 and len(config.seeds) == 3
        assert config.checkpoint.rule == "best" and len(config.arms) == 1
        assert config.data.corpus.developed  # texts that nobody has held out before
    assert page.claim and page.source and page.faithful and page.untested and len(page.looks) >= 2
    # Every run is asked about, and what is compared is one arm at one size.
    contrasts = [each for each in page.predictions if isinstance(each, Contrast)]
    assert {row for each in contrasts for row in each.terms} == {
        f"{next(iter(run.config.arms))} @ {run.label}" for run in runs
    }
    assert all(len({row[-3:] for row in each.terms}) == 1 for each in contrasts)
    card = (CLAIMS / f"{page.name}.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {page.name}: not run")
    assert all(each.text in card for each in page.predictions)


def test_models_of_one_width_have_as_many_parameters(page):
    is_causal, is_equal = PAGES[page.name]
    sizes = {}
    for run in expand(page):
        shapes = nnx.eval_shape(
            lambda config=run.config: Backbone(
                config.backbone, key=jax.random.key(0), is_causal=is_causal
            )
        )
        sizes.setdefault(run.config.backbone.width, []).append(count_params(shapes))
    for counts in sizes.values():
        # Of experts a frame runs through a quarter.
        assert (max(counts) / min(counts) < 1.03) == is_equal
