"""What a person, a copy or a mount can leave in a repository: it costs one model, never the server."""

from __future__ import annotations

import concurrent.futures
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest
from onnx import parser
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from lectern import Client, LecternError
from lectern.v1 import model_pb2
from services.server.auth import Token, TokenFile, new_token
from tests.conftest import EXPORTED, Server, serving
from tests.graphs import add_graph, burn, burn_config
from tests.waiting import wait_until

SOUND, OTHER = "covid_regressor", "other"
READY, UNAVAILABLE = model_pb2.MODEL_STATE_READY, model_pb2.MODEL_STATE_UNAVAILABLE
ENDLESS = """
<ir_version: 10, opset_import: ["" : 20]>
endless (float[N, 1] features) => (float[N, 1] prediction) {
    rounds = Constant <value = int64 {1000000000}> ()
    true = Constant <value = bool {1}> ()
    prediction = Loop (rounds, true, features) <body = body (
        int64 i, bool go, float[N, 1] x
    ) => (bool go_on, float[N, 1] out) {
        go_on = Identity (go)
        out = Tanh (x)
    }>
}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The models of `predict`: a sound one, and one that a test may damage."""
    repository = tmp_path / "exported"
    for path in EXPORTED.glob(f"{SOUND}*"):
        shutil.copytree(path, repository / path.name)
    add_graph(repository, OTHER, burn(), burn_config(8))
    return repository


def serve(
    tmp_path: Path, repository: Path, *arguments: str, before: Callable[[], None] | None = None, **environment: str
) -> AbstractContextManager[Server]:
    settings = {"LECTERN_WATCH_SECONDS": "0.1", "LECTERN_LOAD_SECONDS": "2", **environment}
    return serving(tmp_path, "predict", *arguments, repository=repository, before=before, **settings)


def give_up_root_rights() -> None:
    """So that permissions hold for root, too: no CAP_DAC_OVERRIDE, no CAP_DAC_READ_SEARCH (capabilities(7))."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability)  # PR_CAPBSET_DROP


def states(server: Server) -> dict[str, tuple[int, str]]:
    """State and reason of each model's newest version."""
    with Client(server.target) as client:
        models = client.list_models().models
    return {m.name: (m.versions[0].state, m.versions[0].reason) for m in models if m.versions}


def out_of_service(server: Server, reason: str) -> bool:
    """Whether the damaged model says why, and the sound one answers."""
    served = states(server)
    assert served[SOUND][0] == READY
    state, why = served.get(OTHER, (READY, ""))
    return state == UNAVAILABLE and reason in why


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(repository: Path) -> None:
    shutil.rmtree(repository / OTHER)
    add_graph(repository, OTHER, parser.parse_model(ENDLESS), burn_config(8))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown data type": (
        lambda r: (r / OTHER / "config.pbtxt").write_text(burn_config(8).replace("TYPE_FP32", "99", 1)),
        "99",
    ),
    "huge batch": (lambda r: (r / OTHER / "config.pbtxt").write_text(burn_config(2**31 - 1)), "max_batch_size"),
    "huge item": (
        lambda r: (r / OTHER / "config.pbtxt").write_text(burn_config(8).replace("dims: [1]", "dims: [1099511627776]")),
        "",
    ),
    "many instances": (
        lambda r: (r / OTHER / "config.pbtxt").write_text(burn_config(8, "instance_group [{ count: 1000000 }]")),
        "instance_group",
    ),
    "config is a FIFO": (lambda r: fifo(r / OTHER / "config.pbtxt"), "not a regular file"),
    "card is a FIFO": (lambda r: fifo(r / OTHER / "1" / "card.json"), "not a regular file"),
    "graph is a FIFO": (lambda r: fifo(r / OTHER / "1" / "model.onnx"), "not a regular file"),
    "config is a directory": (
        lambda r: ((r / OTHER / "config.pbtxt").unlink(), (r / OTHER / "config.pbtxt").mkdir()),
        "not a regular file",
    ),
    "card is a terabyte": (
        lambda r: os.truncate(r / OTHER / "1" / "card.json", 2**40),
        "at most 16777216 are read",
    ),
    "endless warm-up": (endless, "does not end within 2 s"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_at_the_start_costs_one_model(tmp_path: Path, repository: Path, damage: str) -> None:
    change, reason = DAMAGE[damage]
    change(repository)
    with serve(tmp_path, repository) as server:
        # A slow load is given up by the repository first, and explained by its warm-up a moment later.
        wait_until(lambda: out_of_service(server, reason))
        assert not any("Traceback" in line for line in server.log.read_text().splitlines())


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_under_a_running_server_costs_one_new_version(tmp_path: Path, repository: Path, damage: str) -> None:
    change, reason = DAMAGE[damage]
    kept = shutil.move(repository / OTHER, tmp_path / OTHER)
    with serve(tmp_path, repository) as server:
        shutil.move(kept, repository / OTHER)
        change(repository)
        wait_until(lambda: out_of_service(server, reason))
        # What repairs it is taken up.
        shutil.rmtree(repository / OTHER)
        add_graph(repository, OTHER, burn(), burn_config(8))
        wait_until(lambda: states(server).get(OTHER) == (READY, ""))


@pytest.mark.parametrize("damage", ["huge item", "huge batch", "config is a FIFO"])
def test_a_served_model_outlives_a_bad_config(tmp_path: Path, repository: Path, damage: str) -> None:
    change, reason = DAMAGE[damage]
    with serve(tmp_path, repository) as server:
        assert states(server)[OTHER] == (READY, "")
        change(repository)
        wait_until(lambda: "served as before" in states(server)[OTHER][1])
        state, why = states(server)[OTHER]
        assert state == READY
        assert reason in why
        (repository / OTHER / "config.pbtxt").unlink()
        (repository / OTHER / "config.pbtxt").write_text(burn_config(8))
        wait_until(lambda: states(server)[OTHER] == (READY, ""))


def test_revocation_and_sigterm_wait_for_no_model(tmp_path: Path, repository: Path) -> None:
    token, digest = new_token()
    tokens = tmp_path / "tokens.json"
    TokenFile(tokens=(Token(name="a", sha256=digest, scopes=("*",)),)).write(tokens)
    settings = {"LECTERN_TOKENS": str(tokens), "LECTERN_LOAD_SECONDS": "600"}
    with serve(tmp_path, repository, **settings) as server:
        endless(repository)  # loads for the rest of this test
        with Client(server.target, token=token) as client:
            assert client.list_models().models
            TokenFile(tokens=()).write(tokens)
            wait_until(lambda: refused(client))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def refused(client: Client) -> bool:
    try:
        client.list_models()
    except LecternError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def test_sigterm_ends_a_server_that_still_loads(tmp_path: Path, repository: Path) -> None:
    endless(repository)
    command = [sys.executable, "-m", "lectern", "serve", "predict", "--port", "0", "--metrics-port", "0"]
    environment = os.environ | {"LECTERN_LOAD_SECONDS": "600", "LECTERN_LOG_FORMAT": "json"}
    process = subprocess.Popen(
        [*command, "--repository", str(repository)], stderr=subprocess.PIPE, env=environment, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if f"loaded {SOUND}" in line:
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_version_copied_slowly_is_loaded(tmp_path: Path, repository: Path) -> None:
    source = shutil.move(repository / OTHER, tmp_path / "source")
    with serve(tmp_path, repository) as server:
        (repository / OTHER / "1").mkdir(parents=True)
        for name in ("config.pbtxt", "1/card.json", "1/model.onnx"):
            content = (Path(source) / name).read_bytes()
            with (repository / OTHER / name).open("wb") as file:
                for half in (content[: len(content) // 2], content[len(content) // 2 :]):
                    file.write(half)
                    file.flush()
                    wait_until(lambda: OTHER in states(server))
                    wait_until(lambda: any(OTHER in str(r["message"]) for r in server.log_records()))
        wait_until(lambda: states(server)[OTHER] == (READY, ""))


def test_a_folder_that_cannot_be_read_costs_one_model(tmp_path: Path, repository: Path) -> None:
    (repository / "lost+found").mkdir()
    (repository / OTHER).chmod(0)
    with serve(tmp_path, repository, before=give_up_root_rights) as server:
        assert out_of_service(server, "Permission denied"), states(server)
        (repository / OTHER).chmod(0o755)
        wait_until(lambda: states(server)[OTHER] == (READY, ""))
        assert len([r for r in server.log_records() if "lost+found" in str(r["message"])]) == 1
        assert len([r for r in server.log_records() if "Permission denied" in str(r["message"])]) == 1


def test_models_linked_as_kubernetes_does_are_served_and_swapped(tmp_path: Path, repository: Path) -> None:
    (repository / "..data-1").mkdir()
    shutil.move(repository / OTHER, repository / "..data-1" / OTHER)
    (repository / "..data").symlink_to("..data-1")
    (repository / OTHER).symlink_to(f"..data/{OTHER}")
    mount = tmp_path / "mount"
    mount.symlink_to(f"/proc/{os.getpid()}/root{repository}")
    with serve(tmp_path, mount) as server:
        assert states(server)[OTHER] == (READY, "")
        shutil.copytree(repository / "..data-1", repository / "..data-2")
        (repository / "..data-2" / OTHER / "config.pbtxt").write_text(burn_config(16))
        (repository / "..new").symlink_to("..data-2")
        (repository / "..new").rename(repository / "..data")
        with grpc.insecure_channel(server.target) as channel:
            stub = GRPCInferenceServiceStub(channel)

            def most_rows() -> int:
                request = service_pb2.ModelConfigRequest(name=OTHER)
                return int(stub.ModelConfig(request, timeout=10).config.max_batch_size)

            wait_until(lambda: most_rows() == 16)


def test_load_unload_and_refresh_at_once_end_as_the_last_command_says(tmp_path: Path, repository: Path) -> None:
    with (
        serve(tmp_path, repository, LECTERN_ALLOW_MODEL_CONTROL="true") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        codes: set[grpc.StatusCode] = set()
        load = service_pb2.RepositoryModelLoadRequest(model_name=OTHER)
        unload = service_pb2.RepositoryModelUnloadRequest(model_name=OTHER)

        def try_load(_: int) -> None:
            try:
                stub.RepositoryModelLoad(load, timeout=30)
            except grpc.RpcError as error:  # an unload came in between
                codes.add(error.code())

        for _ in range(5):
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                list(pool.map(try_load, range(4)))
                os.utime(repository / OTHER / "config.pbtxt")
                loads = [pool.submit(try_load, i) for i in range(4)]
                stub.RepositoryModelUnload(unload, timeout=30)
                for future in loads:
                    future.result()
            stub.RepositoryModelUnload(unload, timeout=30)
            for _ in range(10):
                assert states(server)[OTHER] == (UNAVAILABLE, "unloaded")
        stub.RepositoryModelLoad(load, timeout=30)
        assert states(server)[OTHER] == (READY, "")
        assert codes <= {grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_metrics_of_a_replaced_version_end(tmp_path: Path, repository: Path, workers: str) -> None:
    with serve(tmp_path, repository, "--workers", workers) as server:
        assert f'lectern_model_ready{{model="{OTHER}",version="1"}} 1.0' in scrape(server)
        shutil.rmtree(repository / OTHER)
        wait_until(lambda: f'ready{{model="{OTHER}"' not in scrape(server))
        assert f'ready{{model="{SOUND}"' in scrape(server)


def scrape(server: Server) -> str:
    with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=10) as response:
        return str(response.read().decode())
