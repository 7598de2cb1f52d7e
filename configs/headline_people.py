"""The headline on real people: four decoders at two sizes, with the speaker withheld.

Question: does the order of configs/headline.py hold on people who each said a few words, when the
word is told and the speaker has to be drawn? Test speakers are none of the training's, and the
speaker is the unit of the statistics: with three words as units there would be three.

The audio is yours: a folder with metadata.csv (path, text, speaker, split), for example of Speech
Commands (Warden 2018, arXiv 1804.03209; CC BY 4.0), one second each, split by speaker. The
recogniser that comes with genlab mishears single words, so word errors decide nothing here; the
energy of the next block does.

    export SPEECH_COMMANDS_DIR=path/to/speech_commands
    genlab sweep run configs/headline_people.py && genlab sweep report configs/headline_people.py
    genlab compare configs/headline_people.py --dry-run      # what one size would measure

Tuning, sizes, seeds and prompts are those of configs/headline.py.
"""

import os

from genlab.config import ConfigError
from genlab.data.folder import Folder
from genlab.decoders.conditioning import ConditionConfig
from genlab.experiment import Comparison, TokenData
from genlab.load import call_base
from genlab.sweeps.page import Sweep

VARIABLE = "SPEECH_COMMANDS_DIR"
LOOKS = (
    "A probe of one seed and one setting (192 wide, 12 TFLOP, 1,734 people) saw codes lead, left "
    "to right before parallel; some of these test speakers may have been among its own.",
)


def config() -> Comparison:
    """Return the smaller size. Without the variable, `data.corpus.path` names the folder."""
    path = os.environ.get(VARIABLE) or "speech_commands"
    people = Folder(path=path, manifest="metadata.csv", shared_texts=True, unit="speaker")
    update = {"name": "headline_people", "batch_size": 16}
    update |= {"data": TokenData(corpus=people, num_frames=50)}
    update |= {"condition": ConditionConfig(content="text", speaker=False)}
    return call_base(__file__, "headline.py").model_copy(update=update)


def sweep() -> Sweep:
    """Return the page.

    Raises:
        ConfigError: if nobody says where the audio is.
    """
    path = os.environ.get(VARIABLE)
    if not path or not os.path.isdir(path):
        raise ConfigError(
            f"{VARIABLE}={path or ''}: no such folder, expected one of audio with metadata.csv "
            f"(path, text, speaker, split); set it: export {VARIABLE}=path/to/speech_commands"
        )
    page = {"base": config(), "better": "codes", "looks": LOOKS}
    return call_base(__file__, "headline.py", "sweep", **page)
