"""Checks that WAV, FLAC, OGG and MP3 files are complete, and prepares them for their decoder.

The sizes in a header may be wrong. A program that writes to a pipe does not know them and writes a placeholder; a
truncated file has less than its header says, which decoders ignore silently. Sources: RIFF, RF64 (EBU Tech 3306),
FLAC (RFC 9639), Ogg (RFC 3533), ID3v2.4, ISO 11172-3 and 13818-3 for MP3, the Xing header as LAME writes it.
"""

from __future__ import annotations

import re
import struct

from lectern.kinds import after_id3, is_mp3

FORMATS = ("WAV", "FLAC", "OGG", "MP3")
MOST_CHUNKS = 1024
MOST_FRAMES = 100_000  # frames of an MP3 that are checked: 40 minutes at 24 ms
# Sizes from about 2 GiB are placeholders for an unknown size; the largest clip is far smaller.
UNKNOWN_SIZE = 0x7FFF_0000
# Some writers count the header as samples, so this much may be missing: a millisecond at most.
HEADER_BYTES = 64

_ORDERS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
_RIFF_BYTES, _PAGE_BYTES = 12, 27
_LAST_PAGE = 4
_FRAMES, _BYTES = 1, 2
# MPEG audio layer III, by the number in the header: kbit/s of version 1 and of the others, Hz of each version.
_BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_LARGEST = 14  # index of the highest in _BITRATES
_MPEG_1 = 3
_RATES = {_MPEG_1: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_XING = re.compile(rb"Xing|Info")
_XING_WITHIN = 64  # bytes of an MP3's first frame: 4 of header, 9 to 32 of side information, 2 of a checksum


class CutError(ValueError):
    """Part of a file is missing; the message says what shows it."""


def is_recording(content: bytes) -> bool:
    """Whether a file has one of `FORMATS`, judged by its first bytes."""
    start = after_id3(content)
    head = content[start : start + _RIFF_BYTES]
    return head[:4] in (b"fLaC", b"OggS") or (head[:4] in _ORDERS and head[8:] in (b"WAVE", b"")) or is_mp3(head)


def is_wav(content: bytes) -> bool:
    """Whether a file begins as a WAV file, whose samples are hardly compressed."""
    return content[:4] in _ORDERS


def readable(content: bytes) -> bytes:
    """A recording in a form that libsndfile reads completely: without leading ID3 tags, and with its true length.

    Raises:
        CutError: part of it is missing.
    """
    content = content[after_id3(content) :]
    if is_wav(content):
        return _wav(content)
    if content.startswith(b"OggS"):
        _check_pages(content)
    elif is_mp3(content):
        return _mp3(content)
    return content


def _wav(content: bytes) -> bytes:
    order = _ORDERS[content[:4]]
    if content.startswith(b"BW64"):  # the same as RF64 but for its name
        content = b"RF64" + content[4:]
    start = _RIFF_BYTES
    long_size: int | None = None
    for _ in range(MOST_CHUNKS):
        if start + 8 > len(content):
            break
        name, size = struct.unpack_from(f"{order}4sI", content, start)
        data = start + 8
        if name == b"ds64" and len(content) >= data + 16:
            (long_size,) = struct.unpack_from("<Q", content, data + 8)
        if name == b"data":
            return _sized(content, data, long_size if size == 0xFFFF_FFFF and long_size is not None else size, order)
        start = data + size + size % 2
    return content


def _sized(content: bytes, data: int, size: int, order: str) -> bytes:
    """The WAV file with the true size of its samples, which begin at `data`, if its header has a placeholder."""
    present = len(content) - data
    if 0 < size < UNKNOWN_SIZE:
        if size - present > HEADER_BYTES:
            raise CutError(f"its header says {size:,} bytes of samples, but {present:,} are present")
        return content
    if size == 0 and not present:
        return content
    magic = b"RIFX" if order == ">" else b"RIFF"  # whose sizes stand where the samples are, not in RF64's table
    return b"".join((magic, content[4 : data - 4], struct.pack(f"{order}I", present), content[data:]))


def _check_pages(ogg: bytes) -> None:
    start = ogg.rfind(b"OggS")
    page = ogg[start:]
    segments = page[26] if len(page) >= _PAGE_BYTES else 0
    size = _PAGE_BYTES + segments + sum(page[_PAGE_BYTES : _PAGE_BYTES + segments])
    if len(page) < max(size, _PAGE_BYTES):
        raise CutError("its last page is incomplete")
    if not page[5] & _LAST_PAGE:
        raise CutError("its last page is not marked as the end of the stream")


def _mp3(content: bytes) -> bytes:
    """The MP3 with a Xing header. Without one libsndfile estimates the length and stops there: far too early if
    quieter, smaller frames follow."""
    flags, frames, size = _xing(content)
    if flags & _BYTES and size > len(content):
        raise CutError(f"its header says {size:,} bytes, but {len(content):,} are present")
    if flags & _FRAMES and frames:
        return content
    _check_last_frame(content)
    _, second, third, fourth = content[:4]
    is_mono = fourth >> 6 == 3
    side = (17 if is_mono else 32) if second >> 3 & 3 == _MPEG_1 else (9 if is_mono else 17)
    # A frame like the first, without a checksum and of the largest size. It states one frame per byte, more than exist.
    header = bytes((0xFF, second | 1, _LARGEST << 4 | third & 0x0C, fourth))
    described = header + bytes(side) + struct.pack(">4sII", b"Xing", _FRAMES, len(content))
    return described.ljust(_frame_bytes(header), b"\0") + content


def _xing(mp3: bytes) -> tuple[int, int, int]:
    """Flags, frames and bytes of the Xing header; a number that the flags do not announce is 0."""
    header = _XING.search(mp3, 0, _XING_WITHIN)
    if header is None or len(mp3) < header.end() + 12:
        return 0, 0, 0
    flags, first, second = struct.unpack_from(">III", mp3, header.end())
    return flags, first if flags & _FRAMES else 0, second if flags & _FRAMES else first


def _check_last_frame(mp3: bytes) -> None:
    """Check that the last frame is complete; anything after the frames, e.g. a tag, is ignored."""
    start = 0
    for _ in range(MOST_FRAMES):
        size = _frame_bytes(mp3[start : start + 4])
        if start + size > len(mp3):
            raise CutError(f"its last frame has {size:,} bytes, but {len(mp3) - start:,} are present")
        if not size:
            return
        start += size


def _frame_bytes(header: bytes) -> int:
    """Size of the MP3 frame with this header; 0 = it is not a frame header."""
    if not is_mp3(header):
        return 0
    version, is_padded = header[1] >> 3 & 3, header[2] >> 1 & 1
    bitrate = _BITRATES[version != _MPEG_1][header[2] >> 4] * 1000
    slots = 144 if version == _MPEG_1 else 72
    return slots * bitrate // _RATES[version][header[2] >> 2 & 3] + is_padded
