"""Users of DetectAnomalyService: Fashion-MNIST pictures as PNG files."""

from __future__ import annotations

from locust import task

from lectern.v1 import detect_anomaly_pb2, detect_anomaly_pb2_grpc
from loadtests.pictures import Pictures
from loadtests.user import GrpcUser

CLOTHES = Pictures("anomaly_detector.npz")
BATCH = 16


class DetectAnomalyUser(GrpcUser):
    """Most calls ask for the decision alone."""

    def on_start(self) -> None:
        self.stub = detect_anomaly_pb2_grpc.DetectAnomalyServiceStub(self.channel)

    @task(7)
    def one_image(self) -> None:
        request = detect_anomaly_pb2.DetectAnomalyRequest(images=CLOTHES.some(1))
        self.call(self.stub.DetectAnomaly, request, "DetectAnomaly")

    @task(2)
    def a_heat_map(self) -> None:
        request = detect_anomaly_pb2.DetectAnomalyRequest(images=CLOTHES.some(1), include_heat_map=True)
        self.call(self.stub.DetectAnomaly, request, "DetectAnomaly, with heat map")

    @task(1)
    def a_batch(self) -> None:
        request = detect_anomaly_pb2.DetectAnomalyRequest(images=CLOTHES.some(BATCH))
        self.call(self.stub.DetectAnomaly, request, f"DetectAnomaly, {BATCH} images")
