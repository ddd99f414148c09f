"""A release: models in one file that anybody can check, and that is the same bytes whoever makes it of the same models.

It is a plain tar of regular files, `manifest.json` first, then what the manifest lists, in its order. The manifest has
the SHA-256 and size of each file, so its signature is one of everything, and is checked before any other byte is used.
It is not compressed, which would save 15 %: so a small file cannot become a large one, and no version of zlib matters.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Protocol, Self

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from artifacts.card import Card, Name, Sha256
from artifacts.versions import CONFIG, read_card, served_versions

MANIFEST, CARD = "manifest.json", "card.json"
SIGNATURE_SUFFIX = ".sig"
MANIFEST_BYTES = 4 * 2**20
MOST_FILES = 10_000
_CHUNK = 2**20
_NAME, _VERSION = "[a-z][a-z0-9_]*", "[1-9][0-9]{0,9}"
# No other path is written, so none leads out of a repository. 100 characters fit a header of tar.
Folder = Annotated[str, Field(pattern=f"^{_NAME}/{_VERSION}$")]
FilePath = Annotated[
    str, Field(pattern=rf"^{_NAME}/(config\.pbtxt|{_VERSION}/[A-Za-z0-9][A-Za-z0-9._-]*)$", max_length=100)
]


class ReleaseError(ValueError):
    """A release cannot be made, or is not to be trusted; the message says why."""


class Stream(Protocol):
    """Where an archive is read from; `read` may give less than it is asked for."""

    def read(self, size: int, /) -> bytes: ...


class File(BaseModel, extra="forbid", frozen=True):
    """What a file of a release must be; the size is in bytes."""

    sha256: Sha256
    size: NonNegativeInt


class Released(BaseModel, extra="forbid", frozen=True):
    """A version of a model, where it came from, and the folders of the graphs and texts that it needs, its own among
    them."""

    name: Name
    version: PositiveInt
    title: str
    trained: str
    commit: str
    folders: tuple[Folder, ...]

    @property
    def folder(self) -> str:
        return f"{self.name}/{self.version}"


class Manifest(BaseModel, extra="forbid", frozen=True):
    """What is in a release. It has no date, so that the same models are the same bytes."""

    format: Literal[1]
    made_by: str
    models: Annotated[tuple[Released, ...], Field(min_length=1)]
    files: Annotated[dict[FilePath, File], Field(max_length=MOST_FILES)]

    @model_validator(mode="after")
    def _nothing_is_missing_and_nothing_else_is_there(self) -> Self:
        folders = {folder for model in self.models for folder in model.folders}
        wanted = folders | {_name(folder) for folder in folders}
        if wanted != {path.rpartition("/")[0] for path in self.files}:
            raise ValueError("files must be those of the models' folders, and of each the configuration")
        for model in self.models:
            if model.folder not in folders or f"{model.folder}/{CARD}" not in self.files:
                raise ValueError(f"files must hold the card of {model.folder}")
        return self

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def files_of(self, folders: Collection[str]) -> dict[str, File]:
        """The files of these folders, and the configurations of their models."""
        wanted = {*folders, *map(_name, folders)}
        return {path: file for path, file in self.files.items() if path.rpartition("/")[0] in wanted}

    def folders_of(self, names: Collection[str]) -> list[str]:
        """The folders that these models need, with those of the models that they stand on; of all models if none is
        named.

        Raises:
            ReleaseError: the release has no such model.
        """
        present = {model.name for model in self.models}
        if unknown := sorted(set(names) - present):
            raise ReleaseError(f"the release has no {' or '.join(unknown)}; it has: {', '.join(sorted(present))}")
        by_folder = {model.folder: model for model in self.models}
        waiting = [model.folder for model in self.models if not names or model.name in names]
        found: set[str] = set()
        while waiting:
            if (folder := waiting.pop()) not in found:
                found.add(folder)
                waiting += by_folder[folder].folders if folder in by_folder else ()
        return sorted(found)


def publish(directory: Path, archive: Path, made_by: str, sign: Callable[[bytes], bytes] | None = None) -> Manifest:
    """Write a release of a model, or of every model of a repository: the versions that are served, and what they need.

    The archive appears complete or not at all. With `sign`, which takes the manifest, its signature is written to a
    file beside it, whose name ends in `.sig`.

    Args:
        directory: of one model, or of models.
        made_by: the program and its version.

    Raises:
        ReleaseError: a model is not complete. VersionError: a card or a configuration cannot be read.
        OSError: a file cannot be read or written.
    """
    directory = Path(os.path.abspath(directory))  # `.` has no name
    one = (directory / CONFIG).is_file()
    repository = directory.parent if one else directory
    names = [directory.name] if one else sorted(path.parts[-3] for path in directory.glob(f"*/[1-9]*/{CARD}"))
    try:
        models = _models(repository, dict.fromkeys(names))
        folders = {folder for model in models for folder in model.folders}
        paths = sorted(path for name in {*folders, *map(_name, folders)} for path in _files(repository, name))
        files = {path: _summed(repository / path) for path in paths}
        manifest = Manifest(format=1, made_by=made_by, models=tuple(models), files=files)
    except ValidationError as error:
        raise ReleaseError(f"{directory} cannot be released: {first_fault(error)}") from None
    for model in models:
        check_card(read_card(repository / model.name, model.version), model, manifest)
    text = manifest.model_dump_json(indent=2).encode() + b"\n"
    signature = archive.with_name(archive.name + SIGNATURE_SUFFIX)
    partial = archive.with_name(f".{archive.name}.partial")
    try:
        _write(partial, text, {path: repository / path for path in files})
        with partial.open("rb") as stream:  # a file may have changed meanwhile
            unpack(stream, read_manifest(read_text(stream)), None, ())
        signature.unlink(missing_ok=True)  # of what the archive was
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    if sign:
        signature.write_bytes(sign(text))
    return manifest


def read_text(stream: Stream) -> bytes:
    """The manifest at the head of an archive, which nobody has checked yet.

    Raises:
        ReleaseError: it has none.
    """
    size = _header(stream, MANIFEST)
    if size > MANIFEST_BYTES:
        raise ReleaseError(f"its manifest has {size} bytes; at most {MANIFEST_BYTES} are read")
    return b"".join(_content(stream, MANIFEST, size))


def read_manifest(text: bytes) -> Manifest:
    """What a manifest says.

    Raises:
        ReleaseError: it is not one.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ReleaseError(f"its manifest is not valid: {first_fault(error)}") from None


def unpack(stream: Stream, manifest: Manifest, target: Path | None, wanted: Collection[str]) -> None:
    """Check the rest of an archive against its manifest, and write the wanted paths below `target`.

    Raises:
        ReleaseError: it is not what the manifest says, or ends early; what has been written is not to be used then.
    """
    for path, file in manifest.files.items():
        if (size := _header(stream, path)) != file.size:
            raise ReleaseError(f"{path} has {size} bytes, its manifest says {file.size}")
        out: BinaryIO | None = None
        if target and path in wanted:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            out = (target / path).open("xb")
        try:
            sha256 = hashlib.sha256()
            for chunk in _content(stream, path, size):
                sha256.update(chunk)
                if out:
                    out.write(chunk)
            if sha256.hexdigest() != file.sha256:
                raise ReleaseError(f"{path} does not have the SHA-256 that its manifest says")
            if out:  # a power cut must not leave a file empty that is in place
                out.flush()
                os.fsync(out.fileno())
        finally:
            if out:
                out.close()
    if _read(stream, tarfile.BLOCKSIZE).strip(b"\0"):
        raise ReleaseError("it has more in it than its manifest says")


def check_card(card: Card, model: Released, manifest: Manifest) -> None:
    """See that the files are those that a model's card means.

    Raises:
        ReleaseError: they are not.
    """
    if (card.name, card.version) != (model.name, model.version):
        raise ReleaseError(f"the card of {model.folder} is of {card.name} version {card.version}")
    if _folders(card) != model.folders:
        raise ReleaseError(f"the manifest and the card of {model.folder} do not name the same folders")
    for path, sha256 in card.files.items():
        if path not in manifest.files or manifest.files[path].sha256 != sha256:
            raise ReleaseError(f"{path} is missing, or does not have the SHA-256 that the card of {model.folder} says")


def _models(repository: Path, names: Iterable[str]) -> list[Released]:
    """The served versions of these models, and of those that they stand on the versions that they need."""
    waiting = [(name, version) for name in names for version in served_versions(repository / name)]
    found: dict[str, Released] = {}
    while waiting:
        name, version = waiting.pop()
        if (folder := f"{name}/{version}") in found:
            continue
        if not (repository / folder / CARD).is_file():
            raise ReleaseError(f"{repository / folder} has no {CARD}: name the model that the graph belongs to")
        card = read_card(repository / name, version)
        found[folder] = Released(
            name=name,
            version=version,
            title=card.title,
            trained=card.training.command if card.training else "",
            commit=card.training.commit if card.training else "",
            folders=_folders(card),
        )
        others = (Path(other) for other in found[folder].folders if other != folder)
        waiting += [(o.parent.name, int(o.name)) for o in others if (repository / o / CARD).is_file()]
    if not found:
        raise ReleaseError(f"{repository} has no model that is served")
    return [found[folder] for folder in sorted(found)]


def _folders(card: Card) -> tuple[str, ...]:
    """The folders that a card names files of, its own among them."""
    return tuple(sorted({path.rpartition("/")[0] for path in card.files} | {f"{card.name}/{card.version}"}))


def _name(folder: str) -> str:
    return folder.partition("/")[0]


def _files(repository: Path, folder: str) -> list[str]:
    """The files of a version's folder; of a model's, its configuration alone."""
    if "/" not in folder:
        return [f"{folder}/{CONFIG}"]
    return [f"{folder}/{name}" for name in os.listdir(repository / folder) if not name.startswith(".")]


def _summed(path: Path) -> File:
    if path.is_symlink() or not path.is_file():
        raise ReleaseError(f"{path} is not a regular file, which is all that a release can hold")
    with path.open("rb") as file:
        return File(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)


def _write(archive: Path, manifest: bytes, files: Mapping[str, Path]) -> None:
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, MANIFEST, len(manifest), io.BytesIO(manifest))
        for path, source in files.items():
            with source.open("rb") as file:
                _add(tar, path, os.fstat(file.fileno()).st_size, file)


def _add(tar: tarfile.TarFile, path: str, size: int, file: BinaryIO) -> None:
    """Add a file without owner and date, which would differ from one machine to the next."""
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, 0o644
    tar.addfile(entry, file)


def _header(stream: Stream, path: str) -> int:
    """The size of the next file, which must be that one: neither a link nor anything else that tar knows."""
    block = _read(stream, tarfile.BLOCKSIZE)
    try:
        entry = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError):
        raise ReleaseError(f"it is no release, or is cut off or damaged before {path}") from None
    if (entry.name, entry.type) != (path, tarfile.REGTYPE):
        raise ReleaseError(f"it has {entry.name!a} (type {entry.type!r}) where the file {path} is to be")
    return entry.size


def _content(stream: Stream, path: str, size: int) -> Iterable[bytes]:
    """The content of a file, in parts; the padding after it is skipped."""
    for start in range(0, size, _CHUNK):
        length = min(_CHUNK, size - start)
        if len(chunk := _read(stream, length)) < length:
            raise ReleaseError(f"it is cut off in {path}")
        yield chunk
    _read(stream, -size % tarfile.BLOCKSIZE)


def _read(stream: Stream, size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    content = b""
    while len(content) < size and (more := stream.read(size - len(content))):
        content += more
    return content


def first_fault(error: ValidationError) -> str:
    """The first of what is wrong, and where."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
