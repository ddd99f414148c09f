"""Notices: reasons to doubt an answer, sent with it."""

from __future__ import annotations

from lectern.v1 import notice_pb2 as pb


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


def form_not_kept(form: str) -> pb.Notice:
    """The notice that a text is not in the form that was asked for."""
    return pb.Notice(code=pb.NOTICE_CODE_FORM_NOT_KEPT, text=f"the lines are not those of {form}", field="form")
