"""The columns of a table of recordings: which one holds what, under any of its names.

In: the names as they are written in the table. Out: the column of each known field, or the reason
why that is not clear, and a note where what was looked for is not there.
"""

import functools

from genlab.data.listing import find_broken_text, printable, shorten

# The first name wins over its aliases, which then are labels like other columns. Case is ignored.
ALIASES = {
    "path": (
        "file_name",
        "audio_filepath",
        "audio_path",
        "audio_file",
        "wav_filename",
        "filename",
        "filepath",
    ),
    "text": ("transcription", "transcript", "sentence"),
    "speaker": ("speaker_id", "speaker_name", "client_id"),
    "split": (),
    "licence": ("license",),
    "offset": (),
    "duration": (),
}
FEW = 6  # columns that a note shows


def find_columns(names: tuple[str, ...]) -> dict[str, str] | str:
    """Return which column holds each known field, or the reason why that is not clear."""
    found: dict[str, str] = {}
    for name in names:
        folded = plain(name)
        fault = find_broken_text(name)
        if fault is not None:
            return f"name of column {shorten(printable(name))!r} {fault}"
        if folded in found:
            return f"column {shorten(folded)!r} occurs twice: keep one"
        found[folded] = name
    columns = {}
    for field, aliases in ALIASES.items():
        known = [alias for alias in aliases if alias in found]
        # The field's own name wins over its aliases; two aliases leave open which is meant.
        if field in found:
            columns[field] = found[field]
        elif len(known) > 1:
            both = f"columns {known[0]!r} and {known[1]!r}"
            return f"{both} both hold the {field}: rename one to {field!r}"
        elif known:
            columns[field] = found[known[0]]
    return columns


@functools.lru_cache(maxsize=64)
def note_missing(names: tuple[str, ...]) -> str:
    """Return what to say of a table that has no column for text or speaker but others that may be
    meant, "" of any other: with another separator in its header, two names may be one.
    """
    columns = find_columns(names)
    if isinstance(columns, str):
        return ""
    missing = [field for field in ("text", "speaker") if field not in columns]
    labels = [name for name in names if name not in columns.values()]
    if not missing or not labels:
        return ""
    known = ", ".join(("text", *ALIASES["text"])) if "text" in missing else ""
    known = known or ", ".join(("speaker", *ALIASES["speaker"]))
    read = ", ".join(shorten(printable(name)) for name in columns.values())
    shown = ", ".join(repr(shorten(printable(name))) for name in labels[:FEW])
    more = f" and {len(labels) - FEW} more" if len(labels) > FEW else ""
    return (
        f"no column is read as {' or '.join(missing)}: read {read}; kept as labels {shown}{more}; "
        f"expected the name {known}"
    )


def plain(column: str) -> str:
    """Return the name of a column as all spellings of it are compared."""
    return column.strip().lower()
