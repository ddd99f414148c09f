"""Messages as multipart/form-data, so that files travel as they are: a part for each field (RFC 7578)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import python_multipart
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from services.errors import InvalidArgument
from services.server.door.json_wire import INLINE_BYTES, JSON, load, to_message

FORM = "multipart/form-data"
NAME_BYTES, DEPTH = 200, 8
# A field of a field of ...; of a repeated one a place may be named, and a part without one adds to it.
STEP = re.compile(r"(?P<name>\w+)(?:\[(?P<place>\d{1,6})\])?")
BOOLEANS = {"true": True, "false": False}


@dataclass
class _Part:
    name: str = ""
    is_file: bool = False
    content: bytearray = field(default_factory=bytearray)


class FormWire:
    """The wire of a form; its response is JSON.

    Args:
        content_type: of the request, with its boundary.

    Raises:
        InvalidArgument: it has none.
    """

    inline_bytes = INLINE_BYTES

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        self._boundary = options.get(b"boundary", b"")
        if not self._boundary:
            raise InvalidArgument(
                f"{FORM} needs a boundary in the header content-type; let your client write the header"
            )

    def parse(self, request: bytes, message: type[Message], fields: int) -> Message:
        """The message whose fields the parts name.

        Raises:
            InvalidArgument: it is no form, or a part is no such field; names it.
        """
        parsed = message()
        for part in self._parts(request, fields):
            if part.content or not part.is_file:  # a browser sends an empty file where none was chosen
                _set(parsed, part.name, bytes(part.content), fields)
        return parsed

    def serialize(self, response: Message) -> bytes:
        return JSON.serialize(response)

    def _parts(self, request: bytes, most: int) -> list[_Part]:
        parts: list[_Part] = []
        ended: list[bool] = []
        header: dict[str, bytearray] = {}

        def begin() -> None:
            if len(parts) == most:
                raise InvalidArgument(f"the form has more than {most:,} parts")
            parts.append(_Part())
            header.update(name=bytearray(), value=bytearray())

        def end_header() -> None:
            if header["name"].lower() == b"content-disposition":
                _, options = parse_options_header(bytes(header["value"]))
                parts[-1].name = options.get(b"name", b"").decode(errors="replace")
                parts[-1].is_file = b"filename" in options
            header.update(name=bytearray(), value=bytearray())

        def add(name: str) -> Any:
            return lambda data, start, end: header[name].extend(data[start:end])

        try:
            parser = python_multipart.MultipartParser(
                self._boundary,
                {
                    "on_part_begin": begin,
                    "on_header_field": add("name"),
                    "on_header_value": add("value"),
                    "on_header_end": end_header,
                    "on_end": lambda: ended.append(True),
                    "on_part_data": lambda data, start, end: parts[-1].content.extend(data[start:end]),
                },
            )
            parser.write(request)
            parser.finalize()
        except FormParserError as error:
            raise InvalidArgument(f"the body is not a valid form: {error}") from None
        if not ended:
            raise InvalidArgument("the body is not a valid form: its last boundary is missing")
        return parts


def _set(message: Message, path: str, content: bytes, fields: int) -> None:
    """Set the field at the path, or add to it where it is repeated."""
    *outer, last = _steps(message, path)
    for descriptor, place in outer:
        if descriptor.message_type is None:
            raise InvalidArgument.field(path, f"{descriptor.name} has no fields of its own")
        inner = getattr(message, descriptor.name)
        if descriptor.is_repeated:
            place = len(inner) if place is None else place
            if place > len(inner):
                raise InvalidArgument.field(
                    path, f"is place {place} of {descriptor.name}, which has {len(inner)} so far"
                )
            inner = inner.add() if place == len(inner) else inner[place]
        message = inner
    _set_last(message, last[0], path, content, fields)


def _steps(message: Message, path: str) -> Iterator[tuple[FieldDescriptor, int | None]]:
    """The fields along a path, each with the place that it names."""
    descriptor: Any = message.DESCRIPTOR
    names = path.split(".")
    if len(path) > NAME_BYTES or len(names) > DEPTH:
        raise InvalidArgument.field(path, "is not a field")
    for name in names:
        step = STEP.fullmatch(name)
        fields = {} if descriptor is None else {f.name: f for f in descriptor.fields}
        fields |= {f.json_name: f for f in fields.values()}
        found = fields.get(step["name"]) if step else None
        if step is None or found is None:
            known = ", ".join(sorted({f.name for f in fields.values()}))
            raise InvalidArgument.field(path, f"{name!r} is not a field; there are: {known}")
        yield found, int(step["place"]) if step["place"] else None
        descriptor = found.message_type


def _set_last(message: Message, descriptor: FieldDescriptor, path: str, content: bytes, fields: int) -> None:
    if descriptor.type == FieldDescriptor.TYPE_BYTES:
        if descriptor.is_repeated:
            getattr(message, descriptor.name).append(content)
        else:
            setattr(message, descriptor.name, content)
        return
    value: Any
    if descriptor.message_type is not None:
        value = load(content, fields)
    else:
        try:
            value = content.decode()
        except UnicodeDecodeError:
            raise InvalidArgument.field(path, "is not UTF-8") from None
        if descriptor.type == FieldDescriptor.TYPE_BOOL:
            value = BOOLEANS.get(value, value)
    message.MergeFrom(to_message({descriptor.name: [value] if descriptor.is_repeated else value}, type(message)))
