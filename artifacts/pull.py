"""Takes a release into a model repository: checked before any of it can be seen, and whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import ValidationError

from artifacts.card import Card
from artifacts.release import (
    CARD,
    SIGNATURE_SUFFIX,
    Manifest,
    Released,
    ReleaseError,
    check_card,
    first_fault,
    read_manifest,
    read_text,
    unpack,
)
from artifacts.sources import opened
from artifacts.versions import (
    CONFIG,
    VersionError,
    own_graphs,
    place,
    present_versions,
    read_config,
    same_tensors,
    serve_newest,
)

SIGNATURE_BYTES = 64
LONGEST_REASON = 500
# Servers pass over names with a dot.
_LOCK, _STAGING = ".pull.lock", ".pull-"


@dataclass(frozen=True)
class Pulled:
    """What a pull did.

    Args:
        models: what was asked for, and what that stands on.
        new: the folders that had not been there, `NAME/VERSION` each.
    """

    models: list[Released]
    new: list[str]


def pull(
    source: str,
    repository: Path,
    most_bytes: int,
    names: Collection[str] = (),
    is_signed: Callable[[bytes, bytes], bool] | None = None,
    authority: Path | None = None,
) -> Pulled:
    """Put the models of a release, or those that are named, into a repository, which is made if there is none.

    Versions that are there already stay, and if all are, no more than the manifest is fetched. A model's configuration
    stays as its operator wrote it; so a model that is pinned to some versions goes on with these.

    Args:
        source: a file or an address; the signature is beside it, with `.sig` after its path.
        most_bytes: of all files of the release together.
        is_signed: whether a signature, the second argument, is one of a manifest, the first.
        authority: as of `sources.opened`.

    Raises:
        ReleaseError: it is not a release, is damaged, too large or not signed, or contradicts what is there.
        OSError: the repository cannot be written to.
    """
    repository.mkdir(parents=True, exist_ok=True)
    with _alone(repository), opened(source, authority) as stream:
        try:
            text = read_text(stream)
            if is_signed and not is_signed(text, _signature(source, authority)):
                raise ReleaseError("it is not signed with the key that --public-key names")
            manifest = read_manifest(text)
            if manifest.size > most_bytes:
                raise ReleaseError(f"it has {manifest.size} bytes; at most {most_bytes} are taken (--most-bytes)")
            folders = manifest.folders_of(names)
            new = [folder for folder in folders if not _is_there(repository, manifest, folder)]
            if new:
                with tempfile.TemporaryDirectory(dir=repository, prefix=_STAGING) as staging:
                    unpack(stream, manifest, Path(staging), manifest.files_of(new))
                    _place(Path(staging), repository, manifest, new)
        except (ReleaseError, VersionError) as error:
            raise ReleaseError(f"{source} is not taken: {_printable(str(error))}") from None
    return Pulled([model for model in manifest.models if model.folder in folders], new)


@contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Let one pull after the other into a repository, and remove what one that was killed has left."""
    with (repository / _LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in repository.glob(f"{_STAGING}*"):
            shutil.rmtree(left)
        yield


def _signature(source: str, authority: Path | None) -> bytes:
    parts = urlsplit(source)
    beside = parts._replace(path=parts.path + SIGNATURE_SUFFIX) if parts.netloc else None
    with opened(urlunsplit(beside) if beside else source + SIGNATURE_SUFFIX, authority) as stream:
        return stream.read(SIGNATURE_BYTES + 1)


def _is_there(repository: Path, manifest: Manifest, folder: str) -> bool:
    """Whether a version is in place. Its configuration is its operator's, and is not compared.

    Raises:
        ReleaseError: another one of that number is.
    """
    if not (repository / folder).exists():
        return False
    for path, file in manifest.files.items():
        if path.startswith(f"{folder}/") and not path.endswith(f"/{CONFIG}"):
            try:
                with (repository / path).open("rb") as present:
                    same = hashlib.file_digest(present, "sha256").hexdigest() == file.sha256
            except FileNotFoundError:
                same = False
            if not same:
                raise ReleaseError(
                    f"{repository / folder} is there and differs in {path}; a version never changes: "
                    "release the models under a new version, or remove that directory"
                )
    return True


def _place(staging: Path, repository: Path, manifest: Manifest, new: Collection[str]) -> None:
    """Rename what has been unpacked into place: what a model stands on comes before it.

    Raises:
        ReleaseError: the files are no models that belong together.
    """
    cards = [_card(staging, model, manifest) for model in manifest.models if model.folder in new]
    order: TopologicalSorter[str] = TopologicalSorter()
    for model in manifest.models:
        order.add(model.name, *({_name(folder) for folder in model.folders} - {model.name}))
    for name in {_name(folder) for folder in new}:
        read_config(staging / name)
    try:
        names = [name for name in order.static_order() if (staging / name).exists()]
    except CycleError:
        raise ReleaseError("its models stand on each other") from None
    known = {name for name in names if (repository / name).exists()}
    for name in names:
        if name in known:
            _add_versions(staging / name, repository / name)
        else:
            (staging / name).rename(repository / name)
    for card in cards:
        policy = read_config(repository / card.name).version_policy.WhichOneof("policy_choice")
        if card.name in known and policy != "specific":  # which is how an operator pins a model
            serve_newest(repository, own_graphs(card), 1)


def _card(staging: Path, model: Released, manifest: Manifest) -> Card:
    try:
        card = Card.read(staging / model.folder / CARD)
    except ValidationError as error:
        raise ReleaseError(f"the card of {model.folder} is not valid: {first_fault(error)}") from None
    check_card(card, model, manifest)
    return card


def _add_versions(staged: Path, model: Path) -> None:
    """Add versions to a model that is there, each with the configuration that it was released with."""
    for version in present_versions(staged):
        own = staged / str(version)
        if not (own / CONFIG).exists() or same_tensors(read_config(own), read_config(staged)):
            shutil.copy(staged / CONFIG, own)
        place(own, model, version)


def _printable(text: str) -> str:
    """The beginning of a text, without what a terminal obeys: a stranger may have written it."""
    return "".join(c if c.isprintable() else "?" for c in text[:LONGEST_REASON])


def _name(folder: str) -> str:
    return folder.partition("/")[0]
