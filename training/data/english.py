"""English text of many kinds, four million words, to learn words from.

Captions of photos, two Bibles, encyclopedias, forums, reviews, mails, short messages and requests: of the sources that
other models learn from what they train on, and nothing that they are tested with; and pages of Wikipedia, which lie in
gensim's package.
"""

from __future__ import annotations

import bz2
import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from artifacts.card import DataSource
from training.data import entailment, mails, qamr, questions, sentiments, snips, sword, web_treebank, word_tests
from training.data.fetch import Source
from training.data.questions import Question

PAGES = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
FEWEST_WORDS = 8  # of a line of a page that is running text

_PAGE = re.compile(r"<text[^>]*>(.*?)</text>", re.DOTALL)
_DROPPED = re.compile(r"<!--.*?-->|<ref[^>/]*/>|<(ref|math)\b.*?</\1>|\{\|.*?\|\}", re.DOTALL)
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_LINK = re.compile(r"\[\[(?:[^][|:]*\|)?([^][|:]*)\]\]")
_MARKS = re.compile(r"<[^>]*>|'{2,}|\[\[.*?\]\]|\[https?:\S*")
_DEPTH = 4  # of templates within templates


@dataclass(frozen=True)
class English:
    """Texts, each a sentence, a paragraph or a mail, and where they are from."""

    texts: tuple[str, ...]
    sources: tuple[DataSource, ...]


def load() -> English:
    """All of it, fetched on first use (75 MB)."""
    texts, sources = list[str](), list[DataSource]()
    for source, read in _sources():
        own = list(dict.fromkeys(read))
        texts += own
        sources.append(source.card_entry(len(own), 0, 0))
    return English(tuple(texts), tuple(sources))


def load_sliver(path: Path) -> English:
    """The few texts of a file."""
    return English(tuple(json.loads(path.read_text())["texts"]), ())


def pages(markup: str) -> Iterator[str]:
    """The paragraphs of Wikipedia's pages, without their markup."""
    for page in _PAGE.findall(markup):
        text = _DROPPED.sub("", html.unescape(html.unescape(page)))
        for _ in range(_DEPTH):
            text = _TEMPLATE.sub("", text)
        for line in _MARKS.sub("", _LINK.sub(r"\1", text)).splitlines():
            if len(line.split()) >= FEWEST_WORDS and line[0] not in "|!{=:;":
                yield line.lstrip("*# ")


def _sources() -> Iterator[tuple[Source, Iterable[str]]]:
    """Each source with its texts; of those that are published to test with, what the other models train on."""
    pairs = entailment.load().train
    yield entailment.SOURCE, (*pairs.premises, *pairs.hypotheses)
    for bible in (sword.KJV, sword.WEB):
        yield bible, sword.read(bible).values()
    for source in questions.SHIFTS:
        yield source, _asked(questions.load_shifts(source).train)
    yield questions.XQUAD, _asked(questions.load_xquad().train)
    yield qamr.SENTENCES, (sentence.text for sentence in qamr.load_sentences().values())
    letters = mails.load().train
    yield mails.SOURCE, (text for text, _, kind in letters.items() if kind not in (mails.MESSAGE, mails.DOCUMENT))
    yield mails.MESSAGES, (text for text, _, kind in letters.items() if kind == mails.MESSAGE)
    yield web_treebank.SOURCE, (text for _, text in web_treebank.documents())
    yield sentiments.SOURCE, (text for text, _, kind in sentiments.load().train.items() if kind in sentiments.FILES)
    yield snips.SOURCE, (request.text for request in snips.load().train)
    yield word_tests.SOURCE, pages(bz2.decompress((word_tests.directory() / PAGES).read_bytes()).decode())


def _asked(asked: Iterable[Question]) -> Iterator[str]:
    """Contexts and questions."""
    for question in asked:
        yield from (question.context, question.question)
