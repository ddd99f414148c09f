"""deploy/ on the node: what is applied, and how a person or a program would look at it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import trustme

from cluster.calls import Door
from cluster.node import Node
from cluster.programs import CommandError
from lectern.channel import channel_options

DEPLOY = Path(__file__).parents[1]
OVERLAY = DEPLOY / "cluster" / "ci"
OVERLAYS = [OVERLAY, *(DEPLOY / "cluster" / name for name in ("kserve", "releases", "single", "training", "triton"))]
"""What is applied: the first, and parts or all of the others."""
EXPORTED = DEPLOY.parent / "exported"
NAMESPACE = "lectern"
HOST = "localhost"
"""In the edge's certificate."""
SECONDS = 600
"""For any change to take effect."""
KNOWN_SECONDS = 10
"""After which Endpoints, DNS and Envoy, which asks both once a second or two, know a pod that has become ready."""
Pod = dict[str, Any]


class Deployed:
    """The overlay on a node.

    Args:
        volume: an empty directory, which becomes the volume of models of `predict`.
        namespace: where it is.
    """

    def __init__(self, node: Node, volume: Path, namespace: str = NAMESPACE) -> None:
        self.node, self.volume, self.namespace = node, volume, namespace
        self.authority = trustme.CA()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints, of the namespace.

        Raises:
            CommandError: it failed.
        """
        return self.node.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin, timeout=SECONDS)

    def apply(self) -> None:
        """Everything, in the order of docs/deploy.md."""
        for model in EXPORTED.glob("covid_regressor*"):
            shutil.copytree(model, self.volume / model.name)
        self.kubectl("apply", f"--filename={DEPLOY / 'base' / 'common' / 'namespace.yaml'}")
        own = self.authority.issue_cert(HOST)
        with own.private_key_pem.tempfile() as key, own.cert_chain_pems[0].tempfile() as certificate:
            self.kubectl("create", "secret", "tls", "lectern-edge-tls", f"--cert={certificate}", f"--key={key}")
        self.provide("lectern-models", self.volume, "ReadOnlyMany")
        self.kubectl("apply", f"--kustomize={OVERLAY}")

    def provide(self, name: str, directory: Path, mode: str) -> None:
        """Make a directory of this machine a volume, for the claim that names it."""
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {"accessModes": [mode], "capacity": {"storage": "20Gi"}, "hostPath": {"path": str(directory)}},
        }
        self.kubectl("apply", "--filename=-", stdin=json.dumps(volume))

    def beside(self, overlay: str) -> Deployed:
        """Another overlay for this node, in a namespace of its own."""
        return Deployed(self.node, self.volume, f"{NAMESPACE}-{overlay}")

    def clear(self) -> None:
        """Let the namespace go, and its pods."""
        self.node.kubectl("delete", "namespace", self.namespace, timeout=SECONDS)

    def deployments(self) -> list[str]:
        """Their names."""
        return self.kubectl("get", "deployments", "-o", "jsonpath={.items[*].metadata.name}").split()

    def settle(self, deployment: str) -> None:
        """Wait until a rollout is complete and the pods that it replaced are gone."""
        self.kubectl("rollout", "status", f"deployment/{deployment}", f"--timeout={SECONDS}s")
        component = deployment.removeprefix("lectern-")
        self.node.until(f"{deployment} has only new pods", lambda: all(map(is_ready, self.pods(component))), SECONDS)

    def pods(self, component: str) -> list[Pod]:
        """The pods of a capability, of the edge or of Triton."""
        label = f"{'name=lectern-' if component in ('edge', 'triton') else 'component='}{component}"
        listed = self.kubectl("get", "pods", f"--selector=app.kubernetes.io/{label}", "-o", "json")
        return list(json.loads(listed)["items"])

    def restarts(self) -> dict[str, int]:
        """Pod -> how often its container was started anew."""
        pods = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
        return {pod["metadata"]["name"]: state(pod)["restartCount"] for pod in pods}

    def evict(self, pod: Pod) -> None:
        """Ask for the pod to go, as who drains a node does.

        Raises:
            CommandError: its disruption budget does not allow it now.
        """
        metadata = {"name": pod["metadata"]["name"], "namespace": self.namespace}
        eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": metadata}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{metadata['name']}/eviction"
        self.node.kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(eviction))

    def restarted(self, pod: Pod) -> float:
        """Seconds until the pod's container has been started once more and is ready; returns when callers know it."""
        name, before, begin = pod["metadata"]["name"], state(pod)["restartCount"], time.monotonic()

        def again() -> bool:
            now = json.loads(self.kubectl("get", "pod", name, "-o", "json"))
            return bool(state(now)["restartCount"] > before and is_ready(now))

        self.node.until(f"{name} is ready again", again, SECONDS)
        seconds = time.monotonic() - begin
        time.sleep(KNOWN_SECONDS)
        return seconds

    @contextmanager
    def forwarded(self, what: str, port: int) -> Iterator[int]:
        """The local port at which `kubectl port-forward` takes connections for a port of the cluster."""
        command = [*self.node.kubectl_command, f"--namespace={self.namespace}", "port-forward", what, f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout  # noqa: S101 - a pipe, as asked for
            try:
                line = process.stdout.readline()
                if not (local := re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", line)):
                    raise CommandError(f"kubectl port-forward {what}: {line}")
                yield int(local[1])
            finally:
                process.terminate()

    def describe(self, file: Path) -> None:
        """Write what kubectl says of pods and events, for whoever looks for a cause."""
        views = (["get", "pods", "-o", "wide"], ["get", "events", "--sort-by=.lastTimestamp"], ["describe", "pods"])
        file.write_text("\n".join(self.node.kubectl(*view, "--all-namespaces", timeout=SECONDS) for view in views))

    def service(self) -> Door:
        """Through a capability's own Service, whose name gives every ready pod; as Lectern's clients call."""
        return Door("Service", lambda name: f"dns:///lectern-{name}.{self.namespace}:8001", channel_options(None))

    def edge(self) -> Door:
        """Through Envoy, by a client that sends nothing again of itself."""
        address = self.kubectl("get", "service", "lectern-edge", "-o", "jsonpath={.spec.clusterIP}")
        credentials = grpc.ssl_channel_credentials(self.authority.cert_pem.bytes())
        # So that each Door has connections of its own.
        options = [("grpc.ssl_target_name_override", HOST), ("grpc.use_local_subchannel_pool", 1)]
        return Door("edge", lambda _: f"{address}:443", options, credentials)

    def handled(self, pod: Pod, service: str) -> float:
        """Calls of a service that a pod has answered, by its own metrics."""
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8002/metrics", timeout=SECONDS) as response:
            text = response.read().decode()
        own = re.compile(rf'grpc_server_handled_total{{.*"{re.escape(service)}"')
        lines = [line for line in text.splitlines() if own.match(line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def state(pod: Pod) -> dict[str, Any]:
    """The state of the pod's one container."""
    (status,) = pod["status"].get("containerStatuses", [{"ready": False, "restartCount": 0}])
    return dict(status)


def is_ready(pod: Pod) -> bool:
    """Whether it may have calls, and is not about to end."""
    return "deletionTimestamp" not in pod["metadata"] and state(pod)["ready"]


def first_process(pod: Pod) -> int:
    """The process id, on the node, of the pod's server."""
    container = state(pod)["containerID"].removeprefix("containerd://")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_first = re.search(r"^NSpid:.*\t1$", (process / "status").read_text(), re.MULTILINE)
            if is_first and container in (process / "cgroup").read_text():
                return int(process.name)
        except FileNotFoundError:  # it has ended
            continue
    raise LookupError(f"no process runs in {pod['metadata']['name']}")
