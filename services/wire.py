"""Counts the fields of a protobuf message before it is parsed: a field of two bytes on the wire takes far more memory
when parsed (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class TooManyFieldsError(ValueError):
    """A message has more fields than allowed."""


def check_fields(message: bytes, descriptor: Descriptor, most: int) -> None:
    """Count the fields of a message and of the messages in it. Malformed messages are left to the parser.

    Raises:
        TooManyFieldsError: there are more than `most`.
    """
    left = most
    stack = [(0, len(message), descriptor)]
    while stack:
        position, end, kind = stack.pop()
        messages = {f.number: f.message_type for f in kind.fields if f.type == FieldDescriptor.TYPE_MESSAGE}
        while position < end:
            left -= 1
            if left < 0:
                raise TooManyFieldsError(f"has more than {most:,} fields")
            tag, position = _varint(message, position, end)
            wire_type = tag & 7
            if wire_type == BYTES:
                length, position = _varint(message, position, end)
                inner = messages.get(tag >> 3)
                if inner is not None and length:
                    stack.append((position, min(end, position + length), inner))
                position += length
            elif wire_type == VARINT:
                _, position = _varint(message, position, end)
            elif wire_type in (FIXED64, FIXED32):
                position += 8 if wire_type == FIXED64 else 4
            else:  # a group, which no message of ours has: left to the parser
                return


def _varint(message: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            break
    return value, position
