"""What an outside review measured of the experiment, where no other test has the right value."""

from pathlib import Path

import pytest

from genlab.decoders.ar import ARConfig
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.cost import abstract_decoder, train_flops
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.masked import MaskedConfig
from genlab.decoders.task import Task
from genlab.nets.backbone import BackboneConfig
from genlab.nets.param import count_shared
from genlab.sweeps.page import expand, load_sweep
from genlab.tokens import TokenSpec

SPEC = TokenSpec(
    sample_rate_hz=16000, hop_samples=320, codebooks=8, entries=1024, latent_channels=32
)
VOCAB = CondVocab(num_speakers=4, num_units=100)
CLAIMS = Path(__file__).parents[1] / "sweeps" / "claims"


@pytest.mark.parametrize(
    ("width", "layers", "heads", "frames", "over_diffusion", "share"),
    [
        (128, 3, 4, 96, 2.50, 0.58),
        (192, 4, 4, 96, 1.85, 0.42),
        (256, 6, 4, 256, 1.36, 0.27),
        (512, 12, 8, 500, 1.06, 0.09),
        (1024, 24, 16, 1500, 0.94, 0.02),
    ],
)
def test_what_equal_flops_cost_ar_depends_on_the_width(
    width, layers, heads, frames, over_diffusion, share
):
    """Small models of codes spend much of an update on their heads, so the sign of a difference at
    equal FLOPs may turn with the size: results at two sizes, and a shape of its own per family.
    """
    backbone = BackboneConfig(width=width, layers=layers, heads=heads)

    def cost(config, entries=1024):
        spec = SPEC.model_copy(update={"entries": entries})
        return train_flops(
            config, Task(spec, VOCAB, backbone, ConditionConfig(), num_frames=frames)
        )

    ar = cost(ARConfig())
    assert ar / cost(DiffusionConfig()) == pytest.approx(over_diffusion, abs=0.005)
    assert cost(MaskedConfig()) < cost(DiffusionConfig()) * 1.2
    # Eight products with 1,024 entries at each of the frames and of the 7 delays, three times.
    per_entry = 3 * 2 * width * 8 * (frames + 7)
    assert ar - cost(ARConfig(), entries=1) == pytest.approx(1023 * per_entry)
    assert 1024 * per_entry / ar == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("name", ["pattern_order", "sampling_precision", "softmax_or_density"])
def test_a_claim_at_equal_updates_has_arms_of_one_backbone(name):
    """Else its ledger is uncontrolled, whatever its heads hold, and it has no verdict."""
    compared = [run.config for run in expand(load_sweep(CLAIMS / f"{name}.py"))]
    equal = [config for config in compared if config.budget.mode == "iso_step"]
    assert equal
    for config in equal:
        runs = [config.run(arm, config.seeds[0], steps=1) for arm in config.arms]
        tasks = [
            Task(
                config.data.spec,
                VOCAB,
                run.backbone,
                run.condition,
                num_frames=config.data.num_frames,
            )
            for run in runs
        ]
        shared = {
            count_shared(abstract_decoder(run.arm.decoder, task)) for run, task in zip(runs, tasks)
        }
        assert len(shared) == 1
