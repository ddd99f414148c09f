"""Users of TagService: the example of its descriptor."""

from __future__ import annotations

from pathlib import Path

from locust import task

from lectern.v1.tag_pb2_grpc import TagServiceStub
from loadtests.user import GrpcUser
from services.tag import CAPABILITY

EXAMPLE = CAPABILITY.example(Path(__file__).parents[2] / "docs" / "examples")


class TagUser(GrpcUser):
    """Every call is the same."""

    def on_start(self) -> None:
        self.stub = TagServiceStub(self.channel)

    @task
    def example(self) -> None:
        self.call(self.stub.TagText, EXAMPLE, "TagText")
