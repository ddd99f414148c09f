"""One measurement: h2load against one RPC of one server, with the server's CPU time and memory."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
from google.protobuf.message import Message
from numpy.typing import NDArray
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

INFER = "/inference.GRPCInferenceService/ModelInfer"
ANSWER_SECONDS = 30
# Releases of ONNX Runtime round int8 sums the one way or the other; another graph's answer is off by its whole scale.
TOLERANCE = 0.05
PREFIX = 5  # bytes before each message of gRPC
DATATYPES = {np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}


@dataclass(frozen=True)
class Measurement:
    """Requests per second, latency in milliseconds, server CPU seconds per 1,000 requests, resident MB."""

    rate: float
    p50: float
    p99: float
    cpu: float
    memory: float


def check(
    target: str, request: service_pb2.ModelInferRequest, expected: Mapping[str, NDArray[np.generic]]
) -> service_pb2.ModelInferResponse:
    """The server's answer, before anything is timed.

    Raises:
        RuntimeError: it is not `expected`, within TOLERANCE of its largest value.
    """
    with grpc.insecure_channel(target) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=ANSWER_SECONDS)
    result = InferResult(response)
    for name, values in expected.items():
        answer = result.as_numpy(name)
        if answer is None or answer.shape != values.shape:
            raise RuntimeError(f"{request.model_name} at {target} answers without {name} {list(values.shape)}")
        scale = np.abs(values).max()
        if not (difference := np.abs(answer - values).max()) <= TOLERANCE * scale:
            raise RuntimeError(
                f"{request.model_name} at {target} is wrong by {difference:g} in {name}, up to {scale:g}"
            )
    return response


def infer_request(model: str, inputs: Mapping[str, NDArray[np.generic]]) -> service_pb2.ModelInferRequest:
    """A ModelInfer request of the Open Inference Protocol."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def measure(
    target: str, method: str, message: Message, pid: int, callers: int, seconds: float, answer: Message | None = None
) -> Measurement:
    """Send one request again and again from `callers` concurrent streams for about `seconds`, after a pilot run.

    Args:
        method: e.g. `/inference.GRPCInferenceService/ModelInfer`.
        answer: what each request should get, by its size; h2load does not look at gRPC's status.

    Raises:
        RuntimeError: a request failed in HTTP, or the answers were not as large.
    """
    content = message.SerializeToString()
    with tempfile.TemporaryDirectory() as directory:
        body, log = Path(directory, "body"), Path(directory, "log")
        body.write_bytes(b"\0" + len(content).to_bytes(4, "big") + content)
        connections = min(callers, 4)
        command = ["h2load", "-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += ["-c", str(connections), "-m", str(callers // connections)]
        url = f"http://{target}{method}"
        size = len(answer.SerializeToString()) + PREFIX if answer else None
        pilot = _run([*command, "-n", str(4 * callers), url], 4 * callers, size)
        count = max(4 * callers, int(pilot * seconds))
        before = _cpu_seconds(pid)
        rate = _run([*command, "-n", str(count), "--log-file", str(log), url], count, size)
        cpu, memory = _cpu_seconds(pid) - before, _resident(pid)
        times = np.array([float(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()])
    p50, p99 = np.percentile(times, [50, 99])
    return Measurement(rate, float(p50), float(p99), 1000 * cpu / count, memory)


def _run(command: list[str], count: int, size: int | None) -> float:
    """Requests per second of one h2load run in which all of `count` succeeded, with `size` bytes each."""
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rate = re.search(r"finished in .*?, ([0-9.]+) req/s", result.stdout)
    outcome = re.search(r"requests: (\d+) total, .* (\d+) succeeded, (\d+) failed", result.stdout)
    data = re.search(r"traffic: .* \((\d+)\) data", result.stdout)
    if rate is None or outcome is None or data is None or outcome[1] != outcome[2]:
        raise RuntimeError(f"{' '.join(command)}: {result.stdout[-500:]}")
    if size is not None and int(data[1]) != count * size:
        raise RuntimeError(f"{' '.join(command)}: {count} answers of {data[1]} bytes, not of {size} each: some failed")
    return float(rate[1])


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu_seconds(pid: int) -> float:
    return sum(t.user + t.system for t in (p.cpu_times() for p in _tree(pid)))


def _resident(pid: int) -> float:
    return sum(p.memory_info().rss for p in _tree(pid)) / 1e6
