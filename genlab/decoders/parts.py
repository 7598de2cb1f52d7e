"""Named conditions beside speaker, text and units: the contract of one, and the built-in kinds.

A part is a config (frozen, hashed, saved) that knows two things: the value of a clip, computed on
the host from a column of the corpus or from the audio, and the module that turns values into
features of the backbone's width. The values go through the token store into `Cond.parts`.

A value has one of three extents: it holds for the whole clip, has one entry per frame, or is a
sequence with an order of its own (a text). Its features reach the backbone by one of four routes:
    sum      added to every frame, or to its own; not for sequences
    adaln    modulating the norms of every layer; for values of the whole clip
    prefix   positions before the frames, which every frame attends to
    cross    the same by cross-attention
Features by frame that are attended to are also added to their own frame, as semantic units are. By
prefix and cross every family has the same reach: a causal one sees the end of the clip too.

Where a condition is dropped, with all others or alone, a learned vector takes its place. A part
never sees whether it is dropped, so guidance contrasts with a model that knows nothing of it.
"""

import abc
import functools
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import Config, GenlabError, Name, added
from genlab.config.errors import shorten
from genlab.config.open import Hashed
from genlab.data.valued import ClipFacts, Valued
from genlab.data.words import read_numbers, read_weights
from genlab.nets.context import Text
from genlab.nets.flops import count_flops
from genlab.nets.linear import Embedding, Linear
from genlab.nets.param import vector
from genlab.tokens import AnyArray

TAKEN = (
    "speaker",
    "text",
    "content",
    "units",
    "duration",
    "other",
)  # what `Cond` and its config call their own
Route = Literal["sum", "adaln", "prefix", "cross"]
ATTENDED = ("prefix", "cross")
AnyFeatures = Float[Array, "b *t h"] | Text  # those of a clip, of its frames, of a sequence


@runtime_checkable
class ConditionPart(Hashed, Valued, Protocol):
    """The config of one named condition."""

    @property
    def route(self) -> Route:
        """How its features reach the backbone."""
        ...

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a module of values "b ..." or "b t ..." and `is_valid` "b t".

        It returns features "b h" of the clip, or "b t h" of its frames; a part with `is_sequence`
        returns a `Text` of a length of its own.
        """
        ...

    def flops(self, width: int, num_frames: int) -> float:
        """Return the FLOPs of encoding the value of one clip."""
        ...


class PlainPart(Config):
    """A part that holds for the whole clip, with FLOPs counted by a walk over its program.

    Derive from it, give it a `kind`, and define `value` and `build`. `is_per_frame`, `is_sequence`,
    `shape` and `dtype` say what values look like; `is_per_frame: ClassVar[bool] = True` will do.
    """

    option: ClassVar[str] = "vector"
    """Which option of `genlab sample` sets it by hand; `from_words` reads what it is given."""

    name: Name
    """Under which values lie in `Cond.parts`."""
    route: Route = "sum"
    """Added to frames, modulating the norms of every layer, or attended to: as positions before the
    frames (prefix) or by cross-attention (cross).
    """
    dropout: Annotated[float, pydantic.Field(ge=0, lt=1)] = added(0.0)
    """Share of training examples in which this condition alone is dropped; guidance of it alone
    needs some.
    """

    @property
    def is_per_frame(self) -> bool:
        """True if a value has one entry per frame; here it holds for the whole clip."""
        return False

    @property
    def is_sequence(self) -> bool:
        """True if a value is a sequence of its own length; its module returns a `Text`."""
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a value, without its frames; here it is one number."""
        return ()

    @property
    def dtype(self) -> str:
        """The type of a value, float32 or int32."""
        return "float32"

    @pydantic.model_validator(mode="after")
    def _check_route(self) -> "PlainPart":
        if self.is_sequence and self.route not in ATTENDED:
            raise ValueError(
                f"route={self.route!r}: {self.name!r} is a sequence of its own length, so no entry "
                "belongs to a frame or to the whole clip; use route='cross' or route='prefix'"
            )
        if self.is_per_frame and self.route == "adaln":
            raise ValueError(
                f"route='adaln': {self.name!r} differs from frame to frame; use route='sum'"
            )
        return self

    @abc.abstractmethod
    def value(self, clip: ClipFacts) -> Shaped[np.ndarray, "..."]:
        """Return the value of a clip."""

    @abc.abstractmethod
    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return the module that encodes values."""

    def check(self, value: Shaped[np.ndarray, "..."]) -> None:
        """Take every value; raise `ValueError` for those that the module cannot read."""

    def flops(self, width: int, num_frames: int) -> float:
        """Return the FLOPs of encoding the value of one clip, walked over the traced module."""
        part: Any = self  # frozen, so it has a hash
        return _walk(part, width, num_frames)

    def from_words(self, words: str, num_frames: int) -> Shaped[np.ndarray, "..."]:
        """Return the value of a clip of `num_frames` frames that somebody wrote down: numbers with
        commas between them, or the path of a file that holds the array.

        Raises:
            GenlabError: if it is neither.
        """
        return read_numbers(words).astype(self.dtype)


class Label(PlainPart):
    """One of several names in a column of the corpus: an instrument, a class of sounds.

    A clip with a name that is not listed is an error: a model could not have learned it.
    """

    kind: Literal["label"] = "label"
    option: ClassVar[str] = "label"
    column: str
    """speaker, licence, or a label of the clips: a column of the table they came with."""
    names: tuple[str, ...] = pydantic.Field(min_length=1, max_length=2**20)
    """All that may occur, in the order of their numbers."""

    @property
    def dtype(self) -> str:
        """The number of a name."""
        return "int32"

    def value(self, clip: ClipFacts) -> Int[np.ndarray, ""]:
        """Return the number of the clip's name.

        Raises:
            GenlabError: if the clip has no such column, or another name.
        """
        found = clip.label(self.column)
        if str(found) not in self.names:
            few = ", ".join(self.names[:8])
            raise GenlabError(
                f"{self.column}={shorten(found)}: not in names ({few}); list it or drop the clip"
            )
        return np.asarray(self.names.index(str(found)), np.int32)

    def from_words(self, words: str, num_frames: int) -> Float[np.ndarray, "n"]:
        """Return the weight of every name, from words such as `piano` or `piano:0.7,flute:0.3`."""
        return read_weights(words, self.names)

    def check(self, value: Shaped[np.ndarray, "..."]) -> None:
        """Refuse numbers that no name has."""
        if not 0 <= int(value) < len(self.names):
            raise ValueError(f"number {int(value)}, expected 0 to {len(self.names) - 1}")

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a table with one vector per name."""
        return Table(len(self.names), width, key=key)


class Numbers(PlainPart):
    """Numbers in columns of the corpus, for example a tempo; scaled by `mean` and `deviation`."""

    kind: Literal["numbers"] = "numbers"
    columns: tuple[str, ...] = pydantic.Field(min_length=1, max_length=1024)
    """Labels of the clips; each is one channel."""
    mean: float = 0.0
    """Subtracted from every number."""
    deviation: float = pydantic.Field(default=1.0, gt=0)
    """Numbers are divided by it, so that they are about 1."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One number per column."""
        return (len(self.columns),)

    def value(self, clip: ClipFacts) -> Float[np.ndarray, "c"]:
        """Return the scaled numbers of the clip.

        Raises:
            GenlabError: if the clip has no such column, or something else than a number in it.
        """
        found = [clip.label(column) for column in self.columns]
        try:
            numbers = np.array(found, np.float64)  # texts and lists raise too
        except (TypeError, ValueError):
            raise GenlabError(
                f"{shorten(found)}: expected a number in each of {', '.join(self.columns)}"
            ) from None
        return self._scale(numbers)

    def from_words(self, words: str, num_frames: int) -> Float[np.ndarray, "c"]:
        """Return the scaled numbers that stand there with commas between them, or in a file."""
        return self._scale(read_numbers(words))

    def _scale(self, numbers: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return ((numbers - self.mean) / self.deviation).astype(np.float32)

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a projection."""
        return Projection(len(self.columns), width, key=key)


class Table(nnx.Module):
    """One vector per name."""

    def __init__(self, entries: int, width: int, *, key: Key[Array, ""]):
        self.vectors = Embedding(entries, width, key=key)

    def __call__(
        self, value: Shaped[Array, "b ..."], is_valid: Bool[Array, "b t"]
    ) -> Float[Array, "b h"]:
        """Return the vector of each number "b", or the mixture for weights "b n" of all names."""
        return self.vectors(value) if value.ndim == 1 else self.vectors.mix(value)


class Projection(nnx.Module):
    """Channels of the last axis to the width of the backbone: what most parts of numbers need."""

    def __init__(self, channels: int, width: int, *, key: Key[Array, ""]):
        self.kernel = Linear(channels, width, key=key)

    def __call__(
        self, value: Float[Array, "b *t c"], is_valid: Bool[Array, "b t"]
    ) -> Float[Array, "b *t h"]:
        """Return the features."""
        return self.kernel(value)


class Features(NamedTuple):
    """What a part tells the backbone: features of the clip or of its frames, and what is attended
    to.
    """

    features: Float[Array, "b *t h"] | None
    memory: Text | None


class TellPart(nnx.Module):
    """A part's module, and the vector that stands for its absence."""

    def __init__(self, part: ConditionPart, width: int, *, key: Key[Array, ""]):
        module_key, absent_key = jax.random.split(key)
        self.name, self.route, self.is_per_frame = part.name, part.route, part.is_per_frame
        self.is_sequence, self.dropout = is_sequence(part), dropout_of(part)
        self.module = part.build(width, key=module_key)
        self.absent = vector(width**-0.5 * jax.random.normal(absent_key, (width,)))

    def __call__(
        self,
        parts: dict[str, AnyArray] | None,
        is_dropped: Bool[AnyArray, "b"],
        is_valid: Bool[Array, "b t"],
        places: Float[Array, "b t h"],
    ) -> Features:
        """Return what the values tell, those of dropped clips replaced. `places` say where in the
        clip a frame is, to those that attend to features by frame.

        Raises:
            GenlabError: if the batch lacks the values, or the module returns another shape.
        """
        if parts is None or self.name not in parts:
            raise GenlabError(
                f"Cond.parts: no {self.name!r}, which condition.parts lists; read the clips with it"
            )
        module: Any = self.module
        features = module(jnp.asarray(parts[self.name]), is_valid)
        if self.is_sequence:
            return Features(None, self._replace_sequence(features, is_dropped))
        width = self.absent[...].shape[0]
        wanted = (*is_valid.shape, width) if self.is_per_frame else (is_valid.shape[0], width)
        if features.shape != wanted:
            raise GenlabError(
                f"condition {self.name!r}: its module returned {features.shape}, expected {wanted}"
            )
        is_absent = jnp.asarray(is_dropped).reshape(-1, *[1] * (features.ndim - 1))
        features = jnp.where(is_absent, self.absent[...].astype(features.dtype), features)
        if self.route not in ATTENDED:
            return Features(features, None)
        if self.is_per_frame:
            return Features(features, Text(features + places.astype(features.dtype), is_valid))
        # The whole clip has one position, which is always there.
        return Features(None, Text(features[:, None, :], jnp.ones((len(features), 1), bool)))

    def _replace_sequence(self, text: object, is_dropped: Bool[AnyArray, "b"]) -> Text:
        if not isinstance(text, Text):
            raise GenlabError(
                f"condition {self.name!r}: its module returned {type(text).__name__}, expected a "
                "Text of features and which of them are valid, as is_sequence promises"
            )
        # One vector at the first place, so that the length of what is dropped says nothing either.
        is_absent = jnp.asarray(is_dropped)[:, None]
        is_first = jnp.arange(text.is_valid.shape[1])[None, :] == 0
        absent = self.absent[...].astype(text.features.dtype)
        return Text(
            jnp.where(is_absent[:, :, None], absent[None, None, :], text.features),
            jnp.where(is_absent, is_first, text.is_valid),
        )


def is_sequence(part: ConditionPart) -> bool:
    """Return whether values have an order of their own, which not every own class says."""
    return bool(getattr(part, "is_sequence", False))


def dropout_of(part: ConditionPart) -> float:
    """Return the share of training examples in which this part alone is dropped."""
    return float(getattr(part, "dropout", 0.0))


def num_attended(part: ConditionPart, num_frames: int) -> int:
    """Return how many positions a part adds to what frames attend to."""
    if part.route not in ATTENDED:
        return 0
    if is_sequence(part):
        return part.shape[0]
    return num_frames if part.is_per_frame else 1


def check_names(parts: Sequence[ConditionPart]) -> None:
    """Refuse names that two parts share, or that mean something else already.

    Raises:
        ValueError: that shows the name.
    """
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1 or name in TAKEN:
            taken = "given twice" if names.count(name) > 1 else "a condition of its own already"
            raise ValueError(f"parts: the name {name!r} is {taken}; choose another")


def part_shapes(
    parts: Sequence[ConditionPart], num_examples: int, num_frames: int
) -> dict[str, Any] | None:
    """Return the shapes and types of a batch of values, without arrays; None without parts."""
    return {part.name: _shape_of(part, num_examples, num_frames) for part in parts} or None


def _shape_of(part: ConditionPart, num_examples: int, num_frames: int) -> Any:
    frames = (num_frames,) if part.is_per_frame else ()
    return jax.ShapeDtypeStruct((num_examples, *frames, *part.shape), jnp.dtype(part.dtype))


@functools.lru_cache(maxsize=256)
def _walk(part: Any, width: int, num_frames: int) -> float:
    graph, state = nnx.split(nnx.eval_shape(lambda: part.build(width, key=jax.random.key(0))))

    def encode(state: nnx.State, value: Array, is_valid: Array) -> AnyFeatures:
        module: Any = nnx.merge(graph, state)
        return module(value, is_valid)

    is_valid = jax.ShapeDtypeStruct((1, num_frames), jnp.bool_)
    return count_flops(encode, state, _shape_of(part, 1, num_frames), is_valid)
