"""Users of TranslateService: sentences one by one, many at once, as they are written, and in another style."""

from __future__ import annotations

import csv
from pathlib import Path

from locust import task

from lectern.v1 import translate_pb2, translate_pb2_grpc
from loadtests.pictures import RANDOM
from loadtests.user import GrpcUser

PAIRS = Path(__file__).parents[2] / "training" / "data" / "slivers" / "translator_en_zh.tsv"
BATCH = 16
with PAIRS.open(newline="") as file:
    SENTENCES = [row[1] for row in csv.reader(file, delimiter="\t")]


class TranslateUser(GrpcUser):
    """Most calls carry one sentence."""

    def on_start(self) -> None:
        self.stub = translate_pb2_grpc.TranslateServiceStub(self.channel)

    def some(self, count: int) -> list[str]:
        return [str(text) for text in RANDOM.choice(SENTENCES, count)]

    @task(6)
    def one_sentence(self) -> None:
        self.call(self.stub.Translate, translate_pb2.TranslateRequest(texts=self.some(1)), "Translate")

    @task(1)
    def many_sentences(self) -> None:
        request = translate_pb2.TranslateRequest(texts=self.some(BATCH), beam_size=1)
        self.call(self.stub.Translate, request, f"Translate, {BATCH} sentences, greedy")

    @task(3)
    def as_it_is_written(self) -> None:
        request = translate_pb2.StreamTranslateRequest(text=self.some(1)[0])
        self.watch(self.stub.StreamTranslate, request, "StreamTranslate")

    @task(2)
    def in_another_style(self) -> None:
        request = translate_pb2.RewriteRequest(texts=self.some(1), style=translate_pb2.STYLE_ARCHAIC)
        self.call(self.stub.Rewrite, request, "Rewrite")
