"""What every load-test user shares: a gRPC connection of its own, and calls that locust counts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
import grpc.experimental.gevent
from google.protobuf.message import Message
from locust import User

from lectern.channel import TLS, call_metadata, channel_options

# Before any channel: gRPC's own threads would block locust's event loop.
grpc.experimental.gevent.init_gevent()

# As of `lectern.Client`, but without retries: a call that is sent again would count as one slow call.
OWN_OPTIONS = {
    "grpc.enable_retries": 0,
    "grpc.service_config": json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}),
}


class CallError(Exception):
    """A call that failed, known by its status code only, so that locust counts equal failures together."""


class GrpcUser(User):
    """A client with one connection, as each process of a real client has.

    A task makes one call, whose name begins with the RPC's, up to a comma.

    Args:
        channel: another user's; None = one of its own.

    Attributes:
        tls, token, deadline: of every user; the deadline in seconds.
        capability: which it calls.
        due: when the next call should begin, in `time.perf_counter()` seconds; its time counts from there. 0 = now.
    """

    abstract = True
    tls: TLS | None = None
    token: str | None = os.environ.get("LECTERN_TOKEN")
    deadline = 5.0

    def __init__(self, environment: Any, channel: grpc.Channel | None = None) -> None:
        super().__init__(environment)
        self.channel = channel or self._open()
        self.capability = type(self).__module__.rpartition(".")[2]
        self.due = 0.0

    def on_stop(self) -> None:
        self.channel.close()

    def call(self, method: Callable[..., Message], request: Message, name: str) -> None:
        """Make a unary call and count it under that name."""
        self._count(name, lambda: [method(request, **self._settings())])

    def watch(self, method: Callable[..., Iterator[Message]], request: Message, name: str) -> None:
        """Send one request, read every response, and count the whole as one."""
        self._count(name, lambda: method(request, **self._settings()))

    def stream(self, method: Callable[..., Iterator[Message]], requests: Iterable[Message], name: str) -> None:
        """Send the requests over one call, read every response, and count the whole as one."""
        self._count(name, lambda: method(iter(requests), **self._settings()))

    def _open(self) -> grpc.Channel:
        options = list((dict(channel_options(self.tls)) | OWN_OPTIONS).items())
        if self.tls is None:
            return grpc.insecure_channel(self.host, options)
        return grpc.secure_channel(self.host, self.tls.credentials(), options)

    def _settings(self) -> dict[str, Any]:
        return {"timeout": self.deadline, "metadata": call_metadata(self.token, 0)}

    def _count(self, name: str, responses: Callable[[], Iterable[Message]]) -> None:
        start, size, failure = self.due or time.perf_counter(), 0, None
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
            context={"capability": self.capability},
        )
