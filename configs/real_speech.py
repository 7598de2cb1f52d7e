"""Real people who say one of three words: left to right or in parallel, on codes or on latents.

Question: which decoder continues a word best when the word is told, and the voice has to be heard
from its first half? Test speakers are none of the training's, and the speaker is the unit of the
statistics: with three words as units there would be three. The recogniser that comes with genlab
mishears single words, so no word error decides; the energy of the next block does.

The audio is yours: a folder with metadata.csv (path, text, speaker, split) of clips of a second,
for example Speech Commands (Warden 2018, arXiv 1804.03209; CC BY 4.0).

    export SPEECH_COMMANDS_DIR=path/to/speech_commands
    genlab compare configs/real_speech.py --dry-run      # prompts, scores, gates: trains nothing
    genlab compare configs/real_speech.py

The voice told: nobody can be told a voice that training lacks, so the second set withholds pairs of
a word and a person who says the other words in training:

    python sweeps/withheld_words.py $SPEECH_COMMANDS_DIR/metadata.csv > told.csv
    genlab compare configs/real_speech.py data.corpus.manifest=$PWD/told.csv condition.speaker=true

Budget: 3 TFLOP per arm and seed, meant for an evening on a laptop; how long it takes was not
measured. It is small: arms that do not beat the regression are named as not trained
enough. More is one override away, budget.train_flops=2.4e13. Peak rates are those of the quick
start, on other speech at 192 channels and 8 TFLOP; here nothing is tuned. Samplers are untuned, and
describe what is heard alone. configs/headline_people.py asks the same of five seeds, two sizes and
three rates.
"""

import os

from genlab.data.folder import Folder
from genlab.decoders.ar import ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionSampler
from genlab.decoders.latent_ar import LatentARSampler
from genlab.decoders.masked import MaskedSampler
from genlab.experiment import Budget, Comparison, TokenData
from genlab.load import call_base
from genlab.nets.backbone import BackboneConfig

VARIABLE = "SPEECH_COMMANDS_DIR"
# The arms of the quick start, whose decoders and rates these are, by what they read.
SQUARE = {
    "ar_codes": ("ar", ARSampler()),
    "ar_latents": ("latent_ar", LatentARSampler()),
    "masked_codes": ("masked", MaskedSampler(steps=(8, 1))),
    "diffusion_latents": ("diffusion", DiffusionSampler(steps=12)),
}
TRAIN_FLOPS = 3e12


def config() -> Comparison:
    """Return the comparison. Without the variable, `data.corpus.path` names the folder."""
    path = os.environ.get(VARIABLE) or "speech_commands"
    people = Folder(path=path, manifest="metadata.csv", shared_texts=True, unit="speaker")
    return square().model_copy(
        update={
            "name": "real_speech",
            "question": "Which decoder best continues a word of a person it has never heard?",
            "data": TokenData(corpus=people, num_frames=50),
            "batch_size": 16,
            "condition": ConditionConfig(content="text", speaker=False),
        }
    )


def square() -> Comparison:
    """Return what the comparisons of all domains share: the arms and their rates, the size, the
    budget, three seeds and how much is scored.
    """
    base = call_base(__file__, "quickstart.py")
    arms = {
        name: base.arms[old].model_copy(update={"sampler": sampler, "sampler_trials": 1})
        for name, (old, sampler) in SQUARE.items()
    }
    return base.model_copy(
        update={
            "arms": arms,
            "seeds": (0, 1, 2),
            "backbone": BackboneConfig(width=128, layers=4, heads=4),
            "budget": Budget(train_flops=TRAIN_FLOPS),
        }
    )
