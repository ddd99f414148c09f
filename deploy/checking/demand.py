"""What an overlay asks of a cluster, as a row of the table in README.md."""

from __future__ import annotations

import re
from collections import Counter

from checking.manifests import Manifest, containers, of_kind, pod

GIB = 2**30
UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": GIB, "Ti": 2**40}
HEAD = "| overlay | Deployments | pods | CPUs requested | CPUs at most | GiB requested | GiB at most | GPUs |"


def row(name: str, manifests: list[Manifest]) -> str:
    """The overlay's line, as `HEAD` has the columns; without autoscaling, and without the extra pods of a rollout."""
    deployments, jobs = of_kind(manifests, "Deployment", "StatefulSet"), of_kind(manifests, "Job")
    asked: Counter[str] = Counter()
    pods = 0
    for workload in deployments + jobs:
        replicas = workload["spec"].get("parallelism" if workload in jobs else "replicas", 1)
        pods += replicas
        for bound in ("requests", "limits"):
            for what, amount in _pod_needs(workload, bound).items():
                asked[f"{bound} {what}"] += replicas * amount
    figures = [
        len(deployments),
        pods,
        asked["requests cpu"],
        asked["limits cpu"],
        asked["requests memory"] / GIB,
        asked["limits memory"] / GIB,
        sum(amount for key, amount in asked.items() if key.startswith("limits nvidia.com/")),
    ]
    return f"| {name} | " + " | ".join(f"{figure:g}" for figure in figures) + " |"


def _pod_needs(workload: Manifest, bound: str) -> dict[str, float]:
    """Containers side by side need their sum; what runs before them needs as much as its largest."""
    first = [c for c in pod(workload).get("initContainers", []) if c.get("restartPolicy") != "Always"]
    beside = [c for c in containers(workload) if c not in first]
    needs: dict[str, float] = Counter()
    for container in beside:
        for what, text in container.get("resources", {}).get(bound, {}).items():
            needs[what] += quantity(text)
    for container in first:
        for what, text in container.get("resources", {}).get(bound, {}).items():
            needs[what] = max(needs[what], quantity(text))
    return needs


def quantity(text: str) -> float:
    """A quantity as Kubernetes writes it, such as `500m` or `2Gi`.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if not match or match[2] not in UNITS:
        raise ValueError(f"{text} is no quantity")
    return float(match[1]) * UNITS[match[2]]
