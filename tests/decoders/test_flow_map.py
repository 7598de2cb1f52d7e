"""Flow maps against flows whose average velocity is known, and what their training does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pydantic
import pytest
from decoder_toys import (
    BACKBONE,
    NUM_FRAMES,
    NUM_SYMBOLS,
    SEMANTIC,
    SPEC,
    VOCAB,
    jitted_loss,
    make_random,
    prompt_where,
    toy_batch,
)
from flax import nnx

from genlab.config import ConfigError
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.cost import train_flops, walk_loss
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.noise.flow_map import (
    Inputs,
    Instant,
    MeanFlow,
    central_difference,
    objective_errors,
)
from genlab.decoders.noise.paths import CosinePath, StraightPath
from genlab.decoders.noise.schedules import UniformLevels, level_grid
from genlab.decoders.noise.solvers import Denoiser, Euler, FlowMap
from genlab.decoders.prefix import Known
from genlab.decoders.task import Task
from genlab.experiment import Arm
from genlab.tokens import Cond, Tokens, read_latents

TASK = Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES, num_symbols=NUM_SYMBOLS)
VARIANCE = 0.25
ONE_CALL = DiffusionSampler(steps=1, solver=FlowMap())


def spread(level):
    """The deviation of the noisy latents of normal data."""
    return jnp.sqrt((1 - level) ** 2 * VARIANCE + level**2)


def exact_velocity(noisy, level):
    level = jnp.broadcast_to(level, noisy.shape[:1])[:, None, None]
    slope = (level - (1 - level) * VARIANCE) / spread(level)
    return noisy * slope / spread(level)


def exact_average(noisy, level, target):
    """From normal data of this variance to noise every trajectory grows with the spread."""
    rows = noisy.shape[:1]
    level, target = jnp.broadcast_to(level, rows), jnp.broadcast_to(target, rows)
    span = jnp.where(level > target, level - target, 1)
    factor = (1 - spread(target) / spread(level)) / span
    average = noisy * factor[:, None, None]
    is_interval = (level > target)[:, None, None]
    return jnp.where(is_interval, average, exact_velocity(noisy, level))


def test_the_identity_holds_for_the_known_flow(key):
    noisy = jax.random.normal(key, (5, 3, 2))
    level = jnp.array([1.0, 0.9, 0.7, 0.4, 0.3])
    target = jnp.array([0.0, 0.5, 0.1, 0.2, 0.3])
    velocity = exact_velocity(noisy, level)
    for tangent in ("conditional", "predicted"):
        objective = MeanFlow(tangent=tangent)
        errors = objective.errors(exact_average, exact_average, noisy, velocity, level, target)
        np.testing.assert_allclose(errors, 0, atol=2e-3)
    # The velocity in the place of its average is not a fixed point.
    still = lambda noisy, level, target: exact_velocity(noisy, level)  # noqa: E731
    wrong = MeanFlow().errors(still, still, noisy, velocity, level, target)
    assert np.abs(wrong[0]).max() > 0.3 and np.abs(wrong[4]).max() == 0


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_jumps_are_exact_in_any_number_of_calls(steps, key):
    noise = jax.random.normal(key, (2, 5, 3))

    def average(noisy, level, span):
        return exact_average(noisy, level, level - span)

    denoiser = Denoiser(StraightPath(), exact_velocity, exact_velocity, average=average)
    found = FlowMap().solve(denoiser, noise, level_grid(steps))
    np.testing.assert_allclose(found, VARIANCE**0.5 * noise, atol=1e-5)
    # The instant velocity takes far more: in one step it reaches the mean, which is 0.
    plain = Euler().solve(denoiser, noise, level_grid(1))
    np.testing.assert_allclose(plain, 0, atol=1e-6)


def test_the_central_difference_is_the_derivative(key):
    """Of a network whose products have forward mode, the oracle."""
    keys = jax.random.split(key, 4)
    first = jax.random.normal(keys[0], (8, 32)) / 3
    last = jax.random.normal(keys[1], (32, 6)) / 6
    noisy, tangent = jax.random.normal(keys[2], (2, 7, 4, 6))
    level = jax.random.uniform(keys[3], (7,))
    target = level / 3

    def network(noisy, level, target):
        told = jnp.stack([level, level - target], axis=-1)[:, None]
        told = jnp.broadcast_to(told, (*noisy.shape[:2], 2))
        return jnp.tanh(jnp.concatenate([noisy, told], axis=-1) @ first) @ last

    _, exact = jax.jvp(
        lambda noisy, level: network(noisy, level, target), (noisy, level), (tangent, jnp.ones(7))
    )
    error = {
        step: np.linalg.norm(
            central_difference(network, noisy, tangent, level, target, step) - exact
        )
        / np.linalg.norm(exact)
        for step in (0.01, 0.1)
    }
    assert error[0.01] < 1e-3 and error[0.1] < 0.1
    # Second order: ten times the step, a hundred times the error.
    assert 30 < error[0.1] / error[0.01] < 200


def test_without_intervals_it_is_the_velocitys_loss(key):
    """Bit for bit, of the same network, and with the gradient of it."""
    tokens, cond = toy_batch()
    for objective in (MeanFlow(share=0.0), MeanFlow(share=0.0, tangent="conditional")):
        decoder = make_random(DiffusionConfig(objective=objective), TASK)
        with_map = jitted_loss(decoder)(tokens, cond, key)
        decoder.config = decoder.config.model_copy(update={"objective": Instant()})
        np.testing.assert_array_equal(
            with_map.per_example, jitted_loss(decoder)(tokens, cond, key).per_example
        )


def test_intervals_are_in_order_and_of_the_share_asked_for(key):
    level = UniformLevels().draw(key, 4000)
    start, target = MeanFlow(share=0.3).interval(key, level, UniformLevels(), 0.9)
    assert (start >= target).all()
    is_interval = np.asarray(start > target)
    assert 0.26 < is_interval.mean() < 0.34
    np.testing.assert_array_equal(start[~is_interval], level[~is_interval])
    assert (target[is_interval] <= 0.9).all()
    # The larger of two uniform draws is 2/3 on average, the smaller 1/3 (0.9 cuts little off it).
    assert abs(start[is_interval].mean() - 2 / 3) < 0.03
    assert abs(target[is_interval].mean() - 1 / 3) < 0.03


def test_the_two_forms_have_one_gradient(key):
    """|u - sg(v - (level - target) D)|^2 of MeanFlow, and iMF's sum regressed on v."""
    noisy, velocity = jax.random.normal(key, (2, 3, 4, 2))
    level, target = jnp.array([0.9, 0.6, 0.5]), jnp.array([0.1, 0.3, 0.5])

    def network(weight):
        def average(noisy, level, target):
            return jnp.tanh(weight * noisy + (level * level - target)[:, None, None])

        return average

    def published(weight):
        slope = central_difference(network(weight), noisy, velocity, level, target, 0.01)
        aim = jax.lax.stop_gradient(velocity - (level - target)[:, None, None] * slope)
        return jnp.square(network(weight)(noisy, level, target) - aim).mean()

    def ours(weight):
        still = network(jax.lax.stop_gradient(weight))
        objective = MeanFlow(tangent="conditional")
        errors = objective.errors(network(weight), still, noisy, velocity, level, target)
        return jnp.square(errors).mean()

    theirs, mine = (jax.value_and_grad(loss)(0.7) for loss in (published, ours))
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_weights_of_training_leave_validation_alone(key):
    batch = toy_batch()
    plain, weighed = (
        make_random(DiffusionConfig(objective=MeanFlow(power=power)), TASK) for power in (0.0, 1.0)
    )
    errors = jitted_loss(plain)(*batch, key).per_example
    found = jitted_loss(weighed)(*batch, key).per_example
    np.testing.assert_allclose(found, errors / (errors + 0.001), rtol=1e-4)
    weighed.deterministic = True
    np.testing.assert_array_equal(jitted_loss(weighed)(*batch, key).per_example, errors)


def test_guidance_moves_the_velocity_away_from_the_one_without_conditions(key):
    """Of examples at one level: the loss by hand, from calls of the network itself."""
    objective = MeanFlow(share=0.0, guidance=4.0)
    decoder = make_random(DiffusionConfig(objective=objective), TASK)
    decoder.deterministic = True
    tokens, cond = toy_batch()
    is_valid, clean = tokens.is_valid, read_latents(tokens)
    noise, level = jax.random.normal(key, clean.shape), jnp.array([0.2, 0.5, 0.9])
    velocity = noise - clean
    noisy = clean + level[:, None, None] * velocity
    given = Known(clean, jnp.zeros_like(is_valid))
    inputs = Inputs(cond, decoder.conditioner(cond, is_valid), is_valid, given, key)
    found = objective_errors(objective, decoder, inputs, noisy, velocity, level, level, key)
    strength = jnp.exp(objective.strength(key, 3))
    assert ((strength > 1) & (strength < 4)).all() and len(set(strength.tolist())) == 3
    dropped = cond._replace(is_dropped=jnp.ones(3, bool))
    alone = inputs._replace(conditions=decoder.conditioner(dropped, is_valid))
    without = decoder.average(alone, jnp.zeros(3))(noisy, level, level)
    told = decoder.average(inputs, jnp.log(strength))(noisy, level, level)
    aim = without + strength[:, None, None] * (velocity - without)
    # Written as MeanFlow's guided field: strength v + (1 - strength) u without.
    np.testing.assert_allclose(found, told - aim, rtol=1e-3, atol=1e-2)


def gaussian_batch(key, num_examples=64, num_frames=4):
    latents = VARIANCE**0.5 * jax.random.normal(key, (num_examples, num_frames, 8))
    codes = jnp.zeros((num_examples, num_frames, SPEC.codebooks), jnp.int32)
    tokens = Tokens(codes, latents, jnp.full(num_examples, num_frames))
    return tokens, Cond.none(num_examples, num_frames)


def trained(objective, steps=700):
    """A decoder trained on fresh normal clips, and its loss at the end of training."""
    config = DiffusionConfig(objective=objective, levels=UniformLevels())
    condition = ConditionConfig(content="none", speaker=False)
    decoder = config.build(Task(SPEC, VOCAB, BACKBONE, condition), key=jax.random.key(0))
    graph, params, rest = nnx.split(decoder, nnx.Param, ...)
    optimiser = optax.adam(optax.cosine_decay_schedule(4e-3, steps))

    def update(carry, key):
        params, state = carry
        data_key, key = jax.random.split(key)

        def loss(params):
            out = nnx.merge(graph, params, rest).loss(*gaussian_batch(data_key), key=key)
            return out.per_example.mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.key(5), steps)
    (params, _), losses = jax.jit(
        lambda params: jax.lax.scan(update, (params, optimiser.init(params)), keys)
    )(params)
    return nnx.merge(graph, params, rest), np.asarray(losses)


def slope_of(decoder, sampler, key):
    """What drawn latents are of their noise, on average, and how far they are from that."""
    noise = jax.random.normal(key, (64, 4, 8))
    cond = Cond.none(64, 4)
    drawn = decoder.sample(cond, num_frames=jnp.full(64, 4), key=key, sampler=sampler)
    latents = read_latents(drawn.tokens)
    slope = (latents * noise).sum() / jnp.square(noise).sum()
    return float(slope), float(jnp.sqrt(jnp.square(latents - VARIANCE**0.5 * noise).mean()))


@pytest.mark.slow
def test_one_call_learns_the_known_map(key):
    """From noise to normal data: the map halves. One step of a velocity gives the mean instead."""
    instant, _ = trained(Instant())
    slope, error = slope_of(instant, DiffusionSampler(steps=1), key)
    assert abs(slope) < 0.1 and error > 0.4
    for tangent in ("predicted", "conditional"):
        flow_map, losses = trained(MeanFlow(share=0.5, tangent=tangent))
        # Half of the examples learn the velocity, whose error ends at its variance.
        assert losses[-50:].mean() < 0.75 * losses[:20].mean()
        slope, error = slope_of(flow_map, ONE_CALL, key)
        assert abs(slope - 0.5) < 0.06, (tangent, slope)
        assert error < 0.12, (tangent, error)
        # The diagonal is still a velocity.
        slope, error = slope_of(flow_map, DiffusionSampler(steps=32), key)
        assert abs(slope - 0.5) < 0.06 and error < 0.12, (tangent, slope, error)


def test_calls_are_told_how_far_they_go(key):
    decoder = make_random(DiffusionConfig(objective=MeanFlow(guidance=4.0)), TASK)
    tokens, cond = toy_batch()

    def draw(**update):
        sampler = ONE_CALL.model_copy(update=update)
        return decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler)

    one = draw()
    assert one.num_network_calls == 1 and draw(told_guidance=3.0).num_network_calls == 1
    assert draw(guidance=2.0).num_network_calls == 2
    plain = draw(solver=Euler())
    for other in (plain, draw(told_guidance=3.0), draw(guidance=2.0), draw(steps=2)):
        assert np.abs(other.tokens.latents - one.tokens.latents).max() > 1e-2


@pytest.mark.parametrize("prefix_share", [0.0, 0.5])
def test_known_frames_come_back(prefix_share, key):
    config = DiffusionConfig(objective=MeanFlow(), prefix_share=prefix_share)
    decoder = make_random(config, TASK)
    tokens, cond = toy_batch()
    prompt = prompt_where(tokens, jnp.arange(NUM_FRAMES)[None, :] < 4)
    sampler = ONE_CALL.model_copy(update={"steps": 2})
    drawn = decoder.sample(
        cond, num_frames=tokens.num_frames, key=key, sampler=sampler, prompt=prompt
    )
    np.testing.assert_array_equal(read_latents(drawn.tokens)[:, :4], read_latents(tokens)[:, :4])


@pytest.mark.parametrize(
    ("objective", "calls"),
    [
        (MeanFlow(tangent="conditional"), 2),
        (MeanFlow(), 3),
        (MeanFlow(guidance=2.0), 4),
    ],
    ids=["conditional", "predicted", "guided"],
)
def test_the_calls_of_its_target_are_counted(objective, calls):
    config = DiffusionConfig(objective=objective)
    assert train_flops(config, TASK) == pytest.approx(walk_loss(config, TASK), rel=1e-9)
    # A call forward is about a third of a call with its gradient.
    ratio = train_flops(config, TASK) / train_flops(DiffusionConfig(), TASK)
    assert 1 + 0.25 * calls < ratio < 1 + 0.36 * calls


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": CosinePath(), "predicts": "v"}, "path.kind='cosine'.*set path.kind='straight'"),
        ({"predicts": "clean"}, "predicts='clean'.*set predicts='velocity'"),
        ({"min_snr_gamma": 5.0}, "min_snr_gamma=5.0.*set min_snr_gamma=None"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        DiffusionConfig(objective=MeanFlow(), **fields)


def test_samplers_and_backbones_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"solver.kind='flow_map'.*objective.kind='mean_flow'"):
        Arm(decoder=DiffusionConfig(), sampler=ONE_CALL)
    told = DiffusionSampler(told_guidance=3.0)
    with pytest.raises(ConfigError, match=r"told_guidance=3.*objective.guidance=2"):
        DiffusionConfig(objective=MeanFlow(guidance=2.0)).check_sampler(told)
    rounded = TASK._replace(backbone=BACKBONE.model_copy(update={"dtype": "bfloat16"}))
    with pytest.raises(ConfigError, match=r"difference=0.01.*set decoder.objective.difference=0.1"):
        DiffusionConfig(objective=MeanFlow()).build(rounded, key=jax.random.key(0))
    DiffusionConfig(objective=MeanFlow(difference=0.1)).build(rounded, key=jax.random.key(0))
    undropped = TASK._replace(condition=SEMANTIC.model_copy(update={"dropout": 0.0}))
    with pytest.raises(ConfigError, match=r"guidance=2.*set condition.dropout=0.1"):
        DiffusionConfig(objective=MeanFlow(guidance=2.0)).build(undropped, key=jax.random.key(0))
