"""Overlays that arrange the servers otherwise than one Deployment for each capability, and what they promise."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from services.server.capabilities import CAPABILITIES
from services.server.settings import Settings
from tests.conftest import ROOT
from tests.deploy.test_manifests import of_kind, render

Manifest = dict[str, Any]


def overlay(name: str) -> list[Manifest]:
    return render(ROOT / "deploy" / "overlays" / name)


def test_single_is_one_small_pod_under_the_names_of_all() -> None:
    manifests = overlay("single")
    (deployment,) = of_kind(manifests, "Deployment")
    assert deployment["spec"]["replicas"] == 1
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["serve"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    addresses = {f"lectern-{name.replace('_', '-')}" for name in CAPABILITIES} | {"lectern", "lectern-metrics"}
    assert {service["metadata"]["name"] for service in of_kind(manifests, "Service")} == addresses


def test_the_triton_overlays_servers_ask_all_tritons_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = overlay("triton")
    (config,) = of_kind(manifests, "ConfigMap")
    for name, value in config["data"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.engine == "triton"
    service = next(s for s in of_kind(manifests, "Service") if s["metadata"]["name"] == "lectern-triton")
    assert settings.triton_url == f"dns:///lectern-triton:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["clusterIP"] == "None"
    pods = {d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in of_kind(manifests, "Deployment")}
    triton = pods.pop("lectern-triton")
    assert triton["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # Both have the models of one image, so that their versions agree.
    images = {pod["containers"][0]["image"] for pod in pods.values()}
    assert images == {triton["initContainers"][0]["image"]}
    assert len(pods) == len(CAPABILITIES)


def test_kserve_runs_the_server_with_the_one_port_that_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = overlay("kserve")
    (runtime,), (service,) = of_kind(manifests, "ServingRuntime"), of_kind(manifests, "InferenceService")
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert container["ports"] == [{"name": "h2c", "containerPort": 8001, "protocol": "TCP"}]
    assert container["args"] == ["serve", "--repository", "/mnt/models"]
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"] == ["grpc-v2"]
    assert model["modelFormat"]["name"] in {f["name"] for f in runtime["spec"]["supportedModelFormats"]}
    (config,) = of_kind(manifests, "ConfigMap")
    assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]


def test_the_gateway_has_a_route_to_every_service() -> None:
    documents = (ROOT / "deploy" / "components" / "gateway" / "routes.yaml").read_text()
    rules = [route["spec"]["rules"] for route in yaml.safe_load_all(documents)]
    routed = {rule["matches"][0]["method"]["service"]: rule["backendRefs"][0]["name"] for (rule,) in rules}
    assert routed == {c.service.full_name: f"lectern-{n.replace('_', '-')}" for n, c in CAPABILITIES.items()}
