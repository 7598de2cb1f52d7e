"""What a decoder or a mixer of your own must keep, tried out at toy size: `genlab check
FILE.py:Class`.

In: a config class. Out: one finding per promise, with what is wrong where it is broken. A promise
that is broken here makes a comparison wrong without a word: a loss that depends on batch mates or
padding, a layer that sees the future, a FLOP formula that is off, a prompt that is not kept.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from genlab.config import Config, ConfigError, GenlabError
from genlab.config.errors import one_line
from genlab.config.open import check_own
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.cost import sample_cost, train_flops, walk_loss
from genlab.decoders.task import DecoderConfig, Task
from genlab.evaluate.own import MetricConfig
from genlab.nets.backbone import Backbone, BackboneConfig, backbone_flops
from genlab.nets.flops import count_flops
from genlab.nets.layer import FeedForward, Mixer
from genlab.nets.param import rules_of
from genlab.tokens import Cond, Prompt, Tokens, TokenSpec

SPEC = TokenSpec(sample_rate_hz=16_000, hop_samples=320, codebooks=4, entries=16, latent_channels=8)
VOCAB = CondVocab(num_speakers=3, num_units=10)
CONDITION = ConditionConfig(layers=1, dropout=0.0)
NUM_EXAMPLES, NUM_FRAMES = 3, 12
CLOSE = 1e-4


class Finding(NamedTuple):
    """One promise, and what is wrong; an empty text is nothing."""

    promise: str
    problem: str


class _Broken(Exception):
    """A promise is not kept; the text says how that was seen."""


def check_class(cls: type[Config]) -> list[Finding]:
    """Try out what a class promises, with its fields at their defaults.

    Raises:
        ConfigError: if it is no decoder, mixer, feed-forward part or metric, or has fields without
            defaults.
    """
    try:
        config: Any = cls()
    except ValueError as error:
        raise ConfigError(
            f"{cls.__name__}: give every field a default to check it ({one_line(str(error), 200)})"
        ) from None
    contract, check = _contract_of(config)
    try:
        check_own(config, contract)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return check(config)


def _contract_of(config: Any) -> tuple[type, Callable[[Any], list[Finding]]]:
    if hasattr(config, "metrics"):
        from genlab.studies.metric_contract import check_metric  # which needs this module

        return MetricConfig, check_metric
    if hasattr(config, "sampler"):
        return DecoderConfig, check_decoder
    if hasattr(config, "chooses") or hasattr(config, "part"):
        return Mixer, check_mixer
    if hasattr(config, "build") and hasattr(config, "flops"):
        return FeedForward, check_feed_forward
    raise ConfigError(
        f"{type(config).__name__}: expected the config of a decoder (it has `sampler`), of a "
        "mixer (it derives from PlainMixer), of a feed-forward part (`build` and `flops`) or of a "
        "metric (`metrics`)"
    )


def _try_out(promises: dict[str, Callable[[], None]]) -> list[Finding]:
    """Run every check; what one of them raises is its problem, and the others still run."""
    findings = []
    for promise, check in promises.items():
        try:
            check()
            problem = ""
        except _Broken as broken:
            problem = str(broken)
        except Exception as error:  # the code is the user's own, and may raise anything
            problem = f"{type(error).__name__}: {one_line(str(error), 300)}"
        findings.append(Finding(promise, problem))
    return findings


def check_decoder(config: Any, sampler: Any = None) -> list[Finding]:
    """Try out a decoder's config with a sampler, by default that of its class."""
    trial = _DecoderTrial(config, config.sampler() if sampler is None else sampler)
    return _try_out(
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
        }
    )


class _DecoderTrial:
    """One decoder at toy size and what it is tried with."""

    def __init__(self, config: Any, sampler: Any):
        self.config, self.sampler = config, sampler
        backbone = BackboneConfig(width=32, layers=2, heads=4)
        self.task = Task(SPEC, VOCAB, backbone, CONDITION, num_frames=NUM_FRAMES)
        self.batch = _toy_batch(1)
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
        self, state: Any, cond: Cond, num_frames: Any, key: Any, prompt: Prompt | None
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
            again = type(part).from_dict(part.to_dict())
            _require(
                again == part and again.digest() == part.digest(),
                f"{type(part).__name__} comes back as another",
            )
        _require(
            isinstance(self.config.loss_unit, str),
            "loss_unit: expected a text such as nats_per_code",
        )
        _require(
            self.reads in ("codes", "latents"),
            f"reads={self.reads!r}: expected 'codes' or 'latents'",
        )

    def has_shapes(self) -> None:
        tokens, _ = self.batch
        out = self.loss(self.state, self.batch, jax.random.key(1))
        for name in ("per_example", "weight"):
            found = getattr(out, name)
            _require(
                found.shape == (NUM_EXAMPLES,),
                f"loss.{name} has shape {found.shape}, expected {(NUM_EXAMPLES,)}",
            )
        _require(
            all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out)), "the loss is not finite"
        )
        drawn, given = getattr(self.sample(1), self.reads), getattr(tokens, self.reads)
        _require(
            drawn.shape == given.shape, f"samples have shape {drawn.shape}, expected {given.shape}"
        )
        _require(np.isfinite(drawn).all(), "samples are not finite")
        _require(
            (np.where(tokens.is_valid[:, :, None], 0, drawn) == 0).all(),
            "frames behind the end are not 0",
        )
        if self.reads == "codes":
            _require(
                drawn.min() >= 0 and drawn.max() < SPEC.entries,
                f"codes outside 0 to {SPEC.entries - 1}",
            )

    def learns(self) -> None:
        graph, params, rest = nnx.split(nnx.merge(self.graph, self.state), nnx.Param, ...)

        def mean_loss(params: Any, batch: Any, key: Any) -> Any:
            out = nnx.merge(graph, params, rest).loss(*batch, key=key)
            return (out.per_example * out.weight).sum() / out.weight.sum()

        gradient = jax.jit(jax.grad(mean_loss))
        moved = [
            jax.tree.map(np.any, gradient(params, _toy_batch(seed), jax.random.key(seed)))
            for seed in range(4)
        ]
        paths = jax.tree_util.tree_leaves_with_path(moved[0])
        hit = np.any([jax.tree.leaves(tree) for tree in moved], axis=0)
        still = [jax.tree_util.keystr(path) for (path, _), is_hit in zip(paths, hit) if not is_hit]
        _require(not still, f"no gradient reaches {', '.join(still[:3])}")

    def ignores_mates(self) -> None:
        (tokens, cond), others = self.batch, _toy_batch(9)
        mixed = jax.tree.map(
            lambda own, other: jnp.concatenate([own[:1], other[1:]]), (tokens, cond), others
        )
        self._same(self.batch, mixed, 1, "its loss is {} beside some clips and {} beside others")

    def ignores_padding(self) -> None:
        (tokens, cond), (noise, _) = self.batch, _toy_batch(11)
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

    def _same(self, before: Any, after: Any, count: int, text: str) -> None:
        first, second = (
            self.loss(self.state, batch, jax.random.key(1)).per_example[:count]
            for batch in (before, after)
        )
        for one, other in zip(first, second):
            _require(
                np.allclose(one, other, rtol=CLOSE, atol=1e-6),
                text.format(f"{one:.5g}", f"{other:.5g}"),
            )

    def obeys_the_key(self) -> None:
        first, again, other = (
            np.asarray(getattr(self.sample(seed), self.reads)) for seed in (3, 3, 4)
        )
        _require((first == again).all(), "the same key draws different tokens")
        _require((first != other).any(), "another key draws the same tokens")

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
            _require(
                (np.asarray(drawn)[kept] == np.asarray(given)[kept]).all(),
                f"{name} of known frames is not kept",
            )

    def compiles_once(self) -> None:
        (tokens, cond), traced = self.batch, []
        shorter = tokens._replace(num_frames=tokens.num_frames - 1)

        def loss(state: Any, batch: Any, key: Any) -> Any:
            traced.append("the loss")
            return nnx.merge(self.graph, state).loss(*batch, key=key)

        def draw(*inputs: Any) -> Any:
            traced.append("sampling")
            return self._draw(*inputs)

        compiled, drawing = jax.jit(loss), jax.jit(draw)
        for number, batch in enumerate((tokens, shorter)):
            compiled(self.state, (batch, cond), jax.random.key(number))
            drawing(self.state, cond, batch.num_frames, jax.random.key(number), None)
        again = [name for name in ("the loss", "sampling") if traced.count(name) > 1]
        _require(not again, f"{' and '.join(again)} compiles again for another length")

    def has_rules(self) -> None:
        rules_of(nnx.merge(self.graph, self.state))

    def counts_flops(self) -> None:
        stated, walked = train_flops(self.config, self.task), walk_loss(self.config, self.task)
        _require(
            abs(stated / walked - 1) < 0.01,
            f"train_flops says {stated:.4g}, the program has {walked:.4g}",
        )
        cost = sample_cost(self.config, self.sampler, self.task)
        self.sample(1)
        _require(
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
        _require(
            (before == after).all(), "something outside the parameters differs from build to build"
        )


def check_mixer(config: Any) -> list[Finding]:
    """Try out a mixer's config inside a backbone."""
    backbone = BackboneConfig(width=32, layers=2, heads=4, mixer=config)
    return _try_out(
        _backbone_promises(backbone)
        | {"step by step is the same as at once": lambda: _decodes(backbone)}
    )


def check_feed_forward(config: Any) -> list[Finding]:
    """Try out a feed-forward part inside a backbone."""
    return _try_out(_backbone_promises(BackboneConfig(width=32, layers=2, heads=4, ffn=config)))


def _backbone_promises(config: BackboneConfig) -> dict[str, Callable[[], None]]:
    # A mixer that cannot decode is tried without a future to see.
    is_causal = all(_can_decode(mixer, config) for mixer in config.period)
    ways = (False, True) if is_causal else (False,)
    return {
        "config.json gives it back": lambda: _require(
            BackboneConfig.from_dict(config.to_dict()) == config, "it comes back as another"
        ),
        "frames keep their shape": lambda: _keeps_shape(config, ways),
        "every parameter says how it is split and whether it decays": lambda: _has_rules(config),
        "batch mates and padding move nothing": lambda: _ignores_others(config, ways),
        **({"the past does not see the future": lambda: _is_causal(config)} if is_causal else {}),
        "the FLOP formula is that of the program": lambda: _counts_layers(config, ways),
    }


def _can_decode(mixer: Mixer, config: BackboneConfig) -> bool:
    try:
        jax.eval_shape(lambda: mixer.empty(config.layer_shape(is_causal=True), 1, 1))
    except GenlabError:
        return False
    return True


def _run(config: BackboneConfig, is_causal: bool, x: Any, is_valid: Any) -> np.ndarray:
    net = Backbone(config, key=jax.random.key(0), is_causal=is_causal)
    frames = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    return np.asarray(jax.jit(lambda x: net(x, positions=frames, is_valid=is_valid))(x))


def _frames() -> tuple[Any, Any]:
    tokens, _ = _toy_batch(1)
    return jax.random.normal(jax.random.key(2), (NUM_EXAMPLES, NUM_FRAMES, 32)), tokens.is_valid


def _keeps_shape(config: BackboneConfig, ways: tuple[bool, ...]) -> None:
    x, is_valid = _frames()
    for is_causal in ways:
        out = _run(config, is_causal, x, is_valid)
        _require(out.shape == x.shape, f"frames of shape {x.shape} become {out.shape}")
        _require(np.isfinite(out).all(), "the frames that come out are not finite")


def _has_rules(config: BackboneConfig) -> None:
    rules_of(nnx.eval_shape(lambda: Backbone(config, key=jax.random.key(0))))


def _ignores_others(config: BackboneConfig, ways: tuple[bool, ...]) -> None:
    x, is_valid = _frames()
    other = jax.random.normal(jax.random.key(7), x.shape)
    for is_causal in ways:
        out = _run(config, is_causal, x, is_valid)
        mates = _run(config, is_causal, x.at[1:].set(other[1:]), is_valid)
        _require(
            np.allclose(out[0], mates[0], atol=CLOSE), "another clip in the batch moves a frame"
        )
        padded = _run(config, is_causal, jnp.where(is_valid[:, :, None], x, 100 * other), is_valid)
        _require(
            np.allclose(out[is_valid], padded[is_valid], atol=CLOSE),
            "what lies behind the end moves a frame",
        )


def _is_causal(config: BackboneConfig) -> None:
    x, _ = _frames()
    everywhere = jnp.ones(x.shape[:2], bool)
    before, after = (_run(config, True, x.at[:, 8:].mul(factor), everywhere) for factor in (1, -3))
    moved = np.flatnonzero(~np.isclose(before, after, atol=CLOSE).all(axis=(0, 2)))
    _require(moved.size == 0 or moved[0] >= 8, f"frame {moved[:1]} moves when frame 8 changes")


def _counts_layers(config: BackboneConfig, ways: tuple[bool, ...]) -> None:
    for is_causal in ways:
        graph, state = nnx.split(
            nnx.eval_shape(
                lambda way=is_causal: Backbone(config, key=jax.random.key(0), is_causal=way)
            )
        )
        frames = jnp.arange(NUM_FRAMES)[None]

        def run(state: Any, x: Any, graph: Any = graph, frames: Any = frames) -> Any:
            return nnx.merge(graph, state)(x, positions=frames, is_valid=frames >= 0)

        walked = count_flops(
            run, state, jax.ShapeDtypeStruct((1, NUM_FRAMES, config.width), jnp.float32)
        )
        stated = backbone_flops(config, NUM_FRAMES, is_causal=is_causal)
        _require(
            abs(stated / walked - 1) < 0.01,
            f"flops says {stated:.4g}, the program has {walked:.4g}",
        )


def _decodes(config: BackboneConfig) -> None:
    x, _ = _frames()
    net = Backbone(config, key=jax.random.key(0), is_causal=True)
    whole = _run(config, True, x, jnp.ones(x.shape[:2], bool))

    @jax.jit
    def steps(x: Any) -> Any:
        plan, cache = net.start(NUM_EXAMPLES, NUM_FRAMES, None)
        outs = []
        for frame in range(NUM_FRAMES):
            positions = jnp.full((NUM_EXAMPLES, 1), frame)
            out, cache = net.extend(x[:, frame : frame + 1], plan, cache, positions=positions)
            outs.append(out)
        return jnp.concatenate(outs, axis=1)

    found = np.asarray(steps(x))
    wrong = np.flatnonzero(~np.isclose(whole, found, atol=1e-3).all(axis=(0, 2)))
    _require(wrong.size == 0, f"frame {wrong[:1]} is another when decoded with the cache")


def _toy_batch(seed: int) -> tuple[Tokens, Cond]:
    """Return a batch whose second and third clips are shorter than its frame axis."""
    keys, shape = jax.random.split(jax.random.key(seed), 4), (NUM_EXAMPLES, NUM_FRAMES)
    codes = jax.random.randint(keys[0], (*shape, SPEC.codebooks), 0, SPEC.entries)
    latents = jax.random.normal(keys[1], (*shape, SPEC.latent_channels))
    tokens = Tokens(codes, latents, jnp.array([NUM_FRAMES, NUM_FRAMES - 5, NUM_FRAMES - 3]))
    units = jax.random.randint(keys[2], shape, 1, VOCAB.num_units + 1)
    cond = Cond(
        speaker=jax.random.randint(keys[3], (NUM_EXAMPLES,), 0, VOCAB.num_speakers),
        text=jnp.zeros((NUM_EXAMPLES, 0), jnp.int32),
        content=jnp.where(tokens.is_valid, units, 0),
        is_dropped=jnp.zeros(NUM_EXAMPLES, bool),
    )
    return tokens, cond


def _is_real(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _require(is_kept: Any, problem: str) -> None:
    if not is_kept:
        raise _Broken(problem)
