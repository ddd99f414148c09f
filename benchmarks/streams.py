"""ModelStreamInfer on Lectern and Triton, in turns; writes docs/benchmarks/streams.md.

Each call is a stream of its own, which sends its requests at once and ends.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from benchmarks.graphs import answers, make_repository
from benchmarks.load import ANSWER_SECONDS, PREFIX, Call, Measurement, check, grpc_call, infer_request, measure
from benchmarks.options import EXPORTED, Options, written_by
from benchmarks.servers import running
from benchmarks.throughput import SHAPES, entrants, inputs_of

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
REQUESTS = 16  # of one stream
CALLERS = (1, 8)
# This Triton resets some streams of a graph with two instances.
SERVERS = (
    "Triton, 1 instance",
    "Lectern, 1 instance",
    "Lectern, native transport, 1 instance",
    "Lectern, native transport, 2 instances",
)
SECONDS, ROUNDS = 3, 3


def run(options: Options) -> None:
    """Run both servers in each round, and write the report."""
    seconds, rounds = options.seconds_or(SECONDS), options.rounds_or(ROUNDS)
    contestants = [c for c in entrants(options) if c.name in SERVERS and any(part in c.name for part in options.only)]
    measured: dict[tuple[str, str, int], list[Measurement]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            for contestant in contestants[-1:] if options.brief else contestants:
                print(f"round {number + 1}/{rounds}: {contestant.name}", file=sys.stderr)
                repository = Path(directory, str(contestant.instances))
                if not repository.exists():
                    make_repository(EXPORTED, repository, contestant.instances)
                with running(contestant, repository, tuple(SHAPES)) as server:
                    for model in SHAPES:
                        call = stream_of(server.target, repository, model)
                        for callers in CALLERS:
                            result = measure(server.target, call, server.pid, callers, seconds)
                            measured[model, contestant.name, callers].append(result)
    options.write("streams.md", report(measured, seconds, rounds))


def stream_of(target: str, repository: Path, model: str) -> Call:
    """A stream of `REQUESTS` requests of one item, once it was answered rightly.

    Raises:
        RuntimeError: an answer is wrong, or one is missing.
    """
    inputs = inputs_of(model, 1)
    request = infer_request(model, inputs)
    check(target, request, answers(repository, model, inputs))
    with grpc.insecure_channel(target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        streamed = list(stub.ModelStreamInfer(iter([request] * REQUESTS), timeout=ANSWER_SECONDS))
        alone: service_pb2.ModelInferResponse = stub.ModelInfer(request, timeout=ANSWER_SECONDS)
    wrong = [r.error_message for r in streamed if not equal(r.infer_response, alone)]
    if len(streamed) != REQUESTS or wrong:
        raise RuntimeError(f"{model} at {target}: {len(streamed)} of {REQUESTS} answers, wrong: {wrong}")
    one = grpc_call(STREAM, request)
    return Call(STREAM, one.body * REQUESTS, one.headers, size=sum(PREFIX + r.ByteSize() for r in streamed))


def equal(streamed: service_pb2.ModelInferResponse, alone: service_pb2.ModelInferResponse) -> bool:
    """Whether the outputs are of the same names, types and sizes; their values may differ in the last digits."""
    (first, second) = ([(o.name, o.datatype, list(o.shape)) for o in r.outputs] for r in (streamed, alone))
    return first == second


def report(measured: dict[tuple[str, str, int], list[Measurement]], seconds: float, rounds: int) -> str:
    """Markdown: a table for each graph."""
    lines = [
        "# Streams",
        "",
        f"{written_by()}: ModelStreamInfer of the Open Inference Protocol by h2load on the same cores; each call sends "
        f"{REQUESTS} requests of one item and waits for as many answers. Medians of {rounds} rounds of {seconds:g} s "
        "in turns.",
    ]
    for model in SHAPES:
        heads = [f"items/s, {c} stream{'s' * (c > 1)}" for c in CALLERS]
        heads += [f"p50 / p99 ms of a call at {CALLERS[-1]}", f"CPU s per 1,000 items at {CALLERS[-1]}"]
        lines += ["", f"## `{model}`", "", f"| server | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
        for name in dict.fromkeys(name for of, name, _ in measured if of == model):
            rates = [middle(measured[model, name, c], "rate") * REQUESTS for c in CALLERS]
            last = measured[model, name, CALLERS[-1]]
            cells = [f"{rate:,.0f}" for rate in rates]
            cells.append(f"{middle(last, 'p50'):.1f} / {middle(last, 'p99'):.1f}")
            cells.append(f"{middle(last, 'cpu') / REQUESTS:.3f}")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def middle(results: list[Measurement], field: str) -> float:
    """The median of one figure."""
    return statistics.median(getattr(result, field) for result in results)
