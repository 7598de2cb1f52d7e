"""Clean prefixes: what training shows of them, what the loss counts, and that a continuation is
then drawn given everything that is known.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import (
    BACKBONE,
    SEMANTIC,
    SPEC,
    VOCAB,
    jitted_loss,
    prompt_where,
    randomised,
    toy_batch,
    view_of,
)
from flax import nnx

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.blockwise import BlockwiseConfig, BlockwiseSampler
from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
from genlab.decoders.latent_ar import LatentARConfig
from genlab.decoders.latent_blocks import LatentBlocksConfig
from genlab.decoders.masked import Masked, MaskedConfig, MaskedSampler
from genlab.decoders.noise.corruption import UniformNoise
from genlab.decoders.noise.denoisers import StableAudioNetwork
from genlab.decoders.noise.paths import StraightPath
from genlab.decoders.noise.solvers import Euler, fill_in
from genlab.decoders.prefix import Known, draw_prefix, leading, shown_prefix
from genlab.decoders.prompt_rule import continues_its_law, describe_prompt_rule, note_biased
from genlab.decoders.regression import RegressionConfig
from genlab.decoders.steps.patterns import FlatPattern
from genlab.decoders.steps.stepwise import run_known
from genlab.decoders.steps.streams import OtherStream, PlanStream
from genlab.decoders.task import Task
from genlab.load import load_experiment
from genlab.tokens import Prompt

TASK = Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=12)
GREEDY = {
    "ar": ARSampler(temperature=0.0),
    "depth": DepthSampler(temperature=0.0),
    "masked": MaskedSampler(steps=(4, 1), temperature=0.0),
    "discrete": DiscreteSampler(steps=16, temperature=0.0),
    "blockwise": BlockwiseSampler(steps=6, temperature=0.0),
    "diffusion": DiffusionSampler(steps=4),
}
DELAYED = DepthConfig(width=16, layers=1, heads=2, acoustic_delay_frames=1)
TRAINED = {
    "ar": ARConfig(prefix_share=1.0),
    "depth": DELAYED.model_copy(update={"prefix_share": 1.0}),
    "masked": MaskedConfig(prefix_share=1.0),
    "masked_bound": MaskedConfig(prefix_share=1.0, loss_weighting="bound"),
    "diffusion": DiffusionConfig(prefix_share=1.0),
    "discrete": DiscreteConfig(prefix_share=1.0),
    "uniform": DiscreteConfig(prefix_share=1.0, noise=UniformNoise()),
}


def build(config, seed=0):
    """A decoder whose weights say something."""
    return randomised(config.build(TASK, key=jax.random.key(seed)))


def test_prefixes_have_uniform_lengths_and_leave_something(key):
    num_frames = jnp.repeat(jnp.array([4, 1, 0]), 4000)
    is_valid = jnp.arange(6)[None, :] < num_frames[:, None]
    shown = np.asarray(draw_prefix(key, is_valid, 1.0))
    lengths = shown.sum(axis=1)
    np.testing.assert_array_equal(shown, np.arange(6)[None, :] < lengths[:, None])
    np.testing.assert_allclose(np.bincount(lengths[:4000]) / 4000, np.full(4, 0.25), atol=0.03)
    assert (lengths[4000:] == 0).all()
    some = np.asarray(draw_prefix(key, is_valid, 0.4)).any(axis=1)[:4000]
    assert some.mean() == pytest.approx(0.4 * 3 / 4, abs=0.03)
    assert not draw_prefix(key, is_valid, 0.0).any()


def test_only_frames_before_the_first_unknown_one_lead():
    is_known = jnp.array([[True, True, False, True], [False, True, True, True], [True] * 4])
    assert leading(is_known).sum(axis=1).tolist() == [2, 0, 4]


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_counts_what_follows_the_prefix(name, key):
    tokens, cond = toy_batch()
    decoder = build(TRAINED[name])
    shown = shown_prefix(decoder, key, tokens.is_valid)
    assert 0 < int(shown.sum()) < int(tokens.is_valid.sum())
    num_open = np.asarray(tokens.num_frames - shown.sum(axis=1))
    values = {"diffusion": SPEC.latent_channels, "masked_bound": 1}.get(name, SPEC.codebooks)
    out = jitted_loss(decoder)(tokens, cond, key)
    assert np.isfinite(out.per_example).all()
    if name != "masked":  # which counts hidden codes, some of those that are open
        np.testing.assert_array_equal(out.weight, num_open * values)
    assert (np.asarray(out.weight) <= num_open * values).all()
    # Validation is of whole clips.
    decoder.eval()
    assert not shown_prefix(decoder, key, tokens.is_valid).any()


class Levelled(Masked):
    """Gives code c the logit c at every frame, whatever it sees."""

    def _hidden(self, visible, conditions, is_valid, key=None):
        self.seen = visible
        return jnp.broadcast_to(
            jnp.arange(SPEC.entries, dtype=jnp.float32), (*visible.shape[:2], 16)
        )


def test_the_loss_of_a_masked_prefix_is_the_bound_of_the_rest(key):
    """Lengths are uniform, so frame f of n is learned in f + 1 of n examples; each time its level's
    nats, a quarter of all levels', count once per frame.
    """
    tokens, cond = toy_batch()
    config = MaskedConfig(prefix_share=1.0, loss_weighting="bound")
    task = TASK._replace(backbone=BACKBONE.model_copy(update={"width": SPEC.entries}))
    decoder = Levelled(config, task, key=key)
    decoder.heads[...] = jnp.broadcast_to(jnp.eye(SPEC.entries), decoder.heads.shape)
    graph, state = nnx.split(decoder)

    @jax.jit
    @jax.vmap
    def total(key):
        out = nnx.merge(graph, state).loss(tokens, cond, key=key)
        return out.per_example * out.weight

    found = np.asarray(total(jax.random.split(key, 3000)))
    nats = -np.asarray(jax.nn.log_softmax(jnp.arange(16.0)))[np.asarray(tokens.codes)].mean(axis=2)
    frame, n = np.arange(12)[None, :], np.asarray(tokens.num_frames)[:, None]
    expected = np.where(frame < n, (frame + 1) / n * nats, 0).sum(axis=1)
    error = found.std(axis=0) / np.sqrt(len(found))
    np.testing.assert_array_less(np.abs(found.mean(axis=0) - expected), 4 * error)


def moved_by_fine_codes(config, sampler, first):
    """Whether the coarse code of the first unknown frame, 6, depends on the fine codes of known
    frames from `first` on, in any of many clips.
    """
    tokens, cond = toy_batch(num_examples=48)
    decoder = build(config)
    prompt = prompt_where(tokens, jnp.arange(12)[None, :] < 6)
    fine = tokens.codes[:, first:6, 1:]
    moved = tokens.codes.at[:, first:6, 1:].set((fine + 7) % SPEC.entries)
    others = tokens._replace(codes=moved)
    coarse = []
    for known in (tokens, others):
        drawn = decoder.sample(
            cond,
            num_frames=jnp.full(48, 12),
            key=jax.random.key(2),
            sampler=sampler,
            prompt=Prompt(known, prompt.is_known),
        ).tokens.codes
        np.testing.assert_array_equal(drawn[:, :6], known.codes[:, :6])
        coarse.append(drawn[:, 6, 0])
    return bool((coarse[0] != coarse[1]).any())


@pytest.mark.parametrize(
    ("config", "is_seen"),
    [
        (ARConfig(), False),
        (ARConfig(prefix_share=0.5), True),
        (ARConfig(pattern=FlatPattern()), True),
        (DELAYED, False),
        (DELAYED.model_copy(update={"prefix_share": 0.5}), True),
        (DELAYED.model_copy(update={"acoustic_delay_frames": 0}), True),
        (MaskedConfig(), False),
        (MaskedConfig(prefix_share=0.5), True),
        (DiscreteConfig(), True),
        (BlockwiseConfig(block_frames=5), True),
    ],
)
def test_which_decoders_see_the_fine_codes_of_a_prompt(config, is_seen):
    sampler, first = GREEDY[config.kind], 5
    if config.kind in ("masked", "discrete", "blockwise"):
        first = 0
        # One call draws all coarse codes: later ones would see fine codes that were drawn.
        sampler = sampler.model_copy(update={"steps": (1,) if config.kind == "masked" else 1})
    assert moved_by_fine_codes(config, sampler, first) == is_seen == continues_its_law(config)


@pytest.mark.parametrize("name", ["ar", "depth"])
def test_what_is_drawn_is_what_was_trained(name):
    """With a prompt told whole, greedy codes are the likeliest ones of the pass that trains."""
    tokens, cond = toy_batch()
    decoder = build(TRAINED[name])
    is_known = tokens.is_valid & (jnp.arange(12)[None, :] < jnp.array([6, 0, 4])[:, None])
    prompt = Prompt(tokens, is_known)
    drawn = decoder.sample(
        cond,
        num_frames=tokens.num_frames,
        key=jax.random.key(0),
        sampler=GREEDY[name],
        prompt=prompt,
    ).tokens
    known = run_known(decoder, drawn, cond, drawn.is_valid, None, None, 0.0, is_known)
    head = decoder._logits(known.hidden)[:, :, 0] if name == "ar" else decoder.head(known.hidden)
    # A step's level 0 is that of its own frame.
    likeliest = np.asarray(head).argmax(axis=-1)[:, :12]
    is_open = np.asarray(tokens.is_valid & ~is_known)
    np.testing.assert_array_equal(likeliest[is_open], np.asarray(drawn.codes[:, :, 0])[is_open])
    assert not np.asarray(known.is_target[:, :12, 0])[np.asarray(is_known)].any()


@pytest.mark.parametrize("name", TRAINED)
def test_prompts_of_any_pattern_are_kept(name):
    tokens, cond = toy_batch()
    decoder = build(TRAINED[name])
    config = decoder.config
    sampler = GREEDY[config.kind]
    if name == "uniform":
        sampler = DiscreteSampler(steps=4)
    for first, last in ((0, 5), (3, 9)):
        frame = jnp.arange(12)[None, :]
        is_known = (frame < first) | (frame >= last) if first else frame < last
        prompt = prompt_where(tokens, is_known)
        drawn = decoder.sample(
            cond,
            num_frames=tokens.num_frames,
            key=jax.random.key(1),
            sampler=sampler,
            prompt=prompt,
        ).tokens
        view, own = view_of(decoder, drawn), view_of(decoder, tokens)
        kept = np.asarray(prompt.is_known & tokens.is_valid)
        np.testing.assert_array_equal(np.asarray(view)[kept], np.asarray(own)[kept])


def test_the_network_sees_a_known_frame_clean():
    """What is drawn does not depend on the noise of known frames, but on their latents."""
    tokens, cond = toy_batch()
    decoder = build(TRAINED["diffusion"])
    is_known = jnp.broadcast_to(jnp.arange(12)[None, :] < 5, (3, 12))
    conditions = decoder.conditioner(cond, tokens.is_valid)

    def predict(noisy, latents):
        given = Known(latents, is_known)
        level = jnp.full(3, 0.7)
        return decoder._predict(noisy, level, conditions, tokens.is_valid, given)[:, 5:]

    noise = jax.random.normal(jax.random.key(3), tokens.latents.shape)
    other = noise.at[:, :5].add(1.0)
    np.testing.assert_array_equal(predict(noise, tokens.latents), predict(other, tokens.latents))
    moved = predict(noise, tokens.latents) - predict(noise, tokens.latents.at[:, :5].add(0.5))
    assert float(jnp.abs(moved).max()) > 1e-3


def test_replacement_draws_from_another_law():
    """Two frames of a Gaussian with correlation r, the first known. With the exact velocity of the
    pair, replacement at every level leaves a mean that is off; the velocity given the clean frame
    ends at the conditional law, N(r a, 1 - r^2).
    """
    r, known = 0.9, 1.5
    path, steps = StraightPath(), 200
    covariance = jnp.array([[1.0, r], [r, 1.0]])
    noise = jax.random.normal(jax.random.key(0), (20_000, 2, 1))

    def joint(noisy, level):
        # E[noise - clean | noisy] of noisy = (1 - s) clean + s noise
        total = (1 - level) ** 2 * covariance + level**2 * jnp.eye(2)
        gain = (level * jnp.eye(2) - (1 - level) * covariance) @ jnp.linalg.inv(total)
        return jnp.einsum("ij,bjd->bid", gain, noisy)

    def given(noisy, level):
        variance = 1 - r**2
        total = (1 - level) ** 2 * variance + level**2
        rest = noisy - (1 - level) * r * known
        return (level - (1 - level) * variance) / total * rest - r * known

    ends = []
    for predict in (joint, given):
        drawn = fill_in(
            Euler(),
            path,
            "velocity",
            predict,
            noise,
            path.grid(steps),
            known=jnp.full_like(noise, known),
            is_known=jnp.broadcast_to(jnp.array([[True, False]]), noise.shape[:2]),
            key=jax.random.key(1),
        )[:, 1, 0]
        ends.append((float(drawn.mean()), float(drawn.std())))
    (replaced, _), (mean, std) = ends
    assert mean == pytest.approx(r * known, abs=0.02)
    assert std == pytest.approx((1 - r**2) ** 0.5, abs=0.02)
    assert abs(replaced - r * known) > 0.1


@pytest.mark.parametrize(
    "fields",
    [
        {"pattern": FlatPattern()},
        {"other": OtherStream()},
    ],
)
def test_prefixes_that_change_nothing_are_refused(fields):
    with pytest.raises(ValueError, match="set prefix_share=0"):
        ARConfig(prefix_share=0.5, **fields)


def test_a_network_without_a_mark_is_refused():
    with pytest.raises(ValueError, match="has no input that marks known frames"):
        DiffusionConfig(prefix_share=0.5, network=StableAudioNetwork())


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (ARConfig(), "part hidden"),
        (ARConfig(pattern=FlatPattern()), "exact"),
        (ARConfig(pattern=FlatPattern(), plan=PlanStream()), "part hidden"),
        (ARConfig(prefix_share=0.5), "clean prefixes"),
        (DiffusionConfig(), "replacement"),
        (DiffusionConfig(prefix_share=0.5), "clean prefixes"),
        (DiscreteConfig(noise=UniformNoise()), "replacement"),
        (DiscreteConfig(), "exact"),
        (LatentARConfig(), "exact"),
        (LatentBlocksConfig(), "replacement"),
        (RegressionConfig(), "clean prefixes"),
        (object(), "not declared"),
    ],
)
def test_every_decoder_says_how_a_prompt_is_known(config, rule):
    assert describe_prompt_rule(config) == rule
    assert continues_its_law(config) == (rule in ("exact", "clean prefixes"))


def test_what_is_biased_is_told_the_fix_that_it_has():
    blocks, diffusion = LatentBlocksConfig(), DiffusionConfig()
    told = note_biased({"ar": ARConfig(pattern=FlatPattern()), "blocks": blocks})
    assert told == (
        "blocks (replacement): a prompt is not known as training showed it, so the energy is "
        "biased and decides nothing; blocks cannot train with prefixes: compare by other scores"
    )
    assert note_biased({"diffusion": diffusion}).endswith("; set decoder.prefix_share=0.5")
    both = note_biased({"blocks": blocks, "diffusion": diffusion})
    assert both.endswith(
        "; set decoder.prefix_share=0.5; blocks cannot train with prefixes: compare by other scores"
    )
    assert note_biased(TRAINED) == ""


def test_soundstorm_shows_a_prompt_in_every_example():
    """Section 3.2 of 2305.09636: the codes before a random time are hidden at no level."""
    presets = Path(__file__).parents[2] / "configs/presets"
    [arm] = load_experiment(presets / "soundstorm.py").arms.values()
    assert arm.decoder.prefix_share == 1.0 and describe_prompt_rule(arm.decoder) == "clean prefixes"
