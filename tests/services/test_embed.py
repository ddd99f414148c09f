"""EmbedService through gRPC, by a small model that was trained on its sliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tokenizers import Tokenizer

from artifacts.windows import SEP
from lectern import Client
from lectern.v1 import notice_pb2
from tests.conftest import Server
from tests.services.test_classify import failure
from tests.waiting import WAIT

MODEL = "word_vectors"
TEXT = "the king spake unto his son"


@pytest.fixture
def client(embedder: Server) -> Iterator[Client]:
    with Client(embedder.target, timeout=WAIT) as client:
        yield client


@pytest.fixture
def words(trained: Callable[[str], Path]) -> list[str]:
    """The vocabulary."""
    tokenizer = Tokenizer.from_file(str(trained("word_vectors") / "word_vectors" / "1" / "tokenizer.json"))
    return [tokenizer.id_to_token(i) for i in range(SEP + 1, tokenizer.get_vocab_size())]


def vectors(client: Client, texts: list[str]) -> np.ndarray:
    parts = [client.embed_text(texts[i : i + 256], MODEL).results for i in range(0, len(texts), 256)]
    return np.array([result.vector for part in parts for result in part], np.float32)


def test_a_vector_has_length_1_and_the_direction_of_its_words_mean(client: Client) -> None:
    response = client.embed_text(TEXT, MODEL)
    assert (response.model, response.version, len(response.results)) == (MODEL, 1, 1)
    assert not response.results[0].notices
    vector = np.array(response.results[0].vector)
    mean = vectors(client, TEXT.split()).mean(axis=0)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    # A word's stored vector is of 8 bits, so its length is only nearly 1.
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=0.01)


def test_a_vector_does_not_depend_on_case_punctuation_or_the_texts_beside_it(client: Client) -> None:
    texts = [TEXT, "\u201cThe KING spake, unto his son!\u201d", "Sons?", " ".join([TEXT] * 100)]
    together = vectors(client, texts)
    alone = np.concatenate([vectors(client, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together[1], together[0], atol=1e-5)
    np.testing.assert_allclose(together[3], together[0], atol=0.01)  # of several windows, which part the last text


def test_words_that_the_vocabulary_lacks_are_left_out_with_a_notice(client: Client) -> None:
    known, partly, unknown = client.embed_text(["king", "king Zzyzx", "Zzyzx qwerty Zzyzx"], MODEL).results
    np.testing.assert_allclose(partly.vector, known.vector, atol=1e-5)
    assert not any(unknown.vector)
    assert len(unknown.vector) == len(known.vector)
    (notice,) = unknown.notices
    assert (notice.code, notice.field) == (notice_pb2.NOTICE_CODE_LEFT_OUT, "texts[2]")
    assert notice.text.endswith(": Zzyzx, qwerty")


def test_another_language_gets_a_notice(client: Client) -> None:
    (result,) = client.embed_text("der König und die Königin", MODEL).results
    assert notice_pb2.NOTICE_CODE_LANGUAGE in [notice.code for notice in result.notices]


def test_the_nearest_words_have_the_largest_cosines_and_are_not_the_callers(client: Client, words: list[str]) -> None:
    response = client.nearest(["king", "woman"], "man", top_k=7)
    king, woman, man = vectors(client, ["king", "woman", "man"])
    query = king + woman - man
    cosines = dict(zip(words, vectors(client, words) @ query / np.linalg.norm(query), strict=True))
    for own in ("king", "woman", "man"):
        del cosines[own]
    found = [near.cosine for near in response.words]
    assert found == sorted(found, reverse=True)
    for near in response.words:
        assert near.cosine == pytest.approx(cosines[near.word], abs=0.01)
    np.testing.assert_allclose(found, sorted(cosines.values(), reverse=True)[:7], atol=0.01)


def test_there_are_ten_neighbours_unless_the_caller_says_how_many(client: Client) -> None:
    assert len(client.nearest("king").words) == 10
    assert len(client.nearest("king", top_k=100).words) == 100
    (one,) = client.nearest("king", top_k=1).words
    assert one.word == client.nearest("king").words[0].word


def test_a_text_of_several_words_is_their_mean_and_none_of_them_an_answer(client: Client) -> None:
    response = client.nearest("the king and his house Zzyzx")
    assert not {"the", "king", "and", "his", "house"} & {near.word for near in response.words}
    assert [notice.field for notice in response.notices] == ["positive[0]"]


@pytest.mark.parametrize(
    ("texts", "field"),
    [([], "texts"), (["king", " "], "texts[1]"), (["x" * 200_000], "texts[0]"), (["\u0301"], "texts[0]")],
)
def test_what_cannot_be_embedded_is_refused_by_its_field(client: Client, texts: list[str], field: str) -> None:
    code, _, violated = failure(lambda: client.embed_text(texts, MODEL))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize(
    ("positive", "negative", "top_k", "field"),
    [
        ([], ["man"], 0, "positive"),
        (["king", "Zzyzx"], [], 0, "positive[1]"),
        (["king"], ["man", "Zzyzx"], 0, "negative[1]"),
        (["king"], [""], 0, "negative[0]"),
        (["king"], ["man"] * 256, 0, "negative"),
        (["king"], [], 101, "top_k"),
    ],
)
def test_a_sum_that_cannot_be_made_is_refused_by_its_field(
    client: Client, positive: list[str], negative: list[str], top_k: int, field: str
) -> None:
    code, message, violated = failure(lambda: client.nearest(positive, negative, top_k=top_k))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, [field]), message
