"""Which model a file is for, by its content."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lectern.cli.output import fail
from lectern.kinds import NotTextError, decode_text, kind_of

Taken = Literal["image", "audio", "text"]
MEDIA: dict[str, Taken] = {"image": "image", "audio": "audio", "text": "text"}
TAKEN = "pictures (PNG, JPEG, WebP), recordings (WAV, FLAC, OGG, MP3) and texts (UTF-8)"


def medium_of(file: Path, content: bytes) -> Taken:
    """What a file is to a model.

    Raises:
        typer.Exit: it is nothing that a model of pictures, recordings or texts takes; says what it looks like.
    """
    kind = kind_of(content)
    medium = MEDIA.get(kind.medium)
    if kind.medium == "nothing":
        fail(f"{file}: is empty")
    if medium is None:
        advice = "`lectern predict` reads its rows" if kind.medium == "table" else f"models take {TAKEN}"
        fail(f"{file}: looks like {kind.name}; {advice}")
    return medium


def text_of(file: Path, content: bytes) -> str:
    """The text of a file.

    Raises:
        typer.Exit: it is in another encoding than Unicode's; says where it shows, and how to convert it.
    """
    try:
        return decode_text(content)
    except NotTextError as error:
        fail(f"{file}: {error}")
