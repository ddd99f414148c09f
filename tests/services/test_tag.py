"""TagService through gRPC, by a small model that was trained on its sliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from artifacts.versions import read_card
from lectern import Client
from lectern.v1 import notice_pb2
from tests.conftest import Server, serving
from tests.services.test_answer import SCRIPTS
from tests.services.test_classify import failure
from tests.waiting import WAIT
from training.data.web_treebank import PARTS_OF_SPEECH

TEXT = "add the song Blue Train to my Dinner Jazz playlist"


@pytest.fixture
def client(tagger: Server) -> Iterator[Client]:
    with Client(tagger.target, timeout=WAIT) as client:
        yield client


@pytest.mark.parametrize("text", [TEXT, *SCRIPTS.values()])
def test_spans_are_the_callers_own_characters_in_order_without_overlap(client: Client, text: str) -> None:
    response = client.tag_text(text)
    assert (response.model, response.version, len(response.results)) == ("slot_tagger", 1, 1)
    end = 0
    for span in response.results[0].spans:
        assert end <= span.start < span.end
        assert span.text == text[span.start : span.end]
        assert 0 < span.probability <= 1
        end = span.end


def test_parts_of_speech_are_of_each_word(reader: Server) -> None:
    text = "They don't pay 5 dollars."
    with Client(reader.target, timeout=WAIT) as client:
        response = client.tag_text([text, "word " * 300], "pos_tagger")
    first, long = response.results
    assert not first.classes
    assert {span.label for span in first.spans} <= set(PARTS_OF_SPEECH)
    assert "".join(span.text for span in first.spans) == text.replace(" ", "")
    assert sum(len(span.text.split()) for span in long.spans) == 300


def test_classes_are_the_intents_best_first(client: Client, trained: Callable[[str], Path]) -> None:
    (result,) = client.tag_text(TEXT).results
    probabilities = [scored.probability for scored in result.classes]
    assert {scored.label for scored in result.classes} == set(read_card(trained("slot_tagger") / "slot_tagger").labels)
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert list(client.tag_text(TEXT, top_k=2).results[0].classes) == list(result.classes[:2])


def test_an_answer_does_not_depend_on_the_texts_beside_it(client: Client) -> None:
    texts = [TEXT, "rain?", "will it snow in Oslo " + "and in Lima " * 9 + "on Friday"]
    together = client.tag_text(texts).results
    for text, beside in zip(texts, together, strict=True):
        (alone,) = client.tag_text(text).results
        assert [(s.label, s.start, s.end) for s in alone.spans] == [(s.label, s.start, s.end) for s in beside.spans]
        np.testing.assert_allclose(
            [scored.probability for scored in alone.classes],
            [scored.probability for scored in beside.classes],
            atol=1e-4,
        )


def test_a_text_of_many_windows_is_tagged_to_its_end(tmp_path: Path) -> None:
    """By the committed model: one trained on a sliver may find nothing in a window."""
    text = " ".join(["add the song Blue Train to my Dinner Jazz playlist and"] * 60)
    with serving(tmp_path, "tag") as server, Client(server.target, timeout=WAIT) as client:
        (result,) = client.tag_text(text).results
    assert result.spans[-1].end > 0.9 * len(text)
    assert all(span.text == text[span.start : span.end] for span in result.spans)


def test_another_language_gets_a_notice(client: Client) -> None:
    english, german = client.tag_text([TEXT, "Bitte spiele mir das neue Lied von der Sängerin"]).results
    codes = [notice.code for notice in german.notices]
    assert notice_pb2.NOTICE_CODE_LANGUAGE in codes
    assert notice_pb2.NOTICE_CODE_LANGUAGE not in [notice.code for notice in english.notices]


@pytest.mark.parametrize(
    ("texts", "field"),
    [
        ([], "texts"),
        (["fine", " "], "texts[1]"),
        (["x" * 200_000], "texts[0]"),
        (["\u0301"], "texts[0]"),
    ],
)
def test_what_cannot_be_tagged_is_refused_by_its_field(client: Client, texts: list[str], field: str) -> None:
    code, _, violated = failure(lambda: client.tag_text(texts))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
