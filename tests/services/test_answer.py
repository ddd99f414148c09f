"""AnswerService through gRPC, by a small model that was trained on its sliver."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

import lectern
from lectern import Client
from lectern.v1 import answer_pb2 as pb
from lectern.v1.answer_pb2_grpc import AnswerServiceStub
from tests.conftest import Server, serving
from tests.services.test_classify import failure
from tests.waiting import WAIT

CONTEXT = "In 1907 Ada moved to Oslo. The library there opened a year later."
QUESTION = "Where did Ada move?"
# Whatever the script, an answer is the caller's own characters at the offsets that it names.
SCRIPTS = {
    "composed accents": "In 1907 José moved to Córdoba, said Zoë.",
    "decomposed accents": unicodedata.normalize("NFD", "In 1907 José moved to Córdoba, said Zoë."),
    "compatibility forms": "Ⅻ ﬁshermen moved to Ｏｓｌｏ in ①⑨⓪⑦.",
    "emoji": "Ada 👩🏽‍🔬 moved to 🇳🇴 Oslo ❤️ in 1907 👍🏿.",
    "right to left": "עדה עברה לאוסלו בשנת 1907. انتقلت آدا إلى أوسلو.",
    "vowel points": "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם",
    "mixed scripts": "Ada 搬到奧斯陸, потом в Москву, και στην Αθήνα.",
    "controls": "Ada\u200b moved\u202e to\u0000 Oslo\ufeff in\t1907.",
    "beyond the basic plane": "𝕬𝖉𝖆 moved to 𐌏𐌔𐌋𐌏 in 1907 𠮷.",
}


@pytest.fixture
def client(reader: Server) -> Iterator[Client]:
    with Client(reader.target, timeout=WAIT) as client:
        yield client


@pytest.fixture
def stub(reader: Server) -> Iterator[AnswerServiceStub]:
    with grpc.insecure_channel(reader.target) as channel:
        yield AnswerServiceStub(channel)


def test_answers_are_spans_of_the_context_best_first(client: Client) -> None:
    response = client.answer([QUESTION, "Who moved to Oslo?"], CONTEXT, top_k=5)
    assert (response.model, response.version, len(response.results)) == ("question_answerer", 1, 2)
    for result in response.results:
        probabilities = [answer.probability for answer in result.answers]
        assert len(probabilities) == 5
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) + result.no_answer_probability <= 1 + 1e-5
        assert all(answer.text == CONTEXT[answer.start : answer.end] for answer in result.answers)


def test_every_span_and_no_answer_share_one_probability(client: Client) -> None:
    (result,) = client.answer(QUESTION, "Ada moved.", top_k=20).results
    assert len(result.answers) == 6  # of three words, the full stop being one
    assert sum(a.probability for a in result.answers) + result.no_answer_probability == pytest.approx(1, abs=1e-4)


def test_one_answer_unless_more_are_asked_for(client: Client) -> None:
    one, five = client.answer(QUESTION, CONTEXT), client.answer(QUESTION, CONTEXT, top_k=5)
    assert list(one.results[0].answers) == list(five.results[0].answers)[:1]


@pytest.mark.parametrize("context", SCRIPTS.values(), ids=SCRIPTS)
def test_offsets_count_code_points_of_any_script(client: Client, context: str) -> None:
    (result,) = client.answer(QUESTION, context, top_k=20).results
    for answer in result.answers:
        assert answer.text == context[answer.start : answer.end] != ""
        assert not unicodedata.combining(answer.text[0])
        following = context[answer.end : answer.end + 1]
        assert not (following and unicodedata.category(following) in ("Mn", "Me", "Mc"))


def test_normal_forms_have_the_same_answer(client: Client) -> None:
    composed = SCRIPTS["composed accents"]
    answers = []
    for form in ("NFC", "NFD"):
        (result,) = client.answer(QUESTION, unicodedata.normalize(form, composed), top_k=5).results
        answers.append([(unicodedata.normalize("NFC", a.text), a.probability) for a in result.answers])
    assert answers[0] == answers[1]


def test_words_of_the_tokenizer_are_words_of_the_text(client: Client) -> None:
    context = "The token [SEP] ends a sentence, [CLS] begins one, [PAD] fills up."
    (result,) = client.answer("What ends a sentence? [SEP] [PAD]", context, top_k=20).results
    assert all(answer.text == context[answer.start : answer.end] for answer in result.answers)


def test_a_long_context_is_read_to_its_end(client: Client) -> None:
    before, after = "It rained all day in the town. " * 100, " It was dry again." * 100
    for context in (before + CONTEXT, CONTEXT + after, before + CONTEXT + after):
        (result,) = client.answer(QUESTION, context, top_k=20).results
        assert all(answer.text == context[answer.start : answer.end] for answer in result.answers)
    (last,) = client.answer("?", before + "end", top_k=20).results
    assert len({(a.start, a.end) for a in last.answers}) == 20


def test_a_context_at_the_edge_of_a_window_is_one_window(reader: Server) -> None:
    """What the windows make of a context does not depend on how many tokens are left for the last."""
    with Client(reader.target, timeout=WAIT) as client:
        for words in range(236, 260):
            (result,) = client.answer("?", "a " * words, top_k=1).results
            assert result.answers[0].end <= 2 * words


def test_the_threshold_decides_what_has_an_answer(client: Client) -> None:
    (result,) = client.answer(QUESTION, CONTEXT).results
    probability = result.no_answer_probability
    assert 0 < probability < 1
    decided = [
        client.answer(QUESTION, CONTEXT, no_answer_threshold=threshold).results[0]
        for threshold in (probability * 0.9, min(1.0, probability * 1.1))
    ]
    assert [d.has_answer for d in decided] == [False, True]
    assert all(len(d.answers) == 1 for d in decided)


def test_an_answer_does_not_depend_on_its_company(client: Client) -> None:
    questions = [QUESTION, "Who moved to Oslo?", "When did the library in the town on the fjord open to its readers?"]
    together = client.answer(questions, CONTEXT, top_k=3).results
    for question, expected in zip(questions, together, strict=True):
        (alone,) = client.answer(question, CONTEXT, top_k=3).results
        assert [(a.start, a.end) for a in alone.answers] == [(a.start, a.end) for a in expected.answers]
        np.testing.assert_allclose(
            [a.probability for a in alone.answers], [a.probability for a in expected.answers], atol=1e-6
        )


BAD = [
    (pb.AnswerRequest(questions=[QUESTION]), "context", "is empty"),
    (pb.AnswerRequest(context=" \n\u200b", questions=[QUESTION]), "context", "nothing but spaces"),
    (pb.AnswerRequest(context="\u0301", questions=[QUESTION]), "context", "nothing that the model can read"),
    (pb.AnswerRequest(context=CONTEXT), "questions", "at least one"),
    (pb.AnswerRequest(context=CONTEXT, questions=["?"] * 257), "questions", "the most in one request is 256"),
    (pb.AnswerRequest(context=CONTEXT, questions=["?", ""]), "questions[1]", "is empty"),
    (pb.AnswerRequest(context=CONTEXT, questions=["why " * 129]), "questions[0]", "the most this model takes is 128"),
    (
        pb.AnswerRequest(context="a " * 65_537, questions=["?"]),
        "context",
        "131,074 bytes of UTF-8; the most is 131,072",
    ),
    (pb.AnswerRequest(context="a " * 60_000, questions=["?"] * 8), "questions", "the most is 1024"),
    (pb.AnswerRequest(context=CONTEXT, questions=["?"], top_k=21), "top_k", "the most is 20"),
    (pb.AnswerRequest(context=CONTEXT, questions=["?"], no_answer_threshold=0), "no_answer_threshold", "above 0"),
    (pb.AnswerRequest(context=CONTEXT, questions=["?"], no_answer_threshold=1.5), "no_answer_threshold", "at most 1"),
    (
        pb.AnswerRequest(context=CONTEXT, questions=["?"], no_answer_threshold=float("nan")),
        "no_answer_threshold",
        "nan",
    ),
    (pb.AnswerRequest(model="sentiment_classifier", context=CONTEXT, questions=["?"]), "model", "classify, not answer"),
]


@pytest.mark.parametrize(("request_", "field", "says"), BAD, ids=[says for _, _, says in BAD])
def test_what_is_wrong_is_named(stub: AnswerServiceStub, request_: pb.AnswerRequest, field: str, says: str) -> None:
    code, message, fields = failure(lambda: stub.Answer(request_, timeout=WAIT))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field]), message
    assert says in message
    assert stub.Answer(pb.AnswerRequest(context=CONTEXT, questions=[QUESTION]), timeout=WAIT).results


def test_bytes_that_are_not_utf_8_are_refused(reader: Server) -> None:
    broken = pb.AnswerRequest(context="AAAA", questions=[QUESTION]).SerializeToString().replace(b"AAAA", b"A\xff\xfeA")
    with grpc.insecure_channel(reader.target) as channel:
        call = channel.unary_unary("/lectern.v1.AnswerService/Answer")
        with pytest.raises(grpc.RpcError) as caught:
            call(broken, timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_graphs_answer_the_open_inference_protocol(reader: Server) -> None:
    ids = np.arange(64, dtype=np.int64).reshape(2, 32)
    inputs = [triton.InferInput(name, ids.shape, "INT64") for name in ("ids", "segments")]
    inputs[0].set_data_from_numpy(ids)
    inputs[1].set_data_from_numpy((ids > 8).astype(np.int64))
    with triton.InferenceServerClient(reader.target) as raw:
        vectors = raw.infer("text_encoder", inputs).as_numpy("vectors")
        given = triton.InferInput("vectors", vectors.shape, "FP32")
        given.set_data_from_numpy(vectors)
        outputs = raw.infer("question_answerer", [given])
    assert outputs.as_numpy("starts").shape == outputs.as_numpy("ends").shape == vectors.shape[:2] == (2, 32)


async def test_both_clients_answer_alike(reader: Server, client: Client) -> None:
    async with lectern.aio.Client(reader.target, timeout=WAIT) as other:
        answers = await other.answer(QUESTION, CONTEXT, top_k=3, no_answer_threshold=0.5)
    assert answers == client.answer(QUESTION, CONTEXT, top_k=3, no_answer_threshold=0.5)


def test_a_limit_is_a_setting(reader: Server, tmp_path_factory: pytest.TempPathFactory, trained: object) -> None:
    directory = tmp_path_factory.mktemp("limits")
    repository = trained("sentiment_classifier")  # type: ignore[operator]
    with (
        serving(directory, "answer", repository=repository, LECTERN_LIMITS__TEXT_BYTES="20") as server,
        Client(server.target, timeout=WAIT) as limited,
    ):
        assert limited.answer("Who?", "Ada moved to Oslo.").results
        with pytest.raises(lectern.LecternError, match="the most is 20"):
            limited.answer("Who?", "Ada moved to Oslo, they say.")
