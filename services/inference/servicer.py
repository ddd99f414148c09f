"""GRPCInferenceService of the Open Inference Protocol v2, with Triton's extensions that `EXTENSIONS` names.

Specification: https://github.com/kserve/open-inference-protocol. Messages are tritonclient's own, so that server and
client agree to the byte. Parameters that are hints (`binary_data_size`, `content_type`) are ignored; one whose neglect
would make the answer wrong is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing

from tritonclient.grpc import service_pb2 as pb

from lectern import distribution
from services.codecs import tensors
from services.codecs.tensors import Array
from services.errors import InvalidArgument, PermissionDenied, ServiceError, Unimplemented
from services.inference import classification
from services.limits import Limits
from services.rpc import Call
from services.runtime import statistics
from services.runtime.graph import Graph
from services.runtime.loader import State
from services.runtime.repository import Repository
from services.streams import pipelined

EXTENSIONS = ("classification", "model_configuration", "model_repository", "schedule_policy", "statistics")
SEQUENCE_PARAMETERS = ("sequence_id", "sequence_start", "sequence_end")
SHARED_MEMORY = "shared_memory_"
FINAL_RESPONSE = "triton_final_response"
VERSION_DIGITS = 18
NAME_BYTES = 256
NO_SHARED_MEMORY = "shared memory is not served: send the tensor's values in the message"
LONGEST_WAIT = 10**15  # microseconds: 30 years, which every number of the protocol holds


class InferenceServicer:
    """Answers the Open Inference Protocol from every loaded graph."""

    def __init__(self, repository: Repository, limits: Limits, allow_model_control: bool) -> None:
        self._repository = repository
        self._limits = limits
        self._allow_model_control = allow_model_control

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
        call.model = f"{graph.config.name}/{graph.version}"
        inputs, requested = _decode(request, graph), _requested(request, graph)
        outputs = await graph.infer(inputs, call.deadline, *_queueing(request, call))
        return _encode(request, graph, outputs, requested, self._labels(graph))

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async def infer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                response = await self.ModelInfer(request, call)
                if request.parameters["triton_enable_empty_final_response"].bool_param:
                    response.parameters[FINAL_RESPONSE].bool_param = True  # each request has one response
                return pb.ModelStreamInferResponse(infer_response=response)
            except ServiceError as error:  # the protocol reports one request's failure without ending the stream
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
            raise Unimplemented("this server's models run in a Triton, which counts them: ask it for ModelStatistics")
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
            raise InvalidArgument.field("parameters", "are not taken: a model is loaded as it is in the repository")
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
            raise InvalidArgument.field("model_name", f"has {len(name):,} characters; no model is called so")
        if version and not (version.isascii() and version.isdigit() and len(version) <= VERSION_DIGITS):
            raise InvalidArgument.field("model_version", f"is {version!r}; send a number, or nothing for the latest")
        return self._repository.graph(name, int(version or 0))

    def _labels(self, graph: Graph) -> Sequence[str]:
        """The labels of the model whose forward graph this is; none for any other graph."""
        versions = self._repository.models.get(graph.config.name, {})
        version = versions.get(graph.version)
        if version is None or version.card is None or version.graphs.get("forward") is not graph:
            return ()
        return version.card.labels


def _decode(request: pb.ModelInferRequest, graph: Graph) -> dict[str, Array]:
    """The request's tensors, checked against the graph's inputs."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgument.field("raw_input_contents", f"has {len(raw)} tensors for {len(request.inputs)} inputs")
    batched = graph.config.max_batch_size > 0
    specs = {spec.name: spec for spec in graph.config.inputs}
    arrays: dict[str, Array] = {}
    for i, tensor in enumerate(request.inputs):
        field = f"inputs[{i}]"
        spec = specs.get(tensor.name)
        if spec is None or tensor.name in arrays:
            problem = (
                "is given twice" if spec else f"is not an input of {graph.config.name}; it takes: {', '.join(specs)}"
            )
            raise InvalidArgument.field(f"{field}.name", f"{tensor.name!r} {problem}")
        _refuse_shared_memory(tensor.parameters, field)
        tensors.check_shape(spec, tensor.shape, tensor.datatype, batched, field)
        if not raw:
            arrays[spec.name] = tensors.from_contents(tensor.contents, spec, tensor.shape, f"{field}.contents")
        elif tensor.contents.ListFields():
            raise InvalidArgument.field(f"{field}.contents", "must be empty when raw_input_contents is used")
        else:
            arrays[spec.name] = tensors.from_raw(raw[i], spec, tensor.shape, f"raw_input_contents[{i}]")
    if missing := specs.keys() - arrays.keys():
        raise InvalidArgument.field("inputs", f"lack {', '.join(sorted(missing))}")
    if batched and len({len(a) for a in arrays.values()}) > 1:
        raise InvalidArgument.field("inputs", "have different batch sizes")
    return arrays


def _queueing(request: pb.ModelInferRequest, call: Call) -> tuple[int, float]:
    """Priority and queue timeout in seconds, from the parameters that Triton has for them, or the call's metadata."""
    for name in SEQUENCE_PARAMETERS:
        if name in request.parameters and _value(request.parameters[name]):
            raise InvalidArgument.field(f"parameters[{name}]", "is not served: no model here keeps a sequence's state")
    numbers = []
    for name in ("priority", "timeout"):
        value = _value(request.parameters[name]) if name in request.parameters else 0
        if type(value) is not int or value < 0:
            raise InvalidArgument.field(f"parameters[{name}]", "must be an integer from 0")
        numbers.append(value)
    return numbers[0] or call.priority, min(numbers[1], LONGEST_WAIT) / 1e6


def _value(parameter: pb.InferParameter) -> bool | int | float | str | None:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _refuse_shared_memory(parameters: Iterable[str], field: str) -> None:
    if name := next((name for name in parameters if name.startswith(SHARED_MEMORY)), None):
        raise InvalidArgument.field(f"{field}.parameters", f"{name}: {NO_SHARED_MEMORY}")


def _requested(request: pb.ModelInferRequest, graph: Graph) -> dict[str, int]:
    """The outputs that are asked for, each with how many classes of it; 0 = the tensor.

    Raises:
        InvalidArgument: there is no such output, it is named twice, or it cannot be given so.
    """
    specs = {spec.name: spec for spec in graph.config.outputs}
    requested: dict[str, int] = {}
    for i, output in enumerate(request.outputs):
        if output.name not in specs:
            raise InvalidArgument.field("outputs", f"{output.name!r} is not an output; there are: {', '.join(specs)}")
        if output.name in requested:
            raise InvalidArgument.field("outputs", f"{output.name!r} is given twice")
        _refuse_shared_memory(output.parameters, f"outputs[{i}]")
        classes = _value(output.parameters["classification"]) if "classification" in output.parameters else 0
        field = f"outputs[{i}].parameters[classification]"
        if type(classes) is not int or classes < 0:
            raise InvalidArgument.field(field, "must be an integer from 0")
        if classes and specs[output.name].dtype.kind not in classification.KINDS:
            raise InvalidArgument.field(field, f"is for outputs of numbers; {output.name!r} is none")
        requested[output.name] = classes
    return requested or dict.fromkeys(specs, 0)


def _encode(
    request: pb.ModelInferRequest,
    graph: Graph,
    outputs: dict[str, Array],
    requested: dict[str, int],
    labels: Sequence[str],
) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=graph.config.name, model_version=str(graph.version), id=request.id)
    datatypes = {spec.name: spec.datatype for spec in graph.config.outputs}
    batched = graph.config.max_batch_size > 0
    for name, classes in requested.items():
        if classes:
            shape, content = classification.largest(outputs[name], classes, batched, labels)
            response.outputs.add(name=name, datatype="BYTES", shape=shape)
        else:
            content = tensors.to_raw(outputs[name])
            response.outputs.add(name=name, datatype=datatypes[name], shape=outputs[name].shape)
        response.raw_output_contents.append(content)
    return response


def _describe(known: statistics.GraphStatistics, described: pb.ModelStatistics) -> None:
    """Fill in Triton's message. `compute_infer` counts batches, as `execution_count` does."""
    described.last_inference = int(known.last_request * 1000)
    described.inference_count, described.execution_count = known.rows, known.runs.count
    stats = described.inference_stats
    for total, duration in (
        (known.successes, stats.success),
        (known.failures, stats.fail),
        (known.waits, stats.queue),
        (known.runs, stats.compute_infer),
    ):
        duration.count, duration.ns = total.count, int(total.seconds * 1e9)
