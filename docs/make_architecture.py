"""Write the drawing of the rooms in docs/architecture.md from the imports: `make docs`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = Path(__file__).with_name("architecture.md")
ROOMS = ("lectern", "services", "training", "artifacts")
CAPABILITIES = "services/CAPABILITY"
# Rooms in the order of the drawing, with what is written under their names; others follow.
CONTENTS = {
    "lectern/cli": "the command line",
    "lectern": "the clients",
    "lectern/v1": "stubs, written by the build",
    "services/server": "process, transports, access, health",
    CAPABILITIES: "classify, translate, explain ...",
    "services/answering.py": "single files above the folders",
    "services/inference": "Open Inference Protocol",
    "services/triton_server": "starts a Triton",
    "services/codecs": "bytes to arrays and back",
    "services/runtime": "repository, queues, engines",
    "services": "single files below: errors, limits, metrics",
    "training": "commands: train, evaluate, backdoor ...",
    "training/recipes": "one file a model",
    "training/methods": "what several recipes use",
    "training/export": "ONNX, parity, versions",
    "training/data": "sources and splits",
    "training/run.py": "single files that recipes use",
    "artifacts": "cards, versions, windows, noise",
}
SCRIPT = 'if __name__ == "__main__":'
Arrows = Mapping[str, set[str]]
BLOCK = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- /rooms -->)", re.DOTALL)


def page() -> str:
    """docs/architecture.md with the drawing as the imports are now."""
    return BLOCK.sub(lambda _: f"```mermaid\n{drawing()}```\n", TARGET.read_text())


def drawing() -> str:
    """A Mermaid flowchart; an arrow that others already imply is left out.

    Raises:
        graphlib.CycleError: rooms import each other.
    """
    at_once, later = arrows(at_once=True), arrows(at_once=False)
    reached = reachable(at_once)
    rooms = [*(room for room in CONTENTS if room in at_once), *sorted(at_once.keys() - CONTENTS)]
    lines = ["flowchart TD"]
    for top in ROOMS:
        parts = [room for room in rooms if room.split("/")[0] == top]
        lines += [f"  subgraph {top}_room [{top}]", *(f"    {node(part)}" for part in parts), "  end"]
    for room in rooms:
        implied = set().union(*(reached[other] for other in at_once[room]))
        lines += [f"  {key(room)} --> {key(other)}" for other in rooms if other in at_once[room] - implied]
        implied = reached[room].union(*(reached[other] for other in later[room]))
        lines += [f"  {key(room)} -.-> {key(other)}" for other in rooms if other in later[room] - implied]
    return "\n".join(lines) + "\n"


def arrows(*, at_once: bool) -> Arrows:
    """Which rooms each room imports: when it is imported itself (`at_once`), or inside its functions too.

    The server imports the package of each capability by its name, which no import statement shows.
    """
    imported: dict[str, set[str]] = {"lectern/v1": set()}
    for path in sources():
        # A script is a command, wherever it lies.
        room = "training" if SCRIPT in text_of(path) else room_of(path.with_suffix("").parts)
        others = {room_of(tuple(name.split("."))) for name in imports(path, at_once=at_once)}
        imported.setdefault(room, set()).update(others - {room})
        if room == "services/server" and not at_once and "import_module(" in text_of(path):
            imported[room].add(CAPABILITIES)
    return imported


def reachable(graph: Arrows) -> Arrows:
    """Every room that one comes to by the arrows from each room.

    Raises:
        graphlib.CycleError: a room comes back to itself.
    """
    reached: dict[str, set[str]] = {}
    for room in TopologicalSorter(graph).static_order():
        reached[room] = graph[room].union(*(reached[other] for other in graph[room]))
    return reached


def sources() -> Iterator[Path]:
    """Python files of the rooms, relative to the root, without the stubs that the build writes."""
    for top in ROOMS:
        for path in sorted((ROOT / top).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if relative.parts[:2] != ("lectern", "v1"):
                yield relative


@cache
def text_of(relative: Path) -> str:
    """The text of a file."""
    return (ROOT / relative).read_text()


@cache
def imports(relative: Path, *, at_once: bool) -> set[str]:
    """Names of this project that a file imports."""
    module = ast.parse(text_of(relative))
    names: set[str] = set()
    for statement in module.body if at_once else ast.walk(module):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            names |= {f"{statement.module}.{alias.name}" for alias in statement.names}
    return {name for name in names if name.split(".")[0] in ROOMS}


@cache
def single_files_above() -> set[str]:
    """Single files of services that import one of its folders."""
    folders = tuple(f"services.{path.name}." for path in (ROOT / "services").iterdir() if path.is_dir())
    singles = (path for path in sources() if path.parts[0] == "services" and len(path.parts) == 2)
    return {path.stem for path in singles if any(n.startswith(folders) for n in imports(path, at_once=True))}


@cache
def single_files_below() -> set[str]:
    """Single files of training that its folders import; the others are commands."""
    folders = (path for path in sources() if path.parts[0] == "training" and len(path.parts) > 2)
    names = {name for path in folders for name in imports(path, at_once=True)}
    return {"__init__"} | {name.split(".")[1] for name in names if name.startswith("training.")}


def is_capability(package: Path) -> bool:
    """Whether a package has the descriptor of a capability."""
    return "\nCAPABILITY = " in text_of(package)


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a file or of an imported name, by its parts."""
    top, second = parts[0], parts[1] if len(parts) > 1 else "__init__"
    if top == "lectern":
        return {"cli": "lectern/cli", "__main__": "lectern/cli", "v1": "lectern/v1"}.get(second, "lectern")
    if top == "artifacts":
        return top
    if (ROOT / top / second).is_dir():
        return CAPABILITIES if is_capability(Path(top, second, "__init__.py")) else f"{top}/{second}"
    if top == "services":
        return "services/answering.py" if second in single_files_above() else top
    return "training/run.py" if second in single_files_below() else top


def node(room: str) -> str:
    """A room as Mermaid writes it."""
    return f'{key(room)}["{room}<br>{CONTENTS.get(room, "")}"]'


def key(room: str) -> str:
    """A room's name in Mermaid, where a slash has a meaning."""
    return re.sub(r"\W", "_", room)


if __name__ == "__main__":
    TARGET.write_text(page())
