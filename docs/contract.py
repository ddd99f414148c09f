"""The contract with its comments, as protoc describes it, for the pages that are generated from it."""

from __future__ import annotations

import importlib.resources
import tempfile
from functools import cache
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

PROTOS = Path(__file__).parents[1] / "protos"


@cache
def files() -> tuple[FileDescriptorProto, ...]:
    """The files of protos/lectern/v1 by name, those without a service last, with their comments.

    Raises:
        RuntimeError: protoc refused a file; its own message was printed.
    """
    names = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / "lectern" / "v1").glob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.NamedTemporaryFile() as target:
        options = [f"--proto_path={PROTOS}", f"--proto_path={well_known}", "--include_source_info"]
        if protoc.main(["protoc", *options, f"--descriptor_set_out={target.name}", *names]) != 0:
            raise RuntimeError("protoc failed on protos/: see its message above")
        found = FileDescriptorSet.FromString(Path(target.name).read_bytes()).file
        return tuple(sorted(found, key=lambda file: (not file.service, file.name)))


def comment_of(file: FileDescriptorProto, *path: int) -> str:
    """The comment above a part of a file, as one line; `path` counts as in SourceCodeInfo. Empty if it has none."""
    return " ".join(comments(file).get(path, "").split()).replace("|", "\\|")


def comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """Comments by path."""
    return {tuple(location.path): location.leading_comments for location in file.source_code_info.location}
