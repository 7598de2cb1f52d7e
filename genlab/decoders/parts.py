"""Named conditions beside speaker, text and units: the contract of one, and the built-in kinds.

A part is a config (frozen, hashed, saved) that knows two things: the value of a clip, computed on
the host from a column of the corpus or from the audio, and the module that turns values into
features of the backbone's width. The values go through the token store into `Cond.parts`;
`Conditioner` adds the features to the frames (route "sum") or lets them modulate the norms of every
layer (route "adaln"), and replaces them by a learned vector where conditions are dropped. A part
never sees whether it is dropped, so guidance contrasts with a model that knows nothing of it.

The routes "prefix" and "cross" of text are not there for parts yet.
"""

import abc
import functools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import Config, GenlabError, Name
from genlab.config.errors import shorten
from genlab.config.open import Hashed, Open
from genlab.data.valued import ClipFacts, Valued
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


@runtime_checkable
class ConditionPart(Hashed, Valued, Protocol):
    """The config of one named condition."""

    @property
    def route(self) -> Literal["sum", "adaln"]:
        """How its features reach the backbone; adaln is for values of the whole clip."""
        ...

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a module of values "b ..." or "b t ..." and `is_valid` "b t".

        It returns features "b h" of the clip, or "b t h" of its frames.
        """
        ...

    def flops(self, width: int, num_frames: int) -> float:
        """Return the FLOPs of encoding the value of one clip."""
        ...


class PlainPart(Config):
    """A part that holds for the whole clip, with FLOPs counted by a walk over its program.

    Derive from it, give it a `kind`, and define `value` and `build`. `is_per_frame`, `shape` and
    `dtype` say what values look like; `is_per_frame: ClassVar[bool] = True` will do.
    """

    name: Name
    """Under which values lie in `Cond.parts`."""
    route: Literal["sum", "adaln"] = "sum"
    """Added to every frame, or modulating the norms of every layer."""

    @property
    def is_per_frame(self) -> bool:
        """True if a value has one entry per frame; here it holds for the whole clip."""
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


class Label(PlainPart):
    """One of several names in a column of the corpus: an instrument, a class of sounds.

    A clip with a name that is not listed is an error: a model could not have learned it.
    """

    kind: Literal["label"] = "label"
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

    def check(self, value: Shaped[np.ndarray, "..."]) -> None:
        """Refuse numbers that no name has."""
        if not 0 <= int(value) < len(self.names):
            raise ValueError(f"number {int(value)}, expected 0 to {len(self.names) - 1}")

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a table with one vector per name."""
        return _Table(len(self.names), width, key=key)


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
        return ((numbers - self.mean) / self.deviation).astype(np.float32)

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a projection."""
        return Projection(len(self.columns), width, key=key)


AnyPart = Annotated[ConditionPart, Open(Label, Numbers)]


class _Table(nnx.Module):
    def __init__(self, entries: int, width: int, *, key: Key[Array, ""]):
        self.vectors = Embedding(entries, width, key=key)

    def __call__(self, value: Int[Array, "b"], is_valid: Bool[Array, "b t"]) -> Float[Array, "b h"]:
        return self.vectors(value)


class Projection(nnx.Module):
    """Channels of the last axis to the width of the backbone: what most parts of numbers need."""

    def __init__(self, channels: int, width: int, *, key: Key[Array, ""]):
        self.kernel = Linear(channels, width, key=key)

    def __call__(
        self, value: Float[Array, "b *t c"], is_valid: Bool[Array, "b t"]
    ) -> Float[Array, "b *t h"]:
        """Return the features."""
        return self.kernel(value)


class TellPart(nnx.Module):
    """A part's module, and the vector that stands for its absence."""

    def __init__(self, part: ConditionPart, width: int, *, key: Key[Array, ""]):
        module_key, absent_key = jax.random.split(key)
        self.name, self.route, self.is_per_frame = part.name, part.route, part.is_per_frame
        self.module = part.build(width, key=module_key)
        self.absent = vector(width**-0.5 * jax.random.normal(absent_key, (width,)))

    def __call__(
        self,
        parts: dict[str, AnyArray] | None,
        is_dropped: Bool[AnyArray, "b"],
        is_valid: Bool[Array, "b t"],
    ) -> Float[Array, "b *t h"]:
        """Return the features of the values, those of dropped clips replaced.

        Raises:
            GenlabError: if the batch lacks the values, or the module returns another shape.
        """
        if parts is None or self.name not in parts:
            raise GenlabError(
                f"Cond.parts: no {self.name!r}, which condition.parts lists; read the clips with it"
            )
        module: Any = self.module
        features = module(parts[self.name], is_valid)
        width = self.absent[...].shape[0]
        wanted = (*is_valid.shape, width) if self.is_per_frame else (is_valid.shape[0], width)
        if features.shape != wanted:
            raise GenlabError(
                f"condition {self.name!r}: its module returned {features.shape}, expected {wanted}"
            )
        is_absent = jnp.asarray(is_dropped).reshape(-1, *[1] * (features.ndim - 1))
        return jnp.where(is_absent, self.absent[...].astype(features.dtype), features)


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

    def encode(state: nnx.State, value: Array, is_valid: Array) -> Array:
        module: Any = nnx.merge(graph, state)
        return module(value, is_valid)

    is_valid = jax.ShapeDtypeStruct((1, num_frames), jnp.bool_)
    return count_flops(encode, state, _shape_of(part, 1, num_frames), is_valid)
