"""The model repository: which models and versions there are, in which state, and the graphs that answer for them.

A directory of the layout that NVIDIA Triton reads, with a `card.json` beside each model's forward graph. A model whose
card, config or graph is missing, corrupt or altered is taken out with a reason; the rest keep serving.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from weakref import WeakValueDictionary

from pydantic import ValidationError

from lectern.card import Card
from services import metrics
from services.errors import InvalidArgument, NotFound, Unavailable
from services.runtime.config import ConfigError, read_config
from services.runtime.external_data import refuse_external_data
from services.runtime.graph import Engine, EngineError, EngineUnavailableError, Graph

log = logging.getLogger(__name__)

CARD = "card.json"
GRAPH_FILE = "model.onnx"
ASSET_SUFFIX = ".json"
_VERSION = re.compile(r"[1-9][0-9]{0,9}")
Signature = tuple[bytes, tuple[int, ...]]


class State(Enum):
    """State of a version."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass
class Version:
    """One version of a model; READY with its card, graphs (by role) and assets (by file name), or UNAVAILABLE for a
    reason.

    A temporary reason is one that may go away by itself, so loading is tried again.
    """

    number: int
    state: State
    reason: str = ""
    card: Card | None = None
    graphs: dict[str, Graph] = field(default_factory=dict)
    assets: dict[str, bytes] = field(default_factory=dict)
    temporary: bool = False


@dataclass(frozen=True)
class Model:
    """A READY version, as services use it.

    Args:
        assets: content of what services read beside graphs, e.g. `tokenizer.json`, by name of the file.
    """

    card: Card
    graphs: Mapping[str, Graph]
    assets: Mapping[str, bytes]


class Repository:
    """Every model of `root` that belongs to one of `capabilities`.

    Args:
        root: the repository's directory.
        capabilities: names as in cards.
    """

    def __init__(self, root: Path, engine: Engine, capabilities: Collection[str]) -> None:
        self.root = root
        self._engine = engine
        self._capabilities = frozenset(capabilities)
        # Both are replaced, never changed, so that the event loop reads them while another thread loads a model.
        self.models: Mapping[str, Mapping[int, Version]] = {}
        self._graphs: Mapping[str, Mapping[int, Graph]] = {}
        self._seen: dict[str, Signature] = {}
        # By path, checksum and config: what several models stand on is loaded once, and freed with the last of them.
        self._shared: WeakValueDictionary[tuple[str, str, bytes], Graph] = WeakValueDictionary()

    def load(self) -> None:
        """Load everything, model by model; blocks for as long as that takes.

        Raises:
            FileNotFoundError: there is no such directory.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"there is no model repository at {self.root}: "
                "name one with --repository, or make one with `make train-export`"
            )
        for name in sorted(self._directories()):
            self._load(name)

    def find(self, name: str, version: int, *capabilities: str) -> Model:
        """The READY version of a model of one of the capabilities; 0 = latest.

        Raises:
            NotFound: unknown name or version. InvalidArgument: it belongs to another capability.
            Unavailable: it is there but does not answer.
        """
        versions = self.models.get(name)
        if versions is None:
            ready = ", ".join(n for n, vs in self.models.items() if _capability(vs) in capabilities) or "none"
            wanted = " or ".join(capabilities)
            raise NotFound.field("model", f"there is no model {name!r}; models for {wanted}: {ready}")
        found = _pick(name, versions, version)
        if found.state is not State.READY or found.card is None:
            raise Unavailable(f"model {name} version {found.number} does not answer: {found.reason}")
        if found.card.capability not in capabilities:
            raise InvalidArgument.field(
                "model", f"{name} serves the capability {found.card.capability}, not {' or '.join(capabilities)}"
            )
        return Model(found.card, found.graphs, found.assets)

    def graph(self, name: str, version: int) -> Graph:
        """A READY graph by its own name, whatever its model; 0 = latest.

        Raises:
            NotFound: unknown name or version. Unavailable: it is there but does not answer.
        """
        graphs = self._graphs.get(name, {})
        if version in graphs:
            return graphs[version]
        if version == 0 and graphs:
            return graphs[max(graphs)]
        if name in self.models:
            found = _pick(name, self.models[name], version)
            raise Unavailable(f"model {name} version {found.number} does not answer: {found.reason}")
        if graphs:
            raise NotFound.field("model_version", f"model {name!r} has no version {version}; it has: {sorted(graphs)}")
        raise NotFound.field("model_name", f"there is no model {name!r}; there are: {', '.join(sorted(self._graphs))}")

    def refresh(self) -> None:
        """Load models and versions that are new on disk, and drop those that are gone; blocks while it loads."""
        present = self._directories()
        for name in present | self.models.keys():
            if self._signature(name) != self._seen.get(name):
                self._load(name)

    def load_model(self, name: str) -> None:
        """Load a model that was unloaded, or its new versions; those that serve now go on until the new ones answer.

        Raises:
            NotFound: the repository has no directory of that name.
        """
        # Only a name that is listed is joined to the path, so no name leads out of the repository.
        if name not in self._directories():
            raise NotFound.field("model_name", f"the repository has no model {name!r}")
        self._load(name)

    def unload_model(self, name: str) -> None:
        """Stop answering for a model, finish what is queued, and free its sessions.

        Raises:
            NotFound: there is no such model.
        """
        if name not in self.models:
            raise NotFound.field("model_name", f"there is no model {name!r}")
        self._publish(
            name, {n: Version(n, State.UNAVAILABLE, "unloaded", v.card) for n, v in self.models[name].items()}
        )

    def close(self, seconds: float) -> None:
        """Let every graph finish what is queued, for so long each at most."""
        for versions in self._graphs.values():
            for graph in versions.values():
                graph.close(seconds)

    def graphs(self) -> Iterator[tuple[str, int]]:
        """Name and version of every READY graph."""
        return ((name, version) for name, versions in sorted(self._graphs.items()) for version in sorted(versions))

    async def any_healthy(self, *capabilities: str) -> bool:
        """Whether any model, of one of the capabilities if any are named, answers now."""
        for version in (v for versions in self.models.values() for v in versions.values()):
            if version.state is not State.READY or version.card is None:
                continue
            serves = not capabilities or version.card.capability in capabilities
            if serves and all([await graph.healthy() for graph in version.graphs.values()]):
                return True
        return False

    def _publish(self, name: str, versions: Mapping[int, Version]) -> None:
        """Answer with `versions` from now on. What they replace frees itself when its last caller has its answer."""
        replaced = self.models.get(name, {})
        models = {**self.models, name: versions}
        if not versions:
            del models[name]
        graphs: dict[str, dict[int, Graph]] = {}
        for version in (v for vs in models.values() for v in vs.values()):
            for graph in version.graphs.values():
                graphs.setdefault(graph.config.name, {})[graph.version] = graph
        self.models, self._graphs = models, graphs
        for number in replaced.keys() | versions.keys():
            ready = number in versions and versions[number].state is State.READY
            metrics.MODEL_READY.labels(name, str(number)).set(ready)

    def _directories(self) -> set[str]:
        """Names of directories that are models of their own, not a further graph of another."""
        names = {p.name for p in self.root.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != "."}
        with_card = {p.parent.parent.name for p in self.root.glob(f"*/*/{CARD}")}
        return {n for n in names if n in with_card or not any(n.startswith(f"{owner}_") for owner in with_card)}

    def _signature(self, name: str) -> Signature | None:
        """What changes when there is something to load: the config's bytes and the versions present."""
        try:
            config = (self.root / name / "config.pbtxt").read_bytes()
        except OSError:
            config = b""
        directory = self.root / name
        return (config, _numbers(directory)) if directory.is_dir() else None

    def _load(self, name: str) -> None:
        signature, before = self._signature(name), self._seen.get(name)
        if signature is None:
            self._publish(name, {})
            self._seen.pop(name, None)
            return
        # A version is immutable, so one that answers is kept unless it must be served in another way.
        same_config = before is not None and before[0] == signature[0]
        keep = {n: v for n, v in self.models.get(name, {}).items() if same_config and v.state is State.READY}
        versions = self._load_versions(name, signature[1], keep)
        for number, version in versions.items():
            known = self.models.get(name, {}).get(number)
            if version.reason and (known is None or known.reason != version.reason):
                outcome = "is out of service" if version.state is State.UNAVAILABLE else "is"
                log.error("model %s version %d %s: %s", name, number, outcome, version.reason)
        self._publish(name, versions)
        if any(version.temporary for version in versions.values()):
            self._seen.pop(name, None)
        else:
            self._seen[name] = signature

    def _load_versions(self, name: str, numbers: Sequence[int], keep: Mapping[int, Version]) -> dict[int, Version]:
        """The versions that the policy asks for; an older one stands in for a newer one that cannot be loaded."""
        try:
            candidates, wanted = read_config(self.root / name).versions_to_serve(numbers)
        except ConfigError as error:
            serving = {n: v for n, v in self.models.get(name, {}).items() if v.state is State.READY}
            if serving:
                return {n: replace(v, reason=f"served as before, for {error}") for n, v in serving.items()}
            number = max(numbers, default=1)
            return {number: Version(number, State.UNAVAILABLE, str(error))}
        if not candidates:
            return {1: Version(1, State.UNAVAILABLE, "there is no version to serve")}
        versions: dict[int, Version] = {}
        for number in candidates:
            if sum(v.state is State.READY for v in versions.values()) == wanted:
                break
            version = keep.get(number) or self._load_version(name, number)
            if version.card and version.card.capability not in self._capabilities:
                return {}
            versions[number] = version
        return versions

    def _load_version(self, name: str, number: int) -> Version:
        """Read, verify and warm up one version; of a capability that is not served here, only the card is read."""
        started = time.monotonic()
        card = None
        try:
            card = _read_card(self.root / name / str(number) / CARD, name, number)
            if card.capability not in self._capabilities:
                return Version(number, State.UNAVAILABLE, "not served here", card)
            graphs = {role: self._load_graph(card, graph_name) for role, graph_name in card.graphs.items()}
            assets = {Path(path).name: self._read(card, path) for path in card.files if path.endswith(ASSET_SUFFIX)}
        except (ConfigError, EngineError, OSError, ValueError) as error:
            temporary = isinstance(error, EngineUnavailableError)
            return Version(number, State.UNAVAILABLE, str(error), card, temporary=temporary)
        log.info("loaded %s version %d in %.2f s", name, number, time.monotonic() - started)
        return Version(number, State.READY, "", card, graphs, assets)

    def _load_graph(self, card: Card, graph_name: str) -> Graph:
        """A graph of the card's; one that another model has loaded already is shared with it."""
        config = read_config(self.root / graph_name)
        version = _version_of(card, graph_name)
        relative = f"{graph_name}/{version}/{GRAPH_FILE}"
        content = self._read(card, relative)
        try:
            refuse_external_data(content)
        except ValueError as error:
            raise ValueError(f"{relative}: {error}") from None
        key = (relative, card.files[relative], config.message.SerializeToString(deterministic=True))
        graph = self._shared.get(key)
        if graph is None:
            graph = self._shared[key] = self._engine.load(config, version, content)
            metrics.MODEL_INFO.labels(graph_name, str(version), self._engine.name, graph.provider).set(1)
        return graph

    def _read(self, card: Card, relative: str) -> bytes:
        """A file that the card gives the checksum of; nothing parses it before that is known to be right.

        Raises:
            OSError: it cannot be read. ValueError: it lies outside the repository, or is not what the card says.
        """
        path = (self.root / relative).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"{relative} is a link that leads out of the repository")
        content = path.read_bytes()
        expected = card.files.get(relative)
        if expected is None:
            raise ValueError(f"{CARD} has no checksum for {relative}")
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise ValueError(f"{relative} has SHA-256 {found[:12]}…, its card says {expected[:12]}…")
        return content


def _numbers(directory: Path) -> tuple[int, ...]:
    """The version directories, from 1."""
    return tuple(sorted(int(p.name) for p in directory.iterdir() if p.is_dir() and _VERSION.fullmatch(p.name)))


def _version_of(card: Card, graph_name: str) -> int:
    """The version of a graph that the card has a checksum of: the card's own, unless the graph is another model's."""
    own = f"{graph_name}/{card.version}/{GRAPH_FILE}"
    listed = [path for path in card.files if path.startswith(f"{graph_name}/") and path.endswith(f"/{GRAPH_FILE}")]
    return card.version if own in listed or not listed else int(listed[0].split("/")[1])


def _read_card(path: Path, name: str, number: int) -> Card:
    try:
        card = Card.read(path)
    except FileNotFoundError:
        raise ValueError(f"{CARD} is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{CARD} is not valid: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if (card.name, card.version) != (name, number):
        raise ValueError(f"{CARD} is of {card.name} version {card.version}, its directory is {name}/{number}")
    return card


def _pick(name: str, versions: Mapping[int, Version], wanted: int) -> Version:
    if wanted:
        if wanted not in versions:
            raise NotFound.field("version", f"model {name!r} has no version {wanted}; it has: {sorted(versions)}")
        return versions[wanted]
    ready = [v for v in versions.values() if v.state is State.READY]
    return max(ready or versions.values(), key=lambda v: v.number)


def _capability(versions: Mapping[int, Version]) -> str | None:
    return next((v.card.capability for v in versions.values() if v.card), None)
