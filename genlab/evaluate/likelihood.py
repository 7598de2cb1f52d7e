"""Bits of codes under trained decoders: one number per clip, what it is worth, and the test that
can prove it wrong.

In: a decoder with `score` and clips of a token store. Out: bits per clip in compiled batches with
their Monte-Carlo error, per-clip values for the table, and, on clips of a `KnownEntropy` source,
`Excess`: how far the bits lie above those of the source itself on the very same clips, which takes
out the luck of the clips.

A bound through latents is valid for every width of its q. The width is chosen per decoder on clips
that are not scored (`choose_width`), so that the choice does not bias the score.

Every batch has its own key, and a decoder draws for each example by itself, so the draws of one
clip say nothing about another's. The spread of the values over clips is then the spread of clips
and draws together: an interval over clips holds the Monte-Carlo error already, and adding it again
would count it twice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeGuard

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from genlab.data.known_entropy import KnownEntropy
from genlab.data.store import TokenClip, TokenStore
from genlab.evaluate.scores import ClipValues, Score, Validity
from genlab.evaluate.table import make_score
from genlab.statistics.bootstrap import Estimate
from genlab.tokens import Cond, Decoder, ScoreOut, Tokens

BATCH_CLIPS = 32


class ClipBits(NamedTuple):
    """Bits per clip, one standard deviation of the Monte-Carlo error of each, and what the numbers
    are.
    """

    bits: Float[np.ndarray, "n"]
    std_error: Float[np.ndarray, "n"]
    validity: Validity


class Excess(NamedTuple):
    """Bits per second of a decoder on clips of a known source, and how much that is above the
    source's own.

    `source` is the mean over the clips themselves, not the expectation. `monte_carlo_error` is one
    standard deviation of `bits` from the decoder's own draws, and part of both intervals.
    """

    bits: Estimate
    source: float
    excess: Estimate
    monte_carlo_error: float
    validity: Validity

    @property
    def is_refuted(self) -> bool:
        """True if the score is significantly below the entropy: then it is neither exact nor an
        upper bound.
        """
        return self.validity in ("exact", "upper bound") and self.excess.high < 0

    def describe(self) -> str:
        """Return the finding in one line."""
        share = self.excess.value / self.source
        verdict = (
            "REFUTED: no model can be below the source"
            if self.is_refuted
            else "not below the source"
        )
        return (
            f"{self.validity}: {self.bits.value:.1f} [{self.bits.low:.1f}, {self.bits.high:.1f}] "
            f"bits/s on {self.bits.n} fresh clips, Monte-Carlo error "
            f"{self.monte_carlo_error:.2f}; the source itself {self.source:.1f}; excess "
            f"{self.excess.value:+.2f} [{self.excess.low:+.2f}, {self.excess.high:+.2f}] "
            f"({share:+.1%}): {verdict}"
        )


def can_score(decoder: object) -> TypeGuard[Decoder]:
    """Return whether the family puts a number of bits on codes."""
    return getattr(decoder, "has_bits", True) and hasattr(decoder, "score")


def choose_width(
    decoder: Decoder,
    store: TokenStore,
    clips: Sequence[TokenClip],
    *,
    num_draws: int,
    seed: int = 0,
) -> float | None:
    """Return the width of q with the lowest bound on `clips`, or None if the family has no such
    choice.

    `clips` must not be those that are scored: the lowest of several bounds on the same clips is no
    bound.
    """
    widths = getattr(decoder, "bound_widths", ())
    score = _compile_score(decoder, num_draws)
    totals = [
        _score_batches(score, store, clips, seed, {"width": width}).bits.sum() for width in widths
    ]
    return widths[int(np.argmin(totals))] if widths else None


def score_clips(
    decoder: Decoder,
    store: TokenStore,
    clips: Sequence[TokenClip],
    *,
    num_draws: int,
    seed: int = 0,
    width: float | None = None,
) -> ClipBits:
    """Return the bits of each clip's codes, in compiled batches; `width` is that of q, where there
    is one.
    """
    chosen = {} if width is None else {"width": width}
    return _score_batches(_compile_score(decoder, num_draws), store, clips, seed, chosen)


def _compile_score(decoder: Decoder, num_draws: int) -> Callable[..., ScoreOut]:
    graph, state = nnx.split(decoder)

    @jax.jit
    def score(
        state: nnx.State, tokens: Tokens, cond: Cond, key: jax.Array, chosen: Mapping[str, float]
    ) -> ScoreOut:
        return nnx.merge(graph, state).score(tokens, cond, key=key, num_draws=num_draws, **chosen)

    return lambda *arguments: jax.device_get(score(state, *arguments))


def _score_batches(
    score: Callable[..., ScoreOut],
    store: TokenStore,
    clips: Sequence[TokenClip],
    seed: int,
    chosen: Mapping[str, float],
) -> ClipBits:
    num_frames = max(len(clip.units) for clip in clips)
    parts = []
    for number, first in enumerate(range(0, len(clips), BATCH_CLIPS)):
        # A short last batch is filled up with the first clip: one compiled shape, results cut off
        # again.
        rows = np.arange(first, first + min(BATCH_CLIPS, len(clips)))
        rows = np.where(rows < len(clips), rows, 0)
        examples = [store.example(clips[row], num_frames) for row in rows]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
        parts.append(score(*batch, jax.random.fold_in(jax.random.key(seed), number), chosen))
    bits, errors = (
        np.concatenate(column)[: len(clips)].astype(np.float64) for column in list(zip(*parts))[:2]
    )
    return ClipBits(bits, errors, parts[0].validity)


def score_bits(
    decoders: Sequence[Decoder],
    store: TokenStore,
    clips: Sequence[TokenClip],
    clusters: Sequence[object],
    *,
    unscored: Sequence[TokenClip],
    num_draws: int,
    seed: int,
) -> tuple[Score, ClipValues]:
    """Return bits per second of the clips' own codes under the decoders of every training seed, and
    the values of each.

    Args:
        decoders: one per training seed, all of one family.
        store: the token store of the clips.
        clips: the clips.
        clusters: which clips are one unit of the statistics.
        unscored: other clips, on which the width of q is chosen.
        num_draws: draws per clip behind a bound.
        seed: of the draws, and of the interval.
    """
    outs, widths = [], []
    for decoder_seed, decoder in enumerate(decoders, seed):
        widths.append(
            choose_width(decoder, store, unscored, num_draws=num_draws, seed=decoder_seed)
        )
        outs.append(
            score_clips(
                decoder, store, clips, num_draws=num_draws, seed=decoder_seed, width=widths[-1]
            )
        )
    values = _bits_per_s(outs, store, clips, tuple(clusters) * len(outs))
    error = _monte_carlo_error(outs, values)
    note = ""
    if error > 0:  # a bound without draws is that of a plan
        # Draws that are spread evenly err less than independent ones, which is what their deviation
        # tells.
        note = (
            f"{num_draws} draws per clip; the interval holds their error, at most {error:.1f} "
            "bits/s (one deviation)"
        )
    if widths[0] is not None:
        note += (
            f"; width of q {', '.join(f'{width:g}' for width in widths)}, chosen on "
            f"{len(unscored)} unscored clips"
        )
    estimate = values.estimate(seed)
    kind = values.validity
    return make_score(
        "bits_per_s", estimate, seeds=len(outs), validity=kind, note=note, covers=values.covers
    ), values


def measure_excess(
    decoder: Decoder,
    source: KnownEntropy,
    store: TokenStore,
    *,
    num_frames: int,
    num_clips: int = 512,
    num_draws: int = 8,
    seed: int = 0,
) -> Excess:
    """Score fresh clips of the source with the decoder, and subtract what the source itself says of
    each.
    """
    clips, unscored = (
        source.fresh_clips(num_clips, num_frames, number) for number in (seed, seed + 1)
    )
    width = choose_width(decoder, store, unscored[:64], num_draws=num_draws, seed=seed)
    out = score_clips(decoder, store, clips, num_draws=num_draws, seed=seed, width=width)
    own_bits = source.exact_bits(np.stack([clip.codes for clip in clips]))
    values = _bits_per_s([out], store, clips, tuple(range(num_clips)))
    excess = values._replace(totals=values.totals - own_bits)
    return Excess(
        bits=values.estimate(seed),
        source=float(own_bits.sum() / values.weights.sum()),
        excess=excess.estimate(seed),
        monte_carlo_error=_monte_carlo_error([out], values),
        validity=values.validity,
    )


def _bits_per_s(
    outs: Sequence[ClipBits],
    store: TokenStore,
    clips: Sequence[TokenClip],
    clusters: tuple[object, ...],
) -> ClipValues:
    seconds = np.array([len(clip.units) for clip in clips]) / store.info.spec.frame_hz
    bits = np.concatenate([out.bits for out in outs])
    runs = tuple(np.repeat(range(len(outs)), len(clips)).tolist())
    return ClipValues(bits, np.tile(seconds, len(outs)), clusters, outs[0].validity, runs)


def _monte_carlo_error(outs: Sequence[ClipBits], values: ClipValues) -> float:
    errors = np.concatenate([out.std_error for out in outs])
    return float(np.sqrt((errors**2).sum()) / values.weights.sum())
