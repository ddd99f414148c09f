"""One serving process: loads models, answers until told to stop, and drains."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2

from lectern.v1 import model_pb2
from services.inference.servicer import InferenceServicer
from services.runtime.graph import Engine, EngineError
from services.runtime.onnx_engine import OnnxEngine
from services.runtime.repository import Repository
from services.runtime.triton_engine import TritonEngine
from services.server import grpc_transport, reflection, registry, telemetry, tls
from services.server.access import Access
from services.server.auth import INFERENCE, MODELS
from services.server.model_service import ModelServicer
from services.server.pipeline import Endpoint, Gate
from services.server.report import ModelRow, Ready
from services.server.settings import Settings, StartError

log = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
INFERENCE_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
CLOSE_SECONDS = 5.0
IsReady = Callable[[], Awaitable[bool]]
OnReady = Callable[[bool], None]


class App:
    """A server process.

    Raises:
        StartError: the device that was asked for is not there, a file of certificates or tokens is not good, or
            tracing cannot be.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._send_spans = telemetry.start(settings)
        self._access = Access.of(settings)
        self._certificates = tls.certificates(settings)
        self._gate = Gate(self._access)
        self._health = health.aio.HealthServicer()
        self._repository = Repository(settings.repository, _engine(settings), settings.capabilities)
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
        server = grpc_transport.create_server(self._settings.limits.message_bytes)
        services = self._add_services(server)
        try:
            await asyncio.to_thread(self._repository.load)
        except FileNotFoundError as error:
            raise StartError(str(error)) from error
        # Listening starts here: workers share the port, and one that still loads must not be given calls.
        port = self._bind(server)
        await server.start()
        await self._health.set("", SERVING)
        await self._update_health(services, on_ready)
        self.serving = True
        on_serving(Ready(port, tuple(self._rows())))
        watch = asyncio.create_task(self._watch(services, on_ready))
        await stop.wait()
        watch.cancel()
        await self._drain(server)

    async def _watch(self, services: Mapping[str, IsReady], on_ready: OnReady) -> None:
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
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
            await self._health.set(name, SERVING if answers else NOT_SERVING)
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

    def _add_services(self, server: grpc.aio.Server) -> dict[str, IsReady]:
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
            served.append((service, registry.servicer_class(capability)(repository, settings.limits), capability))
            ready[service.full_name] = partial(repository.any_healthy, capability)
        methods = [method for of_service in served for method in registry.methods(*of_service)]
        if settings.reflection:
            methods += reflection.methods((*ready, health.SERVICE_NAME))
        endpoints = (Endpoint(method, self._gate) for method in methods)
        grpc_transport.add_endpoints(server, endpoints, mutual_tls=settings.tls_client_ca is not None)
        # Outside the chain: probes need no token.
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        return ready

    def _bind(self, server: grpc.aio.Server) -> int:
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            return grpc_transport.bind(server, address, self._certificates)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {address}: is another server running there? Choose another with --port"
            ) from error

    async def _drain(self, server: grpc.aio.Server) -> None:
        """Say NOT_SERVING, let balancers notice, refuse new work, and finish what was accepted."""
        log.info("draining: %d requests under way", self._gate.active)
        self.serving = False
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.drain_pause_seconds)
        self._gate.draining = True
        await server.stop(self._settings.drain_seconds)
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
