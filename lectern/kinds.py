"""The kind of a file, by its first bytes: picture, recording, text, table, or the name of another format.

The client chooses a model by it; client and server name it in the error when a model does not take a file.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass
from typing import Literal

Medium = Literal["image", "audio", "text", "table", "other", "nothing"]

HEAD = 64 * 1024  # bytes, or characters, that are examined
_ID3 = b"ID3"
_ID3_BYTES = 10
_ID3_FOOTER = 0x10
_TABLE_ROWS = 20
DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Kind:
    """What a file is: `name` with its article, as in "it looks like {name}"; `medium`, which models are made for."""

    medium: Medium
    name: str


class NotTextError(ValueError):
    """The bytes are not text; the message says why, as in "FILE: {message}"."""


# Byte-order marks. That of UTF-32 begins with that of UTF-16, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# First bytes that identify a format.
_MAGIC: tuple[tuple[bytes, Medium, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image", "a PNG picture"),
    (b"\xff\xd8\xff", "image", "a JPEG picture"),
    (b"GIF87a", "image", "a GIF picture"),
    (b"GIF89a", "image", "a GIF picture"),
    (b"II*\0", "image", "a TIFF picture"),
    (b"MM\0*", "image", "a TIFF picture"),
    (b"II+\0", "image", "a BigTIFF picture"),
    (b"MM\0+", "image", "a BigTIFF picture"),
    (b"\0\0\0\x0cjP  ", "image", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "image", "a JPEG 2000 picture"),
    (b"\0\0\0\x0cJXL ", "image", "a JPEG XL picture"),
    (b"\xff\x0a", "image", "a JPEG XL picture"),
    (b"8BPS", "image", "a Photoshop picture"),
    (b"qoif", "image", "a QOI picture"),
    (b"DDS ", "image", "a DDS picture"),
    (b"v/1\x01", "image", "an OpenEXR picture"),
    (b"\0\0\1\0", "image", "a Windows icon"),
    (b"fLaC", "audio", "a FLAC recording"),
    (b"OggS", "audio", "an OGG recording"),
    (b"caff", "audio", "a CAF recording"),
    (b".snd", "audio", "an AU recording"),
    (b"#!AMR", "audio", "an AMR recording"),
    (b"riff\x2e\x91\xcf\x11", "audio", "a Wave64 recording"),
    (b"MAC ", "audio", "a Monkey's Audio recording"),
    (b"wvpk", "audio", "a WavPack recording"),
    (b"MThd", "audio", "a MIDI file, which has notes and no sound"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "audio", "a Windows Media (WMA) recording"),
    (b"\x1a\x45\xdf\xa3", "other", "a Matroska or WebM film or recording"),
    (b"%PDF-", "other", "a PDF document"),
    (b"{\\rtf", "other", "an RTF document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "other", "an old Word, Excel or Outlook document"),
    (b"\x1f\x8b", "other", "a gzip archive"),
    (b"BZh", "other", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "other", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "other", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "other", "a 7z archive"),
    (b"Rar!\x1a\x07", "other", "a RAR archive"),
    (b"PAR1", "other", "a Parquet table"),
    (b"\x89HDF\r\n\x1a\n", "other", "an HDF5 file"),
    (b"\x93NUMPY", "other", "a NumPy array"),
    (b"SQLite format 3\0", "other", "an SQLite database"),
    (b"\x7fELF", "other", "a program"),
    (b"MZ", "other", "a Windows program"),
    (b"\0asm", "other", "a WebAssembly program"),
)
# The name after RIFF, RIFX, RF64 or BW64.
_RIFF: dict[bytes, tuple[Medium, str]] = {
    b"WAVE": ("audio", "a WAV recording"),
    b"WEBP": ("image", "a WebP picture"),
    b"AVI ": ("other", "an AVI film"),
    b"RMID": ("audio", "a MIDI file, which has notes and no sound"),
}
# Brands of ISO media files, by their beginning; others are films.
_BRANDS: tuple[tuple[bytes, Medium, str], ...] = (
    (b"avif", "image", "an AVIF picture"),
    (b"avis", "image", "an AVIF picture"),
    (b"hei", "image", "a HEIC picture"),
    (b"hev", "image", "a HEIC picture"),
    (b"mif1", "image", "a HEIF picture"),
    (b"msf1", "image", "a HEIF picture"),
    (b"crx ", "image", "a camera's raw picture"),
    (b"M4A", "audio", "an M4A (AAC) recording"),
    (b"M4B", "audio", "an M4A (AAC) recording"),
    (b"qt  ", "other", "a QuickTime film"),
)
# Documents that are zip archives, by their content.
_ZIPPED: tuple[tuple[bytes, str], ...] = (
    (b"word/", "a Word document"),
    (b"xl/", "an Excel workbook"),
    (b"ppt/", "a PowerPoint document"),
    (b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "an OpenDocument spreadsheet"),
    (b"mimetypeapplication/vnd.oasis.opendocument", "an OpenDocument document"),
    (b"mimetypeapplication/epub", "an EPUB book"),
    (b".npy", "a NumPy archive"),
)
# Documents that may have printable characters only.
_PRINTED = (b"%PDF-", b"{\\rtf")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # no editor writes these; ESC begins a terminal's colours
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_NETPBM = re.compile(rb"P[1-7]\s+(?:#|\d|WIDTH)")
_NUMBER = re.compile(r"[-+]?[\d.,]*\d(?:[eE][-+]?\d+)?")


def kind_of(content: bytes) -> Kind:
    """The kind of a file, by its first bytes; of a text, by all of them."""
    if not content:
        return Kind("nothing", "an empty file")
    try:
        text = decode_text(content)
    except NotTextError:
        return _binary(content) or _undecoded(content) or Kind("other", "binary data")
    start = text[:256].lstrip().lower()
    if start.startswith(("<svg", "<?xml")) and "<svg" in text[:HEAD]:
        return Kind("image", "an SVG drawing")
    return Kind("table", "a CSV table") if is_table(text[:HEAD]) else Kind("text", "text")


def is_mp3(content: bytes) -> bool:
    """Whether a file, after its ID3 tags, begins with a frame of MPEG audio layer III."""
    if len(content) < 4 or content[0] != 0xFF or content[1] & 0xE6 != 0xE2:
        return False
    version, bitrate, rate = content[1] >> 3 & 3, content[2] >> 4, content[2] >> 2 & 3
    return version != 1 and bitrate not in (0, 15) and rate != 3


def after_id3(content: bytes) -> int:
    """The position after ID3v2 tags, which some programs put before any kind of audio."""
    start = 0
    while content[start : start + 3] == _ID3 and len(content) >= start + _ID3_BYTES:
        flags, size = content[start + 5], content[start + 6 : start + _ID3_BYTES]
        if max(size) > 127:
            break
        start += _ID3_BYTES + sum(byte << 7 * (3 - i) for i, byte in enumerate(size))
        start += _ID3_BYTES if flags & _ID3_FOOTER else 0
    return start


def decode_text(content: bytes) -> str:
    """The text of UTF-8, with or without a byte-order mark, or of UTF-16 or UTF-32 with one.

    Raises:
        NotTextError: it is not text; the message says where, and what the bytes look like.
    """
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")
    if content.startswith(_PRINTED):
        raise NotTextError(f"not plain text; it looks like {_named(content)}")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise NotTextError(f"not {encoding.removesuffix('-sig').upper()} text ({where}){_advice(content)}") from None
    if control := _CONTROL.search(text):
        where = f"character {control.start()} is the control character {ord(control[0]):#04x}"
        raise NotTextError(f"not UTF-8 text ({where}){_advice(content)}")
    return text


def is_table(text: str) -> bool:
    """Whether a text is rows of equally many cells, at least half of which are numbers."""
    if text[:4].lower() == "sep=":  # a line that Excel writes
        text = text.partition("\n")[2]
    for delimiter in DELIMITERS:
        try:
            rows = [row for _, row in zip(range(_TABLE_ROWS), csv.reader(io.StringIO(text, ""), delimiter=delimiter))]  # noqa: B905
        except csv.Error:
            continue
        complete = [row for row in rows if any(map(str.strip, row))]
        if len(text) > HEAD:
            complete = complete[:-1] or complete
        if len(complete) < 2 or len(complete[0]) < 2 or len({len(row) for row in complete}) > 1:
            continue
        cells = [cell.strip() for row in complete[1:] for cell in row]
        if 2 * sum(bool(_NUMBER.fullmatch(cell)) for cell in cells) >= len(cells):
            return True
    return False


def _binary(content: bytes) -> Kind | None:
    head = content[after_id3(content) :][:HEAD]
    for magic, medium, name in _MAGIC:
        if head.startswith(magic):
            return Kind(medium, name)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and (kind := _RIFF.get(head[8:12])):
        return Kind(*kind)
    if head[4:8] == b"ftyp":
        brand = next(((medium, name) for start, medium, name in _BRANDS if head[8:12].startswith(start)), None)
        return Kind(*(brand or ("other", "an MP4 film or recording")))
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return Kind("audio", "an AIFF recording")
    if head[:4] == b"PK\3\4":
        return Kind("other", next((name for part, name in _ZIPPED if part in head), "a zip archive"))
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return Kind("image", "a BMP picture")
    if head[128:132] == b"DICM":
        return Kind("image", "a DICOM picture")
    if head[257:262] == b"ustar":
        return Kind("other", "a tar archive")
    if _NETPBM.match(head):
        return Kind("image", "a Netpbm picture")
    if is_mp3(head):
        return Kind("audio", "an MP3 recording")
    if len(head) > 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] & 0x3C < 0x34:
        return Kind("audio", "an AAC recording")
    return None


def _undecoded(content: bytes) -> Kind | None:
    """A text that is not UTF-8, by the encoding that it seems to have."""
    head = content[:HEAD]
    for zeros, letters, order in ((head[1::2], head[0::2], "LE"), (head[0::2], head[1::2], "BE")):
        if len(head) >= 8 and zeros.count(0) > 0.7 * len(zeros) and not _CONTROL_BYTES.search(letters):
            return Kind("text", f"UTF-16{order} text without a byte-order mark")
    if _CONTROL_BYTES.search(head):
        return None
    # In Windows-1252, as in every one-byte encoding, most letters of a European text are ASCII.
    if sum(byte >= 0x80 for byte in head) <= 0.3 * len(head):
        return Kind("text", "Windows-1252 (Latin-1) text")
    return Kind("text", "text in another encoding")


def _named(content: bytes) -> str:
    kind = _binary(content) or _undecoded(content)
    return kind.name if kind else "binary data"


def _advice(content: bytes) -> str:
    """What bytes that are not text look like, and what to do about it."""
    name = _named(content)
    encoding = re.match(r"(UTF-16.E|Windows-1252)", name)
    how = f": convert it with `iconv -f {encoding[1]} -t UTF-8`" if encoding else ""
    return f"; it looks like {name}{how}"
