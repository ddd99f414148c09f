"""GRPCInferenceService of the Open Inference Protocol v2, with Triton's extensions that `EXTENSIONS` names.

Specification: https://github.com/kserve/open-inference-protocol; messages: protos/inference.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from weakref import WeakKeyDictionary

from inference import grpc_service_pb2 as pb
from lectern import distribution
from services.errors import InvalidArgument, PermissionDenied, ServiceError, Unimplemented
from services.inference.messages import NO_SHARED_MEMORY, Codec, queueing
from services.limits import Limits
from services.rpc import Call
from services.runtime import statistics
from services.runtime.graph import Graph
from services.runtime.loader import State
from services.runtime.repository import Repository
from services.streams import pipelined

EXTENSIONS = ("classification", "model_configuration", "model_repository", "schedule_policy", "statistics")
FINAL_RESPONSE = "triton_final_response"
VERSION_DIGITS = 18
NAME_BYTES = 256


class InferenceServicer:
    """Answers the Open Inference Protocol from every loaded graph."""

    def __init__(self, repository: Repository, limits: Limits, allow_model_control: bool) -> None:
        self._repository = repository
        self._limits = limits
        self._allow_model_control = allow_model_control
        self._codecs: WeakKeyDictionary[Graph, Codec] = WeakKeyDictionary()

    async def ServerLive(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, call: Call) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=await self._repository.any_healthy())

    async def ModelReady(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        try:
            self._graph(request.name, request.version)
        except ServiceError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, call: Call) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="lectern", version=distribution.version(), extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        graph = self._graph(request.name, request.version)
        config, batch = graph.config, [-1] if graph.config.max_batch_size else []
        response = pb.ModelMetadataResponse(name=config.name, platform="onnxruntime_onnx")
        response.versions.extend(str(v) for name, v in self._repository.graphs() if name == config.name)
        for specs, described in ((config.inputs, response.inputs), (config.outputs, response.outputs)):
            for spec in specs:
                described.add(name=spec.name, datatype=spec.datatype, shape=[*batch, *spec.shape])
        return response

    async def ModelConfig(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=self._graph(request.name, request.version).config.message)

    async def ModelInfer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        graph = self._graph(request.model_name, request.model_version)
        codec = self._codecs.get(graph)
        if codec is None:
            codec = self._codecs[graph] = Codec(graph.config, graph.version, self._limits)
        call.model = codec.model
        inputs, classes = codec.inputs(request), codec.classes(request)
        outputs = await graph.infer(inputs, call.deadline, *queueing(request, call))
        return codec.response(request.id, outputs, classes, self._labels(graph) if any(classes.values()) else ())

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async def infer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                response = await self.ModelInfer(request, call)
                if request.parameters["triton_enable_empty_final_response"].bool_param:
                    response.parameters[FINAL_RESPONSE].bool_param = True  # each request has one response
                return pb.ModelStreamInferResponse(infer_response=response)
            except ServiceError as error:  # in this protocol a failed request does not end the stream
                failed = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
                return pb.ModelStreamInferResponse(error_message=error.message, infer_response=failed)

        async with aclosing(pipelined(requests, infer, self._limits.stream_window)) as responses:
            async for response in responses:
                yield response

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        wanted = list(self._repository.graphs())
        if request.name:
            graph = self._graph(request.name, request.version)
            wanted = [(n, v) for n, v in wanted if n == request.name and (not request.version or v == graph.version)]
        if any(self._repository.graph(*of_graph).provider == "triton" for of_graph in wanted):
            raise Unimplemented("this server's models run in a Triton server: call ModelStatistics there")
        known = await asyncio.to_thread(statistics.of_graphs)
        response = pb.ModelStatisticsResponse()
        for name, version in wanted:
            counted = known.get((name, str(version)), statistics.NOTHING)
            _describe(counted, response.model_stats.add(name=name, version=str(version)))
        return response

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, call: Call
    ) -> pb.SystemSharedMemoryStatusResponse:
        return pb.SystemSharedMemoryStatusResponse()  # none is registered

    async def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest, call: Call
    ) -> pb.CudaSharedMemoryStatusResponse:
        return pb.CudaSharedMemoryStatusResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, call: Call
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        return pb.SystemSharedMemoryUnregisterResponse()  # as Triton answers where there is no such region

    async def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, call: Call
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        return pb.CudaSharedMemoryUnregisterResponse()

    async def SystemSharedMemoryRegister(self, request: pb.SystemSharedMemoryRegisterRequest, call: Call) -> None:
        raise Unimplemented(NO_SHARED_MEMORY)

    async def CudaSharedMemoryRegister(self, request: pb.CudaSharedMemoryRegisterRequest, call: Call) -> None:
        raise Unimplemented(NO_SHARED_MEMORY)

    async def TraceSetting(self, request: pb.TraceSettingRequest, call: Call) -> None:
        raise Unimplemented(
            "tracing is set when the server starts: LECTERN_TRACING and OpenTelemetry's OTEL_ variables"
        )

    async def LogSettings(self, request: pb.LogSettingsRequest, call: Call) -> None:
        raise Unimplemented("the log is set when the server starts: LECTERN_LOG_LEVEL and LECTERN_LOG_FORMAT")

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        response = pb.RepositoryIndexResponse()
        for name, number in self._repository.graphs():
            response.models.add(name=name, version=str(number), state=State.READY.value)
        for name, versions in [] if request.ready else sorted(self._repository.models.items()):
            for version in versions.values():
                if version.state is not State.READY:
                    response.models.add(
                        name=name, version=str(version.number), state=version.state.value, reason=version.reason
                    )
        return response

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        self._check_model_control()
        if request.parameters:
            raise InvalidArgument.field("parameters", "are not accepted: a model is loaded as it is in the repository")
        await self._repository.load_model(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        self._check_model_control()
        self._repository.unload_model(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _check_model_control(self) -> None:
        if not self._allow_model_control:
            raise PermissionDenied(
                "loading and unloading models is off; an operator turns it on with LECTERN_ALLOW_MODEL_CONTROL=true"
            )

    def _graph(self, name: str, version: str) -> Graph:
        if len(name.encode()) > NAME_BYTES:
            raise InvalidArgument.field("model_name", f"has {len(name):,} characters; no model has such a name")
        if version and not (version.isascii() and version.isdigit() and len(version) <= VERSION_DIGITS):
            raise InvalidArgument.field("model_version", f"is {version!r}; send a number, or nothing for the latest")
        return self._repository.graph(name, int(version or 0))

    def _labels(self, graph: Graph) -> Sequence[str]:
        """The model's labels if this is its forward graph; otherwise none."""
        versions = self._repository.models.get(graph.config.name, {})
        version = versions.get(graph.version)
        if version is None or version.card is None or version.graphs.get("forward") is not graph:
            return ()
        return version.card.labels


def _describe(counted: statistics.GraphStatistics, described: pb.ModelStatistics) -> None:
    """Fill in Triton's message. `compute_infer` counts batches, as `execution_count` does."""
    described.last_inference = int(counted.last_request * 1000)
    described.inference_count, described.execution_count = counted.rows, counted.runs.count
    stats = described.inference_stats
    for total, duration in (
        (counted.successes, stats.success),
        (counted.failures, stats.fail),
        (counted.waits, stats.queue),
        (counted.cache_hits, stats.cache_hit),
        (counted.cache_misses, stats.cache_miss),
        (counted.runs, stats.compute_infer),
    ):
        duration.count, duration.ns = total.count, int(total.seconds * 1e9)
