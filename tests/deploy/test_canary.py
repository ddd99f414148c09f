"""A canary takes its part of the calls: real servers behind a real Envoy, whose weights are changed under load."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest

from tests.artifacts.releasing import MODEL, add_version, copy
from tests.calling import Load
from tests.conftest import serving
from tests.deploy.envoy import edge
from tests.deploy.test_edge_faults import CALLS, DRAIN_PAUSE
from tests.server.pki import Pki
from tests.waiting import wait_until


@pytest.mark.chaos
def test_a_canary_takes_its_part_and_its_weight_changes_without_a_lost_call(tmp_path: Path) -> None:
    pki = Pki.make(tmp_path / "pki")
    new = copy(tmp_path / "new", MODEL)
    add_version(new, MODEL, 2)
    for name in ("stable", "canary"):
        (tmp_path / name).mkdir()
    with (
        serving(tmp_path / "stable", "predict", **DRAIN_PAUSE) as stable,
        serving(tmp_path / "canary", "predict", repository=new, **DRAIN_PAUSE) as canary,
        edge(tmp_path, [stable.target], pki, "predict", canaries=[canary.target]) as front,
        Load(front.target, grpc.ssl_channel_credentials(pki.ca.read_bytes())) as load,
    ):
        assert load.versions_of_next(CALLS) == {1: CALLS}
        front.weigh(predict=10)
        versions = load.versions_of_next(CALLS)
        # Of 1,000 calls each by chance, so 100 and five times the 9.5 that they vary by.
        assert CALLS * 0.05 < versions[2] < CALLS * 0.15, versions
        front.weigh(predict=100)
        assert load.versions_of_next(CALLS) == {2: CALLS}
        front.weigh(predict=0)
        assert load.versions_of_next(CALLS) == {1: CALLS}
        front.weigh(predict=50)
        assert set(load.versions_of_next(CALLS)) == {1, 2}
        canary.process.send_signal(signal.SIGTERM)
        wait_until(lambda: canary.process.poll() is not None)
        assert load.versions_of_next(CALLS) == {1: CALLS}
    assert load.failures == []


def test_a_canary_that_asks_for_certificates_is_called_with_the_edges(tmp_path: Path) -> None:
    """As with the component `secure`: each server's certificate has the name by which the edge looks it up."""
    pki = Pki.make(tmp_path / "pki")
    new = copy(tmp_path / "new", MODEL)
    add_version(new, MODEL, 2)
    settings = {}
    for name, address in (("stable", "lectern-predict.lectern"), ("canary", "lectern-canary.lectern")):
        pki.issue(name, address)
        (tmp_path / name).mkdir()
        own = {"LECTERN_TLS_CERTIFICATE": str(pki.file(f"{name}.pem")), "LECTERN_TLS_KEY": str(pki.file(f"{name}.key"))}
        settings[name] = pki.settings(mutual=True) | own
    with (
        serving(tmp_path / "stable", "predict", **settings["stable"]) as stable,
        serving(tmp_path / "canary", "predict", repository=new, **settings["canary"]) as canary,
        edge(tmp_path, [stable.target], pki, "predict", "clusters-tls.yaml", [canary.target]) as front,
        Load(front.target, grpc.ssl_channel_credentials(pki.ca.read_bytes())) as load,
    ):
        front.weigh(predict=100)
        assert load.versions_of_next(20) == {2: 20}
        front.weigh(predict=0)
        assert load.versions_of_next(20) == {1: 20}
