"""What answers are given with: reasons to doubt them, as messages of the contract."""

from __future__ import annotations

from lectern.v1 import notice_pb2 as pb


def language(model: str, looks: str | None, field: str) -> list[pb.Notice]:
    """That a text does not look like the English that `model` reads but like `looks`; nothing if that is None."""
    if looks is None:
        return []
    text = f"does not look like English, which {model} reads, but like {looks}: the answer may mean nothing"
    return [pb.Notice(code=pb.NOTICE_CODE_LANGUAGE, text=text, field=field)]
