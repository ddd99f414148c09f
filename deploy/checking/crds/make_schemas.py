"""Write the JSON schemas beside this file from PyPI's models of the custom resources; README.md says how to run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloudcoil.models.cert_manager.v1 import Certificate
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

KINDS = (Certificate, PodMonitor, PrometheusRule, ScaledObject)
WORDS = ("title", "description", "default", "examples")


def strict(schema: Any) -> Any:
    """The schema without prose, refusing fields that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: strict(value) for key, value in schema.items() if key not in WORDS or isinstance(value, dict)}
    return kept | ({"additionalProperties": False} if isinstance(kept.get("properties"), dict) else {})


for kind in KINDS:
    text = json.dumps(strict(kind.model_json_schema(by_alias=True)), sort_keys=True, separators=(",", ":"))
    Path(__file__).with_name(f"{kind.__name__}.json").write_text(text + "\n")
