"""GIVT (2312.02116) on speech: a causal transformer over latents whose head is a mixture of
Gaussians.

Question: can one pass per frame and an exact density do what a tower of codes does? Read its
content error beside the AR arm of units_to_speech: same data, backbone and training FLOPs, latents
in the place of codes.

    genlab compare configs/presets/givt.py
"""

from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.noise.heads import GaussianMixture
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    arm = Arm(
        decoder=LatentARConfig(head=GaussianMixture(components=16)),
        sampler=LatentARSampler(temperature=0.9),
    )
    question = "With equal training compute, what does a mixture head on latents reach?"
    return base.model_copy(update={"name": "givt", "question": question, "arms": {"givt": arm}})
