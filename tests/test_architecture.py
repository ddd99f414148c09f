"""Imports point one way, as CONTRIBUTING says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.unit

# Package -> packages of this project that it may import.
ALLOWED = {
    "lectern": {"lectern"},
    "training": {"training", "lectern"},
    "services/runtime": {
        "services.runtime",
        "services.errors",
        "services.metrics",
        "services.tracing",
        "lectern.card",
        "lectern.distribution",
        "lectern.versions",
    },
    "services/codecs": {
        "services.budget",
        "services.codecs",
        "services.errors",
        "services.limits",
        "services.metrics",
        "services.pools",
        "services.runtime",
        "services.tracing",
        "lectern.card",
        "lectern.kinds",
        "lectern.windows",
    },
}
SHARED = {
    "services.errors",
    "services.excerpt",
    "services.limits",
    "services.metrics",
    "services.notices",
    "services.parameters",
    "services.pools",
    "services.places",
    "services.rpc",
    "services.streams",
    "services.tracing",
    "services.codecs",
    "services.runtime",
}
NOT_CAPABILITIES = {"runtime", "codecs", "server"}
# What the CLI hands over to, imported inside its commands.
HANDOVER = {
    "lectern/cli/calibrate_detector.py": {"training"},
    "lectern/cli/evaluate.py": {"training"},
    "lectern/cli/make_explainable.py": {"training"},
    "lectern/cli/serve.py": {"services"},
    "lectern/cli/token.py": {"services"},
    "lectern/cli/train.py": {"training"},
    "lectern/cli/triton.py": {"services"},
}


def project_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module else set()
    return {n for n in names if n.split(".")[0] in ("lectern", "services", "training", "torch")}


def allowed(relative: Path) -> set[str]:
    parts = relative.parts
    if parts[0] == "services" and len(parts) > 2 and parts[1] == "server":
        return {"services", "lectern"}
    if parts[0] == "services" and len(parts) > 2 and parts[1] not in NOT_CAPABILITIES:
        return SHARED | {
            f"services.{parts[1]}",
            "lectern.v1",
            "lectern.card",
            "lectern.distribution",
            "lectern.noise",
            "lectern.squeezing",
            "lectern.windows",
        }
    if parts[0] == "services" and len(parts) == 2:
        shared = ("errors", "excerpt", "limits", "metrics", "rpc", "tracing")
        return {f"services.{name}" for name in shared} | ({"lectern.v1"} if parts[1] == "notices.py" else set())
    key = "/".join(parts[:2]) if parts[0] == "services" else parts[0]
    return ALLOWED[key] | ({"torch"} if key == "training" else set()) | HANDOVER.get(relative.as_posix(), set())


SOURCES = sorted(
    p.relative_to(ROOT)
    for top in ("lectern", "services", "training")
    for p in (ROOT / top).rglob("*.py")
    if "lectern/v1" not in p.as_posix()
)


@pytest.mark.parametrize("relative", SOURCES, ids=str)
def test_imports_point_one_way(relative: Path) -> None:
    for name in project_imports(ROOT / relative):
        assert any(name == a or name.startswith(f"{a}.") for a in allowed(relative)), f"{relative} imports {name}"
