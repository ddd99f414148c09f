"""Loads the versions of one model: reads, verifies and warms them up. Runs on threads; its only shared state is the
table of graphs that several models use.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from weakref import WeakValueDictionary

from pydantic import ValidationError

from artifacts.card import Card
from artifacts.versions import versions_to_serve
from services import metrics
from services.runtime.axes import with_longest
from services.runtime.completion import completed
from services.runtime.config import ConfigError, config_of, parse_config, parse_message
from services.runtime.external_data import refuse_external_data
from services.runtime.files import Folder, RepositoryFiles
from services.runtime.fit import check_fit
from services.runtime.graph import Engine, EngineError, EngineUnavailableError, Graph

log = logging.getLogger(__name__)

CARD = "card.json"
CONFIG = "config.pbtxt"
GRAPH_FILE = "model.onnx"
ASSET_SUFFIX = ".json"
TEXT_BYTES = 16 * 2**20  # the largest card or config
GraphKey = tuple[str, str, bytes, tuple[int, ...]]


class State(Enum):
    """State of a version."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass
class Version:
    """One version of a model: READY with its card, graphs (by role) and assets (by file name), or UNAVAILABLE for a
    reason. A bare model has no card: its graph answers the Open Inference Protocol alone.

    Args:
        sha256: of a bare model's graph.
        configs: content of each graph's config at the time of loading, by the graph's name.
        temporary: whether the reason may disappear without a change of files.
    """

    number: int
    state: State
    reason: str = ""
    card: Card | None = None
    graphs: dict[str, Graph] = field(default_factory=dict)
    assets: dict[str, bytes] = field(default_factory=dict)
    configs: dict[str, bytes] = field(default_factory=dict)
    temporary: bool = False
    sha256: str = ""


class _GraphTable:
    """Graphs by path, checksum, config and longest lengths. A graph that several models use is loaded once, and freed
    with the last of them."""

    def __init__(self) -> None:
        self._graphs: WeakValueDictionary[GraphKey, Graph] = WeakValueDictionary()
        self._locks: WeakValueDictionary[GraphKey, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()

    def get(self, key: GraphKey, load: Callable[[], Graph]) -> Graph:
        """The graph of that key, loaded if it is missing; other threads that need the same graph wait for it."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            graph = self._graphs.get(key)
            if graph is None:
                graph = self._graphs[key] = load()
        return graph


class Loader:
    """Loads models of some capabilities from a repository.

    Args:
        capabilities: names as in cards. Only the card is read of models of other capabilities.
        lazy: roles of the graphs that are loaded by their first call, where the engine can.
        steady_seconds: a graph without a card is complete if nobody has written to it for so long; None = no model
            without a card is served.
    """

    def __init__(
        self,
        files: RepositoryFiles,
        engine: Engine,
        capabilities: Collection[str],
        lazy: Collection[str] = (),
        steady_seconds: float | None = None,
    ) -> None:
        self.files = files
        self.engine = engine
        self._capabilities = frozenset(capabilities)
        self._lazy = frozenset(lazy)
        self._steady_seconds = steady_seconds
        self._graphs = _GraphTable()

    def load(
        self, name: str, folder: Folder, serving: Mapping[int, Version], had_card: bool = False
    ) -> dict[int, Version]:
        """Load the versions that a model's policy asks for; an older version stands in for a newer one that fails.

        Args:
            had_card: whether a version of it had a card, so that one without is damaged.
            serving: READY versions. A version is immutable, so it is kept unless one of its configs has changed.

        Returns:
            The versions by number, each failure as a version's reason; empty if the model is of another capability.
        """
        if is_bare(folder) and not had_card:
            return {} if self._steady_seconds is None else self._load_bare(name, folder, serving, self._steady_seconds)
        serving = {number: version for number, version in serving.items() if version.card is not None}
        try:
            config = parse_config(name, self.files.read(f"{name}/{CONFIG}", TEXT_BYTES))
        except Exception as error:  # an unforeseen file must not affect more than this model
            reason = folder.problem or _reason(error)
            if serving:
                return {n: replace(v, reason=f"served as before, for {reason}") for n, v in serving.items()}
            number = max(folder.versions, default=1)
            return {number: Version(number, State.UNAVAILABLE, reason)}
        candidates, wanted = config.versions_to_serve(folder.versions)
        if not candidates:
            return {1: Version(1, State.UNAVAILABLE, folder.problem or "there is no version to serve")}
        versions: dict[int, Version] = {}
        for number in candidates:
            if sum(v.state is State.READY for v in versions.values()) == wanted:
                break
            kept = serving.get(number)
            version = replace(kept, reason="") if kept and self._unchanged(kept) else self._load_version(name, number)
            if kept and version.state is not State.READY:  # with its new config
                version = replace(kept, reason=f"served as before, for {version.reason}")
            if version.card and version.card.capability not in self._capabilities:
                return {}
            versions[number] = version
        return versions

    def _unchanged(self, version: Version) -> bool:
        """Whether the configs of its graphs are as they were; one that cannot be read counts as unchanged."""
        for graph_name, content in version.configs.items():
            try:
                if self.files.read(f"{graph_name}/{CONFIG}", TEXT_BYTES) != content:
                    return False
            except (OSError, ValueError):
                continue
        return True

    def _load_version(self, name: str, number: int) -> Version:
        started = time.monotonic()
        version = Version(number, State.UNAVAILABLE)
        try:
            version.card = card = self._card(name, number)
            if card.capability not in self._capabilities:
                return version
            forward = card.graphs["forward"]
            check_fit(card, parse_config(forward, self.files.read(f"{forward}/{CONFIG}", TEXT_BYTES)))
            graphs = {role: self._load_graph(version, card, role) for role in card.graphs}
            version.assets = {
                path.rpartition("/")[2]: self._verified(card, path)
                for path in card.files
                if path.endswith(ASSET_SUFFIX)
            }
        except Exception as error:
            version.reason, version.temporary = _reason(error), isinstance(error, EngineUnavailableError)
            return version
        version.graphs, version.state = graphs, State.READY
        log.info("loaded %s version %d in %.2f s", name, number, time.monotonic() - started)
        return version

    def _load_bare(
        self, name: str, folder: Folder, serving: Mapping[int, Version], steady: float
    ) -> dict[int, Version]:
        """Load the versions of a model without a card, as `load` does."""
        try:
            config = parse_message(self._config_or_nothing(name))
            candidates, wanted = versions_to_serve(config, folder.versions)
        except Exception as error:
            return {max(folder.versions): Version(max(folder.versions), State.UNAVAILABLE, _reason(error))}
        loaded = {
            n: self._load_bare_version(name, n, serving.get(n), _age(folder, f"{n}/{GRAPH_FILE}") >= steady)
            for n in candidates[:wanted]
        }
        return loaded or {1: Version(1, State.UNAVAILABLE, "there is no version to serve")}

    def _load_bare_version(self, name: str, number: int, kept: Version | None, is_steady: bool) -> Version:
        version = Version(number, State.UNAVAILABLE)
        try:
            if not is_steady:
                raise EngineUnavailableError(f"{number}/{GRAPH_FILE} is new: it may still be being copied")
            content, settings = self.files.read(f"{name}/{number}/{GRAPH_FILE}"), self._config_or_nothing(name)
            version.sha256, version.configs = hashlib.sha256(content).hexdigest(), {name: settings}
            if kept and (kept.sha256, kept.configs) == (version.sha256, version.configs):
                return kept
            refuse_external_data(content)
            config = config_of(name, completed(parse_message(settings), name, content))
            version.graphs = {"forward": self.engine.load(config, number, content, None)}
        except Exception as error:
            version.reason, version.temporary = _reason(error), isinstance(error, EngineUnavailableError)
            return replace(kept, reason=f"served as before, for {version.reason}") if kept else version
        version.state = State.READY
        log.info("loaded %s version %d, which has no card", name, number)
        return version

    def _config_or_nothing(self, name: str) -> bytes:
        try:
            return self.files.read(f"{name}/{CONFIG}", TEXT_BYTES)
        except FileNotFoundError:
            return b""

    def _card(self, name: str, number: int) -> Card:
        try:
            card = Card.model_validate_json(self.files.read(f"{name}/{number}/{CARD}", TEXT_BYTES))
        except FileNotFoundError:
            raise ValueError(f"{CARD} is missing") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{CARD} is not valid: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if (card.name, card.version) != (name, number):
            raise ValueError(f"{CARD} is of {card.name} version {card.version}, its directory is {name}/{number}")
        return card

    def _load_graph(self, version: Version, card: Card, role: str) -> Graph:
        """The graph that the card names for this role, shared with other models that use it."""
        graph_name = card.graphs[role]
        content = version.configs[graph_name] = self.files.read(f"{graph_name}/{CONFIG}", TEXT_BYTES)
        config = with_longest(parse_config(graph_name, content), card.preprocessing)
        number = _version_of(card, graph_name)
        relative = f"{graph_name}/{number}/{GRAPH_FILE}"
        graph = self._verified(card, relative)
        try:
            refuse_external_data(graph)
        except ValueError as error:
            raise ValueError(f"{relative}: {error}") from None
        message = config.message.SerializeToString(deterministic=True)
        key = (relative, card.files[relative], message, tuple(spec.longest for spec in config.inputs))
        read_again = partial(self._read_again, card, relative) if role in self._lazy else None
        loaded = self._graphs.get(key, partial(self.engine.load, config, number, graph, read_again))
        if loaded.provider:
            metrics.MODEL_INFO.labels(graph_name, str(number), self.engine.name, loaded.provider).set(1)
        return loaded

    def _read_again(self, card: Card, relative: str) -> bytes:
        """As `_verified`, for an engine."""
        try:
            return self._verified(card, relative)
        except (OSError, ValueError) as error:
            raise EngineError(_reason(error)) from error

    def _verified(self, card: Card, relative: str) -> bytes:
        """The content of a file, after its checksum in the card has been verified and before anything parses it."""
        content = self.files.read(relative)
        expected = card.files.get(relative)
        if expected is None:
            raise ValueError(f"{CARD} has no checksum for {relative}")
        if hashlib.sha256(content).hexdigest() != expected:
            # The message leaves out the actual checksum, so that a file being copied has one reason and not many.
            raise ValueError(f"{relative} does not have the SHA-256 that its card says: altered, or still being copied")
        return content


def is_bare(folder: Folder) -> bool:
    """Whether a directory has graphs and no card."""
    files = {path.rpartition("/")[2] for path, *_ in folder.entries}
    return GRAPH_FILE in files and CARD not in files and bool(folder.versions)


def _age(folder: Folder, path: str) -> float:
    """Seconds since a file was written; one that was written in the future, by another clock, is old."""
    written = [mtime for of, _, mtime, _ in folder.entries if of == path]
    age = time.time() - max(written, default=0) / 1e9
    return age if age >= 0 else float("inf")


def _version_of(card: Card, graph_name: str) -> int:
    """The version of a graph for which the card has a checksum: the card's own, unless another model owns the graph."""
    own = f"{graph_name}/{card.version}/{GRAPH_FILE}"
    listed = [path for path in card.files if path.startswith(f"{graph_name}/") and path.endswith(f"/{GRAPH_FILE}")]
    return card.version if own in listed or not listed else int(listed[0].split("/")[1])


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is missing"
    if isinstance(error, OSError):
        return f"{error.filename} cannot be read: {error.strerror}"
    if isinstance(error, (ConfigError, EngineUnavailableError, ValueError, RuntimeError)):
        return str(error)
    log.error("loading failed", exc_info=error)
    return f"{type(error).__name__}: {error}"
