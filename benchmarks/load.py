"""One measurement: h2load against one RPC of one server, with the server's CPU time and memory."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from google.protobuf.message import Message
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2

INFER = "/inference.GRPCInferenceService/ModelInfer"
DATATYPES = {np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}


@dataclass(frozen=True)
class Measurement:
    """Requests per second, latency in milliseconds, server CPU seconds per 1,000 requests, resident MB."""

    rate: float
    p50: float
    p99: float
    cpu: float
    memory: float


def check(target: str, model: str, inputs: Mapping[str, NDArray[np.generic]]) -> None:
    """See that the server answers with finite values before anything is timed."""
    tensors = []
    for name, array in inputs.items():
        tensors.append(InferInput(name, list(array.shape), DATATYPES[array.dtype]))
        tensors[-1].set_data_from_numpy(array)
    with InferenceServerClient(target) as client:
        result = client.infer(model, tensors)
        for output in result.get_response().outputs:
            if not np.isfinite(result.as_numpy(output.name)).all():
                raise RuntimeError(f"{model} at {target} answers with values that are not finite")


def infer_request(model: str, inputs: Mapping[str, NDArray[np.generic]]) -> Message:
    """A ModelInfer request of the Open Inference Protocol."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def measure(target: str, method: str, message: Message, pid: int, callers: int, seconds: float) -> Measurement:
    """Send one request again and again from `callers` concurrent streams for about `seconds`, after a pilot run.

    Args:
        method: e.g. `/inference.GRPCInferenceService/ModelInfer`.

    Raises:
        RuntimeError: a request failed in HTTP; h2load does not look at gRPC's status.
    """
    content = message.SerializeToString()
    with tempfile.TemporaryDirectory() as directory:
        body, log = Path(directory, "body"), Path(directory, "log")
        body.write_bytes(b"\0" + len(content).to_bytes(4, "big") + content)
        connections = min(callers, 4)
        command = ["h2load", "-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += ["-c", str(connections), "-m", str(callers // connections)]
        url = f"http://{target}{method}"
        pilot = _run([*command, "-n", str(4 * callers), url])
        count = max(4 * callers, int(pilot * seconds))
        before = _cpu_seconds(pid)
        rate = _run([*command, "-n", str(count), "--log-file", str(log), url])
        cpu, memory = _cpu_seconds(pid) - before, _resident(pid)
        times = np.array([float(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()])
    p50, p99 = np.percentile(times, [50, 99])
    return Measurement(rate, float(p50), float(p99), 1000 * cpu / count, memory)


def _run(command: list[str]) -> float:
    """Requests per second of one h2load run in which all succeeded."""
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rate = re.search(r"finished in .*?, ([0-9.]+) req/s", result.stdout)
    outcome = re.search(r"requests: (\d+) total, .* (\d+) succeeded, (\d+) failed", result.stdout)
    if rate is None or outcome is None or outcome[1] != outcome[2]:
        raise RuntimeError(f"{' '.join(command)}: {result.stdout[-500:]}")
    return float(rate[1])


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu_seconds(pid: int) -> float:
    return sum(t.user + t.system for t in (p.cpu_times() for p in _tree(pid)))


def _resident(pid: int) -> float:
    return sum(p.memory_info().rss for p in _tree(pid)) / 1e6
