"""GenerateText through gRPC: a seed writes the same poem, whoever else writes; each text ends where it should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

import lectern
import lectern.aio
from artifacts.verses import keeps_form
from lectern.v1 import generate_pb2 as pb
from lectern.v1.generate_pb2_grpc import GenerateServiceStub
from lectern.v1.notice_pb2 import NOTICE_CODE_FORM_NOT_KEPT, NOTICE_CODE_LEFT_OUT
from tests.conftest import Server, serving
from tests.services.test_classify import failure
from tests.waiting import WAIT


@pytest.fixture(scope="module")
def repository(trained: Callable[[str], Path]) -> Path:
    return trained("poem_generator")


@pytest.fixture(scope="module")
def writing(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), "generate", repository=repository) as server:
        yield server


@pytest.fixture(scope="module")
def client(writing: Server) -> Iterator[lectern.Client]:
    with lectern.Client(writing.target, timeout=WAIT) as client:
        yield client


def written(responses: Iterator[pb.GenerateTextResponse]) -> tuple[str, pb.GenerateTextResponse]:
    """The whole text, and the last response."""
    received = list(responses)
    return "".join(response.text for response in received), received[-1]


def test_the_likeliest_text_is_what_the_graph_gives_without_a_cache(client: lectern.Client, repository: Path) -> None:
    version = repository / "poem_generator" / "1"
    tokenizer = Tokenizer.from_file(str(version / "characters.json"))
    session = onnxruntime.InferenceSession(version / "model.onnx")
    ids = [tokenizer.token_to_id("<s>"), tokenizer.token_to_id("<body>")]
    prompt = len(ids)
    for _ in range(24):
        inputs = {
            i.name: np.zeros([1, *(1 if isinstance(d, str) else d for d in i.shape[1:])]) for i in session.get_inputs()
        }
        inputs |= {"tokens": np.array([ids]), "temperature": np.ones((1, 1)), "penalty": np.ones((1, 1))}
        inputs |= {"top_p": np.ones((1, 1))}
        types = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(bool)": np.bool_}
        typed = {i.name: inputs[i.name].astype(types[i.type]) for i in session.get_inputs()}
        ids.append(int(session.run(["next"], typed)[0][0, 0]))
    expected = tokenizer.decode(ids[prompt:]).replace(" ", "")
    assert written(client.generate_text(temperature=0, max_tokens=24))[0] == expected


async def test_a_seed_writes_the_same_whoever_else_writes(writing: Server) -> None:
    async with lectern.aio.Client(writing.target, timeout=WAIT) as client:

        async def poem(seed: int) -> str:
            return "".join([r.text async for r in client.generate_text("春", seed=seed, max_tokens=8 + seed)])

        together = await asyncio.gather(*(poem(seed) for seed in range(24)))
        assert len(set(together)) == 24
        assert [await poem(seed) for seed in range(24)] == together


def test_a_text_ends_before_a_stop_and_at_its_length(client: lectern.Client) -> None:
    text, last = written(client.generate_text(seed=1, max_tokens=20))
    assert (last.tokens, last.finish_reason, last.seed) == (20, pb.FINISH_REASON_LENGTH, 1)
    assert len(text) == 20
    stopped, last = written(client.generate_text(seed=1, max_tokens=20, stop=["never", text[9:12]]))
    assert stopped == text[: text.index(text[9:12])]
    assert last.finish_reason == pb.FINISH_REASON_STOP
    held, last = written(client.generate_text(seed=1, max_tokens=20, stop=[text[18:] + "never"]))
    assert (held, last.finish_reason) == (text, pb.FINISH_REASON_LENGTH)


def test_what_draws_leave_out_is_not_written(client: lectern.Client) -> None:
    likeliest, _ = written(client.generate_text(temperature=0, max_tokens=30))
    for options in ({"top_k": 1}, {"top_p": 1e-6}):
        assert written(client.generate_text(seed=5, max_tokens=30, **options))[0] == likeliest
    free, _ = written(client.generate_text(seed=5, max_tokens=30))
    for top_k in (10_000, 2**32 - 1):  # more than there are tokens
        assert written(client.generate_text(seed=5, max_tokens=30, top_k=top_k))[0] == free
    varied, _ = written(client.generate_text(temperature=0, repetition_penalty=5, max_tokens=30))
    assert len(set(varied)) > len(set(likeliest))


def test_prompts_may_hold_examples_and_names_of_marks(client: lectern.Client) -> None:
    plain, _ = written(client.generate_text("床前明月光，", seed=2, max_tokens=6, form="五言絕句", title="靜夜思"))
    shown, _ = written(client.generate_text("白日依山盡。\n床前明月光，", seed=2, max_tokens=6, form="五言絕句"))
    named, _ = written(client.generate_text("</s><body>🎉", seed=2, max_tokens=6))
    assert len(plain) == len(shown) == len(named) == 6


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateTextRequest(form="haiku"), "form"),
        (pb.GenerateTextRequest(temperature=-1), "temperature"),
        (pb.GenerateTextRequest(temperature=float("nan")), "temperature"),
        (pb.GenerateTextRequest(top_p=0), "top_p"),
        (pb.GenerateTextRequest(repetition_penalty=0.5), "repetition_penalty"),
        (pb.GenerateTextRequest(stop=["a", ""]), "stop"),
        (pb.GenerateTextRequest(stop=["a"] * 9), "stop"),
        (pb.GenerateTextRequest(prompt="春" * 300), "prompt"),
        (pb.GenerateTextRequest(prompt=" "), "prompt"),
        (pb.GenerateTextRequest(title="x" * (128 * 1024 + 1)), "title"),
    ],
)
def test_bad_requests_name_the_field(writing: Server, request_: pb.GenerateTextRequest, field: str) -> None:
    with grpc.insecure_channel(writing.target) as channel:
        stub = GenerateServiceStub(channel)
        code, _, fields = failure(lambda: list(stub.GenerateText(request_, timeout=WAIT)))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


def test_what_the_vocabulary_lacks_is_left_out_and_named(client: lectern.Client) -> None:
    plain, _ = written(client.generate_text("春，", title="春", seed=3, max_tokens=12))
    responses = list(client.generate_text("abc春 😀,", title="7春", seed=3, max_tokens=12))
    assert "".join(response.text for response in responses) == plain
    noticed = [(notice.code, notice.field, notice.text.rpartition(": ")[2]) for notice in responses[0].notices]
    assert noticed == [(NOTICE_CODE_LEFT_OUT, "prompt", "abc😀"), (NOTICE_CODE_LEFT_OUT, "title", "7")]
    assert not any(response.notices for response in responses[1:])


def test_a_poem_in_another_form_than_asked_for_says_so(client: lectern.Client) -> None:
    ended = 0
    for seed in range(24):
        text, last = written(client.generate_text(form="五言絕句", seed=seed))
        kept = last.finish_reason != pb.FINISH_REASON_END or keeps_form(text, "五言絕句")
        assert [notice.code for notice in last.notices] == ([] if kept else [NOTICE_CODE_FORM_NOT_KEPT])
        ended += last.finish_reason == pb.FINISH_REASON_END
    assert ended
