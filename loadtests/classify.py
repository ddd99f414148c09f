"""Users of ClassifyService: CIFAR-10 photos as PNG files, one by one, in batches and over a stream; and texts."""

from __future__ import annotations

from locust import task
from pictures import Pictures
from user import GrpcUser

from lectern.v1 import classify_pb2, classify_pb2_grpc

PHOTOS = Pictures("image_classifier.npz")
BATCH = 16


class ClassifyUser(GrpcUser):
    """Most calls carry one image, as a user's click does."""

    def on_start(self) -> None:
        self.stub = classify_pb2_grpc.ClassifyServiceStub(self.channel)

    @task(8)
    def one_image(self) -> None:
        request = classify_pb2.ClassifyImageRequest(images=PHOTOS.some(1), top_k=3)
        self.call(self.stub.ClassifyImage, request, "ClassifyImage")

    @task(1)
    def a_batch(self) -> None:
        request = classify_pb2.ClassifyImageRequest(images=PHOTOS.some(BATCH), top_k=3)
        self.call(self.stub.ClassifyImage, request, f"ClassifyImage, {BATCH} images")

    @task(1)
    def a_stream(self) -> None:
        requests = [classify_pb2.StreamClassifyImageRequest(images=[image], top_k=3) for image in PHOTOS.some(BATCH)]
        self.stream(self.stub.StreamClassifyImage, requests, f"StreamClassifyImage, {BATCH} requests")

    @task(2)
    def a_text(self) -> None:
        request = classify_pb2.ClassifyTextRequest(texts=["What a lovely film!"])
        self.call(self.stub.ClassifyText, request, "ClassifyText")
