"""What fuzzers share: how much they try, and a server's door with what must hold behind it for whatever comes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import grpc
import psutil
from hypothesis import HealthCheck, settings

from lectern import Client
from tests.conftest import Server
from tests.waiting import WAIT

CASES = int(os.environ.get("FUZZ_CASES", "2000"))
LOOP_SECONDS = 0.25  # most CPU time of the event loop's thread for one call: what runs there takes milliseconds
OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE}


def fuzzing(share: int) -> settings:
    """As many examples as one of `share` cases; always the same, unless FUZZ_CASES asks for more than a test run."""
    return settings(
        max_examples=max(20, CASES // share),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize="FUZZ_CASES" not in os.environ,
    )


@dataclass(frozen=True)
class Door:
    """A server that is fuzzed."""

    channel: grpc.Channel
    process: psutil.Process

    def knock(
        self, path: str, requests: Sequence[bytes], *, stream: bool = False
    ) -> tuple[grpc.StatusCode, list[bytes]]:
        """How the server ends an RPC that gets these bytes, and what it answers; its event loop goes on meanwhile."""
        before = self._loop_seconds()
        if stream:
            call = self.channel.stream_stream(path)(iter(requests), timeout=WAIT)
        else:
            call = self.channel.unary_stream(path)(*requests, timeout=WAIT)
        answers = []
        with suppress(grpc.RpcError):
            answers.extend(call)
        assert self._loop_seconds() - before < LOOP_SECONDS
        return call.code(), answers

    def _loop_seconds(self) -> float:
        """CPU time of the thread that the event loop runs on, the process's first."""
        (thread,) = (thread for thread in self.process.threads() if thread.id == self.process.pid)
        return float(thread.user_time + thread.system_time)


@contextmanager
def door(server: Server, picture: bytes) -> Iterator[Door]:
    """A door, and in the end the server still serves and has logged no error of its own."""
    with grpc.insecure_channel(server.target) as channel:
        yield Door(channel, psutil.Process(server.pid))
    with Client(server.target, timeout=WAIT) as client:
        assert client.classify_image(picture).results
    assert not [r for r in server.log_records() if r["level"] == "ERROR"]
