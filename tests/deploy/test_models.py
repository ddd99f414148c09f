"""Models that do not come with the servers' image: what the components and the page on releases say is what happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from artifacts.versions import promote, served_versions
from tests.artifacts.releasing import MODEL, publish, visible
from tests.conftest import EXPORTED, ROOT
from tests.deploy.test_manifests import check, of_kind, render
from tests.lectern.test_cli import invoke, refused
from tests.programs import needs
from tests.waiting import WAIT

Manifest = dict[str, Any]
PAGE = (ROOT / "docs" / "releases.md").read_text()
DELIVERIES = ("models-image", "models-pull", "models-volume")


def yaml_blocks() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def accepted(directory: Path, overlay: str = "cpu", *components: str, **lists: Any) -> list[Manifest]:
    """An overlay with components, as an operator would write it, once the check accepts it.

    Args:
        lists: more of the kustomization; with `components`, of paths from a folder of the checkout.
    """
    deploy = os.path.relpath(ROOT / "deploy", directory.resolve())
    paths = lists.pop("components", []) + [f"../deploy/components/{name}" for name in components]
    kustomization = {
        "namespace": "lectern",
        "resources": [f"{deploy}/overlays/{overlay}"],
        "components": [path.replace("../deploy", deploy) for path in paths],
        **lists,
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    result = check(directory)
    assert result.returncode == 0, result.stdout + result.stderr
    return render(directory)


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pod of each Deployment, by its name."""
    return {d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in of_kind(manifests, "Deployment")}


@pytest.mark.parametrize("component", DELIVERIES)
def test_servers_and_tritons_read_the_models_that_are_delivered(component: str, tmp_path: Path) -> None:
    manifests = accepted(tmp_path, "triton", component)
    settings = next(m["data"] for m in of_kind(manifests, "ConfigMap") if "LECTERN_REPOSITORY" in m.get("data", {}))
    found = pods(manifests)
    triton = found.pop("lectern-triton")
    for pod in found.values():
        (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models")
        assert (mount["mountPath"], mount["readOnly"]) == (settings["LECTERN_REPOSITORY"], True)
        (volume,) = (v for v in pod["volumes"] if v["name"] == "models")
        (beside,) = (v for v in triton["volumes"] if v["name"] == "models")
        assert (volume.keys(), volume.get("image")) == (beside.keys(), beside.get("image"))
    first = [c["args"] for c in triton.get("initContainers", [])]
    assert first == [c["args"] for c in pod.get("initContainers", [])]
    assert bool(first) is (component == "models-pull")


def run(container: Manifest, release: Path, folders: dict[str, Path]) -> subprocess.CompletedProcess[bytes]:
    """What a container runs in the image, whose entry point is `lectern`, with mounts replaced by folders."""
    assert [variable["name"] for variable in container["env"]] == ["RELEASE"]
    arguments = [argument.replace("$(RELEASE)", str(release)) for argument in container["args"]]
    for mount in container["volumeMounts"]:
        arguments = [re.sub(f"^{mount['mountPath']}(?=/|$)", str(folders[mount["name"]]), a) for a in arguments]
    return invoke(*arguments)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A signed release, with the public key beside it."""
    needs("openssl")
    for command in ("genpkey -algorithm ed25519 -out release.key", "pkey -in release.key -pubout -out release.pub"):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True)
    return publish(EXPORTED / MODEL, tmp_path / "models.tar", "--sign", tmp_path / "release.key")


def name_release(directory: Path) -> Path:
    """The folder of an overlay, after the page's line that writes which release it takes, and with which key."""
    (line,) = re.findall(r"^kubectl .* create configmap lectern-models .*$", PAGE, re.MULTILINE)
    (directory / "my").mkdir()
    shell(line, directory)
    (directory / "my" / "models.yaml").rename(directory / "models.yaml")
    return directory


def shell(line: str, directory: Path, given: str = "") -> str:
    """What a line of the page prints."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    options = {"check": True, "capture_output": True, "text": True, "timeout": WAIT}
    return str(subprocess.run(["bash", "-c", line], input=given, cwd=directory, env=environment, **options).stdout)


def key_of(manifests: list[Manifest], directory: Path) -> Path:
    """The folder that pods see of the ConfigMap `lectern-models`."""
    (config,) = (m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"].startswith("lectern-models"))
    (directory / "key").mkdir(exist_ok=True)
    (directory / "key" / "release.pub").write_text(config["data"]["release.pub"])
    return directory / "key"


def test_a_pod_takes_only_a_release_that_its_operator_signed(signed: Path, tmp_path: Path) -> None:
    overlay = yaml.safe_load(yaml_blocks()[0])
    assert overlay["resources"] == ["../deploy/overlays/cpu"]
    models = tmp_path / "models"
    without_key = accepted(tmp_path, "cpu", "models-pull")
    (container,) = pods(without_key)["lectern-predict"]["initContainers"]
    done = run(container, signed, {"models": models, "release": key_of(without_key, tmp_path)})
    refused(done, 1, "no public key of Ed25519")
    with_key = accepted(name_release(tmp_path), "cpu", **{key: overlay[key] for key in ("components", "patches")})
    (container,) = pods(with_key)["lectern-predict"]["initContainers"]
    assert run(container, signed, {"models": models, "release": key_of(with_key, tmp_path)}).returncode == 0
    # Another release is another name, which rolls the pods.
    names = [{m["metadata"]["name"] for m in of_kind(ms, "ConfigMap")} for ms in (without_key, with_key)]
    assert len({name for name in names[0] ^ names[1] if name.startswith("lectern-models-")}) == 2
    assert visible(models).keys() == {path for path in visible(EXPORTED) if path.startswith(MODEL)}


def test_a_job_pulls_onto_the_volume_and_another_goes_back(signed: Path, tmp_path: Path) -> None:
    manifests = accepted(name_release(tmp_path), "cpu", "models-volume", patches=[{"path": "models.yaml"}])
    (cron,) = of_kind(manifests, "CronJob")
    assert cron["spec"]["suspend"] is True
    folders = {"models": tmp_path / "models", "release": key_of(manifests, tmp_path)}
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert run(container, signed, folders).returncode == 0
    promote(folders["models"], MODEL, [1])
    # As kubectl makes a Job of it, and the page's line changes that.
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "promote-1"}} | cron["spec"]["jobTemplate"]
    (line,) = re.findall(r"^kubectl .* create job .*--dry-run=client.*$", PAGE, re.MULTILINE)
    patch = line.split(" | ")[1].replace("image_classifier", MODEL)
    patched = shell(patch, tmp_path, json.dumps(job))
    (container,) = json.loads(patched)["spec"]["template"]["spec"]["containers"]
    done = run(container, signed, folders)
    assert (done.returncode, done.stdout.decode()) == (0, f"{MODEL} serves version 1\n")
    assert served_versions(folders["models"] / MODEL) == [1]


def test_overlays_of_the_page_are_accepted(tmp_path: Path) -> None:
    image, canary, release = map(yaml.safe_load, yaml_blocks()[1:])
    found = pods(accepted(tmp_path, "cpu", "models-image", **image))
    for pod in found.values():
        (volume,) = (v for v in pod["volumes"] if v["name"] == "models")
        assert volume["image"]["reference"] == "registry.example.com/lectern-models:0.2.0"
    found = pods(accepted(tmp_path, "cpu", "models-pull", **canary, **release))
    first = {name: pod["initContainers"][0]["env"][0] for name, pod in found.items() if name != "lectern-edge"}
    assert first.pop("lectern-canary")["value"] == "https://models.example.com/models-2.tar"
    assert all("configMapKeyRef" in variable["valueFrom"] for variable in first.values())
    images = {name: pod["containers"][0]["image"] for name, pod in found.items()}
    assert images["lectern-canary"] == "registry.example.com/lectern:0.2.0-cpu"
    assert images["lectern-predict"] == "registry.example.com/lectern:0.1.0-cpu"


def test_the_canary_is_apart_from_the_others_and_begins_without_calls(tmp_path: Path) -> None:
    manifests = accepted(tmp_path, "cpu", "edge", "gateway", "canary")
    assert pods(manifests)["lectern-canary"]["containers"][0]["args"] == ["serve"]
    (weights,) = (m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "lectern-canary")
    assert "data" not in weights
    routes = of_kind(manifests, "GRPCRoute")
    # The page's line for a gateway, and the one that goes back.
    there, back = (json.loads(p) for p in re.findall(r"patch grpcroute .* -p '(.*)'", PAGE))
    assert [change["value"] for change in there + back] == [90, 10, 100, 0]
    for route in routes:
        stable, other = route["spec"]["rules"][0]["backendRefs"]
        assert (stable["weight"], other) == (100, {"name": "lectern-canary", "port": 8001, "weight": 0})
        assert there[1]["path"] == "/spec/rules/0/backendRefs/1/weight"
