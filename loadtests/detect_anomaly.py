"""Users of DetectAnomalyService: Fashion-MNIST pictures as PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from locust import task
from PIL import Image
from user import GrpcUser

from lectern.v1 import detect_anomaly_pb2, detect_anomaly_pb2_grpc

PICTURES = Path(__file__).parents[1] / "tests" / "data" / "anomaly_detector.npz"
BATCH = 16
RANDOM = np.random.default_rng()


def png(pixels: np.ndarray) -> bytes:
    """The pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# Encoded once: what is measured is the server.
IMAGES = [png(pixels) for pixels in np.load(PICTURES)["images"][:256]]


def some(count: int) -> list[bytes]:
    """That many pictures, drawn at random."""
    return [IMAGES[index] for index in RANDOM.integers(len(IMAGES), size=count)]


class DetectAnomalyUser(GrpcUser):
    """Most calls ask for the decision alone."""

    def on_start(self) -> None:
        self.stub = detect_anomaly_pb2_grpc.DetectAnomalyServiceStub(self.channel)

    @task(7)
    def one_image(self) -> None:
        request = detect_anomaly_pb2.DetectAnomalyRequest(images=some(1))
        self.call(self.stub.DetectAnomaly, request, "DetectAnomaly")

    @task(2)
    def a_heat_map(self) -> None:
        request = detect_anomaly_pb2.DetectAnomalyRequest(images=some(1), include_heat_map=True)
        self.call(self.stub.DetectAnomaly, request, "DetectAnomaly, with heat map")

    @task(1)
    def a_batch(self) -> None:
        request = detect_anomaly_pb2.DetectAnomalyRequest(images=some(BATCH))
        self.call(self.stub.DetectAnomaly, request, f"DetectAnomaly, {BATCH} images")
