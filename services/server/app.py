"""One serving process: loads models, answers until told to stop, and drains."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from tritonclient.grpc import service_pb2

from lectern.v1 import model_pb2
from services.inference.servicer import InferenceServicer
from services.runtime import memory
from services.runtime.graph import Engine, EngineError
from services.runtime.onnx_engine import OnnxEngine
from services.runtime.repository import Repository
from services.runtime.triton_engine import TritonEngine
from services.server import health, reflection, registry, telemetry, tls, transport
from services.server.access import Access
from services.server.auth import INFERENCE, MODELS
from services.server.model_service import ModelServicer
from services.server.pipeline import Endpoint, Gate
from services.server.report import ModelRow, Ready
from services.server.settings import Settings, StartError

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
        self._settings = settings
        self._send_spans = telemetry.start(settings)
        self._access = Access.of(settings)
        self._certificates = tls.certificates(settings)
        self._gate = Gate(self._access)
        self._health = health.HealthServicer()
        self._transport = transport.create(settings, self._certificates)
        needed = {name for capability in settings.capabilities for name in registry.models_of(capability)}
        self._repository = Repository(settings.repository, _engine(settings), needed)
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
        try:
            await asyncio.to_thread(self._repository.load)
        except FileNotFoundError as error:
            raise StartError(str(error)) from error
        self._health.set("", True)
        await self._update_health(services, on_ready)
        # Listening starts here: workers share the port, and one that still loads must not be given calls.
        port = await self._listen()
        self.serving = True
        on_serving(Ready(port, tuple(self._rows())))
        watch = asyncio.create_task(self._watch(services, on_ready))
        await stop.wait()
        watch.cancel()
        await self._drain()

    async def _watch(self, services: Mapping[str, IsReady], on_ready: OnReady) -> None:
        finished = 0
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            if not self._gate.active and self._gate.finished != finished:
                finished = self._gate.finished
                await asyncio.to_thread(memory.give_back)
            try:
                await asyncio.to_thread(self._refresh_files)
                await asyncio.to_thread(self._repository.refresh)
                await self._update_health(services, on_ready)
            except OSError:  # a repository on a network may be away for a while
                log.exception("cannot look for new versions in %s", self._settings.repository)

    def _refresh_files(self) -> None:
        for watched in (self._access, self._certificates):
            if watched is not None:
                watched.refresh()

    async def _update_health(self, services: Mapping[str, IsReady], on_ready: OnReady) -> None:
        all_answer = True
        for name, ready in services.items():
            answers = await ready()
            all_answer = all_answer and answers
            self._health.set(name, answers)
        if all_answer != self._all_answer:
            self._all_answer = all_answer
            on_ready(all_answer)

    def _on_signal(self) -> asyncio.Event:
        stop = asyncio.Event()

        def handle() -> None:
            if stop.is_set():
                log.warning("second signal: ending at once, %d requests are lost", self._gate.active)
                os._exit(1)
            stop.set()

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
        for capability in settings.capabilities:
            service = registry.service_of(capability)
            served.append((service, registry.servicer(capability, repository, settings), capability))
            ready[service.full_name] = partial(repository.any_healthy, *registry.models_of(capability))
        methods = [method for of_service in served for method in registry.methods(*of_service)]
        if settings.reflection:
            methods += reflection.methods((*ready, health.SERVICE.full_name))
        self._transport.add_endpoints(Endpoint(method, self._gate) for method in methods)
        self._transport.add_endpoints(Endpoint(method, Gate()) for method in self._health.methods())
        return ready

    async def _listen(self) -> int:
        host, port = self._settings.host, self._settings.port
        try:
            return await self._transport.start(host, port)
        except OSError as error:
            raise StartError(
                f"cannot listen on {host}:{port}: is another server running there? Choose another with --port"
            ) from error

    async def _drain(self) -> None:
        """Say NOT_SERVING, let balancers notice, refuse new work, and finish what was accepted."""
        log.info("draining: %d requests under way", self._gate.active)
        self.serving = False
        self._health.drain()
        await asyncio.sleep(self._settings.drain_pause_seconds)
        self._gate.draining = True
        self._health.close()
        await self._transport.stop()
        await asyncio.to_thread(self._send_spans)
        # A thread inside a run when the interpreter ends would abort the process.
        await asyncio.to_thread(self._repository.close, CLOSE_SECONDS)
        log.info("stopped")

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
        return OnnxEngine(settings.device, settings.intra_op_threads)
    except EngineError as error:
        raise StartError(str(error)) from error


async def _always() -> bool:
    return True
