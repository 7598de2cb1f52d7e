"""The kinds of corpora of single utterances: one row per kind, and the door for a class of the user
beside them.
"""

from typing import Annotated

from genlab.config.open import Open
from genlab.data.chorales import Chorales
from genlab.data.classes import ESC50, SpeechCommands
from genlab.data.embedded import Embedded
from genlab.data.folder import Folder
from genlab.data.hf_dataset import HFDataset
from genlab.data.layouts import FSDD, VCTK, LibriSpeech, LJSpeech
from genlab.data.recipe import Corpus
from genlab.data.sounds import Sounds
from genlab.data.webdataset import Shards

UTTERANCES = (
    Embedded,
    Folder,
    LibriSpeech,
    LJSpeech,
    VCTK,
    FSDD,
    SpeechCommands,
    ESC50,
    Sounds,
    Shards,
    HFDataset,
    Chorales,
)
AnyUtterances = Annotated[Corpus, Open(*UTTERANCES)]
