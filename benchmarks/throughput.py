"""`make bench`: Lectern, Triton and bare ONNX Runtime on the same graphs, in turns; writes docs/benchmarks."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
from tritonclient.grpc import InferenceServerClient

from benchmarks.graphs import FEATURES, make_repository
from benchmarks.load import Measurement, check, measure

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks" / "throughput.md"
CALLERS = (1, 8, 32, 128)
START_SECONDS = 120
INPUTS = {
    "image_classifier": {"images": np.zeros((1, 32, 32, 3), np.uint8)},
    "mlp": {"features": np.zeros((1, FEATURES), np.float32)},
}
# Name -> command, instances of each graph.
SERVERS = {
    "Triton, 1 instance": ("triton", 1, []),
    "Triton, 2 instances": ("triton", 2, []),
    "Lectern, 1 instance": ("lectern", 1, []),
    "Lectern, 2 instances": ("lectern", 2, []),
    "Lectern, 2 workers": ("lectern", 1, ["--workers", "2"]),
}


def main() -> None:
    """Run every server `--repeats` times, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="rounds through all servers; medians are reported")
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    bare: dict[str, list[float]] = defaultdict(list)
    found: dict[tuple[str, str, int], list[Measurement]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        repositories = {n: Path(directory, str(n)) for n in (1, 2)}
        for instances, repository in repositories.items():
            make_repository(ROOT / "exported", repository, instances)
        for number in range(options.repeats):
            for model in INPUTS:
                bare[model].append(bare_rate(repositories[1] / model / "1" / "model.onnx", model, options.seconds))
            for name, (kind, instances, arguments) in SERVERS.items():
                print(f"round {number + 1}/{options.repeats}: {name}", file=sys.stderr)
                with running(kind, repositories[instances], arguments) as (target, pid):
                    for model, inputs in INPUTS.items():
                        check(target, model, inputs)
                        for callers in CALLERS:
                            result = measure(target, model, inputs, pid, callers, options.seconds)
                            found[model, name, callers].append(result)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(report({m: statistics.median(r) for m, r in bare.items()}, found, options))
    print(REPORT.read_text())


def bare_rate(graph: Path, model: str, seconds: float) -> float:
    """Items per second of batch-1 `session.run` in two threads, without any server."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    counts = [0, 0]
    end = time.monotonic() + seconds

    def work(i: int) -> None:
        while time.monotonic() < end:
            session.run(None, INPUTS[model])
            counts[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


@contextmanager
def running(kind: str, repository: Path, arguments: list[str]) -> Iterator[tuple[str, int]]:
    """A server process; yields its gRPC address and pid once every graph is ready."""
    port, http, metrics = _free_ports(3)
    command = [sys.executable, "-m", "lectern"]
    if kind == "triton":
        ports = ["--port", str(port), "--http-port", str(http), "--metrics-port", str(metrics)]
        command += ["triton", "--repository", str(repository), *ports]
    else:
        command += ["serve", "--port", str(port), "--metrics-port", str(metrics), "--repository", str(repository)]
    environment = os.environ | {"LECTERN_LOG_LEVEL": "warning", "LECTERN_DRAIN_PAUSE_SECONDS": "0"}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*command, *arguments], env=environment, stdout=quiet, stderr=quiet)
    target = f"127.0.0.1:{port}"
    try:
        with grpc.insecure_channel(target) as channel:
            grpc.channel_ready_future(channel).result(START_SECONDS)
        with InferenceServerClient(target) as client:
            while not all(client.is_model_ready(model) for model in INPUTS):
                time.sleep(0.2)
        yield target, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def report(
    bare: dict[str, float], found: dict[tuple[str, str, int], list[Measurement]], options: argparse.Namespace
) -> str:
    """Markdown: a table for each graph, with the ratio to bare ONNX Runtime."""
    lines = [
        "# Throughput",
        "",
        f"Written by `make bench` on {os.cpu_count()} cores ({platform.system()}, Python {platform.python_version()}, "
        f"grpcio {grpc.__version__}, ONNX Runtime {onnxruntime.__version__}): batch-1 unary requests, medians of "
        f"{options.repeats} rounds of {options.seconds:g} s, load generator on the same cores. "
        "In brackets: ratio to bare ONNX Runtime, batch 1 in two threads.",
    ]
    for model in INPUTS:
        lines += ["", f"## `{model}`", "", f"Bare ONNX Runtime: {bare[model]:,.0f} items/s.", ""]
        heads = [f"{c} caller{'s' * (c > 1)}" for c in CALLERS]
        lines.append(f"| server | {' | '.join(heads)} | p50 / p99 at 32, ms | CPU s per 1,000 at 32 | MB |")
        lines.append("| --- |" + " --- |" * (len(CALLERS) + 3))
        for name in SERVERS:
            rates = [statistics.median(m.rate for m in found[model, name, c]) for c in CALLERS]
            at32 = found[model, name, 32]
            p50, p99, cpu, memory = (
                statistics.median(getattr(m, f) for m in at32) for f in ("p50", "p99", "cpu", "memory")
            )
            cells = " | ".join(f"{rate:,.0f} ({rate / bare[model]:.2f})" for rate in rates)
            lines.append(f"| {name} | {cells} | {p50:.1f} / {p99:.1f} | {cpu:.2f} | {memory:.0f} |")
    return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


if __name__ == "__main__":
    main()
