"""Callers who leave at any moment of a call, by whatever way: nothing of theirs stays, and the next are served."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest
from google.protobuf.message import Message

from benchmarks.rpcs import ask, rows, rpc_of
from tests.conftest import Server, serving
from tests.server import doomed
from tests.server.at_rest import codes, nothing_kept
from tests.server.fuzzing import CASES
from tests.waiting import WAIT

AT_ONCE, CHANNELS = 24, 6
KILLED = 12
SOONEST, LATEST = 1e-4, 0.3  # seconds after which a caller leaves
# Callers who leave, and more of them at once than there are places.
EXPECTED = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of every capability that has answered each RPC, so that what it makes once is made."""
    with serving(tmp_path_factory.mktemp("everything"), LECTERN_ALLOW_ATTACKS="true") as server:
        ask_everything(server)
        yield server


def ask_everything(server: Server) -> None:
    for row in rows():
        ask(server.target, path_of(row.request), row.request)


def path_of(request: Message) -> str:
    return "/{}/{}".format(*rpc_of(request))


def test_calls_that_end_at_any_moment_leave_nothing(everything: Server) -> None:
    requests = [row.request for row in rows()]
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(everything.target, own) for _ in range(CHANNELS)]

    def call(number: int) -> None:
        chance = random.Random(number)  # noqa: S311
        request, patience = chance.choice(requests), SOONEST * (LATEST / SOONEST) ** chance.random()
        path, late, left = path_of(request), chance.random() < 0.5, threading.Event()

        def one_and_no_end() -> Iterator[bytes]:
            yield request.SerializeToString()
            left.wait(WAIT)

        timeout = patience if late else WAIT
        if path.rpartition("/")[2].startswith("Stream"):
            begun = channels[number % CHANNELS].stream_stream(path)(one_and_no_end(), timeout=timeout)
        else:
            begun = channels[number % CHANNELS].unary_stream(path)(request.SerializeToString(), timeout=timeout)
        if not late:
            threading.Timer(patience, begun.cancel).start()
        with suppress(grpc.RpcError):
            for _ in begun:
                pass
        left.set()

    before = codes(everything)
    with nothing_kept(everything):
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(call, range(CASES)))
        for channel in channels:
            channel.close()
    ended = codes(everything) - before
    assert set(ended) <= EXPECTED, ended
    assert min(ended["CANCELLED"], ended["DEADLINE_EXCEEDED"]) > CASES / 20, ended
    ask_everything(everything)


def test_clients_that_are_killed_leave_nothing(everything: Server) -> None:
    context, chance, before = multiprocessing.get_context("forkserver"), random.Random(0), codes(everything)  # noqa: S311
    context.set_forkserver_preload([doomed.__name__])
    with nothing_kept(everything):
        for number in range(KILLED):
            begun = context.Event()
            client = context.Process(target=doomed.live, args=(everything.target, number, begun), daemon=True)
            client.start()
            assert begun.wait(WAIT)
            client.join(chance.random() / 2)
            client.kill()
            client.join()
    ended: Counter[str] = codes(everything) - before
    assert set(ended) <= EXPECTED | {"INVALID_ARGUMENT"}, ended  # what is uploaded is no inference
    ask_everything(everything)
