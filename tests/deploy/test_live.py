"""Real servers under load, watched by a real Prometheus with deploy's own files: dashboards have data, autoscalers see
the load, and alerts arrive at a webhook.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import promql_parser
import pytest

from lectern.client import Client
from lectern.v1 import generate_pb2 as pb
from lectern.v1.generate_pb2_grpc import GenerateServiceStub
from lectern.v1.predict_pb2_grpc import PredictServiceStub
from scripts import autoscaling
from services.server.capabilities import CAPABILITIES
from tests.conftest import EXPORTED, ROOT, Server, encode, serving
from tests.deploy.watching import Watch, set_targets, watching
from tests.programs import needs
from tests.runtime.test_triton import free_ports
from tests.waiting import wait_until

# What others export: their expressions are parsed here, and have data where they run.
OTHERS = re.compile(r"\b(nv|kube|container|envoy|certmanager|probe)_\w+")
# Alerts on what others export, and one that takes minutes of explanations: promtool alone induces them.
NOT_INDUCED = {
    "LecternCertificateExpires",
    "LecternExplanationsSlow",
    "LecternMemoryNearLimit",
    "LecternRunsOnCpu",
}
DIGIT = encode(np.zeros((28, 28), np.uint8))


@dataclass
class Scene:
    """Two servers under watch: one has all the load; the other has a damaged model and an old version of another."""

    busy: Server
    idle: Server
    watch: Watch
    directory: Path
    start_idle: Callable[[], object]
    stop_idle: Callable[[], None]


def repository(directory: Path, *names: str) -> Path:
    """A repository of some committed models, with all their graphs."""
    for name in names:
        for graph in EXPORTED.glob(f"{name}*"):
            shutil.copytree(graph, directory / graph.name)
    return directory


def renumber(repository: Path, model: str) -> None:
    """Make version 1 of a model version 2."""
    for version in list(repository.glob(f"{model}*/1")):
        version.rename(version.with_name("2"))
    file = repository / model / "2" / "card.json"
    card = json.loads(file.read_text().replace("/1/", "/2/"))
    file.write_text(json.dumps(card | {"version": 2}))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    needs("prometheus")
    needs("prometheus-alertmanager")
    directory = tmp_path_factory.mktemp("live")
    models = ("covid_regressor", "face_generator", "poem_generator", "style_translator")
    good = repository(directory / "good", *models)
    damaged = repository(directory / "damaged", *models[:2])
    renumber(damaged, "covid_regressor")
    (damaged / "face_generator" / "1" / "model.onnx").write_bytes(b"no graph")
    (directory / "busy").mkdir()
    (directory / "idle").mkdir()
    (port,) = free_ports(1)
    stack = ExitStack()

    def start_idle() -> Server:
        arguments = ("generate", "predict", "--metrics-port", str(port))
        return stack.enter_context(serving(directory / "idle", *arguments, repository=damaged))

    with serving(directory / "busy", "generate", "predict", repository=good) as busy, stack:
        idle = start_idle()
        labels = {"namespace": "lectern", "capability": "generate"}
        targets = {
            url.removeprefix("http://"): labels | {"pod": pod}
            for pod, url in (("busy", busy.metrics_url), ("idle", idle.metrics_url))
        }
        with watching(directory, targets) as watch:
            yield Scene(busy, idle, watch, directory, start_idle, stack.close)


@contextmanager
def load(target: str, pictures: int, poems: int) -> Iterator[None]:
    """So many pictures to redraw and poems under way, again and again, and a few rows to predict."""
    over, free = threading.Event(), threading.Semaphore(pictures)
    row = CAPABILITIES["predict"].example(ROOT / "docs" / "examples")

    def redraw() -> None:
        request = pb.TransformImageRequest(image=DIGIT, style="printed")
        while not over.is_set():
            free.acquire()
            generate.TransformImage.future(request, timeout=3).add_done_callback(lambda _: free.release())

    def write() -> None:
        while not over.is_set():
            texts = [pb.GenerateTextRequest(seed=n, max_tokens=64) for n in range(poems)]
            for poem in [generate.GenerateText(text, timeout=20) for text in texts]:
                read(poem)

    def predict() -> None:
        while not over.wait(0.1):
            PredictServiceStub(channel).Predict(row)

    with grpc.insecure_channel(target) as channel:
        generate = GenerateServiceStub(channel)
        threads = [threading.Thread(target=work) for work in (redraw, write, predict)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            free.release()
            for thread in threads:
                thread.join()


def read(poem: Iterator[object]) -> None:
    """All of a poem, unless the server sheds it."""
    with suppress(grpc.RpcError):
        for _ in poem:
            pass


def expressions() -> dict[str, str]:
    """PromQL of every line of every dashboard, with what Grafana puts in place of its variables."""
    lines = {}
    for file in sorted((ROOT / "deploy" / "grafana").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                text = target["expr"].replace("$__rate_interval", "10s")
                lines[f"{file.stem}: {panel['title']} {target['refId']}"] = re.sub(r"\$(service|model)", ".+", text)
    return lines


@pytest.mark.unit
def test_expressions_are_promql() -> None:
    assert len(expressions()) > 40
    scalers = [query for c in CAPABILITIES.values() for query, _ in autoscaling.queries(c).values()]
    for expression in (*expressions().values(), *scalers, *map(autoscaling.from_zero, CAPABILITIES.values())):
        promql_parser.parse(expression)


def test_dashboards_have_data(scene: Scene) -> None:
    own = {name: expression for name, expression in expressions().items() if not OTHERS.search(expression)}
    with load(scene.busy.target, 10, 1):
        for name, expression in own.items():
            wait_until(lambda expression=expression: bool(scene.watch.query(expression)))
            assert scene.watch.query(expression), name


@pytest.mark.live
def test_autoscalers_see_load(scene: Scene) -> None:
    queries = autoscaling.queries(CAPABILITIES["generate"])
    soon = {name: (re.sub(r"\[\dm\]", "[5s]", query), threshold) for name, (query, threshold) in queries.items()}
    for name, (query, _) in soon.items():
        assert scene.watch.query(query), name
    query, threshold = soon.pop("decode")
    with load(scene.busy.target, 10, 250):
        wait_until(lambda: scene.watch.value(query) > threshold)
    with load(scene.busy.target, 1000, 10):
        for query, threshold in soon.values():
            wait_until(lambda query=query, threshold=threshold: scene.watch.value(query) > threshold)
        arrive(scene.watch, "QueueSaturated", "Rejecting", "Slow", "SlowBudgetBurns", "SlowBudgetLeaks")


def arrive(watch: Watch, *names: str) -> None:
    """Wait until these alerts of Lectern have reached the webhook."""
    for name in names:
        wait_until(lambda name=name: f"Lectern{name}" in watch.alerts())


@pytest.mark.live
def test_alerts_reach_the_webhook(scene: Scene) -> None:
    with load(scene.busy.target, 10, 1):
        arrive(scene.watch, "ModelNotReady", "ModelStale", "PodWithoutTraffic")
    over = threading.Event()

    def fail() -> None:
        client = Client(scene.idle.target)
        while not over.wait(0.02):
            with suppress(grpc.RpcError):  # the damaged model's UNAVAILABLE
                list(client.generate_images(1))

    failing = threading.Thread(target=fail)
    failing.start()
    try:
        arrive(scene.watch, "Errors", "ErrorsBudgetBurns", "ErrorsBudgetLeaks")
    finally:
        over.set()
        failing.join()
    for _ in range(3):
        scene.stop_idle()
        scene.start_idle()
    arrive(scene.watch, "Restarts")
    scene.stop_idle()
    arrive(scene.watch, "Down")
    set_targets(scene.directory, {})
    arrive(scene.watch, "Absent")
    assert {path for path, labels in scene.watch.received if labels["severity"] == "page"} == {"/page"}
    assert {path for path, labels in scene.watch.received if labels["severity"] == "warn"} == {"/ticket"}
    rules = (ROOT / "deploy" / "components" / "monitoring" / "rules.yaml").read_text()
    assert scene.watch.alerts() | NOT_INDUCED == set(re.findall(r"alert: (\w+)", rules))
