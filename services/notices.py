"""Notices: reasons to doubt an answer, sent with it."""

from __future__ import annotations

from collections.abc import Sequence

from lectern.v1 import notice_pb2 as pb
from services.excerpt import excerpt

WORDS_BYTES = 300  # of the words that a notice names


def language(model: str, looks: str | None, field: str) -> list[pb.Notice]:
    """The notice that a text looks like `looks` and not like English, which `model` reads; none if `looks` is None."""
    if looks is None:
        return []
    text = f"does not look like English, which {model} reads, but like {looks}: the answer may mean nothing"
    return [pb.Notice(code=pb.NOTICE_CODE_LANGUAGE, text=text, field=field)]


def unsure(probability: float, least: float, field: str) -> list[pb.Notice]:
    """The notice that a probability is lower than `least`, below which a model is unsure; none otherwise."""
    if probability >= least:
        return []
    text = f"the model is unsure: its best answer has a probability of {probability:.2f}, less than {least:.2f}"
    return [pb.Notice(code=pb.NOTICE_CODE_UNSURE, text=text, field=field)]


def left_out(model: str, characters: str, field: str) -> list[pb.Notice]:
    """The notice that `model` has no tokens for some characters of a text; none if there are none."""
    if not characters:
        return []
    text = f"has characters that {model} cannot read, which were left out: {characters}"
    return [pb.Notice(code=pb.NOTICE_CODE_LEFT_OUT, text=text, field=field)]


def left_out_words(model: str, words: str, field: str) -> list[pb.Notice]:
    """The notice that the vocabulary of `model` lacks some words of a text; none if there are none."""
    if not words:
        return []
    text = f"has words that {model} does not know, which were left out: {words}"
    return [pb.Notice(code=pb.NOTICE_CODE_LEFT_OUT, text=text, field=field)]


def forgotten(model: str, count: int, most: int, field: str) -> list[pb.Notice]:
    """The notice that `model` remembers only the latest `most` of `count` sentences; none if those are all."""
    if count <= most:
        return []
    text = f"{model} remembers the latest {most} sentences; the first {count - most} were left out"
    return [pb.Notice(code=pb.NOTICE_CODE_LEFT_OUT, text=text, field=field)]


def unknown_words(model: str, words: Sequence[str], told_apart: int) -> list[pb.Notice]:
    """The notice that `model` has never seen some words, of which it can tell the first `told_apart` from each other;
    none if there are no such words."""
    if not words:
        return []
    text = f"has words that {model} has never seen, which it takes for names: {excerpt(', '.join(words), WORDS_BYTES)}"
    if len(words) > told_apart:
        text += f"; it tells only the first {told_apart} apart"
    return [pb.Notice(code=pb.NOTICE_CODE_UNKNOWN_WORDS, text=text)]


def left_out_rows(count: int, most: int, field: str) -> list[pb.Notice]:
    """The notice that a model looked at `most` of `count` rows; none if those are all."""
    if count <= most:
        return []
    text = f"the answers go by {most} of the {count} rows, of each class about the same share"
    return [pb.Notice(code=pb.NOTICE_CODE_LEFT_OUT, text=text, field=field)]


def left_out_columns(names: Sequence[str], field: str) -> list[pb.Notice]:
    """The notice that columns are the same in all examples; none if there are no such columns."""
    if not names:
        return []
    text = f"these columns are the same in all examples, and say nothing: {excerpt(', '.join(names), WORDS_BYTES)}"
    return [pb.Notice(code=pb.NOTICE_CODE_LEFT_OUT, text=text, field=field)]


def out_of_range(columns: Sequence[str], field: str) -> list[pb.Notice]:
    """The notice that a row is far from all examples in some columns; none if there are no such columns."""
    if not columns:
        return []
    text = f"is far from all examples in: {excerpt(', '.join(columns), WORDS_BYTES)}"
    return [pb.Notice(code=pb.NOTICE_CODE_OUT_OF_RANGE, text=text, field=field)]


def unlike_training(how: str, field: str) -> pb.Notice:
    """The notice that a row is unlike those that a model learned from."""
    text = f"is unlike the rows that the model learned from: {excerpt(how, WORDS_BYTES)}"
    return pb.Notice(code=pb.NOTICE_CODE_OUT_OF_RANGE, text=text, field=field)


def form_not_kept(form: str) -> pb.Notice:
    """The notice that a text is not in the form that was asked for."""
    return pb.Notice(code=pb.NOTICE_CODE_FORM_NOT_KEPT, text=f"the lines are not those of {form}", field="form")
