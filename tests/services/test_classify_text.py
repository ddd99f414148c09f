"""ClassifyText through gRPC, by a small model that was trained on its sliver."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

import lectern
from lectern import Client
from lectern.v1 import classify_pb2 as pb
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from tests.conftest import Server
from tests.services.test_answer import SCRIPTS
from tests.services.test_classify import failure, probabilities
from tests.waiting import WAIT

TEXTS = ("What a lovely film!", "The battery died after a week, a waste of money.", "It opens on Monday.")


@pytest.fixture
def client(reader: Server) -> Iterator[Client]:
    with Client(reader.target, timeout=WAIT) as client:
        yield client


@pytest.fixture
def stub(reader: Server) -> Iterator[ClassifyServiceStub]:
    with grpc.insecure_channel(reader.target) as channel:
        yield ClassifyServiceStub(channel)


def test_each_text_has_its_classes(client: Client) -> None:
    response = client.classify_text(TEXTS)
    assert (response.model, response.version, len(response.results)) == ("sentiment_classifier", 1, 3)
    for result in response.results:
        assert {c.label for c in result.classes} == {"negative", "neutral", "positive"}
        assert sum(c.probability for c in result.classes) == pytest.approx(1)
    assert [len(r.classes) for r in client.classify_text(TEXTS, top_k=1).results] == [1, 1, 1]


def test_a_class_does_not_depend_on_its_company(client: Client) -> None:
    texts = [*TEXTS, "good " * 700]
    for text, together in zip(texts, client.classify_text(texts).results, strict=True):
        (alone,) = client.classify_text(text).results
        np.testing.assert_allclose(probabilities(alone), probabilities(together), atol=1e-4)


def test_a_class_does_not_depend_on_calls_of_other_lengths(client: Client) -> None:
    texts = ["good " * length for length in (1, 3, 4, 5, 9, 30, 31, 33, 120, 700)] * 2
    alone = {text: probabilities(client.classify_text(text).results[0]) for text in set(texts)}
    with ThreadPoolExecutor(len(texts)) as pool:
        for text, response in zip(texts, pool.map(client.classify_text, texts), strict=True):
            np.testing.assert_allclose(probabilities(response.results[0]), alone[text], atol=1e-4)


def test_a_long_text_is_read_to_its_end(client: Client) -> None:
    long = "It opens on Monday. " * 200
    plain, praised = (client.classify_text(text).results[0] for text in (long, long + "A lovely film! " * 200))
    assert np.abs(probabilities(plain) - probabilities(praised)).max() > 1e-4


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_any_script_has_an_answer(client: Client, text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    composed, decomposed = client.classify_text(forms).results
    np.testing.assert_allclose(probabilities(composed), probabilities(decomposed), atol=1e-4)


BAD = [
    (pb.ClassifyTextRequest(), "texts", "at least one"),
    (pb.ClassifyTextRequest(texts=["a"] * 257), "texts", "the most in one request is 256"),
    (pb.ClassifyTextRequest(texts=["a", ""]), "texts[1]", "is empty"),
    (pb.ClassifyTextRequest(texts=["a", "\t \u2003"]), "texts[1]", "nothing but spaces"),
    (pb.ClassifyTextRequest(texts=["\u0301"]), "texts[0]", "nothing that the model can read"),
    (pb.ClassifyTextRequest(texts=["é" * 65_537]), "texts[0]", "131,074 bytes of UTF-8; the most is 131,072"),
    (pb.ClassifyTextRequest(texts=["a " * 60_000] * 5), "texts", "the most is 1024"),
    (pb.ClassifyTextRequest(texts=["a"], model="question_answerer"), "model", "answer, not classify"),
]


@pytest.mark.parametrize(("request_", "field", "says"), BAD, ids=[says for _, _, says in BAD])
def test_what_is_wrong_is_named(
    stub: ClassifyServiceStub, request_: pb.ClassifyTextRequest, field: str, says: str
) -> None:
    code, message, fields = failure(lambda: stub.ClassifyText(request_, timeout=WAIT))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field]), message
    assert says in message


def test_a_model_of_texts_takes_no_images(stub: ClassifyServiceStub) -> None:
    request = pb.ClassifyImageRequest(model="sentiment_classifier", images=[b"x"])
    code, message, fields = failure(lambda: stub.ClassifyImage(request, timeout=WAIT))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["model"])
    assert "does not take images" in message


def test_a_model_of_images_takes_no_texts(channel: grpc.Channel) -> None:
    request = pb.ClassifyTextRequest(model="image_classifier", texts=["x"])
    code, message, fields = failure(lambda: ClassifyServiceStub(channel).ClassifyText(request, timeout=WAIT))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["model"])
    assert "does not take texts" in message


async def test_both_clients_answer_alike(reader: Server, client: Client) -> None:
    async with lectern.aio.Client(reader.target, timeout=WAIT) as other:
        assert await other.classify_text(TEXTS, top_k=1) == client.classify_text(TEXTS, top_k=1)


def test_the_encoder_is_loaded_once_for_all_who_stand_on_it(reader: Server, client: Client) -> None:
    client.classify_text(TEXTS)
    assert [r["message"] for r in reader.log_records()].count("serving") == 1
    cards = {m.name: m.versions[0].card for m in client.list_models(include_cards=True).models}
    assert cards["sentiment_classifier"]["graphs"]["encoder"] == "text_encoder"
    assert "text_encoder/1/model.onnx" in cards["sentiment_classifier"]["files"]
