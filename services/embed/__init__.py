"""EmbedService: texts as vectors, and the words that are nearest to a sum of them."""

from __future__ import annotations

from lectern.v1 import embed_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.embed.servicer:EmbedServicer",
    default_models={"EmbedText": "text_encoder", "Nearest": "word_vectors"},
    command="lectern words king - man + woman",
    example=lambda _: pb.NearestRequest(positive=["king", "woman"], negative=["man"]),
    pod=Pod(memory="192Mi", memory_limit="512Mi"),
)
