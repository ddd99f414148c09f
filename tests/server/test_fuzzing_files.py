"""Pictures and recordings whose chunks, segments, pages and tags are added, dropped, repeated, swapped and falsified:
each is answered or refused as the caller's, and none holds up the event loop.

`make fuzz` asks for more than fits into a test run, and for others each time.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given

from lectern.v1 import classify_pb2
from tests.conftest import Server, encode, record
from tests.server.fuzzing import Door, door, fuzzing

ALLOWED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
MOST_COPIES = 20_000  # of a part; more than a file may have
MOST_REPEATED_BYTES = 1_000_000
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 24, 4), np.uint8)
NOISE = np.random.default_rng(0).integers(-9999, 9999, 8000, np.int16)
UNSIGNED = {2: 2**16 - 1, 4: 2**32 - 1, 8: 2**64 - 1}

File = list[bytes]  # in parts: what begins it, then its chunks, segments or pages

small = st.integers(0, 40)
noise = st.binary(max_size=64)
text = st.sampled_from((b"XML:com.adobe.xmp\0", b"Exif\0\0", b"JFIF\0", b"Adobe", b"ICC_PROFILE\0", b"MPF\0", b""))


def number(size: int) -> st.SearchStrategy[int]:
    """An unsigned number of so many bytes: small, at a power of two, or any."""
    most = UNSIGNED[size]
    edges = st.sampled_from([e for e in (2**7, 2**15, 2**16, 2**31 - 1, 2**31, most - 1, most) if e <= most])
    return small | edges | st.integers(0, most)


@st.composite
def sized(draw: st.DrawFn, data: bytes, size: int) -> int:
    """What a header says that `data` has: the truth, mostly."""
    return len(data) if draw(st.integers(0, 3)) else draw(number(size))


@st.composite
def tiff(draw: st.DrawFn) -> bytes:
    """EXIF: a directory of tags, some of them an orientation, of all types."""
    order = draw(st.sampled_from("<>"))
    tag = st.tuples(st.sampled_from((0x0112, 0x8769, 0x8825, 1)), st.integers(0, 20), number(4), number(4))
    tags = draw(st.lists(tag, max_size=5))
    start = draw(st.just(8) | number(4))
    count = draw(st.just(len(tags)) | number(2))
    magic = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    return magic + struct.pack(f"{order}IH", start, count) + body + draw(noise)


@st.composite
def xmp(draw: st.DrawFn) -> bytes:
    value = draw(st.integers(0, 99))
    return b"<x:xmpmeta><rdf tiff:Orientation" + draw(st.sampled_from((b'="', b">", b" = '"))) + b"%d" % value


metadata = tiff() | xmp() | st.builds(bytes.__add__, text, tiff() | xmp() | noise) | noise


# PNG


def png_chunk(kind: bytes, data: bytes, size: int | None = None, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + data)
    return (
        struct.pack(">I", len(data) if size is None else size)
        + kind
        + data
        + struct.pack(">I", right if checksum is None else checksum)
    )


@st.composite
def png_part(draw: st.DrawFn) -> bytes:
    """A chunk: a header of any size and depth, pixels, a palette, an animation's, or metadata."""
    kind = draw(
        st.sampled_from((b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"IEND", b"acTL", b"fcTL", b"fdAT", b"CgBI"))
        | st.sampled_from((b"eXIf", b"iTXt", b"zTXt", b"tEXt", b"iCCP", b"gAMA", b"cHRM", b"sBIT", b"pHYs", b"bKGD"))
        | st.binary(min_size=4, max_size=4)
    )
    if kind == b"IHDR":
        side = small | number(4)
        depth, colour, interlace = draw(st.sampled_from((1, 2, 4, 8, 16, 3))), draw(st.integers(0, 7)), draw(small)
        data = struct.pack(">IIBBBBB", draw(side), draw(side), depth, colour, 0, 0, interlace)
    elif kind in (b"IDAT", b"fdAT", b"zTXt", b"iCCP"):
        data = zlib.compress(draw(noise) * draw(st.integers(1, 200)))[: draw(st.integers(0, 200))]
        data = {b"fdAT": bytes(4), b"zTXt": b"a\0\0", b"iCCP": b"a\0\0"}.get(kind, b"") + data
    elif kind == b"acTL":
        data = struct.pack(">II", draw(number(4)), draw(number(4)))
    elif kind == b"fcTL":
        data = struct.pack(">IIIIIHHBB", *(draw(number(4)) for _ in range(5)), 1, 1, draw(small), draw(small))
    else:
        data = draw(metadata)
    checksum = None if draw(st.integers(0, 3)) else draw(number(4))
    return png_chunk(kind, data, draw(sized(data, 4)), checksum)


def png_parts(file: bytes) -> Iterator[bytes]:
    yield file[:8]
    start = 8
    while start < len(file):
        end = start + 12 + int.from_bytes(file[start : start + 4], "big")
        yield file[start:end]
        start = end


# JPEG


@st.composite
def jpeg_part(draw: st.DrawFn) -> bytes:
    """A segment: a frame's header, a scan's, tables, metadata, a marker without length, fill bytes."""
    marker = draw(
        st.sampled_from(
            (0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC9, 0xCC, 0xDA, 0xDB, 0xDD, 0xDE, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE)
        )
        | st.sampled_from((0x00, 0x01, 0xD0, 0xD7, 0xD8, 0xD9, 0xFF))
        | st.integers(0, 255)
    )
    fill = b"\xff" * draw(st.integers(1, 4) | st.just(60_000))
    if marker in (0x00, 0x01, 0xFF, *range(0xD0, 0xDA)):
        return fill + bytes((marker,))
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xCC):
        components = draw(
            st.lists(st.tuples(small, st.sampled_from((0x11, 0x22, 0x00, 0x41, 0xFF)), small), max_size=5)
        )
        head = struct.pack(
            ">BHHB", draw(st.sampled_from((8, 12, 0))), draw(number(2)), draw(number(2)), len(components)
        )
        data = head + b"".join(bytes(c) for c in components)
    elif marker == 0xDA:
        components = draw(st.lists(st.tuples(small, small), max_size=5))
        data = bytes((len(components),)) + b"".join(bytes(c) for c in components)
        data += bytes((draw(st.integers(0, 80)), draw(st.integers(0, 80)), draw(st.integers(0, 255))))
    elif marker in (0xC4, 0xDB):
        data = bytes((draw(small),)) + draw(st.binary(max_size=200))
    elif marker == 0xDD:
        data = struct.pack(">H", draw(number(2)))
    else:
        data = draw(metadata)
    return fill + bytes((marker,)) + struct.pack(">H", (draw(sized(data, 2)) + 2) % 2**16) + data


def jpeg_parts(file: bytes) -> Iterator[bytes]:
    """The segments; of the scans of a progressive one, each."""
    yield file[:2]
    start = 2
    while start < len(file):
        end = start + 2
        if file[start + 1] not in (0xD9,):
            end += int.from_bytes(file[start + 2 : start + 4], "big")
        if file[start + 1] == 0xDA:
            while end < len(file) and not (file[end] == 0xFF and file[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
        yield file[start:end]
        start = end


# RIFF: WebP and WAV


def riff_chunk(kind: bytes, data: bytes, size: int | None = None, order: str = "<") -> bytes:
    padded = data + bytes(len(data) % 2)
    return kind + struct.pack(f"{order}I", len(data) if size is None else size) + padded


def riff_parts(file: bytes) -> Iterator[bytes]:
    order = "big" if file.startswith(b"RIFX") else "little"
    yield file[:12]
    start = 12
    while start < len(file):
        size = int.from_bytes(file[start + 4 : start + 8], order)
        size = len(file) if size == UNSIGNED[4] else size
        yield file[start : (end := start + 8 + size + size % 2)]
        start = end


@st.composite
def webp_part(draw: st.DrawFn) -> bytes:
    kind = draw(
        st.sampled_from((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"XMP ", b"ICCP", b"RIFF"))
        | st.binary(min_size=4, max_size=4)
    )
    side = st.integers(0, 40) | st.just(2**14 - 1) | st.integers(0, 2**24 - 1)
    sides = draw(side).to_bytes(3, "little") + draw(side).to_bytes(3, "little")
    if kind == b"VP8X":
        data = bytes((draw(st.integers(0, 255)), 0, 0, 0)) + sides
    elif kind == b"VP8 ":
        frame = b"\x9d\x01\x2a" + struct.pack("<HH", draw(number(2)), draw(number(2)))
        data = draw(st.binary(min_size=3, max_size=3)) + frame + draw(noise)
    elif kind == b"VP8L":
        data = b"\x2f" + draw(st.binary(min_size=4, max_size=80))
    elif kind == b"ANIM":
        data = struct.pack("<IH", draw(number(4)), draw(number(2)))
    elif kind == b"ANMF":
        data = (
            sides
            + sides
            + bytes(4)
            + draw(st.sampled_from((riff_chunk(b"VP8L", b"\x2f" + bytes(9)), b"")))
            + draw(noise)
        )
    else:
        data = draw(metadata)
    return riff_chunk(kind, data, draw(sized(data, 4)))


@st.composite
def wav_part(draw: st.DrawFn) -> bytes:
    """A chunk: a format of any codec, samples, RF64's table of sizes, or what is beside them."""
    order = draw(st.sampled_from("<<<>"))
    kind = draw(
        st.sampled_from(
            (b"fmt ", b"data", b"ds64", b"fact", b"LIST", b"JUNK", b"bext", b"PEAK", b"id3 ", b"cue ", b"smpl")
        )
        | st.binary(min_size=4, max_size=4)
    )
    if kind == b"fmt ":
        codec = draw(st.sampled_from((1, 2, 3, 6, 7, 0x11, 0x31, 0x50, 0x55, 0xFFFE)) | number(2))
        channels, rate, block = (
            draw(small | number(2)),
            draw(st.sampled_from((8000, 16000)) | number(4)),
            draw(number(2)),
        )
        bits = draw(st.sampled_from((8, 16, 24, 32, 64)) | number(2))
        data = struct.pack(f"{order}HHIIHH", codec, channels, rate, draw(number(4)), block, bits) + draw(noise)
    elif kind == b"data":
        data = draw(noise) * draw(st.integers(0, 50))
    elif kind == b"ds64":
        data = struct.pack("<QQQI", *(draw(number(8)) for _ in range(3)), draw(number(4))) + draw(noise)
    elif kind == b"LIST":
        data = draw(st.sampled_from((b"INFO", b"adtl", b""))) + riff_chunk(b"INAM", draw(noise), draw(number(4)))
    else:
        data = draw(noise)
    return riff_chunk(kind, data, draw(sized(data, 4)), order)


# FLAC, Ogg, MP3 and the ID3 tags before any of them


@st.composite
def flac_part(draw: st.DrawFn) -> bytes:
    """A block of metadata, which may say that it is the last."""
    kind = draw(st.integers(0, 6) | st.integers(0, 127))
    if kind == 0:  # block sizes, frame sizes, then rate, channels, bits and the number of samples
        data = struct.pack(">HH", draw(number(2)), draw(number(2))) + bytes(6)
        data += struct.pack(">Q", draw(number(8))) + draw(st.binary(min_size=16, max_size=16))
    elif kind == 3:
        data = b"".join(
            struct.pack(">QQH", draw(number(8)), draw(number(8)), draw(number(2))) for _ in range(draw(small))
        )
    elif kind == 4:
        vendor = draw(noise)
        data = struct.pack("<I", draw(sized(vendor, 4))) + vendor + struct.pack("<I", draw(number(4))) + draw(noise)
    elif kind == 6:
        data = struct.pack(">II", draw(number(4)), draw(number(4))) + draw(noise)
    else:
        data = draw(noise)
    head = (draw(st.booleans()) << 31) | kind << 24 | draw(sized(data, 4)) & 0xFF_FFFF
    return struct.pack(">I", head) + data


def flac_parts(file: bytes) -> Iterator[bytes]:
    yield file[:4]
    start, is_last = 4, False
    while not is_last:
        is_last = bool(file[start] & 0x80)
        yield file[start : (end := start + 4 + int.from_bytes(file[start + 1 : start + 4], "big"))]
        start = end
    yield file[start:]


@st.composite
def ogg_part(draw: st.DrawFn) -> bytes:
    """A page of any flags, place and stream; its checksum is not right."""
    segments = draw(st.lists(st.integers(0, 255), max_size=6))
    magic = draw(st.sampled_from((b"OpusHead\1\2", b"OpusTags", b"\1vorbis", b"\3vorbis", b"\x7fFLAC", b"")))
    packet = magic + draw(noise)
    data = packet.ljust(sum(segments), b"\0")[: draw(sized(packet, 2))]
    head = struct.pack("<BBQII", draw(small), draw(st.integers(0, 7)), draw(number(8)), draw(small), draw(small))
    count = draw(st.just(len(segments)) | st.integers(0, 255))
    return b"OggS" + head + struct.pack("<IB", draw(number(4)), count) + bytes(segments) + data


def ogg_parts(file: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(file):
        count = file[start + 26]
        yield file[start : (end := start + 27 + count + sum(file[start + 27 : start + 27 + count]))]
        start = end


@st.composite
def mp3_part(draw: st.DrawFn) -> bytes:
    """A frame of any version, rate and mode, with a Xing or VBRI header or nothing; or a tag as they end files."""
    if not draw(st.integers(0, 4)):
        return draw(st.sampled_from((b"TAG" + bytes(125), b"APETAGEX" + bytes(24), b"LYRICSBEGIN", b"TAG")))
    head = bytes((0xFF, 0xE0 | draw(st.integers(0, 31)), draw(st.integers(0, 255)), draw(st.integers(0, 255))))
    name = draw(st.sampled_from((b"Xing", b"Info", b"VBRI", b"LAME", b"")))
    table = struct.pack(">III", draw(number(4)), draw(number(4)), draw(number(4)))
    return head + bytes(draw(st.sampled_from((9, 17, 32, 0)))) + name + table + draw(noise) * draw(st.integers(0, 8))


def mp3_parts(file: bytes) -> Iterator[bytes]:
    """Its frames, as far as the first one's header is repeated."""
    starts = [i for i in range(len(file)) if file.startswith(file[:2], i) and file[i + 2 : i + 3]]
    yield from (file[start:end] for start, end in zip(starts, [*starts[1:], len(file)], strict=True))


@st.composite
def id3_part(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from((b"TIT2", b"APIC", b"TSSE", bytes(4))))
    frame = name + struct.pack(">IH", draw(number(4)), 0) + draw(noise)
    size = draw(sized(frame, 4))
    sizes = bytes((size >> 7 * i & 127) for i in (3, 2, 1, 0)) if draw(st.integers(0, 3)) else struct.pack(">I", size)
    return b"ID3" + bytes((draw(st.integers(0, 5)), 0, draw(st.integers(0, 255)))) + sizes + frame


def altered(originals: Sequence[File], part: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Files of whose parts some were added, dropped, repeated, swapped, cut or changed in a byte."""

    @st.composite
    def alter(draw: st.DrawFn) -> bytes:
        parts = list(draw(st.sampled_from(originals)))
        for _ in range(draw(st.integers(0, 5))):
            place, other = (draw(st.integers(0, max(0, len(parts) - 1))) for _ in range(2))
            if not parts:
                break
            match draw(st.sampled_from(("add", "add", "add", "drop", "repeat", "swap", "cut", "change", "copy"))):
                case "add":
                    parts.insert(place, draw(part))
                case "drop":
                    del parts[place]
                case "repeat":
                    most = min(MOST_COPIES, MOST_REPEATED_BYTES // (len(parts[place]) or 1))
                    parts[place] *= draw(st.integers(0, 4) | st.just(most))
                case "swap":
                    parts[place], parts[other] = parts[other], parts[place]
                case "cut":
                    parts[place] = parts[place][: draw(st.integers(0, len(parts[place])))]
                case "change" if parts[place]:
                    at = draw(st.integers(0, len(parts[place]) - 1))
                    parts[place] = parts[place][:at] + draw(st.binary(min_size=1, max_size=4)) + parts[place][at + 1 :]
                case "copy":
                    parts.insert(other, parts[place])
        return b"".join(parts)

    return alter()


PALETTE = encode(PHOTO[:, :, 0] // 64 * 64)
PNGS = [list(png_parts(f)) for f in (encode(PHOTO), encode(PHOTO[:, :, :3]), PALETTE)]
JPEGS = [
    list(jpeg_parts(encode(PHOTO[:, :, :3], "JPEG", **options)))
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"})
]
WEBPS = [
    list(riff_parts(encode(PHOTO, "WEBP", **options)))
    for options in ({}, {"lossless": True}, {"exif": b"II*\0\x08\0\0\0\0\0"}, {"xmp": b"<x/>", "lossless": True})
]
WAVS = [
    list(riff_parts(record(NOISE, kind, subtype=subtype)))
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("WAV", "MS_ADPCM"),
        ("WAVEX", "PCM_24"),
        ("RF64", "PCM_16"),
    )
]
FLACS, OGGS, MP3S = (
    [list(parts(record(NOISE, kind)))] for parts, kind in ((flac_parts, "FLAC"), (ogg_parts, "OGG"), (mp3_parts, "MP3"))
)
PICTURES = {
    "PNG": altered(PNGS, png_part()),
    "JPEG": altered(JPEGS, jpeg_part()),
    "WebP": altered(WEBPS, webp_part()),
}
RECORDINGS = {
    "WAV": altered(WAVS, wav_part()),
    "FLAC": altered(FLACS, flac_part()),
    "OGG": altered([*OGGS, list(ogg_parts(record(NOISE, "OGG", subtype="OPUS")))], ogg_part()),
    "MP3": altered(MP3S, mp3_part()),
    "ID3": altered([*WAVS, *FLACS, *OGGS, *MP3S], id3_part()),
}


@pytest.fixture(scope="module")
def fuzzed(server: Server) -> Iterator[Door]:
    with door(server, encode(PHOTO)) as opened:
        yield opened


def classify(fuzzed: Door, method: str, request: Message) -> grpc.StatusCode:
    return fuzzed.knock(f"/lectern.v1.ClassifyService/{method}", [request.SerializeToString()])[0]


def picture_request(file: bytes) -> Message:
    return classify_pb2.ClassifyImageRequest(images=[file])


def audio_request(file: bytes) -> Message:
    clip = classify_pb2.AudioClip(encoded=file)
    return classify_pb2.ClassifyAudioRequest(clips=[clip], model="speaker_classifier")


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_of_any_structure_is_classified_or_refused(fuzzed: Door, kind: str) -> None:
    @fuzzing(10)
    @given(PICTURES[kind])
    def check(file: bytes) -> None:
        assert classify(fuzzed, "ClassifyImage", picture_request(file)) in ALLOWED

    check()


@pytest.mark.parametrize("kind", RECORDINGS)
def test_a_recording_of_any_structure_is_classified_or_refused(fuzzed: Door, kind: str) -> None:
    @fuzzing(10)
    @given(RECORDINGS[kind])
    def check(file: bytes) -> None:
        assert classify(fuzzed, "ClassifyAudio", audio_request(file)) in ALLOWED

    check()


ORIGINALS = {"ClassifyImage": [*PNGS, *JPEGS, *WEBPS], "ClassifyAudio": [*WAVS, *FLACS, *OGGS, *MP3S]}


@pytest.mark.parametrize("method", ORIGINALS)
def test_files_are_whole_and_in_parts_before_they_are_altered(fuzzed: Door, method: str) -> None:
    for parts in ORIGINALS[method]:
        request = picture_request(b"".join(parts)) if method == "ClassifyImage" else audio_request(b"".join(parts))
        assert classify(fuzzed, method, request) is grpc.StatusCode.OK
        assert len(parts) > 1
