"""The server that is attacked: our own over LECTERN_TRANSPORT by default, or whatever FRONT_COMMAND starts.

FRONT_COMMAND is a shell command in which {port} and {repository} are filled in. It must serve the models `echo` and
`wide` on 127.0.0.1 over plaintext gRPC.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from onnx import numpy_helper, parser
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from services.server.settings import Settings
from services.server.transport import chosen
from tests.conftest import serving
from tests.graphs import add_graph
from tests.native.wire import infer_request
from tests.waiting import WAIT

TRANSPORT = os.environ.get("LECTERN_TRANSPORT", "auto")
GRPC_TRANSPORT = "FRONT_COMMAND" not in os.environ and chosen(Settings(transport=TRANSPORT)) == "grpc"
WIDTH = 65_536  # floats of a row of `wide`'s answer: 256 KiB

ECHO = """
<ir_version: 10, opset_import: ["" : 20]>
echo (float[N, 1] features) => (float[N, 1] prediction) { prediction = Identity (features) }
"""
WIDE = """
<ir_version: 10, opset_import: ["" : 20]>
wide (float[N, 1] features) => (float[N, 65536] prediction) { prediction = MatMul (features, ones) }
"""


@dataclass
class Front:
    """A server under attack."""

    address: tuple[str, int]
    pid: int

    @property
    def alive(self) -> bool:
        return psutil.pid_exists(self.pid) and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE

    def serves(self) -> bool:
        if not self.alive:
            return False
        with grpc.insecure_channel("{}:{}".format(*self.address)) as channel:
            try:
                GRPCInferenceServiceStub(channel).ModelInfer(infer_request("echo"), timeout=10)
            except grpc.RpcError:
                return False
        return True


def config(width: int) -> str:
    return f"""
    backend: "onnxruntime"
    max_batch_size: 64
    input [{{ name: "features" data_type: TYPE_FP32 dims: [1] }}]
    output [{{ name: "prediction" data_type: TYPE_FP32 dims: [{width}] }}]
    """


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`echo` answers with its input, `wide` with 256 KiB for each row."""
    directory = tmp_path_factory.mktemp("small-models")
    add_graph(directory, "echo", parser.parse_model(ECHO), config(1))
    wide = parser.parse_model(WIDE)
    wide.graph.initializer.append(numpy_helper.from_array(np.ones((1, WIDTH), np.float32), "ones"))
    add_graph(directory, "wide", wide, config(WIDTH))
    return directory


@contextmanager
def started_by(command: str, repository: Path) -> Iterator[Front]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = f"exec {command.format(port=port, repository=repository)}"
    process = subprocess.Popen(line, shell=True)  # noqa: S602
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            GRPCInferenceServiceStub(channel).ModelInfer(infer_request("echo"), timeout=WAIT, wait_for_ready=True)
        yield Front(("127.0.0.1", port), process.pid)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(WAIT)


@contextmanager
def our_own(directory: Path, repository: Path) -> Iterator[Front]:
    with serving(directory, "predict", repository=repository, LECTERN_TRANSPORT=TRANSPORT) as server:
        host, port = server.target.split(":")
        yield Front((host, int(port)), server.pid)


@pytest.fixture(scope="session")
def living_front(tmp_path_factory: pytest.TempPathFactory, small_models: Path) -> Iterator[Callable[[], Front]]:
    """Gives the server, and starts another where it has died or answers nobody."""
    command = os.environ.get("FRONT_COMMAND")
    with ExitStack() as stack:
        fronts: list[Front] = []

        def living() -> Front:
            if not (fronts and fronts[-1].serves()):
                directory = tmp_path_factory.mktemp("front")
                started = started_by(command, small_models) if command else our_own(directory, small_models)
                fronts.append(stack.enter_context(started))
            return fronts[-1]

        yield living


@pytest.fixture
def front(living_front: Callable[[], Front]) -> Front:
    return living_front()


@pytest.fixture
def front_address(front: Front) -> tuple[str, int]:
    return front.address


@pytest.fixture
def front_pid(front: Front) -> int:
    return front.pid
