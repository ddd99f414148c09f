"""Check what an operator would apply: `python deploy/check.py [DIRECTORY ...]`; all overlays and Prometheus if none.

A directory is rendered by kustomize and held against the Kubernetes schemas, then against what no schema can say.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

HERE = Path(__file__).parent
Manifest = dict[str, Any]
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def run(*command: str) -> str:
    """The command's output.

    Raises:
        SystemExit: it failed or is not installed; the message holds its own.
    """
    # Tools of this interpreter's environment first, activated or not.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ | {"PATH": path}
        ).stdout
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is not on PATH; promtool is in Debian's package `prometheus`") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)}:\n{error.stdout}{error.stderr}") from None


def render(directory: Path) -> list[Manifest]:
    """Every manifest of a kustomization."""
    return [m for m in yaml.safe_load_all(run("kubectl", "kustomize", str(directory))) if m]


def problems(manifests: list[Manifest]) -> Iterator[str]:
    """What is wrong, one line each, beginning with the manifest's kind and name."""
    for manifest in manifests:
        where = f"{manifest['kind']}/{manifest['metadata']['name']}"
        checks = [_schema(manifest)]
        if manifest["kind"] == "Deployment":
            checks += [
                _probes(manifest, manifests),
                _security(manifest),
                _stop(manifest, manifests),
                _companions(manifest, manifests),
            ]
        if manifest["kind"] in ("Service", "PodDisruptionBudget"):
            checks.append(_selects_pods(manifest, manifests))
        for check in checks:
            yield from (f"{where}: {problem}" for problem in check)
    yield from _network(manifests)


def _schema(manifest: Manifest) -> Iterator[str]:
    try:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"


def _probes(deployment: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    for container in _pod(deployment)["containers"]:
        yield from (f"has no {name}" for name in PROBES if name not in container)
        probes = {name: container[name] for name in PROBES if name in container}
        # The kubelet's gRPC probes speak no TLS, so a server with TLS is asked over HTTP.
        if "LECTERN_TLS_CERTIFICATE" in _settings(container, manifests):
            wanted = {name: "/readyz" if name == "readinessProbe" else "/healthz" for name in probes}
            for name, probe in probes.items():
                if probe.get("httpGet", {}).get("path") != wanted[name]:
                    yield f"serves over TLS, so {name} must ask for {wanted[name]} by httpGet"
            continue
        yield from (f"{name} is not a gRPC probe" for name, probe in probes.items() if not probe.get("grpc"))
        services = {name: probe.get("grpc", {}).get("service") for name, probe in probes.items()}
        if "readinessProbe" in probes and not services["readinessProbe"]:
            yield "readinessProbe names no service, so it asks for liveness"
        if services.get("livenessProbe"):
            yield "livenessProbe names a service, so a model that is not ready restarts the pod"


def _security(deployment: Manifest) -> Iterator[str]:
    pod = _pod(deployment)
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield "may run as root"
    if pod.get("securityContext", {}).get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no RuntimeDefault seccomp profile"
    for container in pod["containers"]:
        context = container.get("securityContext", {})
        yield from (
            f"securityContext.{key} is not {value}" for key, value in wanted.items() if context.get(key) != value
        )
        resources = container.get("resources", {})
        yield from (
            f"resources.{bound} names no {what}"
            for bound in ("requests", "limits")
            for what in ("cpu", "memory")
            if what not in resources.get(bound, {})
        )


def _stop(deployment: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    pod = _pod(deployment)
    for container in pod["containers"]:
        settings = _settings(container, manifests)
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = [float(settings.get(f"LECTERN_DRAIN{part}_SECONDS", "nan")) for part in ("_PAUSE", "")]
        grace = pod.get("terminationGracePeriodSeconds", 30)
        if not sleep:
            yield "has no preStop sleep"
        # Written so that a setting that is not there (nan) fails too.
        if not grace > sleep + sum(drain):
            yield f"terminationGracePeriodSeconds {grace} does not cover preStop sleep {sleep} and drain {drain}"


def _companions(deployment: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    pod, labels = _pod(deployment), _pod_labels(deployment)
    if not _matches(deployment["spec"]["selector"]["matchLabels"], labels):
        yield "selector does not match its own pods"
    if _named(manifests, "ServiceAccount", pod.get("serviceAccountName")) is None:
        yield f"ServiceAccount {pod.get('serviceAccountName')} is not there"
    if pod.get("automountServiceAccountToken") is not False:
        yield "mounts an API token that it never uses"
    if not pod.get("topologySpreadConstraints"):
        yield "has no topology spread"
    for kind in ("Service", "PodDisruptionBudget"):
        own = (m for m in manifests if m["kind"] == kind and not m["spec"].get("publishNotReadyAddresses"))
        if not any(_matches(_selector(m), labels) for m in own):
            yield f"no {kind} selects its pods"
    for container in pod["containers"]:
        for source in container.get("envFrom", []):
            if _named(manifests, "ConfigMap", source["configMapRef"]["name"]) is None:
                yield f"ConfigMap {source['configMapRef']['name']} is not there"


def _selects_pods(manifest: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    pods = [m for m in manifests if m["kind"] == "Deployment" and _matches(_selector(manifest), _pod_labels(m))]
    ports = {port["name"] for port in manifest["spec"].get("ports", [])}
    # Metrics of all capabilities share a Service; their RPCs must not.
    if not pods or (len(pods) > 1 and ports != {"metrics"}):
        yield f"selects the pods of {len(pods)} Deployments, not of one"


def _network(manifests: list[Manifest]) -> Iterator[str]:
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    if {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} not in policies:
        yield "no NetworkPolicy denies everything by default"


def _pod(deployment: Manifest) -> Manifest:
    return deployment["spec"]["template"]["spec"]


def _pod_labels(deployment: Manifest) -> dict[str, str]:
    return deployment["spec"]["template"]["metadata"]["labels"]


def _selector(manifest: Manifest) -> dict[str, str]:
    selector = manifest["spec"]["selector"]
    return selector if manifest["kind"] == "Service" else selector["matchLabels"]


def _matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def _named(manifests: list[Manifest], kind: str, name: str | None) -> Manifest | None:
    return next((m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name), None)


def _settings(container: Manifest, manifests: list[Manifest]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if config := _named(manifests, "ConfigMap", source["configMapRef"]["name"]):
            settings |= config["data"]
    return settings | {e["name"]: e["value"] for e in container.get("env", []) if "value" in e}


def main(directories: list[Path]) -> None:
    """Check the directories, or everything.

    Raises:
        SystemExit: with what is wrong.
    """
    for directory in directories or sorted((HERE / "overlays").iterdir()):
        manifests = render(directory)
        if found := [f"{directory}: {problem}" for problem in problems(manifests)]:
            raise SystemExit("\n".join(found))
        sys.stdout.write(f"{directory}: {len(manifests)} manifests are good\n")
    if not directories:
        prometheus = HERE / "prometheus"
        for what, name in (("config", "prometheus.yml"), ("rules", "rules.yml")):
            sys.stdout.write(run("promtool", "check", what, str(prometheus / name)))
        sys.stdout.write(run("promtool", "test", "rules", str(prometheus / "rules_test.yml")))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
