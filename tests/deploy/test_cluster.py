"""What `make cluster-test` applies is what operators apply, but for what its Kubernetes lacks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "deploy"))

from checking.combinations import combined
from checking.manifests import render, where
from cluster.coverage import paths
from cluster.deployed import OVERLAY

# Swapped because Kubernetes 1.20 lacks it, made small for a machine of two cores, or named as the images made here.
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
CONTAINER = "Deployment: spec.template.spec.containers"
DIFFERENT = {
    *(f"{CONTAINER}.{probe}.{kind}" for probe in PROBES for kind in ("grpc", "httpGet")),
    f"{CONTAINER}.lifecycle.preStop.exec",
    f"{CONTAINER}.lifecycle.preStop.sleep",
    f"{CONTAINER}.resources.requests.cpu",
    f"{CONTAINER}.image",
    f"{CONTAINER}.env",  # the volume of models
    f"{CONTAINER}.volumeMounts",
    "Deployment: spec.template.spec.volumes",
    "HorizontalPodAutoscaler: apiVersion",
    "HorizontalPodAutoscaler: spec.minReplicas",
    "PodDisruptionBudget: apiVersion",
    "PodDisruptionBudget: spec.unhealthyPodEvictionPolicy",
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each value that is neither a list nor an object, by its path; items of a list share theirs."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, path)
    else:
        yield path, json.dumps(value)


def test_the_overlay_differs_from_what_operators_apply_only_where_it_has_to() -> None:
    ours = {where(m): m for m in render(OVERLAY)}
    theirs = {where(m): m for m in combined("cpu", ("edge", "hpa"))}
    assert ours.keys() - theirs.keys() == {"PersistentVolumeClaim/lectern-models"}
    assert theirs.keys() <= ours.keys()
    different = {
        f"{theirs[name]['kind']}: {path}"
        for name in theirs
        for path, _ in set(leaves(ours[name])) ^ set(leaves(theirs[name]))
    }
    unexpected = {path for path in different if not any(path == d or path.startswith(f"{d}.") for d in DIFFERENT)}
    assert not unexpected
    assert all(any(path == d or path.startswith(f"{d}.") for path in different) for d in DIFFERENT)


def test_fields_are_named_by_their_paths() -> None:
    manifest = {"spec": {"containers": [{"image": "a"}, {"ports": []}]}, "metadata": {"labels": {"a": "b"}}}
    assert list(paths(manifest)) == [
        "spec",
        "spec.containers",
        "spec.containers.image",
        "spec.containers.ports",
        "metadata",
    ]
