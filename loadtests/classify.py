"""Users of ClassifyService: CIFAR-10 photos as PNG files, one by one, in batches, and pipelined over a stream."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from locust import task
from PIL import Image
from user import GrpcUser

from lectern.v1 import classify_pb2, classify_pb2_grpc

PHOTOS = Path(__file__).parents[1] / "tests" / "data" / "image_classifier.npz"
BATCH = 16


def png(pixels: np.ndarray) -> bytes:
    """The pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# Encoded once: what is measured is the server.
IMAGES = [png(pixels) for pixels in np.load(PHOTOS)["images"][:256]]
RANDOM = np.random.default_rng()


def some(count: int) -> list[bytes]:
    """That many photos, drawn at random."""
    return [IMAGES[index] for index in RANDOM.integers(len(IMAGES), size=count)]


class ClassifyUser(GrpcUser):
    """Most calls carry one image, as a user's click does."""

    def on_start(self) -> None:
        self.stub = classify_pb2_grpc.ClassifyServiceStub(self.channel)

    @task(8)
    def one_image(self) -> None:
        request = classify_pb2.ClassifyImageRequest(images=some(1), top_k=3)
        self.call(self.stub.ClassifyImage, request, "ClassifyImage")

    @task(1)
    def a_batch(self) -> None:
        request = classify_pb2.ClassifyImageRequest(images=some(BATCH), top_k=3)
        self.call(self.stub.ClassifyImage, request, f"ClassifyImage, {BATCH} images")

    @task(1)
    def a_stream(self) -> None:
        requests = [classify_pb2.StreamClassifyImageRequest(images=[image], top_k=3) for image in some(BATCH)]
        self.stream(self.stub.StreamClassifyImage, requests, f"StreamClassifyImage, {BATCH} requests")
