"""Claim card: a loop that is drawn in a circle has no seam.

Makers of sound effects offer loops: clips that are repeated and nobody can tell where they begin.
Here a loop is drawn by rolling the clip by a random number of frames before every network call
(genlab/decoders/loop.py) and by decoding it in a circle, which needs no other training: the arms
are samplers of one. The criterion is measured on each clip alone: the jump of level and spectrum
where it begins anew has a rank among its jumps elsewhere (genlab/evaluate/seams.py), which is a
half on average if the place is like any other and near one at a cut.

What is in no clip of training cannot be learnt from it, so the class must be heard as before.

    genlab sweep run sweeps/claims/loop.py
    genlab sweep report sweeps/claims/loop.py --card
"""

from genlab.data.sounds import Sounds
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.evaluate.metrics import EvaluationConfig
from genlab.evaluate.seams import LoopSeam
from genlab.experiment import Arm, Budget, TokenData
from genlab.load import call_base
from genlab.sweeps.page import Contrast, Sweep

STEPS = (8, 32)
NO_PLACE, MARGIN = 0.5, 0.1


def sweep() -> Sweep:
    """Return the page."""
    base = call_base(__file__, "../../configs/units_to_speech.py")
    arms = {
        f"{name}_{steps}": Arm(
            decoder=DiffusionConfig(),
            sampler=DiffusionSampler(steps=steps, guidance=2.0, is_loop=name == "loop"),
        )
        for steps in STEPS
        for name in ("plain", "loop")
    }
    # Textures and tones, which begin and end nowhere; an impact or a chirp has a beginning.
    corpus = Sounds(clips=1200, clip_s=1.5, classes=("noise", "tone", "rain"))
    update = {
        "data": TokenData(corpus=corpus, num_frames=76),
        "condition": ConditionConfig(content="none", speaker=True, dropout=0.2),
        "arms": arms,
        "seeds": (0, 1, 2),
        "num_prompts": 60,
        "budget": Budget(train_flops=4e12),
        "baselines": ("lookup",),
        "metrics": (LoopSeam(),),
        "evaluation": EvaluationConfig(energy_draws=0, reference_clips=160),
    }

    def smooth(steps: int) -> Contrast:
        return Contrast(
            text=f"{steps} steps: the seam of a loop ranks lower than that of a plain clip",
            score="loop_seam",
            terms={f"loop_{steps}": 1.0, f"plain_{steps}": -1.0},
            expect="below",
        )

    def as_heard(steps: int) -> Contrast:
        return Contrast(
            text=f"{steps} steps: a loop is heard as its class as often as a plain clip",
            score="class_accuracy",
            terms={f"loop_{steps}": 1.0, f"plain_{steps}": -1.0},
            expect="within",
            margin=MARGIN,
        )

    return Sweep(
        name="loop",
        question="Can a model that was never shown a loop draw one?",
        claim="Rolling the clip before every call gives loops whose seam is like any other place.",
        source="none: a method of sampling; looping sound effects are a product's feature",
        faithful="There is no source to be faithful to.",
        fixed=(
            "Corpus, codec, conditions, backbone, batch, training FLOPs, guidance, three training "
            "seeds, 60 prompts; one training per seed, which all arms share."
        ),
        varied="Whether the sampler draws loops, and its steps: with few calls few ends are averaged.",
        base=base.model_copy(update=update),
        predictions=(
            *(smooth(steps) for steps in STEPS),
            *(as_heard(steps) for steps in STEPS),
        ),
        untested=(
            f"The rank of a loop's seam is {NO_PLACE:g} on average, within {MARGIN:g}: a value by "
            "itself is no contrast of arms. The table has it with its interval.",
            "Listeners cannot tell where a loop begins: nobody was asked.",
            "A codec that only looks back: the codec of this page looks both ways.",
        ),
        looks=(
            "None on this corpus. On a law whose denoiser is known the seam of 100 steps is like "
            "the interior (tests/decoders/test_loop.py); steps and budget were set before the run.",
        ),
    )
