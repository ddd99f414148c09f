"""Reads optional parameters of requests: applies defaults and checks bounds."""

from __future__ import annotations

import math

from google.protobuf.message import Message

from services.errors import InvalidArgument


def whole(message: Message, name: str, default: int, least: int, most: int, field: str) -> int:
    """The whole number in a field of the message; errors name it `field`.

    Raises:
        InvalidArgument: it is out of bounds.
    """
    value = int(getattr(message, name)) if message.HasField(name) else default
    if not least <= value <= most:
        raise InvalidArgument.field(field, f"is {value}; it must be {least} to {most}")
    return value


def number(message: Message, name: str, default: float, most: float, field: str, *, below: bool = False) -> float:
    """The number in a field of the message: more than 0, and at most `most`, or less than it if `below`.

    Raises:
        InvalidArgument: it is out of bounds, or not a number.
    """
    value = float(getattr(message, name)) if message.HasField(name) else default
    if not (math.isfinite(value) and value > 0 and (value < most if below else value <= most)):
        bound = f"less than {most:g}" if below else f"at most {most:g}"
        raise InvalidArgument.field(field, f"is {value:g}; it must be more than 0 and {bound}")
    return value
