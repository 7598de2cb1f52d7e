"""What a comparison will measure, and what stops it: known from the manifest, before anything is
encoded or trained.

In: a `Comparison`, its corpus and its codec. Out: `Preflight`: the prompts, which scores and
controls will run and why others will not, and the score that decides. If prompts, labels or
packages that scoring and the report need are missing, the error comes here, within seconds, and not
after the arms have been trained.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from genlab.codecs.cache import PlannedStore
from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError
from genlab.data.grammar import VOCABULARY, grammar_jsgf
from genlab.data.manifest import Clip, Manifest, Spoken
from genlab.data.store import TokenClip
from genlab.data.text import has_symbols
from genlab.data.told import try_values
from genlab.decoders.hole_rule import CANNOT, describe_hole_rule
from genlab.decoders.prompt_rule import note_biased
from genlab.evaluate.checks import (
    FEWEST,
    Check,
    find_fate,
    label_checks,
    no_label_swap,
    no_text_swap,
)
from genlab.evaluate.domains import Condition
from genlab.evaluate.energy import BARE_ENERGY, BARE_VARIOGRAM, BLOCK_S, TUNED_ENERGY
from genlab.evaluate.gaps import Span, names_of_continuations, names_of_gaps
from genlab.evaluate.hearing import hear_real, recognisers_of
from genlab.evaluate.likelihood import can_score
from genlab.evaluate.metric import Metric
from genlab.evaluate.metrics import (
    build_context,
    grammar_metric,
    require_networks,
)
from genlab.evaluate.reference import Reference, choose_reference
from genlab.evaluate.rehearsal import TRIED, try_rows
from genlab.evaluate.table import find_metric
from genlab.experiment import Comparison
from genlab.fairness.budget import (
    ArmBudget,
    abstract_decoder,
    check_flops,
    checkpoint_bytes,
    solve_budget,
)
from genlab.fairness.rates import num_trainings
from genlab.fairness.regression import note_fewer_trials, solve_trained
from genlab.prompts import as_wanted, num_scored, pick_prompts
from genlab.recognisers.shipped import load_recogniser
from genlab.watch.progress import Progress

MANY_EPOCHS = 50  # passes over the clips of training; more are worth a note


class Preflight(NamedTuple):
    """What is known before anything is trained."""

    prompts: list[Clip]
    scores: list[Check]
    controls: list[Check]
    deciding: str
    notes: list[str]

    @property
    def score_names(self) -> set[str]:
        """The scores of audio that every arm will have."""
        return {name for check in self.scores if check.runs for name in check.names}


def inspect(config: Comparison, manifest: Manifest, codec: FrozenCodec) -> Preflight:
    """Return what a comparison will measure.

    Raises:
        GenlabError: if it cannot be run: too few prompts, nothing to train on, texts that say
            nothing.
    """
    prompts = pick_from_manifest(config, manifest, codec, config.prompts_split, config.num_prompts)
    if config.settings.previews:
        pick_from_manifest(config, manifest, codec, "valid", config.settings.previews)
    train = _require_split(manifest, "train")
    notes = [config.condition.check_texts([clip.text for clip in train])]
    if len(prompts) < config.num_prompts:
        notes.append(
            f"prompts: {len(prompts)} of the num_prompts={config.num_prompts} asked for: no more "
            f"clips of split {config.prompts_split!r} have at most "
            f"data.num_frames={config.data.num_frames} frames"
        )
    # Clips of one text are one unit of the bootstrap, however many there are.
    domain = config.data.domain
    units = len({domain.unit_of(clip) for clip in prompts})
    if units < FEWEST:
        notes.append(
            f"prompts: all {len(prompts)} have the same {domain.unit}: they are one unit, and no "
            "score has an interval"
        )
    if not config.data.is_heard:  # scored in bits, which need nothing else
        decides = domain.decide((), dict.fromkeys(domain.conditions, False))
        return Preflight(prompts, [], [], decides, [note for note in notes if note])
    reference = find_reference(config, manifest, prompts)
    scores = [*_content_checks(config, prompts), *label_checks(domain, prompts, reference)]
    scores += _audio_checks(config, scores, prompts, reference)
    scored = pick_from_manifest(config, manifest, codec, config.prompts_split, num_scored(config))
    energies = _energy_check(config, scored, codec)
    scores.append(energies)
    scores += _span_checks(config, prompts, codec)
    if len(scored) < num_scored(config) > config.num_prompts:
        notes.append(
            f"prompts: bits and energies are of {len(scored)} clips, not of "
            f"evaluation.token_prompts={config.evaluation.token_prompts}: split "
            f"{config.prompts_split!r} has no more that fit"
        )
    running = {name for check in scores if check.runs for name in check.names}
    own = [row for row in config.own_metrics if running.intersection(row.score_names)]
    _try_own_metrics(own, config, manifest, codec, prompts)
    controls = _control_checks(config, prompts, reference)
    if not any(control.runs for control in controls):
        notes.append(
            "controls: none is applicable, so nothing will show that an arm follows its prompts"
        )
    controls.append(Check(("prefix_swap",), energies.runs, "" if energies.runs else energies.note))
    if energies.runs:
        notes.append(note_biased({name: arm.decoder for name, arm in config.arms.items()}))
    notes.append(note_fewer_trials(config))
    # Notes come last, because some of them need the names of the scores.
    found = Preflight(prompts, scores, controls, deciding_score(config, scores, prompts), [])
    notes += [
        f"equivalence.{name}: this comparison has no such score"
        for name in config.equivalence
        if name not in found.score_names | {"bits_per_s"}
    ]
    return found._replace(notes=[note for note in notes if note])


class DryRun(NamedTuple):
    """What `genlab compare CONFIG` would do, without doing it."""

    preflight: Preflight
    budgets: dict[str, ArmBudget]
    ratios: dict[str, float]
    """Walked over stated FLOPs of a training step, per arm."""
    with_bits: list[str]
    """Arms whose family puts a number of bits on codes."""
    flops: float
    """Of training and of sampling the prompts, for all arms and seeds."""
    disk_bytes: float
    """Of the checkpoints that are kept."""


def rehearse(config: Comparison, progress: Progress) -> DryRun:
    """Do every check of a comparison, and return what it would do; it imports the corpus and
    encodes nothing.

    Raises:
        GenlabError: if the comparison cannot be run.
    """
    units = config.data.domain.load_units()
    require_packages(config)
    codec, manifest = config.data.load_clips(progress)
    # Own tokens are there already, and need not be planned.
    planned, parts = config.data.own is None, config.condition.parts
    if planned:
        try_values(parts, manifest, codec)
    preflight = hear_prompts(config, manifest, inspect(config, manifest, codec))
    store = (
        PlannedStore(manifest, codec, units, parts)
        if planned
        else config.data.open(progress, parts=parts)
    )
    budgets = solve_budget(config, store)
    preflight.notes.extend(_note_epochs(budgets, holds_texts=planned))
    ratios, with_bits = {}, []
    for name, budget in budgets.items():
        run = config.run(name, config.seeds[0], budget.steps)
        ratios[name] = check_flops(run, store)
        if can_score(abstract_decoder(run, store)):
            with_bits.append(name)
    trained = solve_trained(config, store, budgets)
    sampled, seeds = len(preflight.prompts), len(config.seeds)
    # A rate that is tried is trained and never sampled.
    flops = sum(
        num_trainings(config) * one.train_flops + seeds * sampled * one.sample_flops
        for one in trained.values()
    )
    disk_bytes = checkpoint_bytes(config, trained)
    return DryRun(preflight, budgets, ratios, with_bits, flops, disk_bytes)


def _try_own_metrics(
    rows: Sequence[Metric],
    config: Comparison,
    manifest: Manifest,
    codec: FrozenCodec,
    prompts: Sequence[Clip],
) -> None:
    """Measure a few prompts' real clips by the user's metrics.

    Raises:
        GenlabError: if one of them fails, which it would after the arms have been trained.
    """
    if not rows:
        return
    # Prompts with a text first: a metric may need it.
    chosen = sorted(prompts, key=lambda clip: not has_symbols(clip.text))[:TRIED]
    wanted = [as_wanted(clip, config, manifest, codec) for clip in chosen]
    context = build_context(
        config.evaluation,
        (),
        [prompt.wave for prompt in wanted],
        [prompt.speaker for prompt in wanted],
        lambda waves: [codes for codes, _ in codec.encode(waves)],
        audio=codec.audio,
        networks=networks_of(config),
    )
    try_rows(rows, wanted, context)


def find_reference(
    config: Comparison, manifest: Manifest, prompts: Collection[Spoken]
) -> Reference:
    """Return the real speech that the prompts are compared with."""
    ids, speakers = {clip.id for clip in prompts}, [clip.speaker for clip in prompts]
    sizes = config.evaluation.reference_clips, config.evaluation.centroid_groups
    return choose_reference(manifest, ids, speakers, *sizes)


def recognisers(config: Comparison) -> tuple[str, ...]:
    """Return the recognisers whose word errors are scored; none where nobody speaks."""
    return recognisers_of(config.data.corpus)


def networks_of(config: Comparison) -> tuple[type, ...]:
    """Return what scoring opens: what the metrics of the domain and the user's own name."""
    own = [one for metric in config.own_metrics for one in metric.networks]
    return tuple(dict.fromkeys([*config.data.domain.networks, *own]))


def told(config: Comparison) -> dict[Condition, bool]:
    """Return which conditions the arms are told."""
    says = {"content": config.condition.content != "none", "speaker": config.condition.speaker}
    return {name: says[name] for name in config.data.domain.conditions}


def excuses(config: Comparison) -> dict[str, str]:
    """Return the controls that mean nothing because the arms are not told what they would have to
    follow.
    """
    is_told = told(config)
    return {
        swap.control: swap.not_told
        for swap in config.data.domain.controls
        if not is_told[swap.follows]
    }


def require_packages(config: Comparison) -> None:
    """Open everything that scoring will load.

    Raises:
        GenlabError: naming the package and how to install it.
    """
    if not config.data.is_heard:
        return
    require_networks(networks_of(config))
    if recognisers(config):
        load_recogniser()
    if "grammar" in recognisers(config):
        grammar_metric(grammar_jsgf(), VOCABULARY)


def deciding_score(
    config: Comparison,
    scores: Collection[Check],
    prompts: Collection[Clip],
    struck: Collection[str] = (),
) -> str:
    """Return the first of the domain's scores that can decide here; words can where half of the
    prompts have a text. Scores that are `struck` cannot.
    """
    is_told = told(config)
    is_told["content"] &= 2 * sum(has_symbols(clip.text) for clip in prompts) >= len(prompts)
    return config.data.domain.decide(
        {name for check in scores if check.runs for name in check.names} - {*struck}, is_told
    )


def find_struck(config: Comparison, manifest: Manifest, clips: Collection[Clip]) -> dict[str, str]:
    """Return the scores that can say nothing about these clips, with the reason: the recogniser is
    made to hear the real ones (`Domain.struck`).
    """
    return config.data.domain.struck(_hear(config, manifest, clips))


def _hear(config: Comparison, manifest: Manifest, clips: Collection[Clip]) -> dict[str, float]:
    """Return the word error of the real clips by its score; nothing where nobody says words."""
    if "ctc" not in recognisers(config) or not config.data.is_heard:
        return {}
    error = hear_real(manifest, clips)
    return {} if error is None else {"wer_ctc": error}


def hear_prompts(config: Comparison, manifest: Manifest, found: Preflight) -> Preflight:
    """Return `found` with a note of the word error of the prompts' real clips, and with the score
    that decides where that error strikes one.

    Results say so too, but only when everything has been trained.
    """
    real = {
        name: error
        for name, error in _hear(config, manifest, found.prompts).items()
        if name in found.score_names
    }
    struck = config.data.domain.struck(real)
    decides = deciding_score(config, found.scores, found.prompts, struck)
    # `decide` names the last score even where that one is not measured.
    is_left = decides in found.score_names - {*struck}
    instead = f"{decides} decides" if is_left else "no score can decide here"
    notes = [
        f"{name} cannot decide: {struck[name]}; {instead}"
        if name in struck
        else f"{name} of the prompts' real clips: {error:.2f}"
        for name, error in real.items()
    ]
    return found._replace(deciding=decides, notes=[*found.notes, *notes])


def _note_epochs(budgets: dict[str, ArmBudget], *, holds_texts: bool) -> list[str]:
    """Return what to say of arms that see every clip very often: where texts are held out, those
    that repeat leave few clips.
    """
    often = {name: budget.epochs for name, budget in budgets.items() if budget.epochs > MANY_EPOCHS}
    if not often:
        return []
    told = ", ".join(f"{name} {epochs:,.0f}" for name, epochs in often.items())
    dropped = (
        " (those whose text is held out are dropped unless data.corpus.shared_texts=true)"
        if holds_texts
        else ""
    )
    return [
        f"epochs: {told}: more than {MANY_EPOCHS} passes over the clips of training, which may be "
        f"learnt by heart; lower the budget, or train on more clips{dropped}"
    ]


def check_chooses(
    config: Comparison,
    name: str,
    clips: Collection[TokenClip],
    frame_hz: float,
    progress: Progress,
) -> None:
    """Refuse a score to choose settings by, if it can say nothing about these prompts.

    Raises:
        GenlabError: if it counts words and the clips have none, or the recogniser hears none; if it
            scores blocks and no clip holds one.
    """
    if find_metric(name).needs == "tokens":
        if not any(_holds_block(len(clip.units), frame_hz) for clip in clips):
            raise GenlabError(
                f"--by {name}: every validation prompt is shorter than {2 * BLOCK_S:g} s; use "
                "longer clips, or another score"
            )
        return
    if find_metric(name).needs != "audio and text":
        return
    searched = config.data.domain.searched
    others = [other for other in searched if find_metric(other).needs != "audio and text"]
    fix = f"use --by {others[0]}" if others else "use clips with texts"
    if not any(has_symbols(clip.text) for clip in clips):
        raise GenlabError(f"--by {name}: no validation prompt has a text; {fix}")
    manifest, ids = config.data.build_audio(progress), {clip.id for clip in clips}
    struck = find_struck(config, manifest, list(manifest.find(ids).values()))
    if name in struck:
        raise GenlabError(f"--by {name}: {struck[name]}; {fix}")


def pick_from_manifest(
    config: Comparison, manifest: Manifest, codec: FrozenCodec, split: str, wanted: int
) -> list[Clip]:
    """Return the prompts that `choose_prompts` will take once the corpus is encoded.

    Raises:
        GenlabError: if there is no such split, or fewer than two of its clips fit.
    """
    clips = _require_split(manifest, split)
    sizes = {name: len(manifest.split(name)) for name in manifest.splits}
    frames = [codec.count_frames(clip.num_samples) for clip in clips]
    return pick_prompts(clips, frames, config.data, split, wanted, sizes)


def _require_split(manifest: Manifest, split: str) -> Sequence[Clip]:
    """Return the clips of a split, or say how a corpus comes by them."""
    if split not in manifest.splits:
        raise GenlabError(
            f"the corpus has no clips in split {split!r}, only in {', '.join(manifest.splits)}: "
            "name some in the column split of its table, or leave that column out, so that they "
            "are drawn"
        )
    return manifest.split(split)


def _content_checks(config: Comparison, prompts: list[Clip]) -> list[Check]:
    silent = sum(not has_symbols(clip.text) for clip in prompts)
    names = tuple(f"wer_{name}" for name in recognisers(config))
    if not names:
        return []
    if silent == len(prompts):
        return [Check(names, False, "no prompt has a text")]
    note = f"{silent} of {len(prompts)} prompts have no text and are left out" if silent else ""
    return [Check(names, True, excuses(config).get("prompt_swap", note))]


def _audio_checks(
    config: Comparison, checked: Collection[Check], prompts: list[Clip], reference: Reference
) -> list[Check]:
    """Return what is known of the other scores of audio; those that share a fate share a check."""
    has_text = any(has_symbols(clip.text) for clip in prompts)
    real = min(len(reference.common), config.evaluation.reference_clips)
    done = {name for check in checked for name in check.names}
    fates: dict[tuple[str, int, bool, str], list[str]] = {}
    for metric in config.all_metrics:
        if metric.needs != "tokens" and metric.name not in done:
            runs, note = find_fate(metric, config.evaluation, real)
            if metric.needs == "audio and text" and not has_text:
                runs, note = False, "no prompt has a text"
            # Grouped by fate, so that a missing package is one line and not one per score.
            fates.setdefault((metric.needs, metric.fewest_real, runs, note), []).extend(
                metric.score_names
            )
    return [Check(tuple(names), runs, note) for (_, _, runs, note), names in fates.items() if names]


def _holds_block(num_frames: int, frame_hz: float) -> bool:
    """Return whether a block follows the middle of a clip, as `BlockEnergy` needs."""
    return num_frames // 2 + round(BLOCK_S * frame_hz) <= num_frames


def _energy_check(config: Comparison, clips: list[Clip], codec: FrozenCodec) -> Check:
    frames = [codec.count_frames(clip.num_samples) for clip in clips]
    long = sum(_holds_block(length, codec.spec.frame_hz) for length in frames)
    note = (
        f"{len(clips) - long} of {len(clips)} clips are shorter than {2 * BLOCK_S:g} s and left out"
    )
    if not config.evaluation.energy_draws:
        note = "evaluation.energy_draws=0"
    runs = config.evaluation.energy_draws > 0 and long > 0
    names = (BARE_ENERGY, BARE_VARIOGRAM, TUNED_ENERGY)
    return Check(names, runs, note if not runs or long < len(clips) else "")


def _span_checks(config: Comparison, prompts: list[Clip], codec: FrozenCodec) -> list[Check]:
    """Return what will be scored of gaps and continuations, each length by itself."""
    num_frames = np.array([codec.count_frames(clip.num_samples) for clip in prompts])
    decoders = {name: arm.decoder for name, arm in config.arms.items()}
    cannot = [name for name, one in decoders.items() if describe_hole_rule(one) == CANNOT]
    gaps_s, continuations_s = config.evaluation.gaps_s, config.evaluation.continuations_s
    wanted = [(True, names_of_gaps([length_s]), length_s) for length_s in gaps_s]
    wanted += [(False, names_of_continuations([one]), one) for one in continuations_s]
    checks = []
    for is_gap, names, length_s in wanted:
        span = Span.of(length_s, codec.spec.frame_hz, is_gap=is_gap)
        held = int(span.fits(num_frames).sum())
        short = f"{len(prompts) - held} of {len(prompts)} clips are too short and left out"
        unable = f"{' and '.join(cannot)} cannot fill gaps" if is_gap and cannot else ""
        notes = ["" if held == len(prompts) else short, unable]
        checks.append(Check(tuple(names), held > 0, "; ".join(filter(None, notes))))
    return checks


def _control_checks(config: Comparison, prompts: list[Clip], reference: Reference) -> list[Check]:
    excused = excuses(config)
    find = {
        "content": lambda: no_text_swap(prompts),
        "speaker": lambda: no_label_swap(prompts, reference, config.data.domain.label),
    }
    swaps = config.data.domain.controls
    reasons = {swap.control: excused.get(swap.control) or find[swap.follows]() for swap in swaps}
    return [Check((name,), not reason, reason) for name, reason in reasons.items()]
