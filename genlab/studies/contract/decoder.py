"""The promises of a decoder, tried out at toy size.

In: a decoder's config and a sampler. Out: one finding per promise. A promise that is broken here
makes a comparison wrong without a word: a loss that depends on batch mates or padding, a FLOP
formula that is off, a prompt that is lost.
"""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, PyTree

from genlab.decoders.cost import sample_cost, train_flops, walk_loss
from genlab.decoders.prompt_rule import PromptRule, SaysPromptRule
from genlab.decoders.task import HasBareSampler, Task, guidance_of
from genlab.nets.backbone import BackboneConfig
from genlab.nets.param import rules_of
from genlab.studies.contract.toys import (
    CLOSE,
    CONDITION,
    NUM_EXAMPLES,
    NUM_FRAMES,
    SPEC,
    VOCAB,
    toy_batch,
)
from genlab.studies.contract.trial import Finding, require, require_round_trip, try_out
from genlab.tokens import Cond, Prompt, Tokens


def check_decoder(config: Any, sampler: Any = None) -> list[Finding]:
    """Try out a decoder's config with a sampler, by default that of its class."""
    trial = _DecoderTrial(config, config.sampler() if sampler is None else sampler)
    return try_out(
        {
            "builds, and config.json gives it back": trial.builds,
            "loss and samples have their shapes": trial.has_shapes,
            "every parameter learns": trial.learns,
            "batch mates do not move a loss": trial.ignores_mates,
            "padding does not move a loss": trial.ignores_padding,
            "the key decides a draw": trial.obeys_the_key,
            "a prompt survives": trial.keeps_a_prompt,
            "one compilation per shape": trial.compiles_once,
            "every parameter says how it is split and whether it decays": trial.has_rules,
            "the FLOP formula is that of the program": trial.counts_flops,
            "saved weights give the same loss": trial.resumes,
            "its bare law, if declared, can be drawn": trial.draws_the_bare_law,
            "how it knows a prompt, if it says so, is known": trial.names_a_prompt_rule,
        }
    )


class _DecoderTrial:
    """One decoder at toy size and what it is tried with."""

    def __init__(self, config: Any, sampler: Any):
        self.config, self.sampler = config, sampler
        backbone = BackboneConfig(width=32, layers=2, heads=4)
        self.task = Task(SPEC, VOCAB, backbone, CONDITION, num_frames=NUM_FRAMES)
        self.batch = toy_batch(1)
        self.graph, self.state = nnx.split(config.build(self.task, key=jax.random.key(0)))
        # Heads may start at zero; here they say something.
        leaves, tree = jax.tree.flatten(self.state)
        keys = jax.random.split(jax.random.key(3), len(leaves))
        noisy = [
            x + 0.1 * jax.random.normal(k, x.shape) if _is_real(x) else x
            for x, k in zip(leaves, keys)
        ]
        self.state = jax.tree.unflatten(tree, noisy)
        graph: Any = self.graph
        self.loss = jax.jit(lambda state, batch, key: nnx.merge(graph, state).loss(*batch, key=key))
        self.draw = jax.jit(self._draw)
        self.calls: list[int] = []

    def _draw(
        self, state: nnx.State, cond: Cond, num_frames: Array, key: Array, prompt: Prompt | None
    ) -> Tokens:
        model: Any = nnx.merge(self.graph, state)
        out = model.sample(
            cond, num_frames=num_frames, key=key, sampler=self.sampler, prompt=prompt
        )
        self.calls.append(out.num_network_calls)
        return out.tokens

    def sample(self, seed: int, prompt: Prompt | None = None) -> Tokens:
        tokens, cond = self.batch
        return self.draw(self.state, cond, tokens.num_frames, jax.random.key(seed), prompt)

    @property
    def reads(self) -> str:
        return nnx.merge(self.graph, self.state).reads  # pyright: ignore[reportAttributeAccessIssue]

    def builds(self) -> None:
        for part in (self.config, self.sampler):
            require_round_trip(part)
        require(
            isinstance(self.config.loss_unit, str),
            "loss_unit: expected a text such as nats_per_code",
        )
        require(
            self.reads in ("codes", "latents"),
            f"reads={self.reads!r}: expected 'codes' or 'latents'",
        )

    def has_shapes(self) -> None:
        tokens, _ = self.batch
        out = self.loss(self.state, self.batch, jax.random.key(1))
        for name in ("per_example", "weight"):
            found = getattr(out, name)
            require(
                found.shape == (NUM_EXAMPLES,),
                f"loss.{name} has shape {found.shape}, expected {(NUM_EXAMPLES,)}",
            )
        require(
            all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out)), "the loss is not finite"
        )
        drawn, given = getattr(self.sample(1), self.reads), getattr(tokens, self.reads)
        require(
            drawn.shape == given.shape, f"samples have shape {drawn.shape}, expected {given.shape}"
        )
        # Padding must be 0, since tokens of different decoders are compared as whole arrays.
        require(np.isfinite(drawn).all(), "samples are not finite")
        require(
            (np.where(tokens.is_valid[:, :, None], 0, drawn) == 0).all(),
            "frames behind the end are not 0",
        )
        if self.reads == "codes":
            require(
                drawn.min() >= 0 and drawn.max() < SPEC.entries,
                f"codes outside 0 to {SPEC.entries - 1}",
            )

    def learns(self) -> None:
        graph, params, rest = nnx.split(nnx.merge(self.graph, self.state), nnx.Param, ...)

        def mean_loss(params: nnx.State, batch: PyTree, key: Array) -> Array:
            out = nnx.merge(graph, params, rest).loss(*batch, key=key)
            return (out.per_example * out.weight).sum() / out.weight.sum()

        gradient = jax.jit(jax.grad(mean_loss))
        moved = [
            jax.tree.map(np.any, gradient(params, toy_batch(seed), jax.random.key(seed)))
            for seed in range(4)
        ]
        paths = jax.tree_util.tree_leaves_with_path(moved[0])
        hit = np.any([jax.tree.leaves(tree) for tree in moved], axis=0)
        still = [jax.tree_util.keystr(path) for (path, _), is_hit in zip(paths, hit) if not is_hit]
        require(not still, f"no gradient reaches {', '.join(still[:3])}")

    def ignores_mates(self) -> None:
        (tokens, cond), others = self.batch, toy_batch(9)
        mixed = jax.tree.map(
            lambda own, other: jnp.concatenate([own[:1], other[1:]]), (tokens, cond), others
        )
        self._same(self.batch, mixed, 1, "its loss is {} beside some clips and {} beside others")

    def ignores_padding(self) -> None:
        (tokens, cond), (noise, _) = self.batch, toy_batch(11)
        is_valid = tokens.is_valid
        codes, latents = (
            jnp.where(is_valid[:, :, None], getattr(tokens, view), factor * getattr(noise, view))
            for view, factor in (("codes", 1), ("latents", 100))
        )
        spoiled = Tokens(codes, latents, tokens.num_frames)
        told = cond._replace(content=jnp.where(is_valid, cond.content, 3))
        self._same(
            self.batch,
            (spoiled, told),
            NUM_EXAMPLES,
            "its loss is {}, and {} with other values behind its end",
        )

    def _same(self, before: PyTree, after: PyTree, count: int, text: str) -> None:
        first, second = (
            self.loss(self.state, batch, jax.random.key(1)).per_example[:count]
            for batch in (before, after)
        )
        for one, other in zip(first, second):
            require(
                np.allclose(one, other, rtol=CLOSE, atol=1e-6),
                text.format(f"{one:.5g}", f"{other:.5g}"),
            )

    def obeys_the_key(self) -> None:
        first, again, other = (
            np.asarray(getattr(self.sample(seed), self.reads)) for seed in (3, 3, 4)
        )
        require((first == again).all(), "the same key draws different tokens")
        require((first != other).any(), "another key draws the same tokens")

    def keeps_a_prompt(self) -> None:
        tokens, frame = self.batch[0], np.arange(NUM_FRAMES)
        for name, known in {
            "a prefix": frame < 4,
            "a hole": (frame < 2) | (frame > 4),
            "all": frame >= 0,
        }.items():
            prompt = Prompt(tokens, jnp.broadcast_to(jnp.asarray(known), tokens.is_valid.shape))
            kept = np.asarray(prompt.is_known & tokens.is_valid)
            drawn, given = getattr(self.sample(5, prompt), self.reads), getattr(tokens, self.reads)
            require(
                (np.asarray(drawn)[kept] == np.asarray(given)[kept]).all(),
                f"{name} of known frames is not kept",
            )

    def compiles_once(self) -> None:
        (tokens, cond), traced = self.batch, []
        shorter = tokens._replace(num_frames=tokens.num_frames - 1)

        def loss(state: nnx.State, batch: PyTree, key: Array) -> Array:
            traced.append("the loss")
            return nnx.merge(self.graph, state).loss(*batch, key=key)

        def draw(*inputs: PyTree) -> PyTree:
            traced.append("sampling")
            return self._draw(*inputs)

        compiled, drawing = jax.jit(loss), jax.jit(draw)
        for number, batch in enumerate((tokens, shorter)):
            compiled(self.state, (batch, cond), jax.random.key(number))
            drawing(self.state, cond, batch.num_frames, jax.random.key(number), None)
        again = [name for name in ("the loss", "sampling") if traced.count(name) > 1]
        require(not again, f"{' and '.join(again)} compiles again for another length")

    def has_rules(self) -> None:
        rules_of(nnx.merge(self.graph, self.state))

    def counts_flops(self) -> None:
        stated, walked = train_flops(self.config, self.task), walk_loss(self.config, self.task)
        require(
            abs(stated / walked - 1) < 0.01,
            f"train_flops says {stated:.4g}, the program has {walked:.4g}",
        )
        cost = sample_cost(self.config, self.sampler, self.task)
        self.sample(1)
        require(
            cost.network_calls == self.calls[-1],
            f"sample_cost says {cost.network_calls} calls, not {self.calls[-1]}",
        )

    def resumes(self) -> None:
        saved = [
            np.asarray(leaf) if _is_real(leaf) else leaf for leaf in jax.tree.leaves(self.state)
        ]
        graph, fresh = nnx.split(self.config.build(self.task, key=jax.random.key(8)))
        restored = jax.tree.unflatten(jax.tree.structure(fresh), saved)
        before, after = (
            np.asarray(
                jax.jit(
                    lambda state, graph=g: nnx.merge(graph, state).loss(
                        *self.batch, key=jax.random.key(1)
                    )
                )(s)[0]
            )
            for g, s in ((self.graph, self.state), (graph, restored))
        )
        require(
            (before == after).all(), "something outside the parameters differs from build to build"
        )

    def draws_the_bare_law(self) -> None:
        kind = self.config.sampler
        if not isinstance(self.config, HasBareSampler):
            return  # its own sampler serves, and the note of the score says so
        sampler = self.config.bare_sampler(self.task)
        require(
            isinstance(sampler, kind),
            f"bare_sampler returns {type(sampler).__name__}, not {kind.__name__}",
        )
        guidance = guidance_of(sampler)
        require(guidance == 1, f"bare_sampler is guided by {guidance:g}, expected 1")
        temperature = getattr(sampler, "temperature", 1.0)
        require(temperature == 1, f"bare_sampler has temperature {temperature:g}, expected 1")
        if sampler == self.sampler:
            return  # the promises above are of these very draws
        bare = _DecoderTrial(self.config, sampler)
        bare.has_shapes()
        bare.keeps_a_prompt()

    def names_a_prompt_rule(self) -> None:
        if isinstance(self.config, SaysPromptRule):
            rule, rules = self.config.prompt_rule, get_args(PromptRule)
            require(rule in rules, f"prompt_rule is {rule!r}, expected one of {', '.join(rules)}")


def _is_real(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
