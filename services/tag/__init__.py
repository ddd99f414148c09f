"""TagService: the parts of texts that have a label, and what a text wants."""

from __future__ import annotations

from lectern.v1 import tag_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.tag.servicer:TagServicer",
    default_models={"TagText": "slot_tagger"},
    command='lectern tag "book a table for four tomorrow"',
    example=lambda _: pb.TagTextRequest(texts=["book a table for four tomorrow"]),
    pod=Pod(memory="192Mi", memory_limit="512Mi"),
)
