"""Scoring: metrics, statistics and controls of audio against its prompts (numpy, onnxruntime)."""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.decoders.noise.heads import energy_score
    from genlab.evaluate.distribution import SpeechEmbedder, build_reference, kernel_distance
    from genlab.evaluate.quality import Dnsmos
    from genlab.statistics.bootstrap import paired_difference
    from genlab.statistics.crossed import crossed_difference

__all__ = [
    "Dnsmos",
    "SpeechEmbedder",
    "build_reference",
    "crossed_difference",
    "energy_score",
    "kernel_distance",
    "paired_difference",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "energy_score": "genlab.decoders.noise.heads",
        "SpeechEmbedder": "genlab.evaluate.distribution",
        "build_reference": "genlab.evaluate.distribution",
        "kernel_distance": "genlab.evaluate.distribution",
        "Dnsmos": "genlab.evaluate.quality",
        "paired_difference": "genlab.statistics.bootstrap",
        "crossed_difference": "genlab.statistics.crossed",
    },
)
