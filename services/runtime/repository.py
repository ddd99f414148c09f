"""The model repository: the models, their versions, the state of each version, and its graphs.

A repository is a directory in the layout of NVIDIA Triton, with a `card.json` beside each model's forward graph. A
model whose card, config or graph is missing, corrupt or altered goes out of service with a reason; the others serve on.

The state has one writer: every method of `Repository` runs on the event loop, and none of them waits for a file.
Listing the directory and loading a model, which may take long, run on threads; their results come back as calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from artifacts.card import Card
from lectern.names import meant, unknown
from services import metrics
from services.errors import InvalidArgument, NotFound, Unavailable
from services.runtime.files import Folder, Listing
from services.runtime.graph import Graph
from services.runtime.loader import CARD, Loader, State, Version

log = logging.getLogger(__name__)

LOADERS = min(4, os.cpu_count() or 1)
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 60.0
CHECK_SECONDS = 0.5
Fingerprint = Mapping[str, Folder]
Graphs = Mapping[str, Mapping[int, Graph]]  # READY ones, by name and version
T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """A READY version, as services use it.

    Args:
        assets: content of the further files that services read, e.g. `tokenizer.json`, by file name.
    """

    card: Card
    graphs: Mapping[str, Graph]
    assets: Mapping[str, bytes]


@dataclass(eq=False)
class _Load:
    """A load under way.

    Args:
        started: in the clock's seconds; None while it waits for a thread.
        hangs: it has taken longer than `load_seconds`.
        waiting: callers of `load_model` that wait for its end.
    """

    name: str
    listing: Listing
    started: float | None = None
    hangs: bool = False
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


@dataclass(eq=False)
class _Entry:
    """What the repository knows about a model apart from its versions.

    Args:
        seen: the files at its last load.
        unloaded: a caller has unloaded it.
        load: the load whose result counts; results of other loads are dropped.
        next_load: the load that follows `load`.
        retry_at: when to load it again after a failure, in the clock's seconds.
        retry_seconds: the next pause before a retry.
        had_card: a version of it had a card.
    """

    seen: Fingerprint = field(default_factory=dict)
    unloaded: bool = False
    load: _Load | None = None
    next_load: _Load | None = None
    retry_at: float = float("inf")
    retry_seconds: float = FIRST_RETRY_SECONDS
    had_card: bool = False


class Spawn(Protocol):
    """Runs `work` on another thread and calls `done` on the event loop with its result or exception."""

    def __call__(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None: ...


def in_thread(work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
    """Run `work` on a daemon thread and call `done` on this event loop with its result or exception.

    A process that ends does not wait for a daemon thread.
    """
    loop = asyncio.get_running_loop()

    def run() -> None:
        result: T | Exception
        try:
            result = work()
        except Exception as error:
            result = error
        try:
            loop.call_soon_threadsafe(done, result)
        except RuntimeError:  # the loop is closed, so no caller waits
            log.info("a load ended after the server did")

    threading.Thread(target=run, name="loader", daemon=True).start()


class Repository:
    """Every model of a directory that belongs to one of the loader's capabilities.

    Args:
        load_seconds: a load that takes longer gives its thread to another load; its late result still counts.
        on_change: told which graphs answer from now on.
    """

    def __init__(
        self,
        loader: Loader,
        load_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        spawn: Spawn = in_thread,
        on_change: Callable[[Graphs], None] = lambda _: None,
    ) -> None:
        self._loader, self._on_change = loader, on_change
        self._load_seconds = load_seconds
        self._clock, self._spawn = clock, spawn
        self.models: Mapping[str, Mapping[int, Version]] = {}
        self._graphs: Graphs = {}
        self._entries: dict[str, _Entry] = {}
        self._queue: deque[_Load] = deque()
        self._running: set[_Load] = set()
        self._ignored: Mapping[str, str] = {}
        self._listing_since: float | None = None
        self._listing_problem = ""
        self._refreshing: asyncio.Future[None] | None = None
        self._idle = asyncio.Event()  # set when no load is under way

    async def start(self) -> None:
        """Load every model, and wait no longer than `load_seconds` for one that hangs.

        Raises:
            FileNotFoundError: there is no such directory. OSError: it cannot be listed.
        """
        try:
            listing = await self._list()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(
                f"there is no model repository at {self._loader.files.root}: "
                "name one with --repository, or make one with `make train-export`"
            ) from None
        self.update(listing)
        while self._loading:
            self._idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), CHECK_SECONDS)
            self.check_time()

    async def watch(self, seconds: float) -> None:
        """Watch the directory for ever: load new and changed models, drop those that are gone, retry failed loads."""
        while True:
            await asyncio.sleep(seconds)
            self.check_time()
            if self._listing_since is None:  # otherwise the last listing hangs, e.g. on a network
                self._refreshing = asyncio.ensure_future(self._refresh())

    async def _refresh(self) -> None:
        try:
            self.update(await self._list())
        except Exception as error:
            self._listing_failed(f"{type(error).__name__}: {error}")
        else:
            self._listing_failed("")

    def _listing_failed(self, problem: str) -> None:
        if problem and problem != self._listing_problem:
            log.error("cannot look for new versions in %s: %s", self._loader.files.root, problem)
        self._listing_problem = problem

    async def _list(self) -> Listing:
        self._listing_since = self._clock()
        try:
            return await self._on_thread(self._loader.files.list)
        finally:
            self._listing_since = None

    async def _on_thread(self, work: Callable[[], T]) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def resolve(result: T | Exception) -> None:
            if done.done():
                return
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                done.set_result(result)

        self._spawn(work, resolve)
        return await done

    def find(self, name: str, version: int, *capabilities: str) -> Model:
        """A READY version of a model that belongs to one of the capabilities; version 0 = latest.

        Raises:
            NotFound: unknown name or version. InvalidArgument: the model belongs to another capability.
            Unavailable: the version exists but does not answer.
        """
        versions = self.models.get(name)
        if versions is None:
            able = [n for n, vs in self.models.items() if _capability(vs) in capabilities]
            raise NotFound.field("model", unknown("model", name, able, f"models for {' or '.join(capabilities)}"))
        chosen = _pick(name, versions, version)
        if chosen.state is not State.READY:
            raise Unavailable(f"model {name} version {chosen.number} does not answer: {chosen.reason}")
        if chosen.card is None:
            how = "it answers inference.GRPCInferenceService alone; `lectern add` gives a model a card"
            raise InvalidArgument.field("model", f"{name} has no card: {how}")
        if chosen.card.capability not in capabilities:
            raise InvalidArgument.field(
                "model", f"{name} serves the capability {chosen.card.capability}, not {' or '.join(capabilities)}"
            )
        return Model(chosen.card, chosen.graphs, chosen.assets)

    def graph(self, name: str, version: int) -> Graph:
        """A READY graph by its own name, of any model; version 0 = latest.

        Raises:
            NotFound: unknown name or version. Unavailable: the version exists but does not answer.
        """
        graphs = self._graphs.get(name, {})
        if version in graphs:
            return graphs[version]
        if version == 0 and graphs:
            return graphs[max(graphs)]
        if name in self.models:
            chosen = _pick(name, self.models[name], version)
            raise Unavailable(f"model {name} version {chosen.number} does not answer: {chosen.reason}")
        if graphs:
            raise NotFound.field("model_version", f"model {name!r} has no version {version}; it has: {sorted(graphs)}")
        raise NotFound.field("model_name", f"there is no model {name!r}{meant(name, self._graphs)}")

    def graphs(self) -> Iterator[tuple[str, int]]:
        """Name and version of every READY graph."""
        return ((name, version) for name, versions in sorted(self._graphs.items()) for version in sorted(versions))

    async def any_healthy(self, *capabilities: str) -> bool:
        """Whether any model answers now; if capabilities are given, any model of one of them."""
        for version in [v for versions in self.models.values() for v in versions.values()]:
            if version.state is not State.READY:
                continue
            serves = not capabilities or (version.card is not None and version.card.capability in capabilities)
            if serves and all(await asyncio.gather(*(graph.healthy() for graph in version.graphs.values()))):
                return True
        return False

    @property
    def capabilities(self) -> set[str]:
        """What the models are for, as far as their cards say."""
        return {v.card.capability for versions in self.models.values() for v in versions.values() if v.card is not None}

    @property
    def has_unknown(self) -> bool:
        """Whether a model is damaged so that it does not say what it is for."""
        versions = [v for versions in self.models.values() for v in versions.values()]
        return any(v.card is None and v.state is State.UNAVAILABLE for v in versions)

    async def load_model(self, name: str) -> None:
        """Load a model that was unloaded, or its new versions. Its current versions serve until the new ones answer.

        Raises:
            NotFound: the repository has no directory of that name.
            Unavailable: none of its versions can be loaded, or it was unloaded meanwhile.
        """
        listing = await self._list()
        # Only listed names are joined to the path, so no name leads out of the repository.
        if name not in (present := _models(listing)):
            raise NotFound.field("model_name", f"the repository has no model {name!r}{meant(name, present)}")
        entry = self._entries.setdefault(name, _Entry())
        entry.unloaded = False
        load = self._request(name, entry, listing)
        load.waiting.append(done := asyncio.get_running_loop().create_future())
        await done

    def unload_model(self, name: str) -> None:
        """Take a model out of service until it is loaded again; queued requests are finished, its sessions freed.

        Raises:
            NotFound: there is no such model.
        """
        if name not in self.models:
            raise NotFound.field("model_name", f"there is no model {name!r}{meant(name, self.models)}")
        entry = self._entries[name]
        entry.unloaded = True
        for load in (entry.load, entry.next_load):
            self._give_up(load, f"model {name} was unloaded meanwhile")
        entry.load = entry.next_load = None
        self._publish(
            name, {n: Version(n, State.UNAVAILABLE, "unloaded", v.card) for n, v in self.models[name].items()}
        )

    async def close(self, seconds: float) -> bool:
        """Take no more work, and give the graphs so many seconds to finish their queues.

        Returns:
            Whether all of them did, and no load hangs.
        """
        for entry in self._entries.values():
            entry.unloaded, entry.load, entry.next_load = True, None, None
        self._queue.clear()
        graphs = [graph for versions in self._graphs.values() for graph in versions.values()]
        closing = [asyncio.ensure_future(self._on_thread(partial(graph.close, seconds))) for graph in graphs]
        pending = (await asyncio.wait(closing, timeout=seconds))[1] if closing else ()
        return not pending and not self._running and not any(e.load for e in self._entries.values())

    @property
    def _loading(self) -> bool:
        return bool(self._queue or self._running)

    def update(self, listing: Listing) -> None:
        """Apply a listing: load new and changed models, and end those that are gone."""
        for name, reason in listing.ignored.items():
            if self._ignored.get(name) != reason:
                log.warning("%s in the repository is ignored: %s", name, reason)
        self._ignored = listing.ignored
        present = _models(listing)
        for name in self._entries.keys() - present:
            entry = self._entries.pop(name)
            for load in (entry.load, entry.next_load):
                self._give_up(load, f"model {name} is gone")
            self._publish(name, {})
        for name in sorted(present):
            entry = self._entries.setdefault(name, _Entry())
            if entry.unloaded or entry.next_load or (entry.load and not entry.load.hangs):
                continue
            changed = self._fingerprint(name, listing) != entry.seen
            if changed:
                entry.retry_seconds = FIRST_RETRY_SECONDS
            if changed or (self._clock() >= entry.retry_at and not entry.load):
                self._request(name, entry, listing)

    def check_time(self) -> None:
        """Give up loads that take too long: their models get that as their reason, and other loads their threads."""
        for load in [load for load in self._running if self._clock() - (load.started or 0) > self._load_seconds]:
            load.hangs = True
            self._running.discard(load)
            entry = self._entries.get(load.name)
            if entry and entry.load is load:
                reason = f"loading takes more than {self._load_seconds:g} s (LECTERN_LOAD_SECONDS)"
                self._finish(load, entry, self._failed(load, reason), retry=False)
                self._follow(entry)
        self._start_next()

    def _request(self, name: str, entry: _Entry, listing: Listing) -> _Load:
        """A load of the files in `listing`: the one under way if its files are the same, else one after it."""
        if entry.load and not entry.load.hangs:
            if self._fingerprint(name, entry.load.listing) == self._fingerprint(name, listing):
                return entry.load
            if entry.next_load:
                entry.next_load.listing = listing
            else:
                entry.next_load = _Load(name, listing)
            return entry.next_load
        entry.load = _Load(name, listing)
        self._queue.append(entry.load)
        self._start_next()
        return entry.load

    def _start_next(self) -> None:
        while self._queue and len(self._running) < LOADERS:
            load = self._queue.popleft()
            entry = self._entries.get(load.name)
            if entry is None or entry.load is not load:  # unloaded, or gone, while it waited
                continue
            load.started = self._clock()
            self._running.add(load)
            folder, ready = load.listing.folders[load.name], self._ready(load.name)
            work = partial(self._loader.load, load.name, folder, ready, entry.had_card)
            self._spawn(work, partial(self._loaded, load))
        if not self._loading:
            self._idle.set()

    def _loaded(self, load: _Load, result: dict[int, Version] | Exception) -> None:
        """Take a load's result, on the event loop."""
        self._running.discard(load)
        entry = self._entries.get(load.name)
        if entry is not None and entry.load is load:
            if isinstance(result, Exception):
                log.error("loading %s failed", load.name, exc_info=result)
                result = self._failed(load, f"{type(result).__name__}: {result}")
            entry.load = None
            self._finish(load, entry, result, retry=True)
            self._follow(entry)
        self._start_next()

    def _follow(self, entry: _Entry) -> None:
        """Queue the next load of a model, if there is one."""
        if entry.next_load:
            entry.load, entry.next_load = entry.next_load, None
            self._queue.append(entry.load)

    def _finish(self, load: _Load, entry: _Entry, versions: Mapping[int, Version], retry: bool) -> None:
        name, known = load.name, self.models.get(load.name, {})
        for number, version in versions.items():
            if version.reason and (number not in known or known[number].reason != version.reason):
                outcome = "is out of service" if version.state is State.UNAVAILABLE else "is"
                log.error("model %s version %d %s: %s", name, number, outcome, version.reason)
        self._publish(name, versions)
        entry.had_card |= any(version.card for version in versions.values())
        entry.seen = self._fingerprint(name, load.listing)
        entry.retry_at = float("inf")
        failed = [v for v in versions.values() if v.reason]
        if retry and failed:
            temporary = any(version.temporary for version in failed)
            entry.retry_at = self._clock() + (0 if temporary else entry.retry_seconds)
            entry.retry_seconds = min(2 * entry.retry_seconds, LONGEST_RETRY_SECONDS)
        elif retry:
            entry.retry_seconds = FIRST_RETRY_SECONDS
        if failed and not self._ready(name):
            self._give_up(load, f"model {name} does not answer: {failed[0].reason}")
        for caller in load.waiting:
            if not caller.done():
                caller.set_result(None)
        load.waiting.clear()

    def _give_up(self, load: _Load | None, reason: str) -> None:
        for caller in load.waiting if load else ():
            if not caller.done():
                caller.set_exception(Unavailable(reason))

    def _failed(self, load: _Load, reason: str) -> dict[int, Version]:
        """The newest version, unavailable for `reason`, and the versions that serve as before."""
        number = max(load.listing.folders[load.name].versions, default=1)
        return {number: Version(number, State.UNAVAILABLE, reason), **self._ready(load.name)}

    def _ready(self, name: str) -> dict[int, Version]:
        return {n: v for n, v in self.models.get(name, {}).items() if v.state is State.READY}

    def _fingerprint(self, name: str, listing: Listing) -> Fingerprint:
        """The files of a model: its own, those of its further graphs, and those of the models that it uses."""
        cards = [version.card for version in self.models.get(name, {}).values() if version.card]
        folders = {name, *(graph for card in cards for graph in card.graphs.values())}
        folders |= {other for other in listing.folders if other.startswith(f"{name}_")}
        return {folder: listing.folders[folder] for folder in folders if folder in listing.folders}

    def _publish(self, name: str, versions: Mapping[int, Version]) -> None:
        """Answer with `versions` from now on. Replaced graphs are freed when their last caller has its answer."""
        replaced = self.models.get(name, {})
        models = {**self.models, name: versions}
        if not versions:
            del models[name]
        graphs: dict[str, dict[int, Graph]] = {}
        for version in (v for vs in models.values() for v in vs.values()):
            for graph in version.graphs.values():
                graphs.setdefault(graph.config.name, {})[graph.version] = graph
        before, self.models, self._graphs = self._graphs, models, graphs
        self._on_change(graphs)
        for number, version in versions.items():
            metrics.MODEL_READY.labels(name, str(number)).set(version.state is State.READY)
        for number in replaced.keys() - versions.keys():
            metrics.end_version(name, str(number))
        for graph in (graph for numbers in before.values() for graph in numbers.values()):
            if graph.version not in graphs.get(graph.config.name, {}):
                metrics.end_graph(graph.config.name, str(graph.version), self._loader.engine.name, graph.provider)


def _models(listing: Listing) -> set[str]:
    """Names of the directories that hold models, not further graphs of another model."""
    owners = {
        name
        for name, folder in listing.folders.items()
        if any(path.endswith(f"/{CARD}") for path, *_ in folder.entries)
    }
    return {n for n in listing.folders if n in owners or not any(n.startswith(f"{owner}_") for owner in owners)}


def _pick(name: str, versions: Mapping[int, Version], wanted: int) -> Version:
    if wanted:
        if wanted not in versions:
            raise NotFound.field("version", f"model {name!r} has no version {wanted}; it has: {sorted(versions)}")
        return versions[wanted]
    ready = [v for v in versions.values() if v.state is State.READY]
    return max(ready or versions.values(), key=lambda v: v.number)


def _capability(versions: Mapping[int, Version]) -> str | None:
    return next((v.card.capability for v in versions.values() if v.card), None)
