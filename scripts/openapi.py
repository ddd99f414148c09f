"""Write services/server/door/openapi.json, the OpenAPI 3.1 document of HTTP, from protos/; `--check` only says if it is
stale. Its texts are the comments of the protos."""

from __future__ import annotations

import importlib.resources
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.json_format import MessageToDict
from grpc_tools import protoc

from services.server.capabilities import CAPABILITIES
from services.server.door.inference import FIELD, ROUTES

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "services" / "server" / "door" / "openapi.json"
# Field numbers in descriptor.proto, of which the paths of comments consist.
MESSAGES, ENUMS, SERVICES, FIELDS, METHODS, VALUES, NESTED = 4, 5, 6, 2, 2, 2, 3
JSON, FORM, LINES, EVENTS = "application/json", "multipart/form-data", "application/x-ndjson", "text/event-stream"
FORM_DEPTH = 4
EXAMPLE_BYTES = 6000
PROTOCOL = "Open Inference Protocol"
WELL_KNOWN = {".google.protobuf.Struct": {"type": "object", "additionalProperties": True}}
Kind = FieldDescriptorProto
SCALARS: dict[int, dict[str, Any]] = {
    Kind.TYPE_BOOL: {"type": "boolean"},
    Kind.TYPE_STRING: {"type": "string"},
    Kind.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    Kind.TYPE_INT32: {"type": "integer", "format": "int32"},
    Kind.TYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0},
    # As proto JSON writes them; it reads numbers too.
    Kind.TYPE_INT64: {"type": ["string", "integer"], "format": "int64"},
    Kind.TYPE_UINT64: {"type": ["string", "integer"], "format": "uint64"},
    Kind.TYPE_FLOAT: {"type": ["number", "string"], "format": "float"},  # "NaN", "Infinity", "-Infinity"
    Kind.TYPE_DOUBLE: {"type": ["number", "string"], "format": "double"},
}
STATUS = {
    "type": "object",
    "description": "google.rpc.Status. Under /v2 it has the message as `error` too.",
    "properties": {
        "code": {"type": "integer", "description": "google.rpc.Code, as over gRPC."},
        "message": {"type": "string", "description": "What was wrong and what to do."},
        "error": {"type": "string"},
        "details": {
            "type": "array",
            "items": {"type": "object", "properties": {"@type": {"type": "string"}}, "additionalProperties": True},
            "description": "google.rpc.BadRequest with the fields at fault, google.rpc.RetryInfo.",
        },
    },
}
TENSOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "examples": ["FP32", "UINT8"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array", "description": "Values, nested or flat; absent if they follow in binary form."},
        "parameters": {"type": "object", "additionalProperties": True},
    },
    "required": ["name", "datatype", "shape"],
}
OUTPUT = {"type": "object", "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}}}
INFER_REQUEST = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object", "additionalProperties": True},
        "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        "outputs": {"type": "array", "items": OUTPUT},
    },
    "required": ["inputs"],
}
INFER_RESPONSE = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
    },
}
HEADERS = {
    "Timeout": ("grpc-timeout", "Time limit of the call: up to 8 digits and H, M, S, m (ms), u or n; e.g. `20S`."),
    "RequestId": ("x-request-id", "Id under which the server logs the call; else the server makes one."),
    "Priority": ("x-priority", "Priority of the call in its graph's queue, from 1, the highest."),
}
# What the page offers to send, where that is short.
EXAMPLES = {
    (capability.service.name, capability.rpc_of(request)): shown
    for capability in CAPABILITIES.values()
    for request in (capability.example(ROOT / "docs" / "examples"),)
    if len(json.dumps(shown := MessageToDict(request))) <= EXAMPLE_BYTES
}
ABOUT = """\
Every RPC of Lectern as `POST /package.Service/Method` with proto JSON, and the Open Inference Protocol under `/v2`.
docs/http.md has examples, limits and errors."""


class Contract:
    """The files of protos/ with their comments."""

    def __init__(self) -> None:
        self.files = [file for file in described().file if file.package == "lectern.v1"]
        self.messages: dict[str, DescriptorProto] = {}
        self.enums: dict[str, EnumDescriptorProto] = {}
        self.comments: dict[str, str] = {}
        for file in self.files:
            self._read(file)

    def _read(self, file: FileDescriptorProto) -> None:
        comments = {tuple(place.path): text(place.leading_comments) for place in file.source_code_info.location}
        for i, message in enumerate(file.message_type):
            self._read_message(message, f".{file.package}.{message.name}", (MESSAGES, i), comments)
        for i, enum in enumerate(file.enum_type):
            self._read_enum(enum, f".{file.package}.{enum.name}", (ENUMS, i), comments)
        for i, service in enumerate(file.service):
            name = f".{file.package}.{service.name}"
            self.comments[name] = comments.get((SERVICES, i), "")
            for j, method in enumerate(service.method):
                self.comments[f"{name}.{method.name}"] = comments.get((SERVICES, i, METHODS, j), "")

    def _read_message(
        self, message: DescriptorProto, name: str, path: tuple[int, ...], comments: dict[tuple[int, ...], str]
    ) -> None:
        self.messages[name], self.comments[name] = message, comments.get(path, "")
        for i, field in enumerate(message.field):
            self.comments[f"{name}.{field.name}"] = comments.get((*path, FIELDS, i), "")
        for i, nested in enumerate(message.nested_type):
            self._read_message(nested, f"{name}.{nested.name}", (*path, NESTED, i), comments)
        for i, enum in enumerate(message.enum_type):
            self._read_enum(enum, f"{name}.{enum.name}", (*path, ENUMS, i), comments)

    def _read_enum(
        self, enum: EnumDescriptorProto, name: str, path: tuple[int, ...], comments: dict[tuple[int, ...], str]
    ) -> None:
        self.enums[name] = enum
        values = [f"- `{v.name}`: {comments.get((*path, VALUES, i), '')}" for i, v in enumerate(enum.value)]
        self.comments[name] = "\n".join([comments.get(path, ""), "", *values]).strip()


def described() -> FileDescriptorSet:
    """Descriptors of the protos, with comments."""
    protos, well_known = ROOT / "protos", importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.NamedTemporaryFile() as file:
        options = [f"--proto_path={protos}", f"--proto_path={well_known}", f"--descriptor_set_out={file.name}"]
        sources = sorted(str(path) for path in (protos / "lectern" / "v1").glob("*.proto"))
        if protoc.main(["protoc", *options, "--include_source_info", *sources]) != 0:
            raise SystemExit("protoc failed on protos/: see its message above")
        return FileDescriptorSet.FromString(Path(file.name).read_bytes())


def text(comment: str) -> str:
    """A comment as one paragraph."""
    return " ".join(comment.split())


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    contract = Contract()
    services = [(file, service) for file in contract.files for service in file.service]
    paths = {
        f"/{file.package}.{service.name}/{method.name}": {"post": operation(contract, service, method)}
        for file, service in services
        for method in service.method
    }
    tags = [{"name": s.name, "description": contract.comments[f".lectern.v1.{s.name}"]} for _, s in services]
    tags.append(
        {"name": "Open Inference Protocol", "description": "Graphs as tensors, for any client of the protocol."}
    )
    schemas = {short(name): schema(contract, name) for name in contract.messages if not is_map(contract, name)}
    schemas |= {short(name): enumeration(contract, name) for name in contract.enums}
    schemas |= {"Status": STATUS, "Tensor": TENSOR, "InferRequest": INFER_REQUEST, "InferResponse": INFER_RESPONSE}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lectern", "version": "v1", "description": text(ABOUT), "license": {"name": "Apache-2.0"}},
        "tags": tags,
        "paths": paths | inference_paths(),
        "security": [{}, {"token": []}],
        "components": {
            "schemas": schemas,
            "parameters": {
                key: {"name": name, "in": "header", "description": about, "schema": {"type": "string"}}
                for key, (name, about) in HEADERS.items()
            },
            "responses": {"Error": {"description": "The call failed.", "content": {JSON: {"schema": ref("Status")}}}},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def operation(contract: Contract, service: ServiceDescriptorProto, method: MethodDescriptorProto) -> dict[str, Any]:
    """`POST` of a method."""
    about = contract.comments[f".lectern.v1.{service.name}.{method.name}"]
    request, response = ref(short(method.input_type)), ref(short(method.output_type))
    example = {"example": EXAMPLES.get((service.name, method.name), {})}
    content = {LINES if method.client_streaming else JSON: {"schema": request} | example}
    if not method.client_streaming and (form := form_of(contract, method.input_type)):
        content[FORM] = {"schema": form}
    answer = {JSON: {"schema": response}} | ({EVENTS: {"schema": response}} if method.server_streaming else {})
    streams = "Messages as they come: one a line, or one an event if the header `accept` asks for events."
    return {
        "operationId": f"{service.name}_{method.name}",
        "tags": [service.name],
        "summary": re.split(r"(?<=[.:;]) ", about, maxsplit=1)[0].rstrip(".:;"),
        "description": about,
        "parameters": [{"$ref": f"#/components/parameters/{key}"} for key in HEADERS],
        "requestBody": {"content": content},
        "responses": {
            "200": {"description": streams if method.server_streaming else "The answer.", "content": answer},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }


def form_of(contract: Contract, message: str) -> dict[str, Any] | None:
    """The message as a form, if it has files."""
    files = dict(files_in(contract, message, ()))
    if not files:
        return None
    own = contract.messages[message].field
    scalars = {
        f.name: value_of(contract, message, f) for f in own if f.type not in (Kind.TYPE_BYTES, Kind.TYPE_MESSAGE)
    }
    return {"type": "object", "properties": files | scalars}


def files_in(contract: Contract, message: str, around: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of bytes in a message, by their paths."""
    for field in contract.messages[message].field:
        path = (*around, field.name)
        if field.type == Kind.TYPE_BYTES:
            file = {"type": "string", "format": "binary"}
            about = {"description": contract.comments[f"{message}.{field.name}"]}
            yield ".".join(path), ({"type": "array", "items": file} if is_repeated(field) else file) | about
        elif field.type_name in contract.messages and len(path) < FORM_DEPTH:
            yield from files_in(contract, field.type_name, path)


def schema(contract: Contract, name: str) -> dict[str, Any]:
    """A message as JSON."""
    message = contract.messages[name]
    properties = {field.json_name: value_of(contract, name, field) for field in message.field}
    return {"type": "object", "description": contract.comments[name], "properties": properties}


def value_of(contract: Contract, message: str, field: FieldDescriptorProto) -> dict[str, Any]:
    """A field's value as JSON."""
    about = {"description": contract.comments[f"{message}.{field.name}"]}
    value = SCALARS.get(field.type) or WELL_KNOWN.get(field.type_name) or ref(short(field.type_name))
    if field.type == Kind.TYPE_MESSAGE and is_map(contract, field.type_name):
        _, inner = contract.messages[field.type_name].field
        return {"type": "object", "additionalProperties": value_of(contract, field.type_name, inner)} | about
    return ({"type": "array", "items": value} if is_repeated(field) else value) | about


def enumeration(contract: Contract, name: str) -> dict[str, Any]:
    values = [value.name for value in contract.enums[name].value]
    return {"type": "string", "enum": values, "description": contract.comments[name]}


def inference_paths() -> dict[str, Any]:
    """The paths under /v2."""
    paths: dict[str, Any] = {}
    for route in ROUTES:
        for path in (p for p in route.paths if not p.endswith("/")):
            fields = FIELD.findall(path)
            inferred = route.rpc == "ModelInfer"
            answer = ref("InferResponse") if inferred else {}
            described = {
                "operationId": f"{route.rpc}_{'_'.join(fields)}".rstrip("_"),
                "tags": [PROTOCOL],
                "summary": " ".join(re.findall("[A-Z][a-z]+", route.rpc)).capitalize(),
                "parameters": [
                    {"name": field, "in": "path", "required": True, "schema": {"type": "string"}} for field in fields
                ],
                "responses": {
                    "200": {"description": "The answer.", "content": {JSON: {"schema": answer}}},
                    "default": {"$ref": "#/components/responses/Error"},
                },
            }
            if path == "/v2/models/stats":
                described["operationId"] = "ModelStatistics"
            if route.method == "POST":
                body = ref("InferRequest") if inferred else {"type": "object"}
                described["requestBody"] = {"content": {JSON: {"schema": body}}}
            paths[path] = {route.method.lower(): described}
    return paths


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def short(name: str) -> str:
    """The name of a schema."""
    return name.removeprefix(".lectern.v1.")


def is_map(contract: Contract, name: str) -> bool:
    return name in contract.messages and contract.messages[name].options.map_entry


def is_repeated(field: FieldDescriptorProto) -> bool:
    return field.label == FieldDescriptorProto.LABEL_REPEATED


def main(check: bool) -> int:
    """Write the document, or say that it is not current; 1 if it is not."""
    wanted = json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
    if check and (not TARGET.exists() or TARGET.read_text() != wanted):
        print(f"{TARGET.relative_to(ROOT)} is not current: run `make openapi`")
        return 1
    if not check:
        TARGET.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
