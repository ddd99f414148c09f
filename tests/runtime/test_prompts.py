"""Prompts that wait together are read in one run, equal ones once; a bad one fails alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from services.errors import InvalidArgument, Unavailable
from services.runtime.config import TensorSpec
from services.runtime.decode_batch import Member
from services.runtime.decode_prompts import PromptReader
from services.runtime.graph import HOST, Array, Memory
from services.runtime.search import Prompt, Rows
from tests.runtime.fakes import graph_config

REFUSED = -1


class Reader:
    """Gives each token's double; refuses a run with a bad token."""

    version, provider = 1, "fake"
    memory: Memory = HOST

    def __init__(self) -> None:
        tokens = TensorSpec("tokens", "INT64", (-1,))
        self.config = graph_config(4, inputs=(tokens,), outputs=(TensorSpec("doubled", "INT64", (-1,)),))
        self.runs: list[int] = []
        self.gone = False

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self.gone:
            raise Unavailable("gone")
        self.runs.append(len(inputs["tokens"]))
        if (inputs["tokens"] == REFUSED).any():
            raise InvalidArgument("bad token")
        return {"doubled": 2 * inputs["tokens"]}

    async def infer(self, *_: object) -> dict[str, Array]:
        raise NotImplementedError

    async def healthy(self) -> bool:
        return True

    def close(self, seconds: float) -> None:
        """Nothing to free."""


class Listener:
    """A search that notes what was read."""

    width, length, done = 1, 0, False
    past: Mapping[str, Array] = {}
    constants: Mapping[str, Array] = {}
    first = Rows([0], {})

    def __init__(self, graph: Reader, tokens: list[int], key: bytes = b"") -> None:
        self.prompt: Prompt | None = Prompt(graph, {"tokens": np.array([tokens])}, key)
        self.heard: list[int] = []

    def begin(self, outputs: Mapping[str, Array]) -> None:
        self.heard = outputs["doubled"].tolist()

    def advance(self, outputs: Mapping[str, Array]) -> Rows | None:
        raise NotImplementedError


def test_prompts_of_one_length_are_read_in_one_run_and_a_bad_one_fails_alone() -> None:
    graph, reader = Reader(), PromptReader()
    searches = [Listener(graph, [1, 2]), Listener(graph, [REFUSED, 4]), Listener(graph, [5, 6]), Listener(graph, [7])]
    members = [Member(search=search) for search in searches]
    failed = reader.read(members)
    assert list(failed) == [members[1]]
    assert isinstance(failed[members[1]], InvalidArgument)
    assert [search.heard for search in searches] == [[2, 4], [], [10, 12], [14]]
    assert graph.runs == [3, 1, 2, 1, 1, 1]


def test_equal_prompts_are_read_once_until_there_is_no_room_for_them() -> None:
    graph, reader = Reader(), PromptReader(kept_bytes=40)
    for tokens, runs in (([1, 2], 1), ([1, 2], 1), ([3, 4], 2), ([5, 6], 3), ([1, 2], 4)):
        twins = [Listener(graph, tokens, key=bytes(tokens)) for _ in range(2)]
        assert not reader.read([Member(search=twin) for twin in twins])
        assert [twin.heard for twin in twins] == [[2 * token for token in tokens]] * 2
        assert len(graph.runs) == runs


def test_without_the_graph_all_fail() -> None:
    graph, reader = Reader(), PromptReader()
    graph.gone = True
    members = [Member(search=Listener(graph, [token])) for token in (1, 2)]
    assert [type(error) for error in reader.read(members).values()] == [Unavailable] * 2
