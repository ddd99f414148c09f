"""What commands read from a model's card: its version, its features, its main figure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lectern.cli.output import WRONG_USAGE, fail

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.v1.model_pb2 import ModelVersion


def ready_card(client: Client, model: str, version: int, kind: str, inputs: str, capability: str) -> dict[str, Any]:
    """The card of the version that will answer.

    Args:
        kind: of the preprocessing that the model must have.
        inputs, capability: what such models take and do, for the error message.
    """
    versions = client.get_model(model, version).model.versions
    ready = next((v for v in versions if state(v) == "ready"), None)
    if ready is None:
        reasons = "; ".join(f"version {v.version} is {state(v)}: {v.reason}" for v in versions)
        fail(f"{model} does not answer: {reasons or 'it has no versions'}")
    document = card(ready)
    if document.get("preprocessing", {}).get("kind") != kind:
        fail(f"{model} takes no {inputs}: name a model of capability {capability} with --model", WRONG_USAGE)
    return document


def tabular_card(client: Client, model: str, version: int) -> dict[str, Any]:
    """The card of the version that will answer, of a model that takes rows of a table."""
    return ready_card(client, model, version, "tabular", "rows of a table", "predict")


def state(version: ModelVersion) -> str:
    """`ready`, `loading` or `unavailable`."""
    from lectern.v1.model_pb2 import ModelState

    return ModelState.Name(version.state).removeprefix("MODEL_STATE_").lower()


def card(version: ModelVersion) -> dict[str, Any]:
    """The card of a version, as in card.json; empty if the response has none."""
    from google.protobuf.json_format import MessageToJson

    document: dict[str, Any] = json.loads(MessageToJson(version.card, sort_keys=True), parse_float=_number)
    return document


def main_metric(card: dict[str, Any], has_interval: bool = True) -> str:
    """The first figure on the card's test split, e.g. `accuracy 0.9312 (0.926 to 0.936)`, perhaps with `, missed`."""
    metrics = [metric for metric in card.get("metrics", []) if metric["split"] == "test"]
    if not metrics:
        return ""
    first, target = metrics[0], metrics[0].get("target")
    interval = " ({:.3g} to {:.3g})".format(*first["interval"]) if has_interval and first.get("interval") else ""
    missed = target is not None and (first["value"] > target if first.get("at_most") else first["value"] < target)
    return f"{first['name']} {first['value']:.4g}{interval}{', missed' if missed else ''}"


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value  # google.protobuf.Struct has no integers
