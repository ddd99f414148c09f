"""What a text model's last layer looks at: the weights of its attention, in place of what changes its answer."""

from __future__ import annotations

from lectern.v1 import explain_pb2 as pb
from services.errors import InvalidArgument
from services.explain.attribution import Attribution
from services.explain.subjects import Subject
from services.explain.texts import TextKind
from services.limits import Limits


async def attention(subject: Subject, method: pb.Attention, seed: int, limits: Limits) -> Attribution:
    """The share of the last layer's attention that each word gets.

    Raises:
        InvalidArgument: it is no text, or the model was exported without its attention.
    """
    name = subject.model.card.name
    if not isinstance(subject.kind, TextKind):
        raise InvalidArgument.field("method", f"is for texts, which {name} does not take")
    if subject.kind.attention is None:
        raise InvalidArgument.field("method", f"is not for {name}, which was exported without its attention")
    return Attribution(await subject.kind.attention(), signed=False)
