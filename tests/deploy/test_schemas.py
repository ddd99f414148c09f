"""Schemas of custom resources are made of their definitions."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "deploy"))

from checking.crds.from_definitions import LEAST, schema_of

pytestmark = pytest.mark.unit


def definition(spec: dict[str, Any]) -> dict[str, Any]:
    """A definition in two versions, of which the second is kept."""
    whole = {"type": "object", "properties": {"apiVersion": {"type": "string"}, "spec": spec}}
    versions = [
        {"name": name, "storage": name == "v1", "schema": {"openAPIV3Schema": whole if name == "v1" else {}}}
        for name in ("v1beta1", "v1")
    ]
    return {"group": "example.com", "names": {"kind": "Thing"}, "versions": versions}


def accepts(spec: dict[str, Any], value: object, api: str = "example.com/v1") -> bool:
    return Draft202012Validator(schema_of(definition(spec))).is_valid({"apiVersion": api, "spec": value})


def test_a_field_that_is_not_named_is_refused_unless_the_definition_keeps_it() -> None:
    spec = {"type": "object", "properties": {"default": {"type": "string", "description": "A field by that name."}}}
    assert accepts(spec, {"default": "a"})
    assert not accepts(spec, {"other": "a"})
    assert accepts(spec | {"x-kubernetes-preserve-unknown-fields": True}, {"other": "a"})


def test_null_is_a_value_where_the_definition_says_so() -> None:
    assert accepts({"type": "string", "nullable": True}, None)
    assert not accepts({"type": "string"}, None)


def test_only_the_version_that_is_kept_is_accepted() -> None:
    assert accepts({"type": "string"}, "a")
    assert not accepts({"type": "string"}, "a", api="example.com/v1beta1")


def test_what_is_repeated_is_written_once_and_means_the_same() -> None:
    part = {"type": "object", "properties": {f"field{n}": {"type": "string"} for n in range(LEAST // 20)}}
    spec = {"type": "object", "properties": {"first": part, "second": part}}
    assert len(schema_of(definition(spec))["$defs"]) == 1
    assert accepts(spec, {"first": {"field1": "a"}, "second": {"field2": "b"}})
    assert not accepts(spec, {"second": {"field1": 1}})
