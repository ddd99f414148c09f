"""What of deploy/ the node cannot show, so that schemas and the rules of `make deploy-check` alone hold it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from checking.combinations import DEPLOY, NEEDS, combined
from checking.manifests import Manifest, render

from cluster.deployed import OVERLAYS
from cluster.node import Node

WITHOUT_EFFECT = {
    "NetworkPolicy": "the bridge between pods enforces none",
    "Namespace: labels of Pod Security": "Kubernetes 1.20 does not read them",
    "topologySpreadConstraints": "there is one node",
    "HorizontalPodAutoscaler: by CPU": "there is no metrics server; their least numbers hold",
    "Service: LoadBalancer": "no load balancer gives it an address; calls go to its cluster address",
}
"""What the node takes and does not act upon."""
NOT_STRUCTURE = {"annotations", "data", "binaryData", "labels", "matchLabels", "name", "namespace"}
"""Keys whose values are no fields of Kubernetes."""


def unseen(node: Node) -> Iterator[str]:
    """Kinds that the node does not know, fields that it did not get, and what has no effect on it."""
    known = {(words[-3], words[-1]) for words in map(str.split, resources(node))}
    applied = [manifest for overlay in OVERLAYS for manifest in render(overlay)]
    versions = {m["kind"]: m["apiVersion"] for m in applied}
    seen = {(m["kind"], path) for m in applied for path in paths(m)}
    missing = set()
    for manifest in everything():
        kind, version = manifest["kind"], manifest["apiVersion"]
        if versions.get(kind) != version:
            why = "not applied" if (version, kind) in known else "Kubernetes 1.20 has none"
            missing.add(f"{kind} of {version}: {f'applied as {versions[kind]}' if kind in versions else why}")
        if kind in versions:
            gone = [path for path in paths(manifest) if (kind, path) not in seen]
            missing |= {f"{kind}: {path}" for path in gone if path.rpartition(".")[0] not in gone}
    yield from sorted(missing)
    yield from (f"{what}: {why}" for what, why in WITHOUT_EFFECT.items())


def resources(node: Node) -> list[str]:
    """A line for each kind that the node knows, which ends in its API, whether it has a namespace, and its name."""
    return node.kubectl("api-resources", "--no-headers").splitlines()


def everything() -> Iterator[Manifest]:
    """The manifests of every overlay, and of one with each component."""
    for overlay in sorted((DEPLOY / "overlays").iterdir()):
        yield from render(overlay)
    for component in sorted(path.name for path in (DEPLOY / "components").iterdir()):
        yield from combined("cpu", (*sorted(NEEDS.get(component, ())), component))


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    """Every field of a manifest by its path; items of a list share theirs."""
    if isinstance(value, list):
        for item in value:
            yield from paths(item, prefix)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in NOT_STRUCTURE:
                path = f"{prefix}.{key}".lstrip(".")
                yield path
                yield from paths(inner, path)
