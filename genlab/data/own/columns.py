"""Tokens as tables: Parquet files, and directories that `datasets` saved. Needs pyarrow, the extra
`arrow`.

A row has the columns `id` and `codes` (lists of lists of whole numbers, "t k", or the bytes of a
.npy file), and may have `text`, `speaker` and `split`; other columns are labels. A directory of
splits gives the clips below it the split of its name. `datasets` itself is not needed: what it
saves are Arrow streams.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.config.shipped import install_command
from genlab.data.manifest import parse_array
from genlab.data.own.labels import labels_of
from genlab.data.own.row import FIX, MOST_FRAMES, Facts, Row, parse_facts
from genlab.data.own.spec import OwnSpec

if TYPE_CHECKING:
    import pyarrow

PARQUET_SUFFIX, ARROW_SUFFIX = ".parquet", ".arrow"
BATCH_ROWS = 64
CODES = "codes"


def load_pyarrow() -> ModuleType:
    """Return pyarrow.

    Raises:
        GenlabError: with how to install it.
    """
    try:
        import pyarrow
    except ImportError:
        raise GenlabError(
            f"tokens in Parquet or Arrow need pyarrow; run `{install_command('arrow')}`, or use "
            "npz or tar"
        ) from None
    return pyarrow


class Tables:
    """The layout of Parquet and Arrow files."""

    def __init__(self, directory: Path, spec: OwnSpec):
        self.directory = directory
        self.spec = spec

    @property
    def files(self) -> list[Path]:
        """The tables here and in the directories of splits, by name."""
        found = (
            path
            for suffix in (PARQUET_SUFFIX, ARROW_SUFFIX)
            for pattern in (f"*{suffix}", f"*/*{suffix}")
            for path in self.directory.glob(pattern)
        )
        # What `datasets` caches beside its data is a copy of them.
        return sorted(path for path in found if not path.name.startswith("cache-"))

    def rows(self) -> Iterator[Row]:
        """Yield every row of every table."""
        pyarrow = load_pyarrow()
        for path in self.files:
            split = "" if path.parent == self.directory else path.parent.name
            number = 0
            try:
                for batch in _batches(path):
                    for row in range(len(batch)):
                        yield self._row(batch, row, f"{path}: row {number}", split)
                        number += 1
            except (pyarrow.ArrowException, OSError) as error:
                reason = (str(error).splitlines() or [""])[0][:80]
                raise GenlabError(f"{path}: row {number}: damaged: {reason}; {FIX}") from None

    def _row(self, batch: "pyarrow.RecordBatch", number: int, where: str, split: str) -> Row:
        names = batch.schema.names
        if missing := [name for name in ("id", CODES) if name not in names]:
            raise GenlabError(
                f"{where}: no column {missing[0]}, expected id and {CODES}, got "
                f"{shorten(', '.join(names))}"
            )
        values = {name: batch.column(name)[number].as_py() for name in names if name != CODES}
        facts = parse_facts({"split": split, **values}, where)
        cell = batch.column(CODES)[number]
        labels = labels_of(values, Facts._fields, where)
        return Row(facts, where, lambda: _codes_of(cell, self.spec.codebooks, where), labels)


def _batches(path: Path) -> Iterator["pyarrow.RecordBatch"]:
    if path.suffix == PARQUET_SUFFIX:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=BATCH_ROWS)
        return
    import pyarrow.ipc

    # Not mapped: a file that shrinks while it is read would end the process.
    with path.open("rb") as file, pyarrow.ipc.open_stream(file) as stream:
        yield from stream


def _codes_of(cell: "pyarrow.Scalar", codebooks: int, where: str) -> Shaped[np.ndarray, "..."]:
    """Return the array in a cell: of a .npy file, or of lists of equal lengths."""
    import pyarrow

    kind = cell.type
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        return parse_array(cell.as_py() or b"", where=f"{where}: {CODES}", fix=FIX)
    frames = getattr(cell, "values", None)
    rows = None if frames is None else _flat(frames)
    if frames is None or rows is None or frames.null_count or rows.null_count:
        raise GenlabError(
            f"{where}: {CODES} of type {shorten(str(kind))}: expected lists of {codebooks} whole "
            f"numbers, one list per frame, and no nulls; {FIX}"
        )
    values = rows.to_numpy(zero_copy_only=False)
    if not len(frames) or len(frames) > MOST_FRAMES or len(values) % len(frames):
        raise GenlabError(f"{where}: {CODES}: expected frames of {codebooks} codes; {FIX}")
    # A total that fits says little: frames of two and of four codes add up to frames of three.
    widths = {len(frame) for frame in frames}
    if len(widths) > 1:
        raise GenlabError(
            f"{where}: {CODES}: frames of {min(widths)} to {max(widths)} codes, expected "
            f"{codebooks} in each; {FIX}"
        )
    return values.reshape(len(frames), -1)


def _flat(frames: "pyarrow.Array") -> "pyarrow.Array | None":
    """Return the innermost values of lists of lists, None if there are no lists inside."""
    flatten = getattr(frames, "flatten", None)
    return None if flatten is None or not hasattr(frames.type, "value_type") else flatten()


def write_table(path: Path, rows: Sequence[tuple[Facts, Shaped[np.ndarray, "t k"]]]) -> None:
    """Write a Parquet file of clips, as `Tables` reads it."""
    load_pyarrow()
    import pyarrow
    import pyarrow.parquet

    columns = {name: [getattr(facts, name) for facts, _ in rows] for name in Facts._fields}
    inner = pyarrow.list_(pyarrow.list_(pyarrow.int16()))
    codes = pyarrow.array([values.tolist() for _, values in rows], inner)
    pyarrow.parquet.write_table(pyarrow.table({**columns, CODES: codes}), path)
