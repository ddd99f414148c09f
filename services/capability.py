"""The descriptor of a capability. Each capability's package has one in its `__init__`; every list is derived from it.

It imports only protobuf, so that listing capabilities loads neither numpy nor an inference engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.message import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """CPU and memory that one pod requests, and its limits, as Kubernetes writes quantities."""

    memory: str
    memory_limit: str
    cpu: str = "1"
    cpu_limit: str = "2"


@dataclass(frozen=True, kw_only=True)
class Capability:
    """A service, with everything that serving, deploying and load-testing it needs.

    Args:
        package: `services.NAME`. NAME is the argument of `lectern serve`, a scope of tokens, and what cards say.
        contract: the file descriptor of its stubs, which has one service.
        servicer: the class that answers, as `module:Class`.
        default_models: the model for requests that name none, by RPC or, in `explain`, by kind of input.
        command: an example command line, which a server prints at its start.
        example: makes a small request for the default model, given the directory docs/examples; load tests and
            benchmarks send it.
        pod: its size in Kubernetes.
        answers_from: capabilities whose models answer its requests; empty = its own.
        borrows_from: further capabilities whose models it needs beside the one that answers.
        settings: names of the server's settings that its servicer takes.
        numeric: whether its servicer computes between runs of graphs and so needs its own event loop.

    Raises:
        ValueError: the contract does not have exactly one service.
    """

    package: str
    contract: FileDescriptor
    servicer: str
    default_models: Mapping[str, str]
    command: str
    example: Callable[[Path], Message]
    pod: Pod
    answers_from: tuple[str, ...] = ()
    borrows_from: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    numeric: bool = False
    service: ServiceDescriptor = field(init=False)

    def __post_init__(self) -> None:
        (service,) = self.contract.services_by_name.values()
        object.__setattr__(self, "service", service)

    @property
    def name(self) -> str:
        """Its package's name, e.g. `detect_anomaly`."""
        return self.package.rpartition(".")[2]

    @property
    def models_of(self) -> tuple[str, ...]:
        """The capabilities whose models answer its requests."""
        return self.answers_from or (self.name,)

    def rpc_of(self, request: Message) -> str | None:
        """The RPC that takes a request of this type; None if there is none."""
        names = (rpc.name for rpc in self.service.methods if rpc.input_type == request.DESCRIPTOR)
        return next(names, None)
