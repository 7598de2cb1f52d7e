"""What every decoder refuses, by name: codes, layouts, lengths, labels and samplers that are not of
its task.
"""

import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from decoder_toys import (
    BACKBONE,
    FAMILIES,
    NUM_EXAMPLES,
    NUM_FRAMES,
    SEMANTIC,
    SPEC,
    VOCAB,
    prompt_where,
    toy_batch,
)

from genlab.config import GenlabError
from genlab.decoders.ar import ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.inputs import batch_check, check_sample
from genlab.decoders.task import Task
from genlab.tokens import Cond, make_tokens

TASK = Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES)
TOKENS, COND = toy_batch()
CODES, LATENTS = np.asarray(TOKENS.codes), np.asarray(TOKENS.latents)


def with_code(value):
    codes = CODES.copy()
    codes[1, 2, 3] = value
    return TOKENS._replace(codes=jnp.asarray(codes))


def told(**fields):
    return TOKENS, COND._replace(**fields)


CASES = {
    "entries": ((with_code(16), COND), r"codes: 0\.\.16, expected 0\.\.15; padding is 0"),
    "high": ((with_code(1000), COND), r"codes: 0\.\.1000, expected 0\.\.15"),
    "negative": ((with_code(-1), COND), r"codes: -1\.\.15, expected 0\.\.15"),
    "layout": (
        (TOKENS._replace(codes=TOKENS.codes.swapaxes(1, 2)), COND),
        (
            r"codes: shape \(3, 4, 12\), expected \(batch, frames, codebooks\) with 4 last; .* use "
            r"codes.swapaxes\(1, 2\)"
        ),
    ),
    "levels": (
        (TOKENS._replace(codes=TOKENS.codes[:, :, :3]), COND),
        r"codes: shape \(3, 12, 3\), expected .* 4 last",
    ),
    "floats": (
        (TOKENS._replace(codes=TOKENS.codes.astype(float)), COND),
        r"codes: dtype float32, expected integers",
    ),
    "length": (
        (TOKENS._replace(num_frames=TOKENS.num_frames + 9), COND),
        r"num_frames: \d+\.\.21, expected 0\.\.12, the frames that there are",
    ),
    "lengths": (
        (TOKENS._replace(num_frames=TOKENS.num_frames[:2]), COND),
        r"num_frames: shape \(2,\), expected \(3,\)",
    ),
    "batch": (
        told(
            **{
                name: getattr(COND, name)[:2]
                for name in ("speaker", "text", "content", "is_dropped")
            }
        ),
        r"cond.speaker: shape \(2,\), expected a batch of 3",
    ),
    "speaker": (told(speaker=COND.speaker + 7), r"cond.speaker: 7\.\.9, expected 0\.\.2"),
    "unit": (told(content=COND.content + 10), r"cond.content: 10\.\.\d+, expected 0\.\.10"),
    "units": (
        told(content=COND.content[:, :5]),
        r"cond.content: 5 frames, expected 12 as the tokens have",
    ),
    "channels": (
        (TOKENS._replace(latents=TOKENS.latents[:, :, :5]), COND),
        r"latents: shape \(3, 12, 5\), expected .* 8 last",
    ),
    "finite": (
        (TOKENS._replace(latents=TOKENS.latents.at[0, 0, 0].set(jnp.nan)), COND),
        "latents: 1 of 288 values are not finite",
    ),
    "frames": (
        (TOKENS._replace(latents=TOKENS.latents[:, :5]), COND),
        r"latents: shape .*, expected batch and frames \(3, 12\)",
    ),
}
OF_LATENTS = {"channels", "finite", "frames"}
OF_SHAPES = {"layout", "levels", "floats", "batch", "units"}


@pytest.mark.parametrize("case", CASES)
def test_a_task_names_what_is_wrong(case):
    TASK.check(TOKENS, COND)
    (tokens, cond), message = CASES[case]
    with pytest.raises(GenlabError, match=message):
        TASK.check(tokens, cond)


@pytest.mark.parametrize("family", ["ar", "masked", "discrete", "depth", "blockwise"])
@pytest.mark.parametrize("case", sorted(set(CASES) - OF_LATENTS))
def test_every_family_of_codes_names_it_too(family, case, key):
    model = FAMILIES[family].build()
    (tokens, cond), message = CASES[case]
    for call in (model.loss, model.score):
        with pytest.raises(GenlabError, match=message):
            call(tokens, cond, key=key)
        if case in OF_SHAPES:  # known also where values are not
            with pytest.raises(GenlabError, match=message):
                jax.eval_shape(lambda *args, call=call: call(*args, key=key), tokens, cond)


@pytest.mark.parametrize(
    "family", ["diffusion", "latent_gmm", "latent_flow", "latent_blocks", "mar"]
)
@pytest.mark.parametrize("case", ["channels", "finite", "length", "batch", "speaker", "units"])
def test_every_family_of_latents_names_it_too(family, case, key):
    (tokens, cond), message = CASES[case]
    with pytest.raises(GenlabError, match=message):
        FAMILIES[family].build().loss(tokens, cond, key=key)


def test_latents_that_are_not_normalised_give_a_warning(key):
    far = TOKENS._replace(latents=5 + 10 * TOKENS.latents)
    with pytest.warns(
        UserWarning, match=r"latents: mean .* and standard deviation .*, expected about 0 and 1"
    ):
        TASK.check(far, COND)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TASK.check(TOKENS, COND)
        FAMILIES["ar"].build().loss(far, COND, key=key)  # it reads codes alone


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sampler_of_another_family_is_refused(name, key):
    """By name; with the checked types of the tests the annotation of `sample` is faster."""
    family = FAMILIES[name]
    model, own = family.build(), type(family.sampler)
    other = FAMILIES["masked" if own is ARSampler else "ar"].sampler
    message = f"sampler: got {type(other).__name__}, expected {own.__name__}"
    with pytest.raises(GenlabError, match=message):
        check_sample(model, COND, TOKENS.num_frames, other, own)
    with pytest.raises((GenlabError, jaxtyping.TypeCheckError)):
        model.sample(COND, num_frames=TOKENS.num_frames, key=key, sampler=other)


@pytest.mark.parametrize("name", ["ar", "masked", "diffusion", "mar"])
def test_sample_checks_lengths_prompt_and_guidance(name, key):
    family = FAMILIES[name]
    model = family.build()
    asked = {"num_frames": TOKENS.num_frames, "key": key, "sampler": family.sampler}
    with pytest.raises(
        GenlabError, match=r"num_frames: 50\.\.50, expected 0\.\.12, the frames of cond.content"
    ):
        model.sample(COND, **{**asked, "num_frames": jnp.full(NUM_EXAMPLES, 50)})
    with pytest.raises(GenlabError, match=r"cond.speaker: 7\.\.9, expected 0\.\.2"):
        model.sample(COND._replace(speaker=COND.speaker + 7), **asked)
    prompt = prompt_where(TOKENS, np.arange(NUM_FRAMES) < 2)
    with pytest.raises(GenlabError, match=r"prompt.is_known: shape \(3, 5\), expected \(3, 12\)"):
        model.sample(COND, **asked, prompt=prompt._replace(is_known=prompt.is_known[:, :5]))
    with pytest.raises(GenlabError, match=rf"prompt.tokens.{model.reads}: shape .* last"):
        wrong = {model.reads: getattr(TOKENS, model.reads)[:, :, :2]}
        model.sample(COND, **asked, prompt=prompt._replace(tokens=TOKENS._replace(**wrong)))
    guided = {**asked, "sampler": family.sampler.override(["guidance=2.0"])}
    never = family.build(condition=SEMANTIC.override(["dropout=0.0"]))
    nothing = family.build(condition=ConditionConfig(content="none", speaker=False))
    for other, why in (
        (never, "condition.dropout=0 never trains"),
        (nothing, "without conditions does not have"),
    ):
        with pytest.raises(GenlabError, match=f"sampler.guidance=2: .*{why}"):
            other.sample(COND, **guided)


def test_training_names_the_clips_of_a_bad_batch():
    class Batch:
        args = (with_code(99), COND)
        clip_ids = np.array([4, 5, 6])

    with pytest.raises(GenlabError, match=r"training clips \[4, 5, 6\]: codes: 0\.\.99"):
        batch_check(FAMILIES["ar"].build())(Batch)
    batch_check(object())(Batch)  # a codec has no tokens to check
    Batch.args = jax.tree.map(np.asarray, (TOKENS, COND))  # as they come from the disk
    batch_check(FAMILIES["ar"].build())(Batch)


def test_a_mesh_with_explicit_axes_is_refused_with_the_way_out(key):
    """Today's default of jax.make_mesh: every gather and reshape inside would have to say where its
    output lies.
    """
    model = FAMILIES["masked"].build()
    batch = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * 8)[:8], (TOKENS, COND))
    shard = jax.sharding.PartitionSpec("data")
    explicit = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with pytest.raises(
        GenlabError, match=r"axis 'data' is Explicit.*AxisType.Auto.*genlab.machine.use_mesh"
    ):
        model.loss(*jax.device_put(batch, jax.sharding.NamedSharding(explicit, shard)), key=key)
    auto = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = model.loss(*jax.device_put(batch, jax.sharding.NamedSharding(auto, shard)), key=key)
    np.testing.assert_allclose(split.mean(), model.loss(*batch, key=key).mean(), rtol=1e-5)


def test_a_task_of_own_arrays():
    task = Task.of(codes=CODES, latents=LATENTS, cond=COND, frame_hz=12.5)
    spec = task.spec
    assert (spec.codebooks, spec.entries, spec.latent_channels, spec.frame_hz) == (4, 16, 8, 12.5)
    assert task.vocab.num_speakers == 3 and task.vocab.num_units == int(COND.content.max())
    assert (task.condition.content, task.condition.speaker, task.num_frames) == (
        "semantic",
        True,
        NUM_FRAMES,
    )
    task.check(TOKENS, COND)
    alone = Task.of(codes=CODES, entries=1024)
    assert (alone.spec.entries, alone.spec.frame_hz) == (1024, 50)
    assert alone.condition == ConditionConfig(content="none", speaker=False)
    alone.check(make_tokens(codes=TOKENS.codes), alone.no_cond(NUM_EXAMPLES))
    for wrong, message in (
        ({}, "neither codes nor latents"),
        ({"codes": CODES[0]}, r"codes: shape \(12, 4\)"),
    ):
        with pytest.raises(GenlabError, match=message):
            Task.of(**wrong)


def test_no_conditions():
    cond = Cond.none(3, 7)
    assert cond.content.shape == (3, 7) and cond.is_dropped.all() and cond.text.shape == (3, 1)
    assert TASK.no_cond(2).content.shape == (2, NUM_FRAMES)
