"""`lectern load` and `lectern unload`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import EXPORTED, Server, serving
from tests.lectern.test_cli import invoke, refused


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose models clients may load and unload."""
    repository = tmp_path_factory.mktemp("models")
    for graph in (*EXPORTED.glob("covid_regressor*"), *EXPORTED.glob("lunar_lander*")):
        shutil.copytree(graph, repository / graph.name)
    directory = tmp_path_factory.mktemp("server")
    options = ("predict", "act", "--allow-model-control")
    with serving(directory, *options, repository=repository) as server:
        yield server


def test_a_model_is_taken_out_and_put_back(controlled: Server) -> None:
    out = invoke("unload", "covid_regressor", "lunar_lander", target=controlled.target)
    assert out.stdout.decode().splitlines() == [
        "covid_regressor 1 is unavailable: unloaded",
        "lunar_lander 1 is unavailable: unloaded",
    ]
    refused(invoke("act", *[0] * 8, target=controlled.target), 1, "does not answer: unloaded")
    back = invoke("load", "covid_regressor", "lunar_lander", target=controlled.target)
    assert back.stdout.decode().splitlines() == ["covid_regressor 1 is ready", "lunar_lander 1 is ready"]
    assert invoke("act", *[0] * 8, target=controlled.target).returncode == 0


def test_a_wrong_name_is_asked_about(controlled: Server) -> None:
    for command in ("load", "unload"):
        refused(invoke(command, "lunar_landr", target=controlled.target), 1, "(did you mean 'lunar_lander'?)")


def test_where_it_is_off_the_error_says_how_to_turn_it_on(server: Server) -> None:
    refused(invoke("unload", "lunar_lander", target=server.target), 1, "LECTERN_ALLOW_MODEL_CONTROL=true")


def test_a_token_needs_the_scope_and_no_other(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    created = {
        scope: invoke("token", "create", scope, "--scope", scope, "--file", tokens).stdout.decode().strip()
        for scope in ("model_control", "act")
    }
    (repository := tmp_path / "models").mkdir()
    shutil.copytree(EXPORTED / "lunar_lander", repository / "lunar_lander")
    options = ("act", "--allow-model-control", "--tokens", str(tokens))
    with serving(tmp_path, *options, repository=repository) as server:
        own = {scope: text.split()[-1] for scope, text in created.items()}
        refused(invoke("unload", "lunar_lander", target=server.target), 1, "--token")
        refused(invoke("unload", "lunar_lander", "--token", own["act"], target=server.target), 1, "'model_control'")
        done = invoke("unload", "lunar_lander", "--token", own["model_control"], target=server.target)
        assert (done.returncode, done.stdout) == (0, b"lunar_lander is unloaded\n"), done.stderr
