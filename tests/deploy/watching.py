"""A real Prometheus and a real Alertmanager on this machine, with deploy's own files, in which a minute is a second."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.runtime.test_triton import free_ports
from tests.waiting import WAIT, wait_until

PROMETHEUS = ROOT / "deploy" / "prometheus"
HOUR = 12
"""Seconds of an hour, and of everything longer."""
RESTARTS = int(WAIT)
"""Seconds in which three starts fit on any machine."""
Targets = dict[str, dict[str, str]]
"""Addresses of metrics -> labels that Kubernetes would add."""


@dataclass
class Watch:
    """A Prometheus whose alerts arrive at `received`: path of the webhook, name and labels."""

    url: str
    received: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query that have a value; NaN is none."""
        address = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(address) as answer:
            series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return [s for s in series if s["value"][1] != "NaN"]

    def value(self, expression: str) -> float:
        """The largest value of a query; 0 if there is none."""
        return max((float(s["value"][1]) for s in self.query(expression)), default=0.0)

    def alerts(self) -> set[str]:
        """Names of the alerts that reached the webhook."""
        return {labels["alertname"] for _, labels in self.received}


def scaled(rules: str) -> str:
    """Rules whose minutes are seconds."""
    rules = re.sub(r"\[\d+[hd]\]", f"[{HOUR}s]", rules.replace("[15m]", f"[{RESTARTS}s]"))
    return re.sub(r"\bfor: \S+", "for: 1s", re.sub(r"\[(\d+)m\]", r"[\1s]", rules))


@contextmanager
def watching(directory: Path, targets: Targets, pods: dict[str, subprocess.Popen[bytes]]) -> Iterator[Watch]:
    """Watch servers; an exporter says what Kubernetes would of `pods`: each has a GPU, and hardly memory enough."""
    watch = Watch(f"http://127.0.0.1:{free_ports(1)[0]}")
    with _webhook(watch) as webhook, _alertmanager(directory, webhook) as alertmanager, _exporter(pods) as exporter:
        for name in ("rules.yml", "slo.yml"):
            (directory / name).write_text(scaled((PROMETHEUS / name).read_text()))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml", "slo.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
            "scrape_configs": [
                {"job_name": "lectern", "file_sd_configs": [_listed("targets.json")]},
                {"job_name": "kubernetes", "static_configs": [{"targets": [exporter]}]},
                {
                    "job_name": "lectern-tls",
                    "metrics_path": "/probe",
                    "params": {"module": ["tls"]},
                    "file_sd_configs": [_listed("probes.json")],
                    "relabel_configs": [{"source_labels": ["server"], "target_label": "__param_target"}],
                },
            ],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        set_targets(directory, targets)
        command = [
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={watch.url.removeprefix('http://')}",
        ]
        with _running(command, directory / "prometheus.log", f"{watch.url}/-/ready"):
            yield watch


def _listed(file: str) -> dict[str, Any]:
    return {"files": [file], "refresh_interval": "1s"}


def set_targets(directory: Path, targets: Targets, file: str = "targets.json") -> None:
    """What Prometheus scrapes from now on."""
    groups = [{"targets": [address], "labels": labels} for address, labels in targets.items()]
    (directory / file).write_text(json.dumps(groups))


@contextmanager
def probing(directory: Path, server: str) -> Iterator[None]:
    """Let the blackbox exporter look at a server's certificate."""
    config = {"modules": {"tls": {"prober": "tcp", "tcp": {"tls": True, "tls_config": {"insecure_skip_verify": True}}}}}
    (directory / "blackbox.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = ["prometheus-blackbox-exporter", f"--config.file={directory / 'blackbox.yml'}"]
    command.append(f"--web.listen-address={address}")
    with _running(command, directory / "blackbox.log", f"http://{address}/-/healthy"):
        set_targets(directory, {address: {"server": server}}, "probes.json")
        yield
        set_targets(directory, {}, "probes.json")


@contextmanager
def _exporter(pods: dict[str, subprocess.Popen[bytes]]) -> Iterator[str]:
    """In the place of cAdvisor and kube-state-metrics: the memory is the server's, its limit a twentieth above that."""

    def resident(process: subprocess.Popen[bytes]) -> int:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    limits = {pod: resident(process) * 1.05 for pod, process in pods.items()}

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            for pod, process in pods.items():
                labels = f'namespace="lectern",container="lectern",pod="{pod}"'
                lines = [
                    f"container_memory_working_set_bytes{{{labels}}} {resident(process)}",
                    f'kube_pod_container_resource_limits{{{labels},resource="memory"}} {limits[pod]}',
                    f'kube_pod_container_resource_limits{{{labels},resource="nvidia_com_gpu"}} 1',
                ]
                self.wfile.write("".join(f"{line}\n" for line in lines).encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Log nothing."""

    with _answering(Exporter) as address:
        yield address


@contextmanager
def _alertmanager(directory: Path, webhook: str) -> Iterator[str]:
    config = (PROMETHEUS / "alertmanager.yml").read_text().replace("http://alert-receiver.monitoring:8080", webhook)
    config = re.sub(r"group_(wait|interval): \S+", r"group_\1: 1s", config)
    # Every alert is to be seen here.
    document = {name: part for name, part in yaml.safe_load(config).items() if name != "inhibit_rules"}
    (directory / "alertmanager.yml").write_text(yaml.safe_dump(document))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [
        "prometheus-alertmanager",
        f"--config.file={directory / 'alertmanager.yml'}",
        f"--storage.path={directory / 'alerts'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with _running(command, directory / "alertmanager.log", f"http://{address}/-/ready"):
        yield address


@contextmanager
def _webhook(watch: Watch) -> Iterator[str]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            watch.received.extend((self.path, alert["labels"]) for alert in message["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Log nothing."""

    with _answering(Receiver) as address:
        yield f"http://{address}"


@contextmanager
def _answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address at which an HTTP server answers from a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def _running(command: list[str], log: Path, ready: str) -> Iterator[None]:
    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return bool(urllib.request.urlopen(ready).status == 200)
        except OSError:
            return False

    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=log.parent)
    try:
        wait_until(answers)
        yield
    finally:
        process.terminate()
        process.wait()
