"""Decodes audio files and raw samples to mono int16 at the rate that a model takes, in bounded memory."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from lectern.kinds import kind_of
from services import pools
from services.codecs.recording_files import FORMATS, CutError, is_recording, is_wav, readable
from services.codecs.timing import decoded
from services.errors import InvalidArgument
from services.limits import Limits

LOWEST_RATE, HIGHEST_RATE = 8_000, 48_000
MOST_CHANNELS = 2
# Decoding more than this would delay other callers, so it runs off the event loop. So does any compressed recording:
# seven kilobytes of FLAC can hold five minutes of silence.
INLINE_BYTES = 16 * 1024
FULL_SCALE = 32768
UNKNOWN_FRAMES = 2**62
# Files of these formats state their number of samples; for an MP3 libsndfile estimates it.
COUNTED = ("FLAC", "OGG")

Samples = NDArray[np.int16]
Blocks = Iterator[NDArray[np.float32]]


@dataclass(frozen=True)
class Clip:
    """An audio file, or mono signed 16-bit little-endian samples at `sample_rate` Hz."""

    content: bytes
    sample_rate: int | None = None


def contents(clips: Mapping[str, Any]) -> dict[str, Clip]:
    """The contents of AudioClip messages for `decode_clips`, by the names of their fields.

    Raises:
        InvalidArgument: a message is empty.
    """
    by_field: dict[str, Clip] = {}
    for field, clip in clips.items():
        match clip.WhichOneof("content"):
            case "encoded":
                by_field[f"{field}.encoded"] = Clip(clip.encoded)
            case "pcm16":
                by_field[f"{field}.pcm16"] = Clip(clip.pcm16.samples, clip.pcm16.sample_rate)
            case _:
                raise InvalidArgument.field(field, "has neither encoded nor pcm16 audio")
    return by_field


async def decode_clips(clips: Mapping[str, Clip], rate: int, limits: Limits) -> list[Samples]:
    """Decode clips, given by the names of their fields, to int16 `[T]` at `rate`; stereo is averaged.

    The limit of seconds holds for all clips together. It is applied while decoding, so that a small file which would
    decode to hours costs no more than one of the allowed length.

    Raises:
        InvalidArgument: a clip is empty, too long, not audio, or has a rate or number of channels that is not served;
            names its field.
    """
    started = time.monotonic()
    seconds_left = float(limits.audio_seconds)
    arrays: list[Samples] = []
    for field, clip in clips.items():
        if len(clip.content) <= INLINE_BYTES and (clip.sample_rate is not None or is_wav(clip.content)):
            samples = decode(clip, rate, seconds_left, limits, field)
        else:
            samples = await pools.codecs.run(decode, clip, rate, seconds_left, limits, field)
        seconds_left -= len(samples) / rate
        arrays.append(samples)
    decoded("audio", started)
    return arrays


def decode(clip: Clip, rate: int, seconds_left: float, limits: Limits, field: str) -> Samples:
    """Decode one clip to int16 `[T]` at `rate`.

    Args:
        seconds_left: how long it may last.

    Raises:
        InvalidArgument: see `decode_clips`.
    """
    if not clip.content:
        raise InvalidArgument.field(field, "has no bytes")
    if len(clip.content) > limits.audio_bytes:
        raise InvalidArgument.field(field, f"has {len(clip.content):,} bytes; the most is {limits.audio_bytes:,}")
    if clip.sample_rate is None:
        from_rate, blocks = _open(clip.content, field)
        resampler = Resampler(from_rate, rate, field)
    else:
        from_rate, blocks = clip.sample_rate, iter([pcm16(clip.content, f"{field}.samples")])
        resampler = Resampler(from_rate, rate, f"{field}.sample_rate")
    frames_left = int(seconds_left * from_rate)
    pieces = []
    for block in blocks:
        frames_left -= len(block)
        if frames_left < 0:
            most = f"the clips of one request may last {limits.audio_seconds} seconds together"
            raise InvalidArgument.field(field, f"is too long; {most}")
        pieces.append(resampler.add(block))
    pieces.append(resampler.add(np.empty(0, np.float32), last=True))
    samples = np.concatenate(pieces)
    if not len(samples):
        raise InvalidArgument.field(field, "has no samples")
    return samples


def pcm16(content: bytes, field: str) -> NDArray[np.float32]:
    """Signed 16-bit little-endian samples as float32, full scale 1.

    Raises:
        InvalidArgument: the last sample is incomplete.
    """
    if len(content) % 2:
        raise InvalidArgument.field(field, f"has {len(content)} bytes; a sample is two, little-endian")
    return np.frombuffer(content, "<i2").astype(np.float32) / np.float32(FULL_SCALE)


class Resampler:
    """Resamples mono samples that arrive in pieces to int16 at another rate; the result does not depend on the pieces.

    Raises:
        InvalidArgument: the rate is not served; names `field`.
    """

    def __init__(self, from_rate: int, to_rate: int, field: str) -> None:
        if not LOWEST_RATE <= from_rate <= HIGHEST_RATE:
            raise InvalidArgument.field(field, f"{from_rate} Hz is not served; {LOWEST_RATE} to {HIGHEST_RATE} Hz are")
        self._stream = None if from_rate == to_rate else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")

    def add(self, samples: NDArray[np.float32], last: bool = False) -> Samples:
        """Add samples, full scale 1, and return the resampled samples that no later input can change."""
        resampled = samples if self._stream is None else self._stream.resample_chunk(samples, last)
        return (resampled * FULL_SCALE).round().clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """An audio file that is read from start to end, since a FLAC file of unknown length does not allow seeking."""

    def seekable(self) -> bool:
        return False


def _open(content: bytes, field: str) -> tuple[int, Blocks]:
    """Rate and mono blocks of an audio file."""
    if not is_recording(content):  # libsndfile reads many more formats, which are not part of the contract
        what = f"is not a {', '.join(FORMATS)} file; it looks like {kind_of(content).name}"
        raise InvalidArgument.field(field, what)
    try:
        file = _Stream(io.BytesIO(readable(content)))
    except CutError as error:
        raise InvalidArgument.field(field, f"is truncated or corrupt: {error}") from None
    except soundfile.LibsndfileError as error:
        raise InvalidArgument.field(field, f"cannot be read as audio: {error.error_string}") from None
    if file.channels > MOST_CHANNELS:
        raise InvalidArgument.field(field, f"has {file.channels} channels; the most is {MOST_CHANNELS}")
    return file.samplerate, _blocks(file, field)


def _blocks(file: soundfile.SoundFile, field: str) -> Blocks:
    """Mono blocks of one second each."""
    read = 0
    while True:
        try:
            block = file.read(file.samplerate, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            reason = error.error_string or "its decoder stopped"
            raise InvalidArgument.field(field, f"is truncated or corrupt: {reason}") from None
        if not len(block):
            break
        if not np.isfinite(block).all():
            raise InvalidArgument.field(field, "has samples that are not finite numbers")
        read += len(block)
        yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    if file.format in COUNTED and read < file.frames < UNKNOWN_FRAMES:
        raise InvalidArgument.field(field, f"is truncated or corrupt: it has {read} of {file.frames} samples")
