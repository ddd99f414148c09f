"""GRPCInferenceService of the Open Inference Protocol v2, with Triton's model-repository extension.

Specification: https://github.com/kserve/open-inference-protocol. Messages are tritonclient's own, so that server and
client agree to the byte.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from tritonclient.grpc import service_pb2 as pb

from lectern import distribution
from services.codecs import tensors
from services.codecs.tensors import Array
from services.errors import InvalidArgument, PermissionDenied, ServiceError
from services.limits import Limits
from services.rpc import Call
from services.runtime.graph import Graph
from services.runtime.loader import State
from services.runtime.repository import Repository
from services.streams import pipelined

EXTENSIONS = ("model_repository", "model_configuration", "schedule_policy")
SEQUENCE_PARAMETERS = ("sequence_id", "sequence_start", "sequence_end")


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
        inputs = _decode(request, graph)
        outputs = await graph.infer(inputs, call.deadline, *_queueing(request, call))
        return _encode(request, graph, outputs)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async def infer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                return pb.ModelStreamInferResponse(infer_response=await self.ModelInfer(request, call))
            except ServiceError as error:  # the protocol reports one request's failure without ending the stream
                failed = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
                return pb.ModelStreamInferResponse(error_message=error.message, infer_response=failed)

        async with aclosing(pipelined(requests, infer, self._limits.stream_window)) as responses:
            async for response in responses:
                yield response

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
        if version and not (version.isascii() and version.isdigit()):
            raise InvalidArgument.field("model_version", f"is {version!r}; send a number, or nothing for the latest")
        return self._repository.graph(name, int(version or 0))


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
        if tensor.parameters:
            names = ", ".join(sorted(tensor.parameters))
            raise InvalidArgument.field(
                f"{field}.parameters", f"{names}: not served; send the tensor's values in the request"
            )
        tensors.check_shape(spec, tensor.shape, tensor.datatype, batched, field)
        if not raw:
            arrays[spec.name] = tensors.from_contents(tensor.contents, spec, tensor.shape, f"{field}.contents")
        elif tensor.HasField("contents"):
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
        if name in request.parameters:
            raise InvalidArgument.field(f"parameters[{name}]", "is not served: no model here keeps a sequence's state")
    numbers = []
    for name in ("priority", "timeout"):
        parameter = request.parameters[name] if name in request.parameters else pb.InferParameter(uint64_param=0)
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
        if value < 0:
            raise InvalidArgument.field(f"parameters[{name}]", "must be an integer from 0")
        numbers.append(value)
    return numbers[0] or call.priority, numbers[1] / 1e6


def _encode(request: pb.ModelInferRequest, graph: Graph, outputs: dict[str, Array]) -> pb.ModelInferResponse:
    names = [o.name for o in request.outputs] or list(outputs)
    if unknown := next((n for n in names if n not in outputs), None):
        raise InvalidArgument.field("outputs", f"{unknown!r} is not an output; there are: {', '.join(outputs)}")
    if parameters := [name for o in request.outputs for name in o.parameters]:
        raise InvalidArgument.field("outputs", f"have parameters that are not served: {', '.join(sorted(parameters))}")
    response = pb.ModelInferResponse(model_name=graph.config.name, model_version=str(graph.version), id=request.id)
    datatypes = {spec.name: spec.datatype for spec in graph.config.outputs}
    for name in names:
        response.outputs.add(name=name, datatype=datatypes[name], shape=outputs[name].shape)
        response.raw_output_contents.append(tensors.to_raw(outputs[name]))
    return response
