"""Reads the files of a model repository, one path component at a time, so that nothing outside its root is opened.

Links as Kubernetes makes them (`model -> ..data/model`) are followed if they are relative and stay inside. The root
itself may be a link, even one that no path resolves, like KServe's modelcar at `/proc/PID/root/models`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MOST_LINKS = 40  # as Linux
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION_NAME = re.compile(r"[1-9][0-9]{0,9}")
Entry = tuple[str, int, int, int]


@dataclass(frozen=True)
class Folder:
    """A model's directory at one moment.

    Args:
        versions: numbers of the version directories.
        entries: path below the directory, size, mtime in ns and inode of each file in it and in its versions.
        problem: why it could not be listed completely; empty if it could.
    """

    versions: tuple[int, ...] = ()
    entries: tuple[Entry, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Listing:
    """The content of a repository at one moment.

    Args:
        folders: by name of the directory.
        ignored: entries of the root that are not models, each with the reason.
    """

    folders: Mapping[str, Folder]
    ignored: Mapping[str, str]


class RepositoryFiles:
    """Reads a repository; keeps no descriptor open, so the root may be replaced at any time.

    Args:
        root: its directory, or a link to it.
        largest: size limit of one file, in bytes.
    """

    def __init__(self, root: Path, largest: int) -> None:
        self.root = root
        self._largest = largest

    def read(self, relative: str, largest: int | None = None) -> bytes:
        """The content of a regular file; its size is checked before it is read.

        Raises:
            OSError: it cannot be read.
            ValueError: a link leads out of the repository, or the file is not regular or too large.
        """
        largest = min(self._largest, largest or self._largest)
        try:
            with self._opened(relative) as descriptor:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError(f"{relative} is not a regular file")
                if status.st_size > largest:
                    raise ValueError(f"{relative} has {status.st_size} bytes; at most {largest} are read")
                with open(descriptor, "rb", closefd=False) as file:
                    content = file.read(largest + 1)
        except OSError as error:  # it names a component, not the whole path
            raise OSError(error.errno, error.strerror, relative) from error
        if len(content) > largest:
            raise ValueError(f"{relative} grew beyond {largest} bytes while it was read")
        return content

    def list(self) -> Listing:
        """Every model's directory, and the entries that are ignored.

        Raises:
            OSError: the root cannot be listed.
        """
        folders: dict[str, Folder] = {}
        ignored: dict[str, str] = {}
        with self._opened("") as root:
            for name in sorted(os.listdir(root)):
                if name.startswith("."):
                    continue
                if not MODEL_NAME.fullmatch(name):
                    ignored[name] = "a model cannot have this name"
                    continue
                try:
                    with self._opened(name) as descriptor:
                        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                            folders[name] = self._folder(name, descriptor)
                        else:
                            ignored[name] = "it is not a directory"
                except ValueError as error:
                    ignored[name] = str(error)
                except OSError as error:
                    folders[name] = Folder(problem=_reason(name, error))
        return Listing(folders, ignored)

    def _folder(self, name: str, descriptor: int) -> Folder:
        entries: list[Entry] = []
        versions: list[int] = []
        problem = ""
        for child in sorted(os.listdir(descriptor)):
            path = f"{name}/{child}"
            try:
                status = self._status(child, descriptor, path)
                if not stat.S_ISDIR(status.st_mode):
                    entries.append(_entry(child, status))
                elif VERSION_NAME.fullmatch(child):
                    versions.append(int(child))
                    with self._opened(path) as version:
                        for file in sorted(os.listdir(version)):
                            entries.append(_entry(f"{child}/{file}", self._status(file, version, f"{path}/{file}")))
            except FileNotFoundError:  # gone since it was listed, or a link to nothing
                continue
            except (OSError, ValueError) as error:
                problem = _reason(path, error)
        return Folder(tuple(sorted(versions)), tuple(entries), problem)

    def _status(self, name: str, directory: int, path: str) -> os.stat_result:
        """Status of a directory's entry; for a link, of its target."""
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            return status
        with self._opened(path) as descriptor:
            return os.fstat(descriptor)

    @contextmanager
    def _opened(self, relative: str) -> Iterator[int]:
        """A descriptor of a regular file or directory; nothing else is opened, since a FIFO would block."""
        chain = [os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        try:
            rest, links = relative.split("/")[::-1], 0
            while rest:
                part = rest.pop()
                if part in ("", "."):
                    continue
                if part == "..":
                    if len(chain) == 1:
                        raise ValueError(f"{relative} is a link that leads out of the repository")
                    os.close(chain.pop())
                    continue
                mode = os.stat(part, dir_fd=chain[-1], follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    links += 1
                    target = os.readlink(part, dir_fd=chain[-1])
                    if target.startswith("/"):
                        raise ValueError(f"{relative} is a link that leads out of the repository, to an absolute path")
                    if links > MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), relative)
                    rest += target.split("/")[::-1]
                elif stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                    # If it has been replaced meanwhile: O_NOFOLLOW refuses a link, O_NONBLOCK never waits for a FIFO.
                    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                    chain.append(os.open(part, flags, dir_fd=chain[-1]))
                else:
                    raise ValueError(f"{relative} is not a regular file")
            yield chain[-1]
        finally:
            for descriptor in chain:
                os.close(descriptor)


def _entry(path: str, status: os.stat_result) -> Entry:
    return path, status.st_size, status.st_mtime_ns, status.st_ino


def _reason(path: str, error: OSError | ValueError) -> str:
    return f"{path} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
