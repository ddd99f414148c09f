"""Users of DefendService: CIFAR-10 photos cleaned, certified, and judged as attacked or not."""

from __future__ import annotations

from locust import task

from lectern.v1 import defend_pb2 as pb
from lectern.v1 import defend_pb2_grpc
from loadtests.pictures import Pictures
from loadtests.user import GrpcUser

PHOTOS = Pictures("image_classifier_test.npz")
SAMPLES = 20
JPEG, MEDIAN = pb.Defence(jpeg=pb.Jpeg()), pb.Defence(median=pb.MedianSmoothing())


class DefendUser(GrpcUser):
    """Most calls clean one photo; attacks are off where nobody has allowed them."""

    def on_start(self) -> None:
        self.stub = defend_pb2_grpc.DefendServiceStub(self.channel)

    @task(6)
    def defend(self) -> None:
        request = pb.DefendRequest(images=PHOTOS.some(1), defences=[JPEG, MEDIAN])
        self.call(self.stub.Defend, request, "Defend, JPEG and median")

    @task(2)
    def defend_several(self) -> None:
        request = pb.DefendRequest(images=PHOTOS.some(8), defences=[JPEG])
        self.call(self.stub.Defend, request, "Defend, 8 images")

    @task(1)
    def certify(self) -> None:
        request = pb.DefendRequest(images=PHOTOS.some(1), smoothing=pb.RandomisedSmoothing(samples=SAMPLES))
        self.call(self.stub.Defend, request, f"Defend, certified by {SAMPLES} copies")
