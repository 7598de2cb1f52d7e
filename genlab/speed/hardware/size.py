"""How large the pack's programs are: those of a real accelerator, or toys for a rehearsal on CPU.

The token space is Mimi's (12.5 frames per second, 8 levels of 2048 entries, 512 channels) and clips
last 30 s, as in configs/scale, so that the compiled programs are those that `genlab aot` lists.
"""

from typing import Literal, NamedTuple

from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.task import Task
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import TokenSpec

DType = Literal["float32", "bfloat16"]


class ModelSize(NamedTuple):
    """One size of the backbone, and the clips of a training step."""

    name: str
    width: int
    layers: int
    heads: int
    clips: int


class HardwareSize(NamedTuple):
    """What the steps measure at: models from small to large, the shape of a clip, and repetitions.

    `attention` are the positions that kernels are tried at; `product` is the side of the matrices
    whose product is the measured peak; a run that is killed or waits for the loader makes
    `training` steps, and codecs get `audio_s` seconds. Of each step `most_cases` are asked.
    """

    name: str
    models: tuple[ModelSize, ...]
    frames: int
    codebooks: int
    entries: int
    latent_channels: int
    dtype: DType
    attention: tuple[int, ...]
    attention_shape: tuple[int, int, int]
    product: int
    repeats: int
    agreeing_frames: int
    sampled_clips: tuple[int, ...]
    masked_steps: tuple[int, ...]
    diffusion_steps: int
    training: int
    audio_s: float
    most_cases: int = 1_000_000

    @property
    def spec(self) -> TokenSpec:
        """The token space."""
        return TokenSpec(
            sample_rate_hz=24_000,
            hop_samples=1920,
            codebooks=self.codebooks,
            entries=self.entries,
            latent_channels=self.latent_channels,
        )

    def task(self, model: ModelSize, dtype: DType | None = None, frames: int = 0) -> Task:
        """Return the task of a decoder of this size, without conditions, as torch's programs."""
        backbone = BackboneConfig(
            width=model.width,
            layers=model.layers,
            heads=model.heads,
            dtype=self.dtype if dtype is None else dtype,
        )
        nothing = ConditionConfig(content="none", speaker=False)
        vocab = CondVocab(num_speakers=1)
        return Task(self.spec, vocab, backbone, nothing, num_frames=frames or self.frames)


FULL = HardwareSize(
    name="full",
    models=(
        ModelSize("30 M", 512, 8, 4, 64),
        ModelSize("300 M", 1024, 24, 8, 64),
        ModelSize("1 B", 2048, 20, 16, 32),
    ),
    frames=375,
    codebooks=8,
    entries=2048,
    latent_channels=512,
    dtype="bfloat16",
    attention=(256, 257, 887, 2048),
    attention_shape=(8, 16, 128),
    product=8192,
    repeats=8,
    agreeing_frames=261,
    sampled_clips=(1, 16),
    masked_steps=(16, 1, 1, 1, 1, 1, 1, 1),
    diffusion_steps=32,
    training=40,
    audio_s=10.0,
)
TOY = HardwareSize(
    name="toy",
    models=(ModelSize("toy", 32, 2, 2, 2),),
    frames=12,
    codebooks=2,
    entries=16,
    latent_channels=8,
    dtype="float32",
    attention=(16, 21),
    attention_shape=(2, 2, 8),
    product=128,
    repeats=2,
    agreeing_frames=12,
    sampled_clips=(1,),
    masked_steps=(2, 1),
    diffusion_steps=2,
    training=6,
    audio_s=0.2,
)
# The first case of every step: what the tests run.
GLANCE = TOY._replace(name="glance", most_cases=1)
SIZES = {size.name: size for size in (FULL, TOY, GLANCE)}
