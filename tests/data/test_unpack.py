"""Archives cannot write outside their folder, nor more than they may; good ones are unpacked."""

import gzip
import io
import stat
import tarfile
import zipfile

import pytest

from genlab.data import unpack as unpacking
from genlab.data.unpack import ArchiveError, unpack

FILES = {"corpus/a.txt": b"one", "corpus/sub/b.wav": b"RIFF" * 1000}
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".zip")
HOSTILE_NAMES = (
    "/etc/cron.d/x",
    "../x",
    "corpus/../../x",
    "corpus/..",
    "C:\\x",
    "a\\..\\x",
    "a\x1b[2Jb",
    "y" * 300,
)


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(files, mode=None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.filename = name  # the constructor tidies it up
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode or (stat.S_IFREG | 0o644)) << 16
            file.writestr(info, content)
    return out.getvalue()


def packed(suffix, files) -> bytes:
    if suffix == ".zip":
        return zip_of(files)
    out = io.BytesIO()
    mode = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2"}[suffix]
    with tarfile.open(fileobj=out, mode=mode, format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o6777
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def try_to_unpack(tmp_path, name, content, **more):
    """Unpack into a folder; nothing may appear beside it."""
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / name).write_bytes(content)
    try:
        return unpack(tmp_path / "in" / name, tmp_path / "out" / "here", **more)
    finally:
        assert {path.name for path in tmp_path.iterdir()} <= {"in", "out"}
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["here"]
        found = [path for path in (tmp_path / "out").rglob("*")]
        assert not any(path.is_symlink() for path in found)
        assert not any(path.stat().st_mode & 0o6000 for path in found)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_good_archives(tmp_path, suffix):
    seen = []
    content = packed(suffix, FILES)
    assert try_to_unpack(tmp_path, f"x{suffix}", content, progress=seen.append) == 2
    for name, expected in FILES.items():
        assert (tmp_path / "out" / "here" / name).read_bytes() == expected
    assert seen[-1] == sum(map(len, FILES.values()))


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_lead_nowhere(tmp_path, suffix, name):
    with pytest.raises(ArchiveError, match=rf"^x{suffix}: member .*; nothing of it is used"):
        try_to_unpack(tmp_path, f"x{suffix}", packed(suffix, {"ok.txt": b"1", name: b"2"}))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.FIFOTYPE, "device"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.GNUTYPE_SPARSE, "sparse file"),
    ],
)
def test_members_of_a_tar_are_files(tmp_path, kind, what):
    """The classic: a link to a folder elsewhere, then a file behind it."""
    link = tarfile.TarInfo("corpus")
    link.type, link.linkname = kind, str(tmp_path / "elsewhere")
    behind = tarfile.TarInfo("corpus/x")
    with pytest.raises(ArchiveError, match=f"member 'corpus' is a {what}"):
        try_to_unpack(tmp_path, "x.tar", tar_of((link, b""), (behind, b"mine")))


def test_members_of_a_zip_are_files(tmp_path):
    content = zip_of({"corpus": b"/etc"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(ArchiveError, match="member 'corpus' is a link or a device"):
        try_to_unpack(tmp_path, "x.zip", content)


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.parametrize(
    ("second", "what"), [("./a", "occurs twice"), ("a/b", "takes a file for a folder")]
)
def test_a_name_that_occurs_twice(tmp_path, suffix, second, what):
    with pytest.raises(ArchiveError, match=what):
        try_to_unpack(tmp_path, f"x{suffix}", packed(suffix, {"a": b"1", second: b"2"}))
    assert (tmp_path / "out" / "here" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".zip"])
def test_bombs_are_stopped_while_they_unpack(tmp_path, suffix):
    content = packed(suffix, {"bomb": bytes(80 << 20)})
    assert len(content) < 200_000
    with pytest.raises(ArchiveError, match="more than 67,108,864 bytes come out of it"):
        try_to_unpack(tmp_path, f"x{suffix}", content)
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written <= 64 << 20


def test_a_bomb_that_is_only_skipped(tmp_path):
    """A sparse claim: what lies between two headers is unpacked too, only not written."""
    info = tarfile.TarInfo("d/")
    info.type = tarfile.DIRTYPE
    info.size = 0
    huge = tarfile.TarInfo("skipped")
    huge.type, huge.size = tarfile.XGLTYPE, 1 << 20
    block = huge.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)
    content = gzip.compress(block * 80, 1)
    with pytest.raises(ArchiveError, match="bytes come out of it"):
        try_to_unpack(tmp_path, "x.tar.gz", content)


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 5)
    with pytest.raises(ArchiveError, match="more than 5 members"):
        try_to_unpack(tmp_path, "x.zip", zip_of({str(number): b"" for number in range(6)}))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_archives(tmp_path, suffix):
    content = packed(suffix, {"a": bytes(range(256)) * 400})
    for bad in (content[: len(content) // 2], b"no archive" * 100, b""):
        with pytest.raises(ArchiveError, match=rf"^x{suffix}: damaged archive: "):
            try_to_unpack(tmp_path, f"x{suffix}", bad)
        for path in sorted((tmp_path / "out" / "here").rglob("*")):
            path.unlink()


def test_a_wrong_checksum_inside(tmp_path):
    content = bytearray(zip_of({"a": b"some text that is stored " * 40}))
    content[60] ^= 0xFF
    with pytest.raises(ArchiveError, match="damaged archive"):
        try_to_unpack(tmp_path, "x.zip", bytes(content))


def test_a_password_and_another_format(tmp_path):
    content = bytearray(zip_of({"a": b"1"}))
    for place in (6, content.index(b"PK\x01\x02") + 8):
        content[place] |= 1
    with pytest.raises(ArchiveError, match="needs a password"):
        try_to_unpack(tmp_path, "x.zip", bytes(content))
    with pytest.raises(ArchiveError, match=r"x\.rar: expected one of \.tar\.gz"):
        try_to_unpack(tmp_path, "x.rar", b"Rar!")
