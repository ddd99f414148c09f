"""Imports point one way, as CONTRIBUTING says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.unit

# Package -> packages of this project that it may import.
ALLOWED = {
    "artifacts": {"artifacts"},
    "lectern": {"lectern"},
    "services/runtime": {
        "services._native",
        "services.runtime",
        "services.errors",
        "services.metrics",
        "services.tasks",
        "services.tracing",
        "artifacts.card",
        "artifacts.datatypes",
        "artifacts.versions",
        "artifacts.windows",
        "lectern.distribution",
        "lectern.names",
    },
    "services/codecs": {
        "services.budget",
        "services.codecs",
        "services.errors",
        "services.limits",
        "services.metrics",
        "services.pools",
        "services.runtime",
        "services.tasks",
        "services.tracing",
        "artifacts.card",
        "artifacts.windows",
        "lectern.kinds",
    },
}
# What every part of training but `data` may import.
TRAINING = {
    "training.cpu",
    "training.measures",
    "training.optimise",
    "training.run",
    "training.served",
    "training.trained",
    "training.TrainingError",
    "artifacts",
    "lectern",
    "torch",
}
TRAINING_PARTS = {
    "export": {"training.data.fetch", "training.export"},
    "methods": {"training.data", "training.export", "training.methods"},
    "recipes": {"training.data", "training.export", "training.methods", "training.recipes"},
}
ROOMS = ("artifacts", "lectern", "services", "training")
SHARED = {
    "services.answering",
    "services.capability",
    "services.errors",
    "services.excerpt",
    "services.limits",
    "services.metrics",
    "services.notices",
    "services.parameters",
    "services.pools",
    "services.places",
    "services.probabilities",
    "services.rpc",
    "services.streams",
    "services.tasks",
    "services.tracing",
    "services.codecs",
    "services.runtime",
}
# What the single files of services/ may import of each other.
SHARED_LEAVES = {
    "services.errors",
    "services.excerpt",
    "services.limits",
    "services.metrics",
    "services.rpc",
    "services.tracing",
}
# What some of them import beside those.
LEAVES_THAT_IMPORT_MORE = {
    "answering.py": {"artifacts.card", "services.capability", "services.runtime"},
    "notices.py": {"lectern.v1"},
    "probabilities.py": {"lectern.v1"},
}
FRESH = Path("training/data/fresh.py")
NOT_CAPABILITIES = {"runtime", "codecs", "server"}
# Libraries of pure functions, which know no messages and no graphs.
METHODS = {
    "services/defend/methods": {"services.defend.methods"},
    "services/explain/methods": {"services.explain.methods", "artifacts.noise"},
}
# What the CLI hands over to; test_rooms_form_no_cycle sees that it does so inside its commands.
HANDOVER = {
    "lectern/cli/checks.py": {"services"},
    "lectern/cli/completion.py": {"services"},
    "lectern/cli/commands/add.py": {"artifacts"},
    "lectern/cli/commands/calibrate_detector.py": {"training"},
    "lectern/cli/commands/evaluate.py": {"artifacts", "training"},
    "lectern/cli/commands/loadtest.py": {"services"},
    "lectern/cli/commands/make_explainable.py": {"training"},
    "lectern/cli/commands/promote.py": {"artifacts"},
    "lectern/cli/commands/publish.py": {"artifacts"},
    "lectern/cli/commands/pull.py": {"artifacts"},
    "lectern/cli/commands/serve.py": {"services"},
    "lectern/cli/commands/token.py": {"services"},
    "lectern/cli/commands/train.py": {"training"},
    "lectern/cli/commands/triton.py": {"services"},
}


def project_imports(path: Path, *, at_once: bool = False) -> set[str]:
    """What of this project a file imports; `at_once`: when it is imported itself."""
    module = ast.parse(path.read_text())
    names = {name for node in (module.body if at_once else ast.walk(module)) for name in imported(node)}
    return {n for n in names if n.split(".")[0] in (*ROOMS, "torch")}


def imported(node: ast.AST) -> set[str]:
    """The full names that an import statement brings; none of another statement."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.module, "relative import"
        assert node.level == 0, f"relative import of {node.module}"
        return {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def allowed(relative: Path) -> set[str]:
    parts = relative.parts
    if parts[:2] == ("training", "data"):
        return {"training.data", "artifacts.card", "artifacts.carrying", "artifacts.tagging", "artifacts.verses"}
    if parts[0] == "training":
        return TRAINING | (TRAINING_PARTS[parts[1]] if len(parts) > 2 else {"training"})
    if relative.as_posix() == "services/triton_server/launcher.py":
        return {"services", "artifacts.versions", "lectern"}
    if parts[0] == "services" and len(parts) > 2 and parts[1] == "server":
        return {"services", "artifacts", "lectern"}
    if (library := "/".join(parts[:3])) in METHODS:
        return METHODS[library]
    if parts[0] == "services" and len(parts) > 2 and parts[1] not in NOT_CAPABILITIES:
        return SHARED | {
            f"services.{parts[1]}",
            "artifacts.card",
            "artifacts.noise",
            "artifacts.squeezing",
            "artifacts.carrying",
            "artifacts.stories",
            "artifacts.tagging",
            "artifacts.verses",
            "artifacts.windows",
            "lectern.distribution",
            "lectern.v1",
        }
    if parts[0] == "services" and len(parts) == 2:
        return SHARED_LEAVES | LEAVES_THAT_IMPORT_MORE.get(parts[1], set())
    key = "/".join(parts[:2]) if parts[0] == "services" else parts[0]
    return ALLOWED[key] | HANDOVER.get(relative.as_posix(), set())


SOURCES = sorted(
    p.relative_to(ROOT) for top in ROOMS for p in (ROOT / top).rglob("*.py") if "lectern/v1" not in p.as_posix()
)


@pytest.mark.parametrize("relative", SOURCES, ids=str)
def test_imports_point_one_way(relative: Path) -> None:
    for name in project_imports(ROOT / relative):
        assert any(name == a or name.startswith(f"{a}.") for a in allowed(relative)), f"{relative} imports {name}"


def test_of_the_runtime_only_the_client_of_triton_imports_grpc() -> None:
    modules = {path: ast.walk(ast.parse((ROOT / path).read_text())) for path in SOURCES if path.parts[1] == "runtime"}
    imports = {
        path.name: {name.split(".")[0] for node in nodes for name in imported(node)} for path, nodes in modules.items()
    }
    assert {name for name, packages in imports.items() if "grpc" in packages} == {"triton_engine.py"}


def test_rooms_form_no_cycle() -> None:
    imports = {
        room: {name.split(".")[0] for path in of_room(room) for name in project_imports(ROOT / path, at_once=True)}
        for room in ROOMS
    }
    assert {room: set(ROOMS) & imported - {room} for room, imported in imports.items()} == {
        "artifacts": set(),
        "lectern": set(),
        "services": {"artifacts", "lectern"},
        "training": {"artifacts", "lectern"},
    }


def of_room(room: str) -> list[Path]:
    return [path for path in SOURCES if path.parts[0] == room]


def strings_in(relative: Path) -> set[str]:
    nodes = ast.walk(ast.parse((ROOT / relative).read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("relative", of_room("training"), ids=str)
def test_training_does_not_reach_into_tests(relative: Path) -> None:
    if relative == FRESH:  # which measures on what no training may read
        return
    assert not [text for text in strings_in(relative) if text == "tests" or "tests/" in text]


RECIPES = [path for path in of_room("training") if path.parts[1] == "recipes" and path.name != "__init__.py"]


@pytest.mark.parametrize("relative", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_declares_what_it_needs_and_whether_it_is_shipped(relative: Path) -> None:
    module = ast.parse((ROOT / relative).read_text())
    assert ast.get_docstring(module)
    assigned = [t for node in module.body if isinstance(node, ast.Assign) for t in node.targets]
    assigned += [node.target for node in module.body if isinstance(node, ast.AnnAssign)]
    names = {target.id for target in assigned if isinstance(target, ast.Name)}
    assert {"NEEDS", "MEMORY", "SHIPPED", "LIMITS"} <= names
    assert {"train", "evaluate"} <= {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_no_file_lists_the_recipes() -> None:
    """A recipe is found by being there: no file names more than a few others."""
    names = {path.stem for path in RECIPES}
    for path in of_room("training"):
        assert len(names & strings_in(path)) < len(names) / 4, path
