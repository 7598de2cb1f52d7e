"""What every decoder family promises, family by family."""

import logging

import jax
import jax.numpy as jnp
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
    jitted_loss,
    prompt_where,
    toy_batch,
    train,
    view_of,
    with_state_of,
)
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from genlab.config import GenlabError
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.task import Task

# One family per way of using the backbone: causal, causal over frames and levels, both ways, two
# copies, modulated. What the backbone alone decides is checked on these.
WAYS = ("ar", "depth", "masked", "blockwise", "diffusion")


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def decoder(family):
    """A decoder that has left its zero-initialised heads behind."""
    return train(family.build(), toy_batch(), steps=10)[0]


@pytest.fixture(scope="module")
def loss(decoder):
    return jitted_loss(decoder)


@pytest.fixture(scope="module")
def batch():
    return toy_batch()


def test_loss_and_sample_have_their_shapes(family, decoder, loss, batch, key):
    tokens, cond = batch
    out = loss(tokens, cond, key)
    assert out.per_example.shape == out.weight.shape == (NUM_EXAMPLES,)
    assert all(metric.shape == (NUM_EXAMPLES,) for metric in out.metrics.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
    sampled = decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=family.sampler)
    view, absent = (
        view_of(decoder, sampled.tokens),
        {"codes": "latents", "latents": "codes"}[decoder.reads],
    )
    assert view.shape == view_of(decoder, tokens).shape and getattr(sampled.tokens, absent) is None
    assert np.isfinite(view).all()
    assert (np.where(tokens.is_valid[:, :, None], 0, view) == 0).all()
    cost = family.config.sample_cost(
        family.sampler, Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES)
    )
    assert sampled.num_network_calls == cost.network_calls


def test_codes_are_in_range(family, decoder, batch):
    tokens, cond = batch
    if decoder.reads == "codes":
        for seed in range(3):
            sampled = decoder.sample(
                cond, num_frames=tokens.num_frames, key=jax.random.key(seed), sampler=family.sampler
            )
            assert sampled.tokens.codes.min() >= 0 and sampled.tokens.codes.max() < SPEC.entries


def test_the_key_decides(family, decoder, loss, batch, key):
    tokens, cond = batch
    np.testing.assert_array_equal(
        loss(tokens, cond, key).per_example, loss(tokens, cond, key).per_example
    )

    def sample(seed):
        out = decoder.sample(
            cond, num_frames=tokens.num_frames, key=jax.random.key(seed), sampler=family.sampler
        )
        return view_of(decoder, out.tokens)

    np.testing.assert_array_equal(sample(3), sample(3))
    assert (sample(3) != sample(4)).any()


def test_batch_mates_do_not_move_an_example(loss, batch, key):
    (tokens, cond), (others, other_cond) = batch, toy_batch(seed=9)

    def replace_mates(own, other):
        return jnp.concatenate([own[:1], other[1:]])

    mixed = jax.tree.map(replace_mates, (tokens, cond), (others, other_cond))
    mixed = (mixed[0]._replace(num_frames=jnp.array([NUM_FRAMES, 2, 3])), mixed[1])
    before, after = loss(tokens, cond, key), loss(*mixed, key)
    np.testing.assert_allclose(before.per_example[0], after.per_example[0], rtol=1e-5)
    assert before.weight[0] == after.weight[0]
    assert (before.per_example[1:] != after.per_example[1:]).all()


def test_padded_frames_do_not_move_the_loss(loss, batch, key):
    tokens, cond = batch
    is_valid = tokens.is_valid
    noise, _ = toy_batch(seed=11)
    spoiled = tokens._replace(
        codes=jnp.where(is_valid[:, :, None], tokens.codes, noise.codes),
        latents=jnp.where(is_valid[:, :, None], tokens.latents, 100 * noise.latents),
    )
    other_cond = cond._replace(content=jnp.where(is_valid, cond.content, 3))
    before, after = loss(tokens, cond, key), loss(spoiled, other_cond, key)
    np.testing.assert_allclose(before.per_example, after.per_example, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        *((name, SEMANTIC) for name in FAMILIES),
        ("ar", ConditionConfig(dropout=0.3, content="text", route="prefix")),
        ("masked", ConditionConfig(dropout=0.3, content="text", route="cross")),
        ("diffusion", ConditionConfig(dropout=0.3, content="text", route="prefix")),
    ],
)
def test_every_parameter_moves_within_five_updates(name, condition, batch):
    fresh = FAMILIES[name].build(condition=condition)
    before, after = (
        nnx.state(fresh, nnx.Param),
        nnx.state(train(fresh, batch, steps=5)[0], nnx.Param),
    )
    still = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
        )
        if not (old != new).any()
    ]
    assert still == []


def test_one_batch_overfits_and_is_reproduced(family, batch):
    tokens, cond = batch
    fresh = family.build(condition=ConditionConfig(dropout=0.0))
    fitted, losses = train(fresh, batch, steps=400, learning_rate=1e-2)
    assert losses[-20:].mean() < 0.25 * losses[:5].mean()
    sampled = fitted.sample(
        cond, num_frames=tokens.num_frames, key=jax.random.key(5), sampler=family.precise
    )
    is_valid = tokens.is_valid
    truth, drawn = view_of(fitted, tokens)[is_valid], view_of(fitted, sampled.tokens)[is_valid]
    if fitted.reads == "codes":
        assert (truth == drawn).mean() > 0.9
    else:
        assert jnp.square(truth - drawn).mean() < 0.2 * jnp.square(truth).mean()


@pytest.mark.parametrize("known", ["prefix", "hole", "scattered", "all"])
def test_a_prompt_survives(family, decoder, batch, known, key):
    tokens, cond = batch
    frame = np.arange(NUM_FRAMES)
    is_known = {
        "prefix": frame < 4,
        "hole": (frame < 2) | (frame > 4),
        "scattered": frame % 3 == 1,
        "all": frame >= 0,
    }
    prompt = prompt_where(tokens, is_known[known])
    sampled = decoder.sample(
        cond, num_frames=tokens.num_frames, key=key, sampler=family.sampler, prompt=prompt
    )
    is_kept = prompt.is_known & tokens.is_valid
    np.testing.assert_array_equal(
        view_of(decoder, sampled.tokens)[is_kept], view_of(decoder, tokens)[is_kept]
    )
    if known != "all":
        is_free = tokens.is_valid & ~prompt.is_known
        assert (
            view_of(decoder, sampled.tokens)[is_free] != view_of(decoder, tokens)[is_free]
        ).any()


def test_one_compilation_per_shape(family, decoder, loss, batch, caplog):
    tokens, cond = batch
    shorter = tokens._replace(num_frames=tokens.num_frames - 1)
    keys = list(jax.random.split(jax.random.key(0)))

    def run(tokens, key):
        loss(tokens, cond, key)
        decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=family.sampler)

    run(tokens, keys[0])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(shorter, keys[1])
    assert [
        record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()
    ] == []


def test_conditions_reach_the_output(loss, batch, key):
    tokens, cond = batch
    told = loss(tokens, cond, key).per_example
    dropped = cond._replace(is_dropped=jnp.ones(NUM_EXAMPLES, bool))
    swapped = cond._replace(content=cond.content[::-1], speaker=cond.speaker[::-1])
    # Some may be dropped in training anyway.
    assert (told != loss(tokens, dropped, key).per_example).any()
    assert (told != loss(tokens, swapped, key).per_example).any()
    # What is dropped says nothing.
    also_dropped = swapped._replace(is_dropped=jnp.ones(NUM_EXAMPLES, bool))
    np.testing.assert_array_equal(
        loss(tokens, dropped, key).per_example, loss(tokens, also_dropped, key).per_example
    )


def test_guidance_one_is_the_conditional_model(family, decoder, batch, key):
    tokens, cond = batch
    if not family.is_guided:
        pytest.skip("this family refuses guidance")
    # 1 skips the unconditional half; just above 1 computes both and combines them.
    samplers = [family.sampler, family.sampler.model_copy(update={"guidance": 1.0 + 1e-7})]
    outs = [
        decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler)
        for sampler in samplers
    ]
    assert outs[1].num_network_calls == 2 * outs[0].num_network_calls
    np.testing.assert_allclose(*(view_of(decoder, out.tokens) for out in outs), atol=1e-3)


def test_evaluation_mode_drops_nothing(family, decoder, batch, key):
    backbone = BACKBONE.model_copy(update={"dropout": 0.5})
    dropping = with_state_of(
        family.build(backbone=backbone, condition=ConditionConfig(dropout=0.9)), decoder
    )
    plain = with_state_of(decoder, decoder)
    in_training = jitted_loss(dropping)(*batch, key).per_example
    dropping.eval()
    plain.eval()
    evaluated = jitted_loss(dropping)(*batch, key).per_example
    assert (in_training != evaluated).any()
    np.testing.assert_allclose(evaluated, jitted_loss(plain)(*batch, key).per_example, rtol=1e-6)


@pytest.mark.parametrize("family", WAYS, indirect=True)
def test_remat_and_unrolling_do_not_change_the_gradient(family, decoder, batch, key):
    def gradient(model):
        graph, params = nnx.split(model)
        return jax.jit(
            jax.grad(lambda p: nnx.merge(graph, p).loss(*batch, key=key).per_example.sum())
        )(params)

    other = family.build(backbone=BACKBONE.model_copy(update={"remat": True, "is_unrolled": True}))
    other = with_state_of(other, decoder)
    for first, second in zip(
        jax.tree.leaves(gradient(decoder)), jax.tree.leaves(gradient(other)), strict=True
    ):
        np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("family", [*WAYS, "latent_flow"], indirect=True)
def test_bfloat16_computes_the_same_loss_roughly(family, decoder, batch, loss, key):
    narrow = family.build(backbone=BACKBONE.model_copy(update={"dtype": "bfloat16"}))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(narrow, nnx.Param)))
    narrow = with_state_of(narrow, decoder)
    rough = jitted_loss(narrow)(*batch, key).per_example
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, loss(*batch, key).per_example, rtol=0.05)
    tokens, cond = batch
    sampled = narrow.sample(cond, num_frames=tokens.num_frames, key=key, sampler=family.sampler)
    assert np.isfinite(view_of(narrow, sampled.tokens)).all()


@pytest.mark.parametrize("family", WAYS, indirect=True)
def test_eight_devices_compute_the_loss_of_one(family, decoder, key):
    assert jax.device_count() == 8
    batch = toy_batch(num_examples=8)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    spread = jax.tree.map(
        lambda x: jax.device_put(
            x, NamedSharding(mesh, PartitionSpec("batch", *[None] * (x.ndim - 1)))
        ),
        batch,
    )
    compute = jitted_loss(jax.device_put(decoder, NamedSharding(mesh, PartitionSpec())))
    np.testing.assert_allclose(
        jitted_loss(decoder)(*batch, key).per_example, compute(*spread, key).per_example, rtol=1e-5
    )


def test_a_fresh_model_knows_nothing(family, batch, key):
    """Heads start at zero: a uniform distribution over entries, or the mean latent."""
    out = jitted_loss(family.build())(*batch, key)
    if family.config.kind == "diffusion":
        # v has the variance of latents or noise, the straight path's velocity that of both.
        low = 0.7 if family.config.predicts == "v" else 1.5
        assert low < (out.per_example * out.weight).sum() / out.weight.sum() < 2.5
    elif family.fresh_loss is not None:
        low, high = family.fresh_loss
        assert low < (out.per_example * out.weight).sum() / out.weight.sum() < high
    else:
        np.testing.assert_allclose(out.per_example, np.log(SPEC.entries), rtol=1e-5)


def test_the_missing_view_is_named(family, batch, key):
    tokens, cond = batch
    fresh = family.build()
    with pytest.raises(GenlabError, match=f"Tokens.{fresh.reads}: absent"):
        fresh.loss(tokens._replace(**{fresh.reads: None}), cond, key=key)
