"""One message-size limit, which the server, the clients and the command line agree on."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

import lectern
from lectern.channel import MAX_CONTENT_BYTES, MAX_MESSAGE_BYTES
from lectern.v1 import classify_pb2
from services.limits import Limits
from tests.conftest import Server, serving
from tests.waiting import WAIT


def image_that_fills(message_bytes: int) -> bytes:
    """Zeros that make a request of exactly that size."""
    around = classify_pb2.ClassifyImageRequest(images=[bytes(message_bytes)]).ByteSize() - message_bytes
    image = bytes(message_bytes - around)
    assert classify_pb2.ClassifyImageRequest(images=[image]).ByteSize() == message_bytes
    return image


def outcome(target: str, image: bytes) -> lectern.LecternError:
    """How the call ends, sent by the SDK's channel past its own check of the files."""
    request = classify_pb2.ClassifyImageRequest(images=[image])
    with lectern.Client(target, timeout=WAIT) as client, pytest.raises(lectern.LecternError) as caught:
        client._call(request, classify_pb2.ClassifyImageResponse, None)
    return caught.value


@pytest.mark.unit
def test_defaults_agree() -> None:
    assert Limits().message_bytes == MAX_MESSAGE_BYTES
    assert MAX_CONTENT_BYTES < MAX_MESSAGE_BYTES


def test_what_a_client_may_send_a_server_reads_and_not_a_byte_more(server: Server) -> None:
    read = outcome(server.target, image_that_fills(MAX_MESSAGE_BYTES))
    assert read.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert read.violations[0][0] == "images[0]"
    refused = outcome(server.target, image_that_fills(MAX_MESSAGE_BYTES + 1))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"({MAX_MESSAGE_BYTES + 1} vs. {MAX_MESSAGE_BYTES})" in refused.details()


def test_a_servers_own_limit_holds(tmp_path: Path) -> None:
    with serving(tmp_path, "classify", LECTERN_LIMITS__MESSAGE_BYTES="100000") as server:
        assert outcome(server.target, image_that_fills(100_000)).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert outcome(server.target, image_that_fills(100_001)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
