"""Members of a tar archive, one header after the other: nothing is written, nothing is trusted.

In: a file opened for reading, which may be a stream of a decompressor; it is only moved forwards.
Out: name, size and place of every member, and what it is. Formats: ustar, GNU long names, and pax
records of path and size (POSIX.1-2001 and the GNU tar manual). A header whose checksum is wrong, or
a record that claims to be huge, is an error, not a guess. The standard library's module reads any
size that a header claims into memory, and follows links when it unpacks.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

BLOCK_BYTES = 512
MAX_RECORD_BYTES = 1 << 20  # of a long name, or of the pax records of one member
MAX_NUMBER = 1 << 62
What = Literal["file", "folder", "link", "device", "sparse file", "unknown member"]
KINDS: dict[bytes, What] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"5": "folder",
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"6": "device",
    b"S": "sparse file",
}


class BrokenTarError(Exception):
    """The archive cannot be read on from here; the text says why in a few words."""


class Readable(Protocol):
    """What is needed of a file."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes."""
        ...

    def seek(self, offset: int, /) -> int:
        """Move forwards."""
        ...


class Member(NamedTuple):
    """One entry: its bytes begin at `offset`. Bytes of a name that are not UTF-8 are surrogates."""

    name: str
    size: int
    offset: int
    what: What


def read_members(file: Readable) -> Iterator[Member]:
    """Yield the members of an archive; before the next one is asked for, the bytes of this one may
    be read from `file`.

    Raises:
        BrokenTarError: if a header is damaged, or the archive ends without its end mark.
    """
    offset = 0
    records: dict[str, str] = {}
    while True:
        file.seek(offset)
        header = file.read(BLOCK_BYTES)
        offset += BLOCK_BYTES
        if len(header) < BLOCK_BYTES:
            raise BrokenTarError("cut short: it ends without an end mark")
        if not header.strip(b"\0"):
            return
        kind = header[156:157]
        size = _number(header[124:136], "size")
        _check_sum(header)
        padded = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        # Records about the member that follows them; those for all members say nothing we read.
        if kind in (b"x", b"L", b"g", b"K"):
            content = _record(file, size)
            if kind == b"L":
                records["path"] = _text(content.rstrip(b"\0"))
            elif kind == b"x":
                records |= _pax(content)
            offset += padded
            continue
        if "size" in records:
            size = _decimal(records["size"])
            padded = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        is_sparse = any(name.startswith("GNU.sparse") for name in records)
        what = "sparse file" if is_sparse else KINDS.get(kind, "unknown member")
        name = records.get("path") or _header_name(header)
        # Before ustar a folder was a file whose name ends with a slash.
        if what == "file" and name.endswith("/"):
            what = "folder"
        records = {}
        if what not in ("file", "sparse file", "unknown member"):
            size = padded = 0  # a link states the size of what it leads to
        yield Member(name, size, offset, what)
        offset += padded


def _record(file: Readable, size: int) -> bytes:
    if size > MAX_RECORD_BYTES:
        raise BrokenTarError(f"a header of {size} bytes, at most {MAX_RECORD_BYTES} accepted")
    content = file.read(size)
    if len(content) < size:
        raise BrokenTarError("cut short within a header")
    return content


def _header_name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _check_sum(header: bytes) -> None:
    # The field itself counts as blanks.
    expected = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    if _number(header[148:156], "checksum") != expected:
        raise BrokenTarError("a header does not have its checksum: damaged, or no tar archive")


def _number(field: bytes, name: str) -> int:
    """Return a number of a header: octal digits, or binary where the first bit is set (GNU)."""
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if digits.strip(b"01234567"):
            raise BrokenTarError(f"the {name} in a header is no number: damaged, or no tar archive")
        number = int(digits or b"0", 8)
    if number > MAX_NUMBER:
        raise BrokenTarError(f"the {name} in a header is impossible")
    return number


def _decimal(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BrokenTarError("the size in a header is no number")
    return int(text)


def _pax(content: bytes) -> dict[str, str]:
    """Return the records of a pax header, lines of the form LENGTH NAME=VALUE."""
    records = {}
    start = 0
    while start < len(content):
        blank = content.find(b" ", start)
        digits = content[start:blank]
        # The length counts its own digits, the blank and the end of the line.
        if blank < 0 or not digits.isdigit() or len(digits) > 8 or int(digits) < len(digits) + 2:
            raise BrokenTarError("a pax header is damaged")
        name, _, value = content[blank + 1 : start + int(digits) - 1].partition(b"=")
        records[_text(name)] = _text(value)
        start += int(digits)
    return records
