"""All built-in kinds of named conditions, as a field of a config takes them."""

from typing import Annotated

from genlab.config.open import Open
from genlab.decoders.parts import ConditionPart, Label, Numbers
from genlab.decoders.told.codes import Codes
from genlab.decoders.told.curves import Curve
from genlab.decoders.told.labels import Labels
from genlab.decoders.told.symbols import Phonemes, Utf8
from genlab.decoders.told.vectors import Vector, VectorSequence

AnyPart = Annotated[
    ConditionPart,
    Open(Label, Labels, Numbers, Utf8, Phonemes, Curve, Vector, VectorSequence, Codes),
]
