"""Files that may change while the server runs: tokens and certificates."""

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
    """A value that `read` makes of some files; `refresh` reads it again when one of them has changed.

    Raises:
        StartError: from `read`, if the files are invalid.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = paths
        self._read = read
        self._seen = self._signature()
        self.value = read()

    def refresh(self) -> None:
        """Read changed files; if they are invalid, the previous value stays in force and the log says why."""
        # Taken before reading, so that a file which changes meanwhile is read again.
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        names = ", ".join(map(str, self._paths))
        try:
            self.value = self._read()
        except StartError as error:
            log.error("%s changed and cannot be used; the previous content stays in force: %s", names, error)
        else:
            log.info("reloaded %s", names)

    def _signature(self) -> list[tuple[int, int, int] | None]:
        return [_stat(path) for path in self._paths]


def follow(refresh: Callable[[], object], seconds: float) -> None:
    """Call `refresh` for ever on its own thread, so that no other hanging work delays the revocation of a token."""

    def run() -> None:
        while True:
            time.sleep(seconds)
            try:
                refresh()
            except Exception:
                log.exception("cannot look for changed files")

    threading.Thread(target=run, name="watched files", daemon=True).start()


def read_file(path: Path, variable: str) -> bytes:
    """The content of a file that a setting names.

    Raises:
        StartError: it cannot be read, or is not a regular file: reading a FIFO would block for ever.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StartError(f"{variable}: {path} is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{variable}: cannot read {path}: {error.strerror}") from error


def warn_if_readable_by_all(path: Path, what: str) -> None:
    """Log a warning, not an error, since Kubernetes mounts Secrets that way by default."""
    if path.stat().st_mode & stat.S_IROTH:
        log.warning("%s, %s, can be read by every user of this machine: chmod o-r", path, what)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
