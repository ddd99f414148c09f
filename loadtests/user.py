"""What every load-test user shares: a gRPC connection of its own, and calls that locust counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
import grpc.experimental.gevent
from google.protobuf.message import Message
from locust import User

# Before any channel: gRPC's own threads would block locust's event loop.
grpc.experimental.gevent.init_gevent()

DEADLINE_SECONDS = 5.0


class CallError(Exception):
    """A call that failed, known by its status code only, so that locust counts equal failures together."""


class GrpcUser(User):
    """A client with one connection, as each process of a real client has."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.channel = grpc.insecure_channel(self.host, options=[("grpc.use_local_subchannel_pool", 1)])

    def on_stop(self) -> None:
        self.channel.close()

    def call(self, method: Callable[..., Message], request: Message, name: str) -> None:
        """Make a unary call and count it under that name."""
        self._count(name, lambda: [method(request, timeout=DEADLINE_SECONDS)])

    def watch(self, method: Callable[..., Iterator[Message]], request: Message, name: str) -> None:
        """Send one request, read every response, and count the whole as one."""
        self._count(name, lambda: method(request, timeout=DEADLINE_SECONDS))

    def stream(self, method: Callable[..., Iterator[Message]], requests: Iterable[Message], name: str) -> None:
        """Send the requests over one call, read every response, and count the whole as one."""
        self._count(name, lambda: method(iter(requests), timeout=DEADLINE_SECONDS))

    def _count(self, name: str, responses: Callable[[], Iterable[Message]]) -> None:
        start, size, failure = time.perf_counter(), 0, None
        try:
            size = sum(response.ByteSize() for response in responses())
        except grpc.RpcError as error:
            failure = CallError(error.code().name)
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=(time.perf_counter() - start) * 1000,
            response_length=size,
            exception=failure,
            context={},
        )
