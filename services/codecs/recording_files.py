"""WAV, FLAC, OGG and MP3 files: whether all of the file is there, and as its decoder can read it.

Headers say sizes that need not be true. Who writes to a pipe cannot know them and leaves a mark in their place; a file
that was cut has less than its header says, which decoders pass over in silence. Sources: RIFF, RF64 (EBU Tech 3306),
FLAC (RFC 9639), Ogg (RFC 3533), ID3v2.4, the Xing header as LAME writes it.
"""

from __future__ import annotations

import re
import struct

from lectern.kinds import after_id3, is_mp3

FORMATS = ("WAV", "FLAC", "OGG", "MP3")
MOST_CHUNKS = 1024
# Sizes of 2 GiB, a little less, or more stand for "not known"; the largest clip is far smaller.
UNKNOWN_SIZE = 0x7FFF_0000
# Some writers count the header as samples: so much may be missing, a millisecond at most.
HEADER_BYTES = 64

_ORDERS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
_RIFF_BYTES, _PAGE_BYTES = 12, 27
_LAST_PAGE = 4
_FRAMES, _BYTES = 1, 2
_XING = re.compile(rb"Xing|Info")
_XING_WITHIN = 64  # bytes of an MP3's first frame: 4 of header, 9 to 32 of side information, 2 of a checksum


class CutError(ValueError):
    """Part of a file is missing; the message says how it shows."""


def is_recording(content: bytes) -> bool:
    """Whether a file is of one of `FORMATS`, by its first bytes."""
    start = after_id3(content)
    head = content[start : start + _RIFF_BYTES]
    return head[:4] in (b"fLaC", b"OggS") or (head[:4] in _ORDERS and head[8:] in (b"WAVE", b"")) or is_mp3(head)


def readable(content: bytes) -> bytes:
    """A recording as libsndfile reads all of it: without ID3 tags before it, and with the size of its samples.

    Raises:
        CutError: some of it is missing.
    """
    content = content[after_id3(content) :]
    if content[:4] in _ORDERS:
        return _wav(content)
    if content.startswith(b"OggS"):
        _check_pages(content)
    elif is_mp3(content):
        _check_frames(content)
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
    """The WAV file with the size of its samples, which begin at `data`, if its header does not know it."""
    there = len(content) - data
    if 0 < size < UNKNOWN_SIZE:
        if size - there > HEADER_BYTES:
            raise CutError(f"its header says {size:,} bytes of samples, and {there:,} are there")
        return content
    if size == 0 and not there:
        return content
    magic = b"RIFX" if order == ">" else b"RIFF"  # whose sizes stand where the samples are, not in RF64's table
    return b"".join((magic, content[4 : data - 4], struct.pack(f"{order}I", there), content[data:]))


def _check_pages(ogg: bytes) -> None:
    start = ogg.rfind(b"OggS")
    page = ogg[start:]
    segments = page[26] if len(page) >= _PAGE_BYTES else 0
    size = _PAGE_BYTES + segments + sum(page[_PAGE_BYTES : _PAGE_BYTES + segments])
    if len(page) < max(size, _PAGE_BYTES):
        raise CutError("its last page is not all there")
    if not page[5] & _LAST_PAGE:
        raise CutError("its last page is not marked as the end of the stream")


def _check_frames(mp3: bytes) -> None:
    """See that an MP3 has the bytes that its Xing header counts, if it has that header."""
    found = _XING.search(mp3, 0, _XING_WITHIN)
    if found is None or len(mp3) < found.end() + 12:
        return
    (flags,) = struct.unpack_from(">I", mp3, found.end())
    if flags & _BYTES:
        (size,) = struct.unpack_from(">I", mp3, found.end() + (8 if flags & _FRAMES else 4))
        if size > len(mp3):
            raise CutError(f"its header says {size:,} bytes, and {len(mp3):,} are there")
