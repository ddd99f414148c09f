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

from services.server.registry import service_of
from services.server.settings import CAPABILITIES, Settings
from tests.waiting import WAIT

ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures"
OVERLAYS = ("cpu", "gpu")

# Fixture -> what the check says of it.
REFUSED = {
    "liveness_asks_readiness": "livenessProbe names a service",
    "missing_disruption_budget": "no PodDisruptionBudget selects its pods",
    "missing_pre_stop": "has no preStop sleep",
    "missing_startup_probe": "has no startupProbe",
    "mistyped_field": "spec.replicas: 'two' is not of type",
    "misspelt_field": "'terminationGracePeriod' was unexpected",
    "no_memory_limit": "resources.limits names no memory",
    "open_network": "no NetworkPolicy denies everything by default",
    "readiness_asks_liveness": "readinessProbe names no service",
    "runs_as_root": "may run as root",
    "grpc_probes_over_tls": "serves over TLS, so readinessProbe must ask for /readyz by httpGet",
    "no_seccomp_profile": "has no RuntimeDefault seccomp profile",
    "extra_capability": "securityContext.capabilities is not {'drop': ['ALL']}",
    "selector_mismatch": "selector does not match its own pods",
    "service_selects_both": f"selects the pods of {len(CAPABILITIES)} Deployments",
    "service_selects_nothing": "selects the pods of 0 Deployments",
    "short_grace": "terminationGracePeriodSeconds 25 does not cover",
    "unknown_service_account": "ServiceAccount nobody is not there",
    "writable_root": "securityContext.readOnlyRootFilesystem is not True",
}


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy" / "check.py"), str(directory)]
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


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_is_accepted(name: str) -> None:
    result = check(ROOT / "deploy" / "overlays" / name)
    assert result.returncode == 0, result.stdout + result.stderr


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


@pytest.mark.parametrize(("fixture", "message"), REFUSED.items())
def test_broken_fixture_is_refused(fixture: str, message: str) -> None:
    result = check(FIXTURES / fixture)
    assert result.returncode == 1, result.stdout
    assert message in result.stderr


def test_every_capability_has_its_deployment(overlay: tuple[str, list[dict[str, Any]]]) -> None:
    deployments = {m["metadata"]["name"]: m["spec"]["template"]["spec"] for m in of_kind(overlay[1], "Deployment")}
    assert set(deployments) == {f"lectern-{c.replace('_', '-')}" for c in CAPABILITIES}
    for capability in CAPABILITIES:
        (container,) = deployments[f"lectern-{capability.replace('_', '-')}"]["containers"]
        assert container["args"] == ["serve", capability]
        assert container["readinessProbe"]["grpc"] == {"port": 8001, "service": service_of(capability).full_name}


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
    assert settings.device == {"cpu": "cpu", "gpu": "cuda"}[overlay[0]]


def test_image_is_the_release_for_the_device(overlay: tuple[str, list[dict[str, Any]]]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for deployment in of_kind(overlay[1], "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"] == f"lectern:{version}-{overlay[0]}"


def test_only_the_gpu_overlay_takes_gpus(overlay: tuple[str, list[dict[str, Any]]]) -> None:
    for deployment in of_kind(overlay[1], "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == {"cpu": None, "gpu": "1"}[overlay[0]]
