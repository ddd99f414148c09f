"""Users of GenerateService: pictures one by one, sheets of many, digits redrawn, and poems."""

from __future__ import annotations

from locust import task

from lectern.v1 import generate_pb2, generate_pb2_grpc
from loadtests.pictures import RANDOM, Pictures
from loadtests.user import GrpcUser

DIGITS = Pictures("lifelong_classifier.npz")
BATCH = 16


class GenerateUser(GrpcUser):
    """Most calls ask for one picture, as a page that is opened does."""

    def on_start(self) -> None:
        self.stub = generate_pb2_grpc.GenerateServiceStub(self.channel)

    @task(8)
    def one_image(self) -> None:
        request = generate_pb2.GenerateImagesRequest(seed=int(RANDOM.integers(2**32)))
        self.watch(self.stub.GenerateImages, request, "GenerateImages")

    @task(1)
    def a_sheet(self) -> None:
        request = generate_pb2.GenerateImagesRequest(
            seed=int(RANDOM.integers(2**32)), count=BATCH, layout=generate_pb2.IMAGE_LAYOUT_CONTACT_SHEET
        )
        self.watch(self.stub.GenerateImages, request, f"GenerateImages, a sheet of {BATCH}")

    @task(1)
    def garments(self) -> None:
        request = generate_pb2.GenerateImagesRequest(model="garment_generator", count=BATCH)
        self.watch(self.stub.GenerateImages, request, f"GenerateImages, {BATCH} garments")

    @task(4)
    def a_digit(self) -> None:
        request = generate_pb2.TransformImageRequest(image=DIGITS.some(1)[0], style="printed")
        self.call(self.stub.TransformImage, request, "TransformImage")


class PoemUser(GrpcUser):
    """Poems of four lines."""

    def on_start(self) -> None:
        self.stub = generate_pb2_grpc.GenerateServiceStub(self.channel)

    @task
    def a_poem(self) -> None:
        request = generate_pb2.GenerateTextRequest(form="五言絕句", seed=int(RANDOM.integers(2**32)))
        self.watch(self.stub.GenerateText, request, "GenerateText")
