"""Messages of ModelInfer to arrays and back.

Parameters that are hints (`binary_data_size`, `content_type`) are ignored. A parameter that would change the answer is
refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from inference import grpc_service_pb2 as pb
from services.codecs import tensors
from services.codecs.tensors import Array
from services.errors import InvalidArgument
from services.inference import classification
from services.limits import Limits
from services.rpc import Call
from services.runtime.config import GraphConfig

SEQUENCE_PARAMETERS = ("sequence_id", "sequence_start", "sequence_end")
SHARED_MEMORY = "shared_memory_"
NO_SHARED_MEMORY = "shared memory is not served: send the tensor's values in the message"
LONGEST_WAIT = 10**15  # microseconds: 30 years, which fits every integer type of the protocol


class Codec:
    """Reads requests to one graph and writes its responses; what depends on the graph alone is worked out once.

    Attributes:
        model: the graph's name and version, for the log.
    """

    def __init__(self, config: GraphConfig, version: int, limits: Limits) -> None:
        self.model = f"{config.name}/{version}"
        self._name, self._version = config.name, str(version)
        self._batched = config.max_batch_size > 0
        self._inputs = {spec.name: tensors.Input(spec, self._batched, limits) for spec in config.inputs}
        self._outputs = {spec.name: spec for spec in config.outputs}
        self._every_tensor = dict.fromkeys(self._outputs, 0)

    def inputs(self, request: pb.ModelInferRequest) -> dict[str, Array]:
        """The request's tensors by name, checked against the graph's inputs.

        Raises:
            InvalidArgument: the graph does not take them; says why.
        """
        raw, arrays = request.raw_input_contents, dict[str, Array]()
        if raw and len(raw) != len(request.inputs):
            raise InvalidArgument.field(
                "raw_input_contents", f"has {len(raw)} tensors for {len(request.inputs)} inputs"
            )
        for i, tensor in enumerate(request.inputs):
            name, shape, field = tensor.name, tuple(tensor.shape), f"inputs[{i}]"
            spec = self._inputs.get(name)
            if spec is None or name in arrays:
                takes = f"is not an input of {self._name}; it takes: {', '.join(self._inputs)}"
                raise InvalidArgument.field(f"{field}.name", f"{name!r} {'is given twice' if spec else takes}")
            _refuse_shared_memory(tensor.parameters, field)
            spec.check(shape, tensor.datatype, field)
            if not raw:
                arrays[name] = spec.from_contents(tensor.contents, shape, f"{field}.contents")
            elif tensor.HasField("contents") and tensor.contents.ListFields():
                raise InvalidArgument.field(f"{field}.contents", "must be empty when raw_input_contents is used")
            else:
                arrays[name] = spec.from_raw(raw[i], shape, f"raw_input_contents[{i}]")
        if len(arrays) < len(self._inputs):
            missing = self._inputs.keys() - arrays.keys()
            raise InvalidArgument.field("inputs", f"lack {', '.join(sorted(missing))}")
        if self._batched and len(arrays) > 1 and len(set(map(len, arrays.values()))) > 1:
            raise InvalidArgument.field("inputs", "have different batch sizes")
        return arrays

    def classes(self, request: pb.ModelInferRequest) -> Mapping[str, int]:
        """The requested outputs, each with the number of classes to return; 0 = return the tensor.

        Raises:
            InvalidArgument: there is no such output, it is named twice, or it has no classes.
        """
        if not request.outputs:
            return self._every_tensor
        requested: dict[str, int] = {}
        for i, output in enumerate(request.outputs):
            if output.name not in self._outputs:
                raise InvalidArgument.field(
                    "outputs", f"{output.name!r} is not an output; there are: {', '.join(self._outputs)}"
                )
            if output.name in requested:
                raise InvalidArgument.field("outputs", f"{output.name!r} is given twice")
            _refuse_shared_memory(output.parameters, f"outputs[{i}]")
            count = _value(output.parameters["classification"]) if "classification" in output.parameters else 0
            field = f"outputs[{i}].parameters[classification]"
            if type(count) is not int or count < 0:
                raise InvalidArgument.field(field, "must be an integer from 0")
            if count and self._outputs[output.name].dtype.kind not in classification.KINDS:
                raise InvalidArgument.field(field, f"needs an output of numbers, which {output.name!r} is not")
            requested[output.name] = count
        return requested

    def response(
        self, request_id: str, outputs: Mapping[str, Array], classes: Mapping[str, int], labels: Sequence[str]
    ) -> pb.ModelInferResponse:
        """The message of these outputs, as `classes` says; `labels` by index, as for `classification.largest`."""
        response = pb.ModelInferResponse(model_name=self._name, model_version=self._version, id=request_id)
        for name, count in classes.items():
            array = outputs[name]
            if count:
                shape, content = classification.largest(array, count, self._batched, labels)
                response.outputs.add(name=name, datatype="BYTES", shape=shape)
            else:
                content = tensors.to_raw(array)
                response.outputs.add(name=name, datatype=self._outputs[name].datatype, shape=array.shape)
            response.raw_output_contents.append(content)
        return response


def queueing(request: pb.ModelInferRequest, call: Call) -> tuple[int, float]:
    """Priority and queue timeout in seconds, from Triton's parameters or the call's metadata.

    Raises:
        InvalidArgument: one of them is not a number, or the request belongs to a sequence.
    """
    if not request.parameters:
        return call.priority, 0.0
    for name in SEQUENCE_PARAMETERS:
        if name in request.parameters and _value(request.parameters[name]):
            raise InvalidArgument.field(
                f"parameters[{name}]", "is not served: no model here keeps the state of a sequence"
            )
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
    for name in parameters:
        if name.startswith(SHARED_MEMORY):
            raise InvalidArgument.field(f"{field}.parameters", f"{name}: {NO_SHARED_MEMORY}")
