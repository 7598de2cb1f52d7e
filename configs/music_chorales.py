r"""Four-part chorales by Bach: left to right or in parallel, on codes or on latents.

Question: which decoder continues an excerpt of four beats best when the ensemble that plays is
told? Pieces of the test are none of the training's, and the piece is the unit of the statistics.
What decides is the energy of the next block; the control swaps the ensemble. Chroma similarity and
the accuracy of a classifier of ensembles, fitted to the training clips, describe what is heard.

The music is rendered: scores that come with music21, one of eight ensembles per piece, and a
General MIDI soundfont of yours. `genlab doctor` says how to get what is missing:

    python -m pip install 'genlab[music]' && python -m pip install --no-deps tinysoundfont==0.3.7
    apt-get install musescore-general-soundfont-small
    genlab compare configs/music_chorales.py --dry-run      # prompts, scores, gates: trains nothing
    genlab compare configs/music_chorales.py

All of it is 16 kHz mono, the rate of the codec that ships with genlab, so of music above 8 kHz
nothing is heard. Harmony in, beside the ensemble, as 12 shares of pitch classes per frame, which is
nearly the music itself:

    genlab compare configs/music_chorales.py \
        'condition.parts=[{"kind":"curve","name":"chroma","measured":"chroma","route":"cross"}]'

Budget, rates and samplers are those of configs/real_speech.py; more is one override away,
budget.train_flops=2.4e13.
"""

from genlab.data.chorales import Chorales
from genlab.decoders.conditioning import ConditionConfig
from genlab.experiment import Comparison, TokenData
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison."""
    base = call_base(__file__, "real_speech.py", "square")
    return base.model_copy(
        update={
            "name": "music_chorales",
            "question": "Which decoder best continues a chorale whose ensemble is told?",
            "data": TokenData(corpus=Chorales(pieces=160, test_fraction=0.25), num_frames=184),
            "batch_size": 4,
            "condition": ConditionConfig(content="none", speaker=True),
        }
    )
