"""What a config file returns: one frozen object that says everything about a run.

`CodecRun` and `RecogniserRun` train on waveforms, `DecoderRun` trains one decoder on tokens, and
`Comparison` is the main job: several arms that share everything but the decoder, and become one
`DecoderRun` each once the budget is solved. Every run offers a model and batches, which is all that
`train.py` needs. A config file is Python with a function `config()`; the same commands accept the
`config.json` that a run directory holds.
"""

from typing import Annotated, ClassVar, Literal

from genlab.machine.memory import collector_paused

# These imports make hundreds of classes, and none of them is garbage.
with collector_paused():
    import jax.numpy as jnp
    import pydantic
    from flax import nnx
    from jaxtyping import Array, Key

    from genlab.config import (
        Config,
        Name,
        Seed,
        added,
    )
    from genlab.config.open import Open
    from genlab.data.batches import BatchSource
    from genlab.data.store import TokenStore
    from genlab.data.text import has_symbols
    from genlab.decoders.ar import ARConfig, ARSampler
    from genlab.decoders.blockwise import BlockwiseConfig, BlockwiseSampler
    from genlab.decoders.conditioning import ConditionConfig, CondVocab
    from genlab.decoders.depth import DepthConfig, DepthSampler
    from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
    from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
    from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
    from genlab.decoders.latent_blocks import LatentBlocksConfig, LatentBlocksSampler
    from genlab.decoders.mar import MARConfig, MARSampler
    from genlab.decoders.masked import MaskedConfig, MaskedSampler
    from genlab.decoders.regression import RegressionConfig, RegressionSampler
    from genlab.decoders.task import DecoderConfig, SamplerConfig, Task
    from genlab.decoders.views import check_view
    from genlab.evaluate.metric import Metric
    from genlab.evaluate.metrics import EvaluationConfig
    from genlab.evaluate.own import AnyMetric, own_rows
    from genlab.evaluate.table import is_paired
    from genlab.nets.backbone import BackboneConfig
    from genlab.run.bounds import (
        BASELINES,
        BOUND_FAMILIES,
        BOUND_NAMES,
        CHOSEN_BASELINES,
        COUNTED_BASELINES,
        DRESSED_WITH,
        REGRESSION,
        Baseline,
        ChosenBaseline,
    )
    from genlab.runs import Run
    from genlab.runs import TokenData as TokenData
    from genlab.train import TrainSettings
    from genlab.training.looks import CheckpointRule
    from genlab.training.optim import ArmSettings, OptimConfig
    from genlab.training.shapes import GridName, Shape
    from genlab.training.spend import Budget

MAX_BATCH_FRAMES = 2**26


def _check_batch(data: "TokenData", batch_size: int, condition: ConditionConfig) -> None:
    """Refuse a batch that no memory holds, and conditions that the corpus does not have.

    Raises:
        ValueError: that names both fields.
    """
    if data.source is None and condition.content == "semantic" and not data.domain.has_units:
        raise ValueError(
            f"condition.content='semantic': the domain of data.corpus, {data.domain.name}, has no "
            "semantic units; set condition.content=none or text"
        )
    num_frames = data.num_frames
    if batch_size * num_frames > MAX_BATCH_FRAMES:
        raise ValueError(
            f"batch_size={batch_size} times data.num_frames={num_frames}: more than "
            f"{MAX_BATCH_FRAMES} frames in a batch; lower batch_size"
        )


AnyDecoder = Annotated[
    DecoderConfig,
    Open(
        ARConfig,
        DepthConfig,
        LatentARConfig,
        MARConfig,
        MaskedConfig,
        DiscreteConfig,
        BlockwiseConfig,
        LatentBlocksConfig,
        DiffusionConfig,
        RegressionConfig,  # of the baseline: no arm of a comparison may have it
    ),
]
AnySampler = Annotated[
    SamplerConfig,
    Open(
        ARSampler,
        DepthSampler,
        LatentARSampler,
        MARSampler,
        MaskedSampler,
        DiscreteSampler,
        BlockwiseSampler,
        LatentBlocksSampler,
        DiffusionSampler,
        RegressionSampler,
    ),
]


class Arm(ArmSettings):
    """One family in a comparison: its decoder, how it samples, and, if tuned apart, the settings it
    trains with.

    An arm that was tuned longer has an advantage, so the ledger asks that arms agree in the trials
    and in `tuning_flops`.
    """

    decoder: AnyDecoder
    """The family and its shape."""
    sampler: AnySampler
    """How the trained decoder draws clips: steps, temperature, guidance, as its family has them."""
    training_trials: int = pydantic.Field(default=1, ge=1)
    """Training settings that were tried on validation data, this one included."""
    tuning_flops: float = pydantic.Field(default=0.0, ge=0)
    """FLOPs that those trials took."""
    sampler_trials: int = pydantic.Field(default=1, ge=1)
    """Sampling settings that were tried on validation data, this one included."""

    @pydantic.model_validator(mode="after")
    def _check_sampler(self) -> "Arm":
        if not isinstance(self.sampler, self.decoder.sampler):
            raise ValueError(
                f"sampler.kind={self.sampler.kind!r} cannot sample "
                f"decoder.kind={self.decoder.kind!r}"
            )
        if isinstance(self.decoder, DiffusionConfig) and isinstance(self.sampler, DiffusionSampler):
            self.decoder.check_sampler(self.sampler)
        if self.decoder.kind in BOUND_FAMILIES:
            raise ValueError(
                f"decoder.kind={self.decoder.kind!r} names rows that are no arms; choose another "
                "kind"
            )
        return self


class RegressionTraining(Config):
    """What the baseline `regression` trains with. Its loss is a squared error, so the rate of the
    arm whose network it has need not suit it, and a baseline that is trained badly is beaten by
    anything.
    """

    peak_lr: float | None = pydantic.Field(default=None, gt=0, le=100)
    """Highest learning rate; None: that of the first diffusion arm, or else the shared one."""
    warmup_fraction: Annotated[float, pydantic.Field(ge=0, le=1)] | None = added(None)
    """As `optim.warmup_fraction`; None as for the rate, and so for all that follow."""
    weight_decay: Annotated[float, pydantic.Field(ge=0, le=100)] | None = added(None)
    """As `optim.weight_decay`."""
    ema_decay: Annotated[float, pydantic.Field(ge=0, lt=1)] | None = added(None)
    """As `optim.ema_decay`."""
    dropout: Annotated[float, pydantic.Field(ge=0, lt=1)] | None = added(None)
    """As `backbone.dropout`."""
    shape: Shape | None = added(None)
    """Its own width, depth and heads of the backbone, of the comparison's `shape_grid`."""
    training_trials: int = pydantic.Field(default=1, ge=1)
    """Training settings that were tried on validation data, this one included; the ledger names it
    if arms had more.
    """
    tuning_flops: Annotated[float, pydantic.Field(ge=0)] = added(0.0)
    """FLOPs that those trials took."""


class DecoderRun(Run):
    """Train one decoder on tokens."""

    has_looks: ClassVar[bool] = True
    kind: Literal["decoder"] = "decoder"
    data: TokenData
    """Corpus, codec and crop that the tokens come from."""
    backbone: BackboneConfig
    """The transformer."""
    condition: ConditionConfig
    """The conditions that the decoder gets."""
    arm: Arm
    """The family, its sampler and its settings."""
    checkpoint: CheckpointRule = added(CheckpointRule())
    """Which of the trained weights are handed over."""

    @pydantic.model_validator(mode="after")
    def _check_size(self) -> "DecoderRun":
        _check_batch(self.data, self.batch_size, self.condition)
        return self

    def task(self, store: TokenStore) -> Task:
        """Return what the decoder reads, is conditioned on and runs on, given a store's token space
        and conditions.
        """
        info = store.info
        vocab = CondVocab(
            num_speakers=len(info.speakers),
            num_units=info.num_units,
            is_two_sided=info.is_two_sided,
        )
        return Task(
            info.spec,
            vocab,
            self.backbone,
            self.condition,
            num_frames=self.data.num_frames,
            num_symbols=info.longest_text,
            code_vectors=jnp.asarray(store.code_vectors) if store.has_latents else None,
        )

    def build_for(self, store: TokenStore, key: Key[Array, ""]) -> nnx.Module:
        """Return the untrained decoder for a store's token space and conditions."""
        task = self.task(store)
        check_view(f"arm {self.name!r}", self.arm.decoder, task)
        return self.arm.decoder.build(task, key=key)

    def source_of(self, store: TokenStore) -> BatchSource:
        """Return the training batches: the same for every arm with the same seed, data and batch
        size.
        """
        data = self.data
        if self.condition.content == "text":
            # One text is enough to know, and a million need not be read for it.
            headings = map(store.heading, store.numbers("train"))
            if not any(has_symbols(heading.text) for heading in headings):
                self.condition.check_texts(store.texts("train"))
        dataset = store.dataset(
            "train", num_frames=data.example_frames, seed=self.seed, clips=data.train_clips
        )
        return BatchSource(dataset, self.batch_size, threads=store.read_threads)


class Comparison(Config):
    """Several arms that differ in their decoder alone, trained on one budget and scored on the same
    prompts.
    """

    kind: Literal["compare"] = "compare"
    name: Name
    """Name of the run directory, before the key, which it does not enter."""
    question: str
    """What is asked, the title of the report."""
    seeds: tuple[Seed, ...] = pydantic.Field(default=(0,), min_length=1)
    """Training seeds; every arm is trained once with each."""
    data: TokenData
    """The tokens of all arms."""
    batch_size: int = pydantic.Field(ge=1)
    """Clips per update."""
    backbone: BackboneConfig
    """The transformer of all arms."""
    condition: ConditionConfig
    """The conditions that all arms get."""
    budget: Budget
    """What every arm may spend."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and schedule of all arms."""
    arms: dict[Name, Arm] = pydantic.Field(min_length=1)
    """The arms by name."""
    prompts_split: str = "test"
    """Split that prompts come from; never train."""
    num_prompts: int = pydantic.Field(default=32, ge=2)
    """Clips that every arm samples."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How much is scored."""
    audit: bool = False
    """Run every metric on known degradations first; an earlier audit is used even without it."""
    equivalence: dict[str, pydantic.PositiveFloat] = {}
    """Per score, the difference that does not matter: only with it may two arms be called
    equivalent.
    """
    metrics: tuple[AnyMetric, ...] = added(())
    """Metrics of your own, beside those of the corpus (docs/own_metric.py in the repository)."""
    baselines: tuple[ChosenBaseline, ...] = added(CHOSEN_BASELINES)
    """Rows that every arm must beat. `regression` costs a training as long as an arm's, the others
    seconds; without them no arm can be called better than mean latents or counts of codes. Where
    energies are scored, both forecasts are also rows with a spread (docs/measurement.md).
    """
    regression: RegressionTraining = added(RegressionTraining())
    """What the baseline that is trained has for itself."""
    settings: TrainSettings = TrainSettings()
    """How runs are watched and saved; it changes no result."""
    checkpoint: CheckpointRule = added(CheckpointRule())
    """Which of the trained weights every arm hands over."""
    shape_grid: GridName | None = added(None)
    """The published grid of shapes from which each arm has its own (`genlab tune` tries them all);
    None: all arms have the shape of `backbone`.
    """

    @pydantic.model_validator(mode="after")
    def _check_shapes(self) -> "Comparison":
        if self.shape_grid is not None and self.budget.mode == "iso_step":
            raise ValueError(
                f"shape_grid={self.shape_grid!r}: budget.mode='iso_step' holds the parameters of "
                "the backbone equal, so no arm can have a shape of its own; use iso_flop, or "
                "shape_grid=null"
            )
        given: dict[str, ArmSettings] = {f"arms.{name}": arm for name, arm in self.arms.items()}
        given[REGRESSION] = ArmSettings(shape=self.regression.shape)
        for name, settings in given.items():
            try:
                settings.apply(self.optim, self.backbone)
            except pydantic.ValidationError as error:
                problem = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"{name}.shape: {problem}") from None
        return self

    @pydantic.model_validator(mode="after")
    def _check_looks(self) -> "Comparison":
        self.checkpoint.check_choices(self.optim, self.arms, self.prompts_split)
        own = self.regression.peak_lr
        if own is not None and self.optim.peak_lrs is not None:
            raise ValueError(
                f"{REGRESSION}.peak_lr={own:g}: optim.peak_lrs lets the regression try the rates "
                f"of the arms; leave out {REGRESSION}.peak_lr, or set optim.peak_lrs=null"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_arms(self) -> "Comparison":
        _check_batch(self.data, self.batch_size, self.condition)
        if taken := [name for name in self.arms if name in BOUND_NAMES]:
            raise ValueError(
                f"arms: the name {taken[0]!r} belongs to a row that every table has; choose another"
            )
        for name, arm in self.arms.items():
            if arm.decoder.kind == REGRESSION:
                raise ValueError(
                    f"arms.{name}.decoder.kind={REGRESSION!r}: a baseline, which every comparison "
                    "makes and no arm may be; leave the arm out"
                )
            if problem := self.condition.problem_of_guidance(arm.sampler):
                raise ValueError(f"arms.{name}.sampler.{problem}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={self.seeds}: each seed is one run, so they must differ")
        own = self.own_metrics
        # Checked now: a misspelt score would only be missed at the end of the last run.
        if unknown := [name for name in self.equivalence if not is_paired(name, own)]:
            raise ValueError(
                f"equivalence.{unknown[0]}: no score of this name is compared prompt by prompt; "
                "expected a name such as wer_ctc, speaker_similarity or bits_per_s"
            )
        if self.prompts_split == "train":
            raise ValueError(
                "prompts_split='train': prompts must be texts that no arm was trained on"
            )
        return self

    @property
    def measured_baselines(self) -> tuple[Baseline, ...]:
        """The baselines that can be measured, those with a spread among them: of tokens that nobody
        hears, those that have bits.
        """
        has_bits = self.baselines if self.data.is_heard else COUNTED_BASELINES
        found: set[Baseline] = {name for name in self.baselines if name in has_bits}
        if self.evaluation.energy_draws:
            found |= {name for plain in found for name in DRESSED_WITH.get(plain, ())}
        return tuple(name for name in BASELINES if name in found)

    @property
    def own_metrics(self) -> tuple[Metric, ...]:
        """The rows that metrics of the user add to the table of scores."""
        return own_rows(self.metrics)

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """Every metric that is measured: those of the corpus's domain, then the user's own."""
        return (*self.data.domain.metrics, *self.own_metrics)

    def comparison_key(self) -> str:
        """Return a hash of what the arms must share: data, codec, batch, budget, conditions,
        prompts, evaluation.
        """
        excluded = {"name", "question", "arms", "settings", "optim", "audit", "equivalence"}
        excluded |= {"baselines", REGRESSION}  # a table with other bounds compares the same arms
        return self.digest(exclude=excluded)

    def run(self, name: str, seed: int, steps: int) -> DecoderRun:
        """Return the training run of one arm once the budget has set its steps."""
        arm = self.arms[name]
        optim, backbone = arm.apply(self.optim, self.backbone)
        return DecoderRun(
            name=name,
            seed=seed,
            steps=steps,
            batch_size=self.batch_size,
            optim=optim,
            settings=self.settings,
            data=self.data,
            backbone=backbone,
            condition=self.condition,
            arm=arm,
            checkpoint=self.checkpoint,
        )
