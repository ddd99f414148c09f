"""ClassifyService.ClassifyPair, by a model that was trained on a sliver."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

import lectern.aio
from lectern import Client
from lectern.v1 import classify_pb2 as pb
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from services.limits import Limits
from tests.conftest import Server
from tests.services.test_classify import failure
from tests.waiting import WAIT

PAIRS = [
    ("A man plays a guitar on a stage.", "A man makes music."),
    ("Two dogs run over a field.", "The dogs are asleep."),
    ("A woman reads.", "She reads a novel."),
]
LABELS = {"entailment", "neutral", "contradiction"}


@pytest.fixture(scope="module")
def client(reader: Server) -> Iterator[Client]:
    with Client(reader.target, timeout=WAIT) as client:
        yield client


def test_each_pair_gets_its_classes(client: Client) -> None:
    response = client.classify_pair(PAIRS)
    assert (response.model, len(response.results)) == ("entailment_classifier", 3)
    for result in response.results:
        assert {scored.label for scored in result.classes} == LABELS
        assert sum(scored.probability for scored in result.classes) == pytest.approx(1, abs=1e-5)


def test_the_order_of_a_pair_matters(client: Client) -> None:
    one, other = client.classify_pair([PAIRS[0], PAIRS[0][::-1]]).results
    assert [c.probability for c in one.classes] != [c.probability for c in other.classes]


def test_a_pair_is_answered_alike_whatever_it_comes_with(client: Client) -> None:
    together = client.classify_pair([*PAIRS, ("word " * 60, "another")]).results[:3]
    for pair, expected in zip(PAIRS, together, strict=True):
        (alone,) = client.classify_pair([pair]).results
        probabilities = {scored.label: scored.probability for scored in expected.classes}
        for scored in alone.classes:
            assert scored.probability == pytest.approx(probabilities[scored.label], abs=1e-4)


def test_top_k_keeps_the_best(client: Client) -> None:
    (few,), (every,) = (client.classify_pair(PAIRS[:1], top_k=k).results for k in (1, 0))
    assert list(few.classes) == list(every.classes[:1])


@pytest.mark.parametrize(
    ("pairs", "field", "says"),
    [
        ([], "pairs", "send at least one pair"),
        ([("a", "")], "pairs[0].hypothesis", "is empty"),
        ([("a", "b"), (" ", "b")], "pairs[1].premise", "nothing but spaces"),
        ([("word " * 200, "word " * 200)], "pairs[0]", "tokens in both sentences; the most this model takes is 253"),
        ([("a", "b")] * (Limits().texts + 1), "pairs", f"the most in one request is {Limits().texts}"),
    ],
)
def test_what_is_no_pair_is_refused(reader: Server, pairs: list[tuple[str, str]], field: str, says: str) -> None:
    request = pb.ClassifyPairRequest(pairs=[pb.SentencePair(premise=p, hypothesis=h) for p, h in pairs])
    with grpc.insecure_channel(reader.target) as channel:
        stub = ClassifyServiceStub(channel)
        code, message, fields = failure(lambda: stub.ClassifyPair(request, timeout=WAIT))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field]), message
    assert says in message


async def test_both_clients_answer_alike(reader: Server, client: Client) -> None:
    async with lectern.aio.Client(reader.target, timeout=WAIT) as other:
        assert await other.classify_pair(PAIRS) == client.classify_pair(PAIRS)
