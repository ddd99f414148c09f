"""Texts that `lectern classify` is given: as arguments, and as files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lectern.cli.output import check_text

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.v1.classify_pb2 import ClassifyTextResponse


def classify_files(
    client: Client, contents: Sequence[bytes], model: str, version: int, top_k: int
) -> ClassifyTextResponse:
    """Classify the texts of files, without the mark that some editors begin a file with."""
    return client.classify_text([content.decode("utf-8-sig") for content in contents], model, version, top_k)


def classify_arguments(
    client: Client, texts: Sequence[str], model: str, version: int, top_k: int
) -> ClassifyTextResponse:
    """Classify texts of the command line.

    Raises:
        typer.Exit: one is not UTF-8.
    """
    for text in texts:
        check_text(text)
    return client.classify_text(texts, model, version, top_k)
