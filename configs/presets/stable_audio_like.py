"""Stable Audio's transformer (2404.10301) as the diffusion decoder: v-prediction on the cosine
path, text by cross-attention, speaker and duration as one position before the frames.

Question: with the data and budget of units_to_speech, is its topology better or worse than the
shared backbone, which `arms.stable_audio_like.decoder.network.kind=backbone` puts in its place?
Unlike the published system: speech, our codec's latents in place of its autoencoder's, a small text
encoder trained along, and a few layers. `genlab.decoders.noise.stable_audio.save_stable_audio`
writes the trained network for diffusers.

    genlab compare configs/presets/stable_audio_like.py
"""

from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.noise.denoisers import StableAudioNetwork
from genlab.decoders.noise.paths import CosinePath
from genlab.decoders.noise.solvers import DPMSolver
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    told = {"content": "text", "route": "cross", "duration": True, "clip_route": "adaln"}
    arm = Arm(
        decoder=DiffusionConfig(
            network=StableAudioNetwork(key_heads=2), path=CosinePath(), predicts="v"
        ),
        sampler=DiffusionSampler(steps=24, solver=DPMSolver(), guidance=3.0),
    )
    name = "stable_audio_like"
    return base.model_copy(
        update={
            "name": name,
            "condition": base.condition.model_copy(update=told),
            "arms": {name: arm},
        }
    )
