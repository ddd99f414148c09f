"""Build hook: generate the stubs in `lectern/v1` and `inference` from `protos/`, for the client's wheel and editable
installs; the wheel takes `lectern/v1` alone."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("lectern/v1", "inference")
# A descriptor pool refuses a second file that defines the same message. tritonclient's stubs define the messages of
# `inference` in the default pool, so ours have a pool of their own.
OWN_POOL = """
from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
"""


def generate_stubs(root: Path) -> None:
    """Run protoc over `protos/` and write the stubs of each of its packages into the folder of the same name.

    Raises:
        RuntimeError: protoc refused a file; its own message was printed.
    """
    from grpc_tools import protoc

    protos = root / "protos"
    files = sorted(str(file) for package in PACKAGES for file in (protos / package).glob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    flags = [f"--proto_path={protos}", f"--proto_path={well_known}"]
    flags += [f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", *flags, *files]) != 0:
        raise RuntimeError("protoc failed on protos/: see its message above")
    for package in PACKAGES:
        own = OWN_POOL if package == "inference" else ""
        (root / package / "__init__.py").write_text(f'"""Generated from protos/{package}; do not edit."""\n{own}')
    for stub in (root / "inference").glob("*_pb2.py"):
        stub.write_text(in_own_pool(stub.read_text()))


def in_own_pool(stub: str) -> str:
    """A stub that adds its descriptors to the pool of the package `inference`, not to the process's."""
    changes = {
        "from google.protobuf import descriptor_pool as _descriptor_pool": "from inference import POOL as _POOL",
        "_descriptor_pool.Default()": "_POOL",
    }
    for old, new in changes.items():
        if stub.count(old) != 1:
            raise RuntimeError(f"protoc writes its stubs otherwise now: {old!r} is not there once")
        stub = stub.replace(old, new)
    return stub


class StubsHook(BuildHookInterface[Any]):
    """Generate the stubs before hatchling collects files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate_stubs(Path(self.root))


if __name__ == "__main__":
    generate_stubs(Path(__file__).parent)
