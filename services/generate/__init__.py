"""GenerateService: images, images redrawn, and texts."""

from __future__ import annotations

from lectern.v1 import generate_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.generate.servicer:GenerateServicer",
    default_models={
        "GenerateImages": "face_generator",
        "TransformImage": "style_translator",
        "GenerateText": "poem_generator",
    },
    command="lectern generate images --seed 7",
    example=lambda _: pb.GenerateImagesRequest(seed=1, count=1),
    pod=Pod(memory="512Mi", memory_limit="2Gi"),
)
