"""Which functions of the project a call runs, in the order of their first calls.

`python -m tests.following WAY DIRECTORY` goes one of the ways that docs/architecture.md walks. It prints a JSON list of
[file, function, file of its caller]. It needs a process of its own, since the tracer sees only threads that start
after it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lectern.client import Client

ROOT = Path(__file__).parents[1]
ROOMS = tuple(f"{ROOT / room}{os.sep}" for room in ("artifacts", "lectern", "services", "training"))


class Recorder:
    """Functions in the order of their first calls, once `recording`."""

    def __init__(self) -> None:
        self.functions: dict[tuple[str, str], str] = {}
        self.recording = False
        threading.settrace(self._see)
        sys.settrace(self._see)

    def _see(self, frame: FrameType, _event: str, _argument: Any) -> None:
        """Called where a function begins or goes on, and for no line of it, since it returns no tracer."""
        if self.recording and (file := project_file(frame)):
            function = (file, frame.f_code.co_qualname)
            if function not in self.functions:
                self.functions[function] = caller(frame)


def project_file(frame: FrameType) -> str:
    """The file of a frame, relative to the root; empty for other people's."""
    name = frame.f_code.co_filename
    return Path(name).relative_to(ROOT).as_posix() if name.startswith(ROOMS) else ""


def caller(frame: FrameType) -> str:
    """The nearest file of the project that called it; empty if none did, as where a thread starts."""
    above = frame.f_back
    while above is not None:
        if file := project_file(above):
            return file
        above = above.f_back
    return ""


def classify_image(client: Client) -> None:
    client.classify_image("docs/examples/ship.png")


def translate(client: Client) -> None:
    client.translate("Where is the library?")


def nothing(_: Client) -> None:
    """A model is ready before anyone asks it."""


def repository_of(directory: Path, model: str) -> Path:
    """A repository of one committed model and its further graphs."""
    for graph in (ROOT / "exported").glob(f"{model}*"):
        shutil.copytree(graph, directory / graph.name)
    return directory


def serve(recorder: Recorder, repository: Path, capability: str, ask: Callable[[Client], None]) -> None:
    """Serve a repository in this process, and ask it from a thread."""
    import uvloop

    from services.server.app import App
    from services.server.report import Ready
    from services.server.settings import Settings

    def client(port: int) -> None:
        try:
            with Client(f"127.0.0.1:{port}") as client:
                recorder.recording = True
                ask(client)
        finally:
            recorder.recording = False
            os.kill(os.getpid(), signal.SIGTERM)

    def on_serving(ready: Ready) -> None:
        threading.Thread(target=client, args=(ready.port,)).start()

    settings = Settings(port=0, repository=repository, capabilities=(capability,), drain_pause_seconds=0)
    uvloop.run(App(settings).run(on_serving))


def train(recorder: Recorder, directory: Path) -> None:
    """Train a model, and serve it until it is ready."""
    from training.train import train

    recorder.recording = True
    train("image_classifier", fast=True, output=directory)
    serve(recorder, directory, "classify", nothing)


def main(way: str, directory: Path) -> None:
    recorder = Recorder()
    if way == "ClassifyImage":
        serve(recorder, repository_of(directory, "image_classifier"), "classify", classify_image)
    elif way == "Translate":
        serve(recorder, repository_of(directory, "translator_en_zh"), "translate", translate)
    else:
        train(recorder, directory)
    sys.stdout.write(json.dumps([[*function, called] for function, called in recorder.functions.items()]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
