"""Users of GenerateService: a face, and a contact sheet of faces."""

from __future__ import annotations

import numpy as np
from locust import task
from user import GrpcUser

from lectern.v1 import generate_pb2, generate_pb2_grpc

SHEET = 16
RANDOM = np.random.default_rng()


class GenerateUser(GrpcUser):
    """Most calls make one image."""

    def on_start(self) -> None:
        self.stub = generate_pb2_grpc.GenerateServiceStub(self.channel)

    @task(9)
    def one_image(self) -> None:
        request = generate_pb2.GenerateImagesRequest(seed=int(RANDOM.integers(2**63)))
        self.answers(self.stub.GenerateImages, request, "GenerateImages")

    @task(1)
    def a_sheet(self) -> None:
        request = generate_pb2.GenerateImagesRequest(
            seed=int(RANDOM.integers(2**63)), count=SHEET, layout=generate_pb2.IMAGE_LAYOUT_CONTACT_SHEET
        )
        self.answers(self.stub.GenerateImages, request, f"GenerateImages, {SHEET} images")
