"""Write docs/rpcs.md, every service, message and enum of the contract, from the comments of protos/: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

from docs.contract import comment_of, files

TARGET = Path(__file__).with_name("rpcs.md")
HEAD = """\
# RPCs

Every service of `lectern.v1` with its messages, from the comments of `protos/`. Written by `make docs`; do not edit.
[errors.md](errors.md) has what they fail with, [client.md](client.md) the methods of Python. Graphs also answer the
[Open Inference Protocol](interoperability.md). A field without a label has one value; *optional* says that its absence
is known.

"""
MESSAGES, ENUMS, SERVICES, FIELDS, METHODS, VALUES = 4, 5, 6, 2, 2, 2  # numbers of fields of descriptor.proto


def page() -> str:
    """The whole reference: an index of services, then file by file."""
    index = [f"- [{service.name}](#{service.name.lower()})" for file in files() for service in file.service]
    return HEAD + "\n".join(index) + "\n" + "".join(line for file in files() for line in section(file))


def section(file: FileDescriptorProto) -> Iterator[str]:
    """The services of one file, then its messages and enums."""
    for number, service in enumerate(file.service):
        yield f"\n## {service.name}\n\n{comment_of(file, SERVICES, number)}\n\n"
        yield "| RPC | request | response | what it does |\n| --- | --- | --- | --- |\n"
        for place, method in enumerate(service.method):
            yield method_row(method, comment_of(file, SERVICES, number, METHODS, place))
    if not file.service:
        yield f"\n## In several services: {Path(file.name).name}\n"
    for number, message in enumerate(file.message_type):
        yield from message_lines(file, message, (MESSAGES, number))
    for number, enum in enumerate(file.enum_type):
        yield from enum_lines(file, enum, (ENUMS, number))


def method_row(method: MethodDescriptorProto, comment: str) -> str:
    """One RPC."""
    request = ("stream of " if method.client_streaming else "") + type_link(method.input_type)
    response = ("stream of " if method.server_streaming else "") + type_link(method.output_type)
    return f"| `{method.name}` | {request} | {response} | {comment} |\n"


def message_lines(file: FileDescriptorProto, message: DescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
    """A message with its fields, then what is declared inside it."""
    comment = comment_of(file, *path)
    yield f"\n### {message.name}\n\n" + (f"{comment}\n\n" if comment else "")
    if message.field:
        yield "| field | type | what it is |\n| --- | --- | --- |\n"
    for place, field in enumerate(message.field):
        yield f"| `{field.name}` | {field_type(message, field)} | {comment_of(file, *path, FIELDS, place)} |\n"
    for place, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from message_lines(file, nested, (*path, 3, place))
    for place, enum in enumerate(message.enum_type):
        yield from enum_lines(file, enum, (*path, 4, place))


def enum_lines(file: FileDescriptorProto, enum: EnumDescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
    """An enum with its values."""
    yield f"\n### {enum.name}\n\n{comment_of(file, *path)}\n\n| value | number | what it is |\n| --- | --- | --- |\n"
    for place, value in enumerate(enum.value):
        yield f"| `{value.name}` | {value.number} | {comment_of(file, *path, VALUES, place)} |\n"


def field_type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    """A field's type and label, e.g. `repeated float`; of a oneof its name too."""
    kind = type_link(field.type_name) if field.type_name else f"{field.Type.Name(field.type)[5:].lower()}"
    if field.label == field.LABEL_REPEATED:
        return f"repeated {kind}"
    if field.proto3_optional:
        return f"optional {kind}"
    if field.HasField("oneof_index"):
        return f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return kind


def type_link(name: str) -> str:
    """A message or enum: a link if this page has it."""
    package, _, short = name.lstrip(".").rpartition(".")
    return f"[{short}](#{short.lower()})" if package.startswith("lectern.v1") else f"`{name.lstrip('.')}`"


if __name__ == "__main__":
    TARGET.write_text(page())
