"""Autoscalers of each capability: KEDA's by what waits and how slow calls are, from zero by what Envoy is asked for,
and Kubernetes's own by CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts import slo
from services.capability import Capability
from services.server.capabilities import CAPABILITIES

PROMETHEUS = "http://prometheus.monitoring:9090"
LEAST, MOST, WITHOUT_PROMETHEUS = 2, 10, 4
"""Pods of a capability; KEDA keeps the last number while Prometheus does not answer."""
POLL_SECONDS = 15
CPU_PERCENT = 70
WAITING, DECODE_WAITING = 8, 4
"""Requests and texts that may wait for each pod."""
CALLS = 50
"""Calls a second that one pod is for, where the edge counts them."""
HEADROOM = 0.5
"""The share of a slow call's time at which pods are added."""
# Load comes fast and may be back soon after it went.
BEHAVIOUR = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "policies": [
            {"type": "Percent", "value": 100, "periodSeconds": 30},
            {"type": "Pods", "value": 2, "periodSeconds": 30},
        ],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    },
}


def queries(capability: Capability) -> dict[str, tuple[str, float]]:
    """Name -> PromQL, and how much of it one pod is for."""
    component, service = _component(capability), capability.service.full_name
    own = f'namespace="lectern", capability="{component}"'
    calls = f'grpc_type="unary", grpc_service="{service}"'
    pods = f"scalar(count(up{{{own}}} == 1) or vector(0))"
    p95 = f"histogram_quantile(0.95, sum by (le) (rate(grpc_server_handling_seconds_bucket{{{calls}}}[2m])))"
    return {
        "queue": (f"sum(avg_over_time(lectern_queue_depth{{{own}}}[1m]))", WAITING),
        "decode": (f"sum(avg_over_time(lectern_decode_waiting{{{own}}}[1m])) or vector(0)", DECODE_WAITING),
        # The pods that would bring it down, if it falls as their number grows.
        "p95": (f"({p95} / {HEADROOM * slo.bound(service):g} > 0 or vector(0)) * {pods}", 1),
    }


def from_zero(capability: Capability) -> str:
    """Calls a second that Envoy was asked for, those that no pod was there to take included."""
    labels = f'envoy_cluster_name="{_component(capability)}"'
    return (
        f"sum(rate(envoy_cluster_upstream_rq_total{{{labels}}}[1m]))"
        f" + sum(rate(envoy_cluster_upstream_cx_none_healthy{{{labels}}}[1m]))"
    )


def manifests() -> dict[Path, list[dict[str, Any]] | dict[str, Any]]:
    """Documents of each generated file, by its path from the root."""
    components = Path("deploy/components")
    capabilities = list(CAPABILITIES.values())
    return {
        components / "keda" / "scaledobjects.yaml": [_scaled_object(c) for c in capabilities],
        components / "keda" / "kustomization.yaml": _component_file(["scaledobjects.yaml"], _without_replicas()),
        components / "hpa" / "autoscalers.yaml": [_autoscaler(c) for c in capabilities],
        components / "hpa" / "kustomization.yaml": _component_file(["autoscalers.yaml"], _without_replicas()),
        components / "keda-zero" / "kustomization.yaml": _component_file(
            ["podmonitor.yaml"], [_to_zero(c) for c in capabilities]
        ),
    }


def _component(capability: Capability) -> str:
    return capability.name.replace("_", "-")


def _component_file(resources: list[str], patches: list[dict[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
    return document | ({"resources": resources} if resources else {}) | {"patches": patches}


def _without_replicas() -> list[dict[str, Any]]:
    """An apply must not set back what the autoscaler did."""
    patch = "- {op: remove, path: /spec/replicas}\n"
    names = [f"lectern-{_component(capability)}" for capability in CAPABILITIES.values()]
    return [{"target": {"kind": "Deployment", "name": name}, "patch": patch} for name in names]


def _to_zero(capability: Capability) -> dict[str, Any]:
    patch = [
        {"op": "replace", "path": "/spec/minReplicaCount", "value": 0},
        {"op": "add", "path": "/spec/triggers/-", "value": _trigger("asked", from_zero(capability), CALLS)},
    ]
    target = {"kind": "ScaledObject", "name": f"lectern-{_component(capability)}"}
    return {"target": target, "patch": json.dumps(patch, indent=1) + "\n"}


def _trigger(name: str, query: str, threshold: float) -> dict[str, Any]:
    metadata = {"serverAddress": PROMETHEUS, "query": query, "threshold": f"{threshold:g}"}
    return {"type": "prometheus", "name": name, "metadata": metadata}


def _scaled_object(capability: Capability) -> dict[str, Any]:
    name = f"lectern-{_component(capability)}"
    triggers = [_trigger(trigger, *query) for trigger, query in queries(capability).items()]
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name, "namespace": "lectern"},
        "spec": {
            "scaleTargetRef": {"name": name},
            "minReplicaCount": LEAST,
            "maxReplicaCount": MOST,
            "pollingInterval": POLL_SECONDS,
            "cooldownPeriod": 300,
            "fallback": {"failureThreshold": 4, "replicas": WITHOUT_PROMETHEUS},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": BEHAVIOUR}},
            "triggers": triggers,
        },
    }


def _autoscaler(capability: Capability) -> dict[str, Any]:
    name = f"lectern-{_component(capability)}"
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": "lectern"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": LEAST,
            "maxReplicas": MOST,
            "behavior": BEHAVIOUR,
            "metrics": [{"type": "Resource", "resource": cpu}],
        },
    }
