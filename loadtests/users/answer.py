"""Users of AnswerService: a question on a short text, several at once, on a text of many windows, and on a story."""

from __future__ import annotations

from pathlib import Path

from locust import task

from lectern.v1 import answer_pb2, answer_pb2_grpc
from loadtests.user import GrpcUser

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TEXT, STORY = ((EXAMPLES / name).read_text() for name in ("beagle.txt", "story.txt"))
QUESTIONS = (
    "Who commanded the ship?",
    "Where did the ship anchor?",
    "What did Darwin collect?",
    "Who was the servant?",
)
REPEATS = 5


class AnswerUser(GrpcUser):
    """Most calls carry one question."""

    def on_start(self) -> None:
        self.stub = answer_pb2_grpc.AnswerServiceStub(self.channel)

    @task(16)
    def one_question(self) -> None:
        request = answer_pb2.AnswerRequest(context=TEXT, questions=QUESTIONS[:1])
        self.call(self.stub.Answer, request, "Answer")

    @task(4)
    def several_questions(self) -> None:
        request = answer_pb2.AnswerRequest(context=TEXT, questions=QUESTIONS, top_k=3)
        self.call(self.stub.Answer, request, f"Answer, {len(QUESTIONS)} questions")

    @task(1)
    def a_long_text(self) -> None:
        request = answer_pb2.AnswerRequest(context=TEXT * REPEATS, questions=QUESTIONS[:1])
        self.call(self.stub.Answer, request, "Answer, long text")

    @task(8)
    def a_story(self) -> None:
        request = answer_pb2.AnswerStoryRequest(sentences=STORY.splitlines(), question="Where is the football?")
        self.call(self.stub.AnswerStory, request, "AnswerStory")
