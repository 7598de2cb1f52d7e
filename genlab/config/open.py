"""Fields that take a user's own class beside the built-in kinds: mixers, decoders, samplers.

`AnyMixer = Annotated[Mixer, Open(Attention, Dilated)]` declares such a field. Built-in kinds are
told apart by `kind`, as in every union. Any other config passes if it has what the contract `Mixer`
asks for and a `kind` of its own. In config.json it is `{"kind": "path/to/file.py:Class", ...}` or
`{"kind": "package.module:Class", ...}`.

Nothing here runs a file or imports a module. A reference stands for a class only if that class was
loaded before: by the file that the user named, or by `load_classes` (run/trust.py) once the user
allowed it. A hash takes in the source of the file and the name of the class, not where the file
lies.
"""

import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol, Self, Union, runtime_checkable

import pydantic
from pydantic_core import CoreSchema, core_schema
from typing_extensions import get_protocol_members

from genlab.config.errors import shorten

FILE_MODULE = "genlab_file_"  # the name of a module that was made of a file, before its digest
# A class in a Python file, or in a module that can be imported.
REFERENCE = re.compile(r"(?:.*\.py|[A-Za-z_]\w*(?:\.\w+)*):[A-Za-z_]\w*", re.DOTALL)

_loaded: dict[str, type[pydantic.BaseModel]] = {}


@runtime_checkable
class Hashed(Protocol):
    """What a `Config` has, for contracts of classes that must be one."""

    @property
    def kind(self) -> str:
        """Which of the classes of a field it is."""
        ...

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Self:
        """Return the config that `to_dict` gave these values of."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        ...

    def digest(self, exclude: set[str] | None = None) -> str:
        """Return a hash of all fields."""
        ...


class Open:
    """Marks an annotation whose values are built-in `kinds`, or classes of the user that meet the
    annotated type.
    """

    def __init__(self, *kinds: type[pydantic.BaseModel]):
        self.kinds = kinds

    def __get_pydantic_core_schema__(
        self, contract: type, handler: pydantic.GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema: the closed union of the built-in kinds inside, the door for other
        classes around it.
        """
        if not self.kinds:
            closed: CoreSchema = core_schema.no_info_plain_validator_function(_refuse)
        else:
            union: Any = Union[self.kinds]  # noqa: UP007 (of a tuple)
            closed = handler.generate_schema(Annotated[union, pydantic.Field(discriminator="kind")])
        return core_schema.with_info_wrap_validator_function(
            functools.partial(self._validate, contract),
            closed,
            serialization=core_schema.plain_serializer_function_ser_schema(
                self._dump, info_arg=True
            ),
        )

    def class_of(self, kind: object) -> type[pydantic.BaseModel] | None:
        """Return the built-in class of this kind, or the loaded one that it refers to; None if
        there is neither.
        """
        built_in = {cls.model_fields["kind"].default: cls for cls in self.kinds}
        return built_in.get(kind) or find_loaded(kind) if isinstance(kind, str) else None

    def _validate(
        self,
        contract: type,
        value: object,
        inner: pydantic.ValidatorFunctionWrapHandler,
        info: pydantic.ValidationInfo,
    ) -> object:
        if isinstance(value, dict):
            kind = value.get("kind")
            cls = self.class_of(kind)
            if cls is None and isinstance(kind, str) and REFERENCE.fullmatch(kind):
                raise ValueError(
                    f"kind={shorten(kind)} is code, and no class of that name was loaded; "
                    "expected a Config class in a Python file or module that a config file or an "
                    "override names, or that --trust-code lets run"
                )
            if cls is None or info.mode != "json":
                return inner(value)
            # Not by `inner`, which takes what it is given here for Python objects: a list would be
            # no tuple then.
            fields = (
                value
                if cls in self.kinds
                else {name: item for name, item in value.items() if name != "kind"}
            )
            value = cls.model_validate_json(json.dumps(fields))
        elif not isinstance(value, pydantic.BaseModel):
            return inner(value)
        if type(value) not in self.kinds:
            check_own(value, contract, self.kinds)
        return value

    def _dump(
        self, value: pydantic.BaseModel, info: pydantic.FieldSerializationInfo
    ) -> Mapping[str, object]:
        """Return the fields of the run-time type, and the kind by which it is found again."""
        fields = value.model_dump(mode=info.mode)
        if type(value) in self.kinds:
            return fields
        try:
            return {"kind": reference(type(value))} | {
                name: item for name, item in fields.items() if name != "kind"
            }
        except ValueError:  # was never validated, and will not be read back
            return fields


def _refuse(value: object) -> object:
    """Refuse what is no config where there are no built-in kinds."""
    raise ValueError(
        f"got {shorten(value)}, expected a Config of your own, in config.json "
        '{"kind": "FILE.py:Class"}'
    )


def open_of(annotation: object, metadata: Iterable[object] = ()) -> Open | None:
    """Return the mark of an open annotation, or of a field from its annotation and metadata; None
    for any other.
    """
    marks = [*metadata, *getattr(annotation, "__metadata__", ())]
    return next((mark for mark in marks if isinstance(mark, Open)), None)


def check_own(
    value: pydantic.BaseModel, contract: type, kinds: tuple[type[pydantic.BaseModel], ...] = ()
) -> None:
    """Refuse a config of the user that config.json could not name, or that lacks what its field
    needs.

    Raises:
        ValueError: that names the class, what is wrong and the fix.
    """
    cls = type(value)
    kind = getattr(value, "kind", None)
    if not isinstance(kind, str):
        raise ValueError(
            f'{cls.__name__} has no kind; give it one, for example kind: ClassVar[str] = "mine"'
        )
    # A subclass inherits its parent's kind, and config.json would then read back the parent.
    for other in (*cls.__mro__[1:], *kinds):
        if _kind_of(other) == kind:
            raise ValueError(
                f"{cls.__name__} has the kind {kind!r} of {other.__name__}, so one would be saved "
                "as the other; "
                f'give it a kind of its own, for example kind: Literal["my_{kind}"] = "my_{kind}"'
            )
    if lacking := [
        name for name in sorted(get_protocol_members(contract)) if not hasattr(value, name)
    ]:
        place = f"{contract.__module__.replace('.', '/')}.py"
        raise ValueError(
            f"{cls.__name__} lacks {', '.join(lacking)}; see {contract.__name__} in {place}"
        )
    # Noted, so that config.json can name it again in this process.
    _loaded[reference(cls)] = cls


def _kind_of(cls: type) -> object:
    field = getattr(cls, "model_fields", {}).get("kind")
    return field.default if field is not None else getattr(cls, "kind", None)


def find_loaded(text: str) -> type[pydantic.BaseModel] | None:
    """Return the loaded class that `FILE.py:Class` or `package.module:Class` refers to."""
    return _loaded.get(text)


def note_loaded(text: str, cls: type[pydantic.BaseModel]) -> None:
    """Let `text` stand for a class. Call it only for code that the user named or allowed."""
    _loaded[text] = cls


def reference(cls: type) -> str:
    """Return how config.json names a class of the user.

    Raises:
        ValueError: if nothing could find it again under a name.
    """
    module = sys.modules.get(cls.__module__)
    if "." in cls.__qualname__ or not hasattr(module, cls.__name__):
        raise ValueError(
            f"{cls.__qualname__} is not at the top level of its file, so config.json could not "
            "name it and would read it back as another type; define it there"
        )
    file = getattr(module, "__file__", None)
    if file is None:
        raise ValueError(
            f"{cls.__name__} is in no file, so no other process could find it; put it into a "
            "Python file"
        )
    is_file = cls.__module__ == "__main__" or cls.__module__.startswith(FILE_MODULE)
    return f"{file if is_file else cls.__module__}:{cls.__name__}"


def fingerprint(cls: type) -> str | None:
    """Return name and source digest of a class that is not the library's own, None if it is or lies
    in no file.
    """
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if cls.__module__.split(".")[0] == "genlab" or file is None:
        return None
    # What was executed, not what may lie there by now.
    source = getattr(module, "__source_digest__", None) or _digest_of(file)
    return f"{cls.__name__}@{source[:16]}"


def file_of(cls: type) -> Path:
    """Return the file that a class lies in, for errors that its code raises; its name if it lies in
    none.
    """
    return Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__name__)


@functools.cache
def _digest_of(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def models_in(annotation: object) -> Iterator[type[pydantic.BaseModel]]:
    """Yield every config class that an annotation names, those of open fields excepted."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    elif open_of(annotation) is None:
        for inner in getattr(annotation, "__args__", ()):
            yield from models_in(inner)
