"""Build hook: generate the stubs in `lectern/v1` from `protos/`, for the client's wheel and editable installs."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def generate_stubs(root: Path) -> None:
    """Run protoc over `protos/lectern/v1` and write the stubs beside the client code.

    Raises:
        RuntimeError: protoc refused a file; its own message was printed.
    """
    from grpc_tools import protoc

    protos = root / "protos"
    files = sorted(str(p) for p in (protos / "lectern" / "v1").glob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    flags = [f"--proto_path={protos}", f"--proto_path={well_known}"]
    flags += [f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", *flags, *files]) != 0:
        raise RuntimeError("protoc failed on protos/lectern/v1: see its message above")
    (root / "lectern" / "v1" / "__init__.py").write_text('"""Generated from protos/lectern/v1; do not edit."""\n')


class StubsHook(BuildHookInterface[Any]):
    """Generate the stubs before hatchling collects files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate_stubs(Path(self.root))


if __name__ == "__main__":
    generate_stubs(Path(__file__).parent)
