"""What `make cluster-test` applies is what operators apply, but for what its Kubernetes lacks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "deploy"))

from checking.combinations import combined
from checking.manifests import of_kind, render, where
from checking.rules import problems
from cluster.checks import CHECKS, chosen
from cluster.coverage import paths
from cluster.deployed import OVERLAYS as OF_THE_NODE
from cluster.kserve import served

CLUSTER = ROOT / "deploy" / "cluster"
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
CONTAINER = "Deployment: spec.template.spec.containers"
VOLUMES = "Deployment: spec.template.spec.volumes"
# Swapped because Kubernetes 1.20 lacks it, made small for a machine of two cores, or named as the images made here.
OLDER = {
    *(f"{CONTAINER}.{probe}.{kind}" for probe in PROBES for kind in ("grpc", "httpGet")),
    f"{CONTAINER}.lifecycle.preStop.exec",
    f"{CONTAINER}.lifecycle.preStop.sleep",
    f"{CONTAINER}.resources.requests.cpu",
    f"{CONTAINER}.image",
    "PodDisruptionBudget: apiVersion",
    "PodDisruptionBudget: spec.unhealthyPodEvictionPolicy",
}
SCALED = {"HorizontalPodAutoscaler: apiVersion", "HorizontalPodAutoscaler: spec.minReplicas"}
VOLUME = {f"{CONTAINER}.env", f"{CONTAINER}.volumeMounts", VOLUMES}
POD = "Job: spec.template.spec"
# Overlay of the node -> what operators apply, what is more here, and the fields that differ.
OVERLAYS = {
    "ci": (lambda: combined("cpu", ("edge", "hpa")), {"PersistentVolumeClaim/lectern-models"}, OLDER | SCALED | VOLUME),
    "releases": (
        lambda: combined("cpu", ("edge", "hpa", "canary", "models-pull")),
        {"PersistentVolumeClaim/lectern-models"},
        OLDER
        | SCALED
        | VOLUME
        | {f"Deployment: spec.template.spec.initContainers.{field}" for field in ("args", "image")},
    ),
    "kserve": (
        lambda: render(ROOT / "deploy" / "overlays" / "kserve"),
        {"PersistentVolumeClaim/lectern-models"},
        {field.replace(CONTAINER, "ServingRuntime: spec.containers") for field in OLDER},
    ),
    "single": (lambda: render(ROOT / "deploy" / "overlays" / "single"), set(), OLDER),
    "triton": (
        lambda: render(ROOT / "deploy" / "overlays" / "triton"),
        {"PersistentVolumeClaim/lectern-tritonserver"},
        OLDER
        | VOLUME
        | {
            f"{CONTAINER}.args",
            f"{CONTAINER}.command",
            f"{CONTAINER}.resources.limits.nvidia.com/gpu",
            "Deployment: spec.replicas",
            "Deployment: spec.template.spec.initContainers.image",
        },
    ),
    "training": (
        lambda: render(ROOT / "deploy" / "training" / "slot-tagger"),
        {"PersistentVolumeClaim/lectern-packages"},
        {
            *(f"Job: spec.{field}" for field in ("completionMode", "backoffLimitPerIndex", "podReplacementPolicy")),
            "Job: spec.podFailurePolicy",
            *(
                f"{POD}.containers.{field}"
                for field in ("args", "env", "image", "resources.requests.cpu", "volumeMounts")
            ),
            f"{POD}.volumes",
            "PersistentVolumeClaim: spec.storageClassName",
            "PersistentVolumeClaim: spec.volumeName",
        },
    ),
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


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_differs_from_what_operators_apply_only_where_it_has_to(name: str) -> None:
    applied, more, expected = OVERLAYS[name]
    ours = {where(m): m for m in render(CLUSTER / name) if m["kind"] != "Namespace"}
    theirs = {where(m): m for m in applied() if m["kind"] != "Namespace"}
    assert ours.keys() - theirs.keys() == more
    assert theirs.keys() <= ours.keys()
    different = {
        f"{theirs[what]['kind']}: {path}"
        for what in theirs
        for path, _ in set(leaves(ours[what])) ^ set(leaves(theirs[what]))
        if path != "metadata.namespace"
    }
    unexpected = {path for path in different if not any(path == d or path.startswith(f"{d}.") for d in expected)}
    assert not unexpected
    assert all(any(path == d or path.startswith(f"{d}.") for path in different) for d in expected)


def test_what_kserve_would_make_keeps_our_own_rules() -> None:
    manifests = served(render(ROOT / "deploy" / "overlays" / "kserve"))
    # The claim is the operator's, and pods have the namespace's own account.
    not_here = ("PersistentVolumeClaim lectern-models is not there", "ServiceAccount None is not there")
    assert {problem.partition(": ")[2] for problem in problems(manifests)} == set(not_here)
    (deployment,) = of_kind(manifests, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "kserve-pvc-source", "mountPath": "/mnt/models", "readOnly": True} in container["volumeMounts"]
    services = {service["metadata"]["name"]: service["spec"] for service in of_kind(manifests, "Service")}
    (port,) = services["lectern-predictor"]["ports"]
    assert (port["port"], port["targetPort"]) == (80, container["ports"][0]["containerPort"])
    assert services["lectern-predictor"]["selector"] == deployment["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize(
    ("only", "tried"),
    [
        (["training", "triton"], ["triton", "training"]),
        (["canary"], ["rollout", "autoscalers", "models from a release", "canary"]),
        ([], list(CHECKS)),
    ],
)
def test_a_row_is_tried_with_those_that_it_stands_on(only: list[str], tried: list[str]) -> None:
    assert chosen(only) == tried


def test_every_overlay_is_compared() -> None:
    assert {path.name for path in OF_THE_NODE} == OVERLAYS.keys()


def test_fields_are_named_by_their_paths() -> None:
    manifest = {"spec": {"containers": [{"image": "a"}, {"ports": []}]}, "metadata": {"labels": {"a": "b"}}}
    assert list(paths(manifest)) == [
        "spec",
        "spec.containers",
        "spec.containers.image",
        "spec.containers.ports",
        "metadata",
    ]
