"""The English Web Treebank of Universal Dependencies: blogs, news groups, mails, reviews and answers.

Silveira et al., "A Gold Standard Dependency Corpus for English" (2014).
"""

from __future__ import annotations

from collections.abc import Iterator

from training.data.fetch import GitHub

SOURCE = GitHub(
    name="UniversalDependencies/UD_English-EWT/en_ewt-ud-dev.conllu",
    version="15d613d8447b3478787d4c278730a1e48a945efb",
    sha256="531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6",
    licence="CC BY-SA 4.0",
)
_DOCUMENT, _TEXT = "# newdoc id = ", "# text = "


def documents() -> Iterator[tuple[str, str]]:
    """The kind of each document, such as `email`, and its text, fetched on first use (2 MB)."""
    kind, sentences = "", list[str]()
    for line in (SOURCE.fetch() / "en_ewt-ud-dev.conllu").read_text().splitlines():
        if line.startswith(_DOCUMENT):
            if sentences:
                yield kind, " ".join(sentences)
            kind, sentences = line.removeprefix(_DOCUMENT).partition("-")[0], []
        elif line.startswith(_TEXT):
            sentences.append(line.removeprefix(_TEXT))
    yield kind, " ".join(sentences)
