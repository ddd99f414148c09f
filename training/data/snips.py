"""Requests to a voice assistant, each with what it wants and the parts that say of what.

SNIPS (Coucke et al., "Snips Voice Platform", 2018): seven intents, 39 slots. Its validation files, a hundred requests
of each intent, are the test split, as in the literature; of its training files, a tenth by hash validates.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.fetch import GitHubFiles
from training.data.hashing import bucket
from training.data.tags import Slot

INTENTS = (
    "AddToPlaylist",
    "BookRestaurant",
    "GetWeather",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
)
SOURCE = GitHubFiles(
    name="sonos/nlu-benchmark/2017-06-custom-intent-engines",
    version="b86ac7f1577868c42158d0dec77db50956046696",
    sha256="3449af8f401bc6fe82bbfeb680c6f933cbc7f9c3a9d5a80bc4fff309bfd1c485",
    licence="CC0-1.0",
    files=tuple(
        name
        for intent in INTENTS
        for name in (f"{intent}/train_{intent}_full.json", f"{intent}/validate_{intent}.json")
    ),
)


_AS_LATIN = "lectern-latin-1"
codecs.register_error(_AS_LATIN, lambda error: (error.object[error.start : error.end].decode("latin-1"), error.end))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Request:
    """A sentence, its intent and its slots, in order."""

    text: str
    intent: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Requests:
    train: tuple[Request, ...]
    validation: tuple[Request, ...]
    test: tuple[Request, ...]

    @property
    def slots(self) -> tuple[str, ...]:
        """Every slot of the training requests, sorted."""
        return tuple(sorted({slot.label for request in self.train for slot in request.slots}))


def load() -> Requests:
    """The data set, fetched on first use (4 MB)."""
    directory = SOURCE.fetch()
    learned = [r for intent in INTENTS for r in read(directory / intent / f"train_{intent}_full.json")]
    test = [r for intent in INTENTS for r in read(directory / intent / f"validate_{intent}.json")]
    tested = {request.text for request in test}
    train, validation = list[Request](), list[Request]()
    for request in learned:
        if request.text not in tested:
            (validation if bucket(request.text, 10) == 1 else train).append(request)
    return Requests(tuple(train), tuple(validation), tuple(test))


def load_sliver(path: Path) -> Requests:
    """A committed sliver of training requests, split 80/10/10 in turns."""
    requests = tuple(request_of(intent, pieces) for intent, pieces in json.loads(path.read_text()))
    train = tuple(request for i, request in enumerate(requests) if i % 10 > 1)
    return Requests(train, requests[1::10], requests[::10])


def read(path: Path) -> Iterator[Request]:
    """The requests of one file; in some, a few lines are Latin-1 among those in UTF-8."""
    ((intent, requests),) = json.loads(path.read_bytes().decode(errors=_AS_LATIN)).items()
    for request in requests:
        yield request_of(intent, request["data"])


def request_of(intent: str, pieces: Iterable[dict[str, str]]) -> Request:
    """A request from pieces of its text, those of a slot with its name as `entity`."""
    text, slots = "", list[Slot]()
    for piece in pieces:
        start = len(text)
        text += piece["text"]
        if "entity" in piece:
            slots.append(Slot(piece["entity"], start, len(text)))
    return Request(text, intent, tuple(slots))
