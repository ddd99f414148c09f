"""What a file looks like, by its content alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from lectern.kinds import NotTextError, decode_text, kind_of
from tests.conftest import encode, record

RED = np.full((40, 40, 3), (255, 0, 0), np.uint8)
TONE = (np.sin(np.arange(16_000) / 9) * 9000).astype(np.int16)
ID3 = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
LETTER = "Cher ami,\nà bientôt\n"


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "medium", "name"),
    [
        *((lambda kind=kind: encode(RED, kind), "image", name) for kind, name in (
            ("PNG", "a PNG picture"), ("JPEG", "a JPEG picture"), ("WEBP", "a WebP picture"), ("GIF", "a GIF picture"),
            ("BMP", "a BMP picture"), ("TIFF", "a TIFF picture"), ("AVIF", "an AVIF picture"),
            ("ICO", "a Windows icon"), ("PPM", "a Netpbm picture"), ("JPEG2000", "a JPEG 2000 picture"),
        )),
        *((lambda kind=kind: record(TONE, kind), "audio", name) for kind, name in (
            ("WAV", "a WAV recording"), ("RF64", "a WAV recording"), ("FLAC", "a FLAC recording"),
            ("OGG", "an OGG recording"), ("MP3", "an MP3 recording"), ("AIFF", "an AIFF recording"),
            ("CAF", "a CAF recording"), ("AU", "an AU recording"), ("W64", "a Wave64 recording"),
        )),
        (lambda: ID3 + record(TONE, "FLAC"), "audio", "a FLAC recording"),
        (lambda: ID3 + ID3 + record(TONE, "MP3"), "audio", "an MP3 recording"),
        (lambda: b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(99), "image", "a HEIC picture"),
        (lambda: b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42" + bytes(99), "audio", "an M4A (AAC) recording"),
        (lambda: b"\0\0\0\x20ftypisom\0\0\2\0isomiso2" + bytes(99), "other", "an MP4 film or recording"),
        (lambda: b"RIFF\0\0\0\0AVI LIST", "other", "an AVI film"),
        (lambda: b"%PDF-1.4\nall of it printable", "other", "a PDF document"),
        (lambda: b"{\\rtf1 all of it printable}", "other", "an RTF document"),
        (lambda: zipped("[Content_Types].xml", "word/document.xml"), "other", "a Word document"),
        (lambda: zipped("[Content_Types].xml", "xl/workbook.xml"), "other", "an Excel workbook"),
        (lambda: zipped("anything.bin"), "other", "a zip archive"),
        (lambda: b"\x1f\x8b\x08" + bytes(20), "other", "a gzip archive"),
        (lambda: b"\0\1\2\3\x80\x90", "other", "binary data"),
        (lambda: b"", "nothing", "an empty file"),
        (lambda: b"hello", "text", "text"),
        (lambda: b"MZ and BZh are letters; BM too, and MAC users know", "text", "text"),
        (lambda: b"P3 is a bus line", "text", "text"),
        (lambda: LETTER.encode(), "text", "text"),
        (lambda: LETTER.encode("utf-16"), "text", "text"),
        (lambda: LETTER.encode("latin-1"), "text", "Windows-1252 (Latin-1) text"),
        (lambda: LETTER.encode("utf-16-be"), "text", "UTF-16BE text without a byte-order mark"),
        (lambda: "Привет, как дела?".encode("cp1251"), "text", "text in another encoding"),
        (lambda: b"\x1b[31mred\x1b[0m", "text", "text"),
        (lambda: b"a,b\n1,2\n3,4\n", "table", "a CSV table"),
        (lambda: b"sep=;\na;b\n1,5;2\n", "table", "a CSV table"),
        (lambda: b"Dear all,\nI paid 12,000, then 13,500\n", "text", "text"),
        (lambda: b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "image", "an SVG drawing"),
    ],
)  # fmt: skip
def test_a_file_is_named_by_its_content(content: Callable[[], bytes], medium: str, name: str) -> None:
    kind = kind_of(content())
    assert (kind.medium, kind.name) == (medium, name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_read_with_any_mark(encoding: str) -> None:
    assert decode_text(LETTER.encode(encoding)) == LETTER


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LETTER.encode("latin-1"), ["byte 10 is 0xe0", "Windows-1252", "iconv -f Windows-1252 -t UTF-8"]),
        (LETTER.encode("utf-16-le"), ["UTF-16LE text without a byte-order mark", "iconv -f UTF-16LE"]),
        (LETTER.encode("utf-16")[:-1], ["not UTF-16 text"]),
        (b"a\0b", ["character 1 is the control character 0x00", "binary data"]),
        (b"%PDF-1.4", ["a PDF document"]),
        (encode(RED), ["byte 0 is 0x89", "a PNG picture"]),
    ],
)
def test_what_is_no_text_says_where_and_what_it_looks_like(content: bytes, says: list[str]) -> None:
    with pytest.raises(NotTextError) as caught:
        decode_text(content)
    for words in says:
        assert words in str(caught.value)
