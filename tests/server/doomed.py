"""A client that is to be killed: calls of every kind, uploads and streams, until then."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.synchronize import Event

import grpc
from google.protobuf.message import Message

from benchmarks.rpcs import rows, rpc_of

CALLERS = 8
UPLOAD_BYTES, PIECES = 2**20, 16


def live(target: str, seed: int, begun: Event) -> None:
    """Call until the process is killed; `begun` is set with the first answer."""
    requests = [row.request for row in rows()]
    for number in range(CALLERS):
        work = (_upload, _converse, _call)[min(number, 2)]
        threading.Thread(target=work, args=(target, random.Random(CALLERS * seed + number), requests, begun)).start()  # noqa: S311


def _call(target: str, chance: random.Random, requests: list[Message], begun: Event) -> None:
    """Calls of every RPC, one after the other."""
    with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        while True:
            request = chance.choice(requests)
            with suppress(grpc.RpcError):
                for _ in channel.unary_stream("/{}/{}".format(*rpc_of(request)))(request.SerializeToString()):
                    begun.set()


def _upload(target: str, chance: random.Random, _: list[Message], __: Event) -> None:
    """Large messages that are no inference, one after the other."""
    with grpc.insecure_channel(target, [("grpc.max_send_message_length", -1)]) as channel:
        upload = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        while True:
            with suppress(grpc.RpcError):
                upload(chance.randbytes(PIECES * UPLOAD_BYTES))


def _converse(target: str, chance: random.Random, requests: list[Message], _: Event) -> None:
    """A stream in both directions that does not end."""
    streamed = [request for request in requests if rpc_of(request)[1].startswith("Stream")]

    def endless() -> Iterator[bytes]:
        while True:
            yield request.SerializeToString()

    with grpc.insecure_channel(target) as channel:
        while True:
            request = chance.choice(streamed)
            with suppress(grpc.RpcError):
                for _ in channel.stream_stream("/{}/{}".format(*rpc_of(request)))(endless()):
                    pass
