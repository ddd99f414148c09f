"""What an operator applies is valid and complete, and `deploy/check.py` refuses what is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.server.capabilities import CAPABILITIES
from services.server.settings import Settings
from tests.waiting import WAIT

ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures"
OVERLAYS = ("cpu", "gpu", "gpu-mig", "gpu-shared")

# Fixture -> what the check says of it.
REFUSED = {
    "boundless_init_container": "first: resources.limits names no memory",
    "certificate_without_secret": "'secretName' is a required property",
    "endless_job": "may run for ever",
    "extra_capability": "securityContext.capabilities is not {'drop': ['ALL']}",
    "grpc_probes_over_tls": "serves over TLS, so readinessProbe must ask for /readyz by httpGet",
    "liveness_asks_readiness": "livenessProbe names a service",
    "missing_disruption_budget": "no PodDisruptionBudget selects its pods",
    "missing_pre_stop": "has no preStop sleep",
    "missing_startup_probe": "has no startupProbe",
    "misspelt_field": "'terminationGracePeriod' was unexpected",
    "misspelt_gateway": "'certificate' was unexpected",
    "misspelt_pod_monitor": "'every' was unexpected",
    "misspelt_route": "'path' was unexpected",
    "misspelt_rule": "'after' was unexpected",
    "misspelt_scaled_object": "'maxReplicas' was unexpected",
    "misspelt_serving_runtime": "'probe' was unexpected",
    "mistyped_field": "spec.replicas: 'two' is not of type",
    "mistyped_inference_service": "spec.predictor.minReplicas: 'two' is not of type",
    "mounted_token": "mounts an API token",
    "newer_than_oldest": "'resources' was unexpected) (Kubernetes 1.30.0)",
    "no_memory_limit": "resources.limits names no memory",
    "no_node_local_dns": "not NodeLocal DNS",
    "no_seccomp_profile": "has no RuntimeDefault seccomp profile",
    "no_topology_spread": "has no topology spread",
    "open_network": "no NetworkPolicy denies everything by default",
    "readiness_asks_liveness": "readinessProbe names no service",
    "runs_as_root": "may run as root",
    "scaled_twice": "HorizontalPodAutoscaler/lectern-classify and ScaledObject/lectern-classify, which fight over it",
    "scaled_with_replicas": "names replicas, to which each apply would set back",
    "scales_nothing": "scales lectern-sing, which is not there",
    "scrapes_no_pods": "selects no pods",
    "scrapes_unknown_port": "scrapes the port http",
    "selector_mismatch": "selector does not match its own pods",
    "service_selects_both": f"selects the pods of {len(CAPABILITIES)} Deployments",
    "service_selects_nothing": "selects the pods of 0 Deployments",
    "short_grace": "terminationGracePeriodSeconds 25 does not cover",
    "undeclared_release": "'image' was unexpected) (Kubernetes 1.30.0)",
    "unknown_api": "has no HorizontalPodAutoscaler of autoscaling/v2beta2",
    "unknown_claim": "PersistentVolumeClaim nowhere is not there",
    "unknown_config_map": "ConfigMap nowhere is not there",
    "unknown_release": "Kubernetes 1.99.0 has no Deployment of apps/v1",
    "unknown_secret": "Secret nowhere is not there, and README.md does not say how to make it",
    "unknown_service_account": "ServiceAccount nobody is not there",
    "unknown_volume": "volume tmp is not there",
    "unknown_volume_claim": "PersistentVolumeClaim lectern-training is not there",
    "writable_init_container": "first: securityContext.readOnlyRootFilesystem is not True",
    "writable_root": "securityContext.readOnlyRootFilesystem is not True",
}


def check(*directories: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy" / "check.py"), *map(str, directories)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT)


def render(directory: Path) -> list[dict[str, Any]]:
    kubectl = str(Path(sys.executable).parent / "kubectl")
    rendered = subprocess.run([kubectl, "kustomize", str(directory)], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(rendered.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> tuple[str, list[dict[str, Any]]]:
    """The overlay's name and its manifests, rendered by kustomize."""
    return request.param, render(ROOT / "deploy" / "overlays" / request.param)


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [m for m in manifests if m["kind"] == kind]


@pytest.mark.parametrize("name", [*OVERLAYS, "kserve", "single", "training", "triton"])
def test_overlay_is_accepted(name: str) -> None:
    result = check(ROOT / "deploy" / "overlays" / name)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "not checked" not in result.stdout


@pytest.mark.parametrize("name", OVERLAYS)
def test_tracing_can_be_added_to_an_overlay(name: str, tmp_path: Path) -> None:
    deploy = os.path.relpath(ROOT / "deploy", tmp_path.resolve())
    lists = {"resources": [f"{deploy}/overlays/{name}"], "components": [f"{deploy}/components/tracing"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(lists))
    result = check(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    manifests = render(tmp_path)
    (config,) = of_kind(manifests, "ConfigMap")
    assert {"OTEL_EXPORTER_OTLP_ENDPOINT", "LECTERN_HOST"} <= config["data"].keys()
    assert "allow-tracing-egress" in {m["metadata"]["name"] for m in of_kind(manifests, "NetworkPolicy")}


def test_secure_component_is_accepted_and_names_what_it_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Path(__file__).parent / "secure"
    result = check(directory)
    assert result.returncode == 0, result.stdout + result.stderr
    kubectl = str(Path(sys.executable).parent / "kubectl")
    rendered = subprocess.run([kubectl, "kustomize", str(directory)], check=True, capture_output=True, text=True)
    manifests = list(yaml.safe_load_all(rendered.stdout))
    (config,) = of_kind(manifests, "ConfigMap")
    files = {n: Path(v) for n, v in config["data"].items() if n.startswith("LECTERN_TLS") or n == "LECTERN_TOKENS"}
    assert len(files) == 4
    for name, value in config["data"].items():
        monkeypatch.setenv(name, value)
    assert Settings().tls_client_ca == files["LECTERN_TLS_CLIENT_CA"]
    for deployment in of_kind(manifests, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        mounts = {m["mountPath"]: m for m in pod["containers"][0]["volumeMounts"]}
        volumes = {v["name"]: v for v in pod["volumes"]}
        for file in files.values():
            mount = mounts[str(file.parent)]
            assert mount["readOnly"]
            assert volumes[mount["name"]]["secret"]["defaultMode"] == 0o440


@pytest.mark.unit
def test_every_fixture_is_expected() -> None:
    assert {p.name for p in FIXTURES.iterdir() if p.is_dir()} == set(REFUSED)


@pytest.fixture(scope="module")
def refusals() -> str:
    """What the check says of all broken fixtures."""
    result = check(*(FIXTURES / fixture for fixture in REFUSED))
    assert result.returncode == 1, result.stdout
    return result.stderr


@pytest.mark.parametrize(("fixture", "message"), REFUSED.items())
def test_broken_fixture_is_refused(refusals: str, fixture: str, message: str) -> None:
    assert any(line.startswith(f"{FIXTURES / fixture}: ") and message in line for line in refusals.splitlines())


def test_every_capability_has_its_deployment(overlay: tuple[str, list[dict[str, Any]]]) -> None:
    deployments = {m["metadata"]["name"]: m["spec"]["template"]["spec"] for m in of_kind(overlay[1], "Deployment")}
    assert set(deployments) == {f"lectern-{c.replace('_', '-')}" for c in CAPABILITIES}
    for capability in CAPABILITIES:
        (container,) = deployments[f"lectern-{capability.replace('_', '-')}"]["containers"]
        assert container["args"] == ["serve", capability]
        assert container["readinessProbe"]["grpc"] == {
            "port": 8001,
            "service": CAPABILITIES[capability].service.full_name,
        }


def test_settings_are_ones_that_the_server_knows(
    overlay: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (config,) = of_kind(overlay[1], "ConfigMap")
    names = {name.removeprefix("LECTERN_").lower() for name in config["data"]}
    assert names <= set(Settings.model_fields)
    for name, value in config["data"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.host == "0.0.0.0"  # noqa: S104
    assert settings.device == "cpu"


def test_what_gains_from_a_gpu_takes_one_with_the_image_for_it(overlay: tuple[str, list[dict[str, Any]]]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    resource = {"cpu": None, "gpu": "gpu", "gpu-mig": "mig-1g.10gb", "gpu-shared": "gpu.shared"}[overlay[0]]
    accelerated = {f"lectern-{name}" for name in ("defend", "explain", "generate")} if resource else set()
    for deployment in of_kind(overlay[1], "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        on_gpu = deployment["metadata"]["name"] in accelerated
        taken = {n: a for n, a in container["resources"]["limits"].items() if n.startswith("nvidia.com/")}
        assert taken == ({f"nvidia.com/{resource}": "1"} if on_gpu else {})
        assert container["image"] == f"lectern:{version}-{'gpu' if on_gpu else 'cpu'}"
        assert ({"name": "LECTERN_DEVICE", "value": "cuda"} in container.get("env", [])) is on_gpu
