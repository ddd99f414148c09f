"""Strips everything but the pixels from PNG, JPEG and WebP files, and reads their orientation.

Decoders fail on text, profiles and EXIF that they need not read: a tag of the wrong type, a comment's wrong checksum.
Metadata that is stripped here cannot cause that. Sources: PNG (W3C, third edition), JPEG (ITU T.81, JFIF 1.02), WebP
(RFC 9649), TIFF 6.0 as EXIF uses it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

UPRIGHT = 1
ORIENTATION = 0x0112
# Limits on chunks or segments, tags and scans: far more than any camera or editor writes.
MOST_PARTS = 16_384
MOST_TAGS = 1024
MOST_SCANS = 100

_PNG = b"\x89PNG\r\n\x1a\n"
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOS, _APP0, _APP1, _APP14, _APP15, _COM = 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_EXIF = b"Exif\0\0"
_JFIF, _JFIF_BYTES = b"JFIF\0", 14
_ADOBE, _ADOBE_BYTES = b"Adobe", 12
# A JFIF segment by which libjpeg recognises the format, without a thumbnail or a density that could be malformed.
_PLAIN_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_WEBP_KEPT = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
_WEBP_METADATA = 0x2C  # flags of VP8X: ICC profile, EXIF, XMP
_XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")
_SCAN = re.compile(rb"\xff\xda")
_FILL = re.compile(rb"\xff+")
# Types of a TIFF tag that are whole numbers.
_WHOLE = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}


class PixelFile(NamedTuple):
    """A file with only its pixels, and its EXIF orientation: 1 to 8, where 1 is upright."""

    content: bytes
    orientation: int


class TooManyPartsError(ValueError):
    """A file has more chunks, segments or scans than any real picture."""


def pixels_only(content: bytes) -> PixelFile:
    """The file without its metadata; a file with a malformed structure is returned unchanged, for the decoder to judge.

    Raises:
        TooManyPartsError: it has so many parts that merely reading them takes long.
    """
    try:
        if content.startswith(_PNG):
            return _png(content)
        if content.startswith(_SOI):
            return _jpeg(content)
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return _webp(content)
    except (struct.error, IndexError):
        pass
    return PixelFile(content, UPRIGHT)


def orientation_of(exif: bytes) -> int:
    """The orientation in EXIF data; upright if there is none that can be read."""
    tiff = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (tags,) = struct.unpack_from(f"{order}H", tiff, directory)
        for place in range(directory + 2, directory + 2 + 12 * min(tags, MOST_TAGS), 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, place)
            if tag == ORIENTATION and kind in _WHOLE:
                (value,) = struct.unpack_from(f"{order}{_WHOLE[kind]}", tiff, place + 8)
                return int(value) if 1 <= value <= 8 else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT


def endings(jpeg: bytes) -> tuple[bytes, ...]:
    """A JPEG that lacks its end marker, completed in three ways: by the marker alone, and by two kinds of noise and
    the marker.

    All three decode to the same picture if no pixel is missing, since a decoder reads the noise only where data is
    missing. Empty for a progressive JPEG that lacks scans.
    """
    content = jpeg.rstrip(b"\xff")
    if not _all_scans(content):
        return ()
    paddings = (
        b"".join(noise * 32 + bytes((0xFF, 0xD0 + number)) for number in range(8))  # decoders stop at restart markers
        for noise in (b"\x5a\xa5\x3c", b"\x93\x0e\xc7")
    )
    return content + _EOI, *(content + padding + _EOI for padding in paddings)


def _all_scans(jpeg: bytes) -> bool:
    """Whether the scans of a JPEG contain all bits of all coefficients."""
    given: dict[int, int] = {}
    components: set[int] = set()
    for start in (match.end() for match in _SCAN.finditer(jpeg)):
        count = jpeg[start + 2]
        names = jpeg[start + 3 : start + 3 + 2 * count : 2]
        first, last, bits = jpeg[start + 3 + 2 * count : start + 6 + 2 * count]
        components.update(names)
        for name in names if bits & 15 == 0 else ():
            given[name] = given.get(name, 0) | (2 << last) - (1 << first)
    return bool(components) and all(given.get(name) == 2**64 - 1 for name in components)


def _png(content: bytes) -> PixelFile:
    kept, exif, xmp = [_PNG], b"", b""
    for start, end in _chunks(content, len(_PNG), big_endian=True, extra=12):
        kind = content[start + 4 : start + 8]
        if kind == b"eXIf":
            exif = content[start + 8 : end - 4]
        elif kind == b"iTXt" and content.startswith(b"XML:com.adobe.xmp\0", start + 8):
            xmp = content[start + 8 : end - 4]
        # Critical chunks, whose first letter is a capital, and transparency.
        if not kind[:1].islower() or kind == b"tRNS":
            kept.append(content[start:end])
    return PixelFile(b"".join(kept), _turned(exif, xmp))


def _webp(content: bytes) -> PixelFile:
    kept, exif, xmp = [], b"", b""
    for start, end in _chunks(content, 12, big_endian=False, extra=8):
        kind, data = content[start : start + 4], content[start + 8 : end]
        if kind == b"EXIF":
            exif = data
        elif kind == b"XMP ":
            xmp = data
        elif kind in _WEBP_KEPT:
            (size,) = struct.unpack_from("<I", content, start + 4)
            if size > len(data):
                return PixelFile(content, UPRIGHT)
            if kind == b"VP8X":
                data = bytes((data[0] & ~_WEBP_METADATA,)) + data[1:]
            kept.append(kind + struct.pack("<I", size) + data)
    pixels = b"WEBP" + b"".join(kept)
    return PixelFile(b"RIFF" + struct.pack("<I", len(pixels)) + pixels, _turned(exif, xmp))


def _chunks(content: bytes, start: int, *, big_endian: bool, extra: int) -> Iterator[tuple[int, int]]:
    """Start and end of each chunk; the last chunk may be truncated. `extra` bytes surround a chunk's data.

    A PNG chunk begins with its size; a RIFF chunk begins with its name and is padded to an even size.
    """
    for _ in range(MOST_PARTS):
        if start + 8 > len(content):
            return
        (size,) = struct.unpack_from(">I" if big_endian else "<I", content, start if big_endian else start + 4)
        end = start + extra + size + (0 if big_endian else size % 2)
        yield start, min(end, len(content))
        start = end
        if big_endian and content[end - size - extra + 4 : end - size - extra + 8] == b"IEND":
            return
    raise TooManyPartsError(f"has more than {MOST_PARTS:,} chunks")


def _jpeg(content: bytes) -> PixelFile:
    kept, exif, xmp = [_SOI], b"", b""
    place = len(_SOI)
    for _ in range(MOST_PARTS):
        fill = _FILL.search(content, place)
        if fill is None or fill.end() + 2 >= len(content):
            # Without the fill bytes, which Pillow would skip one by one.
            return PixelFile(b"".join(kept), UPRIGHT)
        marker, start = content[fill.end()], fill.end() + 1
        place = start
        if marker == 0 or marker in _WITHOUT_LENGTH:
            continue
        (size,) = struct.unpack_from(">H", content, start)
        data = content[start + 2 : start + size]
        if marker == _SOS:
            if content.count(b"\xff\xda", start) >= MOST_SCANS:
                raise TooManyPartsError(f"has more than {MOST_SCANS} scans")
            kept.append(content[start - 2 :])
            return PixelFile(b"".join(kept), _turned(exif, xmp))
        place = start + size
        if marker == _APP0 and data.startswith(_JFIF) and len(data) >= _JFIF_BYTES:
            kept.append(_PLAIN_JFIF)
        elif marker == _APP1 and data.startswith(_EXIF[:5]):
            exif = exif or data[len(_EXIF) :]
        elif marker == _APP1:
            xmp = xmp or data
        elif not _is_metadata(marker, data):
            kept.append(content[start - 2 : place])
    raise TooManyPartsError(f"has more than {MOST_PARTS:,} segments")


def _is_metadata(marker: int, data: bytes) -> bool:
    """Whether a JPEG segment is irrelevant to the pixels; Adobe's segment is relevant: it states the colour space."""
    if marker == _APP14:
        return not data.startswith(_ADOBE) or len(data) < _ADOBE_BYTES
    return _APP0 <= marker <= _APP15 or marker == _COM


def _turned(exif: bytes, xmp: bytes) -> int:
    """The orientation from EXIF, or else from XMP."""
    by_exif = orientation_of(exif)
    by_xmp = _XMP.search(xmp) if by_exif == UPRIGHT else None
    return int(by_xmp[1]) if by_xmp else by_exif
