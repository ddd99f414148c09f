"""A `Trace` whose stages are OpenTelemetry spans, exported by OTLP. Imported only if tracing is on.

Names and attributes follow OpenTelemetry's conventions for RPCs (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

from google.rpc import code_pb2
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, Tracer, format_span_id, format_trace_id, set_span_in_context

from lectern import distribution
from services import tracing
from services.rpc import Call
from services.tracing import Attributes, Response, Trace

LAST_SECONDS = 5.0

# Status codes that are a server's failure; the caller is at fault for the others.
ERRORS = {
    code_pb2.UNKNOWN,
    code_pb2.DEADLINE_EXCEEDED,
    code_pb2.UNIMPLEMENTED,
    code_pb2.INTERNAL,
    code_pb2.UNAVAILABLE,
    code_pb2.DATA_LOSS,
}


def start() -> Callable[[], None]:
    """Export spans of every RPC from now on.

    Returns:
        A function that sends the spans that are left, in at most `LAST_SECONDS`.

    Sampler, endpoint, headers, limits and names come from the standard OTEL_ variables.

    Raises:
        ValueError: one of them is malformed.
    """
    defaults = {
        "service.name": "lectern",
        "service.version": distribution.version(),
        "service.instance.id": uuid.uuid4().hex,
    }
    provider = TracerProvider(resource=Resource.create({**defaults, **OTELResourceDetector().detect().attributes}))
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("lectern", distribution.version())

    def open_trace(call: Call) -> SpanTrace:
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": call.service,
            "rpc.method": call.method,
            "lectern.request_id": call.request_id,
        }
        parent = propagate.extract(call.metadata)
        epoch = time.time_ns() - time.monotonic_ns()
        return SpanTrace(tracer, f"{call.service}/{call.method}", SpanKind.SERVER, attributes, parent, epoch)

    def stop() -> None:
        # The provider's own limit is 30 s, more than a pod may have left.
        timer = threading.Timer(LAST_SECONDS, exporter.shutdown)
        timer.start()
        provider.shutdown()
        timer.cancel()

    tracing.use(open_trace)
    return stop


class SpanTrace(Trace):
    """A trace that exports what is recorded as spans.

    Args:
        epoch: nanoseconds from the Unix epoch to zero of `time.monotonic`, one value for all spans of an RPC.
    """

    __slots__ = ("_context", "_epoch", "_span", "_tracer", "trace_id")
    exports = True

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        kind: SpanKind,
        attributes: Attributes | None,
        parent: Context,
        epoch: int,
    ) -> None:
        super().__init__()
        self._tracer, self._epoch = tracer, epoch
        now = self._nanoseconds(time.monotonic())
        self._span = tracer.start_span(name, parent, kind, attributes, start_time=now)
        self._context = set_span_in_context(self._span, parent)
        own = self._span.get_span_context()
        self.trace_id = format_trace_id(own.trace_id) if own.trace_flags.sampled else ""

    def record(
        self, name: str, start: float, end: float, attributes: Attributes | None = None, *, stage: str = ""
    ) -> None:
        super().record(name, start, end, attributes, stage=stage)
        if self._span.is_recording():
            start_time = self._nanoseconds(start)
            span = self._tracer.start_span(name, self._context, attributes=attributes, start_time=start_time)
            span.end(self._nanoseconds(end))

    @contextmanager
    def span(self, name: str, attributes: Attributes | None = None, *, client: bool = False) -> Iterator[None]:
        with self._child(name, attributes, SpanKind.CLIENT if client else SpanKind.INTERNAL):
            yield

    async def messages(self, responses: AsyncGenerator[Response, None]) -> AsyncGenerator[Response, None]:
        while True:
            with self._child("message") as child:
                try:
                    response = await anext(responses)
                except StopAsyncIteration:
                    child._span.update_name("end of stream")
                    return
            yield response

    def headers(self) -> tuple[tuple[str, str], ...]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier, self._context)
        return tuple((name.lower(), value) for name, value in carrier.items())

    def fields(self) -> dict[str, str | float]:
        context = self._span.get_span_context()
        ids = {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}
        return super().fields() | ids

    def end(self, call: Call, code: int, message: str) -> None:
        self._span.set_attribute("rpc.grpc.status_code", code)
        if call.model:
            self._span.set_attribute("lectern.model", call.model)
        if code in ERRORS:
            self._span.set_status(StatusCode.ERROR, message)
        self._span.end(self._nanoseconds(time.monotonic()))

    @contextmanager
    def _child(
        self, name: str, attributes: Attributes | None = None, kind: SpanKind = SpanKind.INTERNAL
    ) -> Iterator[SpanTrace]:
        child = SpanTrace(self._tracer, name, kind, attributes, self._context, self._epoch)
        token = tracing.enter(child)
        try:
            yield child
        except Exception as error:
            child._span.set_status(StatusCode.ERROR, str(error))
            raise
        finally:
            tracing.leave(token)
            child._span.end(self._nanoseconds(time.monotonic()))
            for stage, seconds in child.seconds.items():
                self.add(stage, seconds)
            self.batch_size = child.batch_size or self.batch_size

    def _nanoseconds(self, monotonic: float) -> int:
        return self._epoch + int(monotonic * 1e9)
