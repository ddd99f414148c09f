"""Sound pixels are read, whatever stands around them, and nothing but pixels can spoil a picture."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from artifacts.card import ImagePreprocessing
from services.codecs.images import decode_images
from services.codecs.picture_files import orientation_of, pixels_only
from services.errors import InvalidArgument
from services.limits import Limits
from tests.conftest import encode

SIZE = 32
PREPROCESSING = ImagePreprocessing(height=SIZE, width=SIZE, channels=3, resample="box")
SHORT, ASCII, RATIONAL, UNDEFINED = 3, 2, 5, 7
ORIENTATION = 0x0112
# What each orientation is shown as.
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def decode(content: bytes) -> np.ndarray:
    return asyncio.run(decode_images([content], PREPROCESSING, Limits()))[0]


def refusal(content: bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        decode(content)
    return caught.value.message


@pytest.fixture(scope="module")
def photo(photos: np.ndarray) -> np.ndarray:
    return photos[3]


def tiff(*tags: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """A TIFF of one directory with these tags: number, type, count, and four bytes of value."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(struct.pack(f"{order}HHI", *tag[:3]) + tag[3] for tag in tags)
    return mark + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4)


def turned(orientation: int, order: str = "<") -> tuple[int, int, int, bytes]:
    return ORIENTATION, SHORT, 1, struct.pack(f"{order}H", orientation) + b"\0\0"


MISTYPED = [
    (0x010F, SHORT, 1, b"abcd"),  # the maker's name as a number
    (0x011A, ASCII, 4, b"72\0\0"),  # a resolution as text
    (0x011A, RATIONAL, 1, b"\xff\xff\xff\x7f"),  # its value beyond the end
    (0x8769, ASCII, 4, b"here"),  # a directory's place as text
    (0x8769, 13, 1, b"\xff\xff\xff\xff"),
    (0x0131, 99, 1, b"abcd"),  # a type that there is not
    (0x927C, UNDEFINED, 0xFFFFFFFF, b"abcd"),
]


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    return jpeg[:2] + segment(0xE1, b"Exif\0\0" + exif) + jpeg[2:]


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def with_chunk(png: bytes, extra: bytes, *, at_end: bool = False) -> bytes:
    place = len(png) - 12 if at_end else 33  # before IEND, or after IHDR
    return png[:place] + extra + png[place:]


def riff(webp: bytes, extra: bytes) -> bytes:
    content = webp[8:] + extra
    return b"RIFF" + struct.pack("<I", len(content)) + content


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_turns_as_pillow_turns(photo: np.ndarray, orientation: int, order: str) -> None:
    content = with_exif(encode(photo, "JPEG", quality=95), tiff(turned(orientation, order), order=order))
    plain = decode(encode(photo, "JPEG", quality=95))
    np.testing.assert_array_equal(decode(content), TURNS[orientation](plain))


@pytest.mark.parametrize("tag", MISTYPED, ids=str)
@pytest.mark.parametrize("before", [True, False])
def test_orientation_is_read_beside_a_tag_of_the_wrong_type(
    photo: np.ndarray, tag: tuple[int, int, int, bytes], before: bool
) -> None:
    tags = [tag, turned(6)] if before else [turned(6), tag]
    jpeg, png = encode(photo, "JPEG", quality=95), encode(photo)
    np.testing.assert_array_equal(decode(with_exif(jpeg, tiff(*tags))), np.rot90(decode(jpeg), -1))
    np.testing.assert_array_equal(decode(with_chunk(png, chunk(b"eXIf", tiff(*tags)))), np.rot90(photo, -1))


@pytest.mark.parametrize(
    "exif",
    [b"", b"II", b"not a TIFF", tiff()[:9], tiff(turned(6))[:-8], b"II*\0\xff\xff\xff\xff", tiff(turned(0)),
     tiff(turned(9)), tiff((ORIENTATION, ASCII, 2, b"6\0\0\0")), b"II*\0\x08\0\0\0\xff\xff" + bytes(40)],
    ids=range(10),
)  # fmt: skip
def test_exif_that_cannot_be_read_turns_nothing(photo: np.ndarray, exif: bytes) -> None:
    assert orientation_of(exif) == 1
    np.testing.assert_array_equal(decode(with_chunk(encode(photo), chunk(b"eXIf", exif))), photo)
    jpeg = encode(photo, "JPEG")
    np.testing.assert_array_equal(decode(with_exif(jpeg, exif)), decode(jpeg))


def spoilt_pngs() -> Iterator[tuple[str, bytes]]:
    yield "checksum of a text", chunk(b"tEXt", b"Comment\0hello", crc=7)
    yield "large text", chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 * 2**20)))
    yield "large international text", chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(3 * 2**20)))
    yield "text that is not deflated", chunk(b"zTXt", b"Comment\0\0nonsense")
    yield "large profile", chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3 * 2**20)))
    yield "profile that is none", chunk(b"iCCP", b"icc\0\0nonsense")
    yield "short density", chunk(b"pHYs", b"\0")
    yield "short colours", chunk(b"cHRM", b"\0\0")
    yield "short gamma", chunk(b"gAMA", b"")
    yield "short animation", chunk(b"acTL", b"\0")
    yield "short time", chunk(b"tIME", b"\0")
    yield "private chunk", chunk(b"prVt", bytes(9), crc=1)


@pytest.mark.parametrize("at_end", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("extra", [extra for _, extra in spoilt_pngs()], ids=[name for name, _ in spoilt_pngs()])
def test_a_png_is_read_whatever_its_metadata(photo: np.ndarray, extra: bytes, at_end: bool) -> None:
    np.testing.assert_array_equal(decode(with_chunk(encode(photo), extra, at_end=at_end)), photo)


def test_a_png_without_its_end_is_read(photo: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(encode(photo)[:-12]), photo)


@pytest.mark.parametrize(
    "extra",
    [segment(0xE0, b"JFIF\0\1"), segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"), segment(0xE2, b"ICC_PROFILE\0\1\2x"),
     segment(0xED, b"Photoshop 3.0\x008BIM\xff"), segment(0xFE, b"\xff\xfe\0"), segment(0xE1, b"http://ns.adobe.com/x"),
     segment(0xEE, b"Adobe"), segment(0xE2, b"FPXR\0"), b"\xff\xff\xff\xff", b"junk"],
    ids=range(10),
)  # fmt: skip
def test_a_jpeg_is_read_whatever_its_metadata(photo: np.ndarray, extra: bytes) -> None:
    jpeg = encode(photo, "JPEG", quality=95)
    np.testing.assert_array_equal(decode(jpeg[:2] + extra + jpeg[2:]), decode(jpeg))


def test_colours_that_adobes_segment_tells_stay(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(buffer, "JPEG", quality=98)  # Pillow writes the segment
    assert b"Adobe" in buffer.getvalue()
    assert np.abs(decode(buffer.getvalue()).astype(int) - photo).mean() < 8


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_is_read_whatever_its_metadata(photo: np.ndarray, lossless: bool) -> None:
    webp = encode(photo, "WEBP", lossless=lossless)
    spoilt = riff(webp, b"EXIF" + struct.pack("<I", 9) + b"not EXIF!\0" + b"XMP \xff\xff\xff\x7fcut")
    np.testing.assert_array_equal(decode(spoilt), decode(webp))
    exif = tiff(MISTYPED[1], turned(6))
    turned_webp = encode(photo, "WEBP", lossless=lossless, exif=exif)
    np.testing.assert_array_equal(decode(turned_webp), np.rot90(decode(webp), -1))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}, {"progressive": True,
    "subsampling": 0}], ids=str,
)  # fmt: skip
@pytest.mark.parametrize("scale", [1, 8])
def test_a_jpeg_lacks_its_end_marker_or_is_refused_as_cut(
    photo: np.ndarray, options: dict[str, object], scale: int
) -> None:
    large = photo.repeat(scale, 0).repeat(scale, 1)
    jpeg = encode(large, "JPEG", quality=80, **options)
    np.testing.assert_array_equal(decode(jpeg[:-2]), decode(jpeg))
    scans = jpeg.index(b"\xff\xda") + 14
    for cut in np.random.default_rng(0).integers(scans, len(jpeg) - 40, 60):
        assert "truncated or corrupt" in refusal(jpeg[:cut])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_half_a_picture_is_refused(photo: np.ndarray, kind: str) -> None:
    content = encode(photo, kind)
    assert "images[0]: " in refusal(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda png, jpeg: with_chunk(png, chunk(b"tEXt", b"a\0b") * 20_000), "more than 16,384 chunks"),
        (lambda png, jpeg: jpeg[:2] + segment(0xFE, b"") * 20_000 + jpeg[2:], "more than 16,384 segments"),
        (lambda png, jpeg: jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * 300 + jpeg[-2:], "more than 100 scans"),
    ],
    ids=["chunks", "segments", "scans"],
)
def test_a_picture_of_too_many_parts_is_refused(photo: np.ndarray, content: object, says: str) -> None:
    assert says in refusal(content(encode(photo), encode(photo, "JPEG")))  # type: ignore[operator]


@pytest.mark.parametrize("end", [b"", b"\xd9", b"\xe0\0"])
def test_fill_of_a_jpeg_without_pixels_is_not_left_to_its_decoder(end: bytes) -> None:
    fill = b"\xff\xd8" + b"\xff" * 100_000 + end
    assert len(pixels_only(fill).content) < 100
    assert "its header is truncated or corrupt" in refusal(fill)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("GIF", "a GIF picture"), ("BMP", "a BMP picture"), ("TIFF", "a TIFF picture"), ("AVIF", "an AVIF picture")],
)
def test_a_picture_of_another_format_is_named(photo: np.ndarray, kind: str, name: str) -> None:
    assert refusal(encode(photo, kind)) == f"images[0]: is not a PNG, JPEG, WEBP image; it looks like {name}"
