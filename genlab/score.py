"""Scores of every row of a comparison: bits, energies and metrics of audio, each once, and the
audit of the metrics.

In: the material of a comparison, trained arms and their samples. Out: one `RowResult` per row (real
audio, codec floors, arms), kept in rows/NAME.json. The energy of the next block scores sampled
codes as the latents they represent, drawn with the arm's own sampler: it scores what would be
heard, not the bare model.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from genlab.arms import ArmRun, by_name
from genlab.config import digest
from genlab.data.grammar import VOCABULARY, grammar_jsgf
from genlab.data.store import TokenClip, TokenStore
from genlab.decoders.noise.heads import energy_score
from genlab.evaluate.audit import audit_metrics
from genlab.evaluate.energy import BLOCK_S
from genlab.evaluate.entries import AuditEntry
from genlab.evaluate.likelihood import can_score, score_bits
from genlab.evaluate.metrics import (
    ContentMetric,
    EvaluationContext,
    RowResult,
    build_context,
    grammar_metric,
    score_clips,
)
from genlab.evaluate.rows import load_row, save_row
from genlab.evaluate.scores import clip_means
from genlab.evaluate.table import make_score
from genlab.experiment import Comparison, DecoderRun
from genlab.fairness.counts import score_counts
from genlab.fairness.lookup import score_energy
from genlab.material import Material, floor_waves, gather, lookup_latents
from genlab.preflight import excuses, find_reference, recognisers
from genlab.prompts import choose_unscored
from genlab.recognisers.shipped import load_recogniser
from genlab.report.inputs import read_audit as read_stored_audit
from genlab.run.bounds import COUNTED_BASELINES, FLOORS, LOOKUP, REAL, CountedBaseline
from genlab.run.cache import cache_root, writing_to_cache
from genlab.run.files import write_json
from genlab.run.status import check_held
from genlab.sample import compile_sampler, conditions
from genlab.tokens import Prompt, Tokens, read_latents
from genlab.watch.progress import Progress


def block_energies(
    model: nnx.Module,
    run: DecoderRun,
    store: TokenStore,
    clips: Sequence[TokenClip],
    *,
    num_draws: int,
    seed: int,
) -> Float[np.ndarray, "n"]:
    """Return the energy score of each clip's block, NaN where less than a block follows the middle.

    Args:
        model: the trained decoder.
        run: names the sampler and the frames of a training example.
        store: the token store of the clips.
        clips: what is continued.
        num_draws: continuations per clip, at least 2.
        seed: of the draws.
    """
    block_frames = round(BLOCK_S * store.info.spec.frame_hz)
    cond, num_frames = conditions(store, clips, run.data.num_frames)
    examples = [store.example(clip, run.data.num_frames)[0] for clip in clips]
    tokens: Tokens = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
    first = num_frames // 2
    prompt = Prompt(tokens, jnp.asarray(np.arange(run.data.num_frames)[None, :] < first[:, None]))
    compiled, _ = compile_sampler(model, run, cond, num_frames, prompt)
    has_block = first + block_frames <= num_frames
    window = np.where(has_block, first, 0)[:, None] + np.arange(block_frames)[None, :]
    clip = np.arange(len(clips))[:, None]
    draws = []
    for key in jax.random.split(jax.random.key(seed), num_draws):
        drawn = compiled(cond, num_frames, key, prompt).tokens
        draws.append(_latents_of(drawn, store)[clip, window].reshape(len(clips), -1))
    truth = np.asarray(read_latents(tokens))[clip, window].reshape(len(clips), -1)
    scores = energy_score(jnp.stack(draws, axis=1)[:, None], jnp.asarray(truth)[:, None])[:, 0]
    return np.where(has_block, np.asarray(scores, np.float64) / np.sqrt(truth.shape[1]), np.nan)


def _latents_of(tokens: Tokens, store: TokenStore) -> Float[np.ndarray, "b t d"]:
    if tokens.latents is not None:
        return np.asarray(tokens.latents, np.float32)
    vectors = store.code_vectors
    return vectors[np.arange(len(vectors))[None, None, :], np.asarray(tokens.codes)].sum(axis=2)


def audit(
    config: Comparison, progress: Progress, material: Material | None = None
) -> dict[str, AuditEntry]:
    """Audit every metric of audio on the prompts' real clips, once per corpus, prompts and
    evaluation.
    """
    material = gather(config, progress) if material is None else material
    path = _audit_path(config, material)
    if not path.exists():
        found = audit_metrics(
            material.prompts,
            evaluation_context(config, material),
            progress,
            metrics=config.all_metrics,
        )
        with writing_to_cache():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {name: one.to_dict() for name, one in found.items()})
    return read_audit(config, material)


def read_audit(config: Comparison, material: Material) -> dict[str, AuditEntry]:
    """Return the audit of this corpus, prompts and evaluation, empty if none was made."""
    return read_stored_audit(_audit_path(config, material)) or {}


def _audit_path(config: Comparison, material: Material) -> Path:
    clips = [clip.id for clip in material.clips]
    own = [metric.digest() for metric in config.metrics]
    key = digest(
        [
            material.manifest.hash(),
            material.codec.fingerprint,
            clips,
            config.evaluation.to_dict(),
            *([own] if own else []),
        ]
    )
    return cache_root() / "audits" / f"{key}.json"


def score_rows(
    config: Comparison,
    material: Material,
    arms: Sequence[ArmRun],
    out: Path,
    progress: Progress,
) -> dict[str, RowResult]:
    """Score real audio, both codec floors, the baselines and every arm, each once; `out` keeps the
    rows. The baseline that is trained is one of `arms`.
    """
    by_seed = by_name(arms)
    waves = {REAL: [prompt.wave for prompt in material.prompts], **floor_waves(material)}
    means = lookup_latents(config, material)
    waves |= {LOOKUP: material.codec.decode_latents(means)} if means else {}
    waves |= {
        name: [wave for arm in runs for wave in arm.sampled.waves] for name, runs in by_seed.items()
    }
    rows: dict[str, RowResult] = {}
    own = [metric.digest() for metric in config.metrics]
    context: EvaluationContext | None = None
    for done, (name, row_waves) in enumerate(waves.items()):
        progress("score", done, len(waves))
        path = out / "rows" / f"{name}.json"
        # A row on disk is whole: rows are scored for minutes, and an interrupted command resumes
        # with the next one.
        row = load_row(path, own)
        if row is None:
            # Loaded for the first row that is missing; with none missing no network is loaded.
            context = context or evaluation_context(config, material)
            runs = by_seed.get(name, [])  # none: real audio, or a floor
            seeds = max(1, len(runs))
            row = score_clips(
                row_waves,
                material.prompts * seeds,
                context,
                metrics=config.all_metrics,
                is_reconstruction=name in FLOORS,
                seeds=seeds,
                progress=partial(progress, f"score {name}"),
            )
            if runs:
                progress(f"score {name}: bits, energy", 0, 2)
                row = _add_bits(row, config, material, runs)
                progress(f"score {name}: bits, energy", 1, 2)
                row = _add_energy(row, config, material, runs)
                progress(f"score {name}: bits, energy", 2, 2)
            if name == LOOKUP:
                row = _add_distance(row, config, material, means)
            check_held(path)
            save_row(path, row, own)
        rows[name] = row
    progress("score", len(waves), len(waves))
    return {**rows, **_count_rows(config, material, out / "rows")}


def _count_rows(config: Comparison, material: Material, folder: Path) -> dict[str, RowResult]:
    """Return the baselines that have bits alone, which take no wave; `folder` keeps them."""
    wanted = [name for name in COUNTED_BASELINES if name in config.baselines]
    kept: dict[CountedBaseline, RowResult | None] = {
        name: load_row(folder / f"{name}.json", ()) for name in wanted
    }
    # All three come of one count, and each is kept by itself, as the rows of the arms are.
    if missing := [name for name in wanted if kept[name] is None]:
        unscored = choose_unscored(
            material.store, config.data, config.prompts_split, config.num_prompts
        )
        made = score_counts(
            material.store,
            material.clips,
            tuple(prompt.clip_id for prompt in material.prompts),
            unscored=unscored,
            train_clips=config.data.train_clips,
            seed=config.evaluation.seed,
        )
        for name in missing:
            check_held(folder / f"{name}.json")
            save_row(folder / f"{name}.json", made[name])
            kept[name] = made[name]
    return {str(name): row for name, row in kept.items() if row is not None}


def evaluation_context(config: Comparison, material: Material) -> EvaluationContext:
    """Return what does not depend on the row: recognisers, networks, and real speech that is no
    prompt.
    """
    recogniser = load_recogniser()
    content = [ContentMetric("ctc", "word", recogniser.transcribe)]
    if "grammar" in recognisers(config):
        content.append(grammar_metric(grammar_jsgf(), VOCABULARY))
    reference = find_reference(config, material.manifest, material.clips)

    return build_context(
        config.evaluation,
        content,
        [material.wave(clip) for clip in reference.common],
        [clip.speaker for clip in reference.common],
        lambda waves: [codes for codes, _ in material.codec.encode(waves)],
        more_voices=[(clip.speaker, material.wave(clip)) for clip in reference.more],
        excused=excuses(config),
    )


def _add_bits(
    row: RowResult, config: Comparison, material: Material, runs: Sequence[ArmRun]
) -> RowResult:
    """Add the bits per second of the prompts' own codes, if the family can put a number on them."""
    decoders = [arm.result.model for arm in runs if can_score(arm.result.model)]
    if not decoders:  # all are of one family
        return row
    store = material.store
    # Training clips serve where no clips of validation are left: no prompt is one of them, so the
    # bound stays a bound.
    unscored = choose_unscored(store, config.data, config.prompts_split, config.num_prompts)
    score, values = score_bits(
        decoders,
        store,
        material.clips,
        [prompt.clip_id for prompt in material.prompts],
        unscored=unscored,
        num_draws=config.evaluation.score_draws,
        seed=config.evaluation.seed,
    )
    return row._replace(
        scores={**row.scores, "bits_per_s": score}, per_clip={**row.per_clip, "bits_per_s": values}
    )


def _add_distance(
    row: RowResult, config: Comparison, material: Material, means: Sequence[np.ndarray]
) -> RowResult:
    """Add the energy score of mean latents, which are one forecast for sure: its distance."""
    if not config.evaluation.energy_draws:
        return row
    clusters = tuple(prompt.clip_id for prompt in material.prompts)
    score, values = score_energy(
        means, material.store, material.clips, clusters, config.evaluation.seed
    )
    return row._replace(
        scores={**row.scores, "block_energy": score},
        per_clip={**row.per_clip, "block_energy": values},
    )


def _add_energy(
    row: RowResult, config: Comparison, material: Material, arms: Sequence[ArmRun]
) -> RowResult:
    """Add the energy score of the block that follows the first half of each prompt's own clip."""
    num_draws, seed = config.evaluation.energy_draws, config.evaluation.seed
    if not num_draws:
        return row
    energies = [
        block_energies(
            arm.result.model,
            arm.run,
            material.store,
            material.clips,
            num_draws=num_draws,
            # Seeds draw different continuations, so that draws are independent over training seeds.
            seed=seed + number,
        )
        for number, arm in enumerate(arms)
    ]
    clusters = tuple(prompt.clip_id for prompt in material.prompts) * len(arms)
    # One value per clip and training seed: the crossed interval covers both.
    runs = tuple(np.repeat(range(len(arms)), len(material.prompts)).tolist())
    values = clip_means(np.concatenate(energies), clusters)._replace(runs=runs)
    note = f"{num_draws} continuations per clip, the next {BLOCK_S:g} s after its middle"
    score = make_score(
        "block_energy", values.estimate(seed), seeds=len(arms), note=note, covers=values.covers
    )
    return row._replace(
        scores={**row.scores, "block_energy": score},
        per_clip={**row.per_clip, "block_energy": values},
    )
