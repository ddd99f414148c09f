"""`lectern models`: what a server has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from lectern.cli.connection import Connection
from lectern.cli.output import fail, print_json, show

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.v1.model_pb2 import Model, ModelVersion


def models(
    connection: Connection,
    model: Annotated[str, typer.Option(help="Only this model, or those of this homework, e.g. HW3.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, cards included.")] = False,
) -> None:
    """List the models of a server: lecture, capability, state, and what each reaches on its test set.

    \b
    lectern models
    lectern models --model HW3
    lectern models --target gpu-box:8001
    lectern models --json | jq '.models[].name'
    """
    with connection.client() as client:
        served = client.list_models(include_cards=True).models
    chosen = [one for one in served if not model or model == one.name or model.upper() == one.lecture]
    if not chosen and model:
        fail(
            f"there is no model {model!r}, nor a homework of that name; there are: {', '.join(m.name for m in served)}"
        )
    listed = [as_dict(one) for one in chosen]
    if as_json:
        print_json({"models": listed})
        return
    columns = (
        Column("model", no_wrap=True),
        "lecture",
        "capability",
        "version",
        "state",
        Column("test metric", no_wrap=True),
    )
    table = Table(*columns, box=None, pad_edge=False)
    for entry in listed:
        for version in entry["versions"]:
            table.add_row(
                entry["name"],
                entry["lecture"],
                entry["capability"],
                str(version["version"]),
                f"{version['state']}: {version['reason']}" if version["reason"] else version["state"],
                main_metric(version["card"]),
            )
    show(table)


def as_dict(model: Model) -> dict[str, Any]:
    """A model as JSON has it: states as `ready`, `loading` or `unavailable`, cards as in card.json."""
    return {
        "name": model.name,
        "title": model.title,
        "lecture": model.lecture,
        "capability": model.capability,
        "versions": [
            {"version": v.version, "state": state(v), "reason": v.reason, "card": card(v)} for v in model.versions
        ],
    }


def ready_card(client: Client, model: str, version: int) -> dict[str, Any]:
    """The card of the version that will answer.

    Raises:
        typer.Exit: no version of it is ready.
    """
    versions = client.get_model(model, version).model.versions
    ready = next((v for v in versions if state(v) == "ready"), None)
    if ready is None:
        reasons = "; ".join(f"version {v.version} is {state(v)}: {v.reason}" for v in versions)
        fail(f"{model} does not answer: {reasons or 'it has no versions'}")
    return card(ready)


def state(version: ModelVersion) -> str:
    """`ready`, `loading` or `unavailable`."""
    from lectern.v1.model_pb2 import ModelState

    return ModelState.Name(version.state).removeprefix("MODEL_STATE_").lower()


def card(version: ModelVersion) -> dict[str, Any]:
    """The card of a version; empty if it was not sent."""
    from google.protobuf.json_format import MessageToJson

    document: dict[str, Any] = json.loads(MessageToJson(version.card, sort_keys=True), parse_float=_number)
    return document


def main_metric(card: dict[str, Any]) -> str:
    """The first figure of the card's test split, e.g. `accuracy 0.9312 (0.926 to 0.936)` and perhaps `, missed`."""
    figures = [metric for metric in card.get("metrics", []) if metric["split"] == "test"]
    if not figures:
        return ""
    first, target = figures[0], figures[0].get("target")
    bounds = " ({:.3g} to {:.3g})".format(*first["interval"]) if first.get("interval") else ""
    beyond = target is not None and (first["value"] > target if first.get("at_most") else first["value"] < target)
    return f"{first['name']} {first['value']:.4g}{bounds}{', missed' if beyond else ''}"


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value  # google.protobuf.Struct has no integers
