"""Triton's ModelConfig, read from `config.pbtxt`, reduced to what the embedded engine acts on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lectern import versions

DEFAULT_QUEUE_SIZE = 512
# What no graph needs; a slip of the keyboard must not take the machine's memory or threads.
MOST_BATCH_ROWS = 4096
MOST_INSTANCES = 64
MOST_PRIORITIES = 64
MOST_THREADS = 256

# Triton's names of data types, as in config.pbtxt (without TYPE_) and in the Open Inference Protocol.
DTYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


class ConfigError(ValueError):
    """`config.pbtxt` is missing, malformed, or asks for something the embedded engine does not do."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named input or output: Open Inference Protocol data type, and the shape of one item (-1 = any length)."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(DTYPES[self.datatype])


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """What may wait at one priority: `max_size` requests, each for `timeout` seconds (`inf` = as its caller says)."""

    max_size: int
    timeout: float
    may_override: bool


@dataclass(frozen=True, slots=True)
class GraphConfig:
    """How one graph is served.

    Args:
        max_batch_size: most items of one run; 0 = the graph has no batch axis.
        max_queue_delay: seconds that a batch may wait for more items while an instance is idle.
        queues: one policy for each priority, the first priority first.
        default_priority: of requests that name none; 1 = first.
        instances: how many runs go on at once.
        intra_op_threads: threads of one run on the CPU (`intra_op_thread_count`); 0 = as many as there are cores.
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

    def versions_to_serve(self, present: Sequence[int]) -> tuple[list[int], int]:
        """Candidates of `present` by the version policy, newest first, and how many of them to serve."""
        return versions.versions_to_serve(self.message, present)


def parse_config(name: str, content: bytes) -> GraphConfig:
    """The `config.pbtxt` of the directory `name`.

    Raises:
        ConfigError: says what is wrong with it.
    """
    message = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(content.decode(), message)
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise ConfigError(f"config.pbtxt cannot be read: {error}") from error
    if message.name not in ("", name):
        raise ConfigError(f"config.pbtxt names the model {message.name!r}, its directory is {name!r}")
    if message.backend != "onnxruntime":
        raise ConfigError(f'config.pbtxt asks for backend {message.backend!r}; only "onnxruntime" is served')
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
    return GraphConfig(
        name=name,
        inputs=tuple(_tensor(t) for t in message.input),
        outputs=tuple(_tensor(t) for t in message.output),
        max_batch_size=message.max_batch_size,
        max_queue_delay=batching.max_queue_delay_microseconds / 1e6,
        queues=tuple(_queue_policy(batching, level + 1) for level in range(max(1, batching.priority_levels))),
        default_priority=max(1, batching.default_priority_level),
        instances=instances,
        intra_op_threads=_intra_op_threads(message),
        message=message,
    )


def _intra_op_threads(message: model_config_pb2.ModelConfig) -> int:
    if versions.INTRA_OP_THREADS not in message.parameters:
        return 1  # where Triton's backend takes every core
    value = message.parameters[versions.INTRA_OP_THREADS].string_value
    if not value.isdecimal() or int(value) > MOST_THREADS:
        raise ConfigError(f"{versions.INTRA_OP_THREADS} must be a number from 0 to {MOST_THREADS}, not {value!r}")
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
