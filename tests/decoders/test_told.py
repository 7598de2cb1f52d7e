"""Conditions by name: every input by every route in every family, single dropout and guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import (
    BACKBONE,
    FAMILIES,
    NUM_SYMBOLS,
    SPEC,
    VOCAB,
    jitted_loss,
    randomised,
    toy_batch,
)
from flax import nnx
from told_toys import NAMES, parts_by, told_batch, told_by, values

from genlab.config import ConfigError, GenlabError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig, Conditioner
from genlab.decoders.cost import sample_cost, train_flops, walk_loss
from genlab.decoders.diffusion import DiffusionSampler
from genlab.decoders.guidance import InputGuidance, guide, num_copies, with_unconditional
from genlab.decoders.inputs import check_sample
from genlab.decoders.parts import Label
from genlab.decoders.regression import RegressionConfig
from genlab.decoders.task import Task
from genlab.decoders.told.curves import Curve
from genlab.decoders.told.symbols import Phonemes, Utf8
from genlab.fairness.reach import swaps

ROUTES = ("sum", "adaln", "prefix", "cross")
ONE_EACH = ("ar", "depth", "masked", "diffusion", "latent_flow", "discrete", "blockwise", "mar")
ONE_EACH += ("latent_blocks",)
THIN = BACKBONE.model_copy(update={"layers": 1})


def conditioner_of(condition, backbone=BACKBONE):
    built = Conditioner(condition, VOCAB, backbone, key=jax.random.key(0))
    built.eval()
    return built


def features(built, cond, is_valid) -> np.ndarray:
    """All that a conditioner says to a backbone, one row per example; what is not valid is 0."""
    out = built(cond, is_valid)
    told = [out.frames.reshape(len(out.frames), -1)]
    if out.text is not None:
        told.append(
            jnp.where(out.text.is_valid[:, :, None], out.text.features, 0).reshape(len(told[0]), -1)
        )
        told.append(out.text.is_valid)
    if out.clip is not None:
        told.append(out.clip)
    return np.concatenate([np.asarray(each, np.float32) for each in told], axis=1)


@pytest.mark.parametrize("route", ROUTES)
def test_every_input_speaks_by_every_route_and_is_silent_where_it_is_dropped(route):
    built = conditioner_of(told_by(route))
    tokens, cond = told_batch(route)
    other = values(1)
    told = features(built, cond, tokens.is_valid)
    nobody = np.ones(3, bool)
    dropped = features(built, cond._replace(is_dropped=nobody), tokens.is_valid)
    for name in cond.parts:
        moved = cond._replace(parts={**cond.parts, name: other[name]})
        assert (features(built, moved, tokens.is_valid) != told).any(axis=1).all(), name
        # Absent alone: the value says nothing any more, and the others go on as they did.
        alone = [
            features(built, each._replace(absent={name: nobody}), tokens.is_valid)
            for each in (cond, moved)
        ]
        np.testing.assert_array_equal(*alone)
        assert (alone[0] != told).any(axis=1).all() and (alone[0] != dropped).any(axis=1).all()
    each_alone = cond._replace(absent=dict.fromkeys(cond.parts, nobody))
    np.testing.assert_array_equal(features(built, each_alone, tokens.is_valid), dropped)
    others = cond._replace(parts={name: other[name] for name in cond.parts}, is_dropped=nobody)
    np.testing.assert_array_equal(features(built, others, tokens.is_valid), dropped)


@pytest.mark.parametrize("route", ["sum", "cross"])
def test_batch_mates_and_padding_move_nothing(route):
    built = conditioner_of(told_by(route))
    tokens, cond = told_batch(route)
    told = features(built, cond, tokens.is_valid)
    mates = values(1)
    mixed = {
        name: np.concatenate([value[:1], mates[name][1:]]) for name, value in cond.parts.items()
    }
    moved = features(built, cond._replace(parts=mixed), tokens.is_valid)
    np.testing.assert_allclose(moved[0], told[0], atol=1e-5)
    is_valid = np.asarray(tokens.is_valid)
    behind = {
        name: np.where(is_valid[:, :, None], value, 1).astype(value.dtype)
        for name, value in cond.parts.items()
        if name in ("pitch", "mixture")
    }
    padded = features(built, cond._replace(parts={**cond.parts, **behind}), tokens.is_valid)
    np.testing.assert_allclose(padded, told, atol=1e-5)


def test_a_mixture_lies_between_its_names():
    parts = (Label(name="style", column="style", names=NAMES),)
    condition = ConditionConfig(content="none", speaker=True, parts=parts)
    built = conditioner_of(condition)
    tokens, cond = toy_batch()

    def told(speaker, style):
        changed = cond._replace(speaker=speaker, parts={"style": style})
        return built(changed, tokens.is_valid).frames[0, 0]

    first, last = np.full(3, 0), np.full(3, 2)
    half = np.tile(np.float32([0.5, 0, 0.5]), (3, 1))
    mixed = (told(first, first) + told(last, last)) / 2
    np.testing.assert_allclose(told(half, half), mixed, atol=1e-6)
    sure = np.tile(np.float32([0, 0, 1]), (3, 1))
    np.testing.assert_allclose(told(sure, sure), told(last, last), atol=1e-6)


@pytest.mark.parametrize("name", [*ONE_EACH, "regression"])
def test_every_input_reaches_every_family_from_its_first_frame(name):
    """One program per family: its loss, with all kinds attended to; each is changed in turn."""
    config = RegressionConfig() if name == "regression" else FAMILIES[name].config
    task = Task(SPEC, VOCAB, THIN, told_by("cross"), num_frames=12)
    decoder = randomised(config.build(task, key=jax.random.key(0)))
    decoder.eval()
    loss = jitted_loss(decoder)
    tokens, cond = told_batch("cross")
    key = jax.random.key(1)
    told = np.asarray(loss(tokens, cond, key).per_example)
    assert np.isfinite(told).all()
    other = values(1)
    for each in cond.parts:
        moved = cond._replace(parts={**cond.parts, each: other[each]})
        assert (np.asarray(loss(tokens, moved, key).per_example) != told).all(), each
    # The last frame of a curve alone: a causal decoder hears of it too.
    late = cond.parts["pitch"].copy()
    late[0, 11] += 3
    moved = cond._replace(parts={**cond.parts, "pitch": late})
    assert np.asarray(loss(tokens, moved, key).per_example)[0] != told[0]
    nobody = cond._replace(is_dropped=np.ones(3, bool))
    unheard = nobody._replace(parts={each: other[each] for each in cond.parts})
    np.testing.assert_array_equal(
        loss(tokens, nobody, key).per_example, loss(tokens, unheard, key).per_example
    )


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ONE_EACH)
def test_costs_of_every_input_follow_the_formulas(name, route):
    family = FAMILIES[name]
    task = Task(SPEC, VOCAB, THIN, told_by(route), num_frames=12, num_symbols=NUM_SYMBOLS)
    assert train_flops(family.config, task) == pytest.approx(
        walk_loss(family.config, task), rel=0.01
    )


@pytest.mark.parametrize("name", ["ar", "masked", "diffusion", "latent_flow"])
def test_guidance_of_one_input_costs_a_copy_and_is_shaped_as_without(name):
    family = FAMILIES[name]
    task = Task(SPEC, VOCAB, THIN, told_by("cross"), num_frames=12, num_symbols=NUM_SYMBOLS)
    stressed = (InputGuidance(name="style", guidance=2.0), InputGuidance(name="words", guidance=0))
    guided = family.sampler.model_copy(update={"guidance": 3.0, "guidances": stressed})
    plain = sample_cost(family.config, family.sampler, task)
    cost = sample_cost(family.config, guided, task)
    assert num_copies(guided) == 4 and cost.network_calls == 4 * plain.network_calls
    assert cost.flops > 3.5 * plain.flops
    tokens, cond = told_batch("cross")
    decoder = jax.eval_shape(lambda key: family.config.build(task, key=key), jax.random.key(0))
    graph, state = nnx.split(decoder)

    def draw(state, cond, num_frames, key):
        out = nnx.merge(graph, state).sample(cond, num_frames=num_frames, key=key, sampler=guided)
        assert out.num_network_calls == cost.network_calls
        return out.tokens

    drawn = jax.eval_shape(draw, state, cond, tokens.num_frames, jax.random.key(0))
    view = drawn.codes if drawn.codes is not None else drawn.latents
    assert view.shape[:2] == (3, 12)


def test_guidance_of_single_inputs_adds_up():
    style, words = InputGuidance(name="style", guidance=3), InputGuidance(name="words", guidance=0)
    sampler = ARSampler(guidance=2.0, guidances=(style, words))
    _, cond = told_batch("cross")
    rows = with_unconditional(cond, sampler)
    assert rows.is_dropped.tolist() == [False, True, False, False] * 3
    assert rows.absent["style"].tolist() == [False, False, True, False] * 3
    assert rows.absent["words"].tolist() == [False, False, False, True] * 3
    # told 5, nothing told 1, without style 4, without words 2: 1 + 2*4 + 2*1 - 1*3
    outputs = jnp.array([[5.0], [1.0], [4.0], [2.0]])
    assert guide(outputs, sampler).tolist() == [[8.0]]
    alone = ARSampler(guidances=(style,))
    assert guide(jnp.array([[5.0], [4.0]]), alone).tolist() == [[7.0]]
    # With one input only, stressing it is stressing all.
    np.testing.assert_allclose(
        guide(jnp.array([[5.0], [1.0]]), alone),
        guide(jnp.array([[5.0], [1.0]]), ARSampler(guidance=3)),
    )
    off = ARSampler(guidances=(InputGuidance(name="style", guidance=1),))
    assert with_unconditional(cond, off) is cond


def test_single_dropout_drops_its_share_of_each_alone(key):
    style = Label(name="style", column="style", names=NAMES, dropout=0.4)
    condition = ConditionConfig(content="none", dropout=0.0, speaker_dropout=0.25, parts=(style,))
    built = Conditioner(condition, VOCAB, BACKBONE, key=key)
    _, cond = toy_batch(num_examples=2000, num_frames=2)
    dropped = built._dropped(cond, jax.random.key(2))
    rates = {name: float(flags.mean()) for name, flags in dropped.items()}
    assert rates == pytest.approx({"speaker": 0.25, "style": 0.4}, abs=0.04)
    both = float((dropped["speaker"] & dropped["style"]).mean())
    assert both == pytest.approx(0.1, abs=0.03)  # each by itself
    built.eval()
    assert not any(flags.any() for flags in built._dropped(cond, jax.random.key(2)).values())


ILLEGAL = {
    "parts.0: route='adaln': 'pitch' differs from frame to frame; use route='sum'": (
        {"kind": "curve", "name": "pitch", "measured": "f0", "route": "adaln"},
    ),
    "parts.0: route='sum': 'words' is a sequence of its own length.*use route='cross'": (
        {"kind": "utf8", "name": "words", "route": "sum"},
    ),
    "parts.0.route='prefix' and parts.1.route='cross'.*use the same route for both": (
        {"kind": "utf8", "name": "words", "route": "prefix"},
        {"kind": "curve", "name": "pitch", "measured": "f0", "route": "cross"},
    ),
    "parts.0: column='', measured=None: expected one of the two": (
        {"kind": "curve", "name": "pitch"},
    ),
    "parts.0: channels=3: measured='f0' has 2; leave channels out": (
        {"kind": "curve", "name": "pitch", "measured": "f0", "channels": 3},
    ),
    "the name 'text' is a condition of its own already": ({"kind": "utf8", "name": "text"},),
}


@pytest.mark.parametrize("told", ILLEGAL, ids=range(len(ILLEGAL)))
def test_an_illegal_cell_names_the_settings_and_the_fix(told):
    with pytest.raises(ConfigError, match=told) as error:
        ConditionConfig.from_dict({"content": "none", "parts": list(ILLEGAL[told])})
    assert "\n" not in str(error.value)


def test_text_of_two_routes_is_refused():
    words = Utf8(name="words")
    with pytest.raises(ValueError, match=r"route='prefix' and parts\.0.route='cross'"):
        ConditionConfig(content="text", parts=(words,))
    ConditionConfig(content="text", route="cross", parts=(words,))


@pytest.mark.parametrize(
    ("guidances", "told"),
    [
        ("tempo", "guidance=2 of 'tempo' contrasts with clips of which it alone is dropped.*set "),
        ("speaker", "sampler.guidances: no input 'speaker', expected one of style, band, tempo"),
    ],
)
def test_guidance_of_what_was_never_dropped_alone_is_refused(guidances, told):
    task = Task(SPEC, VOCAB, THIN, told_by("cross"))
    decoder = ARConfig().build(task, key=jax.random.key(0))
    tokens, cond = told_batch("cross")
    sampler = ARSampler(guidances=(InputGuidance(name=guidances, guidance=2.0),))
    with pytest.raises(GenlabError, match=told):
        check_sample(decoder, cond, tokens.num_frames, sampler, ARSampler)
    with pytest.raises(ValueError, match="the input 'a' is given twice"):
        twice = InputGuidance(name="a", guidance=2.0)
        DiffusionSampler(guidances=(twice, twice))


def test_own_inputs_of_the_config_change_no_digest():
    assert ConditionConfig(layers=1).digest() == "4db08a7490"
    assert ARSampler().digest() == "469492dd30"
    assert Label(name="a", column="b", names=("c",)).digest() == "731e6f6254"
    assert Curve(name="f0", measured="f0").digest() != Curve(name="f0", measured="chroma").digest()


@pytest.mark.parametrize("part", parts_by("cross"), ids=lambda part: part.kind)
def test_configs_come_back_from_json(part):
    condition = ConditionConfig(content="none", parts=(part,))
    again = ConditionConfig.from_dict(condition.to_dict())
    assert again == condition and again.digest() == condition.digest()


def test_symbols_of_any_script_and_none_unknown():
    words = Utf8(name="words", max_symbols=6)
    assert words.symbols_of("né").tolist() == [1, 2 + ord("n"), 2 + 0xC3, 2 + 0xA9, 0, 0, 0]
    for text, told in (
        ("", "an empty text"),
        ("日本語", "9 symbols, expected at most max_symbols=6"),
    ):
        with pytest.raises(GenlabError, match=told):
            words.symbols_of(text)
    sounds = Phonemes(name="sounds", symbols=("AH0", "B"))
    assert sounds.symbols_of("B AH0")[:4].tolist() == [1, 3, 2, 0]
    with pytest.raises(GenlabError, match=r"'AH1' is not in symbols .*did you mean 'AH0'"):
        sounds.symbols_of("B AH1")


def test_reach_swaps_the_second_half_of_sequences_and_keeps_their_length():
    _, cond = told_batch("cross")
    changed = {
        swap.name: np.asarray(swap.cond.parts[swap.name]) != np.asarray(cond.parts[swap.name])
        for swap in swaps(cond, np.full(3, 12), told_by("cross"), VOCAB)
    }
    assert set(changed) == {"words", "sounds", "pitch", "states", "mixture"}
    is_word = np.asarray(cond.parts["words"]) > 0
    place = np.arange(is_word.shape[1])[None]
    is_late = (place >= is_word.sum(axis=1)[:, None] // 2) & is_word
    assert not (changed["words"] & ~is_late).any() and changed["words"].any()
    assert not changed["states"][:, :, -1].any()  # which of them are there
    assert not changed["pitch"][:, :6].any() and changed["pitch"][:, 6:].all()
