"""A real Triton beside the embedded engine: the same repository, the same answers, its health followed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from artifacts.versions import promote
from inference import grpc_service_pb2 as pb
from inference.grpc_service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server
from lectern import Client, LecternError
from lectern.methods import FewShotMethod
from services.triton_server.launcher import PYTHONS, TritonError, install
from tests.conftest import EXPORTED, ROOT, SLIVERS, Server, encode, serving
from tests.graphs import add_graph, burn, burn_config
from tests.programs import missing
from tests.waiting import WAIT, wait_until

STARTS = 3


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def triton(ports: list[int], log: Path, repository: Path = EXPORTED) -> Iterator[str]:
    """`lectern triton` over a repository, by default the committed models; yields its gRPC address once it is ready."""
    if sys.version_info[:2] not in PYTHONS:
        pytest.skip(f"Triton's wheel has no build for Python {sysconfig.get_python_version()}")
    try:
        install()
    except TritonError as error:
        missing("Triton", str(error).strip().splitlines()[-1])
    options = ["--port", str(ports[0]), "--http-port", str(ports[1]), "--metrics-port", str(ports[2])]
    command = [sys.executable, "-m", "lectern", "triton", "--repository", str(repository), *options]
    target = f"127.0.0.1:{ports[0]}"
    process = start(command, target, log)
    try:
        yield target
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT)


def start(command: list[str], target: str, log: Path) -> subprocess.Popen[bytes]:
    """Triton, once it is ready. On a busy machine its Python backend may abort as it starts, for a lock that timed out;
    then it is started again.
    """
    for _ in range(STARTS):
        with log.open("ab") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            with InferenceServerClient(target) as client:
                wait_until(lambda client=client, process=process: process.poll() is not None or is_ready(client))  # type: ignore[misc]
        except BaseException:
            process.kill()
            raise
        if process.poll() is None:
            return process
        if process.returncode != -signal.SIGABRT:
            break
    raise AssertionError(f"Triton ended with code {process.returncode}:\n{log.read_text()[-2000:]}")


def is_ready(client: InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except InferenceServerException:
        return False


@pytest.fixture(scope="module")
def triton_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with triton(free_ports(3), tmp_path_factory.mktemp("triton") / "triton.log") as url:
        yield url


@pytest.fixture(scope="module")
def beside(triton_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Lectern whose graphs a real Triton runs."""
    with serving(tmp_path_factory.mktemp("beside"), "--engine", "triton", "--triton-url", triton_url) as server:
        yield server


def test_answers_are_the_embedded_engines(beside: Server, server: Server, photos: np.ndarray) -> None:
    images = [encode(photo) for photo in photos[:100]]
    rows = np.random.default_rng(0).uniform(0, 20, (600, 116)).astype(np.float32)
    with Client(beside.target, timeout=WAIT) as remote, Client(server.target, timeout=WAIT) as local:
        for a, b in zip(remote.classify_image(images).results, local.classify_image(images).results, strict=True):
            assert [c.label for c in a.classes] == [c.label for c in b.classes]
            np.testing.assert_allclose(
                [c.probability for c in a.classes], [c.probability for c in b.classes], atol=1e-5
            )
        theirs, ours = remote.predict(rows), local.predict(rows)
        np.testing.assert_allclose(
            [r.values for r in theirs.results], [r.values for r in ours.results], rtol=1e-4, atol=1e-4
        )
        theirs, ours = (c.detect_anomaly(images[:20], include_heat_map=True) for c in (remote, local))
        np.testing.assert_allclose([r.score for r in theirs.results], [r.score for r in ours.results], rtol=1e-4)
        assert [r.heat_map[:4] for r in theirs.results] == [b"\x89PNG"] * 20


def test_a_seed_draws_the_same_on_both(beside: Server, server: Server) -> None:
    observations = np.random.default_rng(0).normal(0, 0.5, (600, 8)).astype(np.float32)
    with Client(beside.target, timeout=WAIT) as remote, Client(server.target, timeout=WAIT) as local:
        theirs, ours = (c.act(observations, sample=True, seed=3).results for c in (remote, local))
        assert [a.index for a in theirs] == [a.index for a in ours]
        flights = [[step.action.index for step in c.run_episode(5, max_steps=50)] for c in (remote, local)]
        assert flights[0] == flights[1]


def test_explanations_are_alike(beside: Server, server: Server, photos: np.ndarray) -> None:
    row = np.random.default_rng(1).uniform(0, 20, 116).astype(np.float32)
    with Client(beside.target, timeout=WAIT) as remote, Client(server.target, timeout=WAIT) as local:
        for method, given in (("smooth_grad", {"samples": 20}), ("integrated_gradients", {"steps": 20}), ("lime", {})):
            for arguments in ({"image": encode(photos[0])}, {"row": row}):
                answers = [c.explain(method=method, seed=3, **arguments, **given).attribution for c in (remote, local)]
                theirs, ours = (np.frombuffer(answer.values, np.float32) for answer in answers)
                assert np.linalg.norm(theirs - ours) <= 1e-3 * np.linalg.norm(ours)


@pytest.mark.parametrize("method", ["prototypes", "maml"])
def test_graphs_without_a_batch_answer_alike(beside: Server, server: Server, method: FewShotMethod) -> None:
    with np.load(SLIVERS / "few_shot_classifier.npz") as file:
        drawings = [encode(image) for image in file["test_images"][:200]]
    support = {str(i): drawings[10 * i : 10 * i + i + 1] for i in range(6)}
    answers = []
    for target in (beside.target, server.target):
        with Client(target, timeout=WAIT) as client:
            results = client.classify_few_shot(support, drawings[100:110], method=method).results
        answers.append([[c.probability for c in sorted(r.classes, key=lambda c: c.index)] for r in results])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-4)


def test_texts_are_read_alike(beside: Server, server: Server) -> None:
    """8-bit arithmetic rounds, and another release of ONNX Runtime may round a close call the other way."""
    context = (ROOT / "docs" / "examples" / "beagle.txt").read_text()
    questions = ["Who commanded the ship?", "Where did the ship anchor?", "Who labelled the birds?"]
    texts = ["What a lovely film!", "A waste of money.", context]
    with Client(beside.target, timeout=WAIT) as remote, Client(server.target, timeout=WAIT) as local:
        for a, b in zip(*(c.answer(questions, context).results for c in (remote, local)), strict=True):
            assert a.answers[0].text == b.answers[0].text
            assert a.answers[0].probability == pytest.approx(b.answers[0].probability, abs=0.03)
        for model in ("sentiment_classifier", "spam_classifier"):
            for a, b in zip(*(c.classify_text(texts, model).results for c in (remote, local)), strict=True):
                assert a.classes[0].label == b.classes[0].label
                assert a.classes[0].probability == pytest.approx(b.classes[0].probability, abs=0.03)


def test_texts_are_written_alike(beside: Server, server: Server) -> None:
    texts = ["Where is the library?", "In the beginning God created the heavens and the earth."]
    answers = []
    for target in (beside.target, server.target):
        with Client(target, timeout=WAIT) as client:
            translated = [client.translate(texts, beam_size=size).results for size in (1, 4)]
            poem = "".join(r.text for r in client.generate_text("床前明月光，", form="五言絕句", temperature=0))
        answers.append(([r.translations[0].text for results in translated for r in results], poem))
    assert answers[0] == answers[1]


def test_recordings_are_answered_alike(beside: Server, server: Server) -> None:
    sentence, *clips = ((ROOT / "docs/examples" / f).read_bytes() for f in ("sentence.wav", "armelle_1.wav"))
    answers = []
    for target in (beside.target, server.target):
        with Client(target, timeout=WAIT) as client:
            phones = client.classify_audio([sentence, clips[0]], include_frames=True).results
            speakers = client.classify_audio([*clips, sentence], "speaker_classifier", include_embedding=True).results
        answers.append(([f for r in phones for f in r.frames], [r.embedding for r in speakers]))
    assert np.mean(np.array(answers[0][0]) == answers[1][0]) > 0.999  # a tie may fall either way
    np.testing.assert_allclose(answers[0][1], answers[1][1], atol=1e-4)


def test_streams_pass_through(beside: Server, photos: np.ndarray) -> None:
    with Client(beside.target, timeout=WAIT) as client:
        assert len(list(client.stream_classify_image(encode(p) for p in photos[:20]))) == 20


def test_deadlines_pass_through(beside: Server, photos: np.ndarray) -> None:
    with Client(beside.target, timeout=WAIT) as client, pytest.raises(LecternError) as caught:
        client.classify_image([encode(p) for p in photos], timeout=0.02)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_message_limit_holds_towards_triton(triton_url: str, tmp_path: Path) -> None:
    image = encode(np.zeros((32, 32, 3), np.uint8))  # a hundred bytes that become 3,072
    options = ("classify", "--engine", "triton", "--triton-url", triton_url)
    with (
        serving(tmp_path, *options, LECTERN_LIMITS__MESSAGE_BYTES="100000") as server,
        Client(server.target, timeout=WAIT) as client,
    ):
        assert len(client.classify_image([image] * 30, top_k=1).results) == 30
        with pytest.raises(LecternError, match="exceed one message to Triton") as caught:
            client.classify_image([image] * 60, top_k=1)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.chaos
def test_health_follows_triton(tmp_path: Path, photos: np.ndarray) -> None:
    ports = free_ports(3)
    url = f"127.0.0.1:{ports[0]}"
    options = ("classify", "--engine", "triton", "--triton-url", url)
    models = tmp_path / "models"  # one, which starts in a moment
    shutil.copytree(EXPORTED / "image_classifier", models / "image_classifier")
    for graph in ("gradient", "random_gradient"):
        shutil.copytree(EXPORTED / f"image_classifier_{graph}", models / f"image_classifier_{graph}")
    with (
        serving(tmp_path, *options, repository=models, LECTERN_WATCH_SECONDS="0.2") as server,
        Client(server.target, timeout=WAIT) as client,
    ):

        def wait_for(status: int) -> None:
            wait_until(lambda: client.health("lectern.v1.ClassifyService").status == status)

        for _ in range(2):
            wait_for(health_pb2.HealthCheckResponse.NOT_SERVING)
            with pytest.raises(LecternError) as caught:
                client.classify_image(encode(photos[0]))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            with triton(ports, tmp_path / "triton.log", models):
                wait_for(health_pb2.HealthCheckResponse.SERVING)
                assert len(client.classify_image(encode(photos[0])).results) == 1


class Hollow(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A Triton whose outputs have a shape and no bytes, as where its backend got a numpy of another kind."""

    def ModelReady(self, request: pb.ModelReadyRequest, context: object) -> pb.ModelReadyResponse:  # noqa: N802
        return pb.ModelReadyResponse(ready=True)

    def ModelInfer(self, request: pb.ModelInferRequest, context: object) -> pb.ModelInferResponse:  # noqa: N802
        response = pb.ModelInferResponse(model_name=request.model_name)
        for name, datatype, width in (("action", "INT64", 1), ("probabilities", "FP32", 4), ("value", "FP32", 1)):
            response.outputs.add(name=name, datatype=datatype, shape=[1, width])
            response.raw_output_contents.append(b"")
        return response


def test_an_answer_whose_bytes_are_not_those_of_its_shapes_is_named(tmp_path: Path) -> None:
    triton = grpc.server(ThreadPoolExecutor(1))
    add_GRPCInferenceServiceServicer_to_server(Hollow(), triton)
    url = f"127.0.0.1:{triton.add_insecure_port('127.0.0.1:0')}"
    triton.start()
    try:
        with (
            serving(tmp_path, "act", "--engine", "triton", "--triton-url", url) as server,
            Client(server.target, timeout=WAIT) as client,
            pytest.raises(LecternError, match="Triton answered with 0 bytes where its shapes need 28") as caught,
        ):
            client.act([[0.0] * 8])
    finally:
        triton.stop(None)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    log = server.log.read_text()
    assert "['action', 'probabilities', 'value'] of lunar_lander have [0, 0, 0] bytes, not [8, 16, 4]" in log
    assert "Traceback" not in log


def test_the_launcher_names_what_is_wrong(tmp_path: Path) -> None:
    environment = os.environ | {"LECTERN_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    result = subprocess.run(
        [sys.executable, "-m", "lectern", "triton", "--repository", str(EXPORTED)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=WAIT,
    )
    assert result.returncode == 1
    assert "requirements/triton.txt" in result.stderr
    assert "No matching distribution" in result.stderr
    assert "Traceback" not in result.stderr


def test_triton_serves_the_promoted_version(tmp_path: Path) -> None:
    graphs = ("proxy_ensemble", "proxy_ensemble_gradient")
    for graph in graphs:
        shutil.copytree(EXPORTED / graph, tmp_path / "exported" / graph)
        shutil.copytree(EXPORTED / graph / "1", tmp_path / "exported" / graph / "2")
    promote(tmp_path / "exported", graphs[0], [1])
    with (
        triton(free_ports(3), tmp_path / "triton.log", tmp_path / "exported") as url,
        InferenceServerClient(url) as client,
    ):
        assert [[client.is_model_ready(graph, version) for version in "12"] for graph in graphs] == [[True, False]] * 2


def test_triton_runs_a_graph_on_as_many_threads_as_its_config_says(tmp_path: Path) -> None:
    """Seen by the threads of the processes that its Python backend starts, one for each model."""
    for name, count in (("one", 1), ("four", 4)):
        parameter = f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{count}" }} }}'
        add_graph(tmp_path / "models", name, burn(), burn_config(8, parameter))
    with triton(free_ports(3), tmp_path / "triton.log", tmp_path / "models"):
        threads = {
            argument: process.num_threads()
            for process in psutil.Process().children(recursive=True)
            for argument in process.cmdline()
        }
    one, four = (
        next(count for argument, count in threads.items() if argument.endswith(f"/{name}/1/model.onnx"))
        for name in ("one", "four")
    )
    assert four - one == 3
