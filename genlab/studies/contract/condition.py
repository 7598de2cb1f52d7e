"""The promises of a named condition, tried out on a few clips and inside one decoder per family.

In: the config of a condition. Out: one finding per promise. A promise that is broken here makes a
comparison wrong without a word: a value that differs from call to call is another condition in
every process, and one that says something although it is dropped spoils guidance.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from genlab.data.corpus import build_corpus
from genlab.data.embedded import Embedded
from genlab.data.manifest import Manifest
from genlab.data.recipe import Corpus
from genlab.data.told import compute_value
from genlab.data.valued import ClipFacts
from genlab.decoders.ar import ARConfig
from genlab.decoders.conditioning import ConditionConfig, Conditioner
from genlab.decoders.cost import train_flops, walk_loss
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.masked import MaskedConfig
from genlab.decoders.parts import ConditionPart
from genlab.decoders.task import Task
from genlab.nets.backbone import BackboneConfig
from genlab.nets.param import rules_of
from genlab.studies.contract.toys import NUM_EXAMPLES, NUM_FRAMES, SPEC, VOCAB, toy_batch
from genlab.studies.contract.trial import Finding, require, require_round_trip, try_out

FAMILIES: tuple[Any, ...] = (ARConfig(), MaskedConfig(), DiffusionConfig())


def check_condition(config: ConditionPart, corpus: Corpus | None = None) -> list[Finding]:
    """Try out a condition on a corpus, by default a little of the embedded one."""
    with tempfile.TemporaryDirectory() as place:
        corpus = Embedded(minutes=0.1) if corpus is None else corpus
        trial = _ConditionTrial(config, build_corpus(corpus, Path(place), is_quiet=True))
        return try_out(
            {
                "config.json gives it back": partial(require_round_trip, config),
                "values have their shape, and are the same every time": trial.has_values,
                "features have their shape and differ with the value": trial.tells,
                "what is dropped says nothing": trial.says_nothing_dropped,
                "batch mates and padding move nothing": trial.ignores_mates,
                "every parameter says how it is split and whether it decays": trial.has_rules,
                "the FLOP formula is that of the program, in every family": trial.counts_flops,
            }
        )


class _ConditionTrial:
    """One condition, its values of a few clips, and what encodes them."""

    def __init__(self, config: ConditionPart, manifest: Manifest):
        self.config = config
        clips = manifest.clips[:NUM_EXAMPLES]
        self.facts = [ClipFacts(clip, NUM_FRAMES, SPEC.frame_hz, manifest) for clip in clips]
        self.condition = ConditionConfig(content="none", speaker=False, parts=(config,))
        self.backbone = BackboneConfig(width=32, layers=2, heads=4)
        self.tokens, self.cond = toy_batch(1)
        build = Conditioner(self.condition, VOCAB, self.backbone, key=jax.random.key(0))
        build.eval()
        self.graph, self.state = nnx.split(build)

    def values(self) -> jax.Array:
        return jnp.stack([compute_value(self.config, facts) for facts in self.facts])

    def encode(self, values: jax.Array, is_dropped: bool = False) -> np.ndarray:
        """Return features "b t h", or "b 1 h" if they modulate."""
        flags = jnp.broadcast_to(jnp.asarray(is_dropped), (len(values),))
        cond = self.cond._replace(parts={self.config.name: values}, is_dropped=flags)
        conditioner = nnx.merge(self.graph, self.state)
        out = jax.jit(lambda cond: conditioner(cond, self.tokens.is_valid))(cond)
        return np.asarray(out.frames if self.config.route == "sum" else out.clip[:, None])

    def has_values(self) -> None:
        first, second = self.values(), self.values()
        require((first == second).all(), "the value of a clip differs from call to call")

    def tells(self) -> None:
        values = self.values()
        told = self.encode(values)
        require(np.isfinite(told).all(), "features are not finite")
        other = jnp.where(values > 0, 0, 1) if values.dtype.kind == "i" else values + 1
        require((told[0] != self.encode(other)[0]).any(), "another value gives the same features")

    def says_nothing_dropped(self) -> None:
        values = self.values()
        first, second = (self.encode(each, True) for each in (values, jnp.zeros_like(values)))
        require((first == second).all(), "a dropped value changes the features")
        told = self.encode(values)
        require((told[0] != first[0]).any(), "the features are the same as those of no value")

    def ignores_mates(self) -> None:
        values = self.values()
        alone, beside = self.encode(values), self.encode(values.at[1:].set(values[:1]))
        require(np.allclose(alone[0], beside[0], atol=1e-5), "another clip moves the features")
        if not self.config.is_per_frame:
            return
        is_valid = np.asarray(self.tokens.is_valid)
        shown = jnp.reshape(is_valid, (*is_valid.shape, *[1] * (values.ndim - 2)))
        padded = self.encode(jnp.where(shown, values, 0))
        same = np.allclose(alone[is_valid], padded[is_valid], atol=1e-5)
        require(same, "values behind the end of a clip move its features")

    def has_rules(self) -> None:
        rules_of(nnx.merge(self.graph, self.state))

    def counts_flops(self) -> None:
        for family in FAMILIES:
            task = Task(SPEC, VOCAB, self.backbone, self.condition, num_frames=NUM_FRAMES)
            stated, walked = train_flops(family, task), walk_loss(family, task)
            told = f"{family.kind}: flops gives {stated:.4g} in all, the program has {walked:.4g}"
            require(abs(stated / walked - 1) < 0.01, told)
