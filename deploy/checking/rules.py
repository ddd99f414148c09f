"""What no schema can say: manifests that are complete, safe, and agree with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from checking import schemas
from checking.manifests import (
    WORKLOADS,
    Manifest,
    containers,
    labels,
    matches,
    named,
    of_kind,
    pod,
    selector,
    selects,
    serves_models,
    settings,
    where,
)

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
NODE_LOCAL_DNS = "169.254.20.10/32"
# What an operator makes by hand is what the page for operators says how to make.
README = (Path(__file__).parents[1] / "README.md").read_text()


def problems(manifests: list[Manifest]) -> Iterator[str]:
    """What is wrong, one line each, beginning with the manifest's kind and name."""
    refused = [f"{where(manifest)}: {fault}" for manifest in manifests for fault in schemas.faults(manifest)]
    # The rules read what the schemas promise is there.
    yield from refused or _disagreements(manifests)


def _disagreements(manifests: list[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        checks: list[Iterator[str]] = []
        if manifest["kind"] in WORKLOADS:
            checks += [_security(manifest), _references(manifest, manifests)]
        if manifest["kind"] == "Job":
            checks.append(_ends(manifest))
        if manifest["kind"] == "Deployment":
            checks += [
                _probes(manifest, manifests),
                _stop(manifest, manifests),
                _companions(manifest, manifests),
                _scaling(manifest, manifests),
            ]
        if manifest["kind"] in ("Service", "PodDisruptionBudget"):
            checks.append(_selects_pods(manifest, manifests))
        if manifest["kind"] == "PodMonitor":
            checks.append(_scrapes(manifest, manifests))
        if manifest["kind"] in SCALERS:
            checks.append(_scales(manifest, manifests))
        if manifest["kind"] == "NetworkPolicy":
            checks.append(_dns(manifest))
        for check in checks:
            yield from (f"{where(manifest)}: {problem}" for problem in check)
    yield from _network(manifests)


def _probes(deployment: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    for container in pod(deployment)["containers"]:
        yield from (f"has no {name}" for name in PROBES if name not in container)
        probes = {name: container[name] for name in PROBES if name in container}
        if not serves_models(container):
            continue
        # The kubelet's gRPC probes speak no TLS, so a server with TLS is asked over HTTP.
        if "LECTERN_TLS_CERTIFICATE" in settings(container, manifests):
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


def _security(workload: Manifest) -> Iterator[str]:
    context = pod(workload).get("securityContext", {})
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    if not context.get("runAsNonRoot"):
        yield "may run as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no RuntimeDefault seccomp profile"
    if pod(workload).get("automountServiceAccountToken") is not False:
        yield "mounts an API token that it never uses"
    for container in containers(workload):
        name, own = container["name"], container.get("securityContext", {})
        yield from (
            f"{name}: securityContext.{key} is not {value}" for key, value in wanted.items() if own.get(key) != value
        )
        yield from (
            f"{name}: resources.{bound} names no {what}"
            for bound in ("requests", "limits")
            for what in ("cpu", "memory")
            if what not in container.get("resources", {}).get(bound, {})
        )


def _stop(deployment: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    for container in pod(deployment)["containers"]:
        before = container.get("lifecycle", {}).get("preStop", {})
        if not before:
            yield "has no preStop sleep"
        if not serves_models(container):
            continue
        sleep = before.get("sleep", {}).get("seconds", 0)
        values = settings(container, manifests)
        drain = [float(values.get(f"LECTERN_DRAIN{part}_SECONDS", "nan")) for part in ("_PAUSE", "")]
        grace = pod(deployment).get("terminationGracePeriodSeconds", 30)
        # Written so that a setting that is not there (nan) fails too.
        if not grace > sleep + sum(drain):
            yield f"terminationGracePeriodSeconds {grace} does not cover preStop sleep {sleep} and drain {drain}"


def _ends(job: Manifest) -> Iterator[str]:
    if "activeDeadlineSeconds" not in {**job["spec"], **pod(job)}:
        yield "may run for ever: neither it nor its pods have activeDeadlineSeconds"


def _companions(deployment: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    if not matches(selector(deployment), labels(deployment)):
        yield "selector does not match its own pods"
    if not pod(deployment).get("topologySpreadConstraints"):
        yield "has no topology spread"
    for kind in ("Service", "PodDisruptionBudget"):
        own = (m for m in of_kind(manifests, kind) if not m["spec"].get("publishNotReadyAddresses"))
        if not any(matches(selector(m), labels(deployment)) for m in own):
            yield f"no {kind} selects its pods"


def _references(workload: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    """ConfigMaps, Secrets, claims, volumes and the ServiceAccount that the pod names."""
    account = pod(workload).get("serviceAccountName")
    if named(manifests, "ServiceAccount", account) is None:
        yield f"ServiceAccount {account} is not there"
    volumes = pod(workload).get("volumes", [])
    for container in containers(workload):
        for source in container.get("envFrom", []):
            yield from _missing(source.get("configMapRef"), "ConfigMap", manifests)
            yield from _missing(source.get("secretRef"), "Secret", manifests)
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            yield from _missing(source.get("configMapKeyRef"), "ConfigMap", manifests)
            yield from _missing(source.get("secretKeyRef"), "Secret", manifests)
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        for name in sorted(mounted - {volume["name"] for volume in volumes}):
            yield f"{container['name']}: volume {name} is not there"
    for volume in volumes:
        yield from _missing(volume.get("configMap"), "ConfigMap", manifests)
        if claim := volume.get("persistentVolumeClaim"):
            yield from _missing({"name": claim["claimName"]}, "PersistentVolumeClaim", manifests)
        if secret := volume.get("secret"):
            yield from _missing({"name": secret["secretName"], **secret}, "Secret", manifests)


def _missing(reference: Manifest | None, kind: str, manifests: list[Manifest]) -> Iterator[str]:
    if reference is None or reference.get("optional"):
        return
    name = reference["name"]
    is_issued = any(m["spec"]["secretName"] == name for m in of_kind(manifests, "Certificate"))
    is_made_by_hand = re.search(rf"create secret (generic|tls) {re.escape(name)} ", README)
    if named(manifests, kind, name) or (kind == "Secret" and (is_issued or is_made_by_hand)):
        return
    yield f"{kind} {name} is not there" + (", and README.md does not say how to make it" if kind == "Secret" else "")


def _scaling(deployment: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    name = deployment["metadata"]["name"]
    scalers = [m for m in of_kind(manifests, *SCALERS) if _scaled(m).get("name") == name]
    if len(scalers) > 1:
        yield f"is scaled by {' and '.join(where(scaler) for scaler in scalers)}, which fight over it"
    if scalers and "replicas" in deployment["spec"]:
        yield f"names replicas, to which each apply would set back {where(scalers[0])}"


def _scales(scaler: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    target = _scaled(scaler)
    if named(manifests, target.get("kind", "Deployment"), target["name"]) is None:
        yield f"scales {target['name']}, which is not there"


def _scaled(scaler: Manifest) -> Manifest:
    return scaler["spec"]["scaleTargetRef"]  # type: ignore[no-any-return]


def _scrapes(monitor: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    pods = [m for m in of_kind(manifests, *WORKLOADS) if selects(monitor["spec"]["selector"], labels(m))]
    # KServe makes the pods of an InferenceService.
    if not pods and not of_kind(manifests, "InferenceService"):
        yield "selects no pods"
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        port = endpoint.get("port")
        for workload in pods:
            if port not in {p.get("name") for c in containers(workload) for p in c.get("ports", [])}:
                yield f"scrapes the port {port}, which {where(workload)} does not have"


def _selects_pods(manifest: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    pods = [m for m in of_kind(manifests, "Deployment") if matches(selector(manifest), labels(m))]
    if not pods and of_kind(manifests, "InferenceService"):  # whose pods KServe makes
        return
    ports = {port["name"] for port in manifest["spec"].get("ports", [])}
    # Metrics of all capabilities share a Service; their RPCs must not.
    if not pods or (len(pods) > 1 and ports != {"metrics"}):
        yield f"selects the pods of {len(pods)} Deployments, not of one"


def _dns(policy: Manifest) -> Iterator[str]:
    for rule in policy["spec"].get("egress", []):
        blocks = {peer["ipBlock"]["cidr"] for peer in rule.get("to", []) if "ipBlock" in peer}
        if any(port.get("port") == 53 for port in rule.get("ports", [])) and NODE_LOCAL_DNS not in blocks:
            yield f"lets pods ask kube-system for names, but not NodeLocal DNS at {NODE_LOCAL_DNS}"


def _network(manifests: list[Manifest]) -> Iterator[str]:
    policies = [m["spec"] for m in of_kind(manifests, "NetworkPolicy")]
    if {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} not in policies:
        yield "no NetworkPolicy denies everything by default"
