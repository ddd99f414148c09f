"""One serving process: loads models, answers until told to stop, and drains."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from tritonclient.grpc import service_pb2

from lectern.v1 import model_pb2
from services import budget, pools
from services.inference.servicer import InferenceServicer
from services.numeric import NumericLoop
from services.runtime import memory
from services.runtime.files import RepositoryFiles
from services.runtime.graph import Engine, EngineError
from services.runtime.loader import Loader
from services.runtime.onnx_engine import OnnxEngine
from services.runtime.repository import Repository
from services.runtime.triton_engine import TritonEngine
from services.server import health, reflection, registry, telemetry, tls, transport
from services.server.access import Access
from services.server.addresses import authority, check_free
from services.server.auth import INFERENCE, MODELS
from services.server.model_service import ModelServicer
from services.server.pipeline import Endpoint, Gate
from services.server.report import ModelRow, Ready
from services.server.settings import Settings, StartError
from services.server.watched import follow

log = logging.getLogger(__name__)

MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
INFERENCE_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
CLOSE_SECONDS = 5.0
IsReady = Callable[[], Awaitable[bool]]
OnReady = Callable[[bool], None]


class App:
    """A server process.

    Raises:
        StartError: the device or transport that was asked for is not there, a file of certificates or tokens is not
            good, or tracing cannot be.
    """

    def __init__(self, settings: Settings) -> None:
        memory.settle()
        pools.codecs.threads = settings.codec_threads or pools.codecs.threads
        pools.codecs.seconds = settings.codec_seconds
        self._settings = settings
        self._send_spans = telemetry.start(settings)
        self._access = Access.of(settings)
        self._certificates = tls.certificates(settings)
        self._gate = Gate(self._access, settings.limits.calls)
        self._health = health.HealthServicer()
        self._transport = transport.create(settings, self._certificates)
        needed = {name for capability in settings.capabilities for name in registry.models_of(capability)}
        files = RepositoryFiles(settings.repository, settings.model_file_bytes)
        self._repository = Repository(Loader(files, _engine(settings), needed), settings.load_seconds)
        self._all_answer = False
        self.serving = False

    @property
    def ready(self) -> bool:
        """Whether every service answers."""
        return self.serving and self._all_answer

    async def run(self, on_serving: Callable[[Ready], None], on_ready: OnReady = lambda _: None) -> None:
        """Serve until SIGTERM or SIGINT; a second signal ends the process at once.

        Args:
            on_serving: told once it serves.
            on_ready: told whether every service answers, whenever that changes.

        Raises:
            StartError: the port is taken, or the repository is not there.
        """
        stop = self._on_signal()
        services = self._add_services()
        for watched in (self._access, self._certificates):
            if watched is not None:
                follow(watched.refresh, self._settings.watch_seconds)
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
        budget.set_total(settings.memory_bytes or budget.default_total(settings.workers))
        # Listening starts here: workers share the port, and one that still loads must not be given calls.
        port = await self._listen()
        self.serving = True
        on_serving(Ready(port, tuple(self._rows())))
        loops = [
            asyncio.ensure_future(loop)
            for loop in (
                self._repository.watch(self._settings.watch_seconds),
                self._watch_health(services, on_ready),
                self._rest(),
            )
        ]
        await stopped
        for loop in loops:
            loop.cancel()
        await self._drain()

    async def _watch_health(self, services: Mapping[str, IsReady], on_ready: OnReady) -> None:
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            try:
                await self._update_health(services, on_ready)
            except Exception:
                log.exception("cannot tell whether the services answer")

    async def _rest(self) -> None:
        """Give memory back whenever the last calls have ended."""
        finished = 0
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            if not self._gate.active and self._gate.finished != finished:
                finished = self._gate.finished
                threading.Thread(target=memory.give_back, daemon=True).start()

    async def _update_health(self, services: Mapping[str, IsReady], on_ready: OnReady) -> None:
        answers = await asyncio.gather(*(ready() for ready in services.values()))
        for name, answer in zip(services, answers, strict=True):
            self._health.set(name, answer)
        if all(answers) != self._all_answer:
            self._all_answer = all(answers)
            on_ready(self._all_answer)

    def _on_signal(self) -> asyncio.Event:
        stop = asyncio.Event()

        def handle() -> None:
            if stop.is_set():
                log.warning("second signal: ending at once, %d requests are lost", self._gate.active)
                os._exit(1)
            end = threading.Timer(
                self._settings.drain_pause_seconds + self._settings.drain_seconds + CLOSE_SECONDS, cut
            )
            end.daemon = True
            end.start()
            stop.set()

        def cut() -> None:
            log.error("something hangs beyond the drain time: ending, %d requests are lost", self._gate.active)
            os._exit(1)

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, handle)
        return stop

    def _add_services(self) -> dict[str, IsReady]:
        """Register every service; returns when each, by name, is ready."""
        repository, settings = self._repository, self._settings
        inference = InferenceServicer(repository, settings.limits, settings.allow_model_control)
        served = [(MODEL_SERVICE, ModelServicer(repository), MODELS), (INFERENCE_SERVICE, inference, INFERENCE)]
        ready: dict[str, IsReady] = {
            MODEL_SERVICE.full_name: _always,
            INFERENCE_SERVICE.full_name: repository.any_healthy,
        }
        numeric: dict[str, NumericLoop] = {}
        for capability in settings.capabilities:
            service = registry.service_of(capability)
            served.append((service, registry.servicer(capability, repository, settings), capability))
            if registry.is_numeric(capability):
                numeric[service.full_name] = NumericLoop()
            ready[service.full_name] = partial(repository.any_healthy, *registry.models_of(capability))
        methods = [method for of_service in served for method in registry.methods(*of_service)]
        if settings.reflection:
            methods += reflection.methods((*ready, health.SERVICE.full_name))
        self._transport.add_endpoints(
            Endpoint(method, self._gate, numeric.get(method.service), settings.limits) for method in methods
        )
        self._transport.add_endpoints(Endpoint(method, Gate()) for method in self._health.methods())
        return ready

    async def _listen(self) -> int:
        host, port = self._settings.host, self._settings.port
        try:
            if self._settings.workers == 1:
                check_free(host, port)
            return await self._transport.start(host, port)
        except OSError as error:
            raise StartError(
                f"cannot listen on {authority(host, port)} ({error.strerror or error}): is another server running "
                "there? Choose another with --port"
            ) from error

    async def _drain(self) -> None:
        """Say NOT_SERVING, let balancers notice, send callers elsewhere, and finish what was accepted.

        Nothing is refused before: a call that arrives until callers know is answered.
        """
        log.info("draining: %d requests under way", self._gate.active)
        self.serving = False
        self._health.drain()
        await asyncio.sleep(self._settings.drain_pause_seconds)
        self._health.close()
        await self._transport.stop()
        await asyncio.to_thread(self._send_spans)
        await self._close_repository()
        log.info("stopped")

    async def _close_repository(self) -> None:
        """Free the graphs; where a thread hangs in one, the process ends here, since the interpreter's end would abort
        it."""
        if not await self._repository.close(CLOSE_SECONDS / 2):
            log.warning("stopped, though a model still loads or runs")
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
        return TritonEngine(settings.triton_url, settings.limits.message_bytes)
    try:
        return OnnxEngine(settings.device, settings.intra_op_threads, settings.load_seconds)
    except EngineError as error:
        raise StartError(str(error)) from error


async def _always() -> bool:
    return True
