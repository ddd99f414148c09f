"""Texts explained word by word: what methods promise, where words are, and what is refused."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from PIL import Image

import lectern
from lectern.v1 import explain_pb2 as pb
from services.explain.methods.asking import Remaining
from services.explain.methods.sentences_first import LongText, kernel_shap_of_text, lime_of_text, occlusion_of_text
from tests.conftest import ROOT, Server, serving
from tests.services.test_explain import IMAGE, client, method, refused, values
from tests.waiting import WAIT

__all__ = ["client"]

METHODS = ("occlusion", "lime", "kernel_shap")
PRAISE = "The chairs were hard, but what a wonderful film!"
STORY = (ROOT / "docs" / "examples" / "beagle.txt").read_text()
QUESTION = "Who commanded the ship?"
OCCLUSION = method("occlusion")


@pytest.fixture(scope="module")
def explaining(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("explain"), "explain", "answer", "classify") as server:
        yield server


def of(text: str, question: str = "") -> pb.ExplainedInput:
    return pb.ExplainedInput(text=pb.ExplainedText(text=text, question=question))


@pytest.mark.parametrize("name", METHODS)
def test_each_method_finds_the_word_of_praise(client: lectern.Client, name: str) -> None:
    response = client.explain(text=PRAISE, method=name, target="positive", seed=1)
    assert (response.model, response.prediction.label) == ("sentiment_classifier", "positive")
    contributions = values(response.attribution)
    assert response.words[int(contributions.argmax())].text == "wonderful"
    assert contributions.shape == (len(response.words),)
    again = client.explain(text=PRAISE, method=name, target="positive", seed=1)
    assert again.attribution == response.attribution
    assert Image.open(io.BytesIO(response.picture)).format == "PNG"


def test_shapley_values_add_up(client: lectern.Client) -> None:
    assert client.explain(text=PRAISE, method="kernel_shap").completeness_gap < 1e-4


@pytest.mark.parametrize("text", [PRAISE, "é́tonnant 👩🏽‍🚀 שלום עולם, naïve!", "a\n\nb  c"])
def test_words_are_where_the_text_has_them(client: lectern.Client, text: str) -> None:
    words = client.explain(text=text, method="occlusion").words
    assert [text[word.start : word.end] for word in words] == [word.text for word in words]
    assert not any(word.in_question for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


def test_an_answer_is_explained_by_its_question_and_its_text(client: lectern.Client) -> None:
    (result,) = client.answer([QUESTION], STORY).results
    response = client.explain(text=STORY, question=QUESTION, method="occlusion")
    assert (response.model, response.prediction.label) == ("question_answerer", result.answers[0].text)
    asked = [word.text for word in response.words if word.in_question]
    assert asked == ["Who", "commanded", "the", "ship", "?"]
    sizes = np.abs(values(response.attribution))
    answer = result.answers[0]
    inside = [not w.in_question and answer.start <= w.start < answer.end for w in response.words]
    assert sizes[inside].max() > np.median(sizes)


def test_a_long_text_is_occluded_word_by_word_where_it_matters(client: lectern.Client) -> None:
    longer = f"{STORY} {PRAISE} {STORY}"
    response = client.explain(text=longer, method="occlusion", target="positive", model="sentiment_classifier")
    contributions = values(response.attribution)
    ends = [i for i, word in enumerate(response.words, 1) if word.text in ".!?"]
    sentences = [contributions[start:end] for start, end in itertools.pairwise((0, *ends))]
    largest = max(sentences, key=lambda sentence: abs(sentence.sum()))
    assert len(set(largest.tolist())) > len(largest) / 2
    assert any(len(set(sentence.tolist())) == 1 for sentence in sentences)


def test_a_text_is_occluded_by_sentences_first() -> None:
    asked: list[int] = []

    async def remaining(kept: np.ndarray) -> np.ndarray:
        asked.append(len(kept))
        return kept @ np.array([0.0, 0.0, 3.0, 1.0, 0.25, 0.25], np.float32)

    values = asyncio.run(occlusion_of_text(LongText([slice(0, 2), slice(2, 4), slice(4, 6)], 0.25, 10), remaining))
    assert values == pytest.approx([0, 0, 3, 1, 0.25, 0.25])
    assert asked == [3 + 1, 2 + 1]


WEIGHTS = np.array([0, 0, 0, 6, -1, 2, 0, 0, 0.5, 0.5, 3], np.float32)
TEXT = LongText([slice(0, 3), slice(3, 7), slice(7, 8), slice(8, 11)], 0.5, 40)


def interacting(asked: list[int]) -> Remaining:
    """The words' weights, and 4 if words 3 and 5 are both there."""

    async def remaining(kept: np.ndarray) -> np.ndarray:
        asked.append(len(kept))
        return (kept @ WEIGHTS + 4 * kept[:, 3] * kept[:, 5]).astype(np.float32)

    return remaining


@pytest.mark.unit
def test_shapley_values_of_a_long_text_are_exact_where_two_words_act_on_each_other() -> None:
    values, difference = asyncio.run(kernel_shap_of_text(TEXT, interacting([])))
    assert difference == pytest.approx(15)
    shared = (0.5 + 0.5 + 3) / 3  # the last sentence matters less than half as much as the second
    assert values == pytest.approx([0, 0, 0, 8, -1, 4, 0, 0, shared, shared, shared])


@pytest.mark.unit
def test_the_model_is_asked_no_more_often_than_is_set_but_for_the_sentence_that_matters_most() -> None:
    for calls, most in ((40, 40), (1, 2 * 4 + 2 * 4 + 2)):
        text = LongText(TEXT.sentences, 0.1, calls)
        for explain in (occlusion_of_text, kernel_shap_of_text, partial(lime_of_text, seed=1)):
            asked: list[int] = []
            asyncio.run(explain(text, interacting(asked)))
            assert sum(asked) <= most


@pytest.mark.unit
def test_lime_of_a_long_text_finds_the_words_that_matter() -> None:
    values = asyncio.run(lime_of_text(TEXT, interacting([]), seed=1))
    assert set(np.argsort(-values)[:2]) == {3, 5}
    assert len(set(values[:3].tolist())) == 1


@pytest.mark.parametrize("name", METHODS)
def test_a_question_of_a_long_text_is_explained_by_the_sentence_that_answers_it(
    client: lectern.Client, name: str
) -> None:
    response = client.explain(text=STORY, question=QUESTION, method=name, seed=1)
    contributions = values(response.attribution)
    assert {"Robert", "FitzRoy"} & {response.words[i].text for i in np.argsort(-contributions)[:5]}
    assert response.completeness_gap < 1e-4


def test_the_caller_may_say_how_often_a_long_text_is_tried(client: lectern.Client) -> None:
    few = client.explain(text=STORY, method="lime", model="sentiment_classifier", samples=8)
    assert len(set(values(few.attribution).tolist())) > len(few.words) / 2


def test_methods_are_compared_with_a_random_order(client: lectern.Client) -> None:
    response = client.compare(text=PRAISE)
    assert [entry.method for entry in response.explanations] == [*METHODS, "attention", "random"]
    *learned, _, random = response.explanations
    assert min(entry.deletion for entry in learned) < random.deletion
    assert not any(entry.HasField("correlation_with_random_weights") for entry in response.explanations)
    assert Image.open(io.BytesIO(response.picture)).format == "PNG"


def test_attention_is_shared_by_the_words(reader: Server) -> None:
    with lectern.Client(reader.target, timeout=WAIT) as client:
        of_class = client.explain(text=PRAISE, method="attention", model="sentiment_classifier")
        of_answer = client.explain(text=STORY[:400], question=QUESTION, method="attention")
    for response in (of_class, of_answer):
        shares = values(response.attribution)
        assert shares.shape == (len(response.words),)
        assert shares.min() >= 0
        assert 0.3 < shares.sum() < 1  # the rest is of the marks around the text
        assert not response.attribution.signed


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ExplainRequest(input=IMAGE, method=method("attention")), "method"),
        (pb.ExplainRequest(input=of(PRAISE), method=method("saliency")), "method"),
        (pb.ExplainRequest(input=of(PRAISE), method=method("smooth_grad")), "method"),
        (pb.ExplainRequest(input=of(PRAISE), method=method("integrated_gradients")), "method"),
        (pb.ExplainRequest(input=of(PRAISE), method=method("grad_cam")), "method"),
        (pb.ExplainRequest(input=of(PRAISE), method=method("rise")), "method"),
        (pb.ExplainRequest(input=of(PRAISE), method=method("lime", cells=4)), "method.lime.cells"),
        (pb.ExplainRequest(input=of(PRAISE), method=method("occlusion", baseline=1)), "method.occlusion.baseline"),
        (pb.ExplainRequest(input=of(""), method=OCCLUSION), "input.text.text"),
        (pb.ExplainRequest(input=of(" \n"), method=OCCLUSION), "input.text.text"),
        (pb.ExplainRequest(input=of("word " * 600), method=OCCLUSION), "input.text.text"),
        (
            pb.ExplainRequest(input=of(PRAISE, "Who?"), method=OCCLUSION, model="spam_classifier"),
            "input.text.question",
        ),
        (pb.ExplainRequest(input=of(PRAISE), method=OCCLUSION, model="question_answerer"), "input.text.question"),
        (pb.ExplainRequest(input=of(PRAISE, "Who " * 200), method=OCCLUSION), "input.text.question"),
        (pb.ExplainRequest(input=of(PRAISE), method=OCCLUSION, model="image_classifier"), "input"),
        (pb.ExplainRequest(input=IMAGE, method=OCCLUSION, model="sentiment_classifier"), "input"),
        (pb.ExplainRequest(input=of(PRAISE), method=OCCLUSION, target_index=3), "target_index"),
        (pb.ExplainRequest(input=of(PRAISE), method=OCCLUSION, target_label="joy"), "target_label"),
    ],
)
def test_bad_requests_are_refused_by_name(explaining: Server, request_: pb.ExplainRequest, field: str) -> None:
    refused(explaining, "Explain", request_, "INVALID_ARGUMENT", field)


def test_later_layers_know_more_of_the_sentiment(client: lectern.Client) -> None:
    accuracy: dict[str, list[float]] = {}
    for probe in client.explain_model("sentiment_classifier").probes:
        accuracy.setdefault(probe.property, []).append(probe.accuracy)
    assert set(accuracy) == {"sentiment", "length, in quarters"}
    assert accuracy["sentiment"][-1] > accuracy["sentiment"][0] + 0.05
    assert max(accuracy["length, in quarters"]) > 0.5
