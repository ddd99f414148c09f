"""Real servers under load, watched by a real Prometheus with deploy's own files: dashboards have data, autoscalers see
the load, and alerts arrive at a webhook.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import promql_parser
import pytest
import trustme

from scripts import autoscaling
from services.server.capabilities import CAPABILITIES
from tests.conftest import EXPORTED, ROOT, Server, serving
from tests.deploy.loading import crowd, explain, fail, load, predict
from tests.deploy.watching import Targets, Watch, probing, set_targets, watching
from tests.programs import needs
from tests.runtime.test_triton import free_ports
from tests.waiting import wait_until

# What others export: their expressions are parsed here, and have data where they run.
OTHERS = re.compile(r"\b(nv|kube|container|envoy|certmanager|probe)_\w+")
Cause = Callable[["Scene"], AbstractContextManager[None]]


@dataclass
class Scene:
    """Two servers under watch: one has all the load; the other has a damaged model and an old version of another."""

    busy: Server
    idle: Server
    watch: Watch
    directory: Path
    targets: Targets
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


def bound_queue(repository: Path, model: str, size: int) -> None:
    """Let so many requests wait for a model, instead of Lectern's usual number."""
    file = repository / model / "config.pbtxt"
    bound = f"dynamic_batching {{\n  default_queue_policy {{ max_queue_size: {size} }}"
    file.write_text(file.read_text().replace("dynamic_batching {", bound))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    needs("prometheus")
    needs("prometheus-alertmanager")
    directory = tmp_path_factory.mktemp("live")
    models = ("covid_regressor", "face_generator", "poem_generator", "style_translator")
    good = repository(directory / "good", *models)
    # However fast the machine is, callers can wait long at one model, and find the other's queue full.
    bound_queue(good, "style_translator", 100_000)
    bound_queue(good, "covid_regressor", 1)
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
        targets = {**target("busy", "generate", busy), **target("idle", "generate", idle)}
        with watching(directory, targets, {"busy": busy.process}) as watch:
            yield Scene(busy, idle, watch, directory, targets, start_idle, stack.close)


def target(pod: str, capability: str, server: Server) -> Targets:
    """What Prometheus knows of a server."""
    labels = {"namespace": "lectern", "capability": capability, "pod": pod}
    return {server.metrics_url.removeprefix("http://"): labels}


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
    for query, _ in soon.values():
        wait_until(lambda query=query: bool(scene.watch.query(query)))
    query, threshold = soon.pop("decode")
    with load(scene.busy.target, 10, 250):
        wait_until(lambda: scene.watch.value(query) > threshold)
    with load(scene.busy.target, 250, 10, is_growing=True):
        for query, threshold in soon.values():
            wait_until(lambda query=query, threshold=threshold: scene.watch.value(query) > threshold)


@contextmanager
def standing(scene: Scene) -> Iterator[None]:
    """What is so from the start shows when calls come."""
    with load(scene.busy.target, 10, 1):
        yield


@contextmanager
def failing(scene: Scene) -> Iterator[None]:
    """Calls of the damaged model."""
    with crowd(scene.idle.target, fail, 4):
        yield


@contextmanager
def overloading(scene: Scene) -> Iterator[None]:
    """More and more callers, whom a queue without a bound that matters lets wait."""
    with load(scene.busy.target, 250, 1, is_growing=True):
        yield


@contextmanager
def rejecting(scene: Scene) -> Iterator[None]:
    """More callers than a queue for one request takes."""
    with crowd(scene.busy.target, predict, 50, is_growing=True):
        yield


@contextmanager
def explaining(scene: Scene) -> Iterator[None]:
    """More and more explanations."""
    models = repository(scene.directory / "explained", "image_classifier")
    (scene.directory / "explain").mkdir()
    with serving(scene.directory / "explain", "explain", repository=models) as server:
        set_targets(scene.directory, scene.targets | target("explain", "explain", server))
        with crowd(server.target, explain, 20, is_growing=True):
            yield
        set_targets(scene.directory, scene.targets)


@contextmanager
def expiring(scene: Scene) -> Iterator[None]:
    """A server whose certificate is good for three days more."""
    needs("prometheus-blackbox-exporter")
    own = trustme.CA().issue_cert("localhost", not_after=datetime.now(UTC) + timedelta(days=3))
    directory = scene.directory / "expiring"
    directory.mkdir()
    key, certificate = directory / "tls.key", directory / "tls.crt"
    own.private_key_pem.write_to_path(key)
    own.cert_chain_pems[0].write_to_path(certificate)
    files = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    models = repository(directory / "models", "covid_regressor")
    with serving(directory, "predict", *files, repository=models) as server, probing(scene.directory, server.target):
        yield


@contextmanager
def restarting(scene: Scene) -> Iterator[None]:
    """A server that is started anew three times, each of which Prometheus sees."""
    for _ in range(3):
        scene.stop_idle()
        begin = time.time()
        scene.start_idle()
        wait_until(lambda begin=begin: scene.watch.value('process_start_time_seconds{pod="idle"}') > begin - 1)
    yield


@contextmanager
def stopping(scene: Scene) -> Iterator[None]:
    """A server that is not there."""
    scene.stop_idle()
    yield
    scene.start_idle()


@contextmanager
def forgetting(scene: Scene) -> Iterator[None]:
    """A Prometheus that finds no servers."""
    set_targets(scene.directory, {})
    yield
    set_targets(scene.directory, scene.targets)


# What is done -> the alerts that it brings.
CAUSES: dict[Cause, tuple[str, ...]] = {
    standing: ("ModelNotReady", "ModelStale", "PodWithoutTraffic", "MemoryNearLimit", "RunsOnCpu"),
    failing: ("Errors", "ErrorsBudgetBurns", "ErrorsBudgetLeaks"),
    overloading: ("QueueSaturated", "Slow", "SlowBudgetBurns", "SlowBudgetLeaks"),
    rejecting: ("Rejecting",),
    explaining: ("ExplanationsSlow",),
    expiring: ("CertificateExpires",),
    restarting: ("Restarts",),
    stopping: ("Down",),
    forgetting: ("Absent",),
}


@pytest.mark.live
@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
def test_alerts_reach_the_webhook(scene: Scene, cause: Cause) -> None:
    with cause(scene):
        for name in CAUSES[cause]:
            wait_until(lambda name=name: f"Lectern{name}" in scene.watch.alerts())
    for path, labels in scene.watch.received:
        assert path == {"page": "/page", "warn": "/ticket"}[labels["severity"]]


@pytest.mark.unit
def test_every_alert_has_a_cause() -> None:
    rules = (ROOT / "deploy" / "components" / "monitoring" / "rules.yaml").read_text()
    assert {f"Lectern{name}" for names in CAUSES.values() for name in names} == set(re.findall(r"alert: (\w+)", rules))
