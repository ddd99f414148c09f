"""DefendService: attacks on image classifiers, defences against them, and how well these hold."""

from __future__ import annotations

from lectern.v1 import defend_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.defend.servicer:DefendServicer",
    default_models=dict.fromkeys(("Attack", "Defend", "EvaluateRobustness"), "image_classifier"),
    answers_from=("classify", "defend"),
    settings=("allow_attacks",),
    numeric=True,
    command="lectern defend photo.png --defence jpeg",
    example=lambda files: pb.DefendRequest(
        images=[(files / "cat.png").read_bytes()], defences=[pb.Defence(jpeg=pb.Jpeg())]
    ),
    pod=Pod(memory="512Mi", memory_limit="2Gi"),
)
