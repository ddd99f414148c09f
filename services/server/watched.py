"""Files whose contents may change while the server runs: tokens, certificates."""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from services.server.settings import StartError

T = TypeVar("T")

log = logging.getLogger(__name__)


class Watched(Generic[T]):
    """What `read` makes of some files, read again by `refresh` when one of them changed.

    Raises:
        StartError: from `read`, when the files are not as they should be.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = paths
        self._read = read
        self._seen = self._signature()
        self.value = read()

    def refresh(self) -> None:
        """Take up changed files; if they are broken, what was read before stays in force and the log says why."""
        # Noted before reading: a file that changes meanwhile is read again.
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        names = ", ".join(map(str, self._paths))
        try:
            self.value = self._read()
        except StartError as error:
            log.error("%s changed and cannot be used, what was read before stays in force: %s", names, error)
        else:
            log.info("took up the changed %s", names)

    def _signature(self) -> list[tuple[int, int, int] | None]:
        return [_stat(path) for path in self._paths]


def follow(refresh: Callable[[], object], seconds: float) -> None:
    """Call `refresh` for ever on a thread of its own: nothing else that hangs keeps a token from being revoked."""

    def run() -> None:
        while True:
            time.sleep(seconds)
            try:
                refresh()
            except Exception:
                log.exception("cannot look for changed files")

    threading.Thread(target=run, name="watched files", daemon=True).start()


def read_file(path: Path, variable: str) -> bytes:
    """A file that a setting names.

    Raises:
        StartError: it cannot be read, or is no regular file: reading a FIFO would wait for ever.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StartError(f"{variable}: {path} is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{variable}: cannot read {path}: {error.strerror}") from error


def warn_if_readable_by_all(path: Path, what: str) -> None:
    """A warning rather than an error: Kubernetes mounts Secrets so unless told otherwise."""
    if path.stat().st_mode & stat.S_IROTH:
        log.warning("%s, %s, can be read by every user of this machine: chmod o-r", path, what)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
