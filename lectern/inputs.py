"""What methods of the clients take, as parts of request messages: files, recordings, rows, and what is explained.

Functions raise `TypeError` or `ValueError` for values of the wrong type or shape, and `OSError` for a file that cannot
be read. The server checks the rest: that an image can be decoded, that a row has as many features as the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from lectern.channel import MAX_CONTENT_BYTES
from lectern.v1 import classify_pb2, explain_pb2

File: TypeAlias = bytes | str | os.PathLike[str]
"""The bytes of a file, or its path."""

Files: TypeAlias = File | Sequence[File]

Samples: TypeAlias = tuple[ArrayLike, int]
"""Mono int16 samples `[T]` and their rate in Hz, as `soundfile.read(path, dtype="int16")` returns them."""

Clip: TypeAlias = File | Samples
Clips: TypeAlias = Clip | Sequence[Clip]

Piece: TypeAlias = ArrayLike | bytes
"""Mono int16 samples `[T]`, or their little-endian bytes, that follow those of the piece before."""

Texts: TypeAlias = str | Sequence[str]
Pair: TypeAlias = tuple[str, str]


def as_list(texts: Texts) -> Sequence[str]:
    """One text or several, as a sequence."""
    return [texts] if isinstance(texts, str) else texts


def read_files(files: Files) -> list[bytes]:
    """Read one file or several; their sizes are checked before they are read.

    Raises:
        ValueError: together they are larger than a request may be.
    """
    free_bytes, contents = MAX_CONTENT_BYTES, []
    for file in [files] if isinstance(files, (bytes, str, os.PathLike)) else files:
        size = len(file) if isinstance(file, bytes) else Path(file).stat().st_size
        if size > free_bytes:
            name = "the bytes" if isinstance(file, bytes) else os.fspath(file)
            raise ValueError(
                f"{name}: {size:,} bytes are too many; the files of one request may have {MAX_CONTENT_BYTES:,}"
            )
        contents.append(file if isinstance(file, bytes) else Path(file).read_bytes())
        free_bytes -= len(contents[-1])
    return contents


def read_labelled(images: Mapping[str, Files]) -> list[dict[str, Any]]:
    """Read images by label; each becomes the fields `image` and `label` of a message."""
    return [{"image": image, "label": label} for label, files in images.items() for image in read_files(files)]


def read_clip(clip: Clip) -> classify_pb2.AudioClip:
    """Read a recording: a file, or samples with their rate."""
    if not isinstance(clip, tuple):
        return classify_pb2.AudioClip(encoded=read_files(clip)[0])
    samples, sample_rate = clip
    pcm16 = classify_pb2.Pcm16Audio(samples=sample_bytes(samples), sample_rate=sample_rate)
    return classify_pb2.AudioClip(pcm16=pcm16)


def read_clips(clips: Clips) -> list[classify_pb2.AudioClip]:
    """Read one recording or several."""
    several: Sequence[Any] = [clips] if isinstance(clips, (bytes, str, os.PathLike, tuple)) else clips
    return [read_clip(clip) for clip in several]


def sample_bytes(samples: Piece) -> bytes:
    """Samples as little-endian bytes.

    Raises:
        ValueError: they are not int16 `[T]`.
    """
    if isinstance(samples, bytes):
        return samples
    values = np.asarray(samples)
    if values.dtype != np.int16 or values.ndim != 1:
        raise ValueError(f"samples must be int16 [T], not {values.dtype} {list(values.shape)}")
    return values.astype("<i2").tobytes()


def feature_rows(values: ArrayLike, name: str = "rows") -> list[dict[str, list[float]]]:
    """One row `[F]` or rows `[N, F]`; each becomes the field `features` of a message.

    Raises:
        ValueError: the array has another number of dimensions, or rows of different lengths.
    """
    table = np.asarray(values, dtype=np.float32)
    if table.ndim not in (1, 2):
        raise ValueError(f"{name} must be one row [F] or rows [N, F], not an array of {table.ndim} dimensions")
    if table.ndim == 1:
        table = table.reshape(-1, len(table)) if len(table) else table.reshape(0, 0)  # `[]` is no rows
    return [{"features": row} for row in table.tolist()]


def labelled_rows(values: ArrayLike, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Rows `[S, F]` and the class of each; each becomes the fields `features` and `label` of a message.

    Raises:
        ValueError: there is another number of labels, or the array has another number of dimensions.
    """
    rows = feature_rows(values, "examples")
    if len(rows) != len(labels):
        raise ValueError(f"there are {len(rows)} examples and {len(labels)} labels: each example needs its own")
    return [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]


def explained_input(
    image: File | None = None,
    row: ArrayLike | None = None,
    text: str | None = None,
    question: str = "",
    audio: Clip | None = None,
    span: tuple[float, float] = (0, 0),
) -> explain_pb2.ExplainedInput:
    """The one input that is explained; arguments as of `lectern.Client.explain`.

    Raises:
        ValueError: there is none or more than one, or `question` or `span` belongs to another kind of input.
    """
    if sum(value is not None for value in (image, row, text, audio)) != 1:
        raise ValueError("give one of them: an image, a row, a text or audio")
    if question and text is None:
        raise ValueError("a question needs a text")
    if any(span) and audio is None:
        raise ValueError("a span needs audio")
    if audio is not None:
        explained = explain_pb2.ExplainedAudio(clip=read_clip(audio), start_seconds=span[0], end_seconds=span[1])
        return explain_pb2.ExplainedInput(audio=explained)
    if text is not None:
        return explain_pb2.ExplainedInput(text=explain_pb2.ExplainedText(text=text, question=question))
    if image is not None:
        return explain_pb2.ExplainedInput(image=read_files(image)[0])
    (features,) = feature_rows(row, "row")  # type: ignore[arg-type]  # the one that is not None
    return explain_pb2.ExplainedInput(row=explain_pb2.ExplainedRow(**features))
