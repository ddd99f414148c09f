"""Whatever callers and files do, a token is revoked and SIGTERM ends the server, each within its promised time.

`pytest --junit-xml FILE` writes how long both took.
"""

from __future__ import annotations

import concurrent.futures
import functools
import io
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import parser
from PIL import Image
from tritonclient.grpc import service_pb2

from lectern import Client
from lectern.v1 import classify_pb2, explain_pb2, predict_pb2
from services.server.app import CLOSE_SECONDS
from services.server.auth import Token, TokenFile, new_token
from tests.conftest import EXPORTED, Server, encode, serving
from tests.graphs import add_graph, burn, burn_config
from tests.runtime.test_hostile_repository import ENDLESS, OTHER, SOUND, give_up_root_rights, refused
from tests.server.raw_http2 import connected
from tests.server.test_connections import begin_unread, reset_calls
from tests.services.test_picture_files import chunk, segment, with_chunk
from tests.waiting import WAIT, wait_until

pytestmark = pytest.mark.chaos

CALLERS = 8
DRAIN_SECONDS = 3
CLASSIFY = "/lectern.v1.ClassifyService/ClassifyImage"
INFER = "/inference.GRPCInferenceService/ModelInfer"
PHOTO = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)

Going = AbstractContextManager[object]


def pictures(*images: bytes) -> bytes:
    return classify_pb2.ClassifyImageRequest(images=images).SerializeToString()


def large_png() -> bytes:
    """160 KB that become 7,000 x 7,000 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (7000, 7000), (200, 30, 90)).save(file, "PNG")
    return file.getvalue()


def progressive() -> bytes:
    """As many scans as are allowed, of ten megapixels."""
    jpeg = encode(np.repeat(np.repeat(PHOTO, 100, 0), 100, 1), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * 90 + jpeg[-2:]


def scans() -> bytes:
    jpeg = encode(PHOTO, "JPEG", progressive=True)
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * 3000 + jpeg[-2:]


def naming_an_output() -> bytes:
    request = service_pb2.ModelInferRequest(model_name=SOUND)
    request.outputs.extend([service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="prediction")] * 1000)
    return request.SerializeToString()


def shapley() -> bytes:
    request = explain_pb2.ExplainRequest(input=explain_pb2.ExplainedInput(image=encode(PHOTO)))
    request.method.kernel_shap.samples = 1000
    return request.SerializeToString()


MESSAGES: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "large pictures": ("classify", CLASSIFY, lambda: pictures(large_png())),
    "many small pictures": ("classify", CLASSIFY, lambda: pictures(*[encode(PHOTO)] * 256)),
    "progressive JPEG": ("classify", CLASSIFY, lambda: pictures(progressive())),
    "3,000 scans": ("classify", CLASSIFY, lambda: pictures(scans())),
    "1.3 million chunks": (
        "classify", CLASSIFY, lambda: pictures(with_chunk(encode(PHOTO), chunk(b"tEXt", b"") * 1_300_000))
    ),
    "4 million comments": (
        "classify", CLASSIFY, lambda: pictures(b"\xff\xd8" + segment(0xFE, b"") * 4_000_000)
    ),
    "16 MB of fill": ("classify", CLASSIFY, lambda: pictures(b"\xff\xd8" + b"\xff" * (16 * 2**20 - 3))),
    "empty submessages": ("classify", INFER, lambda: b"\x2a\x00" * (15 * 2**20)),
    "an output 1,000 times": ("predict", INFER, naming_an_output),
    "kernel SHAP": ("explain", "/lectern.v1.ExplainService/Explain", shapley),
    "a run of minutes": (
        "predict",
        "/lectern.v1.PredictService/Predict",
        lambda: predict_pb2.PredictRequest(
            model=OTHER, rows=[predict_pb2.FeatureRow(features=[99_999])]
        ).SerializeToString(),
    ),
}  # fmt: skip


@dataclass
class Scene:
    """What a situation acts on."""

    server: Server
    repository: Path
    token: str


@contextmanager
def flooded(scene: Scene, path: str, message: bytes) -> Iterator[None]:
    """Callers who send a message over and over."""
    stop = threading.Event()
    sent = threading.Semaphore(0)

    def call_on() -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(scene.server.target, options=options) as channel:
            call = channel.unary_unary(path)
            while not stop.is_set():
                future = call.future(message, timeout=WAIT, metadata=[("authorization", f"Bearer {scene.token}")])
                sent.release()
                while not future.done() and not stop.wait(0.05):
                    pass
                with suppress(grpc.RpcError, grpc.FutureCancelledError):
                    future.cancel() or future.result()

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        for _ in range(CALLERS):
            pool.submit(call_on)
        for _ in range(CALLERS):
            assert sent.acquire(timeout=WAIT)
        try:
            yield
        finally:
            stop.set()


@contextmanager
def unread(scene: Scene) -> Iterator[None]:
    with connected(scene.server.target, window=100) as connection:
        for _ in range(8):
            begin_unread(connection, [("authorization", f"Bearer {scene.token}")])
        yield


@contextmanager
def reset(scene: Scene) -> Iterator[None]:
    attack = threading.Thread(target=reset_calls, args=(scene.server.target, 200_000), daemon=True)
    attack.start()
    yield


@contextmanager
def copied_slowly(scene: Scene) -> Iterator[None]:
    source, target = scene.repository / SOUND / "1", scene.repository / SOUND / "2"
    stop = threading.Event()

    def copy() -> None:
        target.mkdir()
        for file in sorted(source.iterdir()):
            with (target / file.name).open("wb") as copied:
                for byte in file.read_bytes():
                    copied.write(bytes([byte]))
                    copied.flush()
                    if stop.wait(0.01):
                        return

    thread = threading.Thread(target=copy)
    thread.start()
    yield
    stop.set()
    thread.join()


def change(work: Callable[[Path], object]) -> Callable[[Scene], Going]:
    """What is done to the damaged model's directory."""

    def begin(scene: Scene) -> Going:
        work(scene.repository / OTHER)
        return nullcontext()

    return begin


def endless(model: Path) -> None:
    shutil.rmtree(model)
    add_graph(model.parent, OTHER, parser.parse_model(ENDLESS), burn_config(8))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SITUATIONS: dict[str, tuple[str, Callable[[Scene], Going]]] = {
    "slow copy": ("predict", copied_slowly),
    "FIFO for a card": ("predict", change(lambda model: fifo(model / "1" / "card.json"))),
    "FIFO for a config": ("predict", change(lambda model: fifo(model / "config.pbtxt"))),
    "FIFO for a graph": ("predict", change(lambda model: fifo(model / "1" / "model.onnx"))),
    "unreadable folder": ("predict", change(lambda model: model.chmod(0))),
    "endless warm-up": ("predict", change(endless)),
    "unread streams": ("act", unread),
    "calls reset at once": ("predict", reset),
    **{
        name: (capability, lambda scene, path=path, build=build: flooded(scene, path, build()))  # type: ignore[misc]
        for name, (capability, path, build) in MESSAGES.items()
    },
}


def repository_of(capability: str, directory: Path) -> Path:
    if capability != "predict":
        return EXPORTED
    for path in EXPORTED.glob(f"{SOUND}*"):
        shutil.copytree(path, directory / path.name)
    add_graph(directory, OTHER, burn(), burn_config(8))
    return directory


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_token_is_revoked_and_sigterm_ends(
    tmp_path: Path, situation: str, record_property: Callable[[str, object], None]
) -> None:
    capability, begin = SITUATIONS[situation]
    (revoked, digest), (kept, kept_digest) = new_token(), new_token()
    others = Token(name="kept", sha256=kept_digest, scopes=("*",))
    file = tmp_path / "tokens.json"
    TokenFile(tokens=(Token(name="revoked", sha256=digest, scopes=("*",)), others)).write(file)
    repository = repository_of(capability, tmp_path / "exported")
    settings = {"LECTERN_TOKENS": str(file), "LECTERN_DRAIN_SECONDS": str(DRAIN_SECONDS)}
    with (
        serving(tmp_path, capability, repository=repository, before=give_up_root_rights, **settings) as server,
        Client(server.target, token=revoked, timeout=WAIT) as client,
    ):
        assert client.list_models().models
        with begin(Scene(server, repository, kept)):
            time.sleep(1.0)
            started = time.monotonic()
            TokenFile(tokens=(others,)).write(file)
            wait_until(functools.partial(refused, client))
            noticed = time.monotonic()
            server.process.terminate()
            # By itself or, where something hangs, by the last resort.
            assert server.process.wait(WAIT) in (0, 1)
            ended = time.monotonic()
    record_property("revoked after, promised 2 s", round(noticed - started, 2))
    record_property(f"ended after, promised {DRAIN_SECONDS + CLOSE_SECONDS:g} s", round(ended - noticed, 2))
    assert "Traceback" not in server.log.read_text()
