"""Manifests against the schemas of Kubernetes, of its oldest supported release and the newest, and of custom resources.

`kubernetes_validate` has Kubernetes's schemas; it reads them anew for each manifest, which here is done once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kubernetes_validate
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource

from checking.manifests import Manifest

OLDEST = "1.30.0"
LATEST = kubernetes_validate.latest_version()
LEAST = "lectern/kubernetes"
"""The annotation of a manifest that needs a later release than `OLDEST`, which it names, e.g. 1.33."""
KUBERNETES = Path(kubernetes_validate.__file__).with_name("kubernetes-json-schema")
CRDS = Path(__file__).with_name("crds")


def faults(manifest: Manifest) -> tuple[str, ...]:
    """What the schemas refuse, each fault with the release that does."""
    return _faults_of(json.dumps(manifest))


# Combinations of the same parts have most manifests in common.
@cache
def _faults_of(text: str) -> tuple[str, ...]:
    return tuple(_refused(json.loads(text)))


def _refused(manifest: Manifest) -> Iterator[str]:
    api, kind = manifest["apiVersion"], manifest["kind"]
    if custom := _custom(api, kind):
        yield from _faults(custom, manifest)
        return
    least = manifest["metadata"].get("annotations", {}).get(LEAST)
    for release in (f"{least}.0" if least else OLDEST, LATEST) if not _is_custom(api) else ():
        if validator := _kubernetes(release, api, kind):
            yield from (f"{fault} (Kubernetes {release})" for fault in _faults(validator, manifest))
        else:
            yield f"Kubernetes {release} has no {kind} of {api}"


def unchecked(manifest: Manifest) -> bool:
    """Whether there is no schema for a custom resource."""
    return _is_custom(manifest["apiVersion"]) and not _custom(manifest["apiVersion"], manifest["kind"])


def _is_custom(api: str) -> bool:
    """Groups of Kubernetes itself have no dot or end in `.k8s.io`; those of its special interest groups do too."""
    group = api.rpartition("/")[0]
    return "." in group and (not group.endswith(".k8s.io") or group == "gateway.networking.k8s.io")


def _faults(validator: Draft202012Validator, manifest: Manifest) -> Iterator[str]:
    if error := best_match(validator.iter_errors(manifest)):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


@cache
def _kubernetes(release: str, api: str, kind: str) -> Draft202012Validator | None:
    group, _, version = api.rpartition("/")
    parts = [kind.lower(), *([group.partition(".")[0]] if group else []), version]
    directory = KUBERNETES / f"v{release}-local-strict"
    file = directory / f"{'-'.join(parts)}.json"
    if not file.exists():
        return None
    return Draft202012Validator(json.loads(file.read_text()), registry=_definitions(directory))


@cache
def _definitions(directory: Path) -> Registry[object]:
    return Resource.from_contents(json.loads((directory / "_definitions.json").read_text())) @ Registry()


@cache
def _custom(api: str, kind: str) -> Draft202012Validator | None:
    file = CRDS / f"{kind}.json"
    if not file.exists():
        return None
    schema = json.loads(file.read_text())
    is_same = Draft202012Validator(schema["properties"]["apiVersion"]).is_valid(api)
    return Draft202012Validator(schema) if is_same else None
