"""Graphs whose constants are folded already, on disk: folding random weights takes half a second and 400 MiB."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import onnxruntime

from services.runtime.external_data import refuse_external_data

log = logging.getLogger(__name__)

MOST_BYTES = 512 * 2**20  # of all files together; the least recently used go first
SUFFIX = ".folded"
DIGEST_BYTES = hashlib.sha256().digest_size
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnsafeFolderError(OSError):
    """Somebody else may write to the folder, or replace it."""


class GraphCache:
    """Folded graphs in one folder, each in ONNX's format behind its SHA-256.

    A file counts only for the same graph, ONNX Runtime and CPU. One that is damaged counts as missing, and the next
    `put` replaces it.

    Args:
        folder: made if it is missing, readable by this user alone.

    Raises:
        OSError: it cannot be written to.
        UnsafeFolderError: it, or a folder above it, may be written to by other users than this one and root.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder.resolve(strict=True)
        _check_owned(self._folder)
        with tempfile.TemporaryFile(dir=self._folder):
            pass  # it can be written to

    def get(self, content: bytes) -> bytes | None:
        """The folded graph for the bytes of a graph; None if it is missing or damaged."""
        path = self._path(content)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & OTHERS_WRITE:
                    raise UnsafeFolderError(f"{path} is not a regular file that only this user may write to")
                os.utime(file.fileno())
                digest, folded = file.read(DIGEST_BYTES), file.read(MOST_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("a cached graph is not used: %s", error)
            return None
        if hashlib.sha256(folded).digest() != digest:
            log.warning("%s is damaged, and is not used", path)
            return None
        try:
            refuse_external_data(folded)
        except ValueError as error:
            log.warning("%s is not used: %s", path, error)
            return None
        return folded

    def put(self, content: bytes, folded: bytes) -> None:
        """Keep a folded graph. If that fails, e.g. since the disk is full, the log says so, and the next start folds
        it again."""
        if len(folded) > MOST_BYTES:
            return
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                temporary = file.name
                file.write(hashlib.sha256(folded).digest() + folded)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path(content))
            self._shrink()
        except OSError as error:
            log.warning("cannot keep a folded graph in %s: %s", self._folder, error)
            if temporary:
                with suppress(OSError):
                    os.unlink(temporary)

    def _path(self, content: bytes) -> Path:
        key = hashlib.sha256(f"{onnxruntime.__version__}\n{_cpu()}\n{hashlib.sha256(content).hexdigest()}".encode())
        return self._folder / f"{key.hexdigest()}{SUFFIX}"

    def _shrink(self) -> None:
        files = sorted(
            ((path, path.lstat()) for path in self._folder.glob(f"*{SUFFIX}")), key=lambda file: file[1].st_mtime_ns
        )
        total = sum(status.st_size for _, status in files)
        for path, status in files:
            if total <= MOST_BYTES:
                return
            path.unlink(missing_ok=True)
            total -= status.st_size


def _check_owned(folder: Path) -> None:
    for part in (folder, *folder.parents):
        status = part.stat()
        replaceable = status.st_mode & OTHERS_WRITE and (part == folder or not status.st_mode & stat.S_ISVTX)
        if status.st_uid not in (0, os.geteuid()) or replaceable:
            raise UnsafeFolderError(f"other users may write to {part}")


def _cpu() -> str:
    """What a constant may depend on: the architecture, and the instructions that kernels choose by."""
    with suppress(OSError), open("/proc/cpuinfo") as lines:
        flags = (line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features")))
        return f"{platform.machine()} {next(flags, '')}"
    return platform.machine()
