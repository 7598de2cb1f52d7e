"""SLED (2505.13181) on speech: a causal transformer over latents whose head is trained by the
energy score.

Question: is one call of an implicit head, without a density and without steps, enough for a frame
of speech? Read its content error beside the AR arm of units_to_speech: same data, backbone and
training FLOPs, latents in the place of codes. Two samples and beta = 1 are the paper's; its
guidance is left out.

    genlab compare configs/presets/sled.py
"""

from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.noise.heads import EnergyScore
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    arm = Arm(
        decoder=LatentARConfig(head=EnergyScore(width=192, samples=2, beta=1.0)),
        sampler=LatentARSampler(),
    )
    question = "With equal training compute, what does an energy-score head on latents reach?"
    return base.model_copy(update={"name": "sled", "question": question, "arms": {"sled": arm}})
