"""How discrete diffusion corrupts codes, what the bound on their likelihood is, and how a step
undoes some of it.

In: codes "b t k" and a noise level per example, 0 clean and 1 pure noise, which a hiding schedule
turns into the share h of codes that is corrupted. Every code is corrupted for itself. Out: noisy
codes, and from the network's logits the nats whose sum over a clip is one draw of an upper bound on
-log p(codes) in continuous time. If the network gets the share and not the time, the bound does not
depend on the schedule (2406.07524 section 3.5), only its variance does.

Absorbing noise: eq. 10 and 11 of MDLM, 2406.07524: codes become absent, and each hidden one costs
h'/h times its cross-entropy. We draw the number n of hidden codes instead of hiding each on its
own: the same expectation (2110.02037) without the outliers of 1/h near clean codes. Uniform noise
(D3PM, 2107.03006): codes become a random entry; the bound is that of UDLM, 2412.10193, the Poisson
divergence between the true and the predicted rates of jumping back.
"""

from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config
from genlab.decoders.noise.schedules import Hiding, LinearHiding, PowerHiding
from genlab.decoders.noise.unmasking import draw_hidden
from genlab.decoders.steps.logits import cross_entropy

# Below this share of clean codes the uniform bound holds nothing that float32 could see.
MIN_CLEAN_SHARE = 1e-4


class Corrupted(NamedTuple):
    """Noisy codes, the share of them that is corrupted, and the weight that turns their nats into
    the bound.
    """

    codes: Int[Array, "b t k"]
    share: Float[Array, "b"]
    weight: Float[Array, "b"]


class AbsorbingNoise(Config):
    """Corrupted codes are absent, so the network sees which ones they are and does not get the
    level.
    """

    kind: Literal["absorbing"] = "absorbing"
    is_level_shown: ClassVar[bool] = False
    # Every number of hidden codes equally often: no other schedule has draws that are as alike.
    scoring: ClassVar[Hiding] = LinearHiding()

    def corrupt(
        self,
        key: Key[Array, ""],
        codes: Int[Array, "b t k"],
        is_valid: Bool[Array, "b t"],
        level: Float[Array, "b"],
        hiding: Hiding,
        entries: int,
    ) -> Corrupted:
        """Hide ceil(h * codes) random codes of each clip."""
        # b t k -> b (t k): codes of all levels are hidden alike.
        may_hide = jnp.broadcast_to(is_valid[:, :, None], codes.shape).reshape(len(codes), -1)
        num_codes = jnp.maximum(may_hide.sum(axis=1), 1)
        num_hidden = jnp.clip(jnp.ceil(hiding.hidden_share(1 - level) * num_codes), 1, num_codes)
        is_hidden = draw_hidden(key, may_hide, num_hidden).reshape(codes.shape)
        share = num_hidden / num_codes
        # The bound is the sum over n of 1/n times the nats of n hidden codes; n comes up in this
        # share of the draws.
        frequency = hiding.progress_at((num_hidden - 1) / num_codes) - hiding.progress_at(share)
        return Corrupted(jnp.where(is_hidden, entries, codes), share, 1 / (num_hidden * frequency))

    def nats(
        self, logits: Float[Array, "b t k v"], codes: Int[Array, "b t k"], corrupted: Corrupted
    ) -> Float[Array, "b t k"]:
        """Return the weighted cross-entropy of the hidden codes."""
        is_hidden = corrupted.codes == logits.shape[-1]
        return jnp.where(
            is_hidden, corrupted.weight[:, None, None] * cross_entropy(logits, codes), 0
        )

    def start(
        self, key: Key[Array, ""], shape: tuple[int, int, int], entries: int
    ) -> Int[Array, "b t k"]:
        """Return codes that are all noise."""
        return jnp.full(shape, entries)


class UniformNoise(Config):
    """Corrupted codes are random entries. The network gets the level.

    Its softmax is the belief about a code from everything but its own noisy value, which is then
    accounted for in closed form: with the posterior from all noisy codes in its place, the bound
    would not be tight.
    """

    kind: Literal["uniform"] = "uniform"
    is_level_shown: ClassVar[bool] = True
    # Near clean codes a noisy one is rare and costs about 1/h. A schedule that is linear there has
    # infinite variance; this one has a finite third moment, so that the error of the variance is
    # finite too.
    scoring: ClassVar[Hiding] = PowerHiding(power=3.0)

    def corrupt(
        self,
        key: Key[Array, ""],
        codes: Int[Array, "b t k"],
        is_valid: Bool[Array, "b t"],
        level: Float[Array, "b"],
        hiding: Hiding,
        entries: int,
    ) -> Corrupted:
        """Replace each code with probability h by an entry that may be the same."""
        choice_key, entry_key = jax.random.split(key)
        # At level 0 nothing is noisy and the weight is infinite; the draw itself may round to it.
        share = hiding.hidden_share(1 - jnp.maximum(level, 1e-6))
        is_replaced = jax.random.uniform(choice_key, codes.shape) < share[:, None, None]
        noisy = jnp.where(
            is_replaced, jax.random.randint(entry_key, codes.shape, 0, entries), codes
        )
        rate = hiding.hiding_rate(1 - level) / jnp.maximum(1 - share, MIN_CLEAN_SHARE)
        return Corrupted(noisy, share, rate / entries)

    def nats(
        self, logits: Float[Array, "b t k v"], codes: Int[Array, "b t k"], corrupted: Corrupted
    ) -> Float[Array, "b t k"]:
        """Return the weighted divergence of the rates at which each code jumps to any other entry
        (UDLM).
        """
        entries = logits.shape[-1]
        share = corrupted.share[:, None, None, None]
        clean_share = jnp.maximum(1 - share, MIN_CLEAN_SHARE)

        def rates(clean):
            # Probability of each entry at this level over that of the noisy code.
            noisy_shares = share + entries * clean_share * clean
            return noisy_shares / jnp.take_along_axis(
                noisy_shares, corrupted.codes[..., None], axis=-1
            )

        true_rates = rates(jax.nn.one_hot(codes, entries))
        ratio = rates(jax.nn.softmax(logits.astype(jnp.float32), axis=-1)) / true_rates
        divergence = (true_rates * (ratio - 1 - jnp.log(ratio))).sum(axis=-1)
        return corrupted.weight[:, None, None] * divergence

    def start(
        self, key: Key[Array, ""], shape: tuple[int, int, int], entries: int
    ) -> Int[Array, "b t k"]:
        """Return codes that are all noise."""
        return jax.random.randint(key, shape, 0, entries)

    def own_evidence(
        self, noisy: Int[Array, "b t k"], share: Float[Array, ""], entries: int
    ) -> Float[Array, "b t k v"]:
        """Return the log probability of each noisy code for every entry that it may come from."""
        is_same = jax.nn.one_hot(noisy, entries)
        return jnp.log((1 - share) * is_same + share / entries)

    def less_noisy(
        self,
        key: Key[Array, ""],
        noisy: Int[Array, "b t k"],
        clean: Int[Array, "b t k"],
        share: Float[Array, ""],
        next_share: Float[Array, ""],
        entries: int,
    ) -> Int[Array, "b t k"]:
        """Draw codes of which `next_share` is noise, given noisier ones and clean ones (eq. 3 of
        2107.03006).
        """
        from_next = 1 - (1 - share) / (1 - next_share)
        evidence = self.own_evidence(noisy, from_next, entries) + self.own_evidence(
            clean, next_share, entries
        )
        return jax.random.categorical(key, evidence, axis=-1)


Noise = Annotated[AbsorbingNoise | UniformNoise, pydantic.Field(discriminator="kind")]
