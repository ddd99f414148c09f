"""DetectAnomalyService: images that look unlike the training data."""

from __future__ import annotations

from lectern.v1 import detect_anomaly_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.detect_anomaly.servicer:DetectAnomalyServicer",
    default_models=dict.fromkeys(("DetectAnomaly", "StreamDetectAnomaly"), "anomaly_detector"),
    command="lectern detect-anomaly shoe.png",
    example=lambda files: pb.DetectAnomalyRequest(images=[(files / "boot.png").read_bytes()]),
    pod=Pod(memory="512Mi", memory_limit="2Gi"),
)
