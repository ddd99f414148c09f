"""Start a server, load it by `lectern loadtest`, stop it: `python loadtests/run.py [CAPABILITY ...]`.

LOADTEST_SECONDS (30) and LOADTEST_USERS (16) say how long and how many. Reports go to build/loadtest/; the exit status
is not 0 if any call failed, a capability was not called, or the server did not stop cleanly.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.server.capabilities import CAPABILITIES

HERE = Path(__file__).parent
REPORTS = HERE.parent / "build" / "loadtest"
START_SECONDS = 60.0
STOP_SECONDS = 40.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held until the last is found, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_until_serving(target: str, capabilities: list[str], server: subprocess.Popen[bytes]) -> None:
    """Return when every capability's service is SERVING.

    Raises:
        SystemExit: the server ended, or took longer than START_SECONDS.
    """
    waiting = [CAPABILITIES[capability].service.full_name for capability in capabilities]
    end = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while waiting:
            if server.poll() is not None:
                raise SystemExit(f"the server ended with status {server.returncode}: see {REPORTS}/server.log")
            if time.monotonic() > end:
                raise SystemExit(f"{waiting[0]} is not serving after {START_SECONDS:.0f} s: see {REPORTS}/server.log")
            try:
                reply = health.Check(health_pb2.HealthCheckRequest(service=waiting[0]), timeout=2)
                serving = reply.status == health_pb2.HealthCheckResponse.SERVING
            except grpc.RpcError:
                serving = False
            if serving:
                waiting.pop(0)
            else:
                time.sleep(0.2)


@contextmanager
def running_server(lectern: str, repository: Path, capabilities: list[str], users: int) -> Iterator[tuple[str, int]]:
    """A server of these capabilities, by its address and the port of its metrics; it lets each user play an episode.

    Raises:
        SystemExit: it did not start, or did not stop cleanly.
    """
    port, metrics_port = free_ports(2)
    command = [lectern, "serve", *capabilities, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--http-port", "off", "--metrics-port", str(metrics_port), "--repository", str(repository)]
    settings = os.environ | {"LECTERN_LIMITS__EPISODES": str(users)}
    log = (REPORTS / "server.log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log, env=settings) as server:
        try:
            target = f"127.0.0.1:{port}"
            wait_until_serving(target, capabilities, server)
            yield target, metrics_port
        finally:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
    if server.returncode != 0:
        raise SystemExit(f"the server stopped with status {server.returncode}: see {REPORTS}/server.log")


def load(target: str, metrics_port: int, capabilities: list[str], users: int, seconds: int) -> int:
    """Call all of them at once, and return the exit status: 0 if no call failed and none of them went without."""
    command = [sys.executable, "-m", "lectern", "loadtest", "--target", target, "--output", str(REPORTS)]
    command += ["--metrics", f"http://127.0.0.1:{metrics_port}/metrics", "--together", "--failures", "0"]
    command += ["--users", str(users), "--seconds", str(seconds), "--p95", "5s"]
    for capability in capabilities:
        command += ["--capability", capability]
    return subprocess.run(command, timeout=10 * seconds + 120).returncode


def main() -> None:
    """Run the load test.

    Raises:
        SystemExit: always, with its result.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capabilities", nargs="*", default=list(CAPABILITIES), metavar="CAPABILITY")
    parser.add_argument("--lectern", default="lectern", help="the command that starts the server")
    parser.add_argument("--repository", type=Path, default=HERE.parent / "exported")
    options = parser.parse_args()
    seconds, users = int(os.environ.get("LOADTEST_SECONDS", "30")), int(os.environ.get("LOADTEST_USERS", "16"))
    REPORTS.mkdir(parents=True, exist_ok=True)
    # An earlier run's figures must not pass for this one's.
    for report in REPORTS.glob("report*"):
        report.unlink()
    with running_server(options.lectern, options.repository, list(options.capabilities), users) as (target, port):
        status = load(target, port, list(options.capabilities), users, seconds)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
