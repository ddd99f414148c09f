"""Models, tokens and certificates that change all the while under calls: no call fails that need not."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from lectern.v1 import predict_pb2
from lectern.v1.predict_pb2_grpc import PredictServiceStub
from services.server.auth import Token, TokenFile, new_token
from tests.conftest import Server, serving
from tests.graphs import add_graph, burn, burn_config
from tests.programs import needs_native
from tests.runtime.test_hostile_repository import states
from tests.server.at_rest import nothing_kept
from tests.server.pki import Pki
from tests.waiting import WAIT, wait_until

KEPT, CHANGED = "kept", "changed"
CALLERS = 8
ROUNDS = 30
OK = grpc.StatusCode.OK
LOCAL = [("grpc.use_local_subchannel_pool", 1)]

Ask = Callable[[grpc.Channel], object]
Metadata = Sequence[tuple[str, str]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in (KEPT, CHANGED):
        add_graph(tmp_path / "repository", name, burn(), burn_config(8))
    return tmp_path / "repository"


def asking(model: str, metadata: Metadata = ()) -> tuple[Ask, Ask]:
    """An inference, which the native front answers itself, and a call that Python answers."""
    infer = service_pb2.ModelInferRequest(model_name=model)
    infer.inputs.add(name="features", datatype="FP32", shape=[1, 1])
    infer.raw_input_contents.append(np.float32(1).tobytes())
    predict = predict_pb2.PredictRequest(model=model, rows=[predict_pb2.FeatureRow(features=[1])])
    return (
        lambda channel: GRPCInferenceServiceStub(channel).ModelInfer(infer, timeout=WAIT, metadata=metadata),
        lambda channel: PredictServiceStub(channel).Predict(predict, timeout=WAIT, metadata=metadata),
    )


def ask_once(connect: Callable[[], grpc.Channel], *asked: Ask) -> None:
    """So that what the server makes for its first calls is made."""
    with connect() as channel:
        for ask in asked:
            ask(channel)


@contextmanager
def called(
    connect: Callable[[], grpc.Channel], *asked: Ask, connections: bool = False
) -> Iterator[Counter[grpc.StatusCode]]:
    """Callers who ask for each of these all the while, by what their calls come to.

    Args:
        connections: each call has its own.
    """
    stop, codes = threading.Event(), Counter[grpc.StatusCode]()

    def call(ask: Ask) -> None:
        while not stop.is_set():
            with connect() as channel:
                while not stop.is_set():
                    try:
                        ask(channel)
                        codes[OK] += 1
                    except grpc.RpcError as error:
                        codes[error.code()] += 1
                    if connections:
                        break

    with concurrent.futures.ThreadPoolExecutor(CALLERS * len(asked)) as pool:
        callers = [pool.submit(call, ask) for ask in asked for _ in range(CALLERS)]
        try:
            wait_until(lambda: codes.total() > CALLERS)
            yield codes
        finally:
            stop.set()
        for caller in callers:
            caller.result()


def plain(server: Server) -> Callable[[], grpc.Channel]:
    return lambda: grpc.insecure_channel(server.target, LOCAL)


def test_models_that_come_and_go_fail_no_other_call(tmp_path: Path, repository: Path) -> None:
    control = {"LECTERN_ALLOW_MODEL_CONTROL": "true", "LECTERN_WATCH_SECONDS": "0.1"}
    load = service_pb2.RepositoryModelLoadRequest(model_name=CHANGED)
    unload = service_pb2.RepositoryModelUnloadRequest(model_name=CHANGED)
    with serving(tmp_path, "predict", repository=repository, **control) as server:
        ask_once(plain(server), *asking(KEPT), *asking(CHANGED))
        with (
            nothing_kept(server),
            called(plain(server), *asking(KEPT)) as of_kept,
            called(plain(server), *asking(CHANGED)) as of_changed,
            grpc.insecure_channel(server.target) as channel,
        ):
            stub = GRPCInferenceServiceStub(channel)
            for number in range(ROUNDS):
                stub.RepositoryModelUnload(unload, timeout=WAIT)
                if number % 3 == 0:
                    (repository / CHANGED / "config.pbtxt").write_text(burn_config(4 + number))
                stub.RepositoryModelLoad(load, timeout=WAIT)
            served = of_changed[OK]
            wait_until(lambda: of_changed[OK] > served + CALLERS)
        assert set(of_kept) == {OK}
        assert set(of_changed) == {OK, grpc.StatusCode.UNAVAILABLE}
        assert all(reason == "" for _, reason in states(server).values())


def test_tokens_that_come_and_go_fail_no_call_with_another(tmp_path: Path, repository: Path) -> None:
    file, (kept, kept_digest), (other, other_digest) = tmp_path / "tokens.json", new_token(), new_token()
    lasting = Token(name="lasting", sha256=kept_digest, scopes=("*",))
    comes = Token(name="comes", sha256=other_digest, scopes=("*",))
    TokenFile(tokens=(lasting,)).write(file)
    with_kept, with_other = (asking(KEPT, [("authorization", f"Bearer {secret}")]) for secret in (kept, other))
    settings = {"LECTERN_TOKENS": str(file), "LECTERN_WATCH_SECONDS": "0.05"}
    with serving(tmp_path, "predict", repository=repository, **settings) as server:
        ask_once(plain(server), *with_kept)
        with (
            nothing_kept(server, but=file.name),
            called(plain(server), *with_kept) as of_kept,
            called(plain(server), *with_other) as of_other,
        ):
            for _ in range(ROUNDS // 3):
                for tokens, code in (((lasting, comes), OK), ((lasting,), grpc.StatusCode.UNAUTHENTICATED)):
                    TokenFile(tokens=tokens).write(file)
                    seen = of_other[code]
                    wait_until(lambda code=code, seen=seen: of_other[code] > seen + 4 * CALLERS)  # type: ignore[misc]
                file.write_text("{")  # as a hand that is not done leaves it
        assert set(of_kept) == {OK}
        assert set(of_other) == {OK, grpc.StatusCode.UNAUTHENTICATED}


def test_certificates_that_change_fail_no_call(tmp_path: Path, repository: Path) -> None:
    """Over native alone: docs/transport.md says how gRPC's own core bears changes as quick as these."""
    needs_native()
    pki = Pki.make(tmp_path / "pki")
    trust = grpc.ssl_channel_credentials(pki.ca.read_bytes())
    settings = {"LECTERN_WATCH_SECONDS": "0.05", "LECTERN_TRANSPORT": "native", **pki.settings()}
    with serving(tmp_path, "predict", repository=repository, **settings) as server:

        def connect() -> grpc.Channel:
            return grpc.secure_channel(server.target, trust, LOCAL)

        ask_once(connect, *asking(KEPT))
        with (
            nothing_kept(server, but="server.key"),
            called(connect, *asking(KEPT)) as on_old,
            called(connect, *asking(KEPT), connections=True) as on_new,
        ):
            for number in range(ROUNDS // 3):
                pki.issue("server", "127.0.0.1")
                seen = on_new.total(), on_old.total()
                wait_until(lambda seen=seen: on_new.total() > seen[0] + 40 and on_old.total() > seen[1])  # type: ignore[misc]
                if number % 3 == 0:
                    pki.file("server.key").write_bytes(b"as a hand that is not done leaves it")
        assert set(on_old) == set(on_new) == {OK}
