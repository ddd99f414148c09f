"""What the text encoder learns from: the data sets of all of its tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from artifacts.card import DataSource
from training.data import entailment, mails, qamr, questions, sentiments, sword, web_treebank
from training.data.entailment import Entailment
from training.data.labelled_texts import LabelledTexts
from training.data.qamr import Retrieval
from training.data.questions import Question, Questions
from training.data.web_treebank import Treebank

MAIL_CHARACTERS = 4000  # of each mail, from its beginning, that training reads


@dataclass(frozen=True)
class Data:
    """The data sets that the encoder learns from."""

    bible: Questions
    qamr: Questions
    encyclopedia: tuple[Questions, ...]
    posts: tuple[Questions, ...]
    sentiments: LabelledTexts
    mails: LabelledTexts
    entailment: Entailment
    treebank: Treebank
    search: tuple[Retrieval, Retrieval]
    retrieval: Retrieval

    @property
    def human(self) -> tuple[Questions, ...]:
        """Questions that people asked of longer texts."""
        return *self.encyclopedia, *self.posts

    def texts(self) -> Iterator[str]:
        """Every training text."""
        for part in (self.bible, self.qamr, *self.human):
            for question in part.train:
                yield from (question.question, question.context)
        yield from self.sentiments.train.texts
        yield from (mail[:MAIL_CHARACTERS] for mail in self.mails.train.texts)
        yield from (*self.entailment.train.premises, *self.entailment.train.hypotheses)
        yield from (sentence.text for sentence in self.treebank.train)

    def sentences(self) -> list[str]:
        """Distinct training sentences and questions."""
        asked = (question.question for part in (self.qamr, *self.human) for question in part.train)
        pairs = (*self.entailment.train.premises, *self.entailment.train.hypotheses)
        contexts = (sentence for question in self.qamr.train for sentence in question.context.split(". "))
        return list(dict.fromkeys((*asked, *pairs, *contexts)))


def load() -> Data:
    """Everything, fetched on first use (60 MB)."""
    return Data(
        questions.load_bible(),
        qamr.load(),
        (questions.load_xquad(), questions.load_shifts(questions.WIKI)),
        (questions.load_shifts(questions.REDDIT), questions.load_shifts(questions.REVIEWS)),
        sentiments.load(),
        mails.load(),
        entailment.load(),
        web_treebank.load(),
        qamr.load_search(),
        qamr.load_retrieval(),
    )


def load_sliver(path: Path) -> Data:
    """The committed slivers of the models that stand on it."""
    bible, xquad = questions.load_sliver(path.with_name("question_answerer.json"))
    return Data(
        bible,
        xquad,
        (xquad,),
        (),
        sentiments.load_sliver(path.with_name("sentiment_classifier.json")),
        mails.load_sliver(path.with_name("spam_classifier.json")),
        entailment.load_sliver(path.with_name("entailment_classifier.json")),
        web_treebank.load_sliver(path.with_name("pos_tagger.json")),
        (qamr.retrieval_of(xquad.train), qamr.retrieval_of(xquad.validation)),
        qamr.retrieval_of(xquad.test),
    )


def human_validation(data: Data) -> tuple[Question, ...]:
    """Validation questions of people, some of each set."""
    xquad, *shifts = data.human
    return (*xquad.validation, *(q for part in shifts for q in part.validation[::4]), *data.qamr.validation[::16])


def sources(data: Data) -> tuple[DataSource, ...]:
    """What the card says about the data."""
    xquad, wiki = data.encyclopedia[0], data.encyclopedia[-1]
    posts = zip((questions.REDDIT, questions.REVIEWS), data.posts, strict=False)
    return tuple(
        source.entry_of(part)
        for source, part in (
            (sword.KJV, data.bible),
            (sword.WEB, data.bible),
            (questions.XQUAD, xquad),
            (questions.WIKI, wiki),
            *posts,
            (qamr.DEVELOPMENT, data.qamr),
            (sentiments.SOURCE, data.sentiments),
            (mails.SOURCE, data.mails),
            (entailment.SOURCE, data.entailment),
            (web_treebank.SOURCE, data.treebank),
        )
    )
