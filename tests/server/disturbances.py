"""What people, copies and mounts do to a repository while it is served, again and again, one after the other."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from lectern.v1 import model_pb2
from tests.conftest import Server
from tests.graphs import add_graph, burn, burn_config
from tests.runtime.test_lifecycle import MODEL, add_version, versions
from tests.waiting import WAIT, wait_until

LINKED, DAMAGED, LOCKED = "linked", "damaged", "locked"
BATCHES = (8, 16)  # rows of a batch, by which one content of LINKED is told from the next
COPY_PIECES = 20
PIECE_SECONDS = 0.1

Disturbance = Callable[[Server, Path, int], None]


def prepare(repository: Path) -> None:
    """Add the models that are disturbed, besides MODEL."""
    add_graph(repository / "..data-0", LINKED, burn(), burn_config(BATCHES[0]))
    (repository / "..data").symlink_to("..data-0")
    (repository / LINKED).symlink_to(f"..data/{LINKED}")
    for name in (DAMAGED, LOCKED):
        add_graph(repository, name, burn(), burn_config(8))


def copy_slowly(server: Server, repository: Path, number: int) -> None:
    """The next version of MODEL, as `cp` brings it over a slow line; then the one before is removed."""
    version, staged = number + 1, repository / ".slow"
    shutil.copytree(repository / MODEL / "1", staged / MODEL / "1")
    add_version(staged, version)
    target = repository / MODEL / str(version)
    target.mkdir()
    for source in sorted((staged / MODEL / str(version)).iterdir(), reverse=bool(number % 2)):
        content = source.read_bytes()
        with (target / source.name).open("wb") as file:
            for start in range(0, len(content), len(content) // COPY_PIECES + 1):
                file.write(content[start : start + len(content) // COPY_PIECES + 1])
                file.flush()
                time.sleep(PIECE_SECONDS)
    shutil.rmtree(staged)
    wait_until(lambda: ready(server, MODEL) == [version])
    if version > 2:  # the first stays: versions are copies of it
        shutil.rmtree(repository / MODEL / str(version - 1))


def swap_links(server: Server, repository: Path, number: int) -> None:
    """Other content of LINKED, as Kubernetes puts that of a ConfigMap in place."""
    add_graph(repository / f"..data-{number}", LINKED, burn(), burn_config(batch_of(number)))
    (repository / "..new").symlink_to(f"..data-{number}")
    (repository / "..new").rename(repository / "..data")
    shutil.rmtree(repository / f"..data-{number - 1}")
    wait_until(lambda: most_rows(server, LINKED) == batch_of(number))


def put_fifos(server: Server, repository: Path, number: int) -> None:
    """FIFOs where files and folders are looked for; they go once the server has named them."""
    places = (repository / "fifo", repository / MODEL / "fifo", repository / DAMAGED / "99")
    for place in places:
        os.mkfifo(place)
    config, newer = repository / DAMAGED / "config.pbtxt", repository / DAMAGED / "2"
    with aside(config):
        os.mkfifo(config)
        wait_until(lambda: "not a regular file" in reasons(server, DAMAGED))
    wait_until(lambda: not reasons(server, DAMAGED))
    newer.mkdir()
    os.mkfifo(newer / "card.json")
    wait_until(lambda: "not a regular file" in reasons(server, DAMAGED))
    shutil.rmtree(newer)
    for place in places:
        place.unlink()
    wait_until(lambda: not reasons(server, DAMAGED))


def lock_folders(server: Server, repository: Path, number: int) -> None:
    """Folders that cannot be read: one that is no model, and the one of a model that serves."""
    (lost := repository / "lost+found").mkdir(mode=0)
    (repository / LOCKED).chmod(0)
    wait_until(lambda: "Permission denied" in reasons(server, LOCKED))
    (repository / LOCKED).chmod(0o755)
    lost.rmdir()
    wait_until(lambda: not reasons(server, LOCKED))


@contextmanager
def aside(path: Path) -> Iterator[None]:
    """A file that is elsewhere for a while, and then put back over whatever has its name."""
    kept = path.with_name(f".{path.name}")
    path.rename(kept)
    yield
    kept.rename(path)


def batch_of(number: int) -> int:
    return BATCHES[number % len(BATCHES)]


def most_rows(server: Server, name: str) -> int:
    with grpc.insecure_channel(server.target) as channel:
        request = service_pb2.ModelConfigRequest(name=name)
        return int(GRPCInferenceServiceStub(channel).ModelConfig(request, timeout=WAIT).config.max_batch_size)


def ready(server: Server, name: str) -> list[int]:
    """The versions of a model that there are, if all of them are READY without reservation."""
    states = versions(server, name)
    return list(states) if all(v.state == model_pb2.MODEL_STATE_READY and not v.reason for v in states.values()) else []


def reasons(server: Server, name: str) -> str:
    """What is wrong with a model."""
    return " ".join(version.reason for version in versions(server, name).values())


DISTURBANCES: dict[Disturbance, float] = {copy_slowly: 3.0, swap_links: 1.0, put_fifos: 1.0, lock_folders: 1.0}
"""And the seconds of rest after each."""
