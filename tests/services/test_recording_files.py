"""Recordings are read to their end, or refused by what is missing of them."""

from __future__ import annotations

import asyncio
import io
import struct

import numpy as np
import pytest
import soundfile

from services.codecs.audio import Clip, decode_clips
from services.errors import InvalidArgument
from services.limits import Limits
from tests.conftest import record

RATE = 16_000
NOISE = np.random.default_rng(0)
TONE = (9000 * np.sin(np.arange(2 * RATE) / 9) + NOISE.normal(0, 900, 2 * RATE)).astype(np.int16)
ID3 = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
WAV = record(TONE)
DATA = WAV.index(b"data") + 4
LOSSLESS = ("WAV", "WAVEX", "RF64", "FLAC")


def decode(content: bytes) -> np.ndarray:
    return asyncio.run(decode_clips({"clip": Clip(content)}, RATE, Limits()))[0]


def refusal(content: bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        decode(content)
    return caught.value.message


def of_unknown_length(flac: bytes) -> bytes:
    """With 0 samples in STREAMINFO, as encoders write that do not know."""
    content = bytearray(flac)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def big_endian(wav: bytes) -> bytes:
    """RIFX of a WAV file of 16-bit samples with the plain header."""
    sizes = struct.unpack_from("<4xI8xIHHIIHH4xI", wav)
    header = struct.pack(">4sI4s4sIHHIIHH4sI", b"RIFX", sizes[0], b"WAVE", b"fmt ", *sizes[1:8], b"data", sizes[8])
    return header + np.frombuffer(wav[44:], "<i2").astype(">i2").tobytes()


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("tags", [b"", ID3, ID3 + ID3], ids=["plain", "ID3", "twice ID3"])
def test_lossless_recordings_are_read_behind_tags(kind: str, tags: bytes) -> None:
    np.testing.assert_array_equal(decode(tags + record(TONE, kind)), TONE)


@pytest.mark.parametrize(("kind", "subtype"), [("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")])
@pytest.mark.parametrize("tags", [b"", ID3])
def test_lossy_recordings_are_read_behind_tags(kind: str, subtype: str | None, tags: bytes) -> None:
    samples = decode(tags + record(TONE, kind, subtype=subtype))
    assert len(samples) == len(TONE)
    assert np.corrcoef(samples, TONE)[0, 1] > 0.95


def test_big_endian_and_long_wav_are_read() -> None:
    np.testing.assert_array_equal(decode(big_endian(WAV)), TONE)
    np.testing.assert_array_equal(decode(b"BW64" + record(TONE, "RF64")[4:]), TONE)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFD3])
@pytest.mark.parametrize("whole", [0, 0xFFFFFFFF])
def test_a_wav_that_does_not_know_its_size_is_read_to_its_end(size: int, whole: int) -> None:
    content = bytearray(WAV)
    content[4:8], content[DATA : DATA + 4] = struct.pack("<I", whole), struct.pack("<I", size)
    np.testing.assert_array_equal(decode(bytes(content)), TONE)


def test_a_long_wav_that_does_not_know_its_size_is_read_to_its_end() -> None:
    content = bytearray(record(TONE, "RF64"))
    place = content.index(b"ds64") + 8
    content[place : place + 24] = bytes(24)
    np.testing.assert_array_equal(decode(bytes(content)), TONE)


def test_a_flac_that_does_not_know_its_length_is_read_to_its_end() -> None:
    content = of_unknown_length(record(TONE, "FLAC"))
    np.testing.assert_array_equal(decode(content), TONE)
    assert "truncated or corrupt" in refusal(content[: len(content) // 2])


@pytest.mark.parametrize("kind", [*LOSSLESS, "OGG", "MP3"])
def test_half_a_recording_is_refused(kind: str) -> None:
    content = record(TONE, kind)
    assert "clip: is truncated or corrupt: " in refusal(content[: len(content) // 2])


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_an_mp3_that_does_not_know_its_length_has_its_last_frame(rate: int) -> None:
    streamed = without_first_frame(record(TONE, "MP3", rate))
    whole = decode(streamed)
    for after in (b"TAG" + bytes(125), b"APETAGEX" + bytes(24), bytes(417)):
        np.testing.assert_array_equal(decode(streamed + after), whole)
    for missing in (1, 20, len(streamed) // 2 + 1):
        assert "its last frame has" in refusal(streamed[:-missing])


def test_an_mp3_that_does_not_know_its_length_is_read_to_its_end() -> None:
    """Frames of what is quiet are small: by the first ones, the file looks a quarter as long as it is."""
    loud, buffer = np.random.default_rng(0).integers(-9999, 9999, 160_000, np.int16), io.BytesIO()
    soundfile.write(buffer, np.append(loud, 0 * loud), RATE, format="MP3", bitrate_mode="VARIABLE")
    whole, streamed = buffer.getvalue(), without_first_frame(buffer.getvalue())
    assert soundfile.info(io.BytesIO(streamed)).frames < 100_000
    assert len(decode(whole)) == 320_000 <= len(decode(streamed)) < 323_000


def without_first_frame(mp3: bytes) -> bytes:
    """An MP3 without the frame that holds nothing but its Xing header, as it is streamed."""
    assert b"Xing" in mp3[:64] or b"Info" in mp3[:64]
    return mp3[mp3.index(mp3[:2], 4) :]


def test_what_is_missing_is_counted() -> None:
    assert "its header says 64,000 bytes of samples, but 31,956 are present" in refusal(WAV[:32_000])
    assert "but 0 are present" in refusal(WAV[: DATA + 4])
    assert "its last page" in refusal(record(TONE, "OGG")[:-9])
    assert "has no samples" in refusal(record(TONE[:0]))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (record(TONE, "AIFF"), "an AIFF recording"),
        (record(TONE, "CAF"), "a CAF recording"),
        (record(TONE, "AU"), "an AU recording"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(99), "an M4A (AAC) recording"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP picture"),
        (b"hello", "text"),
    ],
)
def test_what_is_not_read_is_named(content: bytes, name: str) -> None:
    assert refusal(content) == f"clip: is not a WAV, FLAC, OGG, MP3 file; it looks like {name}"
