"""A language of tokens whose entropy is known in closed form, so that the score of every family can
be proved wrong.

In: a `KnownEntropy` config. Out: codes "n t k" and latents "n t d", their exact bits, and a
`TokenStore` that any decoder trains on. No bound on the bits of its clips may lie below the entropy
beyond its own error, and an exact likelihood must come down to it.

A stationary Markov chain walks over hidden states, each with a few successors. The level-0 code
names the state (several codes may name one), and each finer level is drawn from a table given the
state and the next coarser code. Nothing is hidden once the codes are seen, so entropies are sums
over the tables (Cover & Thomas, Elements of Information Theory, theorem 4.2.4). A code depends on
coarser codes of its own frame and on the frame before, so flat, delayed and depth-wise orders can
all reach the entropy; heads that predict all levels of a frame at once cannot.

Latents are sums of code vectors, one per level on shrinking spheres, plus Gaussian noise: a mixture
of Gaussians, one for each frame of codes, that nearest-entry encoding can distinguish.
"""

import functools
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pydantic
from jaxtyping import Float, Int

from genlab.config import Config, GenlabError, Seed, digest
from genlab.data.store import (
    INFO_NAME,
    SCHEMA,
    SplitInfo,
    StoreInfo,
    TokenClip,
    TokenStore,
    finish_store,
    save_vectors,
    write_part,
)
from genlab.run.cache import only_builder
from genlab.tokens import TokenSpec

# of the finer levels' tables (Dirichlet): far from uniform, yet every entry is worth learning
CONCENTRATION = 0.3
# random directions per code vector, of which the one farthest from the others is kept
CANDIDATES = 64
NOISE_DEVIATIONS = 6  # between a code vector and the border to its neighbour
TRAIN_STREAM, FRESH_STREAM = 0, 1
MAX_COMPARISONS = 2**25  # of channels of code vectors, for each candidate
MAX_NUMBERS = 2**31  # in all clips, which are drawn at once


class KnownEntropy(Config):
    """The source and how much of it a token store holds; scores draw clips of their own."""

    kind: Literal["known_entropy"] = "known_entropy"
    seed: Seed = 0
    """Seed of the source's tables and of its clips."""
    states: int = pydantic.Field(default=8, ge=2, le=64)
    """States of the Markov chain; a level-0 code names its state, so at most `entries`."""
    branches: int = pydantic.Field(default=2, ge=1)
    """States that may follow each state."""
    codebooks: int = pydantic.Field(default=3, ge=1, le=16)
    """Levels of codes."""
    entries: int = pydantic.Field(default=8, ge=2, le=256)
    """Entries of each codebook."""
    latent_channels: int = pydantic.Field(default=8, ge=2, le=1024)
    """Channels of the latents."""
    noise: float = pydantic.Field(default=0.05, ge=0)
    """Standard deviation of the latents' noise in each channel, in radii of the finest level's
    sphere.
    """
    clip_frames: int = pydantic.Field(default=64, ge=1)
    """Frames of a training clip."""
    clips: int = pydantic.Field(default=4096, ge=1)
    """Training clips."""

    @pydantic.model_validator(mode="after")
    def _check_tables(self) -> "KnownEntropy":
        if self.entries < self.states or self.branches > self.states:
            raise ValueError(
                f"states={self.states}: expected at most entries={self.entries}, since a level-0 "
                f"code names its state, and at least branches={self.branches}"
            )
        comparisons = self.codebooks * self.entries**2 * self.latent_channels
        if comparisons > MAX_COMPARISONS:
            raise ValueError(
                f"codebooks={self.codebooks} of entries={self.entries} in "
                f"latent_channels={self.latent_channels} take "
                "minutes to spread apart; lower one of them"
            )
        numbers = self.clips * self.clip_frames * (self.codebooks + self.latent_channels)
        if numbers > MAX_NUMBERS:
            raise ValueError(
                f"clips={self.clips} of clip_frames={self.clip_frames} hold {numbers:.1e} codes "
                f"and latents, more than {MAX_NUMBERS:.1e}; lower clips or clip_frames"
            )
        # The entropy of latents is known only while a frame's codes follow from its latent, so
        # noise must not cross a border. Checked last: it builds the tables, which the limits above
        # keep small.
        half_distance = _half_distance(_directions(self))
        if half_distance < NOISE_DEVIATIONS * self.noise:
            raise ValueError(
                f"noise={self.noise:g}: code vectors lie {half_distance:.2g} from their borders, "
                f"and {NOISE_DEVIATIONS} deviations must fit; lower noise or entries, or raise "
                "latent_channels"
            )
        return self

    @property
    def spec(self) -> TokenSpec:
        """The token space: 50 frames of `codebooks` codes a second."""
        return TokenSpec(
            sample_rate_hz=16_000,
            hop_samples=320,
            codebooks=self.codebooks,
            entries=self.entries,
            latent_channels=self.latent_channels,
        )

    @property
    def code_vectors(self) -> Float[np.ndarray, "k v d"]:
        """The entries: random directions whose radius shrinks by level so that the finer levels
        stay inside borders.
        """
        directions = _directions(self)
        # the radii of all finer levels together, in radii of a level
        rest = 0.8 * _half_distance(directions)
        radii = (rest / (1 + rest)) ** np.arange(self.codebooks)
        return (directions * radii[:, None, None]).astype(np.float32)

    @property
    def frame_bits(self) -> float:
        """Bits per frame of the best model that sees each frame by itself."""
        tables = _tables(self)
        return _entropy(tables.start) + _emission(tables)[0]

    @property
    def code_bits(self) -> float:
        """Bits per frame of the best model that sees each code by itself: the unigram model."""
        return _emission(_tables(self))[1]

    @property
    def rate_bits(self) -> float:
        """The entropy rate, in bits per frame: the cost of a frame given all earlier ones."""
        return self.entropy_bits(2) - self.entropy_bits(1)

    def entropy_bits(self, num_frames: int) -> float:
        """Return the expected bits of a clip: its first state, its transitions, and the codes of
        every frame.
        """
        tables = _tables(self)
        transition = float(tables.start @ _entropy(tables.moves))
        return (
            _entropy(tables.start)
            + (num_frames - 1) * transition
            + num_frames * _emission(tables)[0]
        )

    def exact_bits(self, codes: Int[np.ndarray, "n t k"]) -> Float[np.ndarray, "n"]:
        """Return -log2 of the probability of each clip's codes; infinity for codes that the source
        never makes.
        """
        tables = _tables(self)
        states = codes[:, :, 0] % self.states
        with np.errstate(divide="ignore"):
            bits = -np.log2(tables.start)[states[:, 0]]
            bits -= np.log2(tables.moves)[states[:, :-1], states[:, 1:]].sum(axis=1)
            bits -= np.log2(tables.first)[states, codes[:, :, 0]].sum(axis=1)
            for level, table in enumerate(tables.finer):
                bits -= np.log2(table)[states, codes[:, :, level], codes[:, :, level + 1]].sum(
                    axis=1
                )
        return bits

    def draw(
        self, generator: np.random.Generator, num_clips: int, num_frames: int
    ) -> tuple[Int[np.ndarray, "n t k"], Float[np.ndarray, "n t d"]]:
        """Return the codes and latents of fresh clips."""
        tables = _tables(self)
        states = np.empty((num_clips, num_frames), np.int64)
        states[:, 0] = _pick(generator, np.broadcast_to(tables.start, (num_clips, self.states)))
        for frame in range(1, num_frames):
            states[:, frame] = _pick(generator, tables.moves[states[:, frame - 1]])
        levels = [_pick(generator, tables.first[states])]
        for table in tables.finer:
            levels.append(_pick(generator, table[states, levels[-1]]))
        vectors = self.code_vectors
        latents = sum(entries[codes] for entries, codes in zip(vectors, levels))
        deviation = self.noise * np.linalg.norm(vectors[-1, 0])
        latents = latents + deviation * generator.standard_normal(
            (num_clips, num_frames, self.latent_channels)
        )
        return np.stack(levels, axis=-1).astype(np.int32), latents.astype(np.float32)

    def fresh_clips(self, num_clips: int, num_frames: int, seed: int = 0) -> list[TokenClip]:
        """Return clips that no token store holds, the same for the same seed."""
        return _as_clips(
            *self.draw(
                np.random.default_rng([self.seed, FRESH_STREAM, seed]), num_clips, num_frames
            )
        )

    def describe(self) -> str:
        """Return the entropies in one line."""
        hz = self.spec.frame_hz
        return (
            f"known entropy: {self.rate_bits * hz:.1f} bits/s; modelling each frame by itself "
            f"costs {self.frame_bits * hz:.1f}, each code by itself {self.code_bits * hz:.1f}, "
            f"naming every code {self.codebooks * np.log2(self.entries) * hz:.1f}"
        )


def draw_store(source: KnownEntropy, cache_dir: Path) -> TokenStore:
    """Return the token store of the source, drawing and writing its training clips first if they
    are not there.

    Every clip has the one speaker and the one unit that the store knows, and no text: conditions
    that say nothing.
    """
    fingerprint = _fingerprint(source)
    directory = find_drawn(source, cache_dir)
    if not (directory / INFO_NAME).exists():
        with only_builder(directory / ".lock"):
            if not (directory / INFO_NAME).exists():  # another process may have drawn it meanwhile
                _draw(source, directory, fingerprint)
    return TokenStore(directory, fingerprint)


def _draw(source: KnownEntropy, directory: Path, fingerprint: str) -> None:
    generator = np.random.default_rng([source.seed, TRAIN_STREAM])
    clips = _as_clips(*source.draw(generator, source.clips, source.clip_frames))
    path = directory / "part-00000.array_record"
    written = write_part(path, clips)
    save_vectors(directory, source.code_vectors)
    finish_store(directory, _describe(source, clips, fingerprint), {path.name: written})


def find_drawn(source: KnownEntropy, cache_dir: Path) -> Path:
    """Return where the token store of the source is or will be."""
    return cache_dir / f"{source.kind}-{digest([SCHEMA, source.to_dict(), _fingerprint(source)])}"


def _fingerprint(source: KnownEntropy) -> str:
    return digest([table.tolist() for table in _tables(source)] + [source.code_vectors.tolist()])


def _describe(source: KnownEntropy, clips: list[TokenClip], fingerprint: str) -> StoreInfo:
    latents = np.concatenate([clip.latents for clip in clips]).astype(np.float64)
    seconds = source.clips * source.clip_frames / source.spec.frame_hz
    return StoreInfo(
        spec=source.spec,
        codec_fingerprint=fingerprint,
        units_fingerprint="none",
        manifest_hash=source.digest(),
        num_units=1,
        speakers=("source",),
        licences=(),
        longest_text=1,
        latent_mean=tuple(latents.mean(axis=0).tolist()),
        latent_std=tuple(latents.std(axis=0).tolist()),
        splits={"train": SplitInfo(first=0, clips=source.clips, seconds=seconds)},
    )


def _as_clips(
    codes: Int[np.ndarray, "n t k"], latents: Float[np.ndarray, "n t d"]
) -> list[TokenClip]:
    units = np.ones(codes.shape[1], np.int32)
    return [
        TokenClip(f"clip{number:06}", "", "source", "", *views, units)
        for number, views in enumerate(zip(codes, latents))
    ]


class _Tables(NamedTuple):
    """Probabilities: of the first state, of a successor, of a level-0 code, and of a code given
    state and coarser.
    """

    start: Float[np.ndarray, "s"]
    moves: Float[np.ndarray, "s s"]
    first: Float[np.ndarray, "s v"]
    finer: Float[np.ndarray, "k-1 s v v"]


def _tables(source: KnownEntropy) -> _Tables:
    return _draw_tables(
        source.seed, source.states, source.branches, source.codebooks, source.entries
    )


@functools.lru_cache(maxsize=16)
def _draw_tables(seed: int, states: int, branches: int, codebooks: int, entries: int) -> _Tables:
    rng = np.random.default_rng(seed)
    moves = np.zeros((states, states))
    circle = rng.permutation(states)
    # one round trip makes every state reachable from all
    for state, successor in zip(circle, np.roll(circle, -1)):
        others = rng.permutation(np.delete(np.arange(states), successor))[: branches - 1]
        moves[state, [successor, *others]] = rng.dirichlet(np.ones(branches))
    start = np.linalg.lstsq(
        np.vstack([moves.T - np.eye(states), np.ones(states)]), np.eye(states + 1)[-1]
    )[0]
    first = np.zeros((states, entries))
    for state in range(states):
        first[state, state::states] = rng.dirichlet(np.ones(len(range(state, entries, states))))
    finer = rng.dirichlet(np.full(entries, CONCENTRATION), (codebooks - 1, states, entries))
    # a state that is hardly ever visited may come out of the solver below zero
    start = np.clip(start, 0, None)
    return _Tables(start / start.sum(), moves, first, finer)


def _emission(tables: _Tables) -> tuple[float, float]:
    """Return the bits per frame of the codes given the state, and of the codes each by itself."""
    joint = tables.start[:, None] * tables.first  # of the state and the code of one level
    given = float(tables.start @ _entropy(tables.first))
    alone = _entropy(joint.sum(axis=0))
    for table in tables.finer:
        given += float((joint * _entropy(table)).sum())
        joint = np.einsum("sv,svw->sw", joint, table)
        alone += _entropy(joint.sum(axis=0))
    return given, alone


def _entropy(probabilities: Float[np.ndarray, "*rows v"]):
    """Return the entropy of each row in bits."""
    logarithms = np.log2(np.where(probabilities > 0, probabilities, 1))
    return -(probabilities * logarithms).sum(axis=-1)


def _pick(
    generator: np.random.Generator, probabilities: Float[np.ndarray, "*rows v"]
) -> Int[np.ndarray, "*rows"]:
    """Draw an index from each row."""
    ends = probabilities.cumsum(axis=-1)
    return (generator.random(ends.shape[:-1])[..., None] >= ends / ends[..., -1:]).sum(axis=-1)


def _directions(source: KnownEntropy) -> Float[np.ndarray, "k v d"]:
    return _draw_directions(source.seed, source.codebooks, source.entries, source.latent_channels)


@functools.lru_cache(maxsize=16)
def _draw_directions(
    seed: int, codebooks: int, entries: int, channels: int
) -> Float[np.ndarray, "k v d"]:
    rng = np.random.default_rng([seed, codebooks, entries, channels])
    levels = []
    for _ in range(codebooks):
        chosen = np.zeros((0, channels))
        for _ in range(entries):
            tried = rng.standard_normal((CANDIDATES, channels))
            tried /= np.linalg.norm(tried, axis=1, keepdims=True)
            nearest = (tried @ chosen.T).max(axis=1, initial=-1.0)
            chosen = np.vstack([chosen, tried[nearest.argmin()]])
        levels.append(chosen)
    return np.stack(levels)


def _half_distance(directions: Float[np.ndarray, "k v d"]) -> float:
    """Return half the smallest distance between two entries of one level, which all lie on the unit
    sphere.
    """
    cosines = directions @ directions.swapaxes(1, 2) - 2 * np.eye(directions.shape[1])
    return float(np.sqrt(np.clip(2 - 2 * cosines.max(), 0, None))) / 2


def without_audio() -> GenlabError:
    """Return the error of whatever needs audio."""
    return GenlabError(
        "data.corpus.kind='known_entropy': tokens that never were audio cannot be heard or "
        "compared; train an arm with `genlab train CONFIG --arm NAME` and compare its score with "
        "the entropy: `genlab evaluate RUN_DIR`"
    )
