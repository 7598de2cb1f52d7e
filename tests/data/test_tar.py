"""The reader of tar archives agrees with the standard library on what is right, and refuses what is
broken or claims too much.
"""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlab.data.tar import BrokenTarError, read_members

FILES = {
    "a.txt": b"one",
    "folder/b.bin": bytes(range(256)) * 5,
    "folder/empty": b"",
    "x" * 60 + "/" + "y" * 90 + ".flac": b"long",
    "ümläut/\u4e00.wav": b"text",
}


def archive(files, form=tarfile.GNU_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(content):
    file = io.BytesIO(content)
    found = []
    for member in read_members(file):
        assert file.tell() == member.offset
        found.append((member, file.read(member.size)))
    return found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_three_formats_are_read(form):
    found = read(archive(FILES, form))
    assert {member.name: content for member, content in found} == FILES
    assert {member.what for member, _ in found} == {"file"}


def test_what_is_no_file_is_named():
    out = io.BytesIO()
    kinds = {
        tarfile.DIRTYPE: "folder",
        tarfile.SYMTYPE: "link",
        tarfile.LNKTYPE: "link",
        tarfile.CHRTYPE: "device",
        tarfile.BLKTYPE: "device",
        tarfile.FIFOTYPE: "device",
        tarfile.GNUTYPE_SPARSE: "sparse file",
        b"Z": "unknown member",
    }
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for kind in kinds:
            info = tarfile.TarInfo(f"of {kind!r}")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("last")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"end"))
    found = read(out.getvalue())
    assert [member.what for member, _ in found] == [*kinds.values(), "file"]
    assert found[-1][1] == b"end"


def test_what_is_broken_is_refused():
    good = archive(FILES)
    with pytest.raises(BrokenTarError, match="cut short: it ends without an end mark"):
        read(good[:1024])
    with pytest.raises(BrokenTarError, match="does not have its checksum"):
        read(b"b" + good[1:])
    with pytest.raises(BrokenTarError, match="no number"):
        read(b"this is no archive at all " * 100)
    assert read(bytes(1024)) == []


def test_a_header_that_claims_much_is_not_read():
    """A long name of gigabytes would be read into memory, and a name of a name into the stack."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    with pytest.raises(BrokenTarError, match="a header of 3221225472 bytes, at most 1048576"):
        read(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    info.size = 8
    block = info.tobuf(tarfile.GNU_FORMAT) + b"a" * 8 + bytes(504)
    [(member, content)] = read(block * 5_000 + archive({"b": b"c"}))
    assert (member.name, content) == ("aaaaaaaa", b"c")


@given(st.binary(max_size=2_000), st.integers(0, 3_000))
@settings(max_examples=60, deadline=None)
def test_no_bytes_raise_anything_else(noise, place):
    content = archive({"a": b"b" * 700, "c" * 200: b"d"}, tarfile.PAX_FORMAT)
    assert len(list(read_members(io.BytesIO(content)))) == 2
    for bad in (noise, content[:place] + noise + content[place + len(noise) :]):
        try:
            for _ in zip(range(10_000), read_members(io.BytesIO(bad))):
                pass
        except BrokenTarError:
            pass
