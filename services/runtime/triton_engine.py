"""The engine whose graphs run in a Triton server, which queues, batches and counts; a client of its gRPC."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import grpc
import numpy as np

from inference import grpc_service_pb2 as pb
from inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from services import tracing
from services.errors import DeadlineExceeded, Internal, ResourceExhausted, ServiceError, Unavailable
from services.runtime.axes import SharedAxes
from services.runtime.config import GraphConfig
from services.runtime.graph import HOST, Array, EngineUnavailableError, Graph, Memory, input_refused

CONNECT_SECONDS = 2.0
HEALTH_SECONDS = 2.0
RETRY_AFTER_SECONDS = 0.5

log = logging.getLogger(__name__)


class TritonEngine:
    """Sends every run to the Triton at `url`, which serves the same model repository.

    Args:
        url: `host:port` of its gRPC server, or `dns:///name:port` of several, which take turns.
        message_bytes: size limit of requests and responses.
        ca: PEM file of the authority that signed Triton's certificate; None = no TLS.

    Raises:
        OSError: the file cannot be read.
    """

    name = "triton"

    def __init__(self, url: str, message_bytes: int, ca: Path | None = None) -> None:
        self.url = url
        self._credentials = grpc.ssl_channel_credentials(ca.read_bytes()) if ca else None
        self._options = [
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", message_bytes),
            ("grpc.lb_policy_name", "round_robin"),
        ]
        # A channel belongs to the event loop that created it.
        self._channels: WeakKeyDictionary[asyncio.AbstractEventLoop, grpc.aio.Channel] = WeakKeyDictionary()
        self._blocking_channel: grpc.Channel | None = None

    def load(
        self, config: GraphConfig, version: int, content: bytes, read_again: Callable[[], bytes] | None = None
    ) -> Graph:
        """Check that Triton serves this version. Triton reads its own copy of the graph."""
        with self._channel(grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            request = pb.ModelReadyRequest(name=config.name, version=str(version))
            try:
                ready = stub.ModelReady(request, timeout=CONNECT_SECONDS, wait_for_ready=True).ready
            except grpc.RpcError as error:
                raise EngineUnavailableError(f"Triton at {self.url} does not answer") from error
        if not ready:
            raise EngineUnavailableError(f"Triton at {self.url} does not serve {config.name} version {version}")
        axes = SharedAxes(config, content)
        return TritonGraph(replace(config, padding=None), version, self, axes)  # Triton batches only equal shapes

    def stub(self) -> GRPCInferenceServiceStub:
        """A stub on the connection that all graphs share on this event loop."""
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is None:
            channel = self._channels[loop] = self._channel(grpc.aio)
        return GRPCInferenceServiceStub(channel)

    def blocking_stub(self) -> GRPCInferenceServiceStub:
        """A stub on the connection for calls from threads."""
        if self._blocking_channel is None:
            self._blocking_channel = self._channel(grpc)
        return GRPCInferenceServiceStub(self._blocking_channel)

    def _channel(self, library: Any) -> Any:
        """A channel of `grpc` or of `grpc.aio`."""
        if self._credentials:
            return library.secure_channel(self.url, self._credentials, options=self._options)
        return library.insecure_channel(self.url, options=self._options)


class TritonGraph:
    """A graph that runs in a Triton server."""

    provider = "triton"
    memory: Memory = HOST

    def __init__(self, config: GraphConfig, version: int, engine: TritonEngine, axes: SharedAxes) -> None:
        self.config = config
        self.version = version
        self._engine = engine
        self._axes = axes
        self._attributes: tracing.Attributes = {
            "rpc.system": "grpc",
            "rpc.service": "inference.GRPCInferenceService",
            "rpc.method": "ModelInfer",
            "server.address": engine.url.rpartition("/")[2].rpartition(":")[0],
            "lectern.graph": config.name,
            "lectern.version": version,
            "lectern.provider": self.provider,
        }
        self._specs = {spec.name: spec for spec in (*config.inputs, *config.outputs)}

    async def infer(
        self, inputs: Mapping[str, Array], deadline: float = float("inf"), priority: int = 0, max_wait: float = 0.0
    ) -> dict[str, Array]:
        self._axes.check(inputs)
        limit = self.config.max_batch_size
        rows = len(next(iter(inputs.values()))) if limit else 0
        if rows <= limit:
            return await self._infer(inputs, deadline, priority, max_wait)
        # Triton refuses batches larger than the config's.
        slices = ({n: a[s : s + limit] for n, a in inputs.items()} for s in range(0, rows, limit))
        parts = [await self._infer(part, deadline, priority, max_wait) for part in slices]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._axes.check(inputs)
        try:
            return self._outputs(self._engine.blocking_stub().ModelInfer(self._request(inputs)))
        except grpc.RpcError as error:
            raise self._translate(error) from error

    async def healthy(self) -> bool:
        request = pb.ModelReadyRequest(name=self.config.name, version=str(self.version))
        try:
            return bool((await self._engine.stub().ModelReady(request, timeout=HEALTH_SECONDS)).ready)
        except grpc.RpcError:
            return False

    def close(self, seconds: float) -> None:
        """Nothing to do: the graph runs in Triton."""

    async def _infer(
        self, inputs: Mapping[str, Array], deadline: float, priority: int, max_wait: float
    ) -> dict[str, Array]:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded("the deadline passed before the request reached Triton")
        request = self._request(inputs)
        if priority:
            request.parameters["priority"].uint64_param = priority
        if max_wait:
            request.parameters["timeout"].int64_param = int(max_wait * 1e6)
        started = time.monotonic()
        try:
            timeout = None if remaining == float("inf") else remaining
            with tracing.current().span("inference", self._attributes, client=True):
                # Triton queues and batches; all of that counts as inference here, and Triton's own spans show it.
                headers = tracing.current().headers()
                response = await self._engine.stub().ModelInfer(request, timeout=timeout, metadata=headers)
        except grpc.RpcError as error:
            raise self._translate(error) from error
        finally:
            tracing.current().add("inference", time.monotonic() - started)
        return self._outputs(response)

    def _request(self, inputs: Mapping[str, Array]) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest(model_name=self.config.name, model_version=str(self.version))
        for name, array in inputs.items():
            request.inputs.add(name=name, datatype=self._specs[name].datatype, shape=array.shape)
            request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
        return request

    def _outputs(self, response: pb.ModelInferResponse) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            Internal: their bytes are not those of their shapes, as where Triton's Python backend runs with a numpy that
                it was not built for.
        """
        sizes = [len(content) for content in response.raw_output_contents]
        wanted = [self._specs[o.name].dtype.itemsize * math.prod(o.shape) for o in response.outputs]
        if sizes != wanted:
            names = [output.name for output in response.outputs]
            log.error("Triton's outputs %s of %s have %s bytes, not %s", names, self.config.name, sizes, wanted)
            raise Internal(
                f"model {self.config.name}: Triton answered with {sum(sizes)} bytes where its shapes need {sum(wanted)}"
            )
        raw = zip(response.outputs, response.raw_output_contents, strict=True)
        return {o.name: np.frombuffer(r, self._specs[o.name].dtype).reshape(o.shape) for o, r in raw}

    def _translate(self, error: grpc.RpcError) -> ServiceError:
        message = error.details() or ""
        # NVIDIA's backend reports INTERNAL with ONNX Runtime's code for an invalid argument.
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT or "onnx runtime error 2" in message:
            log.info("Triton refuses an input of %s: %s", self.config.name, message)
            return input_refused(self.config)
        match error.code():
            case grpc.StatusCode.UNAVAILABLE if "timeout expired" in message.lower():
                return DeadlineExceeded("the request timed out in Triton's queue")
            case grpc.StatusCode.UNAVAILABLE if "maximum queue size" in message:
                return ResourceExhausted(
                    f"model {self.config.name}: Triton's queue is full; try again later",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.NOT_FOUND:
                return Unavailable(f"model {self.config.name}: Triton does not answer", retry_after=RETRY_AFTER_SECONDS)
            case grpc.StatusCode.RESOURCE_EXHAUSTED if "message larger than max" in message:
                return ResourceExhausted(
                    f"model {self.config.name}: the decoded items exceed one message to Triton; send fewer"
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return DeadlineExceeded("the deadline passed while Triton ran the model")
        log.error("Triton failed on %s: %s %s", self.config.name, error.code().name, message)
        return Internal(f"model {self.config.name} failed on this input")
