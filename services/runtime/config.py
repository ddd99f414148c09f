"""Triton's ModelConfig, read from `config.pbtxt`, reduced to what the embedded engine acts on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artifacts import versions
from artifacts.datatypes import DTYPES
from inference import model_config_pb2

DEFAULT_QUEUE_SIZE = 512
# More than any graph needs: a typing error in a config must not exhaust the machine's memory or threads.
MOST_BATCH_ROWS = 4096
MOST_INSTANCES = 64
MOST_PRIORITIES = 64
MOST_THREADS = 256
MOST_AXES = 16
MOST_PLACES = 2**31 - 1
# Parameters of config.pbtxt for padding, each with its least and its largest value.
PADDING = {
    "padded_axis": (1, MOST_AXES),
    "pad_value": (0, MOST_PLACES),
    "pad_multiple": (1, MOST_PLACES),
    "batch_budget": (1, MOST_PLACES),
}


class ConfigError(ValueError):
    """`config.pbtxt` is missing, malformed, or asks for something the embedded engine does not do."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named input or output: Open Inference Protocol data type, and the shape of one item (-1 = any length).

    Args:
        longest: most places of an axis of variable length, from the model's card; 0 = not given.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    longest: int = 0

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(DTYPES[self.datatype])


@dataclass(frozen=True, slots=True)
class Padding:
    """How requests whose inputs differ in the length of one axis run together.

    Each input has at most one axis of variable length, and it is the padded one. The graph gives the same answer
    however much a row is padded, and the variable axes of its outputs are as long as the padded axis.

    Args:
        axis: the padded axis of the inputs; the batch is axis 0.
        value: the padding.
        multiple: requests run together if their lengths, rounded up to a multiple of this, are the same.
        budget: most rows times longest length of a run of more than one row.
    """

    axis: int
    value: int
    multiple: int
    budget: int


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Bounds on the queue of one priority: `max_size` requests, each for at most `timeout` seconds; `inf` = no bound
    but the request's deadline."""

    max_size: int
    timeout: float
    may_override: bool


@dataclass(frozen=True, slots=True)
class GraphConfig:
    """How one graph is served.

    Args:
        max_batch_size: most items in one run; 0 = the graph has no batch axis.
        max_queue_delay: seconds that a batch may wait for more items while an instance is idle.
        queues: one policy for each priority, the first priority first.
        default_priority: priority of requests that name none; 1 = first.
        instances: how many runs may go on at once.
        intra_op_threads: threads of one run on the CPU (`intra_op_thread_count`); 0 = one per core.
        padding: how requests of different lengths run together; None = they do not.
        response_cache: whether equal inputs may get an answer that was computed before.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    max_queue_delay: float
    queues: tuple[QueuePolicy, ...]
    default_priority: int
    instances: int
    intra_op_threads: int
    message: model_config_pb2.ModelConfig
    padding: Padding | None = None
    response_cache: bool = False

    def versions_to_serve(self, present: Sequence[int]) -> tuple[list[int], int]:
        """Candidates of `present` by the version policy, newest first, and how many of them to serve."""
        return versions.versions_to_serve(self.message, present)


def parse_config(name: str, content: bytes) -> GraphConfig:
    """The `config.pbtxt` of the directory `name`.

    Raises:
        ConfigError: it is malformed, or asks for something that is not served; the message says what.
    """
    return config_of(name, parse_message(content))


def parse_message(content: bytes) -> model_config_pb2.ModelConfig:
    """A `config.pbtxt` as it is.

    Raises:
        ConfigError: it is malformed.
    """
    try:
        return versions.parse_config(content)
    except versions.VersionError as error:
        raise ConfigError(str(error)) from error


def config_of(name: str, message: model_config_pb2.ModelConfig) -> GraphConfig:
    """What a complete config says, of the directory `name`.

    Raises:
        ConfigError: it asks for something that is not served; the message says what.
    """
    if message.name not in ("", name):
        raise ConfigError(f"config.pbtxt names the model {message.name!r}, its directory is {name!r}")
    # Triton's older name for the same.
    if message.backend != "onnxruntime" and (message.backend or message.platform != "onnxruntime_onnx"):
        key = "platform" if message.platform and not message.backend else "backend"
        raise ConfigError(
            f'config.pbtxt asks for {key} {getattr(message, key)!r}; only the backend "onnxruntime" is served'
        )
    if not message.input or not message.output:
        raise ConfigError("config.pbtxt must list the graph's inputs and outputs")
    batching = message.dynamic_batching
    instances = max(1, sum(group.count or 1 for group in message.instance_group))
    for key, value, most in (
        ("max_batch_size", message.max_batch_size, MOST_BATCH_ROWS),
        ("instance_group counts", instances, MOST_INSTANCES),
        ("priority_levels", batching.priority_levels, MOST_PRIORITIES),
    ):
        if not 0 <= value <= most:
            raise ConfigError(f"config.pbtxt: {key} must be from 0 to {most}, not {value}")
    if batching.priority_levels and not 1 <= batching.default_priority_level <= batching.priority_levels:
        raise ConfigError(f"default_priority_level must be from 1 to priority_levels, {batching.priority_levels}")
    inputs = tuple(_tensor(t) for t in message.input)
    return GraphConfig(
        name=name,
        inputs=inputs,
        outputs=tuple(_tensor(t) for t in message.output),
        max_batch_size=message.max_batch_size,
        max_queue_delay=batching.max_queue_delay_microseconds / 1e6,
        queues=tuple(_queue_policy(batching, level + 1) for level in range(max(1, batching.priority_levels))),
        default_priority=max(1, batching.default_priority_level),
        instances=instances,
        intra_op_threads=_intra_op_threads(message),
        message=message,
        padding=_padding(message, inputs),
        response_cache=message.response_cache.enable,
    )


def _intra_op_threads(message: model_config_pb2.ModelConfig) -> int:
    if versions.INTRA_OP_THREADS not in message.parameters:
        return 1  # where Triton's backend takes every core
    return _number(message, versions.INTRA_OP_THREADS, 0, MOST_THREADS)


def _padding(message: model_config_pb2.ModelConfig, inputs: Sequence[TensorSpec]) -> Padding | None:
    given = [name for name in PADDING if name in message.parameters]
    if not given:
        return None
    if len(given) < len(PADDING):
        raise ConfigError(f"the parameters {', '.join(PADDING)} go together; there is only {', '.join(given)}")
    axis, value, multiple, budget = (_number(message, name, *PADDING[name]) for name in PADDING)
    padded = [spec for spec in inputs if -1 in spec.shape]
    if not message.max_batch_size or not padded:
        raise ConfigError("padded_axis is for graphs with a batch and an input of variable length")
    for spec in padded:
        if spec.shape.count(-1) > 1 or spec.shape.index(-1) != axis - 1:
            raise ConfigError(f"padded_axis is {axis}; dims of {spec.name!r} must have -1 there, and nowhere else")
        if spec.dtype.kind in "iu" and value > np.iinfo(spec.datatype.lower()).max:
            raise ConfigError(f"pad_value is {value}, which {spec.name!r} ({spec.datatype}) cannot hold")
    return Padding(axis, value, multiple, budget)


def _number(message: model_config_pb2.ModelConfig, name: str, least: int, most: int) -> int:
    value = message.parameters[name].string_value
    if not value.isdecimal() or not least <= int(value) <= most:
        raise ConfigError(f"{name} must be a number from {least} to {most}, not {value!r}")
    return int(value)


def _queue_policy(batching: model_config_pb2.ModelDynamicBatching, priority: int) -> QueuePolicy:
    policy = batching.priority_queue_policy.get(priority, batching.default_queue_policy)
    if policy.timeout_action != model_config_pb2.ModelQueuePolicy.REJECT:
        raise ConfigError("timeout_action DELAY is not served; use REJECT")
    return QueuePolicy(
        max_size=policy.max_queue_size or DEFAULT_QUEUE_SIZE,
        timeout=policy.default_timeout_microseconds / 1e6 or float("inf"),
        may_override=policy.allow_timeout_override,
    )


def _tensor(tensor: model_config_pb2.ModelInput | model_config_pb2.ModelOutput) -> TensorSpec:
    known = tensor.data_type in model_config_pb2.DataType.values()
    datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_") if known else ""
    if datatype not in DTYPES:
        raise ConfigError(f"tensor {tensor.name!r} has data type {datatype or tensor.data_type}, which is not served")
    return TensorSpec(tensor.name, datatype, tuple(tensor.dims))
