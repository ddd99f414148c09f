"""Models with their versions and cards as documents: as a server lists them, or as they lie in a directory."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lectern.cli.cards import card, state
from lectern.cli.output import WRONG_USAGE, as_document, fail
from lectern.names import unknown

if TYPE_CHECKING:
    from lectern.client import Client

Document = dict[str, Any]
CARD = "card.json"
ON_DISK = "on disk"  # the state of a version that no server was asked about
_HOMEWORK = re.compile(r"hw *0*(\d+)", re.IGNORECASE)


def served_models(client: Client) -> list[Document]:
    """Each model of a server, as ListModels has it, with each version's `state` as a word and its `card`."""
    documents = []
    for model in client.list_models(include_cards=True).models:
        document = as_document(model)
        for entry, version in zip(document["versions"], model.versions, strict=True):
            entry |= {"state": state(version), "card": card(version)}
        documents.append(document)
    return documents


def models_on_disk(repository: Path) -> list[Document]:
    """The same of the models in a directory that have a card; what the newest card says stands for the model."""
    documents = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        numbers = [int(path.parent.name) for path in folder.glob(f"*/{CARD}") if path.parent.name.isdecimal()]
        versions: list[Document] = [
            {"version": number, "state": ON_DISK, "reason": "", "card": _read(folder / str(number) / CARD)}
            for number in sorted(numbers, reverse=True)
        ]
        if versions:
            newest = versions[0]["card"]
            about = {key: newest.get(key, "") for key in ("title", "lecture", "capability")}
            documents.append({"name": folder.name, **about, "versions": versions})
    return documents


def of_name(documents: Sequence[Document], name: str) -> list[Document]:
    """The model of this name, or those of this homework (`HW7`) or lecture.

    Raises:
        typer.Exit: there is none.
    """
    homework = _HOMEWORK.fullmatch(name.strip())
    lecture = f"HW{homework[1]}" if homework else name
    chosen = [one for one in documents if name == one["name"] or lecture.lower() == one["lecture"].lower()]
    if not chosen:
        names = [one["name"] for one in documents]
        lectures = sorted({one["lecture"] for one in documents} - {""}, key=lambda one: (len(one) > 4, len(one), one))
        fail(unknown("model or homework", name, [*names, *lectures]))
    return chosen


def shown_version(document: Document, number: int = 0) -> Document:
    """The version of a model that answers, else its newest; or the one of this number.

    Raises:
        typer.Exit: there is no such version.
    """
    versions: list[Document] = document["versions"]
    if number:
        versions = [one for one in versions if one["version"] == number]
        if not versions:
            present = ", ".join(str(one["version"]) for one in document["versions"])
            fail(f"{document['name']} has no version {number}; it has: {present or 'none'}")
    return next((one for one in versions if one["state"] == "ready"), versions[0])


def _read(path: Path) -> Document:
    """A card.

    Raises:
        typer.Exit: it is no JSON document, or cannot be read.
    """
    try:
        document: Document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        fail(f"{path}: {error}", WRONG_USAGE)
    return document
