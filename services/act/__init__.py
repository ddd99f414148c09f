"""ActService: actions of a policy, and whole episodes."""

from __future__ import annotations

from lectern.v1 import act_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.act.servicer:ActServicer",
    default_models={"Act": "lunar_lander", "RunEpisode": "lunar_lander"},
    command="lectern episode --seed 7 --out landing.gif",
    example=lambda _: pb.ActRequest(observations=[pb.Observation(features=[0, 1.4, 0.3, -0.5, -0.1, 0.05, 0, 0])]),
    pod=Pod(memory="192Mi", memory_limit="512Mi"),
)
