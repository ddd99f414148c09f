"""One measurement: h2load against one RPC of one server, with the server's CPU time and memory."""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    """Requests per second, latency in milliseconds, server CPU seconds per 1,000 requests, resident MB, and the mean
    size of a batch in items; nan = the server does not say."""

    rate: float
    p50: float
    p95: float
    p99: float
    cpu: float
    memory: float
    batch: float = math.nan


@dataclass(frozen=True)
class Call:
    """One request, as h2load sends it.

    Args:
        http1: over HTTP/1.1, with a connection for each caller.
        size: bytes that each answer should have; None = any. Over gRPC an error is a success to h2load but for this.
    """

    path: str
    body: bytes
    headers: tuple[str, ...]
    http1: bool = False
    size: int | None = None


def grpc_call(method: str, message: Message, answer: Message | None = None) -> Call:
    """One unary call.

    Args:
        method: e.g. `/inference.GRPCInferenceService/ModelInfer`.
        answer: what it should get, by its size.
    """
    content = message.SerializeToString()
    size = len(answer.SerializeToString()) + PREFIX if answer else None
    headers = ("content-type: application/grpc", "te: trailers")
    return Call(method, b"\0" + len(content).to_bytes(4, "big") + content, headers, size=size)


def http_call(model: str, array: NDArray[np.generic], body: str) -> Call:
    """A POST of an array to the model's name: its raw values (`bytes`), or JSON with as few digits as tell it apart."""
    if body == "bytes":
        return Call(f"/{model}", array.tobytes(), ("content-type: application/octet-stream",), http1=True)
    values = array.tolist() if array.dtype.kind == "u" else array.astype(str).astype(float).tolist()
    content = json.dumps(values, separators=(",", ":")).encode()
    return Call(f"/{model}", content, ("content-type: application/json",), http1=True)


def check_http(target: str, call: Call, expected: NDArray[np.generic]) -> Call:
    """The call with the size that its answers should have: of raw values all have one size, of JSON any.

    Raises:
        RuntimeError: the answer is not `expected`, as with `check`.
    """
    headers = dict(header.split(": ") for header in call.headers)
    request = urllib.request.Request(f"http://{target}{call.path}", call.body, headers)
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:  # noqa: S310
        content = response.read()
    if raw := response.headers["content-type"] == "application/octet-stream":
        answer = np.frombuffer(content, expected.dtype).reshape(-1, *expected.shape[1:])
    else:
        answer = np.array(json.loads(content))
    _compare(f"{call.path} at {target}", "its answer", answer, expected)
    return replace(call, size=len(content) if raw else None)


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
        _compare(f"{request.model_name} at {target}", name, result.as_numpy(name), values)
    return response


def _compare(server: str, name: str, answer: NDArray[np.generic] | None, expected: NDArray[np.generic]) -> None:
    if answer is None or answer.shape != expected.shape:
        raise RuntimeError(f"{server} answers without {name} {list(expected.shape)}")
    scale = np.abs(expected).max()
    if not (difference := np.abs(answer - expected).max()) <= TOLERANCE * scale:
        raise RuntimeError(f"{server} is wrong by {difference:g} in {name}, up to {scale:g}")


def infer_request(model: str, inputs: Mapping[str, NDArray[np.generic]]) -> service_pb2.ModelInferRequest:
    """A ModelInfer request of the Open Inference Protocol."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def measure(target: str, call: Call, pid: int, callers: int, seconds: float) -> Measurement:
    """Send one request again and again from `callers` callers at once for about `seconds`, after a pilot run.

    Raises:
        RuntimeError: a request failed in HTTP, or the answers were not of the call's size.
    """
    with tempfile.TemporaryDirectory() as directory:
        body, log = Path(directory, "body"), Path(directory, "log")
        body.write_bytes(call.body)
        connections = callers if call.http1 else min(callers, 4)
        command = ["h2load", "-d", str(body), *(part for header in call.headers for part in ("-H", header))]
        command += ["-c", str(connections), "-m", str(callers // connections), *(["--h1"] if call.http1 else [])]
        url, size = f"http://{target}{call.path}", call.size
        pilot = _run([*command, "-n", str(4 * callers), url], 4 * callers, size)
        count = max(4 * callers, int(pilot * seconds))
        before = _cpu_seconds(pid)
        rate = _run([*command, "-n", str(count), "--log-file", str(log), url], count, size)
        cpu, memory = _cpu_seconds(pid) - before, _resident(pid)
        times = np.array([float(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()])
    p50, p95, p99 = np.percentile(times, [50, 95, 99]).tolist()
    return Measurement(rate, p50, p95, p99, 1000 * cpu / count, memory)


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
