"""Users of EmbedService: one sentence, the sentences of a text, and words near to a sum of words."""

from __future__ import annotations

from pathlib import Path

from locust import task

from lectern.v1 import embed_pb2, embed_pb2_grpc
from loadtests.user import GrpcUser

TEXT = (Path(__file__).parents[2] / "docs" / "examples" / "beagle.txt").read_text()
SENTENCES = [f"{sentence}." for sentence in " ".join(TEXT.split()).split(". ")]


class EmbedUser(GrpcUser):
    """Most calls carry one sentence or ask for words."""

    def on_start(self) -> None:
        self.stub = embed_pb2_grpc.EmbedServiceStub(self.channel)

    @task(8)
    def one_sentence(self) -> None:
        request = embed_pb2.EmbedTextRequest(texts=SENTENCES[:1])
        self.call(self.stub.EmbedText, request, "EmbedText")

    @task(2)
    def a_text(self) -> None:
        request = embed_pb2.EmbedTextRequest(texts=SENTENCES)
        self.call(self.stub.EmbedText, request, f"EmbedText, {len(SENTENCES)} sentences")

    @task(8)
    def nearest(self) -> None:
        request = embed_pb2.NearestRequest(positive=["king", "woman"], negative=["man"])
        self.call(self.stub.Nearest, request, "Nearest")
