"""TLS and mutual TLS, as both clients and the command line meet it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import lectern
import lectern.aio
from tests.conftest import Server, serving
from tests.lectern.test_cli import invoke
from tests.server.pki import Pki
from tests.server.test_server import wait_for_log
from tests.waiting import WAIT, wait_until


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def tls_server(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("tls"), "predict", **pki.settings()) as server:
        yield server


@pytest.fixture(scope="module")
def mutual_server(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("mutual"), "predict", LECTERN_LOG_LEVEL="debug", **pki.settings(mutual=True)
    ) as server:
        yield server


def names(target: str, tls: lectern.TLS | None) -> list[str]:
    with lectern.Client(target, tls=tls, timeout=WAIT) as client:
        return [model.name for model in client.list_models().models]


async def names_in_asyncio(target: str, tls: lectern.TLS | None) -> list[str]:
    async with lectern.aio.Client(target, tls=tls, timeout=WAIT) as client:
        return [model.name for model in (await client.list_models()).models]


def refused(target: str, tls: lectern.TLS | None) -> None:
    """Neither client gets through."""
    with pytest.raises(lectern.LecternError) as caught:
        names(target, tls)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(lectern.LecternError) as caught:
        asyncio.run(names_in_asyncio(target, tls))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_with_both_clients_and_the_command_line(tls_server: Server, pki: Pki) -> None:
    assert names(tls_server.target, pki.client()) == ["covid_regressor", "table_learner"]
    assert asyncio.run(names_in_asyncio(tls_server.target, pki.client())) == ["covid_regressor", "table_learner"]
    done = invoke("models", *pki.flags(), target=tls_server.target)
    assert done.returncode == 0, done.stderr
    assert b"covid_regressor" in done.stdout


def test_a_plain_client_and_one_that_trusts_others_are_refused(tls_server: Server, tmp_path: Path) -> None:
    refused(tls_server.target, None)
    refused(tls_server.target, Pki.make(tmp_path).client())
    done = invoke("models", "--timeout", "5", target=tls_server.target)
    assert done.returncode == 1
    assert f"cannot reach {tls_server.target}" in done.stderr.decode()


def test_mutual_tls_with_both_clients_and_the_command_line(mutual_server: Server, pki: Pki) -> None:
    assert names(mutual_server.target, pki.client(mutual=True)) == ["covid_regressor", "table_learner"]
    assert asyncio.run(names_in_asyncio(mutual_server.target, pki.client(mutual=True))) == [
        "covid_regressor",
        "table_learner",
    ]
    done = invoke("models", *pki.flags(mutual=True), target=mutual_server.target)
    assert done.returncode == 0, done.stderr
    assert any("CN=alice" in str(record.get("client")) for record in mutual_server.log_records())


def test_mutual_tls_refuses_clients_without_a_certificate_or_with_anothers(
    mutual_server: Server, pki: Pki, tmp_path: Path
) -> None:
    other = Pki.make(tmp_path)
    refused(mutual_server.target, pki.client())
    refused(mutual_server.target, lectern.TLS(pki.ca, other.file("client.pem"), other.file("client.key")))


def test_changed_certificates_are_taken_up_without_a_restart(tmp_path: Path) -> None:
    before, after = Pki.make(tmp_path / "before"), Pki.make(tmp_path / "after")
    with serving(tmp_path, "predict", LECTERN_WATCH_SECONDS="0.1", **before.settings(mutual=True)) as server:
        assert names(server.target, before.client(mutual=True))
        with lectern.Client(server.target, tls=before.client(mutual=True), timeout=WAIT) as connected:
            connected.list_models()
            # Half of the change: the certificate does not fit the key, so the old pair stays in force.
            before.file("server.pem").write_bytes(after.file("server.pem").read_bytes())
            wait_for_log(server, "is not the key of the certificate")
            assert names(server.target, before.client(mutual=True))
            for name in ("server.key", "ca.pem"):
                before.file(name).write_bytes(after.file(name).read_bytes())
            wait_for_log(server, "reloaded")
            wait_until(lambda: bool(names(server.target, after.client(mutual=True))))
            assert connected.list_models().models, "a connection made before stays"
        stale = lectern.TLS(after.ca, before.file("client.pem"), before.file("client.key"))
        refused(server.target, stale)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"LECTERN_TLS_CERTIFICATE": "none.pem"}, "LECTERN_TLS_CERTIFICATE: cannot read none.pem: No such file"),
        ({"LECTERN_TLS_KEY": "client.key"}, "client.key is not the key of the certificate server.pem"),
        ({"LECTERN_TLS_KEY": "ca.pem"}, "server.pem and ca.pem must be a PEM certificate and its PEM key"),
        ({"LECTERN_TLS_CLIENT_CA": "client.key"}, "LECTERN_TLS_CLIENT_CA: client.key has no PEM certificates"),
    ],
    ids=["no file", "other key", "no key", "no authority"],
)
def test_certificates_that_do_not_fit_are_start_errors(pki: Pki, change: dict[str, str], says: str) -> None:
    settings = {name: Path(file).name for name, file in pki.settings().items()} | change
    assert says in start_error(pki.directory, settings)


def test_a_certificate_needs_its_key(pki: Pki) -> None:
    for file, variable in (("server.pem", "LECTERN_TLS_CERTIFICATE"), ("ca.pem", "LECTERN_TLS_CLIENT_CA")):
        says = start_error(pki.directory, {variable: file})
        assert "TLS needs both LECTERN_TLS_CERTIFICATE and LECTERN_TLS_KEY" in says


def start_error(directory: Path, settings: dict[str, str]) -> str:
    """What `lectern serve` says when it does not start."""
    command = [sys.executable, "-m", "lectern", "serve", "--port", "0", "--metrics-port", "0"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=WAIT,
        env=os.environ | settings | {"COLUMNS": "400"},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_key_that_all_may_read_is_warned_of(tmp_path: Path) -> None:
    pki = Pki.make(tmp_path / "pki")
    pki.file("server.key").chmod(0o644)
    with serving(tmp_path, "predict", **pki.settings()) as server:
        assert any("can be read by every user" in str(record["message"]) for record in server.log_records())


def test_workers_serve_over_tls_too(tmp_path: Path, pki: Pki) -> None:
    with serving(tmp_path, "predict", "--workers", "2", **pki.settings()) as server:
        assert names(server.target, pki.client()) == ["covid_regressor", "table_learner"]
