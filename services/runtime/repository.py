"""The model repository: which models and versions there are, in which state, and the graphs that answer for them.

A directory of the layout that NVIDIA Triton reads, with a `card.json` beside each model's forward graph. A model whose
card, config or graph is missing, corrupt or altered is taken out with a reason; the rest keep serving.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from lectern.card import Card
from services import metrics
from services.errors import InvalidArgument, NotFound, Unavailable
from services.runtime.config import ConfigError, GraphConfig, read_config
from services.runtime.engine import Array, EngineError, OnnxEngine, Runner
from services.runtime.scheduler import Scheduler

log = logging.getLogger(__name__)

CARD = "card.json"
GRAPH_FILE = "model.onnx"


class State(Enum):
    """State of a version."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


class Graph:
    """A loaded ONNX graph with its scheduler."""

    def __init__(self, config: GraphConfig, version: int, engine: OnnxEngine, content: bytes) -> None:
        self.config = config
        self.version = version
        runners = [engine.load(content) for _ in range(config.instances)]
        _check_tensors(config, runners[0].inputs, runners[0].outputs)
        for runner in runners:
            _warm_up(config, runner)
        self._scheduler = Scheduler(config, version, runners)
        metrics.MODEL_INFO.labels(config.name, str(version), engine.name, runners[0].provider).set(1)

    async def infer(self, inputs: Mapping[str, Array], deadline: float = float("inf")) -> dict[str, Array]:
        """Outputs by name for inputs by name, each with the batch first; checked by the caller.

        Args:
            deadline: in `time.monotonic()` seconds.

        Raises:
            ServiceError: see `Scheduler.run`.
        """
        answer = await self._scheduler.run(tuple(inputs[t.name] for t in self.config.inputs), deadline)
        return dict(zip((t.name for t in self.config.outputs), answer, strict=True))

    def close(self) -> None:
        """Finish what is queued and free the sessions."""
        self._scheduler.close()


@dataclass
class Version:
    """One version of a model; `card` and `graphs` (by role) are there once it is READY."""

    number: int
    state: State = State.LOADING
    reason: str = ""
    card: Card | None = None
    graphs: dict[str, Graph] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A READY version, as services use it."""

    card: Card
    graphs: Mapping[str, Graph]


class Repository:
    """Every model of `root` that belongs to one of `capabilities`.

    Args:
        root: the repository's directory.
        capabilities: names as in cards.
    """

    def __init__(self, root: Path, engine: OnnxEngine, capabilities: Collection[str]) -> None:
        self.root = root
        self._engine = engine
        self._capabilities = frozenset(capabilities)
        # Both are replaced, never changed, so that the event loop reads them while another thread loads a model.
        self.models: Mapping[str, Mapping[int, Version]] = {}
        self._graphs: Mapping[str, Mapping[int, Graph]] = {}

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
        for directory in sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if not self._is_part_of_another(directory.name):
                self.load_model(directory.name)

    def find(self, name: str, version: int, capability: str) -> Model:
        """The READY version of a model; 0 = latest.

        Raises:
            NotFound: unknown name or version. InvalidArgument: it belongs to another capability.
            Unavailable: it is there but does not answer.
        """
        versions = self.models.get(name)
        if versions is None:
            ready = ", ".join(n for n, vs in self.models.items() if _capability(vs) == capability) or "none"
            raise NotFound.field("model", f"there is no model {name!r}; models for {capability}: {ready}")
        found = _pick(name, versions, version)
        if found.state is not State.READY or found.card is None:
            raise Unavailable(f"model {name} version {found.number} does not answer: {found.reason or 'loading'}")
        if found.card.capability != capability:
            raise InvalidArgument.field(
                "model", f"{name} serves the capability {found.card.capability}, not {capability}"
            )
        return Model(found.card, found.graphs)

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
            raise Unavailable(f"model {name} version {found.number} does not answer: {found.reason or 'loading'}")
        if graphs:
            raise NotFound.field("model_version", f"model {name!r} has no version {version}; it has: {sorted(graphs)}")
        raise NotFound.field("model_name", f"there is no model {name!r}; there are: {', '.join(sorted(self._graphs))}")

    def load_model(self, name: str) -> None:
        """Load a model, or load it anew: the versions that serve now go on until the new ones answer.

        Raises:
            NotFound: the repository has no directory of that name.
        """
        # Only a name that is listed is joined to the path, so no name leads out of the repository.
        if name not in {p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(".")}:
            raise NotFound.field("model_name", f"the repository has no model {name!r}")
        self._publish(name, self._load_versions(self.root / name))

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

    def graphs(self) -> Iterator[tuple[str, int]]:
        """Name and version of every READY graph."""
        return ((name, version) for name, versions in sorted(self._graphs.items()) for version in sorted(versions))

    def ready(self, capability: str) -> bool:
        """Whether any model of the capability answers."""
        return any(
            v.state is State.READY and v.card is not None and v.card.capability == capability
            for versions in self.models.values()
            for v in versions.values()
        )

    def close(self) -> None:
        """Finish what is queued and free every session."""
        for name in self.models:
            self.unload_model(name)

    def _publish(self, name: str, versions: Mapping[int, Version]) -> None:
        """Answer with `versions` from now on, then close what they replace."""
        replaced = self.models.get(name, {})
        models = dict(self.models)
        if versions:
            models[name] = versions
        else:
            models.pop(name, None)
        graphs: dict[str, dict[int, Graph]] = {}
        for version in (v for vs in models.values() for v in vs.values()):
            for graph in version.graphs.values():
                graphs.setdefault(graph.config.name, {})[version.number] = graph
        self.models, self._graphs = models, graphs
        for version in replaced.values():
            for graph in version.graphs.values():
                graph.close()
        for version in versions.values():
            metrics.MODEL_READY.labels(name, str(version.number)).set(version.state is State.READY)

    def _is_part_of_another(self, name: str) -> bool:
        """Whether a card of another directory names this graph."""
        if any((self.root / name).glob(f"*/{CARD}")):
            return False
        owners = (p for p in self.root.iterdir() if p.is_dir() and name.startswith(f"{p.name}_"))
        return any(any(owner.glob(f"*/{CARD}")) for owner in owners)

    def _load_versions(self, directory: Path) -> dict[int, Version]:
        """The versions that the policy asks for; an older one stands in for a newer one that cannot be loaded."""
        numbers = [int(p.name) for p in directory.iterdir() if p.is_dir() and p.name.isdigit() and p.name != "0"]
        try:
            candidates, wanted = read_config(directory).versions_to_serve(numbers)
        except ConfigError as error:
            number = max(numbers, default=1)
            return {number: _out_of_service(directory.name, number, str(error))}
        if not candidates:
            return {1: _out_of_service(directory.name, 1, "there is no version to serve")}
        versions: dict[int, Version] = {}
        for number in candidates:
            if sum(v.state is State.READY for v in versions.values()) == wanted:
                break
            version = self._load_version(directory.name, number)
            if version.card and version.card.capability not in self._capabilities:
                return {}
            versions[number] = version
        return versions

    def _load_version(self, name: str, number: int) -> Version:
        """Read, verify and warm up one version; of a capability that is not served here, only the card is read."""
        started = time.monotonic()
        version = Version(number)
        try:
            card = _read_card(self.root / name / str(number) / CARD, name, number)
            version.card = card
            if card.capability not in self._capabilities:
                return version
            for role, graph_name in card.graphs.items():
                version.graphs[role] = self._load_graph(card, graph_name)
        except (ConfigError, EngineError, OSError, ValueError) as error:
            for graph in version.graphs.values():
                graph.close()
            version.graphs.clear()
            return _out_of_service(name, number, str(error), version.card)
        version.state = State.READY
        log.info("loaded %s version %d in %.2f s", name, number, time.monotonic() - started)
        return version

    def _load_graph(self, card: Card, graph_name: str) -> Graph:
        config = read_config(self.root / graph_name)
        relative = f"{graph_name}/{card.version}/{GRAPH_FILE}"
        content = (self.root / relative).read_bytes()
        expected = card.files.get(relative)
        if expected is None:
            raise ValueError(f"{CARD} has no checksum for {relative}")
        # Nothing parses a file before its checksum is known to be right.
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise ValueError(f"{relative} has SHA-256 {found[:12]}…, its card says {expected[:12]}…")
        return Graph(config, card.version, self._engine, content)


def _out_of_service(name: str, number: int, reason: str, card: Card | None = None) -> Version:
    log.error("model %s version %d is out of service: %s", name, number, reason)
    return Version(number, State.UNAVAILABLE, reason, card)


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


def _check_tensors(config: GraphConfig, inputs: Mapping[str, object], outputs: Collection[str]) -> None:
    wrong = {t.name for t in config.inputs} ^ set(inputs)
    wrong |= {t.name for t in config.outputs} - set(outputs)
    if wrong:
        raise ConfigError(f"config.pbtxt and the graph of {config.name} disagree on: {', '.join(sorted(wrong))}")


def _warm_up(config: GraphConfig, runner: Runner) -> None:
    """Run once at the smallest and the largest batch, so that the first caller does not pay for it."""
    for rows in sorted({1, max(1, config.max_batch_size)}):
        shape = (rows,) if config.max_batch_size else ()
        inputs = {t.name: np.zeros((*shape, *(1 if d < 0 else d for d in t.shape)), t.dtype) for t in config.inputs}
        runner.run([t.name for t in config.outputs], inputs)
