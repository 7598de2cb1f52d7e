"""The whole grid of families, mixers and conditions, generated: a legal cell keeps its promises,
another says why not.

Without the slow stage, any two values stand together in one cell at least. Cells are traced, not
run: shapes of samples, network calls, and the FLOPs of training and sampling by the formulas.
"""

import dataclasses
import itertools
import random
from typing import NamedTuple

import jax
import pytest
from decoder_toys import BACKBONE, FAMILIES, NUM_SYMBOLS, SPEC, VOCAB, Family, toy_batch, view_of
from flax import nnx

from genlab.config import ConfigError
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.noise.denoisers import StableAudioNetwork
from genlab.decoders.regression import RegressionConfig, RegressionSampler
from genlab.decoders.task import Task
from genlab.experiment import AnyDecoder
from genlab.nets.backbone import BackboneConfig
from genlab.nets.experts import Experts
from genlab.nets.flops import count_flops
from genlab.nets.layers import AnyFeedForward, AnyMixer
from genlab.nets.mixers.attention import Attention
from genlab.nets.mixers.dilated import Dilated
from genlab.nets.mixers.grouped import GroupedAttention
from genlab.nets.mixers.latent import LatentAttention
from genlab.nets.mixers.mamba2 import Mamba2
from genlab.nets.mixers.s4d import S4D
from genlab.nets.mixers.window import Window

STABLE_AUDIO = Family(
    DiffusionConfig(network=StableAudioNetwork()), DiffusionSampler(steps=2), DiffusionSampler()
)
# A baseline: it keeps the promises about costs and shapes, not those of a model that samples.
REGRESSION = Family(RegressionConfig(), RegressionSampler(), RegressionSampler(), is_guided=False)
ALL_FAMILIES = {**FAMILIES, "stable_audio": STABLE_AUDIO, "regression": REGRESSION}
MIXERS = {
    "attention": Attention(),
    "gqa": GroupedAttention(kv_heads=2),
    "mla": LatentAttention(latent=6, rope_channels=4),
    "window": Window(frames=3, sinks=True, kv_heads=2),
    "s4d": S4D(states=4),
    "mamba2": Mamba2(states=4, head_channels=16),
    "dilated": Dilated(cycle=2),
}
FEED_FORWARD = {"experts": Experts(count=3, active=2)}  # in the place of a mixer
CHOOSING = ("attention", "gqa", "mla", "experts")
CONTENTS = {
    "semantic": {"content": "semantic"},
    "prefix": {"content": "text", "route": "prefix"},
    "cross": {"content": "text", "route": "cross"},
    "units prefix": {"content": "semantic", "units_route": "prefix"},
    "units cross": {"content": "semantic", "units_route": "cross"},
    "none": {"content": "none"},
}
WHOLE_CLIP = {
    "sum": {"clip_route": "sum"},
    "adaln": {"clip_route": "adaln", "duration": True},
    "nothing": {"speaker": False},
}


class Cell(NamedTuple):
    family: str
    mixer: str
    content: str
    whole_clip: str


def kinds_of(annotation) -> set[str]:
    """Return the built-in kinds that a field takes."""
    return {cls.model_fields["kind"].default for cls in annotation.__metadata__[0].kinds}


def test_the_grid_holds_every_family_and_mixer():
    assert {family.config.kind for family in ALL_FAMILIES.values()} == kinds_of(AnyDecoder)
    assert {mixer.kind for mixer in MIXERS.values()} == kinds_of(AnyMixer)
    choosing = {name for name, mixer in MIXERS.items() if mixer.chooses}
    assert choosing | set(FEED_FORWARD) == set(CHOOSING)
    parts = {part.kind for part in FEED_FORWARD.values()}
    assert parts | {BACKBONE.ffn.kind} == kinds_of(AnyFeedForward)


def is_traced(cell: Cell) -> bool:
    """Routes of units do not depend on what holds for the whole clip: one way of it is enough.

    So it is for all mixers but two, with what makes a difference to them: text before the frames,
    text across, neither.
    """
    way = "adaln" if cell.family == "stable_audio" else "sum"
    is_full = cell.mixer in ("attention", "dilated")
    if not is_full and cell.content not in ("semantic", "prefix", "cross"):
        return False
    return (is_full and not cell.content.startswith("units")) or cell.whole_clip == way


CELLS = [
    cell
    for cell in map(
        Cell._make, itertools.product(ALL_FAMILIES, MIXERS | FEED_FORWARD, CONTENTS, WHOLE_CLIP)
    )
    if is_traced(cell)
]


def reason_against(cell: Cell, family: Family) -> str | None:
    """What the error must name, or None if the cell is legal."""
    if cell.family == "stable_audio" and (
        "cross" not in cell.content or cell.whole_clip != "adaln"
    ):
        return "decoder.network=stable_audio: condition.content"
    if cell.family == "stable_audio" and cell.mixer != "attention":
        return f"backbone.(mixer|ffn).kind='{cell.mixer}'"
    if cell.mixer in CHOOSING:
        return None
    if getattr(family.config, "infill_share", 0) > 0:
        return f"decoder.infill_share=.*backbone.mixer={cell.mixer}"
    if cell.family in ("blockwise", "latent_blocks"):
        return f"decoder.kind=.*backbone.mixer={cell.mixer}"
    is_prefix = "prefix" in cell.content
    return f"condition.route='prefix'.*backbone.mixer={cell.mixer}" if is_prefix else None


def backbone_of(cell: Cell) -> BackboneConfig:
    if cell.mixer in FEED_FORWARD:
        return BACKBONE.model_copy(update={"ffn": FEED_FORWARD[cell.mixer]})
    return BACKBONE.model_copy(update={"mixer": MIXERS[cell.mixer]})


def in_order(cell: Cell) -> Family:
    """The family; mixers that read neighbours in time visit frames in order."""
    family = ALL_FAMILIES[cell.family]
    if cell.mixer in CHOOSING or not hasattr(family.config, "infill_share"):
        return family
    return dataclasses.replace(
        family, config=family.config.model_copy(update={"infill_share": 0.0})
    )


ILLEGAL = [cell for cell in CELLS if reason_against(cell, ALL_FAMILIES[cell.family])]
LEGAL = [cell for cell in CELLS if not reason_against(cell, in_order(cell))]


def hold_every_pair(cells: list[Cell]) -> list[Cell]:
    """Return cells in which any two values stand together that stand together in one of all."""
    seen, kept = set(), []
    for cell in random.Random(1).sample(cells, len(cells)):
        pairs = set(itertools.combinations(zip(Cell._fields, cell, strict=True), 2))
        if not pairs <= seen:
            kept.append(cell)
            seen |= pairs
    return kept


PAIRWISE = hold_every_pair(LEGAL)


@pytest.mark.parametrize("cell", ILLEGAL, ids="-".join)
def test_an_illegal_cell_says_why(cell):
    condition = ConditionConfig(**CONTENTS[cell.content], **WHOLE_CLIP[cell.whole_clip])
    backbone = backbone_of(cell)
    family = ALL_FAMILIES[cell.family]
    with pytest.raises(ConfigError, match=f"^{reason_against(cell, family)}.*(use |set |only)"):
        jax.eval_shape(
            lambda key: family.config.build(Task(SPEC, VOCAB, backbone, condition), key=key),
            jax.random.key(0),
        )


@pytest.mark.parametrize(
    "cell",
    [pytest.param(cell, marks=[] if cell in PAIRWISE else pytest.mark.slow) for cell in LEGAL],
    ids="-".join,
)
def test_a_legal_cell_keeps_its_promises(cell):
    family = in_order(cell)
    condition = ConditionConfig(**CONTENTS[cell.content], **WHOLE_CLIP[cell.whole_clip], layers=1)
    backbone = backbone_of(cell).model_copy(update={"layers": 1})
    tokens, cond = toy_batch()
    key = jax.random.key(0)
    decoder = jax.eval_shape(
        lambda key: family.config.build(Task(SPEC, VOCAB, backbone, condition), key=key), key
    )
    graph, params, rest = nnx.split(decoder, nnx.Param, ...)
    sizes = {"num_frames": tokens.codes.shape[1], "num_symbols": NUM_SYMBOLS}

    def loss(params, rest):
        return nnx.merge(graph, params, rest).loss(tokens, cond, key=key).per_example.sum()

    walked = count_flops(jax.value_and_grad(loss), params, rest) / 3
    assert family.config.train_flops(
        Task(SPEC, VOCAB, backbone, condition, **sizes)
    ) == pytest.approx(walked, rel=1e-6)

    calls = []

    def sample(params, rest):
        model = nnx.merge(graph, params, rest)
        out = model.sample(cond, num_frames=tokens.num_frames, key=key, sampler=family.sampler)
        assert view_of(model, out.tokens).shape == view_of(model, tokens).shape
        calls.append(out.num_network_calls)
        return out.tokens

    walked = count_flops(sample, params, rest) / 3
    cost = family.config.sample_cost(
        family.sampler, Task(SPEC, VOCAB, backbone, condition, **sizes)
    )
    assert cost == (calls[0], pytest.approx(walked, rel=1e-6))
