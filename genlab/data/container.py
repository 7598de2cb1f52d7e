"""What an audio file's container says about itself, read without decoding a sample.

libsndfile returns what is left of a cut WAV or Ogg file, drops damaged Ogg pages, ignores the
checksum of a FLAC file and believes any length in an MP3 header. The functions here ask the
container: how many bytes are missing, which MD5 the samples must have, whether pages and frames are
whole. None of them holds more than a page in memory, even for large files.
"""

import hashlib
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int

MAX_CHUNKS = 10_000
MAX_LOOSE_BYTES = 4_096  # behind the samples of a WAV: some programs pad
MP3_BITRATES_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # kbit/s
MP3_BITRATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MP3_DELAY_SAMPLES = 6 * 1_152  # header frame, encoder delay and padding, which decoders leave out
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
MP3_RATES_HZ = {
    3: (44_100, 48_000, 32_000),
    2: (22_050, 24_000, 16_000),
    0: (11_025, 12_000, 8_000),
}


class FlacChecksum(NamedTuple):
    """The MD5 that a FLAC file states for its samples, packed as `bits` per sample."""

    md5: bytes
    bits: int

    def packed(self, samples: Int[np.ndarray, "s c"]) -> bytes:
        """Return left-justified 32-bit samples as the bytes that the MD5 is taken over."""
        values = (samples >> (32 - self.bits)).astype("<i4")
        return values.view(np.uint8).reshape(-1, 4)[:, : self.bits // 8].tobytes()

    def differs(self, found: "hashlib._Hash") -> bool:
        """Return whether the samples that went into `found` are not the ones that were encoded."""
        return found.digest() != self.md5


def find_fault(path: Path, magic: bytes) -> str | None:
    """Return why the file of these first four bytes is not whole, or None."""
    if magic in {b"RIFF", b"RIFX", b"RF64"}:
        return _find_riff_fault(path, magic)
    if magic == b"OggS" and not _ends_ogg_stream(path):
        return "truncated: the last Ogg page does not end the stream"
    return None


def flac_checksum(path: Path) -> FlacChecksum | None:
    """Return the MD5 in the header of a FLAC file; None without one, or with an odd sample size."""
    with open(path, "rb") as file:
        head = file.read(10)
        file.seek(_id3_bytes(head) if head[:3] == b"ID3" and len(head) == 10 else 0)
        header = file.read(42)
    if len(header) < 42 or header[:4] != b"fLaC":
        return None
    bits = (((header[20] & 1) << 4) | (header[21] >> 4)) + 1
    md5 = header[26:42]
    return FlacChecksum(md5, bits) if any(md5) and bits in {8, 16, 24} else None


def find_ogg_fault(path: Path) -> str | None:
    """Return where a page of an Ogg file does not have the checksum that it states, or None.

    Decoders drop such a page without a word, and a file that loses its last one is just shorter.
    """
    is_last = False
    with open(path, "rb") as file:
        while True:
            position = file.tell()
            head = file.read(27)
            if len(head) < 27 or head[:4] != b"OggS":
                # Behind the last page there may be tags.
                return None if is_last else f"damaged: no Ogg page at byte {position}"
            is_last = bool(head[5] & 0x04)
            lacing = file.read(head[26])
            page = head[:22] + bytes(4) + head[26:] + lacing + file.read(sum(lacing))
            if _ogg_crc(page) != int.from_bytes(head[22:26], "little"):
                return f"damaged: wrong checksum of the Ogg page at byte {position}"


def find_mp3_fault(path: Path, samples: int) -> str | None:
    """Return what is wrong with the frames of an MP3, or None.

    Args:
        path: the file.
        samples: how many samples per channel were decoded.
    """
    total = 0
    with open(path, "rb") as file:
        position = 0
        while total <= samples + MP3_DELAY_SAMPLES:
            file.seek(position)
            head = file.read(10)
            frame = _mp3_frame(head)
            if head[:3] == b"ID3" and len(head) == 10:
                position += _id3_bytes(head)
            elif frame is not None:
                length, count = frame
                position += length
                total += count
            elif _goes_on(file, position):
                return f"damaged: no MP3 frame at byte {position}, but frames behind it"
            else:
                return None
    return "damaged: its frames hold more than its header claims: convert it again"


def _find_riff_fault(path: Path, magic: bytes) -> str | None:
    order = ">" if magic == b"RIFX" else "<"
    size = path.stat().st_size
    long_length = None  # RF64 keeps the true length of the samples in a part of its own
    with open(path, "rb") as file:
        position = 12
        for _ in range(MAX_CHUNKS):
            if position + 8 > size:
                return None
            file.seek(position)
            name, length = struct.unpack(f"{order}4sI", file.read(8))
            if name == b"ds64" and position + 24 <= size:
                long_length = struct.unpack("<Q", file.read(16)[8:])[0]
            if name == b"data":
                if length == 0xFFFFFFFF and long_length is not None:
                    length = long_length
                elif length >= 0xFFFFFF00:
                    # An encoder that could not seek back leaves 0xFFFFFFFF: the data run to the
                    # end of the file.
                    return None
                return _compare_data(file, position + 8 + length, size, order)
            position += 8 + length + (length & 1)
    return f"damaged: no samples within the first {MAX_CHUNKS} parts of the file"


def _compare_data(file: BinaryIO, end: int, size: int, order: str) -> str | None:
    """Return what is wrong if the samples of a WAV end at byte `end` of `size`, or None."""
    if end > size:
        return f"truncated: the header promises {end - size} more bytes"
    # A recorder that crashed leaves a length of 0, or an old one, before samples that nobody reads.
    file.seek(end)
    behind = file.read(9)
    is_part = _starts_part(behind, size, order) or _starts_part(behind[1:], size, order)
    if size - end > MAX_LOOSE_BYTES and not is_part:
        return (
            f"damaged: {size - end} bytes follow the samples: its header is wrong, convert it again"
        )
    return None


def _starts_part(head: bytes, size: int, order: str) -> bool:
    """Return whether a part with a name and a length that a file of `size` bytes can hold starts
    here.
    """
    if len(head) < 8 or not all(32 <= byte < 127 for byte in head[:4]):
        return False
    return struct.unpack(f"{order}I", head[4:8])[0] <= size


def _ends_ogg_stream(path: Path) -> bool:
    tail_bytes = 70_000  # one Ogg page is at most 65,307 bytes
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - tail_bytes))
        tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or page + 27 > len(tail):
        return False
    num_segments = tail[page + 26]
    lacing = tail[page + 27 : page + 27 + num_segments]
    is_last_page = bool(tail[page + 5] & 0x04)
    return is_last_page and page + 27 + num_segments + sum(lacing) <= len(tail)


def _ogg_crc(page: bytes) -> int:
    """Return the CRC-32 of a page: zlib's, with the bits of what goes in and out reversed."""
    # zlib inverts its value before and after.
    value = zlib.crc32(page.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def _id3_bytes(head: bytes) -> int:
    size = 0
    for byte in head[6:10]:
        size = size << 7 | (byte & 0x7F)
    return 10 + size


def _goes_on(file: BinaryIO, position: int) -> bool:
    """Return whether two frames follow each other behind `position`; tags at the end hold none."""
    file.seek(position)
    rest = file.read(65_536)
    start = rest.find(b"\xff")
    while start >= 0:
        frame = _mp3_frame(rest[start : start + 4])
        if frame is not None:
            next_start = start + frame[0]
            if _mp3_frame(rest[next_start : next_start + 4]) is not None:
                return True
        start = rest.find(b"\xff", start + 1)
    return False


def _mp3_frame(head: bytes) -> tuple[int, int] | None:
    """Return the bytes and the samples of the frame that starts with `head`; None if none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate = head[2] >> 4
    rate = head[2] >> 2 & 3
    if version == 1 or layer != 1 or bitrate in {0, 15} or rate == 3:
        return None
    is_first_version = version == 3
    bits_per_s = 1000 * (MP3_BITRATES_1 if is_first_version else MP3_BITRATES_2)[bitrate]
    samples = 1152 if is_first_version else 576
    padding = head[2] >> 1 & 1
    return samples // 8 * bits_per_s // MP3_RATES_HZ[version][rate] + padding, samples
