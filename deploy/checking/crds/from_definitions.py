"""Write the JSON schemas beside this file from CustomResourceDefinitions, by files; README.md says which."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

LEAST = 200
"""Characters of a part that is written once and referred to, where it occurs more often."""


def strict(schema: Any, is_field: bool = False) -> Any:
    """The schema without prose, defaults and what JSON Schema does not know, refusing fields that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if is_field:  # keys are names of fields
        return {name: strict(part) for name, part in schema.items()}
    left_out = ("default", "description", "nullable")
    kept = {
        key: strict(value, is_field=key == "properties")
        for key, value in schema.items()
        if key not in left_out and not key.startswith("x-")
    }
    if schema.get("nullable"):
        kept["type"] = [kept["type"], "null"]
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    return kept | ({"additionalProperties": False} if "properties" in kept and not is_open else {})


def shared(schema: Any) -> Any:
    """The schema whose repeated parts are written once: pods are in KServe's many times."""
    counts = Counter(compact(part) for part in parts(schema))
    names = {text: f"p{n}" for n, text in enumerate(t for t in counts if counts[t] > 1 and len(t) >= LEAST)}
    definitions = {name: refer(json.loads(text), names, is_whole=True) for text, name in names.items()}
    return refer(schema, names, is_whole=True) | ({"$defs": definitions} if definitions else {})


def parts(value: Any) -> Iterator[Any]:
    """Every schema within, outer ones first."""
    if isinstance(value, list):
        for inner in value:
            yield from parts(inner)
    elif isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value
        for inner in value.values():
            yield from parts(inner)


def refer(value: Any, names: dict[str, str], is_whole: bool = False) -> Any:
    """The value with references in place of the named parts, unless it is one of them itself."""
    if isinstance(value, list):
        return [refer(inner, names) for inner in value]
    if not isinstance(value, dict):
        return value
    if not is_whole and (name := names.get(compact(value))):
        return {"$ref": f"#/$defs/{name}"}
    return {key: refer(inner, names) for key, inner in value.items()}


def compact(value: Any) -> str:
    """The value as text, equal for equal ones."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def schema_of(definition: Any) -> Any:
    """The schema of the version of a custom resource that a cluster keeps."""
    newest = next(version for version in definition["versions"] if version["storage"])
    schema = strict(newest["schema"]["openAPIV3Schema"])
    schema["properties"]["apiVersion"] = {"const": f"{definition['group']}/{newest['name']}"}
    return shared(schema)


if __name__ == "__main__":
    for file in sys.argv[1:]:
        definition = yaml.safe_load(Path(file).read_text())["spec"]
        written = Path(__file__).with_name(f"{definition['names']['kind']}.json")
        written.write_text(compact(schema_of(definition)) + "\n")
