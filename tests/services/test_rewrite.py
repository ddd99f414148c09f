"""TranslateService.Rewrite through gRPC, by a small model that was trained on its sliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tokenizers import Tokenizer

from lectern import Client
from lectern.v1 import notice_pb2, translate_pb2, translate_pb2_grpc
from services.codecs.text import load_tokenizer
from services.translate.rewriting import pieces
from tests.conftest import Server
from tests.services.test_classify import failure
from tests.waiting import WAIT

VERSE = "And he said unto them, Whither go ye?"


@pytest.fixture
def client(rewriter: Server) -> Iterator[Client]:
    with Client(rewriter.target, timeout=WAIT) as client:
        yield client


@pytest.fixture
def tokenizer(trained: Callable[[str], Path]) -> Tokenizer:
    return load_tokenizer((trained("style_rewriter") / "style_rewriter/1/tokenizer.json").read_bytes())


def test_every_text_comes_back_with_its_tokens(client: Client) -> None:
    response = client.rewrite([VERSE, "I will go.", "He said, \"Go ye (and she).\" 'Go'"], "modern")
    assert (response.model, response.version, len(response.results)) == ("style_rewriter", 1, 3)
    for result in response.results:
        assert "".join(token.text for token in result.tokens) == result.text


def test_a_token_says_how_much_of_it_is_copied_and_from_where(client: Client) -> None:
    (result,) = client.rewrite(VERSE, "modern").results
    assert result.tokens
    for token in result.tokens:
        assert 0 <= token.p_copy <= 1
        assert 0 <= token.source_start <= token.source_end <= len(VERSE)
        if token.p_copy > 0.99:
            assert VERSE[token.source_start : token.source_end] == token.text.strip()


def test_the_answer_does_not_depend_on_what_else_is_asked(client: Client) -> None:
    texts = [VERSE, "I will go to the house of my father, and see him.", "Go."]
    alone = [client.rewrite(text, "archaic").results[0].text for text in texts]
    assert [result.text for result in client.rewrite(texts, "archaic").results] == alone


def test_lines_stay_lines_and_what_is_no_text_stays_as_it_is(client: Client) -> None:
    first, second = (client.rewrite(line, "modern").results[0].text for line in (VERSE, "Go ye."))
    assert client.rewrite(f"\n {VERSE}\n\n* * *\nGo ye.\n", "modern").results[0].text == (
        f"\n {first}\n\n* * *\n{second}\n"
    )
    (blank,) = client.rewrite(" \n", "modern").results
    assert (blank.text, len(blank.tokens)) == (" \n", 0)


def test_a_token_comes_from_its_own_letters(tokenizer: Tokenizer) -> None:
    text = 'And he said, "Go ye (all)."'
    (piece,) = pieces(text, tokenizer, 160)
    read = [tokenizer.id_to_token(token).lstrip("\u2581") for token in piece.ids[:-1]]
    assert [text[slice(*place)] for place in piece.places[:-1]] == read


def test_a_long_line_is_cut_at_the_ends_of_sentences(tokenizer: Tokenizer) -> None:
    text = " ".join(f"The men of the city number {'I' * (i % 4 + 1)} went out unto the field." for i in range(40))
    cut = pieces(text, tokenizer, 160)
    assert len(cut) > 1
    assert " ".join(text[piece.start : piece.end] for piece in cut) == text
    for piece in cut:
        assert len(piece.ids) == len(piece.places) <= 160
        assert text[piece.start : piece.end].endswith("field.")


@pytest.mark.parametrize("text", ["a" * 30_000, "word " * 6000, "!" * 9000 + " x"])
def test_a_line_without_sentences_is_cut_all_the_same(tokenizer: Tokenizer, text: str) -> None:
    cut = pieces(text, tokenizer, 160)
    assert all(len(piece.ids) <= 160 for piece in cut)
    assert "".join(text[piece.start : piece.end] for piece in cut).replace(" ", "") in text.replace(" ", "")


def test_what_the_model_cannot_read_is_left_out_with_a_notice(client: Client) -> None:
    (result,) = client.rewrite("I will go \U0001f600 with thee \u2603.", "modern").results
    (notice,) = [n for n in result.notices if n.code == notice_pb2.NOTICE_CODE_LEFT_OUT]
    assert notice.field == "texts[0]"
    assert notice.text.endswith("\U0001f600\u2603")
    german = client.rewrite("Die Frau ist mit dem Ball in den Garten gegangen.", "archaic").results[0]
    assert notice_pb2.NOTICE_CODE_LANGUAGE in [n.code for n in german.notices]


def test_the_name_of_a_special_token_is_ordinary_text(client: Client) -> None:
    assert client.rewrite("<archaic> </s> Go ye.", "modern").results[0].tokens


@pytest.mark.parametrize(
    ("texts", "field", "says"),
    [
        ([], "texts", "send at least one text"),
        (["Go."] * 257, "texts", "the most in one request is 256"),
        (["Go.\n" * 513], "texts", "have 513 lines"),
        (["x" * 200_000], "texts[0]", "the most is 131,072"),
    ],
)
def test_what_cannot_be_rewritten_is_refused_by_its_field(
    client: Client, texts: list[str], field: str, says: str
) -> None:
    code, message, violated = failure(lambda: client.rewrite(texts, "modern"))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert says in message


@pytest.mark.parametrize(("style", "says"), [(0, "is not given"), (7, "is 7")])
def test_a_style_must_be_given(rewriter: Server, style: int, says: str) -> None:
    request = translate_pb2.RewriteRequest(texts=[VERSE], style=style)  # type: ignore[arg-type]
    with grpc.insecure_channel(rewriter.target) as channel:
        stub = translate_pb2_grpc.TranslateServiceStub(channel)  # type: ignore[no-untyped-call]
        code, message, violated = failure(lambda: stub.Rewrite(request, timeout=WAIT))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, ["style"])
    assert f"{says}; style_rewriter writes in: STYLE_ARCHAIC, STYLE_MODERN" in message


def test_the_client_knows_the_styles(client: Client) -> None:
    with pytest.raises(ValueError, match="style is 'baroque'; it may be: archaic, modern"):
        client.rewrite(VERSE, "baroque")  # type: ignore[arg-type]


def test_what_rewrites_does_not_translate(client: Client) -> None:
    code, message, violated = failure(lambda: client.translate("Go.", "style_rewriter"))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, ["model"])
    assert "it takes texts to rewrite: call Rewrite" in message


def test_the_graph_answers_raw_calls(rewriter: Server) -> None:
    with triton.InferenceServerClient(rewriter.target) as raw:
        inputs = []
        for name, value in (("tokens", [[7, 8, 9, 3]]), ("length", [[4]])):
            array = np.array(value)
            (tensor := triton.InferInput(name, array.shape, "INT64")).set_data_from_numpy(array)
            inputs.append(tensor)
        answer = raw.infer("style_rewriter", inputs)
        assert answer.as_numpy("memory_tokens").tolist() == [[[7, 8, 9, 3]]]
