"""A real Prometheus and a real Alertmanager on this machine, with deploy's own files, in which a minute is a second."""

from __future__ import annotations

import json
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
from tests.waiting import wait_until

PROMETHEUS = ROOT / "deploy" / "prometheus"
HOUR = 12
"""Seconds of an hour, and of everything longer."""
RESTARTS = 60
"""Seconds in which three starts fit on a busy machine."""


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
def watching(directory: Path, targets: dict[str, dict[str, str]]) -> Iterator[Watch]:
    """Watch servers, given by the addresses of their metrics and the labels that Kubernetes would add."""
    watch = Watch(f"http://127.0.0.1:{free_ports(1)[0]}")
    with _webhook(watch) as webhook, _alertmanager(directory, webhook) as alertmanager:
        for name in ("rules.yml", "slo.yml"):
            (directory / name).write_text(scaled((PROMETHEUS / name).read_text()))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml", "slo.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
            "scrape_configs": [
                {"job_name": "lectern", "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}]}
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


def set_targets(directory: Path, targets: dict[str, dict[str, str]]) -> None:
    """What Prometheus scrapes from now on."""
    groups = [{"targets": [address], "labels": labels} for address, labels in targets.items()]
    (directory / "targets.json").write_text(json.dumps(groups))


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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
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
