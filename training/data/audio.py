"""Sound files as mono int16 at the 16 kHz that speech models take, and the FLAC that slivers keep them in."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE = 16_000
TELEPHONE_RATE = 8_000

Samples = NDArray[np.int16]


def read(path: Path) -> Samples:
    """Samples int16 [T] of a file that libsndfile knows, or of Asterisk's headerless GSM."""
    if path.suffix == ".gsm":
        samples, rate = soundfile.read(
            path, dtype="int16", format="RAW", subtype="GSM610", samplerate=TELEPHONE_RATE, channels=1
        )
    else:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        samples = samples.mean(axis=1).round().astype(np.int16)
    return resample(samples, rate, RATE)


def resample(samples: Samples, rate: int, to_rate: int) -> Samples:
    """Samples int16 [T] at another rate."""
    resampled: Samples = samples if rate == to_rate else soxr.resample(samples, rate, to_rate)
    return resampled


def pack(clips: Sequence[Samples]) -> dict[str, NDArray[np.generic]]:
    """Clips as arrays for an `.npz`: one FLAC file of all, and the length of each."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate(clips), RATE, format="FLAC")
    lengths = np.array([len(clip) for clip in clips])
    return {"flac": np.frombuffer(buffer.getvalue(), np.uint8), "lengths": lengths}


def unpack(flac: NDArray[np.uint8], lengths: NDArray[np.int64]) -> list[Samples]:
    """The clips that `pack` was given."""
    samples, _ = soundfile.read(io.BytesIO(flac.tobytes()), dtype="int16")
    return np.split(samples, np.cumsum(lengths)[:-1])
