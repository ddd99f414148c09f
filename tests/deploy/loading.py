"""Callers of a server under watch, as many as it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from lectern.v1 import explain_pb2
from lectern.v1 import generate_pb2 as pb
from lectern.v1.explain_pb2_grpc import ExplainServiceStub
from lectern.v1.generate_pb2_grpc import GenerateServiceStub
from lectern.v1.predict_pb2_grpc import PredictServiceStub
from services.server.capabilities import CAPABILITIES
from tests.conftest import ROOT, encode

EXAMPLES = ROOT / "docs" / "examples"
DIGIT = encode(np.zeros((28, 28), np.uint8))
CALLS_PER_CONNECTION = 200  # of the 256 that a server takes
Call = Callable[[grpc.Channel], grpc.Future]


@dataclass
class Crowd:
    """Calls under way at a server, of which each that ends, in whatever way, is made again."""

    target: str
    call: Call
    _over: threading.Event = field(default_factory=threading.Event)
    _channels: ExitStack = field(default_factory=ExitStack)

    def grow(self, callers: int) -> None:
        """That many callers more, on connections of their own."""
        for first in range(0, callers, CALLS_PER_CONNECTION):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = self._channels.enter_context(grpc.insecure_channel(self.target, options))
            for _ in range(first, min(callers, first + CALLS_PER_CONNECTION)):
                self._call(channel)

    def _call(self, channel: grpc.Channel) -> None:
        if not self._over.is_set():
            with suppress(ValueError):  # the channel was closed meanwhile
                self.call(channel).add_done_callback(lambda _: self._call(channel))

    def close(self) -> None:
        """End all calls."""
        self._over.set()
        self._channels.close()


@contextmanager
def crowd(target: str, call: Call, callers: int, is_growing: bool = False) -> Iterator[None]:
    """That many callers; a fifth more each second if they are growing, until even a fast machine is slow."""
    callers_of = Crowd(target, call)
    over = threading.Event()

    def grow() -> None:
        size = callers
        while not over.wait(1):
            callers_of.grow(size // 5)
            size += size // 5

    thread = threading.Thread(target=grow)
    callers_of.grow(callers)
    if is_growing:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if is_growing:
            thread.join()
        callers_of.close()


def redraw(channel: grpc.Channel) -> Any:
    """A picture of one digit, printed."""
    return GenerateServiceStub(channel).TransformImage.future(pb.TransformImageRequest(image=DIGIT, style="printed"))


def predict(channel: grpc.Channel) -> Any:
    """One row."""
    return PredictServiceStub(channel).Predict.future(CAPABILITIES["predict"].example(EXAMPLES))


def fail(channel: grpc.Channel) -> Any:
    """A face, of a model that is damaged: UNAVAILABLE."""
    return GenerateServiceStub(channel).GenerateImages(pb.GenerateImagesRequest(count=1))


def explain(channel: grpc.Channel) -> Any:
    """Why a picture is a cat, by many gradients."""
    request = explain_pb2.ExplainRequest(
        input=explain_pb2.ExplainedInput(image=(EXAMPLES / "cat.png").read_bytes()),
        method=explain_pb2.ExplanationMethod(smooth_grad=explain_pb2.SmoothGrad(samples=50)),
    )
    return ExplainServiceStub(channel).Explain.future(request)


@contextmanager
def load(target: str, pictures: int, poems: int, is_growing: bool = False) -> Iterator[None]:
    """So many pictures to redraw and poems under way, again and again, and a few rows to predict."""
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            texts = [pb.GenerateTextRequest(seed=n, max_tokens=64) for n in range(poems)]
            for poem in [GenerateServiceStub(channel).GenerateText(text, timeout=20) for text in texts]:
                read(poem)

    def ask() -> None:
        while not over.wait(0.1):
            predict(channel).result()

    with grpc.insecure_channel(target) as channel, crowd(target, redraw, pictures, is_growing):
        threads = [threading.Thread(target=work) for work in (write, ask)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()


def read(poem: Iterator[object]) -> None:
    """All of a poem, unless the server sheds it."""
    with suppress(grpc.RpcError):
        for _ in poem:
            pass
