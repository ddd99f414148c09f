"""Kubernetes manifests as plain dictionaries: rendering them, and finding things in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


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
        package = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}.get(command[0], command[0])
        raise SystemExit(f"{command[0]} is not on PATH; Debian's package is `{package}`") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)}:\n{error.stdout}{error.stderr}") from None


def render(directory: Path) -> list[Manifest]:
    """Every manifest of a kustomization."""
    text = run("kubectl", "kustomize", str(directory))
    return [m for m in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if m]


def where(manifest: Manifest) -> str:
    """Kind and name."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """The manifests of these kinds."""
    return [m for m in manifests if m["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str | None) -> Manifest | None:
    """The manifest of this kind and name, if there is one."""
    return next((m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name), None)


def template(workload: Manifest) -> Manifest:
    """The pod template of a workload."""
    spec = workload["spec"]["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else workload["spec"]
    return spec["template"]  # type: ignore[no-any-return]


def pod(workload: Manifest) -> Manifest:
    """The pod's spec."""
    return template(workload)["spec"]  # type: ignore[no-any-return]


def labels(workload: Manifest) -> dict[str, str]:
    """The labels of the workload's pods."""
    return template(workload).get("metadata", {}).get("labels", {})  # type: ignore[no-any-return]


def containers(workload: Manifest) -> Iterator[Manifest]:
    """Every container of the pod, those that run first included."""
    yield from pod(workload).get("initContainers", [])
    yield from pod(workload)["containers"]


def selector(manifest: Manifest) -> dict[str, str]:
    """The labels that a manifest asks for."""
    selector = manifest["spec"]["selector"]
    return selector if manifest["kind"] == "Service" else selector.get("matchLabels", {})  # type: ignore[no-any-return]


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether a selector that selects something selects these labels."""
    return bool(selector) and selector.items() <= labels.items()


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector with `matchLabels` and expressions of the operator `In` selects these labels."""
    wanted = selector.get("matchLabels", {}).items()
    expressions = selector.get("matchExpressions", [])
    return wanted <= labels.items() and all(labels.get(e["key"]) in e["values"] for e in expressions)


def settings(container: Manifest, manifests: list[Manifest]) -> dict[str, str]:
    """The container's environment, as far as the manifests say."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if config := named(manifests, "ConfigMap", source.get("configMapRef", {}).get("name")):
            values |= config["data"]
    return values | {e["name"]: e["value"] for e in container.get("env", []) if "value" in e}


def serves_models(container: Manifest) -> bool:
    """Whether the container runs `lectern serve`."""
    return "serve" in container.get("args", [])[:1]
