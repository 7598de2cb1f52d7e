"""CALM (2509.06926) on speech: a causal transformer over latents whose head is a small flow.

Question: does a few-step head on continuous frames beat codes at equal compute? Read its content
error beside the AR arm of units_to_speech. As in the paper the context is noisy in training and
many noise draws share one hidden vector; unlike it the head is a flow (MAR, 2406.11838), not a
consistency model, and no second transformer reads the clean context. The amount of noise, draws,
steps, temperature and guidance are ours.

    genlab compare configs/presets/calm.py
"""

from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.noise.heads import FlowMatching
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    arm = Arm(
        decoder=LatentARConfig(head=FlowMatching(width=192, draws=4), context_noise=0.3),
        sampler=LatentARSampler(steps=8, temperature=0.9, guidance=1.5),
    )
    question = "With equal training compute, what does a flow head on latents reach?"
    return base.model_copy(update={"name": "calm", "question": question, "arms": {"calm": arm}})
