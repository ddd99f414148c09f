"""Where in a request for an explanation a method's parameter stands, by which errors name it, and its value."""

from __future__ import annotations

import re

from google.protobuf.message import Message

from services import parameters

OF_MODELS = ("activation_maximisation", "filter_visualisation")


def field_of(message: Message, name: str) -> str:
    """Where in a request the field of a method's message is, e.g. `method.smooth_grad.samples`."""
    kind = re.sub("(?<!^)(?=[A-Z])", "_", message.DESCRIPTOR.name).lower()
    return f"{kind}.{name}" if kind in OF_MODELS else f"method.{kind}.{name}"


def whole(message: Message, name: str, default: int, least: int, most: int) -> int:
    """As `services.parameters.whole`."""
    return parameters.whole(message, name, default, least, most, field_of(message, name))


def number(message: Message, name: str, default: float, most: float, *, below: bool = False) -> float:
    """As `services.parameters.number`."""
    return parameters.number(message, name, default, most, field_of(message, name), below=below)
