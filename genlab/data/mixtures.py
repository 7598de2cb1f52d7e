"""Clips in noise: what was said, and the same with something else over it, for enhancement and
separation.

In: `Mixtures`, which names a corpus of clips and one of noises (or none: then the noise is another
speaker of the same corpus). Out: one clip per clip, whose audio is the target and whose other side
is the mixture, in step with it. The ratio of their powers is drawn between two limits in dB and is
exact. Which noise, which part of it and how loud follow from the seed and the id of the clip.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pydantic
from jaxtyping import Float
from pydantic import Field, JsonValue

from genlab.config import Config, GenlabError, Seed
from genlab.data.audio import SPEECH_AUDIO, to_float, to_int16, write_flac
from genlab.data.manifest import Clip, Manifest, fraction_of
from genlab.data.recipe import Corpus, Recipe
from genlab.data.shards import Progress, run_shards
from genlab.data.utterances import AnyUtterances

FULL_SCALE = 0.99


class Mixtures(Config):
    """Every clip of `corpus` with a clip of `noise` over it, from the same split."""

    kind: Literal["mixtures"] = "mixtures"
    corpus: AnyUtterances
    """The clips that are to be heard through the noise."""
    noise: AnyUtterances | None = None
    """The noises; without them another speaker of `corpus`."""
    seed: Seed = 0
    """Seed of the noises, their parts and the ratios."""
    low_snr_db: float = Field(default=-5.0, ge=-40.0, le=60.0)
    """Smallest ratio of the power of target and noise, in dB."""
    high_snr_db: float = Field(default=15.0, ge=-40.0, le=60.0)
    """Largest ratio, in dB; all between the two are equally likely."""

    @pydantic.model_validator(mode="after")
    def _check_limits(self) -> "Mixtures":
        if self.low_snr_db > self.high_snr_db:
            raise ValueError(
                f"low_snr_db={self.low_snr_db:g} is above high_snr_db={self.high_snr_db:g}; swap "
                "them"
            )
        return self

    @property
    def domain(self) -> Any:
        """That of the targets."""
        return self.corpus.domain

    @property
    def made_of(self) -> Corpus:
        """The corpus of targets."""
        return self.corpus

    @property
    def second(self) -> Corpus | None:
        """The corpus of noises."""
        return self.noise

    def recipe(self, source: Manifest | None) -> Recipe:
        """Return how clips are mixed with other clips of the same corpus."""
        assert source is not None, "build_corpus gives the manifest of made_of"
        return self.recipe_of_two(source, None)

    def recipe_of_two(self, source: Manifest, second: Manifest | None) -> Recipe:
        """Return how the clips of `source` are mixed with those of `second`."""
        parts = {"corpus", "noise"}
        settings = {key: value for key, value in self.to_dict().items() if key not in parts}
        inputs = {
            "config": settings,
            "targets": source.hash(),
            "noises": None if second is None else second.hash(),
        }
        return Recipe(
            inputs,
            lambda directory, progress: build_mixtures(self, source, second, directory, progress),
        )


class Mixing(NamedTuple):
    """A target, what lies over it, how loud, and where in the noise its part begins (0 to 1)."""

    target: Clip
    noise: Clip
    snr_db: float
    start: float


def plan_mixtures(config: Mixtures, targets: Manifest, noises: Manifest | None) -> list[Mixing]:
    """Return a mixture for every clip of `targets` that has a noise.

    Raises:
        GenlabError: if a split of the targets has no noise, or a corpus is two-sided already.
    """
    for field, manifest in (("corpus", targets), ("noise", noises)):
        if manifest is not None and any(clip.other_path for clip in manifest.clips):
            raise GenlabError(f"data.corpus.{field}: it is two-sided; expected single clips")
        if manifest is not None and manifest.audio_format != SPEECH_AUDIO:
            raise GenlabError(
                f"data.corpus.{field}: its clips are {manifest.audio_format}, but mixtures are "
                f"made of {SPEECH_AUDIO}; set its sample_rate_hz=16000 and channels=1"
            )
    source = targets if noises is None else noises
    # By a hash, so that neighbours in the folder do not meet each other more often than others.
    ordered = sorted(source.clips, key=lambda clip: fraction_of("order", config.seed, clip.id))
    of_split: dict[str, list[Clip]] = {}
    for clip in ordered:
        of_split.setdefault(clip.split, []).append(clip)
    planned = []
    for target in sorted(targets.clips, key=lambda clip: clip.id):
        # Splits such as test_speaker are those of speech; noises have none of that name.
        held = target.split if target.split in of_split else "test"
        noise = _find_noise(config, target, of_split.get(held, []), is_other=noises is None)
        place = fraction_of("snr", config.seed, target.id)
        snr_db = config.low_snr_db + (config.high_snr_db - config.low_snr_db) * place
        start = fraction_of("start", config.seed, target.id)
        planned.append(Mixing(target, noise, round(snr_db, 3), start))
    return planned


def _find_noise(config: Mixtures, target: Clip, clips: list[Clip], *, is_other: bool) -> Clip:
    """Return what lies over a clip; another speaker than its own if `is_other`."""
    first = int(fraction_of("noise", config.seed, target.id) * len(clips))
    for clip in (*clips[first:], *clips[:first]):
        if not is_other or clip.speaker != target.speaker:
            return clip
    field, expected = (
        ("corpus", "a clip of another speaker")
        if is_other
        else ("noise", "noises in that split or in split 'test'")
    )
    raise GenlabError(
        f"data.corpus.{field}: nothing can lie over clip {target.id!r} of split {target.split!r}; "
        f"expected {expected}"
    )


def mix(
    target: Float[np.ndarray, "s"], noise: Float[np.ndarray, "n"], snr_db: float, start: float
) -> tuple[Float[np.ndarray, "s"], Float[np.ndarray, "s"]]:
    """Return the target and the mixture, both scaled alike if the mixture would clip.

    A noise that is longer gives the part that begins at `start` (0 to 1) of what it has to spare; a
    shorter one is repeated.
    """
    first = int(start * max(0, len(noise) - len(target)))
    if not noise[first : first + len(target)].any():  # a pause: what lies around the loudest sample
        first = max(0, int(np.abs(noise).argmax()) - len(target) // 2)
    over = np.resize(noise[first : first + len(target)], len(target)).astype(np.float64)
    clean = target.astype(np.float64)
    # SNR = 10 log10(sum target^2 / sum noise^2), so the noise is scaled to the wanted power.
    gain = math.sqrt(np.sum(clean**2) / np.sum(over**2) * 10.0 ** (-snr_db / 10.0))
    mixed = clean + gain * over
    level = min(1.0, FULL_SCALE / max(float(np.abs(mixed).max()), float(np.abs(clean).max())))
    return level * clean, level * mixed


def build_mixtures(
    config: Mixtures,
    targets: Manifest,
    noises: Manifest | None,
    directory: Path,
    progress: Progress | None = None,
) -> list[Clip]:
    """Write target and mixture of every clip to `directory`, going on where an interrupted build
    stopped.
    """
    planned = plan_mixtures(config, targets, noises)
    (directory / "audio").mkdir(parents=True, exist_ok=True)
    source = targets if noises is None else noises
    results = run_shards(
        list(enumerate(planned)),
        lambda item: _write(targets, source, item[1], directory / f"audio/{item[0]:06d}.flac"),
        directory / "shards",
        items_per_shard=64,
        stage="mix clips",
        progress=progress,
    )
    return [
        Clip(
            id=mixing.target.id,
            path=f"audio/{number:06d}.flac",
            text=mixing.target.text,
            speaker=mixing.target.speaker,
            split=mixing.target.split,
            num_samples=result["num_samples"],
            licence=_both_licences(mixing),
            labels=mixing.target.labels | {"noise": mixing.noise.id, "snr_db": mixing.snr_db},
            # Rendered audio may differ between machines, so it has no digest, and neither has what
            # is made of it.
            audio_digest=result["digest"] if _has_digests(mixing) else "",
            other_path=f"audio/{number:06d}.other.flac",
        )
        for number, (mixing, result) in enumerate(zip(planned, results))
    ]


def _both_licences(mixing: Mixing) -> str:
    return " and ".join(dict.fromkeys((mixing.target.licence, mixing.noise.licence)))


def _has_digests(mixing: Mixing) -> bool:
    return bool(mixing.target.audio_digest and mixing.noise.audio_digest)


def _write(targets: Manifest, noises: Manifest, mixing: Mixing, path: Path) -> dict[str, JsonValue]:
    target = to_float(targets.audio(mixing.target))
    noise = to_float(noises.audio(mixing.noise))
    clean, mixed = mix(target, noise, mixing.snr_db, mixing.start)
    waves = [to_int16(wave.astype(np.float32)) for wave in (clean, mixed)]
    for wave, name in zip(waves, (path, path.with_suffix(".other.flac"))):
        write_flac(name, wave)
    return {
        "num_samples": len(waves[0]),
        "digest": hashlib.sha256(b"".join(map(bytes, waves))).hexdigest()[:10],
    }
