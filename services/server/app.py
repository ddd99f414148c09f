"""One serving process: loads models, answers until a signal stops it, and drains."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from inference import grpc_service_pb2
from lectern.v1 import model_pb2
from services import budget, metrics, pools
from services.inference.servicer import InferenceServicer
from services.numeric import NumericLoop
from services.runtime import memory
from services.runtime.files import RepositoryFiles
from services.runtime.gradient_graph import GRADIENTS
from services.runtime.graph import Engine, EngineError
from services.runtime.graph_cache import GraphCache
from services.runtime.instances import Instances
from services.runtime.loader import Loader
from services.runtime.onnx_engine import OnnxEngine
from services.runtime.repository import Repository
from services.runtime.response_cache import ResponseCache
from services.runtime.scheduler import Scheduler
from services.runtime.triton_engine import TritonEngine
from services.server import health, otel, reflection, registry, tls, transport
from services.server.access import Access
from services.server.addresses import check_free
from services.server.auth import INFERENCE, MODELS
from services.server.capabilities import CAPABILITIES
from services.server.model_service import ModelServicer
from services.server.pipeline import Endpoint, Gate
from services.server.report import ModelRow, Ready
from services.server.settings import Settings, StartError, cannot_listen
from services.server.transport import Listener
from services.server.watched import Watched, follow

log = logging.getLogger(__name__)

MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
INFERENCE_SERVICE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
CLOSE_SECONDS = 5.0
FOUND_SECONDS = 0.3  # in which callers who are sent elsewhere look the name up and connect
IsReady = Callable[[], Awaitable[bool]]
OnReady = Callable[[bool], None]


class App:
    """A server process.

    Raises:
        StartError: the requested device or transport is missing, a file of certificates or tokens is invalid, or
            tracing is impossible.
    """

    def __init__(self, settings: Settings) -> None:
        memory.settle()
        pools.codecs.threads = settings.codec_threads or pools.codecs.threads
        pools.codecs.seconds = settings.codec_seconds
        self._settings = settings
        self._send_spans = otel.start(settings)
        self._access = Access.of(settings)
        self._certificates = tls.certificates(settings)
        self._gate = Gate(self._access, settings.limits.calls)
        self._health = health.HealthServicer()
        self._transport = transport.create(settings, self._certificates, self._gate)
        self._doors: dict[str, Listener] = {"port": self._transport}  # by the names of their ports' settings
        self._served = [CAPABILITIES[name] for name in settings.capabilities]
        needed = {name for capability in self._served for name in (*capability.models_of, *capability.borrows_from)}
        files = RepositoryFiles(settings.repository, settings.model_file_bytes)
        # A pod of some capabilities does not take what belongs to none.
        steady = settings.steady_seconds if set(settings.capabilities) == CAPABILITIES.keys() else None
        loader = Loader(files, _engine(settings), needed, () if settings.preload else GRADIENTS, steady)
        self._repository = Repository(loader, settings.load_seconds, on_change=self._transport.route)
        self._all_answer = False
        self._ended_calls = 0
        self.serving = False

    @property
    def ready(self) -> bool:
        """Whether every service answers of which the repository has a model."""
        return self.serving and self._all_answer

    async def run(self, on_serving: Callable[[Ready], None], on_ready: OnReady = lambda _: None) -> None:
        """Serve until SIGTERM or SIGINT; a second signal ends the process at once.

        Args:
            on_serving: called once the server listens.
            on_ready: called with whether every service answers of which there is a model, whenever that changes.

        Raises:
            StartError: the port is taken, or there is no repository.
        """
        self._check_ports()  # before the models are loaded, which takes long
        stop = self._on_signal()
        services = self._add_services()
        for watched in (self._access, self._certificates):
            if watched is not None:
                follow(partial(self._renew, watched), self._settings.watch_seconds)
        loading, stopped = (asyncio.ensure_future(wait) for wait in (self._repository.start(), stop.wait()))
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            await self._close_repository()
            return
        try:
            await loading
        except OSError as error:
            raise StartError(str(error)) from error
        self._health.set("", True)
        await self._update_health(services, on_ready)
        settings = self._settings
        memory.give_back()  # garbage of loading would otherwise count as memory in use
        budget.set_total(settings.memory_bytes or budget.default_total(settings.workers))
        self._transport.set_budget(budget.messages.total)
        # Listen only now: workers share the port, and a worker that is still loading must not get calls.
        ports = await self._listen()
        self.serving = True
        on_serving(Ready(ports["port"], ports.get("http_port"), transport.chosen(settings), tuple(self._rows())))
        loops = [
            asyncio.ensure_future(loop)
            for loop in (
                self._repository.watch(self._settings.watch_seconds),
                self._watch_health(services, on_ready),
                self._trim_when_idle(),
                self._meter_lag(),
            )
        ]
        await stopped
        for loop in loops:
            loop.cancel()
        await self._drain()

    def _renew(self, watched: Access | Watched[tls.Pem]) -> None:
        watched.refresh()
        self._transport.refresh()

    async def _watch_health(self, services: Mapping[str, IsReady], on_ready: OnReady) -> None:
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            try:
                metrics.collect_sources()
                await self._update_health(services, on_ready)
            except Exception:
                log.exception("cannot determine whether the services answer")

    async def _trim_when_idle(self) -> None:
        """Return free memory to the system whenever the last call has ended."""
        finished = 0
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            if not self._transport.active() and self._gate.finished != finished:
                finished = self._gate.finished
                threading.Thread(target=memory.give_back, daemon=True).start()

    async def _meter_lag(self) -> None:
        while True:
            await metrics.meter_lag(metrics.lag_period(self._had_calls()))

    def _had_calls(self) -> bool:
        """Whether a call is under way, or has ended since the last time."""
        before, self._ended_calls = self._ended_calls, self._gate.finished
        return self._transport.active() > 0 or before != self._ended_calls

    async def _update_health(self, services: Mapping[str, IsReady], on_ready: OnReady) -> None:
        answers = await asyncio.gather(*(ready() for ready in services.values()))
        for name, answer in zip(services, answers, strict=True):
            self._health.set(name, answer)
        unused = self._unused_services()
        all_answer = all(answer or name in unused for name, answer in zip(services, answers, strict=True))
        if all_answer != self._all_answer:
            self._all_answer = all_answer
            on_ready(self._all_answer)

    def _unused_services(self) -> set[str]:
        """Services without a model: who serves some of their own, or a canary one, has none for every capability.

        Until the server is ready, a model that does not say what it is for may be what a service lacks.
        """
        if self._repository.has_unknown and not self._all_answer:
            return set()
        present = self._repository.capabilities
        return {c.service.full_name for c in self._served if present.isdisjoint(c.models_of)}

    def _on_signal(self) -> asyncio.Event:
        stop = asyncio.Event()

        def handle() -> None:
            if stop.is_set():
                log.warning("second signal: ending at once, %d requests are lost", self._transport.active())
                os._exit(1)
            end = threading.Timer(
                self._settings.drain_pause_seconds + self._settings.drain_seconds + CLOSE_SECONDS, cut
            )
            end.daemon = True
            end.start()
            stop.set()

        def cut() -> None:
            log.error("something hangs beyond the drain time: ending, %d requests are lost", self._transport.active())
            os._exit(1)

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, handle)
        return stop

    def _add_services(self) -> dict[str, IsReady]:
        """Register every service; returns a readiness check for each, by name."""
        repository, settings = self._repository, self._settings
        inference = InferenceServicer(repository, settings.limits, settings.allow_model_control)
        served = [(MODEL_SERVICE, ModelServicer(repository), MODELS), (INFERENCE_SERVICE, inference, INFERENCE)]
        ready: dict[str, IsReady] = {
            MODEL_SERVICE.full_name: _always,
            INFERENCE_SERVICE.full_name: repository.any_healthy,
        }
        numeric: dict[str, NumericLoop] = {}
        for capability in self._served:
            service = capability.service.full_name
            served.append((capability.service, registry.servicer(capability, repository, settings), capability.name))
            if capability.numeric:
                numeric[service] = NumericLoop()
            ready[service] = partial(repository.any_healthy, *capability.models_of)
        methods = [method for of_service in served for method in registry.methods(*of_service)]
        endpoints = [Endpoint(method, self._gate, numeric.get(method.service), settings.limits) for method in methods]
        endpoints += [Endpoint(method, Gate()) for method in self._health.methods()]
        self._transport.add_endpoints(endpoints)
        if settings.reflection:
            listing = reflection.methods((*ready, health.SERVICE.full_name))
            self._transport.add_endpoints(Endpoint(method, self._gate, limits=settings.limits) for method in listing)
        if settings.http_port != "off":
            from services.server.door.door import Door  # which takes long to import

            self._doors["http_port"] = Door(settings, self._certificates, endpoints)
        return ready

    async def _listen(self) -> dict[str, int]:
        """Listen on each port; returns them by the names of their settings."""
        self._check_ports()  # again: the transport would share a port with a process that took it meanwhile
        listening = {}
        for name, port in self._settings.ports.items():
            try:
                listening[name] = await self._doors[name].start(self._settings.host, port)
            except OSError as error:
                raise cannot_listen(self._settings.host, port, name, error) from error
        return listening

    def _check_ports(self) -> None:
        """Check that the ports are free; for workers, their supervisor does that.

        Raises:
            StartError: one is taken.
        """
        for name, port in self._settings.ports.items() if self._settings.workers == 1 else ():
            try:
                check_free(self._settings.host, port)
            except OSError as error:
                raise cannot_listen(self._settings.host, port, name, error) from error

    async def _drain(self) -> None:
        """Send callers elsewhere, report NOT_SERVING, wait until they are gone, and finish accepted calls.

        Until callers know, no call is refused. gRPC's callers look the name up again when they are told to go, not when
        they see NOT_SERVING, from which on their calls fail if they know of no other server.
        """
        log.info("draining: %d requests under way", self._transport.active())
        self.serving = False
        pause = self._settings.drain_pause_seconds
        for door in self._doors.values():
            door.send_elsewhere()
        await asyncio.sleep(min(FOUND_SECONDS, pause))
        self._health.drain()
        await asyncio.sleep(pause)  # whole: balancers ask for health at intervals
        self._health.close()
        await asyncio.gather(*(door.stop() for door in self._doors.values()))
        metrics.collect_sources()
        await asyncio.to_thread(self._send_spans)
        await self._close_repository()
        log.info("stopped")

    async def _close_repository(self) -> None:
        """Free the graphs. If a thread hangs in one, end the process here, since the interpreter's shutdown would abort
        it."""
        if not await self._repository.close(CLOSE_SECONDS / 2):
            log.warning("stopped while a model still loads or runs")
            logging.shutdown()
            os._exit(0)

    def _rows(self) -> list[ModelRow]:
        return [
            ModelRow(
                name,
                version.card.lecture if version.card else "",
                version.card.capability if version.card else "",
                version.number,
                version.state.value,
                version.reason,
            )
            for name, versions in sorted(self._repository.models.items())
            for version in versions.values()
        ]


def _engine(settings: Settings) -> Engine:
    if settings.engine == "triton":
        try:
            return TritonEngine(settings.triton_url, settings.limits.message_bytes, settings.triton_tls_ca)
        except OSError as error:
            raise StartError(f"LECTERN_TRITON_TLS_CA cannot be read: {error}") from error
    scheduler: type[Instances[Any]] = Scheduler
    if transport.chosen(settings) == "native":
        from services.runtime.native_scheduler import NativeScheduler  # which may not be built

        scheduler = NativeScheduler
    try:
        return OnnxEngine(
            settings.device,
            settings.intra_op_threads,
            settings.load_seconds,
            settings.run_seconds,
            scheduler,
            _graph_cache(settings.cache_dir),
            ResponseCache(settings.cache_bytes) if settings.cache_bytes else None,
            settings.gpu_memory_bytes,
        )
    except EngineError as error:
        raise StartError(str(error)) from error


def _graph_cache(folder: Path | Literal["off"]) -> GraphCache | None:
    if folder == "off":
        return None
    try:
        return GraphCache(Path(folder).expanduser())
    except (OSError, RuntimeError) as error:  # expanduser: this user has no home
        log.info("no graphs are cached, so that a start takes longer (LECTERN_CACHE_DIR): %s", error)
        return None


async def _always() -> bool:
    return True
