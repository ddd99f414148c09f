"""What loaders make of mails, sentiments and questions."""

from __future__ import annotations

import numpy as np

from training.data import mails, sentiments
from training.data.labelled_texts import split_of
from training.data.qamr import Retrieval, on_sentence, written
from training.data.questions import Question, unanswerable, without_answers

MAIL = """On Mon, 12 Aug 2002, Craig wrote:
> Shall we meet?

Yes, at noon.
--
Gary, TeleDynamics
http://example.org/mailman/listinfo/fork
"""


def test_a_mail_is_read_without_what_mailing_lists_leave_in_it() -> None:
    assert mails.without_furniture(MAIL).split() == ["Yes,", "at", "noon."]
    assert mails.without_furniture("Buy now!\nhttps://example.org/offer") == "Buy now!\nhttps://example.org/offer"


def test_sentences_of_negation_and_contrast_are_of_both_signs_and_always_the_same() -> None:
    made = list(sentiments.negations_and_contrasts(200))
    assert made == list(sentiments.negations_and_contrasts(200))
    assert sorted({label for _, label, _ in made}) == [sentiments.NEGATIVE, sentiments.POSITIVE]
    assert {"not", "but"} <= {word for text, _, _ in made for word in text.split()}


def test_neutral_is_what_raters_score_near_nothing() -> None:
    scored = [("a", -2.0, ""), ("b", -0.3, ""), ("c", 0.0, ""), ("d", 0.31, "")]
    classes = [label for _, label, _ in sentiments.labelled(scored)]
    assert classes == [sentiments.NEGATIVE, sentiments.INDIFFERENT, sentiments.INDIFFERENT, sentiments.POSITIVE]
    scores = np.array([score for _, score, _ in scored])
    signed, positive = sentiments.of_sign(split_of(sentiments.labelled(scored)), scores)
    assert signed.texts == ("a", "b", "d")
    assert positive.tolist() == [0, 0, 1]


def test_a_question_on_a_sentence_has_its_answer_in_the_text_as_it_is_written() -> None:
    tokens = {
        "Wiki:1:0:0": ["He", "was", "born", "-LRB-", "in", "Graz", "-RRB-", "."],
        "Wiki:1:0:1": ["She", "did", "n't", "know", "him", ",", "it", "'s", "said", "."],
        "Wiki:1:1:0": ["They", "met", "twice", "."],
    }
    line = "Wiki:1:0:0\t1\t5\t0\t0\tWhere was he born?\t4 5\t1:4 5"
    sentences = {name: written(name, of_sentence) for name, of_sentence in tokens.items()}
    question = on_sentence(line, sentences, {"Wiki:1": list(tokens)})
    assert "He was born (in Graz)." in question.context
    assert question.answers == ("in Graz",)
    ((start, end),) = question.spans
    assert question.context[start:end] == "in Graz"
    assert "did n't" not in question.context


CONTEXT = "Ada moved to Lima. The library opened in 1901. It has (it says) 3,000 books."


def asked(question: str, answer: str, context: str = CONTEXT) -> Question:
    start = context.index(answer)
    return Question(question, context, ((start, start + len(answer)),), (answer,), "an article")


def test_a_context_without_its_answers_speaks_of_the_same() -> None:
    assert without_answers(asked("When?", "1901")) == "Ada moved to Lima. It has (it says) 3,000 books."
    assert without_answers(asked("Where?", "Lima", "Ada moved to Lima.")) == ""


def test_an_unanswerable_question_has_a_context_without_any_of_its_answers() -> None:
    questions = [asked(f"When was it, {i}?", "1901", f"It opened in 1901. It is {i} years old.") for i in range(20)]
    made = unanswerable([*questions, asked("Where?", "Lima")], 1)
    assert len(made) > 5
    assert {question.spans for question in made} == {()}
    assert not any("1901" in question.context for question in made if "When" in question.question)


def test_a_search_finds_what_has_few_better_ones() -> None:
    data = Retrieval(("a", "b", "c"), ("x", "y"), np.array([0, 2]))
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    assert data.found(scores, 1).tolist() == [True, False]
    assert data.found(scores, 3).tolist() == [True, True]
