"""Bearer tokens: who is let in, to what, and what is never written down."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.utils import InferenceServerException

import lectern
import lectern.aio
from lectern.cli.connection import Connection
from lectern.v1 import model_pb2
from lectern.v1.model_pb2_grpc import ModelServiceStub
from services.rpc import Call
from tests.conftest import Server, serving
from tests.lectern.test_cli import invoke, refused
from tests.server.pki import Pki, make_token
from tests.server.test_server import SERVING, wait_for_log
from tests.server.test_tls import start_error
from tests.waiting import WAIT, wait_until

MODEL = "covid_regressor"
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@dataclass
class Guarded:
    """A server that asks for tokens, and tokens for it."""

    server: Server
    file: Path
    everything: str
    models: str
    inference: str
    expired: str

    @property
    def target(self) -> str:
        return self.server.target


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    file = directory / "tokens.json"
    tokens = {
        "everything": make_token(file, "everything", "--scope", "*"),
        "models": make_token(file, "models", "--scope", "models"),
        "inference": make_token(file, "inference", "--scope", "inference", "--scope", "predict"),
        "expired": make_token(file, "expired", "--scope", "*", "--days", "0"),
    }
    settings = {"LECTERN_TOKENS": str(file), "LECTERN_LOG_LEVEL": "debug", "LECTERN_ALLOW_MODEL_CONTROL": "true"}
    with serving(directory, "predict", LECTERN_WATCH_SECONDS="0.1", **settings) as server:
        yield Guarded(server, file, **tokens)


def list_models(target: str, token: str | None) -> lectern.LecternError | None:
    """How a call ends; None = well."""
    with lectern.Client(target, token=token, timeout=WAIT) as client:
        try:
            client.list_models()
        except lectern.LecternError as error:
            return error
    return None


async def list_models_in_asyncio(target: str, token: str | None) -> lectern.LecternError | None:
    async with lectern.aio.Client(target, token=token, timeout=WAIT) as client:
        try:
            await client.list_models()
        except lectern.LecternError as error:
            return error
    return None


def code(error: lectern.LecternError | None) -> grpc.StatusCode:
    return error.code() if error else grpc.StatusCode.OK


def test_a_token_lets_both_clients_and_the_command_line_in(guarded: Guarded) -> None:
    assert list_models(guarded.target, guarded.models) is None
    assert asyncio.run(list_models_in_asyncio(guarded.target, guarded.models)) is None
    done = invoke("models", "--token", guarded.models, target=guarded.target)
    assert MODEL.encode() in done.stdout, done.stderr


def test_the_command_line_takes_a_token_from_the_environment(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(invoke("models", target=guarded.target), 1, "needs a valid bearer token", "LECTERN_TOKEN")
    monkeypatch.setenv("LECTERN_TOKEN", guarded.models)
    assert invoke("models", target=guarded.target).returncode == 0


def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(guarded: Guarded) -> None:
    wrong = [None, "", "wrong", guarded.models[:-1], guarded.models + "x", guarded.models.upper(), guarded.expired]
    errors = [list_models(guarded.target, token) for token in wrong]
    assert {code(error) for error in errors} == {UNAUTHENTICATED}
    assert {error.details() for error in errors if error} == {"this server needs a valid bearer token"}
    assert code(asyncio.run(list_models_in_asyncio(guarded.target, "wrong"))) is UNAUTHENTICATED
    with grpc.insecure_channel(guarded.target) as channel:
        call = channel.unary_unary("/lectern.v1.ModelService/ListModels")
        call(b"", timeout=WAIT, metadata=[("authorization", f"bearer {guarded.models}")])
        for value in (f"Basic {guarded.models}", guarded.models, f"Bearer  {guarded.models}"):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=WAIT, metadata=[("authorization", value)])
            assert caught.value.code() is UNAUTHENTICATED


def test_a_scope_that_is_lacking_is_named(guarded: Guarded) -> None:
    with lectern.Client(guarded.target, token=guarded.models, timeout=WAIT) as client:
        with pytest.raises(lectern.LecternError, match="lacks the scope 'predict'") as caught:
            client.predict([[0.0]])
        assert caught.value.code() is DENIED
    with lectern.Client(guarded.target, token=guarded.inference, timeout=WAIT) as client:
        with pytest.raises(lectern.LecternError, match="lacks the scope 'models'"):
            client.list_models()
        with pytest.raises(lectern.LecternError) as caught:
            client.predict([[0.0]])
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, "a row of one feature got as far as its check"


def test_model_control_needs_its_own_scope(guarded: Guarded) -> None:
    def headers(token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"}

    with triton.InferenceServerClient(guarded.target) as client:
        assert client.is_model_ready(MODEL, headers=headers(guarded.inference))
        for method in (client.unload_model, client.load_model):
            with pytest.raises(InferenceServerException, match="lacks the scope 'model_control'"):
                method(MODEL, headers=headers(guarded.inference))
        client.unload_model(MODEL, headers=headers(guarded.everything))
        assert not client.is_model_ready(MODEL, headers=headers(guarded.inference))
        client.load_model(MODEL, headers=headers(guarded.everything))
        assert client.is_model_ready(MODEL, headers=headers(guarded.inference))


def test_health_is_open_and_reflection_needs_any_valid_token(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "lectern.v1.PredictService"):
            check = health_pb2.HealthCheckRequest(service=service)
            wait_until(lambda c=check: health.Check(c, timeout=WAIT).status == SERVING)  # type: ignore[misc]
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(iter([request]), timeout=WAIT))
        assert caught.value.code() is UNAUTHENTICATED
        metadata = [("authorization", f"Bearer {guarded.models}")]
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=WAIT, metadata=metadata)
        names = {service.name for service in answer.list_services_response.service}
        assert {"lectern.v1.PredictService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= names


def test_reflection_can_be_switched_off(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "predict", LECTERN_REFLECTION="false") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=WAIT))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_tokens_come_and_go_without_a_restart(guarded: Guarded) -> None:
    token = make_token(guarded.file, "guest", "--scope", "models")
    wait_until(lambda: list_models(guarded.target, token) is None)
    assert invoke("token", "revoke", "guest", "--file", guarded.file).returncode == 0
    wait_until(lambda: code(list_models(guarded.target, token)) is UNAUTHENTICATED)
    assert list_models(guarded.target, guarded.models) is None


def test_a_broken_file_keeps_the_old_tokens(guarded: Guarded) -> None:
    content = guarded.file.read_text()
    try:
        guarded.file.write_text('{"tokens": [{"name": "half')
        wait_for_log(guarded.server, "the previous content stays in force")
        assert list_models(guarded.target, guarded.models) is None
        assert code(list_models(guarded.target, "wrong")) is UNAUTHENTICATED
    finally:
        guarded.file.write_text(content)
    wait_for_log(guarded.server, f"reloaded {guarded.file}")


def test_no_token_is_ever_written_down(guarded: Guarded) -> None:
    unknown = "lectern_this-is-nobodys-token"
    for token in (guarded.everything, guarded.inference, guarded.expired, unknown):
        list_models(guarded.target, token)
    hashes = [entry["sha256"] for entry in json.loads(guarded.file.read_text())["tokens"]]
    with urllib.request.urlopen(f"{guarded.server.metrics_url}/metrics", timeout=WAIT) as response:
        written = guarded.server.log.read_text() + response.read().decode()
    assert "UNAUTHENTICATED" in written
    assert "PERMISSION_DENIED" in written
    assert any(r.get("client") == "everything" and r.get("code") == "OK" for r in guarded.server.log_records())
    secrets = (guarded.everything, guarded.models, guarded.inference, guarded.expired, unknown, *hashes)
    assert [secret for secret in secrets if secret in written] == []
    assert "Bearer" not in written


@pytest.mark.unit
def test_no_token_is_in_a_repr() -> None:
    call = Call("service", "method", 0, "id", metadata={"authorization": "Bearer s3cret"})
    for holder in (call, Connection(token="s3cret"), lectern.Client("127.0.0.1:1", token="s3cret", timeout=WAIT)):  # noqa: S106
        assert "s3cret" not in repr(holder)


def test_tokens_over_mutual_tls_need_both(tmp_path: Path) -> None:
    pki = Pki.make(tmp_path / "pki")
    file = tmp_path / "tokens.json"
    token = make_token(file, "alice", "--scope", "models")
    with serving(tmp_path, "predict", LECTERN_TOKENS=str(file), **pki.settings(mutual=True)) as server:
        for tls, given, expected in (
            (pki.client(mutual=True), token, grpc.StatusCode.OK),
            (pki.client(mutual=True), None, UNAUTHENTICATED),
            (pki.client(), token, grpc.StatusCode.UNAVAILABLE),
        ):
            with lectern.Client(server.target, tls=tls, token=given, timeout=WAIT) as client:
                try:
                    client.list_models()
                    status = grpc.StatusCode.OK
                except lectern.LecternError as error:
                    status = error.code()
            assert status is expected


def test_a_new_file_is_its_owners_alone_and_a_mode_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    make_token(file, "one", "--scope", "models")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    token = make_token(file, "two", "--scope", "predict", "--days", "1", "--requests-per-second", "5")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert token not in file.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["tokens.json"]
    listed = invoke("token", "list", "--file", file).stdout.decode().splitlines()
    assert [line.split()[0] for line in listed] == ["client", "one", "two"]
    assert "never" in listed[1]
    assert "requests_per_second 5" in listed[2]


def test_two_tokens_in_one_call_are_no_token(guarded: Guarded) -> None:
    values = [f"Bearer {token}" for token in (guarded.models, guarded.everything)]
    with grpc.insecure_channel(guarded.target) as channel:
        stub = ModelServiceStub(channel)
        for pair in (values, values[::-1], [values[0], values[0]]):
            metadata = [("authorization", value) for value in pair]
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListModels(model_pb2.ListModelsRequest(), timeout=WAIT, metadata=metadata)
            assert caught.value.code() is UNAUTHENTICATED
        assert stub.ListModels(
            model_pb2.ListModelsRequest(), timeout=WAIT, metadata=[("authorization", values[0])]
        ).models


def test_one_token_under_two_names_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    make_token(file, "one", "--scope", "models")
    document = json.loads(file.read_text())
    document["tokens"].append(document["tokens"][0] | {"name": "two", "scopes": ["*"]})
    file.write_text(json.dumps(document))
    refused(invoke("token", "list", "--file", file), 2, "'one' and 'two' are the same token: remove one")


def test_what_the_command_line_refuses(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    make_token(file, "one", "--scope", "models")
    content = file.read_text()
    refused(invoke("token", "create", "one", "--scope", "models", "--file", file), 2, "two tokens are called 'one'")
    refused(
        invoke("token", "create", "two", "--scope", "clasify", "--file", file), 2, "'clasify'", "act, answer, classify"
    )
    refused(invoke("token", "create", "a b", "--scope", "models", "--file", file), 2, "pattern")
    refused(invoke("token", "revoke", "two", "--file", file), 1, "no token called 'two'; it has: one")
    refused(invoke("token", "list", "--file", tmp_path / "none"), 2, "No such file")
    assert file.read_text() == content


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0, "LECTERN_TOKENS: cannot read tokens.json: No such file"),
        ("{", 0o600, "tokens.json is not valid"),
        ('{"tokens": [{"name": "a", "sha256": "00", "scopes": ["models"]}]}', 0o600, "tokens.0.sha256"),
        ('{"tokens": [{"name": "a", "sha256": "%s", "scopes": []}]}' % ("0" * 64), 0o600, "tokens.0.scopes"),
        ('{"tokens": []}', 0o602, "every user may add a token"),
    ],
    ids=["missing", "no JSON", "short hash", "no scope", "writable by all"],
)
def test_a_file_that_is_not_right_is_a_start_error(tmp_path: Path, content: str | None, mode: int, says: str) -> None:
    if content is not None:
        (tmp_path / "tokens.json").write_text(content)
        (tmp_path / "tokens.json").chmod(mode)
    assert says in start_error(tmp_path, {"LECTERN_TOKENS": "tokens.json"})


@pytest.mark.unit
def test_a_file_that_all_may_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from services.limits import ClientLimits
    from services.server.auth import Tokens

    (tmp_path / "tokens.json").write_text('{"tokens": []}')
    (tmp_path / "tokens.json").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        Tokens(tmp_path / "tokens.json", ClientLimits())
    assert "can be read by every user" in caplog.text


def test_tokens_in_plain_text_beyond_this_machine_are_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    token = make_token(file, "one", "--scope", "models")
    with serving(tmp_path, "predict", "--host", "127.0.0.2", LECTERN_TOKENS=str(file)) as server:
        assert list_models(server.target, token) is None
        assert any("in plaintext" in str(record["message"]) for record in server.log_records())
