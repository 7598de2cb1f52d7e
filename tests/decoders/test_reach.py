"""How far ahead a decoder sees what it is told, and what the ledger makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import BACKBONE, FAMILIES, NUM_FRAMES, SPEC, VOCAB, randomised, toy_batch

from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.task import Task
from genlab.fairness.reach import describe_reach, find_reach, measure_reach, merge_reach, swaps
from genlab.tokens import make_tokens


def test_the_farthest_moved_frame_before_the_cut_is_the_reach():
    before = np.zeros((2, 8, 3), np.int32)
    after = before.copy()
    after[0, 2, 1] = 5  # two before its cut
    after[1, 3:, 0] = 7  # from three before its cut, and all that follows
    cut = np.array([4, 6])
    tokens = make_tokens(codes=before, num_frames=np.array([8, 8]))
    moved = make_tokens(codes=after, num_frames=np.array([8, 8]))
    assert find_reach(tokens, moved, cut) == {"ahead": 3, "most": 6}
    assert find_reach(tokens, tokens, cut) == {"ahead": 0, "most": 6}
    after[0, 4:] = 9  # what follows the cut is told otherwise, and proves nothing
    late = make_tokens(codes=np.where(np.arange(8)[None, :, None] < 4, before, after))
    assert find_reach(tokens, late, np.array([4, 4])) == {"ahead": 0, "most": 4}


def test_padding_does_not_count():
    before = np.zeros((1, 8, 1), np.float32)
    tokens, after = (
        make_tokens(latents=values, num_frames=np.array([2])) for values in (before, before + 1)
    )
    assert find_reach(tokens, after, np.array([1])) == {"ahead": 1, "most": 1}
    assert describe_reach({"ahead": 44, "most": 48}) == "whole clip"
    assert describe_reach({"ahead": 13, "most": 48}) == "13 frames ahead"


def test_the_second_half_of_each_condition_is_told_otherwise():
    _, cond = toy_batch()
    num_frames = np.full(3, NUM_FRAMES)
    (units,) = swaps(cond, num_frames, ConditionConfig(), VOCAB)
    changed = np.asarray(units.cond.content) != np.asarray(cond.content)
    is_late = np.arange(NUM_FRAMES) >= NUM_FRAMES // 2
    told = np.asarray(cond.content) > 0
    np.testing.assert_array_equal(changed, told & is_late[None])
    assert np.asarray(units.cond.content).max() <= VOCAB.num_units
    (text,) = swaps(cond, num_frames, ConditionConfig(content="text"), VOCAB)
    lengths = (np.asarray(cond.text) > 0).sum(axis=1)
    changed = np.asarray(text.cond.text) != np.asarray(cond.text)
    place = np.arange(cond.text.shape[1])[None]
    np.testing.assert_array_equal(
        changed, (place >= (lengths // 2)[:, None]) & (place < lengths[:, None])
    )
    assert swaps(cond, num_frames, ConditionConfig(content="none"), VOCAB) == []


@pytest.mark.parametrize(
    ("name", "route", "ahead"),
    [
        ("ar", "sum", None),
        ("ar", "cross", 1.0),
        ("latent_gmm", "prefix", 1.0),
        ("masked", "sum", 1.0),
    ],
)
def test_every_route_but_the_sum_shows_a_causal_decoder_the_whole_clip(name, route, ahead, key):
    """The sum alone shows it a few frames; the parallel families see all in any case."""
    t = 40
    family = FAMILIES[name]
    condition = ConditionConfig(layers=1, units_route=route)
    decoder = randomised(
        family.build(
            condition=condition,
            backbone=BACKBONE.model_copy(update={"layers": 1}),
        )
    )
    cond = toy_batch()[1]
    cond = cond._replace(
        content=jnp.asarray(np.random.default_rng(0).integers(1, VOCAB.num_units + 1, (3, t)))
    )
    num_frames = jnp.full(3, t)

    @jax.jit
    def draw(cond):
        return decoder.sample(cond, num_frames=num_frames, key=key, sampler=family.sampler).tokens

    task = Task(SPEC, VOCAB, BACKBONE, condition)
    reach = measure_reach(task, draw, draw(cond), cond)["units"]
    assert reach["most"] == t // 2
    if ahead is None:
        # One convolution of +-3 frames, and the delay of the last codebook.
        assert 3 <= reach["ahead"] <= 3 + SPEC.codebooks - 1
    else:
        assert describe_reach(reach) == "whole clip"


def test_seeds_of_an_arm_give_the_farthest():
    near, far = {"ahead": 3, "most": 20}, {"ahead": 9, "most": 20}
    assert merge_reach([{"units": near}, {"units": far}, {}]) == {"units": far}
    assert merge_reach([{}]) == {}
