"""AnswerService: answers to questions, found in a text or in a story."""

from __future__ import annotations

from lectern.v1 import answer_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.answer.servicer:AnswerServicer",
    default_models={"Answer": "question_answerer", "AnswerStory": "memory_reader"},
    command='lectern answer --context text.txt "Who commanded the ship?"',
    example=lambda _: pb.AnswerRequest(context="The captain sailed.", questions=["Who sailed?"]),
    pod=Pod(memory="256Mi", memory_limit="1Gi"),
)
