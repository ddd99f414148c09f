"""What tests of releases share: repositories, releases made by the CLI, archives made by hand, and a web server."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import ssl
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from artifacts.versions import own_graphs, read_card
from tests.conftest import EXPORTED
from tests.lectern.test_cli import invoke
from tests.server.pki import Pki

MODEL = "covid_regressor"


def copy(repository: Path, *names: str) -> Path:
    """A repository with these models, their further graphs among them."""
    for name in names:
        for graph in own_graphs(read_card(EXPORTED / name)):
            shutil.copytree(EXPORTED / graph, repository / graph)
    return repository


def add_version(repository: Path, name: str, version: int) -> None:
    """The newest version of a model once more, under another number."""
    card = read_card(repository / name)
    files = card.files
    for graph in own_graphs(card):
        shutil.copytree(repository / graph / str(card.version), repository / graph / str(version))
        old, new = f"{graph}/{card.version}/", f"{graph}/{version}/"
        files = {path.replace(old, new): sha256 for path, sha256 in files.items()}
    card.model_copy(update={"version": version, "files": files}).write(repository / name / str(version) / "card.json")


def publish(directory: Path, archive: Path, *options: object) -> Path:
    done = invoke("publish", directory, "--output", archive, *options)
    assert done.returncode == 0, done.stderr
    return archive


def visible(repository: Path) -> dict[str, bytes]:
    """Every file that a server sees, by its path."""
    return {
        path.relative_to(repository).as_posix(): path.read_bytes()
        for path in repository.rglob("*")
        if path.is_file() and not path.relative_to(repository).parts[0].startswith(".")
    }


def members(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Headers and contents of an archive."""
    with tarfile.open(archive) as tar:
        return [(entry, tar.extractfile(entry).read()) for entry in tar]  # type: ignore[union-attr]


def forge(archive: Path, entries: Sequence[tuple[tarfile.TarInfo, bytes]], kind: int = tarfile.USTAR_FORMAT) -> Path:
    """An archive of these entries."""
    with tarfile.open(archive, "w", format=kind) as tar:
        for entry, content in entries:
            tar.addfile(entry, io.BytesIO(content))
    return archive


def entry(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    return header, content


def manifest_of(contents: dict[str, bytes], **changed: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A manifest that lists these files as they are, as of one model `m` in version 1."""
    listed = {name: {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)} for name, text in contents.items()}
    model = {"name": "m", "version": 1, "title": "", "trained": "", "commit": "", "folders": ["m/1"]}
    text = json.dumps({"format": 1, "made_by": "a test", "models": [model], "files": listed} | changed)
    return entry("manifest.json", text.encode())


@contextmanager
def web(handler: type[BaseHTTPRequestHandler] | partial[Any], pki: Pki | None = None) -> Iterator[str]:
    """The address of a web server on this machine; by HTTPS with the server's certificate of `pki`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if pki:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pki.file("server.pem"), pki.file("server.key"))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http{'s' if pki else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, *arguments: object) -> None:
        pass


def folder(directory: Path) -> partial[Quiet]:
    return partial(Quiet, directory=str(directory))
