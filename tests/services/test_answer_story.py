"""AnswerService.AnswerStory through gRPC, by a small model that was trained on its sliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from artifacts.stories import STAND_INS
from artifacts.versions import read_card
from lectern import Client
from lectern.v1 import notice_pb2
from services.limits import Limits
from tests.conftest import Server
from tests.services.test_classify import failure
from tests.waiting import WAIT

STORY = ("Mary got the football there.", "John went to the kitchen.", "Mary moved to the garden.")
QUESTION = "Where is the football?"


@pytest.fixture
def client(story_reader: Server) -> Iterator[Client]:
    with Client(story_reader.target, timeout=WAIT) as client:
        yield client


def codes(notices: object) -> list[int]:
    return [notice.code for notice in notices]  # type: ignore[attr-defined]


def test_the_answer_comes_with_where_each_hop_looked(client: Client) -> None:
    response = client.answer_story(STORY, QUESTION)
    assert (response.model, response.version, len(response.answers)) == ("memory_reader", 1, 1)
    assert len(response.hops) == 3
    for hop in response.hops:
        assert len(hop.attention) == len(STORY)
        assert sum(hop.attention) == pytest.approx(1, abs=1e-5)


def test_answers_are_best_first_and_add_up_to_one(client: Client, trained: Callable[[str], Path]) -> None:
    labels = read_card(trained("memory_reader") / "memory_reader").labels
    answers = client.answer_story(STORY, QUESTION, top_k=20).answers
    probabilities = [answer.probability for answer in answers]
    assert len(answers) == min(20, len(labels) - len(STAND_INS))
    assert {answer.text for answer in answers} <= set(labels) - set(STAND_INS)
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1 + 1e-5


def test_case_punctuation_and_spaces_change_nothing(client: Client) -> None:
    plain = client.answer_story(STORY, QUESTION, top_k=5)
    other = client.answer_story([f"  {line.upper().rstrip('.')} !" for line in STORY], "where is the FOOTBALL", top_k=5)
    assert [(a.text, a.probability) for a in plain.answers] == [(a.text, a.probability) for a in other.answers]


def test_one_sentence_may_be_sent_as_it_is(client: Client) -> None:
    assert client.answer_story(STORY[0], QUESTION).hops[0].attention == [1.0]


def test_words_that_the_model_has_never_seen_are_named_and_may_be_answers(client: Client) -> None:
    known = client.answer_story(STORY, QUESTION, top_k=20)
    assert notice_pb2.NOTICE_CODE_UNKNOWN_WORDS not in codes(known.notices)
    response = client.answer_story(["Priya went to the Attic.", "priya took the lute."], "Where is Priya?", top_k=20)
    (notice,) = [n for n in response.notices if n.code == notice_pb2.NOTICE_CODE_UNKNOWN_WORDS]
    assert "Priya, Attic, lute" in notice.text
    again = client.answer_story(["Omar went to the Shed.", "omar took the harp."], "Where is Omar?", top_k=20)
    renamed = {"Priya": "Omar", "Attic": "Shed", "lute": "harp"}
    assert [renamed.get(a.text, a.text) for a in response.answers] == [a.text for a in again.answers]


def test_of_more_unknown_words_than_it_can_tell_apart_it_says_so(client: Client) -> None:
    sentence = " ".join(f"blah{i}" for i in range(9))
    texts = [notice.text for notice in client.answer_story([sentence], QUESTION).notices]
    assert any("tells only the first 8 apart" in text for text in texts)


def test_the_latest_sentences_are_remembered_and_a_notice_says_how_many(client: Client) -> None:
    story = ["John went to the kitchen."] * 30 + ["Mary moved to the garden."] * 30
    response, latest = (
        client.answer_story(story, QUESTION, top_k=3),
        client.answer_story(story[-50:], QUESTION, top_k=3),
    )
    assert notice_pb2.NOTICE_CODE_LEFT_OUT in codes(response.notices)
    assert notice_pb2.NOTICE_CODE_LEFT_OUT not in codes(latest.notices)
    assert list(response.answers) == list(latest.answers)
    for hop, own in zip(response.hops, latest.hops, strict=True):
        assert list(hop.attention) == [0.0] * 10 + list(own.attention)


def test_another_language_and_an_unsure_answer_get_notices(client: Client) -> None:
    german = ["Die Frau ist mit dem Ball in den Garten gegangen.", "Der Mann ist nicht in der Küche."]
    assert notice_pb2.NOTICE_CODE_LANGUAGE in codes(client.answer_story(german, "Wo ist der Ball?").notices)
    vague = client.answer_story(["Then they moved."], QUESTION)
    assert (notice_pb2.NOTICE_CODE_UNSURE in codes(vague.notices)) == (vague.answers[0].probability < 0.6)


@pytest.mark.parametrize(
    ("sentences", "question", "options", "field", "says"),
    [
        ([], QUESTION, {}, "sentences", "send at least one sentence"),
        ([*STORY, " "], QUESTION, {}, "sentences[3]", "nothing but spaces"),
        ([*STORY, "?!"], QUESTION, {}, "sentences[3]", "nothing that the model can read"),
        (STORY, "", {}, "question", "is empty"),
        ([STORY[0], "to " * 17], QUESTION, {}, "sentences[1]", "has 17 words; the most this model takes is 16"),
        (STORY, "where " * 17, {}, "question", "has 17 words"),
        (["John left."] * 513, QUESTION, {}, "sentences", "has 513 sentences; the most in one request is 512"),
        (["x" * 200_000], QUESTION, {}, "sentences[0]", "the most is 131,072"),
        (STORY, QUESTION, {"top_k": 21}, "top_k", "the most is 20"),
        (STORY, QUESTION, {"version": 9}, "version", "9"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_its_field(
    client: Client, sentences: list[str], question: str, options: dict[str, int], field: str, says: str
) -> None:
    code, message, violated = failure(lambda: client.answer_story(sentences, question, **options))
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert violated == [field]
    assert says in message


def test_questions_on_texts_are_asked_of_another_rpc(client: Client) -> None:
    code, message, violated = failure(lambda: client.answer("Who?", "Mary left.", "memory_reader"))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, ["model"])
    assert "it takes stories: call AnswerStory" in message


def test_the_named_limit_is_a_setting() -> None:
    assert Limits().story_sentences == 512


def test_the_graph_answers_raw_calls(story_reader: Server) -> None:
    with triton.InferenceServerClient(story_reader.target) as raw:
        inputs = []
        for name, shape in (("sentences", (2, 50, 16)), ("question", (2, 16))):
            (tensor := triton.InferInput(name, shape, "INT64")).set_data_from_numpy(np.zeros(shape, np.int64))
            inputs.append(tensor)
        answer = raw.infer("memory_reader", inputs)
        assert np.isfinite(answer.as_numpy("logits")).all()
        assert answer.as_numpy("attention").shape == (2, 3, 50)
